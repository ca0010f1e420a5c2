"""What the dock of the reader test does in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from napari_histomix.datasets import Dataset, open_any
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.evaluation.reader_test.folder import TAKEN_OUT, MadeTest, ReaderTest, make_reader_test
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.study import Study
from napari_histomix.study.changes import ChangeTable
from napari_histomix.widgets.jobs import single


@dataclass(frozen=True, eq=False)
class Offer:
    """A study that a test can be made of, and how much of it is approved, or not taken out."""

    study: Study
    images: bool
    """Whether it holds whole images, not nuclei in images."""
    approved: int
    left: int

    @classmethod
    def of(cls, study: Study, table: ChangeTable, decisions: Mapping[int, str]) -> Self:
        """Count the decisions on all that a study holds.

        Raises
        ------
        HistomixError
            If it holds nothing.
        """
        if not len(table):
            raise HistomixError("There is nothing synthetic in the study yet; synthesize something first.")
        states = [decisions.get(number) for number in table.ids.tolist()]
        in_place = table.made_names[table.names[0]] == table.image_names[table.images[0]]
        return cls(study, not in_place, states.count("approve"), sum(state not in TAKEN_OUT for state in states))


def look_job(study: Study | Path) -> Callable[[], Job[Offer]]:
    """See what a study holds."""

    def job() -> Job[Offer]:
        yield Event("Looking at the study")
        opened = Study.open(study) if isinstance(study, Path) else study
        return Offer.of(opened, opened.change_table(), opened.decisions("change"))

    return job


def make_job(
    offer: Offer, dataset: Dataset | None, out: Path, settings: ReaderTestSettings, undecided: bool
) -> Callable[[], Job[MadeTest]]:
    """Make a test of a study; ``dataset`` is its own where it is open already."""

    def job() -> Job[MadeTest]:
        yield Event("Opening the images")
        study, images = offer.study, dataset
        if images is None:
            images = with_chosen_splits(open_any(study.locate(), study.mpp), study.settings())
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
