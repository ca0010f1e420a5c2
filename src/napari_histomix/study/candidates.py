"""Candidates of a study: those that a search found, those that people placed by hand, and what runs made of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from typing import Any

from napari_histomix.datasets.text_files import uncollected
from napari_histomix.records import Candidate, Location
from napari_histomix.study.database import Database, check_unworked, write_meta
from napari_histomix.study.decision_log import SUPERSEDED, UNDONE

# Tables that are made when they are first needed: studies of before have none of them.
OUTCOMES = (
    "CREATE TABLE IF NOT EXISTS outcomes (run INTEGER NOT NULL REFERENCES runs, candidate INTEGER NOT NULL, "
    "reason TEXT NOT NULL, PRIMARY KEY (run, candidate))"
)
PLACED = "CREATE TABLE IF NOT EXISTS placed (rank INTEGER PRIMARY KEY, who TEXT NOT NULL, made TEXT NOT NULL)"
INSERT_CANDIDATE = f"INSERT INTO candidates VALUES ({', '.join('?' * 17)})"


class CandidateStore:
    """What of a study has to do with candidates; ``reviewer`` is who places them."""

    _database: Database
    reviewer: str

    def set_candidates(self, candidates: Iterable[Candidate], facts: Mapping[str, Any]) -> None:
        """Save the outcome of a search with how it was made (``facts``), in place of an earlier one.

        Raises HistomixError if the study holds candidates and, beside them, decisions or changes: they would lose their
        meaning. A first search takes the sense from nothing.
        """
        candidates = tuple(candidates)
        with self._database.writing() as db:
            if db.execute("SELECT 1 FROM candidates LIMIT 1").fetchone() is not None:
                check_unworked(db, "a new search")
            drop_candidates(db)
            db.executemany(INSERT_CANDIDATE, map(_row, candidates))
            _note_placed(db, [(each.rank, each.placed_by) for each in candidates if each.placed_by is not None])
            write_meta(db, facts)

    def has_candidates(self) -> bool:
        """Whether there are any."""
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM candidates LIMIT 1").fetchone() is not None

    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates by rank; also those placed by hand whose placement was taken back (``Candidate.there``)."""
        with self._database.reading() as db, uncollected():
            placed = dict(db.execute("SELECT rank, who FROM placed")) if has_table(db, "placed") else {}
            rows = db.execute("SELECT * FROM candidates ORDER BY rank")
            return tuple(
                Candidate(row[0], Location(*row[1:8]), Location(*row[8:15]), row[15], row[16], placed.get(row[0]))
                for row in rows
            )

    def append_candidate(self, candidate: Candidate) -> Candidate:
        """Add a candidate that a person placed, with the next rank; it is there once somebody has decided to keep it.

        Its rank is not looked at. Who placed it is the ``reviewer``.
        """
        with self._database.writing() as db:
            rank = db.execute("SELECT coalesce(max(rank), -1) + 1 FROM candidates").fetchone()[0]
            placed = replace(candidate, rank=rank, placed_by=self.reviewer)
            db.execute(INSERT_CANDIDATE, _row(placed))
            _note_placed(db, [(rank, self.reviewer)])
        return placed

    def outcomes(self) -> dict[int, int | str]:
        """What runs made of candidates, by rank: the id of the change, else why the last run that tried refused it."""
        query = (
            "SELECT o.candidate, o.reason, c.id FROM outcomes o JOIN runs r ON r.id = o.run "
            "LEFT JOIN changes c ON c.run = r.id AND c.id = r.first + o.candidate ORDER BY o.run"
        )
        outcomes: dict[int, int | str] = {}
        with self._database.reading() as db:
            rows = db.execute(query).fetchall() if has_table(db, "outcomes") else []
        for rank, reason, change in rows:
            if not reason and change is not None:
                outcomes[rank] = change
            elif reason and not isinstance(outcomes.get(rank), int):
                outcomes[rank] = reason
        return outcomes


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """Whether a table, which is made when it is first needed, is there."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return db.execute(query, (name,)).fetchone() is not None


def drop_candidates(db: sqlite3.Connection) -> None:
    """Forget all candidates, and what was taken back of decisions on them, which is about their ranks."""
    superseded = "UPDATE acts SET state = ? WHERE family = 'candidate' AND state = ?"
    db.execute(superseded, (SUPERSEDED, UNDONE))
    for table in ("placed", "outcomes"):
        if has_table(db, table):
            db.execute(f"DELETE FROM {table}")
    db.execute("DELETE FROM candidates")


def keep_outcomes(db: sqlite3.Connection, run: int, outcomes: Mapping[int, str]) -> None:
    """Write down what a run's plan came to for each candidate that it tried (``Plan.outcomes``)."""
    if outcomes:
        db.execute(OUTCOMES)
        rows = [(run, rank, reason) for rank, reason in outcomes.items()]
        db.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", rows)


def drop_outcomes(db: sqlite3.Connection, run: int) -> None:
    """Forget what a run's plan came to."""
    if has_table(db, "outcomes"):
        db.execute("DELETE FROM outcomes WHERE run = ?", (run,))


def _row(candidate: Candidate) -> tuple[Any, ...]:
    places = (*astuple(candidate.target), *astuple(candidate.donor))
    return (candidate.rank, *places, candidate.log_likelihood, candidate.percentile)


def _note_placed(db: sqlite3.Connection, placed: Sequence[tuple[int, str | None]]) -> None:
    if placed:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        db.execute(PLACED)
        db.executemany("INSERT INTO placed VALUES (?, ?, ?)", [(rank, who, now) for rank, who in placed])
