"""The changes of a study: light in memory, their pixels and provenance read when somebody looks at them."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Change, SourceRef

if TYPE_CHECKING:
    from napari_histomix.study.runs import ChangeStore

Patch = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32] | None]
"""Pixels, origin and labels of a change."""


@dataclass(frozen=True, slots=True)
class Header:
    """A row of a study's changes without its pictures and its provenance."""

    id: int
    image: str
    name: str
    row: int
    col: int
    height: int
    width: int
    method: str
    seed: int
    score: float | None
    about: str


class StoredChange(Change):
    """A change whose pixels, masks and provenance are on disk."""

    __slots__ = ("_header", "_store")
    _header: Header
    _store: ChangeStore

    def __init__(self, header: Header, store: ChangeStore) -> None:
        about = json.loads(header.about)
        values = {name: getattr(header, name) for name in ("id", "image", "name", "row", "col", "method", "seed")}
        values |= {
            "added": dict(about["added"]),
            "removed": tuple(about["removed"]),
            "class_shares": about.get("class_shares"),
            "sources": tuple(SourceRef(*source) for source in about["sources"]),
            "score": float("nan") if header.score is None else header.score,
            "_header": header,
            "_store": store,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        return self._header.height, self._header.width

    def moved(self, row: int, col: int) -> Change:
        return StoredChange(replace(self._header, row=row, col=col), self._store)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return self._store.patch(self.id)[0]

    @property
    def origin(self) -> NDArray[np.uint8]:
        return self._store.patch(self.id)[1]

    @property
    def labels(self) -> NDArray[np.int32] | None:
        return self._store.patch(self.id)[2]

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self._store.provenance([self.id])[self.id]


class Changes(Sequence[Change]):
    """Changes of a study by id, made into objects one at a time (``StoredChange``)."""

    def __init__(self, headers: Sequence[Header], store: ChangeStore) -> None:
        self._headers, self._store = headers, store

    @property
    def ids(self) -> list[int]:
        """Their ids."""
        return [header.id for header in self._headers]

    def __len__(self) -> int:
        return len(self._headers)

    @overload
    def __getitem__(self, index: int) -> Change: ...

    @overload
    def __getitem__(self, index: slice) -> Changes: ...

    def __getitem__(self, index: int | slice) -> Change | Changes:
        if isinstance(index, slice):
            return Changes(self._headers[index], self._store)
        return StoredChange(self._headers[index], self._store)

    def followed(self, tail: Changes) -> Changes:
        """As ``ChangeTable.followed``."""
        kept = bisect_left(self._headers, tail._headers[0].id, key=attrgetter("id")) if len(tail) else len(self)
        return Changes([*self._headers[:kept], *tail._headers], self._store)

    def where(self, wanted: Callable[[Header], bool]) -> Changes:
        """Those whose headers are wanted."""
        return Changes([header for header in self._headers if wanted(header)], self._store)


@dataclass(frozen=True, eq=False)
class ChangeTable:
    """What never changes of N changes as arrays, a row for each, in the order of their ids.

    ``images``, ``names``, ``donor_images``, ``methods`` and ``classes`` are places in ``image_names``, ``made_names``,
    ``donor_image_names``, ``method_names`` and ``class_keys``: class numbers of what was added, or the class's name for
    an image that has one. ``donors`` are instances or segments of the first donor, ``replaced`` the class numbers of
    the nuclei that were replaced (0 for none), ``windows`` (N, 4) top, left, bottom and right of the patch, the last
    two not included.
    """

    ids: NDArray[np.int64]
    images: NDArray[np.int32]
    names: NDArray[np.int32]
    donor_images: NDArray[np.int32]
    methods: NDArray[np.int32]
    donors: NDArray[np.int32]
    replaced: NDArray[np.int32]
    classes: NDArray[np.int32]
    scores: NDArray[np.float64]
    windows: NDArray[np.int32]
    image_names: tuple[str, ...]
    made_names: tuple[str, ...]
    donor_image_names: tuple[str, ...]
    method_names: tuple[str, ...]
    class_keys: tuple[int | str, ...]

    COLUMNS = "id, image, name, donor_image, method, donor, replaced, type, kind, score, row, col, height, width"

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[Any, ...]]) -> Self:
        """The table of rows with ``COLUMNS``."""
        columns = list(zip(*rows, strict=True)) or [()] * 14
        ids, targets, seen_in, givers, made_by, donors, replaced, types, kinds, scores, *corners = columns
        windows = np.array(corners, np.int32).reshape(4, len(ids)).T.copy()
        windows[:, 2:] += windows[:, :2]
        classes = [kind or number for number, kind in zip(types, kinds, strict=True)]
        coded_columns: dict[str, Any] = {}
        for name, names in zip(_NAMES, (targets, seen_in, givers, made_by, classes), strict=True):
            coded_columns[name], coded_columns[_NAMES[name]] = coded(names)
        return cls(
            ids=np.array(ids, np.int64),
            donors=np.array(donors, np.int32),
            replaced=np.array(replaced, np.int32),
            scores=np.array([np.nan if score is None else score for score in scores], np.float64),
            windows=windows,
            **coded_columns,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _by_name(self) -> tuple[NDArray[np.intp], NDArray[np.intp], dict[str, int]]:
        order = np.argsort(self.names, kind="stable")
        starts = np.searchsorted(self.names[order], np.arange(len(self.made_names) + 1))
        return order, starts, {name: code for code, name in enumerate(self.made_names)}

    def touching(self, rows: NDArray[np.intp], top: int, left: int, bottom: int, right: int) -> NDArray[np.intp]:
        """Those of some rows whose changes touch a window of their image."""
        windows = self.windows[rows]
        near = (windows[:, 0] < bottom) & (windows[:, 2] > top) & (windows[:, 1] < right) & (windows[:, 3] > left)
        return rows[near]

    def seen_in(self, name: str) -> NDArray[np.intp]:
        """Rows of the changes that are seen in an image, by its name."""
        order, starts, codes = self._by_name
        code = codes.get(name)
        return order[:0] if code is None else order[starts[code] : starts[code + 1]]

    @cached_property
    def in_place(self) -> NDArray[np.bool_]:
        """Which rows (N,) alter a window of a real image (``Change.in_place``)."""
        places = {name: code for code, name in enumerate(self.image_names) if name}
        same = np.array([places.get(name, -1) for name in self.made_names], np.int32)
        return np.asarray(same[self.names] == self.images)

    def followed(self, tail: ChangeTable) -> ChangeTable:
        """The rows before the first id of another table, then that table: what a study holds once more is made."""
        if not len(tail):
            return self
        kept = slice(int(np.searchsorted(self.ids, tail.ids[0])))
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(self, name)[kept], getattr(tail, name)])
            for name in ("ids", "donors", "replaced", "scores", "windows")
        }
        for name, key in _NAMES.items():
            known = getattr(self, key)
            codes, columns[key] = coded((*known, *getattr(tail, key)))
            columns[name] = np.concatenate([getattr(self, name)[kept], codes[len(known) :][getattr(tail, name)]])
        return ChangeTable(**columns)

    def rows(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.intp]:
        """Rows of those ids that are here."""
        wanted = np.asarray(ids, np.int64)
        places = np.searchsorted(self.ids, wanted)
        here = places < len(self.ids)
        here[here] = self.ids[places[here]] == wanted[here]
        return places[here]


_NAMES = {
    "images": "image_names",
    "names": "made_names",
    "donor_images": "donor_image_names",
    "methods": "method_names",
    "classes": "class_keys",
}
"""Columns that hold places in a tuple of names, and that tuple."""


def coded(names: Sequence[Any]) -> tuple[NDArray[np.int32], tuple[Any, ...]]:
    """Names as places (N,) in a tuple of the different ones, in the order of their first occurrence."""
    known: dict[Any, int] = {}
    codes = np.array([known.setdefault(name, len(known)) for name in names], np.int32)
    return codes, tuple(known)
