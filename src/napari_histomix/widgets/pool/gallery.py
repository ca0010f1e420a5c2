"""The gallery of a segment pool, with as many tiles as there are segments, and the selection it shares with the map."""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import suppress

import numpy as np
from napari.utils.theme import get_theme
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QByteArray, QEvent, QObject, QPoint, QRect, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from qtpy.QtWidgets import QAbstractScrollArea, QFrame, QSizePolicy, QToolTip

from napari_histomix.segmentation.pool import DECIDED, SegmentPool
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.elements import ACCENT, BAD, CARE, GOOD, later, rgb

GAP = 5
"""Pixels around a thumbnail; two neighbors lie twice as far apart."""
STRIP = 4
"""Height of the strip that shows a tile's class."""
SIDES = (48, 64, 80, 96, 128)
BUDGET = 0.005
"""Seconds of one paint that go into decoding thumbnails; the rest comes in the next one."""


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


def theme_colors(theme: str, *names: str) -> list[QColor]:
    """Colors of a napari theme."""
    return [QColor(getattr(get_theme(theme), name).as_hex()) for name in names]


class PoolSelection(QObject):
    """Selected segments as a mask over the whole pool, so that selecting a million takes no time.

    One is current, the segment clicked or reached last; -1 for none.
    """

    changed = Signal()
    current_changed = Signal(int)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.mask = np.zeros(0, bool)
        self.current = -1

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.mask))

    def numbers(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.mask)

    def reset(self, size: int) -> None:
        self.mask = np.zeros(size, bool)
        self._tell(-1)

    def select(self, numbers: ArrayLike, current: int | None = None, *, add: bool = False) -> None:
        """Select segments, in place of those that were or beside them; ``current`` becomes the current one."""
        if not add:
            self.mask[:] = False
        self.mask[np.asarray(numbers, np.intp)] = True
        self._tell(self.current if current is None else current)

    def toggle(self, number: int) -> None:
        self.mask[number] = not self.mask[number]
        self._tell(number)

    def restrict(self, numbers: NDArray[np.intp]) -> None:
        """Let go of all but these: what is not shown must not be decided on by accident."""
        shown = np.zeros(len(self.mask), bool)
        shown[numbers] = True
        self.mask &= shown
        self._tell(self.current if self.current >= 0 and shown[self.current] else -1)

    def _tell(self, current: int) -> None:
        before, self.current = self.current, current
        self.changed.emit()
        if current != before:
            self.current_changed.emit(current)


