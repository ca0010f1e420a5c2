"""Thumbnails of a pool as pixmaps: decoded when first seen, the last few thousand kept."""

from __future__ import annotations

from collections import OrderedDict

from qtpy.QtCore import QByteArray, Qt
from qtpy.QtGui import QColor, QImage, QPixmap

from napari_histomix.segmentation.pool import SegmentPool

KEPT = 1500
"""Pixmaps, unless more are in sight: 55 MB at 96 pixels a side."""


class Thumbnails:
    """The thumbnails of one pool at one size.

    Parameters
    ----------
    pool : SegmentPool
    side : int
        Screen pixels.
    """

    def __init__(self, pool: SegmentPool, side: int) -> None:
        self._pool = pool
        self._side = side
        self._kept: OrderedDict[int, QPixmap] = OrderedDict()
        self._room = KEPT

    def __len__(self) -> int:
        return len(self._kept)

    def resize(self, side: int) -> None:
        """Make them at another size from now on."""
        if side != self._side:
            self._side = side
            self._kept.clear()

    def make_room(self, count: int) -> None:
        """Keep at least this many: all that are in sight, or drawing them would never end."""
        self._room = max(KEPT, count)

    def get(self, number: int) -> QPixmap | None:
        """The pixmap of a segment; None where it has to be loaded first."""
        found = self._kept.get(number)
        if found is not None:
            self._kept.move_to_end(number)
        return found

    def load(self, number: int) -> QPixmap:
        """Read and decode one; a plain gray square stands for what cannot be read."""
        image = QImage()
        try:
            image.loadFromData(QByteArray(self._pool.thumbnail(number)))
        except OSError:
            image = QImage()
        if image.isNull():
            pixmap = QPixmap(self._side, self._side)
            pixmap.fill(QColor(110, 114, 120))
        else:
            # Scaled here and once: smooth scaling in every paint of every tile would be what scrolling waits for.
            keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            pixmap = QPixmap.fromImage(image.scaled(self._side, self._side, keep, smooth))
        self._kept[number] = pixmap
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return pixmap
