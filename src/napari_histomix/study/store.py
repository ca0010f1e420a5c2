"""A study folder: one SQLite file that holds everything a person did with a dataset, written as it happens."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.records import Candidate, HistomixError, Location, MixedImage, Placement

if TYPE_CHECKING:
    from napari_histomix.methods.nucleimix import CandidateSet

FILE = "study.sqlite"
VERSION = 2
Subject = Literal["candidate", "placement", "segment", "segment class", "segment tags", "mix"]
DECISIONS: Mapping[Subject, tuple[str, str]] = {
    "candidate": ("keep", "drop"),
    "placement": ("approve", "reject"),
    "segment": ("keep", "drop"),
    "mix": ("approve", "reject"),
}
"""What is decided of a subject. A segment's class and its tags are any text."""

LOCATION = "image TEXT, kind TEXT, row REAL, col REAL, instance INTEGER, type INTEGER, area INTEGER"
MIXES = """
CREATE TABLE mixes (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, target TEXT NOT NULL,
    seed INTEGER NOT NULL, pixels BLOB NOT NULL, origin BLOB NOT NULL, provenance TEXT NOT NULL
);
"""
SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE candidates (
    rank INTEGER PRIMARY KEY, {LOCATION}, {", ".join("donor_" + column for column in LOCATION.split(", "))},
    log_likelihood REAL, percentile REAL
);
CREATE TABLE placements (
    rank INTEGER PRIMARY KEY REFERENCES candidates, instance INTEGER NOT NULL, row INTEGER NOT NULL,
    col INTEGER NOT NULL, seed INTEGER NOT NULL, pixels BLOB NOT NULL, masks BLOB NOT NULL, provenance TEXT NOT NULL
);
CREATE TABLE decisions (
    subject TEXT NOT NULL, item INTEGER NOT NULL, decision TEXT NOT NULL, PRIMARY KEY (subject, item)
);
CREATE TABLE acts (id INTEGER PRIMARY KEY AUTOINCREMENT, made TEXT NOT NULL, subject TEXT NOT NULL, undone INTEGER);
CREATE TABLE changes (act INTEGER NOT NULL REFERENCES acts, item INTEGER NOT NULL, before TEXT, after TEXT);
CREATE INDEX changes_of_act ON changes (act);
{MIXES}"""


class Study:
    """A study on disk. Made by ``create`` or ``open``; every method opens its own connection, so any thread may call.

    A decision is durable when ``decide`` returns. Items are ranks: a candidate's, and for a placement its candidate's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, dataset_root: Path, name: str, mpp: float | None = None) -> Study:
        """Make a new study folder for a dataset.

        Raises
        ------
        HistomixError
            If the folder holds something already or cannot be written.
        """
        folder = Path(folder)
        cls.check_new(folder)
        study = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HistomixError(f"{folder} cannot be made ({error.strerror}); choose another place.") from None
        meta = {"version": VERSION, "dataset_root": str(Path(dataset_root).resolve()), "name": name, "mpp": mpp}
        with study._connection() as db:
            db.executescript(SCHEMA)
            study._write_meta(db, meta)
        return study

    @classmethod
    @contextmanager
    def begin(cls, folder: Path, dataset_root: Path, name: str, mpp: float | None = None) -> Iterator[Study]:
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
            yield cls.create(folder, dataset_root, name, mpp)
        except BaseException:
            with suppress(OSError):
                for file in folder.glob(f"{FILE}*"):
                    file.unlink()
                if made:
                    folder.rmdir()
            raise

    @staticmethod
    def check_new(folder: Path) -> None:
        """Raise HistomixError if a new study cannot go to ``folder``: to be asked before long work, not after it."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise HistomixError(f"{folder} is not empty; choose a new folder for the study.")

    @classmethod
    def open(cls, folder: Path) -> Study:
        """Open a study folder.

        Raises
        ------
        HistomixError
            If it is none, is damaged, or was made by a newer version.
        """
        study = cls(Path(folder))
        if not (study.folder / FILE).is_file():
            raise HistomixError(f"{folder} is not a study; choose a folder that holds {FILE}.")
        with study._connection() as db:
            if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise HistomixError(f"{study.folder / FILE} is damaged; restore it from a backup.")
            version = json.loads(study._meta(db).get("version", "null"))
        if not isinstance(version, int):
            raise HistomixError(f"{study.folder / FILE} is damaged; restore it from a backup.")
        if version > VERSION:
            raise HistomixError(f"{folder} was made by a newer version; update napari-histomix.")
        if version < 2:
            with study._connection() as db:
                db.executescript(MIXES)
                study._write_meta(db, {"version": VERSION})
        return study

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: committed to disk at the end, or nothing of it."""
        try:
            db = sqlite3.connect(self.folder / FILE, timeout=10)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA foreign_keys=ON")
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise HistomixError(
                f"The study {self.folder} cannot be read or written ({error}); check the disk's space and permissions."
            ) from None

    @staticmethod
    def _meta(db: sqlite3.Connection) -> dict[str, str]:
        return dict(db.execute("SELECT key, value FROM meta"))

    @staticmethod
    def _write_meta(db: sqlite3.Connection, values: Mapping[str, Any]) -> None:
        db.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, json.dumps(value)) for key, value in values.items()]
        )

    def settings(self) -> dict[str, Any]:
        """Everything saved by ``save_settings``, and the study's own facts (dataset_root, name, mpp)."""
        with self._connection() as db:
            return {key: json.loads(value) for key, value in self._meta(db).items()}

    def save_settings(self, values: Mapping[str, Any]) -> None:
        """Save plain JSON values under their keys."""
        with self._connection() as db:
            self._write_meta(db, values)

    @property
    def dataset_root(self) -> Path:
        """Folder of the dataset."""
        return Path(self.settings()["dataset_root"])

    @property
    def mpp(self) -> float | None:
        """µm per pixel a person gave, if any."""
        return self.settings()["mpp"]

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
        with self._connection() as db:
            for table in ("decisions", "placements"):
                if db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():
                    raise HistomixError(
                        "This study already holds decisions or synthetic nuclei; start a new study for a new search."
                    )
            db.execute("DELETE FROM candidates")
            db.executemany(f"INSERT INTO candidates VALUES ({', '.join('?' * 17)})", rows)
            self._write_meta(db, facts)

    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates by rank."""
        with self._connection() as db:
            return tuple(map(_candidate, db.execute("SELECT * FROM candidates ORDER BY rank")))

    def add_placements(self, placements: Iterable[Placement]) -> None:
        """Save new placements; their candidates must be the study's own."""
        rows = [
            (
                one.candidate.rank,
                one.instance,
                one.row,
                one.col,
                one.seed,
                _png(one.pixels),
                _png(np.asarray(one.origin | (one.nucleus.astype(np.uint8) << 2), np.uint8)),
                json.dumps(dict(one.provenance), sort_keys=True),
            )
            for one in placements
        ]
        with self._connection() as db:
            db.executemany("INSERT INTO placements VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def placements(self) -> tuple[Placement, ...]:
        """All placements by rank."""
        with self._connection() as db:
            rows = db.execute(
                "SELECT p.instance, p.row, p.col, p.pixels, p.masks, p.seed, p.provenance, c.* "
                "FROM placements p JOIN candidates c ON c.rank = p.rank ORDER BY p.rank"
            ).fetchall()
        found = []
        for instance, row, col, pixels, masks, seed, provenance, *candidate in rows:
            try:
                bits, patch, facts = _pixels(masks), _pixels(pixels), json.loads(provenance)
            except (OSError, SyntaxError, TypeError, ValueError):  # what Pillow and json make of damaged bytes
                raise HistomixError(f"{self.folder / FILE} is damaged; restore it from a backup.") from None
            origin = np.asarray(bits & 3, np.uint8)
            found.append(Placement(_candidate(candidate), instance, row, col, patch, origin, bits > 3, seed, facts))
        return tuple(found)

    def add_mixes(self, mixes: Iterable[MixedImage]) -> None:
        """Save new synthetic tissue images."""
        with self._connection() as db:
            for one in mixes:
                db.execute(
                    "INSERT INTO mixes (name, kind, target, seed, pixels, origin, provenance) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        one.name,
                        one.kind,
                        one.target,
                        one.seed,
                        _png(one.pixels),
                        _png(one.origin),
                        json.dumps(dict(one.provenance), sort_keys=True),
                    ),
                )

    def mix_names(self) -> dict[int, str]:
        """Names of all synthetic tissue images by number."""
        with self._connection() as db:
            return dict(db.execute("SELECT number, name FROM mixes ORDER BY number"))

    def mix(self, number: int) -> MixedImage:
        """One synthetic tissue image; they are read one at a time, for they are large.

        Raises
        ------
        HistomixError
            If there is none of that number, or it is damaged.
        """
        with self._connection() as db:
            found = db.execute(
                "SELECT name, kind, target, pixels, origin, seed, provenance FROM mixes WHERE number = ?", (number,)
            ).fetchone()
        if found is None:
            raise HistomixError(f"The study has no synthetic image {number}.")
        name, kind, target, pixels, origin, seed, provenance = found
        try:
            return MixedImage(name, kind, target, _pixels(pixels), _pixels(origin), seed, json.loads(provenance))
        except (OSError, SyntaxError, TypeError, ValueError):
            raise HistomixError(f"{self.folder / FILE} is damaged; restore it from a backup.") from None

    def decisions(self, subject: Subject) -> dict[int, str]:
        """Present decision of every item that has one."""
        with self._connection() as db:
            return dict(db.execute("SELECT item, decision FROM decisions WHERE subject = ?", (subject,)))

    def decide(self, subject: Subject, items: Iterable[int], decision: str | None) -> None:
        """Decide on one or several items as one act that ``undo`` takes back as a whole; None clears.

        Raises
        ------
        ValueError
            For a decision the subject does not have (``DECISIONS``).
        """
        if decision is not None and decision not in DECISIONS.get(subject, (decision,)):
            raise ValueError(f"a {subject} is decided by {' or '.join(DECISIONS[subject])}, not {decision!r}")
        with self._connection() as db:
            # Taken before the first look, so that what is recorded for undo cannot change in between.
            db.execute("BEGIN IMMEDIATE")
            now = "SELECT decision FROM decisions WHERE subject = ? AND item = ?"
            before = {int(item): (db.execute(now, (subject, int(item))).fetchone() or (None,))[0] for item in items}
            changes = [(item, was, decision) for item, was in before.items() if was != decision]
            if not changes:
                return
            made = datetime.now(UTC).isoformat(timespec="seconds")
            act = db.execute("INSERT INTO acts (made, subject, undone) VALUES (?, ?, 0)", (made, subject)).lastrowid
            db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", [(act, *change) for change in changes])
            _apply(db, subject, [(item, after) for item, _, after in changes])

    def undo(self, *subjects: Subject) -> tuple[int, ...]:
        """Take the last act on some subjects back, also one of an earlier session; the items it changed, or none."""
        with self._connection() as db:
            last = db.execute(
                f"SELECT id, subject FROM acts WHERE subject IN ({', '.join('?' * len(subjects))}) AND undone = 0 "
                "ORDER BY id DESC LIMIT 1",
                subjects,
            ).fetchone()
            if last is None:
                return ()
            act, subject = last
            changes = db.execute("SELECT item, before FROM changes WHERE act = ?", (act,)).fetchall()
            _apply(db, subject, changes)
            db.execute("UPDATE acts SET undone = 1 WHERE id = ?", (act,))
        return tuple(item for item, _ in changes)


def _apply(db: sqlite3.Connection, subject: str, values: list[tuple[int, str | None]]) -> None:
    for item, decision in values:
        if decision is None:
            db.execute("DELETE FROM decisions WHERE subject = ? AND item = ?", (subject, item))
        else:
            db.execute("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?)", (subject, item, decision))


def _candidate(row: tuple[Any, ...] | list[Any]) -> Candidate:
    return Candidate(row[0], _location(row[1:8]), _location(row[8:15]), row[15], row[16])


def _location(row: tuple[Any, ...] | list[Any]) -> Location:
    image, kind, *rest = row
    return Location(image, kind, *rest)


def _png(array: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def _pixels(png: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(png)), np.uint8)
