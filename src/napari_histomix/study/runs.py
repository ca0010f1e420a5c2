"""Runs of methods and the changes they made, as a study keeps them."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from napari_histomix.datasets.text_files import uncollected
from napari_histomix.records import Change, HistomixError
from napari_histomix.study.candidates import drop_outcomes, has_table, keep_outcomes
from napari_histomix.study.changes import Changes, ChangeTable, Header, Patch, StoredChange
from napari_histomix.study.database import FILE, INSERT_CHANGE, Database, WriteLock, damaged
from napari_histomix.study.pictures import packed, packed_masks, read_picture, unpacked_masks, write_pack

PATCHES = 2048
"""Patches of changes kept in memory after they were read."""
COLUMNS = "method, settings, first, wanted, state, refusals, decisions"
"""Of a run, after its id."""
HEADER = ", ".join(field.name for field in fields(Header))
DETECTABILITY = (
    "CREATE TABLE IF NOT EXISTS detectability (change INTEGER PRIMARY KEY REFERENCES changes, percentile REAL NOT NULL)"
)
"""Made when a detector has scored changes for the first time: studies of before that have no such table."""
KEPT_FREE = "CREATE TABLE IF NOT EXISTS kept_free (run INTEGER PRIMARY KEY REFERENCES runs, past INTEGER NOT NULL)"
"""For each run that is planned and not done, the id behind those that are its own; older studies have no such table."""
OPEN, DONE = "open", "done"
"""States of a run: one that was begun, and killed or cancelled, can be taken up again."""


@dataclass(frozen=True)
class Run:
    """One time that a method was carried out with ``settings``, plain JSON values.

    ``first`` is the id of the change that the item 0 of its plan becomes, ``past`` the one behind those that are its
    own (None before it is planned, and once it is done); ``wanted`` is how many changes were asked for,
    ``state`` is ``open`` or ``done``; ``decisions``, by subject and item, are those on the items of its stage then.
    """

    id: int
    method: str
    settings: Mapping[str, Any]
    first: int
    wanted: int
    state: str
    refusals: Mapping[str, int]
    decisions: Mapping[str, Mapping[int, str]]
    past: int | None = None


class ChangeStore:
    """What of a study has to do with runs and changes."""

    def __init__(self, folder: Path, lock: WriteLock | None = None) -> None:
        self.folder = Path(folder)
        self._database = Database(self.folder, lock)
        # Of the database, not of the study: a study that nobody has any more lets others write at once.
        self.patch = lru_cache(PATCHES)(partial(_read_patch, self._database))

    def begin_run(
        self, method: str, settings: Mapping[str, Any], decisions: Mapping[str, Mapping[int, str]] | None = None
    ) -> Run:
        """Write down that a method is carried out: what it takes to take it up again."""
        with self._database.writing() as db:
            first = _first_free(db)
            row = method, json.dumps(dict(settings)), first, 0, OPEN, "{}", json.dumps(decisions or {})
            run = db.execute(f"INSERT INTO runs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row).lastrowid
        return self.run(run or 0)

    def take_up(self, run: int) -> Run:
        """An open run to go on with. One that has made nothing begins behind all that was made meanwhile."""
        with self._database.writing() as db:
            if db.execute("SELECT 1 FROM changes WHERE run = ?", (run,)).fetchone() is None:
                db.execute("UPDATE runs SET first = ? WHERE id = ?", (_first_free(db, besides=run), run))
                _free_ids(db, run)
        return self.run(run)

    def set_plan(
        self,
        run: int,
        wanted: int,
        refusals: Mapping[str, int],
        outcomes: Mapping[int, str] | None = None,
        past: int | None = None,
    ) -> None:
        """Write down what a run's plan came to; ``outcomes`` are those of candidates (``Plan.outcomes``).

        Ids from the run's first one to ``past`` are its own from now on, made or not, until it is done.
        """
        with self._database.writing() as db:
            refused = json.dumps(dict(refusals), sort_keys=True)
            db.execute("UPDATE runs SET wanted = ?, refusals = ? WHERE id = ?", (wanted, refused, run))
            keep_outcomes(db, run, outcomes or {})
            if past is not None:
                db.execute(KEPT_FREE)
                db.execute("INSERT OR REPLACE INTO kept_free VALUES (?, ?)", (run, past))

    def end_run(self, run: int) -> None:
        """Write down that all of a run is made."""
        with self._database.writing() as db:
            db.execute("UPDATE runs SET state = ? WHERE id = ?", (DONE, run))
            _free_ids(db, run)

    def discard_run(self, run: int) -> None:
        """Take back all that a run made, and the run itself; decisions on it go with it."""
        with self._database.writing() as db:
            ids = "SELECT id FROM changes WHERE run = ?"
            db.execute(f"DELETE FROM decisions WHERE subject LIKE 'change%' AND item IN ({ids})", (run,))
            db.execute(f"DELETE FROM act_items WHERE subject LIKE 'change%' AND item IN ({ids})", (run,))
            # An act of which nothing is left would be an undo that does nothing.
            db.execute("DELETE FROM acts WHERE id NOT IN (SELECT act FROM act_items)")
            # Their ids may be given to others.
            if has_table(db, "detectability"):
                db.execute(f"DELETE FROM detectability WHERE change IN ({ids})", (run,))
            db.execute("DELETE FROM changes WHERE run = ?", (run,))
            drop_outcomes(db, run)
            _free_ids(db, run)
            db.execute("DELETE FROM runs WHERE id = ?", (run,))
        self.patch.cache_clear()

    def runs(self) -> tuple[Run, ...]:
        """All runs in the order they began."""
        with self._database.reading() as db:
            rows = db.execute(f"SELECT id, {COLUMNS} FROM runs ORDER BY id").fetchall()
            pasts = dict(db.execute("SELECT * FROM kept_free")) if has_table(db, "kept_free") else {}
        runs = []
        for number, method, settings, first, wanted, state, refusals, snapshot in rows:
            decisions = {
                subject: {int(item): decision for item, decision in items.items()}
                for subject, items in self._parsed(snapshot).items()
            }
            settings, refusals = self._parsed(settings), self._parsed(refusals)
            past = pasts.get(number)
            runs.append(Run(number, method, settings, first, wanted, state, refusals, decisions, past))
        return tuple(runs)

    def run(self, number: int) -> Run:
        """A run by its id; HistomixError if there is none."""
        for run in self.runs():
            if run.id == number:
                return run
        raise HistomixError(f"The study has no run {number}.")

    def add_changes(self, run: int, changes: Iterable[Change]) -> None:
        """Save changes of a run; they are on disk when this returns.

        Raises HistomixError if an id, or the name of a derived image, is there already, or the disk is full; nothing
        is kept then.
        """
        changes = tuple(changes)
        if not changes:
            return
        masks = [packed_masks(change) for change in changes]
        content, places = packed(
            [(f"change-{change.id:06}", change.pixels, mask) for change, (mask, _) in zip(changes, masks, strict=True)]
        )
        facts = [dict(change.provenance) for change in changes]
        with self._database.writing() as db:
            _check_new(db, changes)
            pack = db.execute("SELECT coalesce(max(pack), 0) + 1 FROM changes").fetchone()[0]
            making, shared = self._making(db, run, facts)
            rows = [
                (
                    *(change.id, run, change.image, change.name, change.row, change.col, *change.shape, change.method),
                    *(change.seed, None if math.isnan(change.score) else change.score, *_columns(change)),
                    *(_about(change, labels), making),
                    json.dumps(
                        {key: own[key] for key in own if key not in shared or shared[key] != own[key]}, sort_keys=True
                    ),
                    *(pack, *place),
                )
                for change, (_, labels), own, place in zip(changes, masks, facts, places, strict=True)
            ]
            db.executemany(INSERT_CHANGE, rows)
            # On disk before the rows that speak of it are.
            write_pack(self.folder, pack, content)

    def _making(
        self, db: sqlite3.Connection, run: int, facts: Sequence[Mapping[str, Any]]
    ) -> tuple[int, dict[str, Any]]:
        """What changes of a run have in common is kept once: its id, and the facts themselves."""
        last = db.execute(
            "SELECT m.id, m.facts FROM changes c JOIN makings m ON m.id = c.making WHERE c.run = ? "
            "ORDER BY c.id DESC LIMIT 1",
            (run,),
        ).fetchone()
        if last is not None:
            shared = self._parsed(last[1])
            if all(shared.keys() <= own.keys() for own in facts):
                return last[0], shared
        shared = {key: value for key, value in facts[0].items() if all(own.get(key) == value for own in facts)}
        made = db.execute("INSERT INTO makings (facts) VALUES (?)", (json.dumps(shared, sort_keys=True),)).lastrowid
        return made or 0, shared

    def changes(self, first: int = 0) -> Changes:
        """All changes by id, from an id on; pixels and provenance are read when they are asked for."""
        query = f"SELECT {HEADER} FROM changes WHERE id >= ? ORDER BY id"
        with self._database.reading() as db, uncollected():
            return Changes([Header(*row) for row in db.execute(query, (first,))], self)

    def change(self, number: int) -> Change:
        """A change by its id; HistomixError if there is none."""
        with self._database.reading() as db:
            row = db.execute(f"SELECT {HEADER} FROM changes WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise HistomixError(f"The study has no change {number}.")
        return StoredChange(Header(*row), self)

    def change_table(self, first: int = 0) -> ChangeTable:
        """All changes as arrays, from an id on, without a look at their pixels."""
        query = f"SELECT {ChangeTable.COLUMNS} FROM changes WHERE id >= ? ORDER BY id"
        with self._database.reading() as db, uncollected():
            return ChangeTable.of_rows(db.execute(query, (first,)).fetchall())

    def ids_of_run(self, run: int) -> list[int]:
        """Ids of all that a run made."""
        with self._database.reading() as db:
            return [number for (number,) in db.execute("SELECT id FROM changes WHERE run = ? ORDER BY id", (run,))]

    def provenance(self, ids: Iterable[int]) -> dict[int, Mapping[str, Any]]:
        """How changes were made, by id: of many at once in much less time than each by itself."""
        makings: dict[int, dict[str, Any]] = {}
        provenances: dict[int, Mapping[str, Any]] = {}
        with self._database.reading() as db:
            for number in ids:
                making, own = db.execute("SELECT making, facts FROM changes WHERE id = ?", (number,)).fetchone()
                if making not in makings:
                    (shared,) = db.execute("SELECT facts FROM makings WHERE id = ?", (making,)).fetchone()
                    makings[making] = self._parsed(shared)
                # Which facts many have in common depends on the batch; their order must not.
                provenances[number] = dict(sorted({**makings[making], **self._parsed(own)}.items()))
        return provenances

    def samplers(self) -> dict[int, str]:
        """The sampler that painted each change, by id; empty where none did."""
        with self._database.reading() as db:
            makings = dict(db.execute("SELECT id, facts FROM makings"))
            names = {making: str(self._parsed(facts).get("sampler", "")) for making, facts in makings.items()}
            return {number: names[making] for number, making in db.execute("SELECT id, making FROM changes")}

    def set_detectability(self, percentiles: Mapping[int, float]) -> None:
        """Save how easily a detector tells changes from what is real, by id: 0 to 100, as `detectability` gives it."""
        with self._database.writing() as db:
            db.execute(DETECTABILITY)
            db.executemany("INSERT OR REPLACE INTO detectability VALUES (?, ?)", percentiles.items())

    def detectability(self) -> dict[int, float]:
        """By id of the change, the share of real crops that a detector found less synthetic, in %; of those tested."""
        with self._database.reading() as db:
            return dict(db.execute("SELECT * FROM detectability")) if has_table(db, "detectability") else {}

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(text)
        except ValueError:
            raise damaged(self.folder / FILE) from None
        return values


def _first_free(db: sqlite3.Connection, besides: int = 0) -> int:
    """The first id behind all changes, and behind what open runs may still make; ``besides`` is a run that may not."""
    ends = [db.execute("SELECT coalesce(max(id), -1) + 1 FROM changes").fetchone()[0]]
    if has_table(db, "kept_free"):
        ends += [end for (end,) in db.execute("SELECT past FROM kept_free WHERE run <> ?", (besides,))]
    return int(max(ends))


def _free_ids(db: sqlite3.Connection, run: int) -> None:
    if has_table(db, "kept_free"):
        db.execute("DELETE FROM kept_free WHERE run = ?", (run,))


def _check_new(db: sqlite3.Connection, changes: Sequence[Change]) -> None:
    ids, names = [change.id for change in changes], [change.name for change in changes if not change.in_place]
    taken = any(db.execute("SELECT 1 FROM changes WHERE id = ?", (number,)).fetchone() for number in ids)
    if taken or len(set(ids)) < len(ids):
        raise HistomixError("Two changes of the study have the same id; make them again.")
    for name in names:
        if names.count(name) > 1 or db.execute("SELECT 1 FROM changes WHERE name = ?", (name,)).fetchone():
            raise HistomixError(f"The study has a synthetic image {name} already; give it another name.")


def _columns(change: Change) -> tuple[int, str, int, str, int]:
    """What a table of changes is sorted and filtered by: type, kind, replaced type, donor's image and number."""
    shares, target, donor = change.class_shares, change.target, change.donor
    kind = max(shares, key=lambda name: shares[name]) if shares else ""
    replaced = target.type if target is not None and target.item else 0
    giver = (donor.image, donor.item) if donor is not None else ("", 0)
    types = set(change.added.values())
    # A whole image with nuclei of several classes is of none of them.
    return types.pop() if len(types) == 1 else 0, kind, replaced, *giver


def _about(change: Change, labels: Sequence[int] | None) -> str:
    """All of a change that is neither a picture, nor a column, nor provenance, as JSON."""
    about: dict[str, Any] = {
        "sources": [astuple(source) for source in change.sources],
        "added": sorted(change.added.items()),
        "removed": list(change.removed),
    }
    if change.class_shares is not None:
        about["class_shares"] = dict(change.class_shares)
    if labels is not None:
        about["labels"] = list(labels)
    return json.dumps(about, separators=(",", ":"))


def _read_patch(database: Database, number: int) -> Patch:
    query = "SELECT about, pack, pixels_at, pixels_size, masks_at, masks_size FROM changes WHERE id = ?"
    with database.reading() as db:
        about, pack, *place = db.execute(query, (number,)).fetchone()
    pixels, masks = (read_picture(database.folder, pack, *place[at : at + 2]) for at in (0, 2))
    patch = (pixels, *unpacked_masks(masks, json.loads(about).get("labels")))
    for array in patch:
        # One array is handed to all who ask.
        if array is not None:
            array.setflags(write=False)
    return patch
