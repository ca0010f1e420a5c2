"""A reader test out of studies: what a person approved in them, or all that nobody took out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.reader_test.folder import ReaderTest, write_test
from napari_histomix.evaluation.reader_test.nuclei import draw_nuclei, method_name
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.evaluation.reader_test.tissue import draw_tissue
from napari_histomix.methods import method_of
from napari_histomix.records import Change, HistomixError, Job
from napari_histomix.study.changes import Changes
from napari_histomix.study.store import Study

TAKEN_OUT = ("reject", "delete")


@dataclass(frozen=True, eq=False)
class MadeTest:
    """A reader test that was written, and how many crops of either kind it has; fewer than wanted, maybe."""

    test: ReaderTest
    each: int


def make_reader_test(
    dataset: Dataset,
    studies: Sequence[Study],
    out: Path,
    settings: ReaderTestSettings | None = None,
    *,
    undecided: bool = False,
) -> Job[MadeTest]:
    """Make a reader test in a new folder, complete or absent; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset : Dataset
        That of the studies: of nuclei, or of tissue.
    studies : sequence of Study
        Made by several methods, maybe.
    out : Path
        A folder that is not there yet.
    settings : ReaderTestSettings, optional
    undecided : bool
        Also show what nobody has decided on yet.

    Raises
    ------
    HistomixError
        If ``out`` exists, a study is of another dataset, nothing of it is approved, or not one pair can be shown.
    """
    out, settings = Path(out), settings or ReaderTestSettings()
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")
    for study in studies:
        if study.dataset_root.is_dir() and study.dataset_root.resolve() != dataset.root.resolve():
            raise HistomixError(f"The study {study.folder} is of another dataset, that in {study.dataset_root}.")
    shown = [change for study in studies for change in _shown(study, undecided)]
    in_place = [change for change in shown if change.in_place]
    if not shown:
        rest = "all of it was rejected" if undecided else "approve some, or show what is undecided too"
        raise HistomixError(f"There is nothing synthetic to show: {rest}.")
    if in_place and len(in_place) < len(shown):
        raise HistomixError("A reader test asks about nuclei or about tissue; name studies of one of them.")
    if in_place:
        titles = [title for study in studies for title in _titles(study, undecided)]
        drawn = yield from draw_nuclei(dataset, in_place, settings, titles)
    else:
        drawn = yield from draw_tissue(dataset, _Shown(studies, undecided), settings)
    facts = {"studies": [str(study.folder) for study in studies], "undecided": undecided}
    write_test(out, dataset.name, drawn, settings, facts)
    return MadeTest(ReaderTest.open(out), len(drawn.specimens) // 2)


def _wanted(decision: str | None, undecided: bool) -> bool:
    return decision not in TAKEN_OUT if undecided else decision == "approve"


def _shown(study: Study, undecided: bool) -> Changes:
    """Changes of a study that may be shown; read when they are looked at, for images are large."""
    decisions = study.decisions("change")
    return study.changes().where(lambda header: _wanted(decisions.get(header.id), undecided))


def _titles(study: Study, undecided: bool) -> list[str]:
    """What made each change that may be shown: asked of the study at once, not of each change."""
    samplers = study.samplers()
    return [
        method_name(method_of(change.method).title, samplers.get(change.id, "")) for change in _shown(study, undecided)
    ]


class _Shown(Sequence[Change]):
    """The synthetic images of several studies that may be shown."""

    def __init__(self, studies: Sequence[Study], undecided: bool) -> None:
        self._parts = [_shown(study, undecided) for study in studies]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, index: int) -> Change:  # type: ignore[override]
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)
