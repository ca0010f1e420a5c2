"""Approve, reject, clear, delete: the change that is shown, those of its image, or all that the filter leaves."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection
from datetime import datetime
from statistics import median

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtGui import QFocusEvent, QKeyEvent
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.methods import method_of
from napari_histomix.records import Change, HistomixError
from napari_histomix.study.decision_log import REASONS, Decided
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, UNDECIDED, WORDS
from napari_histomix.widgets.elements import SPACE, hint, row
from napari_histomix.widgets.review.queue import ReviewQueue

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


REASON_KEYS = {"seam": "S", "stain": "T", "context": "C", "shape": "H", "label": "L"}
REASON_TIPS = {
    "seam": "A border shows.",
    "stain": "A color does not suit what is around it.",
    "context": "What is there does not belong there.",
    "shape": "It is cut off, torn or misshapen.",
    "label": "The outline or the class is wrong.",
}


class NoteEdit(QLineEdit):
    """One line of text: Enter and leaving keep it, Escape takes it back; both hand the keys back."""

    kept = Signal(str)
    left = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setPlaceholderText("Note (N)")
        self.setToolTip("What should be remembered of it. Enter keeps it, Escape takes it back.")
        self.setAccessibleName("Note")
        self._shown = ""
        self._number: int | None = None

    def show_note(self, number: int | None, text: str) -> None:
        """Show the note of an item; what is being typed about the same one stays."""
        typing = number == self._number and self.text().strip() != self._shown
        self._number = number
        if not typing and text != self.text():
            self.setText(text)
        self._shown = text

    def keep(self) -> None:
        """Keep what was typed."""
        text = self.text().strip()
        if text != self._shown:
            self._shown = text
            self.kept.emit(text)

    def event(self, event: QEvent) -> bool:
        """Let Escape come here, not to the panel."""
        if event.type() == QEvent.Type.ShortcutOverride and event.key() == Qt.Key.Key_Escape:
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter keeps, Escape takes back."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.keep()
            self.left.emit()
        elif event.key() == Qt.Key.Key_Escape:
            self.setText(self._shown)
            self.left.emit()
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Keep what was typed before something else is done."""
        self.keep()
        super().focusOutEvent(event)


class DetailsBox(QWidget):
    """Reasons and note of what is shown, and its provenance."""

    reason_toggled = Signal(str)
    note_kept = Signal(str)
    note_left = Signal()
    stay_changed = Signal(bool)
    named = Signal(str)
    """Who decides from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, QPushButton] = {}
        for reason in REASONS:
            button = QPushButton(f"{reason.capitalize()} ({REASON_KEYS[reason]})")
            button.setCheckable(True)
            button.setStyleSheet("QPushButton { padding: 4px 2px; }")
            button.setToolTip(f"{REASON_TIPS[reason]} A reason for what is shown; press again to take it off.")
            button.clicked.connect(lambda _checked=False, reason=reason: self.reason_toggled.emit(reason))
            self.reasons[reason] = button
        self.note = NoteEdit()
        self.note.kept.connect(self.note_kept)
        self.note.left.connect(self.note_left)
        self.stay = QCheckBox("Stay (K)")
        self.stay.setToolTip("After a rejection, stay, so that its reasons can be given afterwards.")
        self.stay.toggled.connect(self.stay_changed)
        self.provenance = hint("")
        self.provenance.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.reviewer = QLineEdit()
        self.reviewer.setPlaceholderText("Your name (P)")
        self.reviewer.setToolTip("Written down with each of your decisions; kept for the next time.")
        self.reviewer.setAccessibleName("Reviewer")
        self.reviewer.editingFinished.connect(lambda: self.named.emit(self.reviewer.text().strip()))
        self.reviewer.returnPressed.connect(self.note_left)
        reasons = row(*self.reasons.values())
        reasons.setSpacing(SPACE // 2)
        for index in range(reasons.count()):
            reasons.setStretch(index, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(reasons)
        column.addLayout(row(self.note, self.stay, stretch=0))
        column.addWidget(self.provenance)
        column.addWidget(self.reviewer)

    def show_marks(self, number: int | None, reasons: Collection[str], note: str) -> None:
        """Show what was said of an item."""
        for reason, button in self.reasons.items():
            button.setChecked(reason in reasons)
        self.note.show_note(number, note)

    def set_stay(self, stay: bool) -> None:
        """Show what was chosen before."""
        with QSignalBlocker(self.stay):
            self.stay.setChecked(stay)

    def allow(self, possible: bool, why_not: str = "") -> None:
        """Whether anything can be said."""
        for reason, button in self.reasons.items():
            button.setEnabled(possible)
            if why_not:
                button.setToolTip(f"{REASON_TIPS[reason]} {why_not}")
        self.note.setReadOnly(not possible)
        self.reviewer.setEnabled(not why_not)


def provenance(
    change: Change,
    sampler: str,
    name: Callable[[int], str],
    decided: Decided | None,
    decision: str,
    short: Callable[[str], str] = str,
) -> str:
    """Where a change comes from, how well it fits, who decided on it and when.

    Parameters
    ----------
    change : Change
    sampler : str
        That painted in it; empty where none did.
    name : callable
        Name of a class number.
    decided : Decided, optional
        By whom and when, where that is known.
    decision : str
    short : callable
        Makes the name of an image short.
    """
    facts = (
        *(_of_nucleus(change, name, short) if change.in_place else _of_image(change, short)),
        "" if math.isnan(change.score) else f"fit {change.score:.0f}",
        title_of(change.method),
        f"{sampler} sampler" if sampler else "",
        f"number {change.id + 1}",
        who_and_when(decided) if decided is not None else WORDS[decision],
    )
    return " · ".join(filter(None, facts))


def _of_nucleus(change: Change, name: Callable[[int], str], short: Callable[[str], str]) -> tuple[str, ...]:
    added = ", ".join(f"{name(kind)} #{number}" for number, kind in change.added.items())
    target, donor = change.target, change.donor
    replaced = target is not None and target.item > 0
    where = f"in place of {name(target.type)} #{target.item}" if target is not None and replaced else "on free tissue"
    return (
        f"{added} {where}".strip(),
        short(change.image),
        f"donor #{donor.item} of {short(donor.image)}" if donor is not None else "",
    )


def _of_image(change: Change, short: Callable[[str], str]) -> tuple[str, ...]:
    shares = sorted((change.class_shares or {}).items(), key=lambda pair: -pair[1])
    mixed = ", ".join(f"{kind} {share:.0%}" for kind, share in shares) if len(shares) > 1 else ""
    donors = [source for source in change.sources if source.role == "donor"]
    return (
        mixed or "".join(kind for kind, _ in shares),
        f"made of {short(change.image)}" if change.image else "a new image",
        f"donor {short(donors[0].image)}" if len(donors) == 1 else f"{len(donors)} donors" if donors else "",
        f"{change.new_area:.0%} new" if change.image else "",
    )


def title_of(method: str) -> str:
    """What people call a method; its name where it is not installed any more."""
    try:
        return method_of(method).title
    except HistomixError:
        return method


def who_and_when(decided: Decided) -> str:
    """A decision in words, at the time of this computer's clock."""
    when = datetime.fromisoformat(decided.made).astimezone()
    by = f" by {decided.who}" if decided.who else ""
    return f"{WORDS[decided.decision]}{by}, {when:%d %b %Y %H:%M}"


