"""Who may write to a study, who decides, and what was decided: on disk first, then on the screen. No widgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from qtpy.QtCore import QObject, QSettings, Signal

from napari_histomix.preferences import Preferences, change, preferences
from napari_histomix.records import HistomixError
from napari_histomix.study import Study
from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.database import WriteLock
from napari_histomix.study.decision_log import Entry, Subject, items_of

UNDECIDED = "undecided"
KEEP, DROP = "keep", "drop"
APPROVE, REJECT, DELETE = "approve", "reject", "delete"
WORDS = {
    KEEP: "kept",
    DROP: "dropped",
    APPROVE: "approved",
    REJECT: "rejected",
    DELETE: "deleted",
    UNDECIDED: UNDECIDED,
}
"""What a decision is called on the screen."""


def take_over_reviewer() -> None:
    """Make a preference of the name that early versions kept in Qt's settings, and forget it there."""
    early = QSettings("napari-histomix", "napari-histomix")
    if early.contains("reviewer"):
        name = str(early.value("reviewer", ""))
        with suppress(HistomixError):
            if name and not preferences().reviewer:
                change(reviewer=name)
            early.remove("reviewer")


def nouns(table: ChangeTable) -> tuple[str, str]:
    """What changes are, one and several: nuclei, images, or both."""
    if len(table) and table.in_place.all():
        return "nucleus", "nuclei"
    return ("change", "changes") if table.in_place.any() else ("image", "images")


SUBJECTS: tuple[Subject, ...] = ("change", "change note", "change reasons", "candidate", "layout")
"""What people say in a session; each is kept by item."""


class Decisions(QObject):
    """The decisions of one viewer's study, and its right to write them. Decisions are on disk first, then shown."""

    candidates_decided = Signal(object)
    """Ranks of the candidates whose decision changed."""
    layouts_decided = Signal(object)
    """Numbers of the layouts whose decision changed."""
    changes_decided = Signal(object)
    """Ids of the changes whose decision, note or reasons changed."""
    reviewer_changed = Signal(str)
    preferences_changed = Signal()
    notice = Signal(str)
    """A sentence about something that could not be done."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.study: Study | None = None
        self._locks: dict[Path, WriteLock] = {}
        # Not kept from ending here: a study that nobody has any more lets others write.
        self._studies: WeakSet[Study] = WeakSet()
        # A window that closes lets others write, whoever else still holds a study.
        self.destroyed.connect(partial(_release, self._locks))
        self._set_decisions({})

    def _set_decisions(self, decisions: Mapping[Subject, Mapping[int, str]]) -> None:
        self.decisions: dict[Subject, dict[int, str]]
        """What was decided and written, by subject and item: decisions, notes and reasons of changes, candidates."""
        self.decisions = {subject: dict(decisions.get(subject, {})) for subject in SUBJECTS}
        self._tally: Counter[str] | None = None
        """How often each decision was made; counted anew after one has changed."""

    @property
    def approved(self) -> list[int]:
        return sorted(number for number, decision in self.decisions["change"].items() if decision == APPROVE)

    def decided(self, decision: str) -> int:
        """How many candidates or changes have a decision (keep, drop, approve, reject)."""
        if self._tally is None:
            self._tally = Counter(self.decisions["candidate"].values()) + Counter(self.decisions["change"].values())
        return self._tally[decision]

    # Who may write.

    @property
    def read_only(self) -> bool:
        """Whether the study can be looked at only: another window writes to it."""
        return self.study is not None and self.study.read_only

    def lock(self, folder: Path | str) -> WriteLock:
        """This window's right to write to a study that several of its docks have open."""
        folder = Path(folder).resolve()
        return self._locks.setdefault(folder, WriteLock(folder))

    @property
    def reviewer(self) -> str:
        """Who decides in this window; written down with every decision. Kept from one session to the next."""
        return preferences().reviewer

    def set_reviewer(self, name: str) -> None:
        """Keep who decides as a preference; ``notice`` says where that fails."""
        self.prefer(reviewer=name)

    def prefer(self, **values: Any) -> None:
        """Keep other preferences, which all docks follow from now on; ``notice`` says where that fails."""
        with self._telling():
            self.take_preferences(change(**values))

    def take_preferences(self, wanted: Preferences) -> None:
        """Follow preferences that are kept already."""
        for study in self._studies:
            study.reviewer = wanted.reviewer
        self.reviewer_changed.emit(wanted.reviewer)
        self.preferences_changed.emit()

    def introduce(self, study: Study) -> None:
        """Have a study write down who decides in this window, now and from now on."""
        study.reviewer = self.reviewer
        self._studies.add(study)

    def release(self) -> None:
        """Let other windows write to what this one has open."""
        _release(self._locks)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell what could not be done by ``notice``."""
        try:
            yield
        except (HistomixError, OSError) as error:
            self.notice.emit(str(error))

    def save_settings(self, values: Mapping[str, Any]) -> None:
        """Keep something in the study, where there is one to write to; ``notice`` says where that fails."""
        if self.study is not None and not self.read_only:
            with self._telling():
                self.study.save_settings(values)

    # Decisions: on disk first, then on the screen.

    def decide(self, subject: Subject, items: Iterable[int], decision: str | None) -> None:
        """Decide on candidates or changes, as one act; on disk before the screen shows it."""
        self.act([(subject, item, decision) for item in items])

    def act(self, entries: Sequence[Entry]) -> None:
        """Decide on several items in different ways, as one act; on disk before the screen shows it."""
        if self.study is not None and entries:
            with self._telling():
                self.study.act(entries)
                self._take(entries)

    def take_acted(self, entries: Sequence[Entry]) -> None:
        """Show decisions that are on disk already: of many, a job writes them."""
        self._take(entries)

    def undo(self, subject: Subject) -> tuple[int, ...]:
        """Take the last act back; returns the items that it touched."""
        with self._telling():
            return self._take(self.study.undo(subject)) if self.study is not None else ()
        return ()

    def redo(self, subject: Subject) -> tuple[int, ...]:
        """Do the act again that was taken back last; returns the items that it touched."""
        with self._telling():
            return self._take(self.study.redo(subject)) if self.study is not None else ()
        return ()

    def _take(self, entries: Sequence[Entry]) -> tuple[int, ...]:
        for subject, item, decision in entries:
            if decision is None:
                self.decisions[subject].pop(item, None)
            else:
                self.decisions[subject][item] = decision
        items = items_of(entries)
        if items:
            self._tally = None
            told = {"candidate": self.candidates_decided, "layout": self.layouts_decided}
            told.get(entries[0][0], self.changes_decided).emit(items)
        return items


def _release(locks: Mapping[Path, WriteLock]) -> None:
    for lock in locks.values():
        lock.release(force=True)
