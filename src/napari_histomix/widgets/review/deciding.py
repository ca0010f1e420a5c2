"""Decisions, reasons and notes on what is under review; where it comes from; goal and pace."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QSignalBlocker, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QButtonGroup, QLineEdit, QProgressBar, QWidget

from napari_histomix.methods import method_of
from napari_histomix.preferences import ask_reviewer
from napari_histomix.records import Change, HistomixError
from napari_histomix.study.decision_log import REASONS, Decided
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import time_words
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, UNDECIDED, WORDS
from napari_histomix.widgets.review.queue import ReviewQueue

if TYPE_CHECKING:
    from napari_histomix.widgets.review.grid import ReviewGrid
    from napari_histomix.widgets.review.panel import ReviewPanel

ONE, IMAGE, SHOWN, SELECTED = "one", "image", "shown", "selected"
SCOPES = {
    ONE: ("This {noun} (E)", "Decide on the {noun} that is shown."),
    IMAGE: (
        "Whole image (I)",
        "Show the whole image, and decide on all of its undecided nuclei at once, of those that the filter leaves.",
    ),
    SHOWN: ("All shown (G)", "Decide on all {nouns} that the filter leaves at once."),
}
BUTTONS = (
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
COLORS = {APPROVE: ui.GOOD, REJECT: ui.BAD, DELETE: "#8a8f99"}
FILLED = (
    "QPushButton {{ background-color: {color}; color: white; font-weight: 600; padding: 7px 2px; border-radius: 4px; }}"
    "QPushButton:disabled {{ background-color: #7a808a; color: #d5d8dc; }}"
)
REASON_KEYS = {"seam": "S", "stain": "T", "context": "C", "shape": "H", "label": "L"}
REASON_TIPS = {
    "seam": "A border shows.",
    "stain": "A color does not suit what is around it.",
    "context": "What is there does not belong there.",
    "shape": "It is cut off, torn or misshapen.",
    "label": "The outline or the class is wrong.",
}
STAY = "review_stay"
"""Under which the study keeps whether a person stays."""
BREAK = 60.0
"""Seconds without a decision after which a person is taken to have paused."""
LATEST, FEWEST = 30, 3
"""Decisions that the pace is taken from, at most and at least."""


class DecidingBox(QWidget):
    """What is decided on, the decisions with how many they concern, and undo."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__()
        self.scopes = {scope: ui.button("", checkable=True) for scope in SCOPES}
        self.scopes[ONE].setChecked(True)
        group = QButtonGroup(self)
        for scope_button in self.scopes.values():
            group.addButton(scope_button)
            scope_button.toggled.connect(lambda checked: panel.on_scope() if checked else None)
        self.buttons = {
            decision: ui.button("", pressed=lambda _checked=False, decision=decision: panel.decide(decision))
            for decision, *_ in BUTTONS
        }
        self.buttons[APPROVE].setStyleSheet(FILLED.format(color="#1e8449"))
        self.buttons[REJECT].setStyleSheet(FILLED.format(color="#b03a2e"))
        self.undo_button = ui.button(
            "Undo (Z)", "Take the last decision, reason or note back (Z, U or Ctrl+Z).", panel.undo
        )
        self.redo_button = ui.button("Redo (Y)", "Do again what was taken back last (Y or Ctrl+Y).", panel.redo)
        self.previous_button = ui.button(
            "◀ Previous (←)", "Go to the one before, of those that the filter leaves.", lambda: panel.move_by(-1)
        )
        self.next_button = ui.button(
            "Next (→) ▶", "Go to the next one, of those that the filter leaves.", lambda: panel.move_by(1)
        )
        on_button = ui.button("Next undecided (J)", "Go to the next that is undecided.", panel.move_on)
        self.grid: ReviewGrid | None = None
        """In which a person selects what is decided on, while it is shown."""
        self.selected = ui.label(wrap=False, style="font-weight: 600;", yields=True)
        self.selected.hide()
        lines = (
            ui.even_row(*self.scopes.values(), self.selected),
            ui.even_row(self.buttons[APPROVE], self.buttons[REJECT]),
            ui.even_row(self.buttons[UNDECIDED], self.buttons[DELETE], self.undo_button, self.redo_button),
            ui.even_row(self.previous_button, on_button, self.next_button),
        )
        self.setLayout(ui.column(*lines, space=ui.SPACE - 2))

    def choose_in(self, grid: ReviewGrid | None) -> None:
        """Decide on what is selected in a grid; None: on what the scope says again."""
        self.grid = grid
        self.selected.setVisible(grid is not None)
        for scope_button in self.scopes.values():
            scope_button.setVisible(grid is None)

    @property
    def scope(self) -> str:
        if self.grid is not None:
            return SELECTED
        return next(scope for scope, scope_button in self.scopes.items() if scope_button.isChecked())

    def set_scope(self, scope: str) -> None:
        if self.grid is None and self.scopes[scope].isEnabled():
            self.scopes[scope].setChecked(True)

    def rows(self, queue: ReviewQueue) -> NDArray[np.intp]:
        """Rows that a decision concerns, in order."""
        if self.grid is not None:
            return self.grid.rows
        if self.scope == IMAGE:
            return queue.undecided_here()
        if self.scope == SHOWN:
            return queue.shown
        return np.array([] if queue.row is None else [queue.row], np.intp)

    def refresh(self, queue: ReviewQueue, why_not: str) -> None:
        """Say what a decision would concern, or why none is possible; let the arrows go where there is a change."""
        for scope, (text, tip) in SCOPES.items():
            self.scopes[scope].setText(text.format(noun=queue.noun))
            self.scopes[scope].setToolTip(tip.format(noun=queue.noun, nouns=queue.words[1]))
        # An image of its own holds nothing else to decide on.
        self.scopes[IMAGE].setVisible(self.grid is None and bool(queue.table.in_place.any()))
        self.scopes[IMAGE].setEnabled(queue.in_place)
        if self.scope == IMAGE and not queue.in_place:
            self.set_scope(ONE)
        count = len(self.rows(queue))
        together = self.scope in (IMAGE, SHOWN) or (self.scope == SELECTED and count > 1)
        self.selected.setText(f"{count:,} of {len(queue):,} selected · Ctrl+A selects all")
        for decision, text, keys, tip in BUTTONS:
            decision_button = self.buttons[decision]
            decision_button.setText(f"{text} {count:,} ({keys})" if together else f"{text} ({keys})")
            # In a whole image, it is the undecided ones that are decided on: there is nothing to clear.
            useless = decision == UNDECIDED and self.scope == IMAGE
            decision_button.setEnabled(count > 0 and not why_not and not useless)
            decision_button.setToolTip(why_not or (f"{tip} One Undo takes all {count:,} back." if together else tip))
        self.undo_button.setEnabled(not why_not)
        self.redo_button.setEnabled(not why_not)
        self.previous_button.setEnabled(queue.following(-1) is not None)
        self.next_button.setEnabled(queue.following() is not None)


