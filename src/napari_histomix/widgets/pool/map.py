"""A map of a segment pool: every segment a dot, drawn by counting dots in each pixel, so that a million do no harm."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from napari.utils.theme import get_theme
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QImage,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
    QResizeEvent,
    QWheelEvent,
)
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.segmentation.pool import POOL, Projection, SegmentPool
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.elements import ACCENT
from napari_histomix.widgets.pool.selection import PoolSelection, class_colors

MARGIN = 14
"""Pixels that stay free around the dots."""
NEAR = 10
"""Pixels from a click to the dot that it means, at most."""
DOTS = ((2_000, 3), (50_000, 2), (0, 1))
"""From up to so many segments on: screen pixels a dot is wide."""
ZOOM = 1.25


class PoolMap(QWidget):
    """Dots in the colors of their classes; those that the filters hide are gray. A lasso selects, a click too.

    Parameters
    ----------
    selection : PoolSelection
    theme : str
        napari's.
    """

    visited = Signal(int)
    """A segment was clicked."""
    lassoed = Signal()
    """Segments were selected with the lasso."""

    def __init__(self, selection: PoolSelection, theme: str = "dark") -> None:
        super().__init__()
        self.selection = selection
        self.curation: Curation | None = None
        self.places = np.empty((2, 0), np.float32)
        self.numbers = np.empty(0, np.intp)
        self._zoom, self._center = 1.0, QPointF(0.5, 0.5)
        self._found: NDArray[np.int32] | None = None
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
        """Wider than high."""
        return QSize(380, 220)

    def set_theme(self, name: str) -> None:
        """Draw in the colors of a napari theme."""
        theme = get_theme(name)
        self._back, self._ink, self._faint = (
            QColor(one.as_hex()) for one in (theme.background, theme.text, theme.primary)
        )
        self._redraw()

    # What is shown.

    def set_curation(self, curation: Curation | None, places: NDArray[np.float32] | None = None) -> None:
        """Show another pool: its segments at these places, (N, 2) with the first axis to the right."""
        self.curation = curation
        self.set_places(np.empty((0, 2), np.float32) if curation is None or places is None else places)

    def set_places(self, places: NDArray[np.float32]) -> None:
        """Show the same segments at other places."""
        # Column by column: the two of one segment lie side by side, which makes everything slower.
        self.places = np.array(places.T, np.float32, order="C")
        for axis in self.places if len(places) else ():
            low, high = axis.min(), axis.max()
            # A pool of one segment, or of equal ones, has no extent.
            axis -= (low + high) / 2
            axis /= (high - low) or 1
            axis += 0.5
        self._zoom, self._center = 1.0, QPointF(0.5, 0.5)
        self._arrange()

    def set_numbers(self, numbers: NDArray[np.intp]) -> None:
        """Show these in color, all others in gray."""
        self.numbers = numbers
        self._redraw()

    # Pixels.

    def _size(self) -> tuple[int, int]:
        ratio = self.devicePixelRatioF()
        return max(1, round(self.height() * ratio)), max(1, round(self.width() * ratio))

    def _arrange(self) -> None:
        """Find the pixels anew: after a resize, a zoom, or with other places."""
        self._found = None
        self._redraw()

    @property
    def _pixel(self) -> NDArray[np.int32]:
        """Pixel of every segment, row by row; the one after the last where it is out of sight."""
        if self._found is None:
            height, width = self._size()
            margin = MARGIN * self.devicePixelRatioF()
            right = np.float32(self._zoom * max(width - 2 * margin, 1))
            down = np.float32(self._zoom * max(height - 2 * margin, 1))
            x, y = self.places
            x = (x * right + np.float32(width / 2 - self._center.x() * right)).astype(np.int32)
            y = (y * -down + np.float32(height / 2 + self._center.y() * down)).astype(np.int32)
            self._found = y * np.int32(width) + x
            self._found[(x < 0) | (x >= width) | (y < 0) | (y >= height)] = height * width
        return self._found

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
        found = np.bincount(pixels, minlength=size + layers)[:size].reshape(height, width, layers).astype(np.float32)
        wide = next(dot for most, dot in DOTS if self.places.shape[1] <= most or not most)
        for axis in (0, 1) if wide > 1 else ():
            spread = found.copy()
            for step in range(1, wide):
                shift = (step + 1) // 2 * (1 if step % 2 else -1)
                spread += _shifted(found, shift, axis)
            found = spread
        return found

    def _draw_dots(self) -> QImage:
        """All dots: brighter where there are more, in the mixture of their classes' colors."""
        height, width = self._size()
        back = np.array(self._back.getRgb()[:3], np.float32)
        paint = np.empty((height, width, 3), np.float32)
        paint[:] = back
        everyone = self._counts(self._pixel)[:, :, 0] > 0
        paint[everyone] = self._faint.getRgb()[:3]
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
        """The selected ones in the color of text, on nothing."""
        height, width = self._size()
        paint = np.zeros((height, width, 4), np.float32)
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
        """Other pixels."""
        super().resizeEvent(event)
        self._arrange()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the dots, the selection, the current one, the lasso."""
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
        """Where a segment is drawn; None where it is out of sight."""
        height, width = self._size()
        if not 0 <= number < self.places.shape[1] or self._pixel[number] >= height * width:
            return None
        row, col = divmod(int(self._pixel[number]), width)
        return QPointF(col + 0.5, row + 0.5) / self.devicePixelRatioF()

    # The mouse.

    def nearest(self, point: QPointF) -> int | None:
        """The shown segment that a click means; None where there is none near."""
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
        """The shown segments whose dots lie within a line."""
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
        """The left button begins a lasso, another one moves the map."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._lasso = QPolygonF([event.position()])
        else:
            self._drag = event.position()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Go on with the lasso, or with moving."""
        if self._lasso is not None:
            self._lasso.append(event.position())
            self.update()
        elif self._drag is not None:
            moved, self._drag = event.position() - self._drag, event.position()
            self._center -= self._share(moved)
            self._arrange()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select what the lasso holds; a lasso of no extent was a click."""
        self._drag = None
        lasso, self._lasso = self._lasso, None
        if lasso is None:
            return
        add = bool(event.modifiers() & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.ControlModifier))
        box = lasso.boundingRect()
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
        """Show all again."""
        self._zoom, self._center = 1.0, QPointF(0.5, 0.5)
        self._arrange()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Come closer, or go away, where the mouse is."""
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


def _shifted(counts: NDArray[np.float32], by: int, axis: int) -> NDArray[np.float32]:
    """Counts moved along an axis, nothing coming in from the other side."""
    found = np.zeros_like(counts)
    source, target = [slice(None)] * 3, [slice(None)] * 3
    source[axis] = slice(max(-by, 0), counts.shape[axis] - max(by, 0))
    target[axis] = slice(max(by, 0), counts.shape[axis] - max(-by, 0))
    found[tuple(target)] = counts[tuple(source)]
    return found


FITTED = 50_000
"""Segments the map is fitted to; all others are put where they belong on it."""
COMPONENTS = 30
CHUNK = 10_000


def available() -> bool:
    """Whether umap-learn is installed."""
    return find_spec("umap") is not None


def umap_file(pool: SegmentPool) -> Path:
    """Where the map of exactly this pool is kept."""
    made = json.dumps(dict(pool.signature), sort_keys=True) + repr([one.sha256 for one in pool.images])
    return pool.folder / POOL / f"umap-{len(pool)}-{hashlib.sha256(made.encode()).hexdigest()[:12]}.npy"


def umap_job(pool: SegmentPool) -> Callable[[], Job[NDArray[np.float32]]]:
    """Places (N, 2) of all segments, read from disk where they were computed before."""

    def job() -> Job[NDArray[np.float32]]:
        file = umap_file(pool)
        yield Event("Reading the map")
        try:
            found = np.load(file, allow_pickle=False)
            if found.shape == (len(pool), 2):
                return np.asarray(found, np.float32)
        except (OSError, ValueError):
            # Not there yet, or not whole: it is made anew.
            pass
        places = yield from _places(pool)
        partial = file.with_suffix(".partial")
        try:
            with partial.open("wb") as stream:
                np.save(stream, places)
            os.replace(partial, file)
        except OSError:
            # A map that cannot be kept is shown all the same.
            partial.unlink(missing_ok=True)
        return places

    return job


def _places(pool: SegmentPool) -> Job[NDArray[np.float32]]:
    if len(pool) < 4:
        raise HistomixError("A UMAP needs at least four segments; look at the PCA map.")
    yield Event("Principal components of all classes")
    # Vectors of two classes lie in two spaces; only the features under them can be compared over all classes.
    features = [part.features() for part in pool._parts]
    rng = np.random.default_rng(0)
    share = min(1.0, FITTED / len(pool))
    sample = np.concatenate(
        [one[np.sort(rng.choice(len(one), max(1, round(share * len(one))), replace=False))] for one in features]
    )
    projection = Projection.fit(sample, np.arange(len(sample)), COMPONENTS)
    width = projection.axes.shape[1]
    yield Event("Fitting the UMAP, which cannot be interrupted")
    import umap

    neighbors = min(15, len(sample) - 1)
    mapper = umap.UMAP(n_components=2, n_neighbors=neighbors, random_state=0, n_jobs=1)
    fitted = np.asarray(mapper.fit_transform(projection.transform(sample, width)), np.float32)
    if len(sample) == len(pool):
        return fitted
    found, done = [], 0
    for one in features:
        for start in range(0, len(one), CHUNK):
            yield Event("Placing segments on the map", done, len(pool))
            some = projection.transform(np.asarray(one[start : start + CHUNK]), width)
            found.append(np.asarray(mapper.transform(some), np.float32))
            done += len(some)
    return np.concatenate(found)
