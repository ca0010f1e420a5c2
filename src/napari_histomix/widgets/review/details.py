"""Why a change is not good, a note about it, and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from datetime import datetime

from qtpy.QtCore import QEvent, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QFocusEvent, QKeyEvent
from qtpy.QtWidgets import QCheckBox, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_histomix.methods import method_of
from napari_histomix.records import Change, HistomixError
from napari_histomix.study.store import REASONS, Decided
from napari_histomix.widgets.elements import SPACE, hint, row
from napari_histomix.widgets.tables import WORDS

REASON_KEYS = {"seam": "S", "stain": "T", "context": "C", "shape": "H", "label": "L"}
TIPS = {
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
            button.setToolTip(f"{TIPS[reason]} A reason for what is shown; press again to take it off.")
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
                button.setToolTip(f"{TIPS[reason]} {why_not}")
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
