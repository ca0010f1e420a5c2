"""What the dock of the reader test does in the background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from napari_histomix.datasets import Dataset, open_dataset, open_tissue
from napari_histomix.evaluation.reader_test.folder import ReaderTest
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.records import Event, Job
from napari_histomix.study import Study
from napari_histomix.study.reader_tests import TAKEN_OUT, MadeTest, holds_tissue, make_reader_test
from napari_histomix.widgets.jobs import single


@dataclass(frozen=True, eq=False)
class Offer:
    """A study that a test can be made of, and how much of it is approved, or not taken out."""

    study: Study
    tissue: bool
    approved: int
    left: int

    @classmethod
    def of(cls, study: Study, tissue: bool, states: Sequence[str | None]) -> Self:
        """Count the decisions on all that a study holds."""
        return cls(study, tissue, states.count("approve"), sum(state not in TAKEN_OUT for state in states))


def look_job(study: Study | Path) -> Callable[[], Job[Offer]]:
    """See what a study holds."""

    def job() -> Job[Offer]:
        yield Event("Looking at the study")
        found = Study.open(study) if isinstance(study, Path) else study
        tissue = holds_tissue([found])
        items = list(found.mix_names()) if tissue else [one.candidate.rank for one in found.placements()]
        decisions = found.decisions("mix" if tissue else "placement")
        return Offer.of(found, tissue, [decisions.get(item) for item in items])

    return job


def make_job(
    offer: Offer, dataset: Dataset | None, out: Path, settings: ReaderTestSettings, undecided: bool
) -> Callable[[], Job[MadeTest]]:
    """Make a test of a study; ``dataset`` is its own where it is open already."""

    def job() -> Job[MadeTest]:
        yield Event("Opening the images")
        study = offer.study
        images: Dataset
        if dataset is not None:
            images = dataset
        else:
            images = (open_tissue if offer.tissue else open_dataset)(study.locate(), study.mpp)
        return (yield from make_reader_test(images, [study], out, settings, undecided=undecided))

    return job


def open_job(folder: Path) -> Callable[[], Job[ReaderTest]]:
    """Open a test."""
    return single(lambda: ReaderTest.open(folder), "Opening the test")


def report_job(test: ReaderTest, out: Path) -> Callable[[], Job[Path]]:
    """Write the report of a test; the result is the picture of it."""

    def write() -> Path:
        from napari_histomix.evaluation.reader_test.report_files import CHART, write_report

        write_report(test, out)
        return out / CHART

    return single(write, "Writing the report")
