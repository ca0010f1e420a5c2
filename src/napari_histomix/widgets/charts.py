"""Bars of counts, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget

from napari_histomix.datasets.pixels import read_pixels
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.crops import CropView


class Picture(CropView):
    """A picture as wide as there is room, and as high as its width asks for; hidden until there is one."""

    def __init__(self) -> None:
        super().__init__(smooth=True)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setMinimumSize(120, 40)
        self.hide()

    def show_picture(self, pixels: NDArray[np.uint8] | None) -> None:
        self.show_pixels(pixels)
        self.setVisible(pixels is not None)
        self.updateGeometry()

    def show_file(self, path: Path | None) -> None:
        self.show_picture(None if path is None else read_pixels(path))

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return round(width * self.pixels.shape[0] / self.pixels.shape[1]) if self.pixels is not None else 40

    def sizeHint(self) -> QSize:
        return QSize(320, self.heightForWidth(320))

    def place(self, image: QImage) -> QRectF:
        """Where the picture is drawn: all over, where only the rounding of its height would leave a line free."""
        fitting, whole = super().place(image), QRectF(self.rect())
        left_free = max(whole.width() - fitting.width(), whole.height() - fitting.height())
        return whole if left_free < 2 else fitting

    def paint_image(self, painter: QPainter, image: QImage) -> None:
        # Letters stay legible at a fraction of their size: the painter's own scaling leaves pixels out.
        size = (self.size() * self.devicePixelRatioF()).boundedTo(image.size())
        keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        super().paint_image(painter, image.scaled(size, keep, smooth))


class PictureWindow(QWidget):
    """A picture in a window of its own, which a person can make as large as they like."""

    def __init__(self, parent: QWidget, title: str) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.setWindowTitle(title)
        self.picture = Picture()
        self.setLayout(ui.column(self.picture, space=0))

    def show_file(self, path: Path) -> None:
        """Show a picture of a file as large as it is, or as the screen is."""
        self.picture.show_file(path)
        assert self.picture.pixels is not None
        height, width = self.picture.pixels.shape[:2]
        room = self.screen().availableSize() * 0.9
        self.resize(
            QSize(width, height).scaled(room.boundedTo(QSize(width, height)), Qt.AspectRatioMode.KeepAspectRatio)
        )
        self.show()
        self.raise_()


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
    """Names, bars and numbers below one another; names of one width where it is given.

    ``after`` is how a number is written that another becomes.
    """

    def __init__(self, name_width: int | None = None, after: str = "{:,}") -> None:
        super().__init__()
        self._name_width, self._after = name_width, after
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(ui.SPACE)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 1)
        self._lines: list[tuple[QLabel, Bar, QLabel]] = []

    def set_bars(self, bars: Sequence[tuple[str, tuple[int, int, int], int, int | None]]) -> None:
        """Show bars of one scale: name, color, a count, and what it becomes, where it may become another."""
        ui.clear(self._grid)
        self._lines.clear()
        most = max((max(before, after or 0) for *_, before, after in bars), default=0) or 1
        for place, (text, color, before, after) in enumerate(bars):
            change = "" if after is None else f" → {self._after.format(after)}"
            change += f"  ({after - before:+,})" if after not in (None, before) else ""
            name, bar = ui.label(text, wrap=False), Bar(color)
            value = ui.label(f"{before:,}{change}", wrap=False, right=True)
            if self._name_width is not None:
                name.setFixedWidth(self._name_width)
            bar.set_shares(before / most, (after or 0) / most)
            for position, widget in enumerate((name, bar, value)):
                self._grid.addWidget(widget, place, position)
            self._lines.append((name, bar, value))

    @property
    def texts(self) -> list[tuple[str, str]]:
        return [(name.text(), value.text()) for name, _, value in self._lines]
