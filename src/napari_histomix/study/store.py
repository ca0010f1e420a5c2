"""A study folder: a database and pictures that hold everything a person did with a dataset, written as it happens."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple
from functools import lru_cache, partial
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histomix.records import Candidate, HistomixError, Location, MixedImage, Placement
from napari_histomix.study import decision_log
from napari_histomix.study.database import FILE, VERSION, Database, damaged, write_meta
from napari_histomix.study.decision_log import DECISIONS, REASONS, Change, Decided, Subject
from napari_histomix.study.lock import LOCK, Claim
from napari_histomix.study.pictures import FOLDER, archive, encoded, packed, read_picture, write_pack
from napari_histomix.study.sources import find_root, kept_root
from napari_histomix.study.stored import Patch, StoredPlacement, uncollected

if TYPE_CHECKING:
    from napari_histomix.methods.nucleimix import CandidateSet

__all__ = ["DECISIONS", "FILE", "REASONS", "VERSION", "Change", "Decided", "Study", "Subject"]

PATCHES = 2048
"""Patches of placements kept in memory after they were read."""
PLACE = "pack, pixels_at, pixels_size, masks_at, masks_size"


class Study:
    """A study on disk. Made by ``create`` or ``open``; any thread may call any method.

    A decision is durable when ``decide`` returns. Items are ranks: a candidate's, and for a placement its candidate's.

    Parameters
    ----------
    folder : Path
    claim : Claim, optional
        Shared by all that one window has open; see ``hold``.

    Attributes
    ----------
    reviewer : str
        Who decides; written down with every decision.
    """

    def __init__(self, folder: Path, claim: Claim | None = None) -> None:
        self.folder = Path(folder)
        self.reviewer = ""
        self._database = Database(self.folder, claim)
        # Of the database, not of the study: a study that nobody has any more lets others write at once.
        self._patch = lru_cache(PATCHES)(partial(_read_patch, self._database))

    @classmethod
    def create(
        cls, folder: Path, dataset_root: Path, name: str, mpp: float | None = None, claim: Claim | None = None
    ) -> Study:
        """Make a new study folder for a dataset.

        Raises
        ------
        HistomixError
            If the folder holds something already or cannot be written.
        """
        folder = Path(folder)
        cls.check_new(folder)
        study = cls(folder, claim)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HistomixError(f"{folder} cannot be made ({error.strerror}); choose another place.") from None
        study._database.create({**kept_root(folder, dataset_root), "name": name, "mpp": mpp})
        return study

    @classmethod
    @contextmanager
    def begin(
        cls, folder: Path, dataset_root: Path, name: str, mpp: float | None = None, claim: Claim | None = None
    ) -> Iterator[Study]:
        """Make a new study and write what it begins with; where that fails, nothing of it stays.

        Raises
        ------
        HistomixError
            As ``create``.
        """
        folder = Path(folder)
        cls.check_new(folder)
        made = not folder.exists()
        try:
            yield cls.create(folder, dataset_root, name, mpp, claim)
        except BaseException:
            if claim is not None:
                claim.release(force=True)
            with suppress(OSError):
                for file in (*folder.glob(f"{FILE}*"), folder / LOCK):
                    file.unlink(missing_ok=True)
                rmtree(folder / FOLDER, ignore_errors=True)
                if made:
                    folder.rmdir()
            raise

    @staticmethod
    def check_new(folder: Path) -> None:
        """Raise HistomixError if a new study cannot go to ``folder``: to be asked before long work, not after it."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise HistomixError(f"{folder} is not empty; choose a new folder for the study.")

    @classmethod
    def open(cls, folder: Path, claim: Claim | None = None) -> Study:
        """Open a study folder.

        Raises
        ------
        HistomixError
            If it is none, is damaged, or was made by a newer version.
        """
        study = cls(Path(folder), claim)
        if not (study.folder / FILE).is_file():
            raise HistomixError(f"{folder} is not a study; choose a folder that holds {FILE}.")
        study._database.check()
        study._check_pictures()
        return study

    def _check_pictures(self) -> None:
        ends = " UNION ALL ".join(
            f"SELECT pack, max(masks_at + masks_size) FROM {table} GROUP BY pack" for table in ("placements", "mixes")
        )
        with self._database.reading() as db:
            for pack, end in db.execute(ends):
                path = archive(self.folder, pack)
                if not path.is_file() or path.stat().st_size < end:
                    raise HistomixError(f"{path} is missing or damaged; restore it from a backup.")

    # Who may write.

    def hold(self) -> bool:
        """Keep others from writing until ``let_go``; False where another window or command keeps this one from it.

        A study that could not be held stays read-only until it is opened again: what it shows may no longer be so.
        """
        self._database.read_only = not (self._database.claim.held or self._database.claim.take())
        return not self.read_only

    def take(self) -> Study:
        """This study, held.

        Raises
        ------
        HistomixError
            If another window or command holds it, or its folder can only be read.
        """
        if not self.hold():
            raise self._database.refusal()
        return self

    def let_go(self) -> None:
        """Let others write."""
        self._database.claim.release(force=True)

    def use(self, claim: Claim) -> bool:
        """Hold it with a window's right to this folder, which all that it opens there share."""
        self._database.claim = claim
        return self.hold()

    @property
    def claim(self) -> Claim:
        """The right to write to this folder."""
        return self._database.claim

    @property
    def read_only(self) -> bool:
        """Whether it was opened while another window or command held it, or lies in a folder that can only be read."""
        return self._database.read_only

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

    # The images it was made of.

    @property
    def dataset_root(self) -> Path:
        """Where the dataset is, or was when it was last seen."""
        return find_root(self.folder, self.settings())

    def locate(self, given: Path | None = None) -> Path:
        """Find the dataset: where it was, or beside the study where both were moved together.

        Parameters
        ----------
        given : Path, optional
            Where a person says it is; kept from then on.

        Raises
        ------
        HistomixError
            If there is no such folder.
        """
        root = Path(given) if given is not None else self.dataset_root
        if not root.is_dir():
            raise HistomixError(f"The images of the study {self.folder.name} are no longer at {root}; say where.")
        if given is not None:
            self.save_settings(kept_root(self.folder, root))
        return root

    def remember_images(self, hashes: Mapping[str, str]) -> None:
        """Keep the SHA-256 of images' pixels by name; those that are kept already stay."""
        with self._database.writing() as db:
            db.executemany("INSERT OR IGNORE INTO images VALUES (?, ?)", hashes.items())

    def changed_images(self, hashes: Mapping[str, str]) -> list[str]:
        """Names of the images that were kept and are not the same, or not there, any more."""
        with self._database.reading() as db:
            kept = db.execute("SELECT name, sha256 FROM images ORDER BY name").fetchall()
        return [name for name, sha256 in kept if hashes.get(name) != sha256]

    # Candidates.

    def set_candidates(self, found: CandidateSet) -> None:
        """Save the outcome of a search, in place of an earlier one that nothing was decided on or made from.

        Raises
        ------
        HistomixError
            If the study holds decisions or synthetic nuclei already: they would lose their meaning.
        """
        rows = [
            (one.rank, *astuple(one.target), *astuple(one.donor), one.log_likelihood, one.percentile)
            for one in found.candidates
        ]
        facts = {
            "candidate_settings": asdict(found.settings),
            "encoder": found.encoder,
            "temperature": found.temperature,
            "effective_sample_size": found.effective_sample_size,
            "warnings": list(found.warnings),
        }
        with self._database.writing() as db:
            for table in ("decisions", "placements"):
                if db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():
                    raise HistomixError(
                        "This study already holds decisions or synthetic nuclei; start a new study for a new search."
                    )
            db.execute("DELETE FROM candidates")
            db.executemany(f"INSERT INTO candidates VALUES ({', '.join('?' * 17)})", rows)
            write_meta(db, facts)

    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates by rank."""
        with self._database.reading() as db, uncollected():
            return tuple(map(_candidate, db.execute("SELECT * FROM candidates ORDER BY rank")))

    # Synthetic nuclei.

    def add_placements(self, placements: Iterable[Placement]) -> None:
        """Save new placements; their candidates must be the study's own."""
        placements = tuple(placements)
        if not placements:
            return
        if len({one.candidate.rank for one in placements}) < len(placements):
            raise HistomixError("Two synthetic nuclei have the same candidate; make them again.")
        facts = [dict(one.provenance) for one in placements]
        # What is equal for all of them is kept once.
        shared = {key: value for key, value in facts[0].items() if all(one.get(key) == value for one in facts)}
        pictures = [
            (
                f"nucleus-{one.candidate.rank:06}",
                encoded(one.pixels),
                encoded(np.asarray(one.origin | (one.nucleus.astype(np.uint8) << 2), np.uint8)),
            )
            for one in placements
        ]
        content, places = packed(pictures)
        with self._database.writing() as db:
            pack = _next_pack(db)
            run = db.execute("INSERT INTO runs (facts) VALUES (?)", (json.dumps(shared, sort_keys=True),)).lastrowid
            rows = [
                (
                    one.candidate.rank,
                    one.instance,
                    one.row,
                    one.col,
                    *one.shape,
                    one.seed,
                    run,
                    json.dumps({key: value for key, value in own.items() if key not in shared}, sort_keys=True),
                    pack,
                    *place,
                )
                for one, own, place in zip(placements, facts, places, strict=True)
            ]
            db.executemany(f"INSERT INTO placements VALUES ({', '.join('?' * 14)})", rows)
            # On disk before the rows that speak of it are.
            write_pack(self.folder, pack, content)

    def placements(self, candidates: Sequence[Candidate] | None = None) -> tuple[Placement, ...]:
        """All placements by rank; their pixels and provenance are read when asked for.

        Parameters
        ----------
        candidates : sequence of Candidate, optional
            Those of this study, where they have been read already.
        """
        by_rank = {one.rank: one for one in (self.candidates() if candidates is None else candidates)}
        with self._database.reading() as db, uncollected():
            rows = db.execute("SELECT rank, instance, row, col, seed, height, width FROM placements ORDER BY rank")
            return tuple(
                StoredPlacement(by_rank[rank], instance, row, col, seed, (height, width), self._patch, self._provenance)
                for rank, instance, row, col, seed, height, width in rows
            )

    def provenance(self, ranks: Iterable[int]) -> dict[int, Mapping[str, Any]]:
        """How placements were made, by rank: of many at once in much less time than one by one."""
        runs: dict[int, dict[str, Any]] = {}
        found: dict[int, Mapping[str, Any]] = {}
        with self._database.reading() as db:
            for rank in ranks:
                run, own = db.execute("SELECT run, facts FROM placements WHERE rank = ?", (rank,)).fetchone()
                if run not in runs:
                    (shared,) = db.execute("SELECT facts FROM runs WHERE id = ?", (run,)).fetchone()
                    runs[run] = self._parsed(shared)
                found[rank] = {**runs[run], **self._parsed(own)}
        return found

    def _provenance(self, rank: int) -> Mapping[str, Any]:
        return self.provenance([rank])[rank]

    def samplers(self) -> dict[int, str]:
        """The sampler that made each placement, by rank."""
        with self._database.reading() as db:
            runs = dict(db.execute("SELECT id, facts FROM runs"))
            names = {run: str(self._parsed(facts).get("sampler", "")) for run, facts in runs.items()}
            return {rank: names[run] for rank, run in db.execute("SELECT rank, run FROM placements ORDER BY rank")}

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise damaged(self.folder / FILE) from None
        return found

    # Synthetic tissue images.

    def add_mixes(self, mixes: Iterable[MixedImage]) -> None:
        """Save new synthetic tissue images."""
        for one in mixes:
            with self._database.writing() as db:
                number = db.execute("SELECT coalesce(max(number), 0) + 1 FROM mixes").fetchone()[0]
                if db.execute("SELECT 1 FROM mixes WHERE name = ?", (one.name,)).fetchone():
                    raise HistomixError(f"The study has a synthetic image {one.name} already; give it another name.")
                picture = f"tissue-{number:06}", encoded(one.pixels), encoded(one.origin)
                content, places = packed([picture])
                facts, pack = json.dumps(dict(one.provenance), sort_keys=True), _next_pack(db)
                row = number, one.name, one.kind, one.target, one.seed, facts, pack, *places[0]
                db.execute(f"INSERT INTO mixes VALUES ({', '.join('?' * 11)})", row)
                write_pack(self.folder, pack, content)

    def mix_names(self) -> dict[int, str]:
        """Names of all synthetic tissue images by number."""
        with self._database.reading() as db:
            return dict(db.execute("SELECT number, name FROM mixes ORDER BY number"))

    def mix(self, number: int) -> MixedImage:
        """One synthetic tissue image; they are read one at a time, for they are large.

        Raises
        ------
        HistomixError
            If there is none of that number, or it is damaged.
        """
        with self._database.reading() as db:
            found = db.execute(
                f"SELECT name, kind, target, seed, facts, {PLACE} FROM mixes WHERE number = ?", (number,)
            ).fetchone()
        if found is None:
            raise HistomixError(f"The study has no synthetic image {number}.")
        name, kind, target, seed, facts, pack, *place = found
        pixels, origin = (read_picture(self.folder, pack, *place[at : at + 2]) for at in (0, 2))
        return MixedImage(name, kind, target, pixels, origin, seed, self._parsed(facts))

    # Decisions.

    def decisions(self, subject: Subject, items: Iterable[int] | None = None) -> dict[int, str]:
        """Present decision of every item that has one, or of some items."""
        with self._database.reading() as db:
            if items is not None:
                found = decision_log.decisions(db, {(subject, int(item)) for item in items})
                return {item: decision for (_, item), decision in found.items()}
            return dict(db.execute("SELECT item, decision FROM decisions WHERE subject = ?", (subject,)))

    def decided(self, subject: Subject, item: int | None = None) -> dict[int, Decided]:
        """Present decisions, with who made them and when; of every item that has one, or of one item."""
        with self._database.reading() as db:
            return decision_log.decided(db, subject, item)

    def decide(self, subject: Subject, items: Iterable[int], decision: str | None) -> None:
        """Decide on one or several items as one act; None clears.

        Raises
        ------
        ValueError
            For a decision the subject does not have (``DECISIONS``).
        """
        self.act((subject, item, decision) for item in items)

    def act(self, changes: Iterable[Change]) -> None:
        """Decide on several items, and on several subjects of one family, as one act that ``undo`` takes back whole.

        Raises
        ------
        ValueError
            For a decision that its subject does not have, or subjects of several families.
        """
        with self._database.writing() as db:
            decision_log.record(db, self.reviewer, changes)

    def undo(self, subject: Subject) -> tuple[Change, ...]:
        """Take back the last act of the subject's family, also one of an earlier session.

        Returns
        -------
        tuple of Change
            What holds again: subject, item and decision (None: none); empty where there is nothing to take back.
        """
        with self._database.writing() as db:
            return decision_log.turn_back(db, decision_log.family(subject))

    def redo(self, subject: Subject) -> tuple[Change, ...]:
        """Do the act again that ``undo`` took back last, until there is a new one; returns as ``undo``."""
        with self._database.writing() as db:
            return decision_log.turn_forward(db, decision_log.family(subject))


def _read_patch(database: Database, rank: int) -> Patch:
    with database.reading() as db:
        pack, *place = db.execute(f"SELECT {PLACE} FROM placements WHERE rank = ?", (rank,)).fetchone()
    pixels, bits = (read_picture(database.folder, pack, *place[at : at + 2]) for at in (0, 2))
    found = pixels, np.asarray(bits & 3, np.uint8), bits > 3
    for array in found:
        # One array is handed to all who ask.
        array.setflags(write=False)
    return found


def _next_pack(db: sqlite3.Connection) -> int:
    last = "SELECT max((SELECT coalesce(max(pack), 0) FROM placements), (SELECT coalesce(max(pack), 0) FROM mixes))"
    number: int = db.execute(last).fetchone()[0]
    return number + 1


def _candidate(row: Sequence[Any]) -> Candidate:
    return Candidate(row[0], Location(*row[1:8]), Location(*row[8:15]), row[15], row[16])
