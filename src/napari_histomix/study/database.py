"""A study's SQLite file: who may write, tables, transactions, and what becomes of the tables of version 3."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from napari_histomix.records import HistomixError
from napari_histomix.study.pictures import read_picture

FILE = "study.sqlite"
VERSION = 4
OLDEST = 3
"""Studies of earlier versions never left their makers' machines."""
LOCK = "study.lock"
READ_ONLY = (
    "This study is open in another window, or cannot be written: here it can be looked at, not changed. Once it is "
    "closed there, open it again here."
)
WAIT = 10.0
"""Seconds that a writer waits for another process to end its own short transaction."""

LOCATION = "image TEXT, kind TEXT, row REAL, col REAL, instance INTEGER, type INTEGER, area INTEGER"
PICTURES = """pack INTEGER NOT NULL, pixels_at INTEGER NOT NULL, pixels_size INTEGER NOT NULL,
    masks_at INTEGER NOT NULL, masks_size INTEGER NOT NULL"""
CHANGES = f"""
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, method TEXT NOT NULL, settings TEXT NOT NULL, first INTEGER NOT NULL,
    wanted INTEGER NOT NULL, state TEXT NOT NULL, refusals TEXT NOT NULL, decisions TEXT NOT NULL
);
CREATE TABLE makings (id INTEGER PRIMARY KEY, facts TEXT NOT NULL);
CREATE TABLE changes (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, image TEXT NOT NULL, name TEXT NOT NULL,
    row INTEGER NOT NULL, col INTEGER NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL,
    method TEXT NOT NULL, seed INTEGER NOT NULL, score REAL, type INTEGER NOT NULL, kind TEXT NOT NULL,
    replaced INTEGER NOT NULL, donor_image TEXT NOT NULL, donor INTEGER NOT NULL, about TEXT NOT NULL,
    making INTEGER NOT NULL REFERENCES makings, facts TEXT NOT NULL, {PICTURES}
);
CREATE INDEX changes_of_run ON changes (run);
"""
INSERT_CHANGE = f"INSERT INTO changes VALUES ({', '.join('?' * 24)})"
ACTS = """
CREATE TABLE acts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, family TEXT NOT NULL, made TEXT NOT NULL, who TEXT NOT NULL,
    state INTEGER NOT NULL
);
CREATE INDEX acts_of_family ON acts (family, state, id);
CREATE TABLE act_items (
    act INTEGER NOT NULL REFERENCES acts, subject TEXT NOT NULL, item INTEGER NOT NULL, before TEXT, after TEXT
);
CREATE INDEX act_items_of_act ON act_items (act);
CREATE INDEX act_items_of_item ON act_items (subject, item);
"""
IMAGES = "CREATE TABLE images (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL);"
SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE candidates (
    rank INTEGER PRIMARY KEY, {LOCATION}, {", ".join("donor_" + column for column in LOCATION.split(", "))},
    log_likelihood REAL, percentile REAL
);
CREATE TABLE decisions (
    subject TEXT NOT NULL, item INTEGER NOT NULL, decision TEXT NOT NULL, PRIMARY KEY (subject, item)
);
{CHANGES}{ACTS}{IMAGES}"""


class WriteLock:
    """The right to write to a study's folder. The system takes it back from a process that dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Jobs write from threads of their own: the lock is the window's, not a thread's.
        self._file = FileLock(folder / LOCK, thread_local=False)
        self._turn = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether it is ours now."""
        return bool(self._file.is_locked)

    def take(self, wait: float = 0.0) -> bool:
        """Take the right, waiting some seconds for it; False where another has it or the folder cannot be written."""
        if not os.access(self.folder, os.W_OK):
            return False
        with self._turn:
            try:
                self._file.acquire(timeout=wait)
            except (Timeout, OSError):
                return False
            return True

    def release(self, *, force: bool = False) -> None:
        """Give it back: once for each time it was taken, or altogether."""
        with self._turn:
            self._file.release(force=force)


class Database:
    """The file of one study. Every transaction is a connection of its own, so any thread may begin one.

    All that a window has open shares its lock; without it, the lock is taken for each transaction that writes.
    """

    def __init__(self, folder: Path, lock: WriteLock | None = None) -> None:
        self.folder, self.path = folder, folder / FILE
        self.lock = lock or WriteLock(folder)
        self.read_only = False

    def create(self, facts: Mapping[str, Any]) -> None:
        """Make the file with its tables."""
        with self._writer(), self._connection() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SCHEMA)
            write_meta(db, {**facts, "version": VERSION})

    def check(self) -> None:
        """See that the file is whole and of this version, or make it so; HistomixError if that cannot be."""
        with self.reading() as db:
            if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise damaged(self.path)
            version = json.loads(dict(db.execute("SELECT key, value FROM meta")).get("version", "null"))
        if not isinstance(version, int):
            raise damaged(self.path)
        if version > VERSION:
            raise HistomixError(f"{self.folder} was made by a newer version; update napari-histomix.")
        if version < OLDEST:
            raise HistomixError(f"{self.folder} is of version {version}, which is no longer read; make it anew.")
        if version < VERSION:
            self._upgrade(version)

    def _upgrade(self, version: int) -> None:
        kept = self.path.with_name(f"study-version-{version}.sqlite")
        with self._writer():
            if not kept.exists():
                with self._connection() as db, sqlite3.connect(kept) as copy:
                    db.backup(copy)
            with self.writing() as db:
                upgrade(db, self.folder)
                write_meta(db, {"version": VERSION})

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the study."""
        with self._connection() as db:
            db.execute("BEGIN")
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on disk at the end, or nothing of it.

        Raises HistomixError if another window or command holds the study, or the disk refuses.
        """
        with self._writer(), self._connection() as db:
            # Taken before the first look, so that what is recorded for undo cannot change in between.
            db.execute("BEGIN IMMEDIATE")
            yield db

    @contextmanager
    def _writer(self) -> Iterator[None]:
        if self.read_only or not self.lock.take(0.0 if self.lock.held else WAIT):
            raise self.refusal()
        try:
            yield
        finally:
            self.lock.release()

    def refusal(self) -> HistomixError:
        """What is said of a study that cannot be written to."""
        if not self.folder.is_dir():
            return gone(self.folder)
        if not os.access(self.folder, os.W_OK):
            return HistomixError(f"The study {self.folder.name} can only be read; copy it to where you may write.")
        what = f"The study {self.folder.name} is open in another window or command"
        return HistomixError(f"{what}; close it there, and open it again here.")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._opened()
            try:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA foreign_keys=ON")
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            if not self.folder.is_dir():
                raise gone(self.folder) from None
            raise HistomixError(
                f"The study {self.folder} cannot be read or written ({error}); check the disk's space and permissions."
            ) from None

    def _opened(self) -> sqlite3.Connection:
        if os.access(self.folder, os.W_OK):
            db = sqlite3.connect(self.path, timeout=WAIT)
            try:
                db.execute("PRAGMA schema_version")
            except sqlite3.OperationalError:
                # A full disk has no room for what connections share; one that shares nothing needs none.
                db.close()
                db = sqlite3.connect(self.path, timeout=WAIT)
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
            return db
        # A journal that is still there holds decisions: only without one may the file be taken as it stands.
        journal = self.path.with_name(f"{FILE}-wal")
        how = "mode=ro" if journal.exists() and journal.stat().st_size else "mode=ro&immutable=1"
        return sqlite3.connect(f"{self.path.resolve().as_uri()}?{how}", timeout=WAIT, uri=True)


def gone(folder: Path) -> HistomixError:
    """What is said of a study whose folder was deleted, moved or renamed."""
    return HistomixError(
        f"The study's folder {folder} is gone; put it back where it was, from the trash or a backup, or open another "
        "study."
    )


def damaged(path: Path) -> HistomixError:
    """What is said of a file that is not as it was written."""
    return HistomixError(f"{path} is damaged; restore it from a backup.")


def write_meta(db: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """Save plain JSON values by key."""
    rows = [(key, json.dumps(value)) for key, value in values.items()]
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)


def upgrade(db: sqlite3.Connection, folder: Path) -> None:
    """Turn the tables of version 3 into those of version 4, in one transaction; the pictures stay where they are."""
    settings = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}
    # Taken apart or named anew; in this order none is dropped that another one refers to.
    tables = ("changes", "acts", "placements", "mixes", "runs")
    for table in tables:
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for index in ("acts_of_family", "changes_of_act", "changes_of_item"):
        db.execute(f"DROP INDEX IF EXISTS {index}")
    for statement in f"{CHANGES}{ACTS}".split(";"):
        db.execute(statement)
    _add_runs(db, settings)
    _add_nuclei(db)
    first = db.execute("SELECT coalesce(max(id), -1) + 1 FROM changes").fetchone()[0]
    _add_tissue(db, folder, first)
    _move_decisions(db, first)
    for table in tables:
        db.execute(f"DROP TABLE old_{table}")


def _add_runs(db: sqlite3.Connection, settings: dict[str, Any]) -> None:
    """A run for each of the two kinds: what they were made with, as far as the study says."""
    kinds = (
        (1, "placements", "old_runs", settings.get("synthesis_settings"), settings.get("refusals")),
        (2, "mixes", "old_mixes", settings.get("mix_settings"), settings.get("mix_refusals")),
    )
    for run, table, making, chosen, refusals in kinds:
        (count,) = db.execute(f"SELECT count(*) FROM old_{table}").fetchone()
        if count:
            (facts,) = db.execute(f"SELECT facts FROM {making} LIMIT 1").fetchone()
            row = run, _method(facts), json.dumps(chosen or {}), 0, count, "done", json.dumps(refusals or {}), "{}"
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _method(facts: str) -> str:
    """Name of the method that provenance names by its title."""
    return str(json.loads(facts).get("method", "")).lower()


def _add_nuclei(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO makings SELECT id, facts FROM old_runs")
    columns = ("image", "instance", "type", "row", "col", "area")
    places = ", ".join([f"c.{column}" for column in columns] + [f"c.donor_{column}" for column in columns])
    rows = db.execute(
        "SELECT p.rank, p.instance, p.row, p.col, p.height, p.width, p.seed, p.run, p.facts, "
        f"p.pack, p.pixels_at, p.pixels_size, p.masks_at, p.masks_size, c.percentile, {places} "
        "FROM old_placements p JOIN candidates c ON c.rank = p.rank ORDER BY p.rank"
    ).fetchall()
    methods = {making: _method(facts) for making, facts in db.execute("SELECT id, facts FROM makings")}
    for rank, instance, row, col, height, width, seed, making, facts, *more in rows:
        pictures, score, target, donor = more[:5], more[5], more[6:12], more[12:18]
        about = {
            "sources": [["target", *target], ["donor", *donor]],
            "added": [[instance, donor[2]]],
            "removed": [target[1]] if target[1] else [],
            "labels": [instance],
        }
        values = (
            *(rank, 1, target[0], target[0], row, col, height, width, methods[making], seed, score, donor[2], ""),
            *(target[2], donor[0], donor[1], json.dumps(about, separators=(",", ":")), making, facts, *pictures),
        )
        db.execute(INSERT_CHANGE, values)


def _add_tissue(db: sqlite3.Connection, folder: Path, first: int) -> None:
    rows = db.execute(
        "SELECT number, name, kind, target, seed, facts, pack, pixels_at, pixels_size, masks_at, masks_size "
        "FROM old_mixes ORDER BY number"
    ).fetchall()
    for place, (_, name, kind, target, seed, facts, *pictures) in enumerate(rows):
        height, width = read_picture(folder, *pictures[:3]).shape[:2]
        donors = json.loads(facts).get("donors", [])
        sources: list[list[Any]] = [["target", target, 0, 0, 0.0, 0.0, 0]]
        sources += [["donor", donor["image"], donor["segment"], 0, 0.0, 0.0, 0] for donor in donors]
        about = {"sources": sources, "added": [], "removed": [], "class_shares": {kind: 1.0}}
        making = db.execute("INSERT INTO makings (facts) VALUES (?)", (facts,)).lastrowid
        giver = (donors[0]["image"], donors[0]["segment"]) if donors else ("", 0)
        values = (
            *(first + place, 2, target, name, 0, 0, height, width, _method(facts), seed, None, 0, kind),
            *(0, *giver, json.dumps(about, separators=(",", ":")), making, "{}", *pictures),
        )
        db.execute(INSERT_CHANGE, values)


def _move_decisions(db: sqlite3.Connection, first: int) -> None:
    """What was said of nuclei and of tissue images is said of changes."""
    numbers = [number for (number,) in db.execute("SELECT number FROM old_mixes ORDER BY number")]
    db.execute("CREATE TEMP TABLE renumbered (old INTEGER PRIMARY KEY, new INTEGER)")
    db.executemany("INSERT INTO renumbered VALUES (?, ?)", [(number, first + at) for at, number in enumerate(numbers)])
    subject, family = (
        f"replace(replace({column}, 'placement', 'change'), 'mix', 'change')" for column in ("subject", "family")
    )
    item = "CASE WHEN subject LIKE 'mix%' THEN (SELECT new FROM renumbered WHERE old = item) ELSE item END"
    db.execute(f"INSERT INTO acts SELECT id, {family}, made, who, state FROM old_acts")
    db.execute(f"INSERT INTO act_items SELECT act, {subject}, {item}, before, after FROM old_changes")
    db.execute(f"UPDATE decisions SET subject = {subject}, item = {item}")
    db.execute("DROP TABLE renumbered")


def is_worked(db: sqlite3.Connection) -> bool:
    """Whether a study holds decisions or changes."""
    tables = ("decisions", "changes")
    return any(db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)


def check_unworked(db: sqlite3.Connection, wanted: str) -> None:
    """Raise HistomixError if a study holds what would lose its meaning by something that is wanted."""
    if is_worked(db):
        raise HistomixError(f"This study already holds decisions or synthetic nuclei; start a new study for {wanted}.")
