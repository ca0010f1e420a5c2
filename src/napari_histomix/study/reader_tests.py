"""A reader test out of studies: what a person approved in them, or all that nobody took out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.reader_test.folder import ReaderTest, write_test
from napari_histomix.evaluation.reader_test.nuclei import draw_nuclei
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.evaluation.reader_test.tissue import draw_tissue
from napari_histomix.records import HistomixError, Job, MixedImage, Placement
from napari_histomix.study.store import Study

TAKEN_OUT = ("reject", "delete")


@dataclass(frozen=True, eq=False)
class MadeTest:
    """A reader test that was written, and how many crops of either kind it has; fewer than wanted, maybe."""

    test: ReaderTest
    each: int


def holds_tissue(studies: Sequence[Study]) -> bool:
    """Whether studies hold synthetic tissue images, or synthetic nuclei.

    Raises
    ------
    HistomixError
        If they hold neither, or both among them.
    """
    nuclei, tissue = any(one.placements() for one in studies), any(one.mix_names() for one in studies)
    if not nuclei and not tissue:
        raise HistomixError("There is nothing synthetic in the study yet; synthesize something first.")
    if nuclei and tissue:
        raise HistomixError("A reader test asks about nuclei or about tissue; name studies of one of them.")
    return tissue


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
    if not dataset.has_nuclei:
        mixes = _Several(studies, undecided)
        _check_some(len(mixes), undecided)
        drawn = yield from draw_tissue(dataset, mixes, settings)
    else:
        placements, samplers = [], []
        for study in studies:
            some, known = _placements(study, undecided), study.samplers()
            placements += some
            samplers += [known.get(one.candidate.rank, "") for one in some]
        _check_some(len(placements), undecided)
        drawn = yield from draw_nuclei(dataset, placements, settings, samplers)
    facts = {"studies": [str(study.folder) for study in studies], "undecided": undecided}
    write_test(out, dataset.name, drawn, settings, facts)
    return MadeTest(ReaderTest.open(out), len(drawn.specimens) // 2)


def _check_some(count: int, undecided: bool) -> None:
    if not count:
        rest = "all of it was rejected" if undecided else "approve some, or show what is undecided too"
        raise HistomixError(f"There is nothing synthetic to show: {rest}.")


def _wanted(decision: str | None, undecided: bool) -> bool:
    return decision not in TAKEN_OUT if undecided else decision == "approve"


def _placements(study: Study, undecided: bool) -> list[Placement]:
    decisions = study.decisions("placement")
    return [one for one in study.placements() if _wanted(decisions.get(one.candidate.rank), undecided)]


class _Several(Sequence[MixedImage]):
    """The synthetic tissue images of several studies that may be shown, read one at a time."""

    def __init__(self, studies: Sequence[Study], undecided: bool) -> None:
        self._found: list[tuple[Study, int]] = []
        for study in studies:
            decisions = study.decisions("mix")
            self._found += [(study, one) for one in study.mix_names() if _wanted(decisions.get(one), undecided)]

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: int) -> MixedImage:  # type: ignore[override]
        study, number = self._found[index]
        return study.mix(number)
