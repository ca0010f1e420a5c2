"""A study's SQLite file: its tables, transactions, and how the tables of earlier versions become those of today."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_histomix.records import HistomixError
from napari_histomix.study.lock import Claim
from napari_histomix.study.upgrade import upgrade

FILE = "study.sqlite"
VERSION = 4
OLDEST = 3
"""Studies of earlier versions never left their makers' machines."""
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


class Database:
    """The file of one study. Every transaction is a connection of its own, so any thread may begin one.

    Parameters
    ----------
    folder : Path
    claim : Claim, optional
        One that is shared by all that a window has open; without it, it is taken for each transaction that writes.
    """

    def __init__(self, folder: Path, claim: Claim | None = None) -> None:
        self.folder = folder
        self.claim = claim or Claim(folder)
        self.read_only = False

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE

    def create(self, facts: Mapping[str, Any]) -> None:
        """Make the file with its tables."""
        with self._writer(), self._connection() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SCHEMA)
            write_meta(db, {**facts, "version": VERSION})

    def check(self) -> None:
        """See that the file is whole and of this version, or make it so.

        Raises
        ------
        HistomixError
            If it is damaged or of a newer version.
        """
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
                upgrade(db, self.folder, f"{CHANGES}{ACTS}")
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

        Raises
        ------
        HistomixError
            If another window or command holds the study, or the disk refuses.
        """
        with self._writer(), self._connection() as db:
            # Taken before the first look, so that what is recorded for undo cannot change in between.
            db.execute("BEGIN IMMEDIATE")
            yield db

    @contextmanager
    def _writer(self) -> Iterator[None]:
        if self.read_only or not self.claim.take(0.0 if self.claim.held else WAIT):
            raise self.refusal()
        try:
            yield
        finally:
            self.claim.release()

    def refusal(self) -> HistomixError:
        """What is said of a study that cannot be written to."""
        if not os.access(self.folder, os.W_OK):
            return HistomixError(f"The study {self.folder} can only be read; copy it to where you may write.")
        return HistomixError(
            f"The study {self.folder} is open in another window or command; close it there to write here."
        )

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


def damaged(path: Path) -> HistomixError:
    """What is said of a file that is not as it was written."""
    return HistomixError(f"{path} is damaged; restore it from a backup.")


def write_meta(db: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """Save plain JSON values by key."""
    rows = [(key, json.dumps(value)) for key, value in values.items()]
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
