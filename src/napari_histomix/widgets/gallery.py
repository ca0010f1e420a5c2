"""Galleries: as many tiles as there are items, of which only those in sight exist, and what is selected among them."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from napari.utils.theme import get_theme
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QEvent, QObject, QPoint, QRect, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from qtpy.QtWidgets import QAbstractScrollArea, QApplication, QFrame, QSizePolicy, QToolTip

from napari_histomix.widgets.elements import ACCENT, later

GAP = 5
"""Pixels around a thumbnail; two neighbors lie twice as far apart."""
STRIP = 4
"""Height of the strip that shows a tile's class."""
SIDES = (48, 64, 80, 96, 128)
BUDGET = 0.005
"""Seconds of one paint that go into loading thumbnails; the rest comes in the next one."""
KEPT = 1500
"""Pixmaps, unless more are in sight: 55 MB at 96 pixels a side."""
OPENING = (Qt.Key.Key_Return, Qt.Key.Key_Enter)
GALLERY_KEYS = {
    *OPENING,
    Qt.Key.Key_Left,
    Qt.Key.Key_Right,
    Qt.Key.Key_Up,
    Qt.Key.Key_Down,
    Qt.Key.Key_PageUp,
    Qt.Key.Key_PageDown,
    Qt.Key.Key_Home,
    Qt.Key.Key_End,
}
"""Keys that a gallery answers itself while it has the keyboard, whatever they do in the panel around it."""


def theme_colors(theme: str, *names: str) -> list[QColor]:
    """Colors of a napari theme."""
    return [QColor(getattr(get_theme(theme), name).as_hex()) for name in names]


class Selection(QObject):
    """Selected items as a mask over all of them, so that selecting a million takes no time.

    One is current, the item clicked or reached last; -1 for none.
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
        """Select items, in place of those that were or beside them; ``current`` becomes the current one."""
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


class Thumbnails:
    """The thumbnails of some items at one size, in screen pixels; those used longest ago are let go."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._kept: OrderedDict[int, QPixmap] = OrderedDict()
        self._room = KEPT

    def __len__(self) -> int:
        return len(self._kept)

    def resize(self, side: int) -> None:
        if side != self.side:
            self.side = side
            self.clear()

    def clear(self) -> None:
        self._kept.clear()

    def make_room(self, count: int) -> None:
        """Keep at least this many: all that are in sight, or drawing them would never end."""
        self._room = max(KEPT, count)

    def get(self, number: int) -> QPixmap | None:
        if number in self._kept:
            self._kept.move_to_end(number)
        return self._kept.get(number)

    def keep(self, number: int, pixmap: QPixmap) -> QPixmap:
        self._kept[number] = pixmap
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return pixmap

    def load(self, number: int) -> QPixmap | None:
        """Make a thumbnail now and keep it; None where it comes by itself, later."""
        raise NotImplementedError


class Tile(NamedTuple):
    """What a tile shows besides its thumbnail."""

    strip: QColor
    """Color of the strip below it."""
    frame: str = ""
    """Color of a frame; empty for none."""
    faded: bool = False


