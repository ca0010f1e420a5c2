"""Approve, reject, clear, delete: the change that is shown, those of its image, or all that the filter leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QButtonGroup, QPushButton, QVBoxLayout, QWidget

from napari_histomix.widgets.elements import SPACE, row
from napari_histomix.widgets.review.queue import ReviewQueue
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT, UNDECIDED

ONE, IMAGE, SHOWN = "one", "image", "shown"
SCOPES = {ONE: "This {noun} (E)", IMAGE: "Whole image (I)", SHOWN: "All shown (G)"}
TIPS = {
    ONE: "Decide on the {noun} that is shown.",
    IMAGE: "Show the whole image, and decide on all of its undecided nuclei at once, of those that the filter leaves.",
    SHOWN: "Decide on all {nouns} that the filter leaves at once.",
}
DECISIONS = (
    (APPROVE, "Approve", "A, 1", "This may be exported."),
    (
        REJECT,
        "Reject",
        "R, 2",
        "Leave it out of every export; in a real image, its own pixels and labels return at once.",
    ),
    (UNDECIDED, "Clear", "3", "Take approval, rejection or deletion back: undecided again."),
    (DELETE, "Delete", "4", "Take it out of this list too; Undo brings it back, and so does Clear."),
)
FILLED = (
    "QPushButton {{ background-color: {color}; color: white; font-weight: 600; padding: 7px 2px; border-radius: 4px; }}"
    "QPushButton:disabled {{ background-color: #7a808a; color: #d5d8dc; }}"
)


class DecidingBox(QWidget):
    """What is decided on, the decisions with how many they concern, and undo."""

    decided = Signal(str)
    """A decision, or "undecided"."""
    undo = Signal()
    redo = Signal()
    moved = Signal(int)
    """1 to the next, -1 to the one before."""
    moved_on = Signal()
    """To the next that is undecided."""
    scope_changed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.scopes: dict[str, QPushButton] = {}
        group = QButtonGroup(self)
        for scope in SCOPES:
            button = QPushButton()
            button.setCheckable(True)
            group.addButton(button)
            button.toggled.connect(lambda on, scope=scope: self.scope_changed.emit(scope) if on else None)
            self.scopes[scope] = button
        self.buttons: dict[str, QPushButton] = {}
        for decision, text, keys, _ in DECISIONS:
            button = self._button(f"{text} ({keys})", lambda decision=decision: self.decided.emit(decision))
            self.buttons[decision] = button
        self.buttons[APPROVE].setStyleSheet(FILLED.format(color="#1e8449"))
        self.buttons[REJECT].setStyleSheet(FILLED.format(color="#b03a2e"))
        self.undo_button = self._button("Undo (Z)", self.undo.emit)
        self.redo_button = self._button("Redo (Y)", self.redo.emit)
        self.undo_button.setToolTip("Take the last decision, reason or note back (Z, U or Ctrl+Z).")
        self.redo_button.setToolTip("Do again what was taken back last (Y or Ctrl+Shift+Z).")
        self.previous_button = self._button("◀ Previous (←)", lambda: self.moved.emit(-1))
        self.next_button = self._button("Next (→) ▶", lambda: self.moved.emit(1))
        self.on_button = self._button("Next undecided (J)", self.moved_on.emit)
        self.on_button.setToolTip("Go to the next that is undecided.")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        lines = (
            tuple(self.scopes.values()),
            (self.buttons[APPROVE], self.buttons[REJECT]),
            (self.buttons[UNDECIDED], self.buttons[DELETE], self.undo_button, self.redo_button),
            (self.previous_button, self.on_button, self.next_button),
        )
        for line in lines:
            layout = row(*line)
            for index in range(layout.count()):
                layout.setStretch(index, 1)
            column.addLayout(layout)
        self.scopes[ONE].setChecked(True)

    @staticmethod
    def _button(text: str, action: Callable[[], object]) -> QPushButton:
        button = QPushButton(text)
        button.clicked.connect(lambda _checked=False: action())
        return button

    @property
    def scope(self) -> str:
        """What a decision concerns."""
        return next(scope for scope, button in self.scopes.items() if button.isChecked())

    def set_scope(self, scope: str) -> None:
        """Let decisions concern what is shown, all in its image, or all that the filter leaves."""
        if self.scopes[scope].isEnabled():
            self.scopes[scope].setChecked(True)

    def rows(self, queue: ReviewQueue) -> NDArray[np.intp]:
        """Rows that a decision concerns."""
        if self.scope == IMAGE:
            return queue.undecided_here()
        if self.scope == SHOWN:
            return queue.shown
        return np.array([] if queue.row is None else [queue.row], np.intp)

    def show_scopes(self, queue: ReviewQueue) -> None:
        """Call what is decided on by its name; an image of its own holds nothing else to decide on."""
        for scope, button in self.scopes.items():
            button.setText(SCOPES[scope].format(noun=queue.noun))
            button.setToolTip(TIPS[scope].format(noun=queue.noun, nouns=queue.rows.words[1]))
        self.scopes[IMAGE].setVisible(bool(queue.rows.table.in_place.any()))
        self.scopes[IMAGE].setEnabled(queue.in_place)
        if self.scope == IMAGE and not queue.in_place:
            self.set_scope(ONE)

    def allow(self, count: int, queue: ReviewQueue, why_not: str = "") -> None:
        """Let a decision concern so many changes, or say why it cannot; let the arrows go where there is a change."""
        several = self.scope != ONE
        for decision, text, keys, tip in DECISIONS:
            button = self.buttons[decision]
            button.setText(f"{text} {count:,} ({keys})" if several else f"{text} ({keys})")
            # In a whole image, it is the undecided ones that are decided on: there is nothing to clear.
            useless = decision == UNDECIDED and self.scope == IMAGE
            button.setEnabled(count > 0 and not why_not and not useless)
            button.setToolTip(why_not or (f"{tip} One Undo takes all {count:,} back." if several else tip))
        for button in (self.undo_button, self.redo_button):
            button.setEnabled(not why_not)
        self.previous_button.setEnabled(queue.can_step(-1))
        self.next_button.setEnabled(queue.can_step(1))
