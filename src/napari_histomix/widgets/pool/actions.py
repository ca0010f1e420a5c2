"""What can be done with the selected segments of a pool: the buttons below the gallery."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_histomix.widgets.elements import SPACE, row

KEYS = {"keep": "K", "drop": "D", "clear": "N", "undo": "U", "redo": "Y"}
"""None of them is napari's, but D of a shapes layer, which gets it back."""


class PoolActions(QWidget):
    """Keep, drop, clear, undo, redo; another class; tags; all at the border."""

    keep = Signal()
    drop = Signal()
    clear = Signal()
    undo = Signal()
    redo = Signal()
    drop_border = Signal()
    relabel = Signal(str)
    tag = Signal(str)
    untag = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.keep_button = _button("Keep (K)", "Keep the selected segments.", self.keep)
        self.drop_button = _button("Drop (D)", "Drop the selected segments: they are never drawn.", self.drop)
        self.clear_button = _button("Clear (N)", "Leave the selected segments undecided: neither.", self.clear)
        self.undo_button = _button("Undo (U)", "Take the last change back: decision, class or tags.", self.undo)
        self.redo_button = _button("Redo (Y)", "Make the change again that was taken back last.", self.redo)
        decisions = row(self.keep_button, self.drop_button, self.clear_button)
        turns = row(self.undo_button, self.redo_button)
        for line in (decisions, turns):
            for index in range(line.count()):
                line.setStretch(index, 1)
        self.class_button = QPushButton("Class")
        self.class_button.setToolTip("Give the selected segments another class.")
        self.class_menu = QMenu(self.class_button)
        self.class_button.setMenu(self.class_menu)
        self.text = QLineEdit()
        self.text.setPlaceholderText("Tag")
        self.text.setToolTip("Words of your own, with commas between several.")
        self.text.setMinimumWidth(60)
        self.text.returnPressed.connect(self._tag)
        self.text.textChanged.connect(lambda _text: self._update())
        self.tag_button = _button("Tag", "Tag the selected segments.", None)
        self.tag_button.clicked.connect(self._tag)
        self.untag_button = _button("Untag", "Take this tag off the selected segments; without one, all of theirs.")
        self.untag_button.clicked.connect(lambda: self.untag.emit(self.text.text()))
        self.border_button = _button("Drop the border", "", self.drop_border)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(decisions)
        column.addLayout(row(self.class_button, self.text, self.tag_button, self.untag_button, stretch=1))
        column.addWidget(self.border_button)
        column.addLayout(turns)
        self._selected = 0
        self._update()

    def set_kinds(self, kinds: Sequence[str]) -> None:
        """The classes to choose from."""
        self.class_menu.clear()
        for kind in kinds:
            self.class_menu.addAction(kind).triggered.connect(lambda _=False, kind=kind: self.relabel.emit(kind))

    def set_counts(self, selected: int, border: int) -> None:
        """How many are selected, and how many undecided ones lie at the border."""
        self._selected = selected
        one = border == 1
        self.border_button.setText(f"Drop {border:,} incomplete segment{'' if one else 's'} at the border")
        self.border_button.setEnabled(border > 0)
        self.border_button.setToolTip(
            "Drop every segment that the border of its image cuts off, except those that you decided on."
            if border
            else "No undecided segment lies at the border of its image."
        )
        self._update()

    def _update(self) -> None:
        for one in (self.keep_button, self.drop_button, self.clear_button, self.class_button, self.untag_button):
            one.setEnabled(self._selected > 0)
        self.tag_button.setEnabled(self._selected > 0 and bool(self.text.text().strip()))

    def _tag(self) -> None:
        if self.tag_button.isEnabled():
            self.tag.emit(self.text.text())


def _button(text: str, tip: str, signal: Signal | None = None) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    if signal is not None:
        button.clicked.connect(lambda: signal.emit())
    return button
