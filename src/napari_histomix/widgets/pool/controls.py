"""The controls around the gallery: what of a pool is shown, in which order, and what is done with the selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QIntValidator, QPixmap
from qtpy.QtWidgets import QLineEdit, QMenu, QToolButton, QWidget

from napari_histomix.segmentation.pool import UNDECIDED
from napari_histomix.study.curation import Filters, Order
from napari_histomix.widgets.elements import SPACE, button, choice, column, even_row, later, line, offer, row
from napari_histomix.widgets.pool.gallery import class_colors

ORDERS: tuple[tuple[str, Order, str], ...] = (
    ("Order added", "added", "Image by image, as they were found."),
    ("Size", "size", "The largest first."),
    ("Vote share", "vote share", "Those first on which most prompts of their superpixel agreed."),
    ("Stability", "stability", "Those first whose masks differed least from prompt to prompt."),
    (
        "Similarity",
        "similarity",
        "Those first that are most like the current segment: its own class by their vectors, then other classes by the "
        "map.",
    ),
    ("Uses", "uses", "Those first that were drawn most often."),
)
DECISIONS = (("Any decision", ""), ("Undecided", UNDECIDED), ("Kept", "keep"), ("Dropped", "drop"))
BORDERS = (("Anywhere", None), ("At the border", True), ("Not at the border", False))
LARGEST_SIZE = 999_999_999


class PoolFilters(QWidget):
    """Class, decision, border, words, tag, size; order and direction."""

    filtered = Signal()
    ordered = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.kind = choice([("Any class", "")], "Show the segments of this class.", self.filtered, letters=6)
        self.decision = choice(DECISIONS, "Show the segments with this decision.", self.filtered, letters=6)
        tip = "Segments at the border of their image are incomplete: what lies beyond is missing."
        self.border = choice(BORDERS, tip, self.filtered, letters=6)
        self.tag = choice([("Any tag", "")], "Show the segments with this tag.", self.filtered, letters=6)
        self._choices = (self.kind, self.decision, self.border, self.tag)
        self._typed = later(self, 250, self.filtered)
        tip = "Show the segments whose image, patient, slide or tags contain all these words."
        self.search = line("Image, patient, slide, tag …", tip, lambda _text: self._typed.start())
        self.search.setMinimumWidth(90)
        self.search.setClearButtonEnabled(True)
        self.low = self._size_line("≥", "at least")
        self.high = self._size_line("≤", "at most")
        self.unit = choice((("px", False), ("µm²", True)), "What area is measured in.", self.filtered, letters=3)
        self.order = choice([(text, order) for text, order, _ in ORDERS], changed=self._on_order, letters=8)
        for index, (_, _, tip) in enumerate(ORDERS):
            self.order.setItemData(index, tip, Qt.ItemDataRole.ToolTipRole)
        self.turn = QToolButton()
        self.turn.setCheckable(True)
        self.turn.setText("↓")
        self.turn.setToolTip("Turn the order round.")
        self.turn.setAccessibleName("Turn the order round")
        self.turn.toggled.connect(self._on_turn)
        self._on_order()
        sizes = row(self.low, self.high, self.unit, self.tag)
        for index, stretch in enumerate((1, 1, 0, 1)):
            sizes.setStretch(index, stretch)
        choices = even_row(self.kind, self.decision, self.border)
        orders = row(self.search, self.order, self.turn, stretch=0)
        self.setLayout(column(choices, orders, sizes, space=SPACE - 2))

    def _size_line(self, sign: str, words: str) -> QLineEdit:
        made = line(f"Size {sign}", f"Show the segments whose area is {words} this.", lambda _text: self._typed.start())
        made.setMinimumWidth(56)
        made.setValidator(QIntValidator(0, LARGEST_SIZE, made))
        made.setAccessibleName(f"Size {words}")
        return made

    def filters(self) -> Filters:
        return Filters(
            kind=self.kind.currentData() or "",
            text=self.search.text(),
            low=float(self.low.text() or 0),
            high=float(self.high.text() or "inf"),
            micrometers=bool(self.unit.currentData()),
            decision=self.decision.currentData() or "",
            border=self.border.currentData(),
            tag=self.tag.currentData() or "",
        )

    @property
    def by(self) -> Order:
        return self.order.currentData()

    def choose_order(self, order: Order) -> None:
        index = self.order.findData(order)
        if index == self.order.currentIndex():
            self.ordered.emit()
        self.order.setCurrentIndex(index)

    def set_kinds(self, kinds: Sequence[str]) -> None:
        offer(self.kind, [("Any class", ""), *((kind, kind) for kind in kinds)])
        # The colors of the strips below the tiles and of the dots on the map: here is what they mean.
        for index, color in enumerate(class_colors(len(kinds)).tolist()):
            pixmap = QPixmap(10, 10)
            pixmap.fill(QColor(*color))
            self.kind.setItemIcon(index + 1, QIcon(pixmap))

    def set_tags(self, tags: Sequence[str]) -> None:
        """The tags to choose from. A chosen one that is no longer there stays until another is chosen."""
        chosen = self.tag.currentData() or ""
        offer(self.tag, [("Any tag", ""), *((tag, tag) for tag in sorted({*tags, chosen} - {""}))])

    def clear(self) -> None:
        with QSignalBlocker(self):
            for box in self._choices:
                box.setCurrentIndex(0)
            for field in (self.search, self.low, self.high):
                field.clear()
        self._typed.stop()
        self.filtered.emit()

    def _on_order(self) -> None:
        self.order.setToolTip(ORDERS[self.order.currentIndex()][2])
        self.ordered.emit()

    def _on_turn(self, turned: bool) -> None:
        self.turn.setText("↑" if turned else "↓")
        self.ordered.emit()


ACTIONS = {
    "keep": ("K", "Keep the selected segments."),
    "drop": ("D", "Drop the selected segments: they are never drawn."),
    "clear": ("N", "Leave the selected segments undecided: neither."),
    "undo": ("U", "Take the last change back: decision, class or tags."),
    "redo": ("Y", "Make the change again that was taken back last."),
}
"""Key and tip by the panel's method. None of the keys is napari's, but D of a shapes layer, which gets it back."""


class PoolActions(QWidget):
    """Keep, drop, clear, undo, redo; another class; tags; all at the border: buttons that call the panel's methods."""

    def __init__(self, panel: Any) -> None:
        super().__init__()
        self._panel = panel
        self.buttons = {
            name: button(f"{name.capitalize()} ({key})", tip, getattr(panel, name))
            for name, (key, tip) in ACTIONS.items()
        }
        self.class_button = button("Class", "Give the selected segments another class.")
        self.class_menu = QMenu(self.class_button)
        self.class_button.setMenu(self.class_menu)
        self.text = line("Tag", "Words of your own, with commas between several.", lambda _text: self._update())
        self.text.setMinimumWidth(60)
        self.text.returnPressed.connect(self._tag)
        self.tag_button = button("Tag", "Tag the selected segments.", self._tag)
        tip = "Take this tag off the selected segments; without one, all of theirs."
        self.untag_button = button("Untag", tip, lambda: panel.untag(self.text.text()))
        self.border_button = button("Drop the border", "Drop the incomplete segments.", panel.drop_border)
        keep, drop, clear, undo, redo = self.buttons.values()
        tags = row(self.class_button, self.text, self.tag_button, self.untag_button, stretch=1)
        lines = even_row(keep, drop, clear), tags, self.border_button, even_row(undo, redo)
        self.setLayout(column(*lines, space=SPACE - 2))
        self._needing_selection = keep, drop, clear, self.class_button, self.untag_button
        self._selected = 0
        self._update()

    def set_kinds(self, kinds: Sequence[str]) -> None:
        self.class_menu.clear()
        for kind in kinds:
            action = self.class_menu.addAction(kind)
            action.triggered.connect(lambda _checked=False, kind=kind: self._panel.relabel(kind))

    def set_counts(self, selected: int, border: int) -> None:
        """How many segments are selected, and how many undecided ones lie at the border."""
        self._selected = selected
        self.border_button.setText(f"Drop {border:,} incomplete segment{'' if border == 1 else 's'} at the border")
        self.border_button.setEnabled(border > 0)
        self.border_button.setToolTip(
            "Drop every segment that the border of its image cuts off, except those that you decided on."
            if border
            else "No undecided segment lies at the border of its image."
        )
        self._update()

    def _update(self) -> None:
        for widget in self._needing_selection:
            widget.setEnabled(self._selected > 0)
        self.tag_button.setEnabled(self._selected > 0 and bool(self.text.text().strip()))

    def _tag(self) -> None:
        if self.tag_button.isEnabled():
            self._panel.tag(self.text.text())
