"""Opening datasets and studies: jobs that read, and what they hand over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from napari_histomix.datasets import Dataset, Survey, open_dataset, survey
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.records import Candidate, Event, HistomixError, Job, Placement
from napari_histomix.widgets.preload import prepare_units
from napari_histomix.widgets.tables import CandidateRows, candidate_frame

if TYPE_CHECKING:
    from napari_histomix.study import Study


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates in order of rank, their table, and what a person should know of the draw."""

    items: tuple[Candidate, ...]
    frame: pd.DataFrame
    rows: CandidateRows
    effective_sample_size: float | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        items: Sequence[Candidate],
        class_name: Callable[[int], str],
        size: float | None,
        warnings: Sequence[str],
    ) -> Self:
        """Make the tables too; takes a while for tens of thousands: not for the main thread."""
        frame = candidate_frame(items, class_name)
        return cls(tuple(items), frame, CandidateRows.of(frame), size, tuple(warnings))


@dataclass(frozen=True, eq=False)
class Opened:
    """A dataset as opened in the background, with all that its study holds."""

    dataset: Dataset
    survey: Survey
    mpp: float | None = None
    study: Study | None = None
    candidates: Candidates | None = None
    placements: tuple[Placement, ...] = ()
    candidate_decisions: Mapping[int, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """Candidates as written to a study, and a sentence for each image that was left out."""

    study: Study
    candidates: Candidates
    problems: tuple[str, ...]


def open_job(path: Path, mpp: float | None = None) -> Callable[[], Job[Opened]]:
    """Open a dataset's folder and count its nuclei."""
    prepare_units()

    def job() -> Job[Opened]:
        yield Event("Opening the folder")
        dataset = open_dataset(path, mpp=mpp)
        counted = yield from survey(dataset)
        return Opened(dataset, counted, mpp)

    return job


@dataclass(frozen=True)
class Moved:
    """A study whose images are no longer where they were: a person has to say where they went."""

    folder: Path
    sentence: str


def study_job(folder: Path, images: Path | None = None) -> Callable[[], Job[Opened | Moved]]:
    """Open a study's folder with its dataset and everything done so far; ``images``: where those went, if they did."""
    prepare_units()

    def job() -> Job[Opened | Moved]:
        from napari_histomix.study import Study
        from napari_histomix.study.survey_cache import keep_survey, kept_survey

        yield Event("Opening the study")
        study = Study.open(folder)
        settings = study.settings()
        try:
            root = study.locate(images)
        except HistomixError as error:
            return Moved(Path(folder), str(error))
        dataset = with_chosen_splits(open_dataset(root, mpp=settings["mpp"]), settings)
        known = kept_survey(study.folder)
        counted = yield from survey(dataset, known)
        if known is None or known.stamps != counted.stamps:
            keep_survey(study.folder, counted)
        yield Event("Reading candidates and placements")
        items = study.candidates()
        candidates = None
        if items:
            size, warnings = settings.get("effective_sample_size"), settings.get("warnings", ())
            candidates = Candidates.of(items, dataset.class_name, size, warnings)
        if changed := study.changed_images(counted.hashes):
            yield Event("Reading candidates and placements", message=_changed(changed))
        placements, decisions = study.placements(items), study.decisions("candidate")
        return Opened(dataset, counted, settings["mpp"], study, candidates, placements, decisions, settings)

    return job


def _changed(images: Sequence[str]) -> str:
    """What to say of images that are not those that a study was made with."""
    more = f" and {len(images) - 3} more" if len(images) > 3 else ""
    return f"Not the images that the study was made with, or missing: {', '.join(images[:3])}{more}."
