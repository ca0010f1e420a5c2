"""Which change is under review, and which come before and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Change
from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.decision_log import REASONS, Subject
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, UNDECIDED, nouns

DECISIONS = (UNDECIDED, APPROVE, REJECT, DELETE)
CODES = {decision: code for code, decision in enumerate(DECISIONS)}
GONE = (CODES[REJECT], CODES[DELETE])
"""Decisions that take a nucleus out of its image."""
ANY, NO_REASON, NOTED = "any", "none", "noted"
BY_IMAGE, BEST_FIRST, WORST_FIRST, BY_DONOR, RANDOM = "image", "best", "worst", "donor", "random"
DETECTABLE_FIRST = "detectable"
DecisionTable = Mapping[Subject, Mapping[int, str]]
"""What people decided on changes, gave as reasons and noted: by subject and id."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person wants to see; what is empty leaves everything in."""

    decision: str = ""
    """A decision or "undecided"; empty: all that are not deleted; ``ANY``: the deleted ones too."""
    kind: str = ""
    """Name of the class of what was added, or of the image."""
    image: str = ""
    donor_image: str = ""
    donor: int = 0
    """Instance or segment in ``donor_image``; 0 for all."""
    reason: str = ""
    """A code of ``REASONS``, ``NO_REASON`` or ``NOTED``."""
    sampler: str = ""
    low: float = 0.0
    high: float = 100.0
    """Bounds of the fit, both included; a change whose fit nobody knows is left out by any but 0 and 100."""
    method: str = ""
    detectable: float = 0.0
    """Least percentile of its detector's score; a change that no detector has scored is left out by any but 0."""


def donor_codes(table: ChangeTable) -> NDArray[np.int64]:
    """A number (N,) for each donor, in the order of their images' names and their own numbers."""
    names = table.donor_image_names
    order = np.argsort(np.argsort(names)) if names else np.zeros(0, np.int64)
    return order[table.donor_images].astype(np.int64) << 32 | table.donors


def bits_of(codes: str) -> int:
    """Reasons as they are written down ("seam, stain"), as one bit each."""
    return sum(1 << REASONS.index(code) for code in codes.split(", ")) if codes else 0