BREAK = 60.0
"""Seconds without a decision after which a person is taken to have paused."""
LATEST = 30
"""Decisions that the pace is taken from."""
FEW = 3


class Pace:
    """Seconds that a person takes for each decision: the median of the latest ones.

    Parameters
    ----------
    clock : callable
        Seconds since any time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=LATEST)

    def tick(self) -> None:
        """A decision was made."""
        now = self._clock()
        if self._last is not None and now - self._last < BREAK:
            self._gaps.append(now - self._last)
        self._last = now

    def rest(self) -> None:
        """The person turns to something else."""
        self._last = None

    @property
    def seconds(self) -> float | None:
        """For each decision; None as long as there were too few."""
        return median(self._gaps) if len(self._gaps) >= FEW else None


class GoalBar(QWidget):
    """A bar of progress, the number wanted, and the pace."""

    goal_changed = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.pace = Pace()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.goal = QSpinBox()
        self.goal.setRange(0, 1_000_000)
        self.goal.setSpecialValueText("all reviewed")
        self.goal.setSuffix(" approved")
        self.goal.setToolTip("How many approved ones you want. At 0, the bar shows how many are reviewed.")
        self.goal.setAccessibleName("Goal")
        self.goal.setKeyboardTracking(False)
        self.words = QLabel()
        line = QHBoxLayout()
        line.setSpacing(SPACE - 2)
        line.addWidget(QLabel("Goal"))
        line.addWidget(self.goal)
        line.addStretch(1)
        line.addWidget(self.words)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addWidget(self.bar)
        column.addLayout(line)
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(300)
        self._late.timeout.connect(lambda: self.goal_changed.emit(self.goal.value()))
        self.goal.valueChanged.connect(lambda _value: self._late.start())

    def begin(self, goal: int) -> None:
        """Begin with another study, for which a goal may have been set before."""
        self.pace = Pace()
        with QSignalBlocker(self.goal):
            self.goal.setValue(goal)

    def show_counts(self, undecided: int, approved: int, rejected: int) -> None:
        """Show how far the review is."""
        goal = self.goal.value()
        done, total = (approved, goal) if goal else (approved + rejected, undecided + approved + rejected)
        self.bar.setMaximum(max(total, 1))
        self.bar.setValue(min(done, max(total, 1)))
        self.words.setText(self._words(goal, undecided, approved, rejected))

    def _words(self, goal: int, undecided: int, approved: int, rejected: int) -> str:
        if goal and approved >= goal:
            return "Goal reached"
        if not undecided:
            return f"{goal - approved:,} more needed" if goal else "All reviewed"
        seconds = self.pace.seconds
        if seconds is None:
            return f"{undecided:,} undecided"
        left = to_look_at(goal, undecided, approved, rejected)
        return f"{seconds:.1f} s each, about {duration(left * seconds)} left"


def to_look_at(goal: int, undecided: int, approved: int, rejected: int) -> int:
    """How many undecided ones have to be looked at until the goal is reached, as many being approved as so far."""
    if not goal or not approved:
        return undecided
    share = approved / (approved + rejected)
    return min(round((goal - approved) / share), undecided)


def duration(seconds: float) -> str:
    """A time in the words of a person."""
    if seconds < 60:
        return "a minute"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
