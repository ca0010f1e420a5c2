"""A study folder: a database and pictures that hold everything a person did with a dataset, written as it happens."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from shutil import rmtree
from typing import Any

from napari_histomix.datasets import Dataset, Survey, open_any
from napari_histomix.datasets.dataset import SPLIT_PARTS
from napari_histomix.datasets.edits import FOLDER as EDITS
from napari_histomix.datasets.edits import HandEdit, checked_files, copy_edits, file_hashes, with_edits, write_edits
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.records import HistomixError
from napari_histomix.study.candidates import CandidateStore, drop_candidates
from napari_histomix.study.database import FILE, WriteLock, check_unworked, is_worked, write_meta
from napari_histomix.study.decision_log import DecisionLog
from napari_histomix.study.pictures import archive
from napari_histomix.study.runs import ChangeStore

SURVEY = "survey.json"


class Study(ChangeStore, CandidateStore, DecisionLog):
    """A study on disk. Made by ``create`` or ``open``; any thread may call any method.

    A decision is durable when ``decide`` returns. Items are ranks of candidates, ids of changes, numbers of segments.
    ``reviewer`` is who decides; it is written down with every decision.

    Examples
    --------
    >>> import tempfile
    >>> study = Study.create(Path(tempfile.mkdtemp()) / "study", Path("images"), "my images")
    >>> study.decide("candidate", [3, 4], "keep")
    >>> study.undo("candidate"), study.decisions("candidate")
    ((('candidate', 3, None), ('candidate', 4, None)), {})
    """

    @classmethod
    def create(
        cls, folder: Path, dataset_root: Path, name: str, mpp: float | None = None, *, split_parts: bool = False
    ) -> Study:
        """Make a new study folder for a dataset, which is opened again with the same ``mpp`` and ``split_parts``.

        Raises HistomixError if the folder holds something already or cannot be written.
        """
        folder = Path(folder)
        cls.check_new(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HistomixError(f"{folder} cannot be made ({error.strerror}); choose another place.") from None
        study = cls(folder)
        parts = {SPLIT_PARTS: True} if split_parts else {}
        study._database.create({**_root_facts(folder, dataset_root), "name": name, "mpp": mpp, **parts})
        return study

    @classmethod
    @contextmanager
    def begin(
        cls, folder: Path, dataset_root: Path, name: str, mpp: float | None = None, *, split_parts: bool = False
    ) -> Iterator[Study]:
        """Make a new study as ``create`` does and write what it begins with; where that fails, nothing of it stays."""
        folder = Path(folder)
        cls.check_new(folder)
        made = not folder.exists()
        try:
            yield cls.create(folder, dataset_root, name, mpp, split_parts=split_parts)
        except BaseException:
            with suppress(OSError):
                # It was empty: all that is in it came since.
                for path in [*folder.iterdir()]:
                    if path.is_dir():
                        rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)
                if made:
                    folder.rmdir()
            raise

    @staticmethod
    def check_new(folder: Path) -> None:
        """Raise HistomixError if a new study cannot go to ``folder``: to be asked before long work, not after it."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise HistomixError(f"{folder} is not empty; choose a new folder for the study.")

    @classmethod
    def open(cls, folder: Path, lock: WriteLock | None = None) -> Study:
        """Open a study folder; HistomixError if it is none, is damaged, or was made by a newer version."""
        study = cls(folder, lock)
        if not (study.folder / FILE).is_file():
            raise HistomixError(f"{folder} is not a study; choose a folder that holds {FILE}.")
        study._database.check()
        with study._database.reading() as db:
            packs = db.execute("SELECT pack, max(masks_at + masks_size) FROM changes GROUP BY pack").fetchall()
        for pack, end in packs:
            path = archive(study.folder, pack)
            if not path.is_file() or path.stat().st_size < end:
                raise HistomixError(f"{path} is missing or damaged; restore it from a backup.")
        return study

    # Who may write.

    def hold(self, lock: WriteLock | None = None) -> bool:
        """Keep others from writing until ``let_go``; False where another window or command keeps this one from it.

        ``lock`` is a window's own for this folder, which all that it opens there share. A study that could not be held
        stays read-only until it is opened again: what it shows may no longer be so.
        """
        self._database.lock = lock or self._database.lock
        self._database.read_only = not (self._database.lock.held or self._database.lock.take())
        return not self.read_only

    def take(self) -> Study:
        """This study, held; HistomixError if another window or command holds it, or its folder can only be read."""
        if not self.hold():
            raise self._database.refusal()
        return self

    def let_go(self) -> None:
        """Let others write."""
        self._database.lock.release(force=True)

    @property
    def read_only(self) -> bool:
        """Whether it was opened while another window or command held it, or lies in a folder that can only be read."""
        return self._database.read_only

    @property
    def worked(self) -> bool:
        """Whether it holds decisions or changes, which other nuclei or candidates would take the sense from."""
        with self._database.reading() as db:
            return is_worked(db)

    # Settings.

    def settings(self) -> dict[str, Any]:
        """Everything saved by ``save_settings``, and the study's own facts (dataset_root, name, mpp)."""
        with self._database.reading() as db:
            return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}

    def save_settings(self, values: Mapping[str, Any]) -> None:
        """Save plain JSON values under their keys."""
        with self._database.writing() as db:
            write_meta(db, values)

    @property
    def mpp(self) -> float | None:
        """µm per pixel a person gave, if any."""
        return self.settings()["mpp"]

    @property
    def split_parts(self) -> bool:
        """Whether each connected part of an instance is read as a nucleus of its own."""
        return self.settings().get(SPLIT_PARTS) is True

    # The images it was made of.

    @property
    def dataset_root(self) -> Path:
        """Where the dataset is, or was when it was last seen; the way from the study first, which a copy keeps."""
        facts = self.settings()
        if way := facts.get("dataset_from_study", ""):
            beside = Path(os.path.normpath(self.folder.resolve() / PurePosixPath(way)))
            if beside.is_dir():
                return beside
        return Path(facts["dataset_root"])

    def locate(self, given: Path | None = None) -> Path:
        """The folder of the dataset; ``given`` is where a person says it is, kept from then on.

        Raises HistomixError if there is no such folder.
        """
        root = Path(given) if given is not None else self.dataset_root
        if given is not None and not root.is_dir():
            raise HistomixError(f"{root} is no folder; name the one that holds the images of {self.folder.name} now.")
        if not root.is_dir():
            raise HistomixError(
                f"The images of the study {self.folder.name} are no longer at {root}; put them back, or say where they "
                "are now (--dataset FOLDER)."
            )
        if given is not None:
            self.save_settings(_root_facts(self.folder, root))
        return root

    def open_images(self, given: Path | None = None) -> Dataset:
        """Open the dataset as the study knows it: scale, splits, split parts; ``given`` says where the images are now.

        Raises HistomixError if they are not there, or cannot be opened.
        """
        # A study that cannot be written to is only told for this time.
        told = given is not None and self.read_only and given.is_dir()
        root = given if given is not None and told else self.locate(given)
        return self.with_splits(self.with_edits(open_any(root, self.mpp, split_parts=self.split_parts)))

    def with_splits(self, dataset: Dataset) -> Dataset:
        """The dataset with the splits that the study keeps."""
        return with_chosen_splits(dataset, self.settings())

    # Nuclei that were changed by hand.

    def edit_files(self) -> list[Path]:
        """The files of nuclei that were changed by hand; HistomixError if one is missing or damaged."""
        return checked_files(self.folder, self.settings().get(EDITS) or {})

    def with_edits(self, dataset: Dataset) -> Dataset:
        """The dataset with the nuclei that people changed by hand in this study."""
        return with_edits(dataset, self.edit_files())

    def carry_edits(self, dataset: Dataset) -> None:
        """Begin with the nuclei that were changed by hand in another study of this dataset."""
        if dataset.edits:
            self.save_settings({EDITS: copy_edits(dataset, self.folder)})

    def add_edits(self, edits: Sequence[HandEdit]) -> None:
        """Keep nuclei that were changed by hand: from now on the study's dataset is read with them.

        Candidates that nobody decided on are dropped: they were found among other nuclei. Raises HistomixError if the
        study holds decisions or changes already, or the disk refuses.
        """
        with self._database.writing() as db:
            check_unworked(db, "changed nuclei")
            number = 1 + max([0, *(int(file.stem) for file in (self.folder / EDITS).glob("[0-9]*.npz"))])
            write_edits(self.folder / EDITS / f"{number:06}.npz", edits)
            kept = dict(db.execute("SELECT key, value FROM meta WHERE key = ?", (EDITS,)))
            listed = json.loads(kept.get(EDITS, "{}")) | file_hashes(self.folder / EDITS / f"{number:06}.npz")
            drop_candidates(db)
            write_meta(db, {EDITS: listed})

    def remember_images(self, hashes: Mapping[str, str]) -> None:
        """Keep the SHA-256 of images' pixels by name; those that are kept already stay."""
        with self._database.writing() as db:
            db.executemany("INSERT OR IGNORE INTO images VALUES (?, ?)", hashes.items())

    def changed_images(self, hashes: Mapping[str, str]) -> list[str]:
        """Names of the images that were kept and are not the same, or not there, any more."""
        with self._database.reading() as db:
            kept = db.execute("SELECT name, sha256 FROM images ORDER BY name").fetchall()
        return [name for name, sha256 in kept if hashes.get(name) != sha256]