class ReviewQueue:
    """Changes in an order, those that a filter leaves, what was said of each, and the current one among them.

    The current change stays where it is when a decision takes it out of the filter, so that it can be seen and the
    decision be taken back; the next one is then the one that follows it in the order. No step looks at all changes.
    ``change_of`` gives the change with an id, None where the study holds it no more.
    """

    def __init__(self, change_of: Callable[[int], Change | None]) -> None:
        self.change_of = change_of
        self.wanted = Wanted()
        self.by, self.seed = BY_IMAGE, 0
        self.row: int | None = None
        self.set_changes(ChangeTable.of_rows(()), str, {})

    # What is in it.

    def set_changes(self, table: ChangeTable, class_name: Callable[[int], str], decisions: DecisionTable) -> None:
        """Review other changes; the current one stays, where it is among them, else it is the first undecided."""
        current = self.id
        self.table = table
        self.words = nouns(table)
        """What the changes are, one and several: nuclei, images, or both."""
        # Classes of nuclei are named by their numbers; those of images are named already.
        names = (key if isinstance(key, str) else class_name(key) if key else "" for key in table.class_keys)
        self.class_names = tuple(names)
        """Names of ``table.class_keys``."""
        self.decisions = np.zeros(len(table), np.uint8)
        self.reason_bits = np.zeros(len(table), np.uint8)
        """One bit for each of ``REASONS``."""
        self.noted = np.zeros(len(table), bool)
        self.samplers: NDArray[np.object_] | None = None
        self.detectability = np.full(len(table), np.nan)
        """Percentiles of detectors' scores, NaN of changes that none has scored."""
        places = table.rows([] if current is None else [current])
        self.row = int(places[0]) if len(places) else None
        self._mark({number for given in decisions.values() for number in given}, decisions)
        self.arrange(self.by, self.seed)
        if self.row is None:
            self.row = self._first()

    def set_samplers(self, samplers: Mapping[int, str]) -> None:
        """Give the sampler that painted each change, by id, so that it can be filtered by."""
        self.samplers = np.array([samplers.get(number, "") for number in self.table.ids.tolist()], object)
        self._refilter()

    def set_detectability(self, percentiles: Mapping[int, float]) -> None:
        """Give how easily a detector tells each change from what is real, by id, to be ordered and filtered by."""
        self.detectability = np.array([percentiles.get(number, np.nan) for number in self.table.ids.tolist()], float)
        self.arrange(self.by, self.seed)

    def update(self, ids: Iterable[int], decisions: DecisionTable) -> None:
        """Take over what was said of some changes."""
        self._mark(ids, decisions)
        self._refilter()

    def _mark(self, ids: Iterable[int], decisions: DecisionTable) -> None:
        made, reasons, notes = (decisions.get(subject, {}) for subject in ("change", "change reasons", "change note"))
        rows = self.table.rows(list(ids))
        known = self.table.ids[rows].tolist()
        self.decisions[rows] = [CODES[made.get(number, UNDECIDED)] for number in known]
        self.reason_bits[rows] = [bits_of(reasons.get(number, "")) for number in known]
        self.noted[rows] = [bool(notes.get(number)) for number in known]

    def counts(self) -> tuple[int, int, int, int]:
        """How many are undecided, approved, rejected and deleted."""
        undecided, approved, rejected, deleted = np.bincount(self.decisions, minlength=len(CODES)).tolist()
        return undecided, approved, rejected, deleted

    def arrange(self, by: str, seed: int = 0) -> None:
        """Order all changes; equal ones by id, random ones by a seed, those whose fit or score nobody knows last.

        Changes that are added later do not shuffle those that were there: each draws its number by its place.
        """
        self.by, self.seed = by, seed
        keys: Mapping[str, NDArray[Any]] = {
            BY_IMAGE: self.table.names,
            BEST_FIRST: -self.table.scores,
            WORST_FIRST: self.table.scores,
            BY_DONOR: donor_codes(self.table),
            DETECTABLE_FIRST: -self.detectability,
            RANDOM: np.random.default_rng(seed).random(len(self.table)),
        }
        self._order = np.argsort(keys[by], kind="stable")
        self._place = np.empty(len(self.table), np.intp)
        self._place[self._order] = np.arange(len(self.table))
        self._refilter()

    def filter(self, wanted: Wanted) -> None:
        """Leave only what is wanted; a current change that is not among it gives way to the next that is."""
        self.wanted = wanted
        self._refilter()
        if self.row is None or not self._matches[self.row]:
            self.row = self._first()

    def _refilter(self) -> None:
        self._matches = self._matching(self.wanted)
        self._shown = np.flatnonzero(self._matches[self._order])

    def _matching(self, wanted: Wanted) -> NDArray[np.bool_]:
        """Which rows (N,) agree with all that is wanted."""
        table, keep = self.table, np.ones(len(self.table), bool)
        if (wanted.low, wanted.high) != (0.0, 100.0):
            keep &= (table.scores >= wanted.low) & (table.scores <= wanted.high)
        if wanted.detectable:
            keep &= self.detectability >= wanted.detectable
        if wanted.decision == "":
            keep &= self.decisions != CODES[DELETE]
        elif wanted.decision != ANY:
            keep &= self.decisions == CODES[wanted.decision]
        for name, codes, names in (
            (wanted.kind, table.classes, self.class_names),
            (wanted.image, table.names, table.made_names),
            (wanted.method, table.methods, table.method_names),
            (wanted.donor_image, table.donor_images, table.donor_image_names),
        ):
            if name:
                keep &= codes == (names.index(name) if name in names else -1)
        if wanted.donor_image and wanted.donor:
            keep &= table.donors == wanted.donor
        if wanted.reason == NO_REASON:
            keep &= self.reason_bits == 0
        elif wanted.reason == NOTED:
            keep &= self.noted
        elif wanted.reason:
            keep &= (self.reason_bits & bits_of(wanted.reason)) > 0
        if wanted.sampler and self.samplers is not None:
            keep &= self.samplers == wanted.sampler
        return keep

    def _first(self) -> int | None:
        shown = self.shown
        undecided = shown[self.decisions[shown] == 0]
        rows = undecided if len(undecided) else shown
        return int(rows[0]) if len(rows) else None

    # The current change.

    @property
    def shown(self) -> NDArray[np.intp]:
        """Rows that the filter leaves, in order."""
        return self._order[self._shown]

    @property
    def id(self) -> int | None:
        return int(self.table.ids[self.row]) if self.row is not None else None

    @property
    def current(self) -> Change | None:
        return self.change_of(self.id) if self.id is not None else None

    @property
    def noun(self) -> str:
        """What the current one is: a nucleus in an image, or an image of its own."""
        return self.words[0] if self.row is None else "nucleus" if self.in_place else "image"

    @property
    def in_place(self) -> bool:
        """Whether it alters a real image together with others."""
        return self.row is not None and bool(self.table.in_place[self.row])

    @property
    def at(self) -> int | None:
        """Place of the current change among those shown; None where the filter leaves it out."""
        return self._next_place() if self.row is not None and self._matches[self.row] else None

    def _next_place(self) -> int:
        """Place of the current change among those shown, or of the one that follows where the filter leaves it out."""
        return int(np.searchsorted(self._shown, self._place[self.row]))

    @property
    def decision(self) -> str:
        return DECISIONS[self.decisions[self.row]] if self.row is not None else UNDECIDED

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.reasons_of(self.row) if self.row is not None else ()

    def reasons_of(self, row: int) -> tuple[str, ...]:
        """Reasons that were given for the change in a row."""
        bits = int(self.reason_bits[row])
        return tuple(reason for place, reason in enumerate(REASONS) if bits >> place & 1)

    def __len__(self) -> int:
        return len(self._shown)

    # Moving.

    def go_to(self, at: int) -> None:
        """Go to a place among those shown; the first or the last where there are not so many."""
        if len(self):
            self.row = int(self._order[self._shown[min(max(at, 0), len(self) - 1)]])

    def go(self, row: int) -> None:
        """Make a row the current one, whether the filter leaves it or not."""
        self.row = row

    def step(self, by: int) -> bool:
        """Go forth or back among those shown, from wherever the current one is; False where there is nowhere to go."""
        row = self.following(by)
        if row is not None:
            self.row = row
        return row is not None

    def following(self, by: int = 1) -> int | None:
        """The row that a step would go to."""
        target = 0
        if self.row is not None:
            target = self._next_place() + by
            if by > 0 and not self._matches[self.row]:
                # From outside the filter, the place itself is already the next one.
                target -= 1
        return int(self._order[self._shown[target]]) if 0 <= target < len(self) else None

    def step_undecided(self) -> bool:
        """Go to the next undecided one among those shown, from the start again after the end; False where none is."""
        shown = self.shown
        places = np.flatnonzero(self.decisions[shown] == 0)
        if self.row is not None:
            places = places[shown[places] != self.row]
        if not len(places):
            return False
        after = np.searchsorted(self._shown[places], self._place[self.row]) if self.row is not None else 0
        self.go_to(int(places[after % len(places)]))
        return True

    # What is in the same image.

    def undecided_here(self) -> NDArray[np.intp]:
        """Rows of the undecided ones in the current image, of those that the filter leaves."""
        rows = self._here()
        return rows[(self.decisions[rows] == 0) & self._matches[rows]]

    def _here(self) -> NDArray[np.intp]:
        table = self.table
        return table.seen_in(table.made_names[table.names[self.row]] if self.row is not None else "")

    def around(self, top: int, left: int, bottom: int, right: int) -> list[Change]:
        """The current change and those in its image that touch a window and were not taken out."""
        if self.row is None:
            return []
        rows = self.table.touching(self._here(), top, left, bottom, right)
        rows = rows[~np.isin(self.decisions[rows], GONE) & (rows != self.row)]
        ids = self.table.ids[[*rows, self.row]].tolist()
        return [change for change in map(self.change_of, ids) if change is not None]
