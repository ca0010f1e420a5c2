"""Pieces of images as the docks show them: magnified, centered, with a caption and a frame."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPoint, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QFrame, QSizePolicy

from napari_histomix.compositing.composing import crop
from napari_histomix.records import LabeledImage


def image_of(pixels: NDArray[np.uint8]) -> QImage:
    """An RGB array (H, W, 3), which must live as long, as an image."""
    height, width = pixels.shape[:2]
    return QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)


class CropView(QFrame):
    """A piece of an image, magnified by a factor and centered; one that fits the view where there is no factor."""

    clicked = Signal()
    preferred_size: ClassVar = (190, 190)

    def __init__(
        self, caption: str = "", factor: float | None = None, *, smooth: bool = False, height: int | None = None
    ) -> None:
        super().__init__()
        self.caption, self.factor, self.smooth = caption, factor, smooth
        self.frame_color = ""
        self._image: QImage | None = None
        self._bytes: NDArray[np.uint8] | None = None
        self.setMinimumSize(120, 120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        if height is not None:
            self.setFixedHeight(height)

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """What is shown, (H, W, 3) uint8."""
        return self._bytes

    def show_pixels(self, pixels: NDArray[np.uint8] | None, caption: str | None = None, frame: str = "") -> None:
        """Show an (H, W, 3) uint8 RGB array, or nothing; ``frame`` is the color of a border around it."""
        self.frame_color = frame
        if caption is not None:
            self.caption = caption
        if pixels is None:
            self._image = self._bytes = None
        else:
            self._bytes = np.ascontiguousarray(pixels)
            self._image = image_of(self._bytes)
        self.update()

    def show_place(
        self, image: LabeledImage | None, caption: str, row: float, col: float, micrometers: float, frame: str = ""
    ) -> None:
        """Show a square around a place in an image, which may still have to be read."""
        if image is None:
            self.show_pixels(None, f"{caption} …")
        else:
            side = max(24, round(micrometers / image.mpp))
            self.show_pixels(crop(image.pixels, row, col, side), caption, frame)

    def place(self, image: QImage) -> QRectF:
        """Where an image is drawn."""
        fit = min(self.width() / image.width(), self.height() / image.height())
        factor = self.factor or max(fit, 0.1)
        width, height = image.width() * factor, image.height() * factor
        return QRectF((self.width() - width) / 2, (self.height() - height) / 2, width, height)

    def paint_image(self, painter: QPainter, image: QImage) -> None:
        place = self.place(image)
        smooth = self.smooth or place.width() < image.width()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, smooth)
        painter.drawImage(place, image)

    def paint_caption(self, painter: QPainter, caption: str, *, right: bool = False) -> None:
        metrics = painter.fontMetrics()
        text = metrics.elidedText(caption, Qt.TextElideMode.ElideRight, self.width() - 12)
        strip = metrics.boundingRect(text).adjusted(-4, -2, 4, 2)
        strip.moveTopLeft(QPoint(self.width() - strip.width() if right else 0, 0))
        painter.fillRect(strip, QColor(20, 22, 26, 190))
        painter.setPen(QColor("white"))
        painter.drawText(strip, Qt.AlignmentFlag.AlignCenter, text)

    def sizeHint(self) -> QSize:
        return QSize(*self.preferred_size)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.clicked.emit()
        super().mousePressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(30, 32, 36))
        if self._image is not None:
            self.paint_image(painter, self._image)
        if self.frame_color:
            painter.setPen(QPen(QColor(self.frame_color), 4))
            painter.drawRect(self.rect().adjusted(2, 2, -2, -2))
        if self.caption:
            self.paint_caption(painter, self.caption)
        painter.end()
