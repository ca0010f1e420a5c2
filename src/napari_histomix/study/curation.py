"""Curation of a segment pool: segments are kept, dropped, given another class or tags, searched and sorted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histomix.records import HistomixError
from napari_histomix.segmentation.pool import DECIDED, UNDECIDED, SegmentPool, decided, drawable
from napari_histomix.study import Study
from napari_histomix.study.decision_log import Entry, Subject, items_of

Numbers = NDArray[np.intp]
Decision = Literal["keep", "drop"]
Order = Literal["added", "size", "vote share", "stability", "similarity", "uses"]

CHUNK = 50_000


@dataclass(frozen=True)
class Filters:
    """Conditions that a segment must all meet to be shown; by default there are none.

    ``kind`` is its class now; ``image`` and ``patient`` its source, in full; the words of ``text`` all occur in the
    name of its image, its patient, its slide or its tags, whatever their case; ``low`` and ``high`` bound its area,
    both included, in µm² where ``micrometers``, else in pixels; ``decision`` is "keep", "drop" or "undecided";
    ``border`` is whether it touches its image's border, None for both; ``tag`` is among its tags.
    """

    kind: str = ""
    image: str = ""
    patient: str = ""
    text: str = ""
    low: float = 0.0
    high: float = float("inf")
    micrometers: bool = False
    decision: str = ""
    border: bool | None = None
    tag: str = ""


@dataclass(frozen=True)
class Counts:
    """Numbers of segments: all, kept, dropped, at a border, and by class (``kinds``) those that are not dropped."""

    total: int
    kept: int
    dropped: int
    border: int
    kinds: Mapping[str, int]


class Curation:
    """Class, decision, tags and uses of every segment of a pool, as arrays; every decision is written to disk first.

    One thread may change it while others read.

    ``kinds`` are the classes that a segment can have, those of the pool, and ``kind`` (N,) is where each one's class
    now stands in them. ``decision`` (N,) is 0 undecided, 1 kept, 2 dropped; ``uses`` (N,) how often each was drawn,
    zeros until ``set_uses``; ``area`` (N,) is in pixels; ``border`` (N,) is whether it touches its image's border.
    """

    def __init__(self, study: Study, pool: SegmentPool) -> None:
        self.study, self.pool = study, pool
        self.kinds = pool.kinds
        rows = pool.rows
        # Fields of a structured array lie 60 bytes apart; a million of them are read ten times faster contiguously.
        self.area = np.ascontiguousarray(rows["area"])
        self.border = np.ascontiguousarray(rows["border"])
        self.image = rows["image"].astype(np.int32)
        self.uses = np.zeros(len(pool), np.int32)
        self._label = np.ascontiguousarray(rows["number"])
        self._scores = {name: np.ascontiguousarray(rows[name]) for name in ("vote_share", "stability")}
        self._home = pool.image_kinds.astype(np.int16)
        sources = [image.source for image in pool.images]
        self._texts = [" ".join((source.image, source.patient, source.slide)).casefold() for source in sources]
        self._squares = np.array([image.mpp**2 for image in pool.images], np.float32)
        self._images: dict[str, list[int]] = {}
        for index, source in enumerate(sources):
            self._images.setdefault(source.image, []).append(index)
        # Sets of tags are only ever added, so that codes stay valid for threads that read in the meantime.
        self._sets: list[tuple[str, ...]] = [()]
        self._codes = {"": 0}
        self._load()

    def __len__(self) -> int:
        return len(self.pool)

    def _load(self) -> None:
        """Read all decisions from the study."""
        subjects: tuple[Subject, ...] = ("segment", "segment class")
        decision, kind = decided(self.pool, {subject: self.study.decisions(subject) for subject in subjects})
        tags = np.zeros(len(self), np.int32)
        for number, word in self.study.decisions("segment tags").items():
            if number < len(self):
                tags[number] = self._code(word)
        self.decision, self.kind, self._tags = decision, kind, tags

    def _code(self, word: str) -> int:
        if word not in self._codes:
            self._sets.append(_split(word))
            self._codes[word] = len(self._sets) - 1
        return self._codes[word]

    # Decisions: written to disk first.

    def decide(self, numbers: ArrayLike, decision: Decision | None) -> Numbers:
        """Keep or drop segments, numbers or (N,) bool, or leave them undecided (None); returns those that changed.

        Raises HistomixError if the study cannot be written; nothing has changed then.
        """
        return self._set("segment", self.decision, numbers, DECIDED.index(decision or UNDECIDED), decision)

    def relabel(self, numbers: ArrayLike, kind: str) -> Numbers:
        """Give segments another class of the pool; returns those that changed."""
        if kind not in self.kinds:
            raise HistomixError(f"The pool has no class {kind}; choose one of {', '.join(self.kinds)}.")
        return self._set("segment class", self.kind, numbers, self.kinds.index(kind), kind)

    def _set(
        self, subject: Subject, codes: NDArray[np.signedinteger], numbers: ArrayLike, code: int, decision: str | None
    ) -> Numbers:
        chosen = self._numbers(numbers)
        chosen = chosen[codes[chosen] != code]
        if len(chosen):
            self.study.decide(subject, chosen.tolist(), decision)
            codes[chosen] = code
        return chosen

    def tag(self, numbers: ArrayLike, text: str) -> Numbers:
        """Add a tag, or several separated by commas, to segments; returns those that changed."""
        return self._retag(numbers, text, add=True)

    def untag(self, numbers: ArrayLike, text: str = "") -> Numbers:
        """Remove a tag from segments, or all tags; returns those that changed."""
        return self._retag(numbers, text, add=False)

    def _retag(self, numbers: ArrayLike, text: str, *, add: bool) -> Numbers:
        named = set(_split(text))
        if add and not named:
            raise HistomixError("Write what to tag the segments with.")
        chosen = self._numbers(numbers)
        changed: list[Numbers] = []
        entries: list[Entry] = []
        words: list[str] = []
        for code in np.unique(self._tags[chosen]).tolist():
            before = set(self._sets[code])
            after = before | named if add else before - named if named else set()
            if after != before:
                words.append(", ".join(sorted(after)))
                changed.append(chosen[self._tags[chosen] == code])
                entries += [("segment tags", number, words[-1] or None) for number in changed[-1].tolist()]
        if entries:
            self.study.act(entries)
            for numbers_changed, word in zip(changed, words, strict=True):
                self._tags[numbers_changed] = self._code(word)
        return np.sort(np.concatenate(changed)) if changed else np.empty(0, np.intp)

    def correct(self, replaced: Mapping[int, int], dropped: Iterable[int] = ()) -> None:
        """Drop segments, some of them because others take their place, as one act.

        A replacement (the new segment for each old one) inherits the class, the tags and the keeping of the segment
        that it replaces; ``dropped`` are segments without a replacement.
        """
        entries: list[Entry] = [("segment", number, "drop") for number in (*replaced, *dropped)]
        for old, new in replaced.items():
            if self.kind[old] != self.kind[new]:
                entries.append(("segment class", new, self.kind_of(old)))
            if tags := self.tags_of(old):
                entries.append(("segment tags", new, ", ".join(tags)))
            if self.decision[old] == 1:
                entries.append(("segment", new, "keep"))
        if entries:
            self.study.act(entries)
            self._load()

    def undo(self) -> Numbers:
        """Undo the last act, also one of an earlier session; returns the segments that it touched."""
        return self._turned(self.study.undo("segment"))

    def redo(self) -> Numbers:
        """Redo the act that was undone last, unless there is a newer one; returns the segments that it touched."""
        return self._turned(self.study.redo("segment"))

    def _turned(self, entries: Iterable[Entry]) -> Numbers:
        numbers = np.array(sorted(items_of(entries)), np.intp)
        if len(numbers):
            self._load()
        return numbers[numbers < len(self)]

    def set_uses(self, uses: Mapping[int, int] | ArrayLike) -> None:
        """Set how often segments were drawn: by number, or (N,) int of all."""
        if isinstance(uses, Mapping):
            self.uses = np.zeros(len(self), np.int32)
            self.uses[list(uses)] = list(uses.values())
        else:
            self.uses = np.broadcast_to(np.asarray(uses, np.int32), len(self))

    def _numbers(self, numbers: ArrayLike) -> Numbers:
        given = np.atleast_1d(np.asarray(numbers))
        return np.flatnonzero(given) if given.dtype == bool else given.astype(np.intp)

    # Questions.

    def kind_of(self, number: int) -> str:
        """Class of a segment now."""
        return self.kinds[int(self.kind[number])]

    def tags_of(self, number: int) -> tuple[str, ...]:
        """Tags of a segment in alphabetical order."""
        return self._sets[int(self._tags[number])]

    def tags(self) -> tuple[str, ...]:
        """All tags in use, in alphabetical order."""
        used = np.flatnonzero(np.bincount(self._tags, minlength=len(self._sets)))
        return tuple(sorted({tag for code in used.tolist() for tag in self._sets[code]}))

    def micrometers(self, number: int) -> float:
        """Area of a segment in square micrometers."""
        return float(self.area[number] * self._squares[self.image[number]])

    def find(self, image: str, label: int) -> int | None:
        """Number of the segment with a label in an image's segment map; the newest, if it was divided again."""
        for index in reversed(self._images.get(image, [])):
            numbers = np.flatnonzero((self.image == index) & (self._label == label))
            if len(numbers):
                return int(numbers[-1])
        return None

    def allowed(self) -> NDArray[np.bool_]:
        """Which segments may be drawn, (N,): those that are not dropped."""
        return self.decision != 2

    def members(self, kind: str) -> Numbers:
        """Segments of a class that may be drawn."""
        return drawable(self.pool, self.decision, self.kind, kind)

    def cut_off(self) -> NDArray[np.bool_]:
        """Which undecided segments are cut off by their image's border, (N,) bool."""
        return self.border & (self.decision == 0)

    def counts(self) -> Counts:
        """Numbers of segments by decision and class."""
        drawn = np.bincount(self.kind[self.allowed()], minlength=len(self.kinds))
        return Counts(
            len(self),
            int(np.count_nonzero(self.decision == 1)),
            int(np.count_nonzero(self.decision == 2)),
            int(np.count_nonzero(self.border)),
            dict(zip(self.kinds, drawn.tolist(), strict=True)),
        )

    def matching(self, filters: Filters) -> Numbers:
        """Segments that meet all conditions of the filters, in the order they were added."""
        match = np.ones(len(self), bool)
        if filters.kind:
            match &= self.kind == (self.kinds.index(filters.kind) if filters.kind in self.kinds else -1)
        if filters.decision:
            match &= self.decision == DECIDED.index(filters.decision)
        if filters.border is not None:
            match &= self.border == filters.border
        if filters.image or filters.patient:
            sources = [image.source for image in self.pool.images]
            wanted = [
                filters.image in ("", source.image) and filters.patient in ("", source.patient) for source in sources
            ]
            match &= np.array(wanted, bool)[self.image]
        for word in filters.text.casefold().split():
            in_text = np.array([word in text for text in self._texts], bool)
            in_tags = np.array([any(word in tag.casefold() for tag in tags) for tags in self._sets])
            match &= in_text[self.image] | in_tags[self._tags]
        if filters.tag:
            match &= np.array([filters.tag in tags for tags in self._sets])[self._tags]
        if filters.low > 0 or np.isfinite(filters.high):
            size = self.area * self._squares[self.image] if filters.micrometers else self.area
            match &= (size >= filters.low) & (size <= filters.high)
        return np.flatnonzero(match)

    def ordered(self, numbers: Numbers, by: Order, selected: int | None = None, reverse: bool = False) -> Numbers:
        """Sort segments: the largest, most agreed on, most used or most similar first; ``reverse`` turns the order.

        Similarity to ``selected`` is the distance of vectors for segments of its image's class. The vectors of other
        classes lie in spaces of their own: their segments follow, by distance on the map of all classes. Equal segments
        stay in the order they were added.
        """
        numbers = self._numbers(numbers)
        if (numbers[1:] < numbers[:-1]).any():
            numbers = np.sort(numbers)
        if by == "similarity" and selected is not None:
            return _sorted(numbers, self._dissimilarity(numbers, selected), reverse)
        if by in ("added", "similarity"):
            return numbers[::-1] if reverse else numbers
        if by in ("vote share", "stability"):
            keys = self._scores[by.replace(" ", "_")][numbers]
        else:
            keys = (self.area if by == "size" else self.uses)[numbers].astype(np.float32)
        return _sorted(numbers, keys, not reverse)

    def _dissimilarity(self, numbers: Numbers, selected: int) -> NDArray[np.float32]:
        target = np.asarray(self.pool.vectors(np.array([selected]))[0])
        own = self._home[numbers] == self._home[selected]
        distances = np.empty(len(numbers), np.float32)
        members = np.flatnonzero(own)
        for start in range(0, len(members), CHUNK):
            chunk = members[start : start + CHUNK]
            apart = self.pool.vectors(numbers[chunk]) - target
            distances[chunk] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        if not own.all():
            places = self.pool.places()
            others = numbers[~own]
            farthest = distances[members].max(initial=0.0)
            distances[~own] = farthest + 1 + np.linalg.norm(places[others] - places[selected], axis=1)
        return distances


def _split(text: str) -> tuple[str, ...]:
    return tuple(sorted({" ".join(tag.split()) for tag in text.split(",")} - {""}))


def _sorted(numbers: Numbers, keys: NDArray[np.float32], descending: bool) -> Numbers:
    """Numbers sorted by keys that are not negative, stably, several times as fast as with a stable argsort."""
    # The bits of such a float, read as an integer, have the same order (a zero must have no sign). Each half of them
    # is sorted by counting, the lower half first.
    bits = (np.maximum(np.asarray(keys, np.float32), 0) + np.float32(0)).view(np.uint32)
    if descending:
        bits = ~bits
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    return numbers[order[np.argsort((bits >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]]
