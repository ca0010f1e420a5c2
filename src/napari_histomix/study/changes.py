"""The changes of a study: light in memory, their pixels and provenance read when somebody looks at them."""

from __future__ import annotations

import gc
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import KEEP, Change, SourceRef

Patch = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32] | None]
"""Pixels, origin and labels of a change."""

GRAY_LABELS = 63
"""Labels that fit, beside the origin, into a gray picture of 8 bits."""


@contextmanager
def gc_off() -> Iterator[None]:
    """Make many objects that all stay without Python looking through them again and again for garbage."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def packed_masks(change: Change) -> tuple[NDArray[np.uint8], list[int] | None]:
    """Origin and labels of a change as one picture, and the labels that its numbers stand for.

    The two lowest bits of the first channel are the origin; what is above, with the other two channels below it, counts
    in the list of labels from 1. Few labels make a gray picture, many a colored one.
    """
    if change.labels is None:
        return change.origin, None
    values, places = np.unique(change.labels, return_inverse=True)
    labels = [int(value) for value in values if value != KEEP]
    index = places.reshape(change.labels.shape).astype(np.int64) + (0 if KEEP in values else 1)
    if len(labels) <= GRAY_LABELS:
        return np.asarray(change.origin | (index << 2), np.uint8), labels
    channels = change.origin | (index >> 16 << 2), index >> 8 & 255, index & 255
    return np.stack(channels, axis=-1).astype(np.uint8), labels


def unpacked_masks(picture: NDArray[np.uint8], labels: Sequence[int] | None) -> tuple[NDArray[np.uint8], Any]:
    """Origin (h, w) and labels (h, w), or None, of what ``packed_masks`` made."""
    if labels is None:
        return picture, None
    if picture.ndim == 2:
        first, index = picture, picture.astype(np.int64) >> 2
    else:
        first = picture[..., 0]
        high, middle, low = (picture[..., channel].astype(np.int64) for channel in range(3))
        index = high >> 2 << 16 | middle << 8 | low
    return np.asarray(first & 3, np.uint8), np.array([KEEP, *labels], np.int32)[index]


def described(change: Change, labels: Sequence[int] | None) -> str:
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
    """A change whose pixels, masks and provenance are on disk.

    Parameters
    ----------
    header : Header
    patch : callable
        Reads pixels, origin and labels by id.
    facts : callable
        Reads the provenance by id.
    """

    __slots__ = ("_facts", "_patch", "_shape")
    _facts: Callable[[int], Mapping[str, Any]]
    _patch: Callable[[int], Patch]
    _shape: tuple[int, int]

    def __init__(
        self, header: Header, patch: Callable[[int], Patch], facts: Callable[[int], Mapping[str, Any]]
    ) -> None:
        about = json.loads(header.about)
        values = {
            "id": header.id,
            "image": header.image,
            "name": header.name,
            "row": header.row,
            "col": header.col,
            "added": dict(about["added"]),
            "removed": tuple(about["removed"]),
            "class_shares": about.get("class_shares"),
            "method": header.method,
            "seed": header.seed,
            "sources": tuple(SourceRef(*source) for source in about["sources"]),
            "score": float("nan") if header.score is None else header.score,
            "_shape": (header.height, header.width),
            "_patch": patch,
            "_facts": facts,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the patch."""
        return self._shape

    def moved(self, row: int, col: int) -> Change:
        """The same patch with its upper left corner elsewhere."""
        other = object.__new__(StoredChange)
        for name in _SLOTS:
            object.__setattr__(other, name, getattr(self, name))
        object.__setattr__(other, "row", row)
        object.__setattr__(other, "col", col)
        return other

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Patch (h, w, 3)."""
        return self._patch(self.id)[0]

    @property
    def origin(self) -> NDArray[np.uint8]:
        """Origin map (h, w)."""
        return self._patch(self.id)[1]

    @property
    def labels(self) -> NDArray[np.int32] | None:
        """Labels (h, w), or None."""
        return self._patch(self.id)[2]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How it was made."""
        return self._facts(self.id)


_SLOTS = (
    *("id", "image", "name", "row", "col", "added", "removed", "class_shares", "method", "seed", "sources", "score"),
    *StoredChange.__slots__,
)


class Changes(Sequence[Change]):
    """Changes of a study by id, made into objects one at a time.

    Parameters
    ----------
    headers : sequence of Header
    patch, facts : callable
        As for ``StoredChange``.
    """

    def __init__(
        self,
        headers: Sequence[Header],
        patch: Callable[[int], Patch],
        facts: Callable[[int], Mapping[str, Any]],
    ) -> None:
        self._headers, self._patch, self._facts = headers, patch, facts

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
            return Changes(self._headers[index], self._patch, self._facts)
        return StoredChange(self._headers[index], self._patch, self._facts)

    def followed(self, tail: Changes) -> Changes:
        """As ``ChangeTable.followed``."""
        first = tail._headers[0].id if len(tail) else None
        kept = bisect_left(self._headers, first, key=lambda header: header.id) if first is not None else len(self)
        return Changes([*self._headers[:kept], *tail._headers], self._patch, self._facts)

    def where(self, wanted: Callable[[Header], bool]) -> Changes:
        """Those whose headers are wanted."""
        return Changes([header for header in self._headers if wanted(header)], self._patch, self._facts)


@dataclass(frozen=True, eq=False)
class ChangeTable:
    """What never changes of N changes as arrays, a row for each, in the order of their ids.

    Parameters
    ----------
    ids : (N,) int64
    images, names, donor_images, methods : (N,) int32
        Places in ``image_names``, ``made_names``, ``donor_image_names`` and ``method_names``.
    donors, replaced : (N,) int32
        Instance or segment of the first donor; class number of the nucleus that was replaced (0 for none).
    classes : (N,) int32
        Places in ``class_keys``: the class number of what was added, or the class's name for an image that has one.
    scores : (N,) float64
    windows : (N, 4) int32
        Top, left, bottom and right of the patch, the last two not included.
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
        images, image_names = coded(targets)
        names, made_names = coded(seen_in)
        donor_images, donor_image_names = coded(givers)
        methods, method_names = coded(made_by)
        classes, class_keys = coded([kind or number for number, kind in zip(types, kinds, strict=True)])
        windows = np.array(corners, np.int32).reshape(4, len(ids)).T.copy()
        windows[:, 2:] += windows[:, :2]
        return cls(
            np.array(ids, np.int64),
            images,
            names,
            donor_images,
            methods,
            np.array(donors, np.int32),
            np.array(replaced, np.int32),
            classes,
            np.array([np.nan if score is None else score for score in scores], np.float64),
            windows,
            image_names,
            made_names,
            donor_image_names,
            method_names,
            class_keys,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _by_name(self) -> tuple[NDArray[np.intp], NDArray[np.intp], dict[str, int]]:
        order = np.argsort(self.names, kind="stable")
        starts = np.searchsorted(self.names[order], np.arange(len(self.made_names) + 1))
        return order, starts, {name: code for code, name in enumerate(self.made_names)}

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
        columns: dict[str, Any] = {}
        for name in ("ids", "donors", "replaced", "scores", "windows"):
            columns[name] = np.concatenate([getattr(self, name)[kept], getattr(tail, name)])
        for name, key in _NAMES.items():
            names: dict[Any, int] = {text: code for code, text in enumerate(getattr(self, key))}
            codes = np.array([names.setdefault(text, len(names)) for text in getattr(tail, key)], np.int32)
            columns[name] = np.concatenate([getattr(self, name)[kept], codes[getattr(tail, name)]])
            columns[key] = tuple(names)
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