class Gallery(QAbstractScrollArea):
    """Tiles in rows, of which only those in sight exist; they are selected by mouse, by keys and by a rubber band.

    A subclass says what a tile shows (`look_of`, `mark`), what its tooltip says (`words`), and gives ``thumbnails``.
    """

    visited = Signal(int)
    """An item was clicked, or reached with a key."""
    opened = Signal(int)
    """An item was double-clicked, or Enter pressed on it."""
    nothing = "Nothing agrees with the filters"

    def __init__(self, selection: Selection, theme: str, name: str) -> None:
        super().__init__()
        self.selection = selection
        self.thumbnails: Thumbnails | None = None
        self.numbers = np.empty(0, np.intp)
        self.side = 80
        self._anchor = -1
        self._press: QPoint | None = None
        """Where the mouse was pressed, in all of the tiles."""
        self._band: QRect | None = None
        self._before_band = np.zeros(0, bool)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(150)
        self.setAccessibleName(name)
        self._more = later(self, 0, self.viewport().update)
        self.set_theme(theme)
        selection.changed.connect(self.viewport().update)

    def sizeHint(self) -> QSize:
        # Four tiles wide.
        return QSize(380, 400)

    def set_theme(self, name: str) -> None:
        self._back, self._ink, self._empty = theme_colors(name, "background", "text", "foreground")
        self.viewport().update()

    # What a subclass says.

    def look_of(self, number: int) -> Tile:
        """What the tile of an item shows besides its thumbnail."""
        raise NotImplementedError

    def mark(self, painter: QPainter, box: QRect, number: int) -> None:
        """Draw over the thumbnail of an item."""

    def words(self, number: int) -> str:
        """What the tooltip of an item says."""
        raise NotImplementedError

    def painted(self) -> None:
        """All tiles in sight have been drawn."""

    # What is shown.

    def set_numbers(self, numbers: NDArray[np.intp], *, stay: bool = False) -> None:
        """Show these items, from the first on; or go on from where a person ``stay``\\ s."""
        self.numbers = numbers
        self._anchor = -1
        self._measure()
        if not stay:
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

    def pixels(self) -> int:
        """Side of a thumbnail in pixels of the screen."""
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
        place = row * self.columns + self._column_at(point.x())
        return place if 0 <= place < len(self.numbers) else None

    def _column_at(self, x: int) -> int:
        return min(max(x * self.columns // max(self.viewport().width(), 1), 0), self.columns - 1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._keep_top(self._columns_in(event.oldSize().width()), self.cell)

    def set_side(self, side: int) -> None:
        if side != self.side:
            columns, cell, self.side = self.columns, self.cell, side
            if self.thumbnails is not None:
                self.thumbnails.resize(self.pixels())
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
        if self.thumbnails is not None and len(self.numbers):
            first = self.verticalScrollBar().value() // self.cell * self.columns
            rows = self.viewport().height() // self.cell + 2
            last = min(first + rows * self.columns, len(self.numbers))
            self.thumbnails.make_room(last - first)
            # Thumbnails that are not there yet are made as far as the time allows.
            until = time.perf_counter() + BUDGET
            waiting = False
            for place in range(first, last):
                waiting |= not self._draw(painter, self.tile(place), int(self.numbers[place]), until)
            if waiting:
                self._more.start()
            self.painted()
        elif self.thumbnails is not None:
            painter.setPen(self._ink)
            painter.drawText(self.viewport().rect(), Qt.AlignmentFlag.AlignCenter, self.nothing)
        if self._band is not None:
            shade = QColor(ACCENT)
            shade.setAlpha(60)
            painter.setPen(QPen(QColor(ACCENT), 1))
            painter.setBrush(shade)
            painter.drawRect(self._band.translated(0, -self.verticalScrollBar().value()))
        painter.end()

    def _draw(self, painter: QPainter, box: QRect, number: int, until: float) -> bool:
        """Draw one tile; False where its thumbnail has to wait for the next time."""
        assert self.thumbnails is not None
        pixmap, in_time = self.thumbnails.get(number), True
        if pixmap is None:
            in_time = time.perf_counter() < until
            pixmap = self.thumbnails.load(number) if in_time else None
        look = self.look_of(number)
        if self.selection.mask[number]:
            whole = QRectF(box.adjusted(-GAP + 1, -GAP + 1, GAP - 1, GAP + STRIP - 1))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(ACCENT))
            painter.drawRoundedRect(whole, 4, 4)
        if pixmap is not None and look.faded:
            painter.setOpacity(0.35)
        painter.fillRect(box, self._empty)
        if pixmap is not None:
            size = pixmap.size().scaled(box.size(), Qt.AspectRatioMode.KeepAspectRatio)
            corner = QPoint((box.width() - size.width()) // 2, (box.height() - size.height()) // 2)
            painter.drawPixmap(QRect(box.topLeft() + corner, size), pixmap)
        painter.setOpacity(1.0)
        painter.fillRect(box.x(), box.bottom() + 1, box.width(), STRIP, look.strip)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        if look.frame:
            pen = QPen(QColor(look.frame), 3)
            pen.setJoinStyle(Qt.PenJoinStyle.MiterJoin)
            painter.setPen(pen)
            painter.drawRect(QRectF(box).adjusted(1.5, 1.5, -1.5, -1.5))
        self.mark(painter, box, number)
        if number == self.selection.current:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(self._ink, 1.5))
            painter.drawRoundedRect(QRectF(box).adjusted(-3, -3, 3, STRIP + 3), 4, 4)
        return in_time

    def viewportEvent(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            number = self.number_at(event.pos())
            QToolTip.showText(event.globalPos(), self.words(number) if number is not None else "", self)
            return True
        return super().viewportEvent(event)

    # Selecting.

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() != Qt.MouseButton.LeftButton:
            return
        point, modifiers = event.position().toPoint(), event.modifiers()
        place, extend = self._place_at(point), bool(modifiers & Qt.KeyboardModifier.ShiftModifier)
        add = bool(modifiers & Qt.KeyboardModifier.ControlModifier) and not extend
        self._press = point + QPoint(0, self.verticalScrollBar().value())
        self._before_band = self.selection.mask.copy() if add else np.zeros(len(self.selection.mask), bool)
        if place is None:
            return
        if add:
            self._anchor = place
            self.selection.toggle(int(self.numbers[place]))
            self.visited.emit(int(self.numbers[place]))
        else:
            self.go(place, extend=extend)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._press is None or not event.buttons() & Qt.MouseButton.LeftButton:
            return
        bar, point = self.verticalScrollBar(), event.position().toPoint()
        # Dragged beyond the border, the band takes the tiles there along.
        bar.setValue(bar.value() + min(point.y(), 0) + max(point.y() - self.viewport().height(), 0))
        end = point + QPoint(0, bar.value())
        if self._band is None and (end - self._press).manhattanLength() < QApplication.startDragDistance():
            return
        self._band = QRect(self._press, end).normalized()
        inside = self._before_band.copy()
        inside[self.numbers[self._places_in(self._band)]] = True
        self.selection.select(np.flatnonzero(inside))

    def _places_in(self, band: QRect) -> NDArray[np.intp]:
        """Places of the tiles that a band touches."""
        rows = np.arange(max(band.top(), 0) // self.cell, band.bottom() // self.cell + 1)
        columns = np.arange(self._column_at(band.left()), self._column_at(band.right()) + 1)
        places = (rows[:, None] * self.columns + columns).ravel()
        return places[places < len(self.numbers)]

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._press = self._band = None
        self.viewport().update()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        number = self.number_at(event.position().toPoint())
        if number is not None and event.button() == Qt.MouseButton.LeftButton:
            self.opened.emit(number)

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

    def event(self, event: QEvent) -> bool:
        # These come here, not to the panel's shortcuts.
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            all_of_them = event.key() == Qt.Key.Key_A and event.modifiers() & Qt.KeyboardModifier.ControlModifier
            if Qt.Key(event.key()) in GALLERY_KEYS or all_of_them:
                event.accept()
                return True
        return super().event(event)

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
        elif key in OPENING and self.selection.current >= 0:
            self.opened.emit(self.selection.current)
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
