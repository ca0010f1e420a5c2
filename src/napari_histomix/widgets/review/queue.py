"""Which change is under review, and which come before and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Change
from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.store import REASONS
from napari_histomix.widgets.review.rows import BY_IMAGE, CODES, ChangeRows, Marks, Said, Wanted, matching
from napari_histomix.widgets.tables import DELETE, REJECT

GONE = (CODES[REJECT], CODES[DELETE])
"""Decisions that take a nucleus out of its image."""


class ReviewQueue:
    """Changes in an order, those that a filter leaves, and the current one among them.

    The current change stays where it is when a decision takes it out of the filter, so that it can be seen and the
    decision be taken back; the next one is then the one that follows it in the order. No step looks at all changes.

    Parameters
    ----------
    change_of : callable
        The change with an id; None where the study holds it no more.
    """

    def __init__(self, change_of: Callable[[int], Change | None]) -> None:
        self.change_of = change_of
        self.wanted = Wanted()
        self.by, self.seed = BY_IMAGE, 0
        self.samplers: NDArray[np.object_] | None = None
        self.row: int | None = None
        """The current row."""
        self.set_changes(ChangeRows(ChangeTable.of_rows(())), {})

    # What is in it.

    def set_changes(self, rows: ChangeRows, said: Said) -> None:
        """Review other changes; the current one stays, where it is among them, else it is the first undecided."""
        current = self.id
        self.rows = rows
        self.marks = Marks(len(rows))
        self.marks.update(rows.table, {number for given in said.values() for number in given}, said)
        self.samplers = None
        places = rows.table.rows([] if current is None else [current])
        self.row = int(places[0]) if len(places) else None
        self.arrange(self.by, self.seed)
        if self.row is None:
            self.row = self._first()

    def set_samplers(self, samplers: Mapping[int, str]) -> None:
        """Give the sampler that painted each change, by id, so that it can be filtered by."""
        self.samplers = np.array([samplers.get(number, "") for number in self.rows.table.ids.tolist()], object)
        self._refilter()

    def update(self, ids: Iterable[int], said: Said) -> None:
        """Take over what was said of some changes."""
        self.marks.update(self.rows.table, ids, said)
        self._refilter()

    def arrange(self, by: str, seed: int = 0) -> None:
        """Put the changes in another order."""
        self.by, self.seed = by, seed
        self._order = self.rows.arranged(by, seed)
        self._place = np.empty(len(self.rows), np.intp)
        self._place[self._order] = np.arange(len(self.rows))
        self._refilter()

    def filter(self, wanted: Wanted) -> None:
        """Leave only what is wanted; a current change that is not among it gives way to the next that is."""
        self.wanted = wanted
        self._refilter()
        if self.row is None or not self._matches[self.row]:
            self.row = self._first()

    def _refilter(self) -> None:
        self._matches = matching(self.rows, self.marks, self.wanted, self.samplers)
        self._shown = np.flatnonzero(self._matches[self._order])

    def _first(self) -> int | None:
        shown = self.shown
        undecided = shown[self.marks.decisions[shown] == 0]
        rows = undecided if len(undecided) else shown
        return int(rows[0]) if len(rows) else None

    # Where one is.

    @property
    def shown(self) -> NDArray[np.intp]:
        """Rows that the filter leaves, in order."""
        return self._order[self._shown]

    @property
    def id(self) -> int | None:
        """Id of the current change."""
        return int(self.rows.table.ids[self.row]) if self.row is not None else None

    @property
    def current(self) -> Change | None:
        """The change under review."""
        return self.change_of(self.id) if self.id is not None else None

    @property
    def noun(self) -> str:
        """What is under review: a nucleus or an image."""
        return self.rows.noun(self.row)

    @property
    def in_place(self) -> bool:
        """Whether it alters a real image together with others."""
        return self.row is not None and bool(self.rows.table.in_place[self.row])

    @property
    def at(self) -> int | None:
        """Place of the current change among those shown; None where the filter leaves it out."""
        if self.row is None or not self._matches[self.row]:
            return None
        return int(np.searchsorted(self._shown, self._place[self.row]))

    def __len__(self) -> int:
        """How many the filter leaves."""
        return len(self._shown)

    # Moving.

    def forget(self) -> None:
        """Begin with the first undecided one when there are other changes."""
        self.row = None

    def go(self, row: int) -> None:
        """Make a row the current one, whether the filter leaves it or not."""
        self.row = row

    def go_to(self, at: int) -> None:
        """Go to a place among those shown; the first or the last where there are not so many."""
        if len(self):
            self.row = int(self._order[self._shown[min(max(at, 0), len(self) - 1)]])

    def step(self, by: int) -> bool:
        """Go forth or back among those shown, from wherever the current one is; False where there is nowhere to go."""
        target = self._target(by)
        if target is not None:
            self.go_to(target)
        return target is not None

    def can_step(self, by: int) -> bool:
        """Whether there is one to go to."""
        return self._target(by) is not None

    def _target(self, by: int) -> int | None:
        if not len(self):
            return None
        if self.row is None:
            return 0
        at = int(np.searchsorted(self._shown, self._place[self.row]))
        inside = self._matches[self.row]
        # From outside the filter, the place itself is already the next one.
        target = at + by if inside or by < 0 else at + by - 1
        return target if 0 <= target < len(self) else None

    def step_undecided(self) -> bool:
        """Go to the next undecided one among those shown, from the start again after the end; False where none is."""
        shown = self.shown
        places = np.flatnonzero(self.marks.decisions[shown] == 0)
        if self.row is not None:
            places = places[shown[places] != self.row]
        if not len(places):
            return False
        after = np.searchsorted(self._shown[places], self._place[self.row]) if self.row is not None else 0
        self.go_to(int(places[after % len(places)]))
        return True

    def following(self) -> int | None:
        """The row that comes next."""
        target = self._target(1)
        return int(self._order[self._shown[target]]) if target is not None else None

    # What can be decided on together.

    def undecided_here(self) -> NDArray[np.intp]:
        """Rows of the undecided ones in the current image, of those that the filter leaves."""
        rows = self._here()
        return rows[(self.marks.decisions[rows] == 0) & self._matches[rows]]

    # The current one.

    @property
    def decision(self) -> int:
        """Code of the current decision (``CODES``)."""
        return int(self.marks.decisions[self.row]) if self.row is not None else 0

    def decision_of(self, id: int) -> int:
        """Code of the decision on any change."""
        return int(self.marks.decisions[self.rows.table.rows([id])[0]])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons given for the current change."""
        bits = int(self.marks.reasons[self.row]) if self.row is not None else 0
        return tuple(reason for place, reason in enumerate(REASONS) if bits >> place & 1)

    def _here(self) -> NDArray[np.intp]:
        table = self.rows.table
        return table.seen_in(table.made_names[table.names[self.row]] if self.row is not None else "")

    def around(self, top: int, left: int, bottom: int, right: int) -> list[Change]:
        """The current change and those in its image that touch a window and were not taken out."""
        if self.row is None:
            return []
        rows = self._here()
        windows = self.rows.table.windows[rows]
        near = (windows[:, 0] < bottom) & (windows[:, 2] > top) & (windows[:, 1] < right) & (windows[:, 3] > left)
        rows = rows[near & ~np.isin(self.marks.decisions[rows], GONE) & (rows != self.row)]
        ids = self.rows.table.ids[[*rows, self.row]].tolist()
        return [change for change in map(self.change_of, ids) if change is not None]