class PoolGallery(QAbstractScrollArea):
    """Tiles in rows, of which only those in sight exist. Reads what it shows from a curation."""

    visited = Signal(int)
    """A segment was clicked, or reached with a key."""

    def __init__(self, selection: PoolSelection, theme: str = "dark") -> None:
        super().__init__()
        self.selection = selection
        self.curation: Curation | None = None
        self.thumbnails: Thumbnails | None = None
        self.numbers = np.empty(0, np.intp)
        self.side = 80
        self._anchor = -1
        self._colors: list[QColor] = []
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(150)
        self.setAccessibleName("Segments")
        self._more = later(self, 0, self.viewport().update)
        self.set_theme(theme)
        selection.changed.connect(self.viewport().update)

    def sizeHint(self) -> QSize:
        # Four tiles wide.
        return QSize(380, 400)

    def set_theme(self, name: str) -> None:
        self._back, self._ink, self._empty = theme_colors(name, "background", "text", "foreground")
        self.viewport().update()

    # What is shown.

    def set_curation(self, curation: Curation | None) -> None:
        """Show another pool, none of it yet; ``set_numbers`` follows."""
        self.curation = curation
        self.thumbnails = Thumbnails(curation.pool, self._pixels()) if curation else None
        self._colors = [QColor(*color) for color in class_colors(len(curation.kinds)).tolist()] if curation else []
        self.set_numbers(np.empty(0, np.intp))

    def set_numbers(self, numbers: NDArray[np.intp]) -> None:
        self.numbers = numbers
        self._anchor = -1
        self._measure()
        self.verticalScrollBar().setValue(0)
        self.viewport().update()

    def reveal(self, number: int) -> None:
        place = self.place_of(number)
        if place is not None:
            bar, top = self.verticalScrollBar(), place // self.columns * self.cell
            below = top + self.cell - self.viewport().height()
            bar.setValue(min(max(bar.value(), below), top))

    def place_of(self, number: int) -> int | None:
        places = np.flatnonzero(self.numbers == number)
        return int(places[0]) if len(places) else None

    # Geometry.

    @property
    def cell(self) -> int:
        return self.side + 2 * GAP + STRIP

    @property
    def columns(self) -> int:
        return self._columns_in(self.viewport().width())

    def _columns_in(self, width: int) -> int:
        return max(1, width // (self.side + 2 * GAP))

    def _pixels(self) -> int:
        return round(self.side * self.devicePixelRatioF())

    def _measure(self) -> None:
        rows = -(-len(self.numbers) // self.columns)
        bar, height = self.verticalScrollBar(), self.viewport().height()
        bar.setRange(0, max(0, rows * self.cell - height))
        bar.setSingleStep(self.cell // 3)
        bar.setPageStep(height)

    def tile(self, place: int) -> QRect:
        row, column = divmod(place, self.columns)
        width = self.viewport().width() / self.columns
        left = round((column + 0.5) * width - self.side / 2)
        return QRect(left, row * self.cell - self.verticalScrollBar().value() + GAP, self.side, self.side)

    def number_at(self, point: QPoint) -> int | None:
        place = self._place_at(point)
        return int(self.numbers[place]) if place is not None else None

    def _place_at(self, point: QPoint) -> int | None:
        row = (point.y() + self.verticalScrollBar().value()) // self.cell
        column = min(point.x() * self.columns // max(self.viewport().width(), 1), self.columns - 1)
        place = row * self.columns + column
        return place if 0 <= place < len(self.numbers) else None

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._keep_top(self._columns_in(event.oldSize().width()), self.cell)

    def set_side(self, side: int) -> None:
        if side != self.side:
            columns, cell, self.side = self.columns, self.cell, side
            if self.thumbnails is not None:
                self.thumbnails.resize(self._pixels())
            self._keep_top(columns, cell)

    def _keep_top(self, columns: int, cell: int) -> None:
        """Measure anew; the tile that was at the top, in rows of so many columns and so high, stays there."""
        bar = self.verticalScrollBar()
        row, offset = divmod(bar.value(), cell)
        self._measure()
        if columns != self.columns or cell != self.cell:
            bar.setValue(row * columns // self.columns * self.cell + (offset if cell == self.cell else 0))
        self.viewport().update()

    # Drawing.

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.viewport().rect(), self._back)
        if self.curation is not None and len(self.numbers):
            first = self.verticalScrollBar().value() // self.cell * self.columns
            rows = self.viewport().height() // self.cell + 2
            last = min(first + rows * self.columns, len(self.numbers))
            if self.thumbnails is not None:
                self.thumbnails.make_room(last - first)
            # Thumbnails that are not there yet are made as far as the time allows.
            until = time.perf_counter() + BUDGET
            waiting = False
            for place in range(first, last):
                waiting |= not self._draw(painter, self.tile(place), int(self.numbers[place]), until)
            if waiting:
                self._more.start()
        elif self.curation is not None:
            painter.setPen(self._ink)
            painter.drawText(self.viewport().rect(), Qt.AlignmentFlag.AlignCenter, "No segment agrees with the filters")
        painter.end()

    def _draw(self, painter: QPainter, box: QRect, number: int, until: float) -> bool:
        """Draw one tile; False where its thumbnail has to wait."""
        assert self.curation is not None and self.thumbnails is not None
        pixmap = self.thumbnails.get(number)
        if pixmap is None and time.perf_counter() < until:
            pixmap = self.thumbnails.load(number)
        decision = int(self.curation.decision[number])
        if self.selection.mask[number]:
            whole = QRectF(box.adjusted(-GAP + 1, -GAP + 1, GAP - 1, GAP + STRIP - 1))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(ACCENT))
            painter.drawRoundedRect(whole, 4, 4)
        if pixmap is not None and DECIDED[decision] == "drop":
            painter.setOpacity(0.35)
        painter.fillRect(box, self._empty)
        if pixmap is not None:
            size = pixmap.size().scaled(box.size(), Qt.AspectRatioMode.KeepAspectRatio)
            corner = QPoint((box.width() - size.width()) // 2, (box.height() - size.height()) // 2)
            painter.drawPixmap(QRect(box.topLeft() + corner, size), pixmap)
        painter.setOpacity(1.0)
        kind = self._colors[int(self.curation.kind[number])]
        painter.fillRect(box.x(), box.bottom() + 1, box.width(), STRIP, kind)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        if DECISION_FRAMES[decision]:
            pen = QPen(QColor(DECISION_FRAMES[decision]), 3)
            pen.setJoinStyle(Qt.PenJoinStyle.MiterJoin)
            painter.setPen(pen)
            painter.drawRect(QRectF(box).adjusted(1.5, 1.5, -1.5, -1.5))
        if self.curation.border[number]:
            _flag_incomplete(painter, box)
        if number == self.selection.current:
            painter.setPen(QPen(self._ink, 1.5))
            painter.drawRoundedRect(QRectF(box).adjusted(-3, -3, 3, STRIP + 3), 4, 4)
        return pixmap is not None

    def viewportEvent(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            number = self.number_at(event.pos())
            QToolTip.showText(event.globalPos(), self.words(number) if number is not None else "", self)
            return True
        return super().viewportEvent(event)

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

    # Selecting.

    def mousePressEvent(self, event: QMouseEvent) -> None:
        place = self._place_at(event.position().toPoint())
        if event.button() != Qt.MouseButton.LeftButton or place is None:
            return
        extend = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier and not extend:
            self._anchor = place
            self.selection.toggle(int(self.numbers[place]))
            self.visited.emit(int(self.numbers[place]))
        else:
            self.go(place, extend=extend)

    def go(self, place: int, *, extend: bool = False) -> None:
        """Make a tile the current one and select it; ``extend`` selects all between too."""
        if not len(self.numbers):
            return
        place = min(max(place, 0), len(self.numbers) - 1)
        number = int(self.numbers[place])
        if not extend:
            self._anchor = place
        elif not 0 <= self._anchor < len(self.numbers):
            current = self.place_of(self.selection.current)
            self._anchor = place if current is None else current
        first, last = sorted((self._anchor, place))
        self.selection.select(self.numbers[first : last + 1], number)
        self.reveal(number)
        self.visited.emit(number)

    def go_on(self) -> None:
        place = self.place_of(self.selection.current)
        if place is not None and place + 1 < len(self.numbers):
            self.go(place + 1)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key = Qt.Key(event.key())
        page = max(self.viewport().height() // self.cell, 1) * self.columns
        steps = {
            Qt.Key.Key_Left: -1,
            Qt.Key.Key_Right: 1,
            Qt.Key.Key_Up: -self.columns,
            Qt.Key.Key_Down: self.columns,
            Qt.Key.Key_PageUp: -page,
            Qt.Key.Key_PageDown: page,
            Qt.Key.Key_Home: -len(self.numbers),
            Qt.Key.Key_End: len(self.numbers),
        }
        control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        if key == Qt.Key.Key_A and control:
            self.selection.select(self.numbers)
        elif key == Qt.Key.Key_Escape:
            self.selection.select([])
        elif key in steps:
            place = self.place_of(self.selection.current)
            target = 0 if place is None else place + steps[key]
            # Up from the first row and down from the last stay, as they do in a table.
            if place is not None and abs(steps[key]) == self.columns and not 0 <= target < len(self.numbers):
                target = place
            self.go(target, extend=bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier))
        else:
            super().keyPressEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            step = (event.angleDelta().y() > 0) - (event.angleDelta().y() < 0)
            at = min(max(SIDES.index(self.side) + step, 0), len(SIDES) - 1)
            self.set_side(SIDES[at])
            event.accept()
        else:
            super().wheelEvent(event)


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


KEPT = 1500
"""Pixmaps, unless more are in sight: 55 MB at 96 pixels a side."""


class Thumbnails:
    """The thumbnails of one pool at one size, in screen pixels."""

    def __init__(self, pool: SegmentPool, side: int) -> None:
        self._pool = pool
        self._side = side
        self._kept: OrderedDict[int, QPixmap] = OrderedDict()
        self._room = KEPT

    def __len__(self) -> int:
        return len(self._kept)

    def resize(self, side: int) -> None:
        if side != self._side:
            self._side = side
            self._kept.clear()

    def make_room(self, count: int) -> None:
        """Keep at least this many: all that are in sight, or drawing them would never end."""
        self._room = max(KEPT, count)

    def get(self, number: int) -> QPixmap | None:
        if number in self._kept:
            self._kept.move_to_end(number)
        return self._kept.get(number)

    def load(self, number: int) -> QPixmap:
        """Read and decode one; a plain gray square stands for what cannot be read."""
        image = QImage()
        with suppress(OSError):
            image.loadFromData(QByteArray(self._pool.thumbnail(number)))
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