def _root_facts(folder: Path, root: Path) -> dict[str, str]:
    """What a study in ``folder`` keeps of where its dataset is: the path, and the way there from the study."""
    root, folder = Path(root).resolve(), Path(folder).resolve()
    facts = {"dataset_root": str(root), "dataset_from_study": ""}
    # Windows knows no way from one drive to another.
    with suppress(ValueError):
        facts["dataset_from_study"] = Path(os.path.relpath(root, folder)).as_posix()
    return facts


def keep_survey(folder: Path, survey: Survey) -> None:
    """Write a survey into a study folder, where that is possible: opening again is quick, and nothing hangs on it."""
    images = {
        name: {
            "stamp": stamp,
            "counts": {int(kind): int(count) for kind, count in survey.counts[name].items()},
            "shape": survey.shapes[name],
            "sha256": survey.hashes[name],
            "synthetic": {int(kind): int(count) for kind, count in survey.synthetic.get(name, {}).items()},
        }
        for name, stamp in survey.stamps.items()
    }
    file = Path(folder) / SURVEY
    partial = file.with_name(f"{SURVEY}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(images), encoding="utf-8")
        os.replace(partial, file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def kept_survey(folder: Path) -> Survey | None:
    """The survey that was written last; None where there is none to be read."""

    def counter(counts: Mapping[str, int]) -> Counter[int]:
        return Counter({int(kind): int(count) for kind, count in counts.items()})

    try:
        images = json.loads((Path(folder) / SURVEY).read_text(encoding="utf-8")).items()
        return Survey(
            counts={name: counter(facts["counts"]) for name, facts in images},
            problems=(),
            shapes={name: (int(facts["shape"][0]), int(facts["shape"][1])) for name, facts in images},
            hashes={name: str(facts["sha256"]) for name, facts in images},
            stamps={name: str(facts["stamp"]) for name, facts in images},
            synthetic={name: counter(facts["synthetic"]) for name, facts in images if facts.get("synthetic")},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
