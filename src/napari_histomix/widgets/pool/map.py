"""A map of a segment pool: every segment a dot, drawn by counting dots in each pixel, so that a million do no harm."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF, QResizeEvent, QWheelEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_histomix.study.curation import Curation
from napari_histomix.widgets.elements import ACCENT
from napari_histomix.widgets.gallery import Selection, theme_colors
from napari_histomix.widgets.pool.gallery import class_colors

MARGIN = 14
"""Pixels that stay free around the dots."""
NEAR = 10
"""Pixels from a click to the dot that it means, at most."""
DOTS = ((2_000, 3), (50_000, 2), (0, 1))
"""From up to so many segments on: screen pixels a dot is wide."""
ZOOM = 1.25


class PoolMap(QWidget):
    """Dots in the colors of their classes; those that the filters hide are gray. A lasso selects, a click too."""

    visited = Signal(int)
    """A segment was clicked."""
    lassoed = Signal()
    """Segments were selected with the lasso."""

    def __init__(self, selection: Selection, theme: str = "dark") -> None:
        super().__init__()
        self.selection = selection
        self.curation: Curation | None = None
        self.places = np.empty((2, 0), np.float32)
        self.numbers = np.empty(0, np.intp)
        self._zoom, self._center = 1.0, QPointF(0.5, 0.5)
        self._pixel_of_each: NDArray[np.int32] | None = None
        self._dots: QImage | None = None
        self._chosen: QImage | None = None
        self._lasso: QPolygonF | None = None
        self._drag: QPointF | None = None
        self.setMinimumHeight(90)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setAccessibleName("Map of the segments")
        self.setToolTip(
            "Each dot is a segment; similar ones lie close. Draw around some to select them, with Shift to add them; "
            "click to see one. The wheel zooms, the right button moves, a double click shows all."
        )
        self.set_theme(theme)
        selection.changed.connect(self._on_selection)

    def sizeHint(self) -> QSize:
        return QSize(380, 220)

    def set_theme(self, name: str) -> None:
        self._back, self._ink, self._faint = theme_colors(name, "background", "text", "primary")
        self._redraw()

    # What is shown.

    def set_curation(self, curation: Curation | None, places: NDArray[np.float32] | None = None) -> None:
        """Show another pool: its segments at these places, (N, 2) with the first axis to the right."""
        self.curation = curation
        self.set_places(np.empty((0, 2), np.float32) if curation is None or places is None else places)

    def set_places(self, places: NDArray[np.float32]) -> None:
        # Column by column: the two of one segment lie side by side, which makes everything slower.
        self.places = np.array(places.T, np.float32, order="C")
        for axis in self.places if len(places) else ():
            low, high = axis.min(), axis.max()
            # A pool of one segment, or of equal ones, has no extent.
            axis -= (low + high) / 2
            axis /= (high - low) or 1
            axis += 0.5
        self.show_all()

    def show_all(self) -> None:
        self._zoom, self._center = 1.0, QPointF(0.5, 0.5)
        self._arrange()

    def set_numbers(self, numbers: NDArray[np.intp]) -> None:
        self.numbers = numbers
        self._redraw()

    # Pixels.

    def _size(self) -> tuple[int, int]:
        ratio = self.devicePixelRatioF()
        return max(1, round(self.height() * ratio)), max(1, round(self.width() * ratio))

    def _arrange(self) -> None:
        self._pixel_of_each = None
        self._redraw()

    @property
    def _pixel(self) -> NDArray[np.int32]:
        """Pixel of every segment, row by row; the one after the last where it is out of sight."""
        if self._pixel_of_each is None:
            height, width = self._size()
            margin = MARGIN * self.devicePixelRatioF()
            right = np.float32(self._zoom * max(width - 2 * margin, 1))
            down = np.float32(self._zoom * max(height - 2 * margin, 1))
            x, y = self.places
            x = (x * right + np.float32(width / 2 - self._center.x() * right)).astype(np.int32)
            y = (y * -down + np.float32(height / 2 + self._center.y() * down)).astype(np.int32)
            self._pixel_of_each = y * np.int32(width) + x
            self._pixel_of_each[(x < 0) | (x >= width) | (y < 0) | (y >= height)] = height * width
        return self._pixel_of_each

    def _redraw(self) -> None:
        self._dots = None
        self._on_selection()

    def _on_selection(self) -> None:
        self._chosen = None
        self.update()

    def _counts(self, pixels: NDArray[np.int32], layers: int = 1) -> NDArray[np.float32]:
        """Dots in every pixel, (height, width, layers), each spread over the width of a dot."""
        height, width = self._size()
        size = height * width * layers
        counts = np.bincount(pixels, minlength=size + layers)[:size].reshape(height, width, layers).astype(np.float32)
        wide = next(dot for most, dot in DOTS if self.places.shape[1] <= most or not most)
        spread = cv2.boxFilter(counts, -1, (wide, wide), normalize=False, borderType=cv2.BORDER_CONSTANT)
        return spread.reshape(height, width, layers)

    def _draw_dots(self) -> QImage:
        """All dots: brighter where there are more, in the mixture of their classes' colors."""
        height, width = self._size()
        back = np.array(self._back.getRgb()[:3], np.float32)
        paint = np.empty((height, width, 3), np.float32)
        paint[:] = back
        paint[self._counts(self._pixel)[:, :, 0] > 0] = self._faint.getRgb()[:3]
        if self.curation is not None and len(self.numbers):
            kinds = len(self.curation.kinds)
            pixels = self._pixel[self.numbers] * np.int32(kinds) + self.curation.kind[self.numbers]
            counts = self._counts(pixels, kinds)
            total = counts.sum(axis=2)
            there = total > 0
            number = total[there][:, None]
            color = counts[there] @ class_colors(kinds).astype(np.float32) / number
            # One dot is to be seen well; a crowd stands out from it.
            strength = 0.62 + 0.38 * np.log1p(number - 1) / max(np.log1p(float(number.max()) - 1), 1e-6)
            paint[there] = color * strength + back * (1 - strength)
        return self._image(np.dstack([paint, np.full((height, width, 1), 255, np.float32)]))

    def _draw_chosen(self) -> QImage:
        paint = np.zeros((*self._size(), 4), np.float32)
        chosen = self._counts(self._pixel[self.selection.mask])[:, :, 0] > 0
        paint[chosen] = (*self._ink.getRgb()[:3], 255)
        return self._image(paint)

    def _image(self, paint: NDArray[np.float32]) -> QImage:
        data = np.ascontiguousarray(paint.astype(np.uint8))
        height, width = data.shape[:2]
        # The copy owns its pixels; the array may go.
        image = QImage(data.data, width, height, 4 * width, QImage.Format.Format_RGBA8888).copy()
        image.setDevicePixelRatio(self.devicePixelRatioF())
        return image

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if self._dots is None:
            self._dots = self._draw_dots()
        painter.drawImage(0, 0, self._dots)
        if len(self.selection.mask) == self.places.shape[1] and self.selection.count:
            if self._chosen is None:
                self._chosen = self._draw_chosen()
            painter.drawImage(0, 0, self._chosen)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        at = self.point_of(self.selection.current)
        if at is not None:
            painter.setPen(QPen(self._back, 5))
            painter.drawEllipse(at, 7, 7)
            painter.setPen(QPen(QColor(ACCENT), 2.5))
            painter.drawEllipse(at, 7, 7)
        if self._lasso is not None:
            fill = QColor(ACCENT)
            fill.setAlpha(45)
            painter.setBrush(fill)
            painter.setPen(QPen(QColor(ACCENT), 1.5, Qt.PenStyle.DashLine))
            painter.drawPolygon(self._lasso)
        painter.end()

    def point_of(self, number: int) -> QPointF | None:
        height, width = self._size()
        if not 0 <= number < self.places.shape[1] or self._pixel[number] >= height * width:
            return None
        row, col = divmod(int(self._pixel[number]), width)
        return QPointF(col + 0.5, row + 0.5) / self.devicePixelRatioF()

    # The mouse.

    def nearest(self, point: QPointF) -> int | None:
        height, width = self._size()
        ratio = self.devicePixelRatioF()
        pixels = self._pixel[self.numbers]
        row, col = np.divmod(pixels, np.int32(width))
        apart = np.hypot(row + 0.5 - point.y() * ratio, col + 0.5 - point.x() * ratio)
        apart[pixels >= height * width] = np.inf
        if not len(apart) or apart.min() > NEAR * ratio:
            return None
        return int(self.numbers[int(apart.argmin())])

    def inside(self, lasso: QPolygonF) -> NDArray[np.intp]:
        height, width = self._size()
        ground = QImage(width, height, QImage.Format.Format_Grayscale8)
        ground.setDevicePixelRatio(self.devicePixelRatioF())
        ground.fill(0)
        painter = QPainter(ground)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("white"))
        painter.drawPolygon(lasso, Qt.FillRule.WindingFill)
        painter.end()
        stride = ground.bytesPerLine()
        bits = ground.constBits()
        if hasattr(bits, "setsize"):  # PyQt hands over a pointer without a length.
            bits.setsize(ground.sizeInBytes())
        covered = np.frombuffer(bits, np.uint8).reshape(height, stride)[:, :width].ravel() > 0
        covered = np.append(covered, False)
        return self.numbers[covered[self._pixel[self.numbers]]]

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._lasso = QPolygonF([event.position()])
        else:
            self._drag = event.position()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._lasso is not None:
            self._lasso.append(event.position())
            self.update()
        elif self._drag is not None:
            moved, self._drag = event.position() - self._drag, event.position()
            self._center -= self._share(moved)
            self._arrange()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._drag = None
        lasso, self._lasso = self._lasso, None
        if lasso is None:
            return
        add = bool(event.modifiers() & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.ControlModifier))
        box = lasso.boundingRect()
        # A lasso of no extent was a click.
        if max(box.width(), box.height()) >= 4:
            self.selection.select(self.inside(lasso), add=add)
            self.lassoed.emit()
        else:
            number = self.nearest(event.position())
            if number is not None:
                self.selection.select([number], number, add=add)
                self.visited.emit(number)
            elif not add:
                self.selection.select([])
        self.update()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.show_all()

    def wheelEvent(self, event: QWheelEvent) -> None:
        turn = event.angleDelta().y()
        zoom = min(max(self._zoom * (ZOOM if turn > 0 else 1 / ZOOM), 1.0), 200.0)
        if turn and zoom != self._zoom:
            middle = QPointF(self.width() / 2, self.height() / 2)
            before = self._share(event.position() - middle)
            self._zoom = zoom
            self._center += before - self._share(event.position() - middle)
            if zoom == 1.0:
                self._center = QPointF(0.5, 0.5)
            self._arrange()
        event.accept()

    def _share(self, moved: QPointF) -> QPointF:
        """A way on the screen as one on the map, whose second axis goes up."""
        width, height = max(self.width() - 2 * MARGIN, 1), max(self.height() - 2 * MARGIN, 1)
        return QPointF(moved.x() / width / self._zoom, -moved.y() / height / self._zoom)
