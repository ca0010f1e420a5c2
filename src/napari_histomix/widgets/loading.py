"""What a session hands out as background jobs: opening, finding, making; and what these jobs hand over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_histomix import jobs
from napari_histomix.datasets import Dataset, Survey, open_any, survey
from napari_histomix.jobs import Outcome
from napari_histomix.methods.base import Method
from napari_histomix.methods.base import Work as MethodWork
from napari_histomix.methods.candidate_stage import told_apart_sentence
from napari_histomix.records import Candidate, Event, HistomixError, Job, LabeledImage
from napari_histomix.settings import check_settings
from napari_histomix.study import Study
from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.database import WriteLock
from napari_histomix.study.decision_log import Subject
from napari_histomix.study.store import keep_survey, kept_survey
from napari_histomix.widgets.decisions import SUBJECTS
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.sources import dataset_of
from napari_histomix.widgets.table_model import Column

T = TypeVar("T")

LOST = "", "objects"
"""What problems are about where something was left out; all others are of what was read otherwise than it may seem."""
CANDIDATE_COLUMNS = (
    ("rank", "#", "Order in which the places were drawn; synthesis takes them in this order."),
    ("image", "Image", "The image with the place."),
    ("kind", "Kind", "major: a nucleus would be replaced. background: a free place."),
    ("type", "Replaces", "Class of the nucleus that would be replaced."),
    ("percentile", "Fit", "How rare-like the surroundings are: percentile among those of real rare nuclei."),
    (
        "log_likelihood",
        "Score",
        "Log-ratio of rare to other places with such surroundings; log-likelihood under the Gaussian.",
    ),
    ("donor", "Donor", "The rare nucleus that would be placed here: its image and number."),
)
"""Column of the frame, header, and what it means."""
_SHOWN: dict[str, Callable[[Any], str]] = {
    "rank": lambda rank: f"{rank + 1}",
    "type": lambda name: "nothing" if name == "background" else name,
    "percentile": "{:.0f}".format,
    "log_likelihood": "{:.1f}".format,
}


def candidate_frame(candidates: Sequence[Candidate], class_name: Callable[[int], str]) -> pd.DataFrame:
    """One row for each candidate, in order of rank.

    Columns: rank, image, row, col, kind, type (name of the class replaced, or "background"), log_likelihood,
    percentile, donor (its image and instance id). Takes a while for tens of thousands: not for the main thread.
    """
    targets = [candidate.target for candidate in candidates]
    names = {number: class_name(number) if number else "background" for number in {place.type for place in targets}}
    columns: Mapping[str, tuple[Any, list[Any]]] = {
        "rank": (np.int64, [candidate.rank for candidate in candidates]),
        "image": (object, [place.image for place in targets]),
        "row": (float, [place.row for place in targets]),
        "col": (float, [place.col for place in targets]),
        "kind": (object, [place.kind for place in targets]),
        "type": (object, [names[place.type] for place in targets]),
        "log_likelihood": (float, [candidate.log_likelihood for candidate in candidates]),
        "percentile": (float, [candidate.percentile for candidate in candidates]),
        "donor": (object, [f"{candidate.donor.image} #{candidate.donor.instance}" for candidate in candidates]),
    }
    return pd.DataFrame({name: np.array(values, dtype=kind) for name, (kind, values) in columns.items()})


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates in order of rank, their table, and what a person should know of the draw."""

    items: tuple[Candidate, ...]
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    text: NDArray[Any]
    """Of each candidate, what a search looks through, in lower case."""
    images: frozenset[str]
    """Images of the candidates and their donors."""
    by_hand: tuple[int, ...] = ()
    """Ranks of those that people placed."""
    effective_sample_size: float | None = None
    told_apart: str = ""
    """How well places of the rare class can be told apart."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: Sequence[Candidate], class_name: Callable[[int], str], **draw: Any) -> Self:
        """Candidates with their tables, ready to be sorted; takes a while for tens of thousands."""
        frame, columns = candidate_frame(items, class_name), []
        for name, header, tip in CANDIDATE_COLUMNS:
            values = frame[name].to_numpy()
            column = Column(name, header, tip, values, _SHOWN.get(name, str), right=values.dtype != object)
            if name in ("image", "donor"):
                column.hover = values.__getitem__
            column.ranks()
            columns.append(column)
        text = (frame["image"] + " " + frame["kind"] + " " + frame["type"] + " " + frame["donor"]).str.casefold()
        images = frozenset(place.image for item in items for place in (item.donor, item.target))
        by_hand = tuple(item.rank for item in items if item.placed_by is not None)
        return cls(tuple(items), frame, tuple(columns), text.to_numpy(dtype=object), images, by_hand, **draw)

    @classmethod
    def read(cls, study: Study, dataset: Dataset) -> Self | None:
        """Those that a study holds; None where it has none."""
        items, settings = study.candidates(), study.settings()
        if not items:
            return None
        size, warnings = settings.get("effective_sample_size"), tuple(settings.get("warnings", ()))
        draw = {"effective_sample_size": size, "told_apart": told_apart_sentence(settings), "warnings": warnings}
        return cls.of(items, dataset.class_name, **draw)


@dataclass(frozen=True, eq=False)
class Work:
    """What a study holds: candidates, changes as arrays and one by one, and what was said of all of them."""

    candidates: Candidates | None = None
    table: ChangeTable = field(default_factory=lambda: ChangeTable.of_rows(()))
    changes: Sequence[Any] = ()
    decisions: Mapping[Subject, Mapping[int, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, study: Study, candidates: Candidates | None) -> Self:
        """Read all but the candidates; takes a while for a large study: not for the main thread."""
        decisions = {subject: study.decisions(subject) for subject in SUBJECTS}
        return cls(candidates, study.change_table(), study.changes(), decisions)


@dataclass(frozen=True, eq=False)
class Opened:
    """A dataset as opened in the background, with its study and all that this holds."""

    dataset: Dataset
    survey: Survey
    mpp: float | None = None
    study: Study | None = None
    work: Work = field(default_factory=Work)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """A study whose images are no longer where they were: a person has to say where they went."""

    folder: Path
    sentence: str


def open_job(path: Path, mpp: float | None = None, split_parts: bool = False) -> Job[Opened]:
    """Open a dataset's folder, of nuclei or of images with a class, and count its nuclei."""
    yield Event("Opening the folder")
    dataset = open_any(dataset_of(path), mpp=mpp, split_parts=split_parts)
    counted = yield from survey(dataset)
    return Opened(with_all_classes(dataset, counted), counted, mpp)


