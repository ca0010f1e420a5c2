"""Studies of version 3, which kept synthetic nuclei and tissue images apart, become those of today."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from napari_histomix.methods import OF_VERSION_3
from napari_histomix.study.pictures import archive

NUCLEI, TISSUE = OF_VERSION_3["placements"], OF_VERSION_3["synthetic"]
MOVED = ("placements", "mixes", "runs", "changes", "acts")
"""Tables of version 3 that are taken apart or named anew."""


def upgrade(db: sqlite3.Connection, folder: Path, tables: str) -> None:
    """Turn the tables of version 3 into those of version 4, in one transaction; the pictures stay where they are.

    Parameters
    ----------
    db : sqlite3.Connection
    folder : Path
        The study's.
    tables : str
        Statements that make the new tables.
    """
    settings = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}
    for table in MOVED:
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for index in ("acts_of_family", "changes_of_act", "changes_of_item"):
        db.execute(f"DROP INDEX IF EXISTS {index}")
    for statement in tables.split(";"):
        db.execute(statement)
    _add_runs(db, settings)
    _add_nuclei(db)
    first = db.execute("SELECT coalesce(max(id), -1) + 1 FROM changes").fetchone()[0]
    _add_tissue(db, folder, first)
    _move_decisions(db, first)
    for table in ("changes", "acts", "placements", "mixes", "runs"):
        db.execute(f"DROP TABLE old_{table}")


def _add_runs(db: sqlite3.Connection, settings: dict[str, Any]) -> None:
    """A run for each of the two kinds: what they were made with, as far as the study says."""
    kinds = (
        (1, NUCLEI, "placements", settings.get("synthesis_settings"), settings.get("refusals")),
        (2, TISSUE, "mixes", settings.get("mix_settings"), settings.get("mix_refusals")),
    )
    for run, method, table, said, refusals in kinds:
        (count,) = db.execute(f"SELECT count(*) FROM old_{table}").fetchone()
        if count:
            row = run, method, json.dumps(said or {}), 0, count, "done", json.dumps(refusals or {}), "{}"
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _add_nuclei(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO makings SELECT id, facts FROM old_runs")
    columns = ("image", "instance", "type", "row", "col", "area")
    places = ", ".join([f"c.{column}" for column in columns] + [f"c.donor_{column}" for column in columns])
    rows = db.execute(
        "SELECT p.rank, p.instance, p.row, p.col, p.height, p.width, p.seed, p.run, p.facts, "
        f"p.pack, p.pixels_at, p.pixels_size, p.masks_at, p.masks_size, c.percentile, {places} "
        "FROM old_placements p JOIN candidates c ON c.rank = p.rank ORDER BY p.rank"
    ).fetchall()
    for rank, instance, row, col, height, width, seed, making, facts, *more in rows:
        pictures, score, target, donor = more[:5], more[5], more[6:12], more[12:18]
        about = {
            "sources": [["target", *target], ["donor", *donor]],
            "added": [[instance, donor[2]]],
            "removed": [target[1]] if target[1] else [],
            "labels": [instance],
        }
        values = (
            *(rank, 1, target[0], target[0], row, col, height, width, NUCLEI, seed, score, donor[2], ""),
            *(target[2], donor[0], donor[1], json.dumps(about, separators=(",", ":")), making, facts, *pictures),
        )
        _insert(db, values)


def _add_tissue(db: sqlite3.Connection, folder: Path, first: int) -> None:
    rows = db.execute(
        "SELECT number, name, kind, target, seed, facts, pack, pixels_at, pixels_size, masks_at, masks_size "
        "FROM old_mixes ORDER BY number"
    ).fetchall()
    for place, (_, name, kind, target, seed, facts, *pictures) in enumerate(rows):
        height, width = _size(folder, pictures[0], pictures[1])
        donors = json.loads(facts).get("donors", [])
        sources: list[list[Any]] = [["target", target, 0, 0, 0.0, 0.0, 0]]
        sources += [["donor", donor["image"], donor["segment"], 0, 0.0, 0.0, 0] for donor in donors]
        about = {"sources": sources, "added": [], "removed": [], "class_shares": {kind: 1.0}}
        making = db.execute("INSERT INTO makings (facts) VALUES (?)", (facts,)).lastrowid
        giver = (donors[0]["image"], donors[0]["segment"]) if donors else ("", 0)
        values = (
            *(first + place, 2, target, name, 0, 0, height, width, TISSUE, seed, None, 0, kind),
            *(0, *giver, json.dumps(about, separators=(",", ":")), making, "{}", *pictures),
        )
        _insert(db, values)


def _insert(db: sqlite3.Connection, values: Iterable[Any]) -> None:
    values = tuple(values)
    db.execute(f"INSERT INTO changes VALUES ({', '.join('?' * len(values))})", values)


def _size(folder: Path, pack: int, at: int) -> tuple[int, int]:
    """Height and width of a picture in an archive, by the head of its PNG file."""
    with archive(folder, pack).open("rb") as stream:
        stream.seek(at)
        width, height = struct.unpack(">II", stream.read(24)[16:24])
    return height, width


def _move_decisions(db: sqlite3.Connection, first: int) -> None:
    """What was said of nuclei and of tissue images is said of changes."""
    numbers = [number for (number,) in db.execute("SELECT number FROM old_mixes ORDER BY number")]
    db.execute("CREATE TEMP TABLE renumbered (old INTEGER PRIMARY KEY, new INTEGER)")
    db.executemany("INSERT INTO renumbered VALUES (?, ?)", [(number, first + at) for at, number in enumerate(numbers)])
    subject = "replace(replace(subject, 'placement', 'change'), 'mix', 'change')"
    item = "CASE WHEN subject LIKE 'mix%' THEN (SELECT new FROM renumbered WHERE old = item) ELSE item END"
    family = "replace(replace(family, 'placement', 'change'), 'mix', 'change')"
    db.execute(f"INSERT INTO acts SELECT id, {family}, made, who, state FROM old_acts")
    db.execute(f"INSERT INTO act_items SELECT act, {subject}, {item}, before, after FROM old_changes")
    db.execute(f"CREATE TEMP TABLE moved AS SELECT {subject} AS subject, {item} AS item, decision FROM decisions")
    db.execute("DELETE FROM decisions")
    db.execute("INSERT INTO decisions SELECT subject, item, decision FROM moved")
    db.execute("DROP TABLE moved")
    db.execute("DROP TABLE renumbered")
