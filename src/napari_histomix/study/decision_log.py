"""What people decide: acts of one or many entries, each on disk when it is done, taken back and done again as a whole.

An act that was taken back stays in the tables, so that nothing a person did is ever lost; a new act of its family ends
the chance to do it again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

Subject = Literal["candidate", "segment", "segment class", "segment tags", "change", "change note", "change reasons"]
Entry = tuple[Subject, int, str | None]
"""Subject, item and its new decision; None clears."""

DECISIONS: Mapping[Subject, tuple[str, ...]] = {
    "candidate": ("keep", "drop"),
    "segment": ("keep", "drop"),
    "change": ("approve", "reject", "delete"),
}
"""What is decided of a subject; of the others, any text: a segment's class and tags, notes, reasons."""

REASONS = ("seam", "stain", "context", "shape", "label")
"""Codes for what is wrong with a synthetic nucleus or image, in the order they are written down."""

DONE, UNDONE, SUPERSEDED = 0, 1, 2
MANY = 1000


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, who made it (empty where nobody said) and when, in UTC."""

    decision: str
    who: str
    made: str


def family(subject: Subject) -> str:
    """What is taken back together: a nucleus, its note and its reasons are of one family."""
    return subject.partition(" ")[0]


def record(db: sqlite3.Connection, who: str, entries: Iterable[Entry]) -> None:
    """Write an act down, without entries that change nothing.

    Raises ValueError for a decision that its subject does not have, or entries of several families.
    """
    wanted = {(subject, int(item)): decision for subject, item, decision in entries}
    for (subject, _), decision in wanted.items():
        if decision is not None and decision not in DECISIONS.get(subject, (decision,)):
            raise ValueError(f"a {subject} is decided by {' or '.join(DECISIONS[subject])}, not {decision!r}")
    families = {family(subject) for subject, _ in wanted}
    if len(families) > 1:
        raise ValueError(f"an act is of one family, not of {' and '.join(sorted(families))}")
    now = decisions(db, wanted)
    changed = [(*key, now.get(key), after) for key, after in wanted.items() if now.get(key) != after]
    if not changed:
        return
    (own,) = families
    db.execute("UPDATE acts SET state = ? WHERE family = ? AND state = ?", (SUPERSEDED, own, UNDONE))
    time = datetime.now(UTC).isoformat(timespec="seconds")
    act = db.execute(
        "INSERT INTO acts (family, made, who, state) VALUES (?, ?, ?, ?)", (own, time, who, DONE)
    ).lastrowid
    db.executemany("INSERT INTO act_items VALUES (?, ?, ?, ?, ?)", [(act, *entry) for entry in changed])
    _apply(db, [(subject, item, after) for subject, item, _, after in changed])


def undo(db: sqlite3.Connection, family: str) -> tuple[Entry, ...]:
    """Take the last act of a family back; the entries that hold again."""
    order = "SELECT id FROM acts WHERE family = ? AND state = ? ORDER BY id DESC LIMIT 1"
    return _turn(db, db.execute(order, (family, DONE)).fetchone(), "before", UNDONE)


def redo(db: sqlite3.Connection, family: str) -> tuple[Entry, ...]:
    """Do the act of a family again that was taken back last; the entries that hold again."""
    order = "SELECT id FROM acts WHERE family = ? AND state = ? ORDER BY id LIMIT 1"
    return _turn(db, db.execute(order, (family, UNDONE)).fetchone(), "after", DONE)


def _turn(db: sqlite3.Connection, act: tuple[int] | None, side: str, state: int) -> tuple[Entry, ...]:
    if act is None:
        return ()
    entries = db.execute(f"SELECT subject, item, {side} FROM act_items WHERE act = ?", act).fetchall()
    _apply(db, entries)
    db.execute("UPDATE acts SET state = ? WHERE id = ?", (state, *act))
    return tuple(entries)


def items_of(entries: Iterable[Entry]) -> tuple[int, ...]:
    """Items touched by these entries, without repeats."""
    return tuple(dict.fromkeys(item for _, item, _ in entries))


def decided(db: sqlite3.Connection, subject: Subject, item: int | None = None) -> dict[int, Decided]:
    """The present decisions with who made them and when; of all items, or one."""
    only, values = ("", (subject,)) if item is None else (" AND c.item = ?", (subject, item))
    rows = db.execute(
        "SELECT c.item, c.after, a.who, a.made, max(c.act) FROM act_items c JOIN acts a ON a.id = c.act "
        f"WHERE a.state = {DONE} AND c.subject = ?{only} GROUP BY c.item",
        values,
    )
    return {number: Decided(after, who, made) for number, after, who, made, _ in rows if after is not None}


def decisions(db: sqlite3.Connection, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Present decisions of some items."""
    if len(wanted) < MANY:
        query = "SELECT subject, item, decision FROM decisions WHERE subject = ? AND item = ?"
        rows = [row for key in wanted for row in db.execute(query, key)]
    else:
        # To read all that a subject has takes less than to look many up.
        subjects = sorted({subject for subject, _ in wanted})
        query = f"SELECT subject, item, decision FROM decisions WHERE subject IN ({', '.join('?' * len(subjects))})"
        rows = db.execute(query, subjects).fetchall()
    return {(subject, item): decision for subject, item, decision in rows}


def _apply(db: sqlite3.Connection, entries: Sequence[tuple[str, int, str | None]]) -> None:
    cleared = [(subject, item) for subject, item, decision in entries if decision is None]
    db.executemany("DELETE FROM decisions WHERE subject = ? AND item = ?", cleared)
    kept = [entry for entry in entries if entry[2] is not None]
    db.executemany("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?)", kept)
