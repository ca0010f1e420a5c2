"""What one viewer's person is working on: dataset, study, candidates, changes and every decision. No widgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_histomix.datasets import SAMPLE_MAJORS, SAMPLE_RARE, Dataset, Survey, sample_folder
from napari_histomix.datasets.edits import Differences
from napari_histomix.datasets.splits import with_splits
from napari_histomix.datasets.writing import safe_name
from napari_histomix.jobs import Outcome
from napari_histomix.logs import begin as begin_log
from napari_histomix.methods import DEFAULT, method_names, method_of
from napari_histomix.records import Candidate, Change, HistomixError, Job
from napari_histomix.study import Study
from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets import loading
from napari_histomix.widgets.decisions import DELETE, DROP, KEEP, REJECT, Decisions, take_over_reviewer
from napari_histomix.widgets.elements import free_folder
from napari_histomix.widgets.jobs import JobRunner, log_errors
from napari_histomix.widgets.loading import Candidates, Found, Ground, ImageReader, Opened, Work
from napari_histomix.widgets.loading_ahead import load_networks_ahead
from napari_histomix.widgets.preferences_page import PreferencesPage
from napari_histomix.widgets.turns import Turns

NAME = "napari-histomix-session"
NOT_TAKEN = "not taken"
"""What the words on hand edits end with, among the titles of what is under way."""
OBJECTS = 4096
"""Changes that are kept as objects once they were asked for; their pixels are kept by the study."""


class Session(Decisions):
    """State of one viewer. Panels change it through its methods and follow its signals.

    Long work is handed out as jobs (``*_job``), which touch nothing here; a panel's runner runs them in a thread and
    gives what they return to the matching ``take_*`` method, on the main thread.
    """

    dataset_changed = Signal()
    classes_changed = Signal()
    splits_changed = Signal()
    study_changed = Signal()
    method_changed = Signal()
    candidates_changed = Signal()
    outcomes_changed = Signal()
    """A run has come to its end: candidates may have become something, or been refused."""
    hand_edits_changed = Signal()
    """Other nuclei than before differ from the data: painted, changed or erased by hand, and not taken."""
    changes_changed = Signal()
    """There are other changes than before: another study, or a run that was taken back."""
    changes_made = Signal(object)
    """Ids of changes that were added."""
    image_changed = Signal(str)
    place_requested = Signal(str, float, float)
    """Image, row, column a person wants to see."""
    page_requested = Signal(str)
    """A page of the dock a person is led to: project, make, review, results, or a tab of one, as in ``make/pool``."""
    under_way_changed = Signal(bool)
    """A job that is a person's work began or ended."""
    reader_test_requested = Signal(object)
    """Folder of a reader test that a person wants to see."""
    model_changed = Signal()
    pool_changed = Signal(object, object)
    """Folder of the study with a segment pool that one dock opened, or whose pool it changed; and that dock."""
    pool_image_wanted = Signal(str)
    """Name of an image of that pool a person wants to see."""

    def __init__(self, parent: QObject | None = None, home: Path | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(NAME)
        self.home = home or Path.home() / "HistoMix"
        self.reader = ImageReader(self)
        self.reader.failed.connect(lambda _name, sentence: self.notice.emit(sentence))
        self.reader.loaded.connect(self._on_loaded)
        self.runners: WeakSet[JobRunner] = WeakSet()
        """Those whose jobs are a person's work."""
        self.turns = Turns()
        """Of those that take the computer to themselves."""
        self.networks: dict[str, Path] = {}
        """Folders of the networks that are used in place of the bundled ones, by kind."""
        self.pace: dict[str, float] = {}
        """Seconds that a change took in the last run of a method, by its name."""
        self.hand_edits: dict[str, Differences] = {}
        """By image the nuclei that were changed by hand and not taken; kept by ``hand_edits.HandEdits``."""
        self.pool_folder: Path | None = None
        self.shows_pool_images = False
        """Whether a dock follows ``pool_image_wanted``."""
        self._clear()

    def _clear(self) -> None:
        if self.study is not None:
            self.study.let_go()
        self.dataset: Dataset | None = None
        self.survey: Survey | None = None
        self.mpp: float | None = None
        self.splits: dict[str, str] = {}
        """Split of each image where a person chose them; empty: as the dataset has them."""
        self.study = None
        self.study_folder: Path | None = None
        self._method = ""
        self.rare: tuple[int, ...] = ()
        self.major: tuple[int, ...] = ()
        self._run: Ground | None = None
        self.image = self._wanted = ""
        self._set_work(Work())

    def _set_work(self, work: Work) -> None:
        self.candidates: Candidates | None = work.candidates
        self.table: ChangeTable = work.table
        """All changes of the study, a row for each."""
        self._set_decisions(work.decisions)
        self._set_changes(work.changes)

    def _set_changes(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        """All changes by id, made into objects one at a time."""
        self.change_at: Callable[[int], Change] = lru_cache(OBJECTS)(changes.__getitem__)
        """The change in a row of the table."""

    def follow(self, runner: JobRunner, *, heavy: bool = False) -> JobRunner:
        """Know of a runner whose jobs are a person's work: nothing else ends them without asking.

        A ``heavy`` one takes the computer to itself: its jobs wait for each other's end.
        """
        self.runners.add(runner)
        if heavy:
            runner.turns = self.turns
        runner.running_changed.connect(self.under_way_changed)
        return runner

    @property
    def running(self) -> list[str]:
        """What a person has set going, by its title."""
        return sorted(runner.title for runner in self.runners if runner.running)

    @property
    def under_way(self) -> list[str]:
        """What nothing else may end without asking: what runs, and nuclei changed by hand that were not taken."""
        return [*self.running, *self.untaken]

    @property
    def untaken(self) -> list[str]:
        """Nuclei that were changed by hand and not taken, in words: none or one."""
        count = sum(len(apart.ids) for apart in self.hand_edits.values())
        edits = f"{count:,} hand edit{'s that were' if count > 1 else ' that was'} {NOT_TAKEN}"
        return [edits] if count else []

    # Opening.

    def take_opened(self, opened: Opened) -> None:
        """Begin with what was opened; everything before is let go (it is on disk)."""
        load_networks_ahead()
        dataset = opened.dataset
        self._clear()
        self.dataset, self.survey, self.mpp = dataset, opened.survey, opened.mpp
        self.splits = dict(opened.settings.get("splits") or {})
        self.study, self._method = opened.study, str(opened.settings.get("method", ""))
        self.study_folder = Path(opened.study.folder) if opened.study else self.free_folder()
        self._set_work(opened.work)
        if opened.study is not None:
            self._use(opened.study)
        self.rare, self.major = self._default_classes()
        if chosen := opened.settings.get("candidate_settings"):
            self.rare, self.major = (
                tuple(map(dataset.class_number, chosen.get(which, ()))) for which in ("rare", "major")
            )
        self.reader.set_dataset(None if dataset.missing_scale else dataset)
        if self.pool_folder != self.study_folder:
            self.pool_folder = None
        for signal in (self.dataset_changed, self.classes_changed, self.study_changed, self.method_changed):
            signal.emit()
        if self.read_only:
            self.notice.emit(READ_ONLY)
        self.candidates_changed.emit()
        self.changes_changed.emit()
        if opened.survey.counts and not dataset.missing_scale and not self._wanted:
            first = opened.settings.get("image")
            self.show(first if first in opened.survey.counts else next(iter(opened.survey.counts)))

    def _default_classes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        dataset, counted = self.dataset, self.survey
        assert dataset is not None and counted is not None
        if Path(dataset.root) == sample_folder():
            return (dataset.class_number(SAMPLE_RARE),), tuple(map(dataset.class_number, SAMPLE_MAJORS))
        classified = (kind.number for kind in dataset.classes if kind.number != dataset.unclassified.number)
        numbers = [number for number in classified if counted.total[number]]
        if len(numbers) < 2:
            return (), tuple(numbers)
        rare = min(numbers, key=lambda number: counted.total[number])
        return (rare,), tuple(number for number in numbers if number != rare)

    @property
    def ready(self) -> bool:
        """Whether candidates can be looked for: images with a scale, and a rare class."""
        return self.dataset is not None and not self.dataset.missing_scale and bool(self.rare)

    # Images.

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the dataset's images that can be read."""
        return tuple(self.survey.counts) if self.survey else ()

    def target_of(self, name: str) -> str:
        """Name of the real image that an image is, or is derived from; empty where there is none."""
        rows = self.table.seen_in(name)
        return self.table.image_names[self.table.images[rows[0]]] if len(rows) else name

    def show(self, name: str) -> None:
        """Make an image, real or synthetic, the one on the screen; ``image_changed`` follows when it is read."""
        self._wanted = name
        if target := self.target_of(name):
            self.reader.request(target)
        else:
            QTimer.singleShot(0, lambda: self._on_loaded(""))

    def step(self, by: int) -> None:
        # From the image that was asked for last, also where that cannot be read: the arrows lead past it.
        names, shown = self.images, self.target_of(self._wanted or self.image)
        if names:
            at = names.index(shown) if shown in names else 0
            self.show(names[(at + by) % len(names)])

    def fly(self, image: str, row: float, col: float) -> None:
        if image != self.image:
            self.show(image)
        self.place_requested.emit(image, row, col)

    def _on_loaded(self, name: str) -> None:
        wanted = self._wanted
        if wanted and name == self.target_of(wanted) and wanted != self.image:
            self.image = wanted
            self.image_changed.emit(wanted)

    # Classes, splits and the method.

    def choose_classes(self, rare: Iterable[int], major: Iterable[int]) -> None:
        """Set the rare classes and those they may replace; a class cannot be both."""
        rare = tuple(rare)
        major = tuple(number for number in major if number not in rare)
        if (rare, major) != (self.rare, self.major):
            self.rare, self.major = rare, major
            self.classes_changed.emit()

    def choose_splits(self, splits: Mapping[str, str]) -> None:
        """Give every image its split: in the study at once, or when it begins. ``notice`` says where that fails."""
        if self.dataset is None:
            return
        with self._telling():
            dataset = with_splits(self.dataset, splits)
            if self.study is not None:
                self.study.save_settings({"splits": dict(splits)})
            self.dataset, self.splits = dataset, dict(splits)
            self.splits_changed.emit()

    @property
    def method(self) -> str:
        """Name of the method that makes images; at first, one that can use the dataset."""
        if not self._method and self.dataset is not None:
            named = ((name, method_of(name)) for name in (DEFAULT, *method_names()))
            usable = (name for name, method in named if not method.needs.problem(method.title, self.dataset))
            self._method = next(usable, DEFAULT)
        return self._method

    def choose_method(self, name: str) -> None:
        if name != self._method:
            self._method = name
            self.save_settings({"method": name})
            self.method_changed.emit()

    def use_model(self, folder: Path | str | None, kind: str = "inpainter") -> None:
        """Use the network of a kind in this folder from now on; None: the bundled one."""
        chosen = {**self.networks, kind: Path(folder)} if folder is not None else dict(self.networks)
        if folder is None:
            chosen.pop(kind, None)
        if chosen != self.networks:
            self.networks = chosen
            self.model_changed.emit()

    # Study.

    def free_folder(self, home: Path | None = None) -> Path:
        """Where a new study of this dataset goes: a folder in ``home`` that does not exist yet."""
        assert self.dataset is not None
        return free_folder(home or self.home, safe_name(self.dataset.name, "study"))

    def choose_study_folder(self, folder: Path) -> None:
        """Put the study elsewhere; only before it has begun."""
        if self.study is None:
            self.study_folder = folder
            self.study_changed.emit()

    @property
    def worked(self) -> bool:
        """Whether the study holds decisions or changes, which another search would take the sense from."""
        return bool(self.decisions["candidate"] or self.decisions["change"] or len(self.table))

    def _ground(self, study: Study | None, folder: Path | None) -> Ground:
        if self.dataset is None or self.survey is None or folder is None:
            raise HistomixError("Open a dataset first.")
        settings = {"image": self.image, **({"splits": self.splits} if self.splits else {})}
        if self._method:
            settings["method"] = self._method
        return Ground(self.dataset, self.survey, self.mpp, folder, self.lock(folder), study, settings)

    def edits_ground(self) -> Ground:
        """Where nuclei that were changed by hand go: the study, or a new one where work would lose its sense."""
        study, folder = self.study, self.study_folder
        if study is not None and self.edits_begin_study:
            study, folder = None, self.free_folder(study.folder.parent)
        return self._ground(study, folder)

    @property
    def edits_begin_study(self) -> bool:
        """Whether nuclei that were changed by hand can only be taken in a new study."""
        return self.study is not None and (self.study.read_only or self.study.worked)

    # Making.

    def stage_job(self, settings: Any) -> Callable[[], Job[Found]]:
        """Find what the chosen method's stage vets, in the study, which begins here if it has not; see ``take_stage``.

        A study that has candidates, some decided on, or images made, stays as it is: the search begins another one.
        """
        method, study, folder = method_of(self.method), self.study, self.study_folder
        searched = method.stage is not None and "candidate" in method.stage.subjects
        if study is not None and searched and self.candidates is not None and self.worked:
            study, folder = None, self.free_folder(study.folder.parent)
        return partial(loading.find, self._ground(study, folder), method, settings)

    def take_stage(self, found: Found) -> None:
        self._adopt(found.study)
        self._set_work(found.work)
        self.candidates_changed.emit()
        self.changes_changed.emit()

    def place_job(
        self, image: str, row: float, col: float, moved: Candidate | None = None
    ) -> Callable[[], Job[tuple[Candidate, Candidates | None]]]:
        """Place a candidate by hand, or move one there; see ``take_placed``."""
        if self.study is None:
            raise HistomixError("Find candidates first.")
        ground, decisions = self._ground(self.study, self.study_folder), dict(self.decisions["candidate"])
        return partial(loading.place, ground, decisions, image, row, col, moved)

    def take_placed(self, placed: Candidate, candidates: Candidates | None, moved: Candidate | None = None) -> None:
        """Keep a candidate that was placed by hand and, as one act with that, drop the one that was ``moved``."""
        self.candidates = candidates
        self.candidates_changed.emit()
        gone = [] if moved is None or moved.rank == placed.rank else [("candidate", moved.rank, DROP)]
        self.act([*gone, ("candidate", placed.rank, KEEP)])

    def make_job(self, settings: Any, stage: Any = None, loaded: Any = None) -> Callable[[], Job[Outcome]]:
        """Make images with the chosen method, in the study, which begins here if it has not; see ``take_made``.

        ``stage`` are the settings of its stage, where the study does not hold its items yet; ``loaded`` is a model.
        """
        self._run = self._ground(self.study, self.study_folder)
        return partial(loading.make, self._run, method_of(self.method), settings, stage, loaded)

    def resume_job(self) -> Callable[[], Job[Outcome]]:
        if self.study is None:
            raise HistomixError("Open a study first.")
        return partial(loading.resume, self._ground(self.study, self.study_folder))

    def keep_job(self, work: Callable[[Dataset, Study], Job[Any]]) -> Callable[[], Job[Any]]:
        """Add changes that were made by hand to the study, which begins here if it has not; see ``take_made``."""
        self._run = self._ground(self.study, self.study_folder)
        return partial(loading.keep, self._run, work)

    def take_made(self, ids: Sequence[int]) -> None:
        """Show changes that are in the study now.

        To be called with the ids of each event of a ``make_job`` that says what was ``made``, and once without any when
        it has ended, however it did: a study that it began is taken over then at the latest.
        """
        run = self._run
        if run is not None and run.study is not None:
            self._run = None
            self._adopt(run.study)
            if run.candidates is not None:
                self.candidates = run.candidates
                self.candidates_changed.emit()
        known = self.table.ids
        new = np.setdiff1d(np.asarray(ids, np.int64), known)
        if not len(new) or self.study is None:
            return
        first = int(new[0])
        self.table = self.table.followed(self.study.change_table(first))
        tail = self.study.changes(first)
        self._set_changes(self.changes.followed(tail) if len(self.changes) else tail)  # type: ignore[attr-defined]
        # The study may be ahead of the event: what is in the table now is told now.
        self.changes_made.emit(np.setdiff1d(self.table.ids, known).tolist())

    def discard_run(self, run: int) -> None:
        """Take back all that a run made, after it was stopped; ``notice`` says where that fails."""
        if self.study is None or self.dataset is None:
            return
        with self._telling():
            self.study.discard_run(run)
            self._set_work(Work.read(self.study, self.candidates))
            if self.image and self.image not in self.images and not len(self.table.seen_in(self.image)):
                self.show(self.images[0])
            self.changes_changed.emit()

    def _use(self, study: Study) -> None:
        self.introduce(study)
        study.hold(self.lock(study.folder))

    def _adopt(self, study: Study) -> None:
        if study is self.study:
            return
        if self.study is not None:
            self.study.let_go()
        self.study, self.study_folder = study, Path(study.folder)
        self._use(study)
        self._set_work(Work(self.candidates))
        self.study_changed.emit()
        if self.splits and study.settings().get("splits") != self.splits:
            # They were chosen while the job was under way.
            self.choose_splits(self.splits)

    # Changes.

    def change(self, id: int) -> Change | None:
        """A change by its id; its pixels are read when they are asked for."""
        rows = self.table.rows([id])
        return self.change_at(int(rows[0])) if len(rows) else None

    def changes_of(
        self, name: str, *, rejected: bool = False, window: tuple[slice, slice] | None = None
    ) -> list[Change]:
        """Changes that are seen in an image, or touch a window of it; without the rejected and deleted ones."""
        rows, decisions = self.table.seen_in(name), self.decisions["change"]
        if window is not None:
            (top, bottom), (left, right) = ((axis.start, axis.stop) for axis in window)
            rows = self.table.touching(rows, top, left, bottom, right)
        ids = self.table.ids[rows].tolist()
        return [
            self.change_at(row)
            for row, id in zip(rows.tolist(), ids, strict=True)
            if rejected or decisions.get(id) not in (REJECT, DELETE)
        ]

    # Segment pools.

    def share_pool(self, folder: Path | str, by: QObject, *, changed: bool = False) -> None:
        """Let the docks for segments work on one study: ``by`` has opened it, or changed its pool."""
        folder = Path(folder)
        if changed or folder != self.pool_folder:
            self.pool_folder = folder
            self.pool_changed.emit(folder, by)


def window_of(viewer: Any) -> QObject | None:
    """The main window of a viewer; None for a viewer model without one."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    return getattr(getattr(viewer, "window", None), "_qt_window", None)


def session_of(viewer: Any) -> Session:
    """The session of a viewer, made on first use: a child of its window, so that it lives and ends with it."""
    window = window_of(viewer)
    if window is None:
        return Session()
    return window.findChild(Session, NAME) or _begun(window)


def _begun(window: QObject) -> Session:
    """The session of a window, with which the log begins and napari's own Preferences window is followed."""
    begin_log("window")
    log_errors()
    take_over_reviewer()
    session = Session(window)
    PreferencesPage(session)
    return session
