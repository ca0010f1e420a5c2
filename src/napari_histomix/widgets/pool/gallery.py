"""The gallery of a segment pool: thumbnails by class and decision."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QByteArray, QRect, QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap

from napari_histomix.segmentation.pool import DECIDED, SegmentPool
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.elements import BAD, CARE, GOOD, rgb
from napari_histomix.widgets.gallery import Gallery, Selection, Thumbnails, Tile

CLASS_COLORS = ("#4c9aff", "#f5a623", "#a97fe0", "#2fc1c9", "#e377c2", "#c9b92f", "#b07d62", "#8fa3b8")
"""Apart from the colors of decisions, and to be told from each other on light and dark."""
DECISION_FRAMES = ("", GOOD, BAD)
"""By the codes of ``Curation.decision``."""


def class_colors(count: int) -> NDArray[np.uint8]:
    """A color for each of so many classes, (count, 3) RGB."""
    # Golden-angle steps of hue: no two neighbors look alike, however many there are.
    hues = (QColor.fromHsvF(index * 0.618 % 1, 0.55, 0.85) for index in range(len(CLASS_COLORS), count))
    more = [(hue.red(), hue.green(), hue.blue()) for hue in hues]
    return np.array([*map(rgb, CLASS_COLORS[:count]), *more], np.uint8).reshape(count, 3)


class PoolGallery(Gallery):
    """The segments of a pool; reads what it shows from a curation."""

    nothing = "No segment agrees with the filters"

    def __init__(self, selection: Selection, theme: str = "dark") -> None:
        super().__init__(selection, theme, "Segments")
        self.curation: Curation | None = None
        self._colors: list[QColor] = []

    def set_curation(self, curation: Curation | None) -> None:
        """Show another pool, none of it yet; ``set_numbers`` follows."""
        self.curation = curation
        self.thumbnails = SegmentThumbnails(curation.pool, self.pixels()) if curation else None
        self._colors = [QColor(*color) for color in class_colors(len(curation.kinds)).tolist()] if curation else []
        self.set_numbers(np.empty(0, np.intp))

    def look_of(self, number: int) -> Tile:
        assert self.curation is not None
        decision = int(self.curation.decision[number])
        strip = self._colors[int(self.curation.kind[number])]
        return Tile(strip, DECISION_FRAMES[decision], DECIDED[decision] == "drop")

    def mark(self, painter: QPainter, box: QRect, number: int) -> None:
        assert self.curation is not None
        if self.curation.border[number]:
            _flag_incomplete(painter, box)

    def words(self, number: int) -> str:
        curation = self.curation
        assert curation is not None
        line, source = curation.pool.rows[number], curation.pool.image(number).source
        area, large = int(curation.area[number]), curation.micrometers(number)
        lines = [
            curation.kind_of(number),
            source.image + (f" · patient {source.patient}" if source.patient else ""),
            f"{area:,} px · {large:,.0f} µm²",
            f"Vote share {line['vote_share']:.2f} · stability {line['stability']:.2f}",
            f"Used {int(curation.uses[number]):,} times" if curation.uses[number] else "",
            f"Tags: {', '.join(curation.tags_of(number))}" if curation.tags_of(number) else "",
            "Cut off by the border of its image" if curation.border[number] else "",
        ]
        return "\n".join(filter(None, lines))


def _flag_incomplete(painter: QPainter, box: QRect) -> None:
    """A small dashed square on a dark ground: a segment that its image's border cut off."""
    mark = QRectF(box.right() - 19.5, box.top() + 5.5, 14, 14)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(20, 22, 26, 200))
    painter.drawRoundedRect(mark.adjusted(-3, -3, 3, 3), 3, 3)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    pen = QPen(QColor(CARE), 2)
    pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    # Dashes and gaps that come out even on a side of 14.
    pen.setDashPattern([1.5, 1.3])
    painter.setPen(pen)
    painter.drawRect(mark)


class SegmentThumbnails(Thumbnails):
    """The thumbnails of one pool, read from its folder."""

    def __init__(self, pool: SegmentPool, side: int) -> None:
        super().__init__(side)
        self._pool = pool

    def load(self, number: int) -> QPixmap:
        """Read and decode one; a plain gray square stands for what cannot be read."""
        image = QImage()
        with suppress(OSError):
            image.loadFromData(QByteArray(self._pool.thumbnail(number)))
        if image.isNull():
            pixmap = QPixmap(self.side, self.side)
            pixmap.fill(QColor(110, 114, 120))
        else:
            # Scaled here and once: smooth scaling in every paint of every tile would be what scrolling waits for.
            keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            pixmap = QPixmap.fromImage(image.scaled(self.side, self.side, keep, smooth))
        return self.keep(number, pixmap)
