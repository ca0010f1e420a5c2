"""What a person works on in the Mix dock: a study with its pool, its images and its synthetic images. No widgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from qtpy.QtCore import QObject, Signal

from napari_histomix.datasets import TissueDataset
from napari_histomix.records import HistomixError
from napari_histomix.sampling.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.acts import Change, Subject, items_of
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.frames import APPROVE, REJECT
from napari_histomix.widgets.jobs import JobRunner, sentence_of
from napari_histomix.widgets.mix.jobs import OpenedMix, without_paths


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
        self.dataset: TissueDataset | None = None
        self.curation: Curation | None = None
        self.names: dict[int, str] = {}
        self.decisions: dict[int, str] = {}
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
        self.names, self.decisions, self.kinds = dict(found.names or {}), dict(found.decisions or {}), {}
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

    def counts(self) -> tuple[int, int, int]:
        """How many are approved, rejected, and left."""
        counted = Counter(self.decisions.get(number) for number in self.names)
        return counted[APPROVE], counted[REJECT], len(self.names) - counted[APPROVE] - counted[REJECT]

    # Decisions: on disk first, then on the screen.

    def decide(self, number: int, decision: str) -> bool:
        """Approve or reject a synthetic image; whether that is on disk now."""
        if self.study is None:
            return False
        try:
            self.study.decide("mix", [number], decision)
        except (HistomixError, OSError) as error:
            self._fail(error)
            return False
        self.decisions[number] = decision
        self.decided.emit((number,))
        return True

    def undo(self) -> tuple[int, ...] | None:
        """Take the last decision back, whatever session it is of; whom it concerned, or None where it failed."""
        return self._turn(Study.undo)

    def redo(self) -> tuple[int, ...] | None:
        """Make the decision again that was taken back last; whom it concerned, or None where it failed."""
        return self._turn(Study.redo)

    def _turn(self, way: Callable[[Study, Subject], tuple[Change, ...]]) -> tuple[int, ...] | None:
        if self.study is None:
            return ()
        try:
            concerned = items_of(way(self.study, "mix"))
            now = self.study.decisions("mix") if concerned else self.decisions
        except (HistomixError, OSError) as error:
            self._fail(error)
            return None
        self.decisions = dict(now)
        if concerned:
            self.decided.emit(concerned)
        return concerned

    def _fail(self, error: Exception) -> None:
        self.failed.emit(without_paths(sentence_of(error), self.study.folder if self.study else None))
