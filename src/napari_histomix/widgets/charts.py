"""Bars of counts, and pictures from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPixmap, QResizeEvent
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget

from napari_histomix.widgets import elements as ui


class Picture(QLabel):
    """A picture from a file, as wide as there is room; hidden until there is one."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = QPixmap()
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setMinimumWidth(1)
        self.hide()

    def show_file(self, path: Path | None) -> None:
        """Show the picture in a file, or none."""
        self._whole = QPixmap(str(path)) if path is not None else QPixmap()
        self.setVisible(not self._whole.isNull())
        self._fit()

    def _fit(self) -> None:
        if self._whole.isNull():
            self.clear()
            return
        ratio = self.devicePixelRatioF()
        width = round(max(self.width(), 100) * ratio)
        fitted = self._whole.scaledToWidth(width, Qt.TransformationMode.SmoothTransformation)
        fitted.setDevicePixelRatio(ratio)
        self.setPixmap(fitted)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.oldSize().width() != event.size().width():
            self._fit()


class Bar(QWidget):
    """One bar of a chart: a share of the width in a class's color, over what it becomes in green."""

    def __init__(self, color: tuple[int, int, int]) -> None:
        super().__init__()
        self._color = QColor(*color)
        self.before = self.after = 0.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(14)

    def sizeHint(self) -> QSize:
        return QSize(120, 14)

    def set_shares(self, before: float, after: float = 0.0) -> None:
        """Set the shares of the width, 0 to 1; ``after`` is drawn behind ``before``."""
        self.before, self.after = before, after
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(128, 128, 128, 50))
        painter.drawRoundedRect(QRectF(self.rect()), 3, 3)
        for share, color in ((self.after, QColor(ui.GOOD)), (self.before, self._color)):
            if share > 0:
                painter.setBrush(color)
                painter.drawRoundedRect(QRectF(0, 0, max(share * self.width(), 3.0), self.height()), 3, 3)
        painter.end()


class Chart(QWidget):
    """Names, bars and numbers below one another; names of one width where it is given."""

    def __init__(self, name_width: int | None = None) -> None:
        super().__init__()
        self._name_width = name_width
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(ui.SPACE)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 1)
        self._lines: list[tuple[QLabel, Bar, QLabel]] = []

    def set_bars(self, bars: Sequence[tuple[str, tuple[int, int, int], float, float, str]]) -> None:
        """Show bars: name, color, share before and after, and what is written beside it."""
        ui.clear(self._grid)
        self._lines.clear()
        for place, (text, color, before, after, count) in enumerate(bars):
            name, bar, value = ui.label(text, wrap=False), Bar(color), ui.label(count, wrap=False, right=True)
            if self._name_width is not None:
                name.setFixedWidth(self._name_width)
            bar.set_shares(before, after)
            for position, widget in enumerate((name, bar, value)):
                self._grid.addWidget(widget, place, position)
            self._lines.append((name, bar, value))

    @property
    def texts(self) -> list[tuple[str, str]]:
        return [(name.text(), value.text()) for name, _, value in self._lines]
