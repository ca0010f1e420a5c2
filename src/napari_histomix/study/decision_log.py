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

from napari_histomix.study.database import Database

Subject = Literal[
    "candidate", "segment", "segment class", "segment tags", "layout", "change", "change note", "change reasons"
]
Entry = tuple[Subject, int, str | None]
"""Subject, item and its new decision; None clears."""

DECISIONS: Mapping[Subject, tuple[str, ...]] = {
    "candidate": ("keep", "drop"),
    "segment": ("keep", "drop"),
    "layout": ("keep", "drop"),
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


def items_of(entries: Iterable[Entry]) -> tuple[int, ...]:
    """Items touched by these entries, without repeats."""
    return tuple(dict.fromkeys(item for _, item, _ in entries))


class DecisionLog:
    """What of a study has to do with decisions; ``reviewer`` is who makes them."""

    _database: Database
    reviewer = ""

    def decisions(self, subject: Subject) -> dict[int, str]:
        """Present decision of every item that has one."""
        with self._database.reading() as db:
            return dict(db.execute("SELECT item, decision FROM decisions WHERE subject = ?", (subject,)))

    def decided(self, subject: Subject, item: int | None = None) -> dict[int, Decided]:
        """Present decisions, with who made them and when; of every item that has one, or of one item."""
        only, values = ("", (subject,)) if item is None else (" AND c.item = ?", (subject, item))
        query = (
            "SELECT c.item, c.after, a.who, a.made, max(c.act) FROM act_items c JOIN acts a ON a.id = c.act "
            f"WHERE a.state = {DONE} AND c.subject = ?{only} GROUP BY c.item"
        )
        with self._database.reading() as db:
            rows = db.execute(query, values).fetchall()
        return {number: Decided(after, who, made) for number, after, who, made, _ in rows if after is not None}

    def decide(self, subject: Subject, items: Iterable[int], decision: str | None) -> None:
        """Decide on one or several items as one act; None clears."""
        self.act((subject, item, decision) for item in items)

    def act(self, entries: Iterable[Entry]) -> None:
        """Decide on several items, and on several subjects of one family, as one act that ``undo`` takes back whole.

        What changes nothing is left out. Raises ValueError for a decision that its subject does not have, or subjects
        of several families.
        """
        wanted = {(subject, int(item)): decision for subject, item, decision in entries}
        for (subject, _), decision in wanted.items():
            if decision is not None and decision not in DECISIONS.get(subject, (decision,)):
                raise ValueError(f"a {subject} is decided by {' or '.join(DECISIONS[subject])}, not {decision!r}")
        families = {family(subject) for subject, _ in wanted}
        if len(families) > 1:
            raise ValueError(f"an act is of one family, not of {' and '.join(sorted(families))}")
        with self._database.writing() as db:
            now = _decisions(db, wanted)
            changed = [(*key, now.get(key), after) for key, after in wanted.items() if now.get(key) != after]
            if not changed:
                return
            (own,) = families
            db.execute("UPDATE acts SET state = ? WHERE family = ? AND state = ?", (SUPERSEDED, own, UNDONE))
            made = own, datetime.now(UTC).isoformat(timespec="seconds"), self.reviewer, DONE
            act = db.execute("INSERT INTO acts (family, made, who, state) VALUES (?, ?, ?, ?)", made).lastrowid
            db.executemany("INSERT INTO act_items VALUES (?, ?, ?, ?, ?)", [(act, *entry) for entry in changed])
            _apply(db, [(subject, item, after) for subject, item, _, after in changed])

    def undo(self, subject: Subject) -> tuple[Entry, ...]:
        """Take back the last act of the subject's family, also one of an earlier session.

        Returns what holds again: subject, item and decision (None: none); nothing where there is nothing to take back.
        """
        return self._turn(subject, "before", DONE, UNDONE, "DESC")

    def redo(self, subject: Subject) -> tuple[Entry, ...]:
        """Do the act again that ``undo`` took back last, until there is a new one; returns as ``undo``."""
        return self._turn(subject, "after", UNDONE, DONE, "ASC")

    def _turn(self, subject: Subject, side: str, now: int, state: int, order: str) -> tuple[Entry, ...]:
        query = f"SELECT id FROM acts WHERE family = ? AND state = ? ORDER BY id {order} LIMIT 1"
        with self._database.writing() as db:
            act = db.execute(query, (family(subject), now)).fetchone()
            if act is None:
                return ()
            entries = db.execute(f"SELECT subject, item, {side} FROM act_items WHERE act = ?", act).fetchall()
            _apply(db, entries)
            db.execute("UPDATE acts SET state = ? WHERE id = ?", (state, *act))
        return tuple(entries)


def _decisions(db: sqlite3.Connection, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
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
