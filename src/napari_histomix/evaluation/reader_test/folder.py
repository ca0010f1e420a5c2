"""A reader test on disk: what readers are shown and, apart from it, sealed, the truth; made out of studies."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix import __version__
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.writing import complete_or_absent
from napari_histomix.evaluation.reader_test.nuclei import draw_nuclei
from napari_histomix.evaluation.reader_test.specimens import (
    Drawn,
    ReaderTestSettings,
    Specimen,
    draw_tissue,
    method_name,
)
from napari_histomix.methods import method_of
from napari_histomix.records import Change, HistomixError, Job
from napari_histomix.study.changes import Changes
from napari_histomix.study.store import Study

TEST, CROPS, TRUTH, ANSWERS = "test.json", "crops.npy", "truth.sealed", "answers"
FORMAT, VERSION = "napari-histomix reader test", 1
LARGEST = 1 << 26
"""Bytes of truth that are unsealed at most: far more than any test has, and no memory is at risk."""

NOTICE = "Some of these crops are synthetic. Not for diagnosis."
NUCLEUS_QUESTION, TISSUE_QUESTION = "Is the marked nucleus real or synthetic?", "Is this tissue real or synthetic?"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reader is told of a crop: the class (``kind``), and the marked pixel, or None where all of it is meant."""

    kind: str
    mark: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Truth:
    """What the report knows of a crop; see ``specimens.Specimen``."""

    method: str
    kind: str
    cluster: str
    synthetic: bool
    facts: Mapping[str, Any]


