"""A reader test on disk: what readers are shown and, apart from it, sealed, the truth; made out of studies."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix import __version__
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.writing import check_place, complete_or_absent
from napari_histomix.evaluation.crops import method_name
from napari_histomix.evaluation.reader_test.nuclei import draw_nuclei
from napari_histomix.evaluation.reader_test.specimens import Drawn, ReaderTestSettings, draw_tissue
from napari_histomix.methods import method_of
from napari_histomix.records import Change, HistomixError, Job
from napari_histomix.settings import check_settings
from napari_histomix.study.store import Study

TEST, CROPS, TRUTH, ANSWERS = "test.json", "crops.npy", "truth.sealed", "answers"
FORMAT, VERSION = "napari-histomix reader test", 1
LARGEST = 1 << 26
"""Bytes of truth that are unsealed at most: far more than any test has, and no memory is at risk."""

NOTICE = "Some of these crops are synthetic. Not for diagnosis."
NUCLEUS_QUESTION, TISSUE_QUESTION = "Is the marked nucleus real or synthetic?", "Is this tissue real or synthetic?"

TAKEN_OUT = ("reject", "delete")


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
    once somebody has answered, and not the seed, from which it could be drawn again. ``name`` is that of the dataset,
    ``facts`` are more plain JSON values for the sealed truth.
    """
    order = np.random.default_rng([settings.seed, 3]).permutation(len(drawn.specimens))
    specimens = [drawn.specimens[index] for index in order]
    stream = io.BytesIO()
    np.save(stream, np.stack([specimen.pixels for specimen in specimens]), allow_pickle=False)
    crops = stream.getvalue()
    known = [field.name for field in fields(Truth)]
    secret = {
        **(facts or {}),
        "settings": asdict(settings),
        "refusals": dict(drawn.refusals),
        "crops": [{name: getattr(specimen, name) for name in known} for specimen in specimens],
    }
    sealed = zlib.compress(json.dumps(secret, ensure_ascii=False, sort_keys=True).encode(), 9)
    public = {
        "format": FORMAT,
        "version": VERSION,
        "software": f"napari-histomix {__version__}",
        "notice": NOTICE,
        "dataset": name,
        "question": TISSUE_QUESTION if specimens[0].mark is None else NUCLEUS_QUESTION,
        "crops": [{"kind": specimen.kind, "mark": specimen.mark} for specimen in specimens],
        "crops_sha256": hashlib.sha256(crops).hexdigest(),
        "truth_sha256": hashlib.sha256(sealed).hexdigest(),
    }
    with complete_or_absent(out) as partial:
        (partial / ANSWERS).mkdir()
        (partial / CROPS).write_bytes(crops)
        (partial / TRUTH).write_bytes(sealed)
        (partial / TEST).write_text(json.dumps(public, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return out


@dataclass(frozen=True, eq=False)
class ReaderTest:
    """A reader test as readers see it. Made by ``open``; the truth is not read before ``truth`` is called.

    ``dataset`` is the name of the dataset, and ``crops`` are (N, S, S, 3). ``identity``, the hexadecimal SHA-256 of the
    crops, is what answers belong to; ``seal`` is that of the truth.
    """

    folder: Path
    dataset: str
    question: str
    crops: NDArray[np.uint8]
    asked: tuple[Asked, ...]
    identity: str
    seal: str

    def __len__(self) -> int:
        return len(self.asked)

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
        content = _content(folder / CROPS)
        try:
            if hashlib.sha256(content).hexdigest() != public["crops_sha256"]:
                raise broken
            crops = np.load(io.BytesIO(content), allow_pickle=False)
            asked = tuple(Asked(str(crop["kind"]), _mark(crop["mark"])) for crop in public["crops"])
            texts = (str(public[key]) for key in ("dataset", "question", "crops_sha256", "truth_sha256"))
            dataset, question, identity, seal = texts
        except (KeyError, TypeError, ValueError):
            raise broken from None
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or len(crops) != len(asked):
            raise broken
        return cls(folder, dataset, question, crops, asked, identity, seal)

    def truth(self, path: Path | None = None) -> tuple[Truth, ...]:
        """Unseal the truth of every crop, from ``path`` if it was kept elsewhere while readers answered.

        Raises
        ------
        HistomixError
            If it is not there, or is not the truth this test was made with.
        """
        path = Path(path) if path is not None else self.folder / TRUTH
        if not path.is_file():
            raise HistomixError(f"{path} is not there; put back the file {TRUTH} of this test, or say where it is.")
        other = HistomixError(f"{path} is not the truth that this test was made with; use the file it was made with.")
        content = _content(path)
        if hashlib.sha256(content).hexdigest() != self.seal:
            raise other
        try:
            secret = json.loads(zlib.decompressobj().decompress(content, LARGEST))
            truths = tuple(Truth(**crop) for crop in secret["crops"])
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


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HistomixError(f"{path} cannot be read ({error.strerror or error}).") from None


def _mark(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    row, col = (int(part) for part in value)
    return row, col


# Out of studies: what a person approved in them, or all that nobody took out.


ABOUT = ("images", "nuclei")
"""What a test may ask about: of changes that do not lie in place, and of those that do."""


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
    about: str | None = None,
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
    about : str, optional
        What is asked about: one of ``ABOUT``, ``nuclei`` that lie in real images, or whole ``images``. Without it, what
        the studies hold, where that is one of them.

    Raises
    ------
    HistomixError
        If ``out`` exists, a study is of another dataset, nothing of it is approved, or not one pair can be shown.
    """
    out, settings = Path(out), check_settings(settings or ReaderTestSettings())
    check_place(out)
    for study in studies:
        if study.dataset_root.is_dir() and study.dataset_root.resolve() != dataset.root.resolve():
            raise HistomixError(f"The study {study.folder} is of another dataset, that in {study.dataset_root}.")
    shown: list[Change] = []
    samplers: list[str] = []
    for study in studies:
        decisions, by_change = study.decisions("change"), study.samplers()
        # Pixels are read when they are looked at, for images are large.
        for change in study.changes():
            decision = decisions.get(change.id)
            asked = about is None or ABOUT[change.in_place] == about
            if asked and (decision == "approve" or (undecided and decision not in TAKEN_OUT)):
                shown.append(change)
                samplers.append(by_change.get(change.id, ""))
    if not shown:
        rest = "all of it was rejected" if undecided else "approve some, or show what is undecided too"
        raise HistomixError(f"There is nothing synthetic to show: {rest}.")
    if len({change.in_place for change in shown}) > 1:
        raise HistomixError("There are nuclei and whole images to ask about; say which, for a test is of one of them.")
    if shown[0].in_place:
        # Asked of the study at once, not of each change's provenance.
        titles = [
            method_name(method_of(change.method).title, sampler)
            for change, sampler in zip(shown, samplers, strict=True)
        ]
        drawn = yield from draw_nuclei(dataset, shown, settings, titles)
    else:
        drawn = yield from draw_tissue(dataset, shown, settings)
    facts = {"studies": [str(study.folder) for study in studies], "undecided": undecided}
    write_test(out, dataset.name, drawn, settings, facts)
    return MadeTest(ReaderTest.open(out), len(drawn.specimens) // 2)
