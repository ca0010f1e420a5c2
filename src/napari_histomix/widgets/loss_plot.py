"""The loss of a training run as it comes: a thin line, and a dot for every validation."""

from __future__ import annotations

import math

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QFrame, QSizePolicy

from napari_histomix.widgets.elements import ACCENT, CARE

MOST = 2000
"""Points of the line; beyond that, neighbors are averaged, so that a long run takes no more memory than a short one."""


class LossPlot(QFrame):
    """A small plot of loss over steps, in the colors of napari's theme.

    Attributes
    ----------
    losses, validations : list of (step, loss)
        What is shown; of many losses, averages of neighbors.
    """

    def __init__(self, theme: str = "dark") -> None:
        super().__init__()
        self.losses: list[tuple[float, float]] = []
        self.validations: list[tuple[float, float]] = []
        self._each, self._waiting = 1, [0.0, 0.0, 0]
        self.setFixedHeight(170)
        self.setMinimumWidth(200)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip("Lower is better. The line is the loss of every step, a dot the loss on images held out.")
        self.set_theme(theme)

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        return QSize(320, 170)

    def set_theme(self, name: str) -> None:
        """Draw in the colors of a napari theme."""
        theme = get_theme(name)
        self._back, self._ink, self._grid = (
            QColor(one.as_hex()) for one in (theme.background, theme.text, theme.primary)
        )
        self.update()

    def clear(self) -> None:
        """Forget everything."""
        self.losses.clear()
        self.validations.clear()
        self._each, self._waiting = 1, [0.0, 0.0, 0]
        self.update()

    def add(self, step: float, loss: float | None = None, validation: float | None = None) -> None:
        """Add what is known of a step."""
        if validation is not None and math.isfinite(validation):
            self.validations.append((step, validation))
        if loss is not None and math.isfinite(loss):
            self._add_loss(step, loss)
        self.update()

    def _add_loss(self, step: float, loss: float) -> None:
        steps, total, number = self._waiting
        steps, total, number = steps + step, total + loss, int(number) + 1
        if number >= self._each:
            self.losses.append((steps / number, total / number))
            steps, total, number = 0.0, 0.0, 0
        self._waiting = [steps, total, number]
        if len(self.losses) >= MOST:
            pairs = np.asarray(self.losses).reshape(-1, 2, 2).mean(axis=1)
            self.losses = [(float(at), float(value)) for at, value in pairs]
            self._each *= 2

    def limits(self) -> tuple[float, float, float, float] | None:
        """First and last step, lowest and highest loss of the axes; None while there is nothing to show.

        The first steps of a new network lose many times as much as all others: the highest 2 % may run off the plot.
        """
        points = [*self.losses, *self.validations]
        if not points:
            return None
        steps, values = np.asarray(points).T
        high = max(float(np.percentile(values, 98)), *(value for _, value in self.validations[-3:]), 1e-9)
        low = float(values.min())
        low = 0.0 if low < 0.5 * high or high - low < 1e-3 * high else low - 0.1 * (high - low)
        return float(steps.min()), max(float(steps.max()), float(steps.min()) + 1), low, high + 0.05 * (high - low)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw axes, line and dots."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), self._back)
        metrics = painter.fontMetrics()
        text = metrics.height()
        first, last, low, high = self.limits() or (0.0, 1.0, 0.0, 1.0)
        rows, cols = (ticks(low, high), ticks(first, last)) if self.limits() else ([], [])
        left = max([metrics.horizontalAdvance(_said(value)) for value in rows], default=20) + 10
        area = QRectF(left, text + 8, self.width() - left - 12, self.height() - 3 * text - 14)

        def x(step: float) -> float:
            return area.left() + (step - first) / (last - first) * area.width()

        def y(value: float) -> float:
            return area.bottom() - (value - low) / (high - low) * area.height()

        right, middle, center = Qt.AlignmentFlag.AlignRight, Qt.AlignmentFlag.AlignVCenter, Qt.AlignmentFlag.AlignCenter
        for value in rows:
            painter.setPen(QPen(self._grid, 1))
            painter.drawLine(QPointF(area.left(), y(value)), QPointF(area.right(), y(value)))
            painter.setPen(self._ink)
            painter.drawText(QRectF(0, y(value) - text, left - 6, 2 * text), right | middle, _said(value))
        painter.setPen(self._ink)
        for value in cols:
            width = metrics.horizontalAdvance(f"{value:,.0f}") + 4
            at = min(max(x(value), area.left() + width / 2 - left + 4), self.width() - width / 2)
            painter.drawText(QRectF(at - width / 2, area.bottom() + 2, width, text), center, f"{value:,.0f}")
        painter.drawText(QRectF(6, 2, 80, text), Qt.AlignmentFlag.AlignLeft, "Loss")
        painter.drawText(QRectF(area.left(), area.bottom() + text + 2, area.width(), text), center, "Step")
        painter.drawText(QRectF(0, 2, self.width() - 12, text), right, "held-out images")
        dot = QPointF(self.width() - 20 - metrics.horizontalAdvance("held-out images"), 2 + text / 2)
        painter.setPen(QPen(self._grid, 1))
        painter.drawRect(area)
        self._draw_dots(painter, [dot])
        painter.setClipRect(area.adjusted(-4, -4, 4, 4))
        painter.setPen(QPen(QColor(ACCENT), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPolyline(QPolygonF([QPointF(x(step), y(value)) for step, value in self.losses]))
        self._draw_dots(painter, [QPointF(x(step), y(value)) for step, value in self.validations])
        painter.end()

    @staticmethod
    def _draw_dots(painter: QPainter, points: list[QPointF]) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(CARE))
        for point in points:
            painter.drawEllipse(point, 3.5, 3.5)
        painter.setBrush(Qt.BrushStyle.NoBrush)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values between two limits, roughly so many: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _said(value: float) -> str:
    return f"{value:.3g}"