def write_test(
    out: Path, name: str, drawn: Drawn, settings: ReaderTestSettings, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write a new reader test, complete or absent.

    The crops lie in one array, in random order, so that no crop has a file name, a size or a date of its own. The truth
    lies in a file of its own that no text editor shows; ``test.json`` holds its SHA-256, so that it cannot be changed
    once somebody has answered, and not the seed, from which it could be drawn again.

    Parameters
    ----------
    out : Path
        A folder that is not there yet.
    name : str
        Of the dataset.
    drawn : Drawn
    settings : ReaderTestSettings
    facts : mapping, optional
        More for the sealed truth, plain JSON values.

    Raises
    ------
    HistomixError
        If ``out`` exists or the disk refuses.
    """
    out = Path(out)
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")
    order = np.random.default_rng([settings.seed, 3]).permutation(len(drawn.specimens))
    specimens = [drawn.specimens[index] for index in order]
    stream = io.BytesIO()
    np.save(stream, np.stack([one.pixels for one in specimens]), allow_pickle=False)
    crops = stream.getvalue()
    sealed = _seal(specimens, settings, drawn, facts or {})
    public = {
        "format": FORMAT,
        "version": VERSION,
        "software": f"napari-histomix {__version__}",
        "notice": NOTICE,
        "dataset": name,
        "question": TISSUE_QUESTION if specimens[0].mark is None else NUCLEUS_QUESTION,
        "crops": [{"kind": one.kind, "mark": list(one.mark) if one.mark else None} for one in specimens],
        "crops_sha256": hashlib.sha256(crops).hexdigest(),
        "truth_sha256": hashlib.sha256(sealed).hexdigest(),
    }
    with complete_or_absent(out) as partial:
        (partial / ANSWERS).mkdir()
        (partial / CROPS).write_bytes(crops)
        (partial / TRUTH).write_bytes(sealed)
        (partial / TEST).write_text(json.dumps(public, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return out


def _seal(specimens: Sequence[Specimen], settings: ReaderTestSettings, drawn: Drawn, facts: Mapping[str, Any]) -> bytes:
    content = {
        **facts,
        "settings": asdict(settings),
        "refusals": dict(drawn.refusals),
        "crops": [
            {
                "method": one.method,
                "kind": one.kind,
                "cluster": one.cluster,
                "synthetic": one.synthetic,
                "facts": dict(one.facts),
            }
            for one in specimens
        ],
    }
    return zlib.compress(json.dumps(content, ensure_ascii=False, sort_keys=True).encode(), 9)


class ReaderTest:
    """A reader test as readers see it. Made by ``open``; the truth is not read before ``truth`` is called.

    Parameters
    ----------
    folder : Path
    dataset : str
        Name of the dataset.
    question : str
    crops : (N, S, S, 3) uint8
    asked : tuple of Asked
        Of every crop.
    seals : (crops, truth)
        Hexadecimal SHA-256 of the two files.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str,
        question: str,
        crops: NDArray[np.uint8],
        asked: tuple[Asked, ...],
        seals: tuple[str, str],
    ) -> None:
        self.folder, self.dataset, self.question = folder, dataset, question
        self.crops, self.asked = crops, asked
        self._seals = seals

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.asked)

    @property
    def identity(self) -> str:
        """Hexadecimal SHA-256 of the crops: what answers belong to."""
        return self._seals[0]

    @property
    def answers_folder(self) -> Path:
        """Where each reader's answers lie, in a file of their own."""
        return self.folder / ANSWERS

    @classmethod
    def open(cls, folder: Path) -> ReaderTest:
        """Open a reader test.

        Raises
        ------
        HistomixError
            If it is none, is damaged, or was made by a newer version.
        """
        folder = Path(folder)
        if not (folder / TEST).is_file():
            raise HistomixError(f"{folder} is not a reader test; choose a folder that holds {TEST} and {CROPS}.")
        public = read_json_object(folder / TEST)
        if public.get("format") != FORMAT:
            raise HistomixError(f"{folder} is not a reader test; choose a folder that histomix reader-test made.")
        if not isinstance(public.get("version"), int) or public["version"] > VERSION:
            raise HistomixError(f"{folder} was made by a newer version; update napari-histomix.")
        broken = HistomixError(f"The reader test {folder} is damaged; copy it again from where it was made.")
        try:
            content = (folder / CROPS).read_bytes()
            if hashlib.sha256(content).hexdigest() != public["crops_sha256"]:
                raise broken
            crops = np.load(io.BytesIO(content), allow_pickle=False)
            asked = tuple(Asked(str(one["kind"]), _mark(one["mark"])) for one in public["crops"])
            found = cls(
                folder,
                str(public["dataset"]),
                str(public["question"]),
                crops,
                asked,
                (str(public["crops_sha256"]), str(public["truth_sha256"])),
            )
        except OSError as error:
            raise HistomixError(f"{folder / CROPS} cannot be read ({error.strerror or error}).") from None
        except (KeyError, TypeError, ValueError):
            raise broken from None
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or len(crops) != len(asked):
            raise broken
        return found

    def truth(self, path: Path | None = None) -> tuple[Truth, ...]:
        """Unseal the truth of every crop.

        Parameters
        ----------
        path : Path, optional
            Where the file is, if it was kept elsewhere while readers answered.

        Raises
        ------
        HistomixError
            If it is not there, or is not the truth this test was made with.
        """
        path = Path(path) if path is not None else self.folder / TRUTH
        if not path.is_file():
            raise HistomixError(f"{path} is not there; put back the file {TRUTH} of this test, or say where it is.")
        other = HistomixError(f"{path} is not the truth that this test was made with; use the file it was made with.")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise HistomixError(f"{path} cannot be read ({error.strerror or error}).") from None
        if hashlib.sha256(content).hexdigest() != self._seals[1]:
            raise other
        try:
            found = json.loads(zlib.decompressobj().decompress(content, LARGEST))
            truths = tuple(
                Truth(one["method"], one["kind"], one["cluster"], one["synthetic"], one["facts"])
                for one in found["crops"]
            )
        except (KeyError, TypeError, ValueError, zlib.error):
            raise other from None
        if len(truths) != len(self):
            raise other
        return truths

    def order(self, reader: str) -> list[int]:
        """The order in which a reader sees the crops: a shuffle of their own, the same whenever they come back."""
        # Names count as readers type them, but for upper and lower case.
        seed = hashlib.sha256(f"{self.identity}:{reader.strip().casefold()}".encode()).digest()
        return [int(index) for index in np.random.default_rng(list(seed)).permutation(len(self))]


def _mark(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    row, col = (int(part) for part in value)
    return row, col


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
