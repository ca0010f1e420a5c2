"""Small parts of the reader test's dock: a crop with a mark, a cover over it, a picture that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QPointF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPixmap, QPolygonF, QResizeEvent
from qtpy.QtWidgets import QLabel

from napari_histomix.widgets.elements import CropView

ARROW = 9
"""Length of an arrowhead in screen pixels."""


class MarkedCrop(CropView):
    """A crop that fills the view, with arrowheads at its four sides in the row and the column of the marked pixel.

    The arrowheads lie beside the crop: nothing covers any of its pixels. Or a sentence in place of a crop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.smooth = True
        self.mark: tuple[int, int] | None = None
        self.cover = ""
        self.setMinimumSize(200, 200)

    def show_crop(self, pixels: Any, mark: tuple[int, int] | None) -> None:
        """Show a crop (S, S, 3) uint8, and where in it is asked about."""
        self.mark, self.cover = mark, ""
        self.show_pixels(pixels)

    def show_cover(self, text: str) -> None:
        """Show a sentence and no crop."""
        self.mark, self.cover = None, text
        self.show_pixels(None)

    def sizeHint(self) -> QSize:
        """A large square."""
        return QSize(400, 400)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the crop at one zoom for all crops of one size, and the arrowheads; or the cover."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QColor(30, 32, 36))
        if self.cover:
            painter.setPen(QColor("white"))
            font = painter.font()
            font.setPointSizeF(1.25 * font.pointSizeF())
            painter.setFont(font)
            room = self.rect().adjusted(24, 24, -24, -24)
            painter.drawText(room, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self.cover)
        elif self._image is not None:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self.smooth)
            side = min(self.width(), self.height()) - 2 * (ARROW + 3)
            x, y = (self.width() - side) / 2, (self.height() - side) / 2
            painter.translate(x, y)
            painter.scale(side / self._image.width(), side / self._image.height())
            painter.drawImage(QPointF(0, 0), self._image)
            painter.resetTransform()
            self._draw_mark(painter, x, y, side)
        painter.end()

    def _draw_mark(self, painter: QPainter, x: float, y: float, side: float) -> None:
        if self.mark is None or self._image is None:
            return
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("white"))
        row = y + (self.mark[0] + 0.5) * side / self._image.height()
        col = x + (self.mark[1] + 0.5) * side / self._image.width()
        gap, half = 2, ARROW / 2
        for tip, away in (
            (QPointF(x - gap, row), QPointF(-ARROW, 0)),
            (QPointF(x + side + gap, row), QPointF(ARROW, 0)),
            (QPointF(col, y - gap), QPointF(0, -ARROW)),
            (QPointF(col, y + side + gap), QPointF(0, ARROW)),
        ):
            across = QPointF(half, 0) if away.x() == 0 else QPointF(0, half)
            painter.drawPolygon(QPolygonF([tip, tip + away + across, tip + away - across]))


class Picture(QLabel):
    """A picture from a file, as wide as there is room; empty until one is shown."""

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
        self._fit(self.width())

    def _fit(self, width: int) -> None:
        if self._whole.isNull():
            self.clear()
            return
        ratio = self.devicePixelRatioF()
        wide = self._whole.scaledToWidth(round(max(width, 100) * ratio), Qt.TransformationMode.SmoothTransformation)
        wide.setDevicePixelRatio(ratio)
        self.setPixmap(wide)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit the picture."""
        super().resizeEvent(event)
        if event.oldSize().width() != event.size().width():
            self._fit(event.size().width())