class NoteEdit(QLineEdit):
    """One line of text: Enter and leaving keep it, Escape takes it back; both hand the keys back to the panel."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__()
        self.panel = panel
        self.setPlaceholderText("Note (N)")
        self.setToolTip("What should be remembered of it. Enter keeps it, Escape takes it back.")
        self.setAccessibleName("Note")
        self._shown = ""
        self._id: int | None = None
        self.editingFinished.connect(self.keep)
        self.returnPressed.connect(panel.setFocus)

    def show_note(self, id: int | None, text: str) -> None:
        """Show the note of a change; what is being typed about the same change stays."""
        typing = id == self._id and self.text().strip() != self._shown
        self._id = id
        if not typing and text != self.text():
            self.setText(text)
        self._shown = text

    def keep(self) -> None:
        text = self.text().strip()
        if text != self._shown:
            self._shown = text
            self.panel.write("change note", text)

    def event(self, event: QEvent) -> bool:
        # Escape comes here, not to the panel's shortcut.
        if event.type() == QEvent.Type.ShortcutOverride and event.key() == Qt.Key.Key_Escape:
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape:
            self.setText(self._shown)
            self.panel.setFocus()
        else:
            super().keyPressEvent(event)


class NameBox(QWidget):
    """Asks once who decides, after the first decision, and stands in nobody's way: decisions go on without a name."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__()
        self.panel = panel
        self.line = ui.line("Your name", "Written down with each of your decisions from now on; Preferences keeps it.")
        self.line.setAccessibleName("Your name")
        self.line.returnPressed.connect(self.keep)
        keep = ui.button("Keep", "Write this name down with every decision from now on.", self.keep)
        go_on = ui.button("No name", "Decide without a name; P, or Preferences, gives one later.", self._close)
        note = ui.Note("Who decides? Your decisions have no name on them yet.")
        self.setLayout(ui.column(note, ui.row(self.line, keep, go_on, stretch=0), space=ui.SPACE // 2))
        ui.narrowable(self)
        self.hide()
        panel.session.reviewer_changed.connect(lambda name: self.hide() if name else None)

    def ask(self) -> None:
        """Ask, where nobody is named and nobody was asked before."""
        if ask_reviewer():
            self.show()

    def keep(self) -> None:
        if name := self.line.text().strip():
            self.panel.session.set_reviewer(name)
            self._close()

    def _close(self) -> None:
        self.hide()
        self.panel.setFocus()


class DetailsBox(QWidget):
    """Reasons and note of what is shown, and its provenance."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__()
        self.reasons = {
            reason: ui.button(
                f"{reason.capitalize()} ({REASON_KEYS[reason]})",
                f"{REASON_TIPS[reason]} A reason for what is shown or selected; press again to take it off.",
                lambda _checked=False, reason=reason: panel.toggle_reason(reason),
                checkable=True,
            )
            for reason in REASONS
        }
        for reason_button in self.reasons.values():
            reason_button.setStyleSheet("QPushButton { padding: 4px 2px; }")
        self.note = NoteEdit(panel)
        self.stay = ui.check(
            "Stay (K)",
            "After a rejection, stay, so that its reasons can be given afterwards.",
            lambda stay: panel.session.save_settings({STAY: stay}),
        )
        self.provenance = ui.hint("")
        self.provenance.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.reviewer = ui.line("Your name (P)", "Written down with each of your decisions; kept for the next time.")
        self.reviewer.setAccessibleName("Reviewer")
        self.reviewer.editingFinished.connect(lambda: panel.session.set_reviewer(self.reviewer.text().strip()))
        self.reviewer.returnPressed.connect(panel.setFocus)
        panel.session.reviewer_changed.connect(self.reviewer.setText)
        reasons = ui.row(*self.reasons.values())
        reasons.setSpacing(ui.SPACE // 2)
        note = ui.row(self.note, self.stay, stretch=0)
        self.setLayout(ui.column(reasons, note, self.provenance, self.reviewer, space=ui.SPACE - 2))
        ui.narrowable(self)

    def refresh(self, queue: ReviewQueue, note: str, why_not: str) -> None:
        """Show what was said of the change under review; ``why_not`` where nothing can be said."""
        possible = queue.id is not None and not why_not
        for reason, reason_button in self.reasons.items():
            reason_button.setChecked(reason in queue.reasons)
            reason_button.setEnabled(possible)
            if why_not:
                reason_button.setToolTip(f"{REASON_TIPS[reason]} {why_not}")
        self.note.show_note(queue.id, note)
        self.note.setReadOnly(not possible)
        self.reviewer.setEnabled(not why_not)


def provenance(
    change: Change,
    name: Callable[[int], str],
    decided: Decided | None,
    decision: str,
    short: Callable[[str], str] = str,
) -> str:
    """Where a change comes from, how well it fits, who decided on it and when.

    ``name`` gives the name of a class number, ``short`` makes the name of an image short.
    """
    sampler = change.provenance.get("sampler")
    facts = (
        *(_of_nucleus(change, name, short) if change.in_place else _of_image(change, short)),
        "" if math.isnan(change.score) else f"fit {change.score:.0f}",
        title_of(change.method),
        f"{sampler} sampler" if sampler else "",
        f"number {change.id + 1}",
        _who_and_when(decided) if decided is not None else WORDS[decision],
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
    labels = next((source for source in change.sources if source.role == "labels"), None)
    return (
        mixed or "".join(kind for kind, _ in shares),
        f"made of {short(change.image)}" if change.image else "a new image",
        f"labels of {short(labels.image)}" if labels is not None else "",
        f"donor {short(donors[0].image)}" if len(donors) == 1 else f"{len(donors)} donors" if donors else "",
        f"{change.new_area:.0%} new" if change.image else "",
    )


def title_of(method: str) -> str:
    """What people call a method; its name where it is not installed any more."""
    try:
        return method_of(method).title
    except HistomixError:
        return method


def _who_and_when(decided: Decided) -> str:
    when = datetime.fromisoformat(decided.made).astimezone()
    by = f" by {decided.who}" if decided.who else ""
    return f"{WORDS[decided.decision]}{by}, {when:%d %b %Y %H:%M}"


class Pace:
    """Seconds that a person takes for each decision: the median of the latest ones, by a clock in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=LATEST)

    def tick(self) -> None:
        now = self._clock()
        if self._last is not None and now - self._last < BREAK:
            self._gaps.append(now - self._last)
        self._last = now

    def rest(self) -> None:
        self._last = None

    @property
    def seconds(self) -> float | None:
        """For each decision; None as long as there were too few."""
        return median(self._gaps) if len(self._gaps) >= FEWEST else None


class GoalBar(QWidget):
    """A bar of progress, the number wanted, and the pace."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__()
        self.pace = Pace()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        saving = ui.later(self, 300, lambda: panel.keep_goal(self.goal.value()))
        self.goal = ui.number(
            0,
            1_000_000,
            0,
            suffix=" approved",
            special="all reviewed",
            tip="How many approved ones you want. At 0, the bar shows how many are reviewed.",
            changed=lambda _: saving.start(),
            name="Goal",
        )
        self.goal.setKeyboardTracking(False)
        self.words = ui.label(wrap=False, right=True, yields=True)
        goal = ui.row(ui.label("Goal", wrap=False), self.goal, self.words, stretch=2)
        self.setLayout(ui.column(self.bar, goal, space=ui.SPACE - 2))

    def begin(self, goal: int) -> None:
        self.pace = Pace()
        with QSignalBlocker(self.goal):
            self.goal.setValue(goal)

    def show_counts(self, undecided: int, approved: int, rejected: int) -> None:
        goal = int(self.goal.value())
        done, total = (approved, goal) if goal else (approved + rejected, undecided + approved + rejected)
        self.bar.setMaximum(max(total, 1))
        self.bar.setValue(min(done, max(total, 1)))
        each = ""
        if goal and approved >= goal:
            words = "Goal reached"
        elif not undecided:
            words = f"{goal - approved:,} more needed" if goal else "All reviewed"
        elif (seconds := self.pace.seconds) is None:
            words = f"{undecided:,} undecided"
        else:
            left = to_look_at(goal, undecided, approved, rejected)
            words, each = f"about {time_words(left * seconds)} left", f", {seconds:.1f} s each"
        self.words.setText(words)
        self.words.setToolTip(words + each)


def to_look_at(goal: int, undecided: int, approved: int, rejected: int) -> int:
    """How many undecided ones have to be looked at until the goal is reached, as many being approved as so far."""
    if not goal or not approved:
        return undecided
    share = approved / (approved + rejected)
    return min(round((goal - approved) / share), undecided)
