"""What a person works on in the Mix dock: a study with its pool, its images and its synthetic images. No widgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from qtpy.QtCore import QObject, Signal

from napari_histomix.datasets import Dataset
from napari_histomix.records import HistomixError
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.study.decision_log import Change, Decided, Subject, items_of
from napari_histomix.widgets.jobs import JobRunner, sentence_of
from napari_histomix.widgets.mix.jobs import MIX, OpenedMix, without_paths
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT


class MixWork(QObject):
    """State of one Mix dock. Its sections change it through its methods and follow its signals."""

    opened = Signal()
    mixes_changed = Signal()
    decided = Signal(object)
    """Numbers of the synthetic images whose decision changed."""
    failed = Signal(str)
    busy_changed = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.study: Study | None = None
        self.pool: SegmentPool | None = None
        self.dataset: Dataset | None = None
        self.curation: Curation | None = None
        self.names: dict[int, str] = {}
        self.said: dict[Subject, dict[int, str]] = {subject: {} for subject in MIX}
        """Decisions, notes and reasons by number."""
        self.kinds: dict[int, str] = {}
        """Classes of the synthetic images that were made or looked at."""
        self._runners: list[JobRunner] = []

    @property
    def numbers(self) -> list[int]:
        """All synthetic images in the order they were made."""
        return list(self.names)

    @property
    def ready(self) -> bool:
        """Whether a study is open."""
        return self.dataset is not None

    def take(self, found: OpenedMix) -> None:
        """Begin with what was opened; everything before is let go (it is on disk)."""
        self.study, self.pool, self.dataset, self.curation = found.study, found.pool, found.dataset, found.curation
        self.names, self.kinds = dict(found.names or {}), {}
        self.said = {subject: dict((found.said or {}).get(subject, {})) for subject in MIX}
        self.opened.emit()

    # One long run at a time.

    def watch(self, runner: JobRunner) -> None:
        """Count a runner's jobs among the long runs."""
        self._runners.append(runner)
        runner.running_changed.connect(lambda _running: self.busy_changed.emit())

    @property
    def busy(self) -> bool:
        """Whether a long run is under way."""
        return any(one.running for one in self._runners)

    def problem(self, own: JobRunner) -> str:
        """Why a long run cannot begin; empty where it can."""
        if not self.ready:
            return "Open a study first."
        if any(one.running for one in self._runners if one is not own):
            return "Another run is under way; wait for it, or cancel it."
        return ""

    # Synthetic images.

    def refresh(self) -> None:
        """Read what the study holds now."""
        if self.study is None:
            return
        try:
            names = dict(self.study.mix_names())
        except (HistomixError, OSError) as error:
            self._fail(error)
            return
        if names != self.names:
            self.names = names
            self.mixes_changed.emit()

    def learn(self, kinds: Mapping[int, str]) -> None:
        """Remember the classes of synthetic images."""
        self.kinds.update(kinds)

    @property
    def approved(self) -> list[int]:
        """What may be exported."""
        return [number for number in self.names if self.decisions.get(number) == APPROVE]

    def counts(self) -> tuple[int, int, int, int]:
        """How many are approved, rejected, left, and deleted."""
        counted = Counter(self.decisions.get(number) for number in self.names)
        return counted[APPROVE], counted[REJECT], counted[None], counted[DELETE]

    # Decisions: on disk first, then on the screen.

    @property
    def decisions(self) -> dict[int, str]:
        """Decision of each synthetic image that has one."""
        return self.said["mix"]

    def decide(self, number: int, decision: str | None) -> bool:
        """Approve, reject or delete a synthetic image, or clear that; whether it is on disk now."""
        return self.say("mix", number, decision)

    def say(self, subject: Subject, number: int, text: str | None) -> bool:
        """Write a decision, a note or reasons down; whether that is on disk now."""
        change = subject, number, text
        return self._take(lambda study: (study.act([change]), (change,))[1]) is not None

    def decided_by(self, number: int) -> Decided | None:
        """The decision on a synthetic image, with who made it and when."""
        try:
            return self.study.decided("mix", number).get(number) if self.study is not None else None
        except (HistomixError, OSError) as error:
            self._fail(error)
            return None

    def undo(self) -> tuple[int, ...] | None:
        """Take the last act back, whatever session it is of; whom it concerned, or None where it failed."""
        return self._take(lambda study: study.undo("mix"))

    def redo(self) -> tuple[int, ...] | None:
        """Do the act again that was taken back last; whom it concerned, or None where it failed."""
        return self._take(lambda study: study.redo("mix"))

    def _take(self, act: Callable[[Study], Sequence[Change]]) -> tuple[int, ...] | None:
        if self.study is None:
            return None
        try:
            changes = act(self.study)
        except (HistomixError, OSError) as error:
            self._fail(error)
            return None
        for subject, number, text in changes:
            if text is None:
                self.said[subject].pop(number, None)
            else:
                self.said[subject][number] = text
        concerned = items_of(changes)
        if concerned:
            self.decided.emit(concerned)
        return concerned

    def _fail(self, error: Exception) -> None:
        self.failed.emit(without_paths(sentence_of(error), self.study.folder if self.study else None))
