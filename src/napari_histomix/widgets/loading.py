"""Opening datasets and studies: jobs that read, and what they hand over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from napari_histomix.datasets import Dataset, Survey, open_dataset, survey
from napari_histomix.records import Candidate, Event, HistomixError, Job, Placement
from napari_histomix.widgets.frames import CandidateRows, candidate_frame
from napari_histomix.widgets.warming import prepare_units

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
    placement_decisions: Mapping[int, str] = field(default_factory=dict)
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


def study_job(folder: Path) -> Callable[[], Job[Opened]]:
    """Open a study's folder with its dataset and everything done so far."""
    prepare_units()

    def job() -> Job[Opened]:
        from napari_histomix.study import Study

        yield Event("Opening the study")
        study = Study.open(folder)
        settings = study.settings()
        root = Path(settings["dataset_root"])
        if not root.is_dir():
            raise HistomixError(f"The images of the study {Path(folder).name} are no longer at {root}; put them back.")
        dataset = open_dataset(root, mpp=settings["mpp"])
        counted = yield from survey(dataset)
        yield Event("Reading candidates and placements")
        items = study.candidates()
        candidates = None
        if items:
            size, warnings = settings.get("effective_sample_size"), settings.get("warnings", ())
            candidates = Candidates.of(items, dataset.class_name, size, warnings)
        placements = study.placements()
        decisions = study.decisions("candidate"), study.decisions("placement")
        return Opened(dataset, counted, settings["mpp"], study, candidates, placements, *decisions, settings)

    return job