def with_all_classes(dataset: Dataset, counted: Survey) -> Dataset:
    """The dataset with 'unclassified' among its classes, where nuclei are."""
    return replace(dataset, classes=dataset.classes_in(counted))


def study_job(folder: Path, images: Path | None = None, lock: WriteLock | None = None) -> Job[Opened | Moved]:
    """Open a study's folder with its dataset and everything done so far.

    ``images`` is where those went, if they did; ``lock`` the window's right to write to that folder.
    """
    yield Event("Opening the study")
    study = Study.open(folder, lock)
    settings = study.settings()
    try:
        study.locate(images)
    except HistomixError as error:
        return Moved(Path(folder), str(error))
    dataset = study.open_images()
    known = kept_survey(study.folder)
    counted = yield from survey(dataset, known)
    if known is None or known.stamps != counted.stamps:
        keep_survey(study.folder, counted)
    changed = study.changed_images(counted.hashes)
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    warning = f"Not the images that the study was made with, or missing: {', '.join(changed[:3])}{more}."
    yield Event("Reading the study", message=warning if changed else None)
    dataset = with_all_classes(dataset, counted)
    work = Work.read(study, Candidates.read(study, dataset))
    return Opened(dataset, counted, settings["mpp"], study, work, settings)


# Jobs that write to a study.


@dataclass(frozen=True, eq=False)
class Found:
    """What a stage found, as it is in a study now, and a sentence for each image that was left out."""

    study: Study
    work: Work
    problems: tuple[str, ...] = ()
    result: Any = None


@dataclass(eq=False)
class Ground:
    """What a job works on: a dataset, and the study that it goes on with or, where that is None, begins."""

    dataset: Dataset
    survey: Survey
    mpp: float | None
    """Given by a person."""
    folder: Path
    lock: WriteLock
    """The window's for that folder."""
    study: Study | None
    settings: Mapping[str, Any]
    """What a new study is told of the session."""
    candidates: Candidates | None = None
    """Those that were found on the way."""

    @contextmanager
    def begin(self) -> Iterator[Study]:
        """The study; of one that begins here, nothing stays where the work in it fails."""
        if self.study is not None:
            yield self.study
            return
        parts = self.dataset.split_parts
        with Study.begin(self.folder, self.dataset.root, self.dataset.name, self.mpp, split_parts=parts) as study:
            # From the start: to lock it while the job writes would be too late.
            study.hold(self.lock)
            try:
                study.remember_images(self.survey.hashes)
                study.carry_edits(self.dataset)
                study.save_settings(self.settings)
                yield study
                keep_survey(study.folder, self.survey)
            except BaseException:
                study.let_go()
                raise
        self.study = study


def find(ground: Ground, method: Method[Any, Any], settings: Any) -> Job[Found]:
    """Find what the stage of a method vets, in place of what was found before."""
    stage = method.stage
    if stage is None:
        raise HistomixError(f"{method.title} has nothing to find before it makes images.")

    if getattr(settings, "encoder", "texture") != "texture" or getattr(settings, "layouts_from", "") == "drawn":
        prepare_torch()
    jobs.check(method, ground.dataset)
    with ground.begin() as study:
        result = yield from stage.find(MethodWork(ground.dataset, study), check_settings(settings))
    problems = tuple(problem.sentence for problem in getattr(result, "problems", ()) if problem.about in LOST)
    return Found(study, Work.read(study, Candidates.read(study, ground.dataset)), problems, result)


def place(
    ground: Ground, decisions: Mapping[int, str], image: str, row: float, col: float, moved: Candidate | None
) -> Job[tuple[Candidate, Candidates | None]]:
    """Place a candidate by hand (``place_by_hand``); it counts once it is kept. All candidates come with it."""
    from napari_histomix.methods.placing_by_hand import place_by_hand

    with ground.begin() as study:
        work = MethodWork(ground.dataset, study, decisions={"candidate": decisions})
        placed = yield from place_by_hand(work, image, row, col, moved)
        return placed, Candidates.read(study, ground.dataset)


def make(ground: Ground, method: Method[Any, Any], settings: Any, stage: Any, loaded: Any) -> Job[Outcome]:
    """Carry a method out. A study that begins here stays once it holds something: a change, or what a stage found."""
    yield Event("Loading the networks")
    prepare_torch()
    yield Event("Preparing")
    with ground.begin() as study:
        found_before = method.stage is None or method.stage.ready(study)
        run = jobs.run(method, ground.dataset, settings, study, stage=stage, loaded=loaded)
        try:
            event = next(run)
            while not (event.made or (method.stage is not None and method.stage.ready(study))):
                yield event
                event = next(run)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        except BaseException:
            run.close()
            raise
        if method.stage is not None and not found_before and "candidate" in method.stage.subjects:
            ground.candidates = Candidates.read(study, ground.dataset)
    with closing(run):
        yield event
        return (yield from run)


def keep(ground: Ground, work: Callable[[Dataset, Study], Job[T]]) -> Job[T]:
    """Add to a study what was made outside of a run; of a study that begins here, nothing stays if that fails."""
    with ground.begin() as study:
        return (yield from work(ground.dataset, study))


def resume(ground: Ground) -> Job[Outcome]:
    """Go on with the run of a study that was killed or cancelled."""
    prepare_torch()
    with ground.begin() as study:
        return (yield from jobs.resume(study, ground.dataset))


BUDGET = 512 * 2**20
"""Bytes of pixels and labels that are kept."""


class ImageReader(QObject):
    """Reads a dataset's images one after the other in a background thread; the one asked for last comes first.

    The last images are kept.
    """

    loaded = Signal(str)
    """Name of an image that ``get`` has now."""
    failed = Signal(str, str)
    """Name of an image that cannot be read, and one sentence."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._dataset: Dataset | None = None
        self._kept: OrderedDict[str, LabeledImage] = OrderedDict()
        self._waiting: list[str] = []
        self._reading = ""
        self._runner = JobRunner(self).on(finished=self._on_read, failed=self._on_failed, cancelled=self._next)

    def set_dataset(self, dataset: Dataset | None) -> None:
        """Read from another dataset from now on; forgets everything."""
        self._dataset, self._reading = dataset, ""
        self._kept.clear()
        self._waiting.clear()
        self._runner.discard()

    def get(self, name: str) -> LabeledImage | None:
        if name not in self._kept:
            return None
        self._kept.move_to_end(name)
        return self._kept[name]

    @property
    def busy(self) -> bool:
        return self._runner.running

    def request(self, name: str) -> None:
        """Have an image read; ``loaded`` or ``failed`` follows, at the next turn where it is here already."""
        if name in self._kept:
            self.loaded.emit(name)
            return
        if name in self._waiting:
            self._waiting.remove(name)
        if self._reading != name:
            self._waiting.append(name)
        self._next()

    def _next(self) -> None:
        dataset = self._dataset
        if self._waiting and dataset is not None and not self._runner.running:
            name = self._reading = self._waiting.pop()
            self._runner.start(single(lambda: dataset.read(name), f"Reading {name}"), f"reading {name}")

    def _on_read(self, image: LabeledImage) -> None:
        name, self._reading = self._reading, ""
        self._kept[name] = image
        size = sum(kept.pixels.nbytes + kept.instances.nbytes for kept in self._kept.values())
        while size > BUDGET and len(self._kept) > 2:
            _, old = self._kept.popitem(last=False)
            size -= old.pixels.nbytes + old.instances.nbytes
        self.loaded.emit(name)
        self._next()

    def _on_failed(self, sentence: str) -> None:
        name, self._reading = self._reading, ""
        self.failed.emit(name, sentence)
        self._next()
