"""What a person makes of a segment pool: segments kept, dropped, given another class or tags, found, put in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histomix.records import HistomixError
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study.decision_log import Change, Subject, items_of
from napari_histomix.study.store import Study

Numbers = NDArray[np.intp]
Decision = Literal["keep", "drop"]
Order = Literal["added", "size", "vote share", "stability", "similarity", "uses"]

UNDECIDED = "undecided"
DECIDED: tuple[str, str, str] = (UNDECIDED, "keep", "drop")
"""What the codes 0, 1 and 2 of ``Curation.decision`` stand for."""
CHUNK = 50_000


@dataclass(frozen=True)
class Filters:
    """What a segment must agree with to be shown; all of it, and nothing by default.

    Parameters
    ----------
    kind : str
        Its class now.
    image, patient : str
        Its source, in full.
    text : str
        Words that all occur in the name of its image, its patient, its slide or its tags; case does not matter.
    low, high : float
        Its area, both included; in square micrometers where ``micrometers``, else in pixels.
    decision : str
        "keep", "drop" or "undecided".
    border : bool, optional
        Whether it touches its image's border; None for both.
    tag : str
        One of its tags.
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
    """How many segments there are, were kept, were dropped, touch a border; ``kinds`` counts those not dropped."""

    total: int
    kept: int
    dropped: int
    border: int
    kinds: Mapping[str, int]


class Curation:
    """Class, decision, tags and uses of every segment of a pool, as arrays; changes are on disk before they are here.

    One thread may change it while others read.

    Parameters
    ----------
    study : Study
    pool : SegmentPool
        The study's.

    Attributes
    ----------
    kinds : tuple of str
        Classes a segment can have: the pool's.
    kind : (N,) int16
        Class of every segment now, an index into ``kinds``.
    decision : (N,) int8
        0 undecided, 1 kept, 2 dropped.
    uses : (N,) int32
        How often it was drawn; zeros until ``set_uses``.
    area : (N,) int32
        In pixels.
    border : (N,) bool
    """

    def __init__(self, study: Study, pool: SegmentPool) -> None:
        self.study, self.pool = study, pool
        self.kinds = pool.kinds
        rows = pool.rows
        # Fields of a structured array lie 60 bytes apart; a million of them are read ten times faster side by side.
        self.area = np.ascontiguousarray(rows["area"])
        self.border = np.ascontiguousarray(rows["border"])
        self.image = rows["image"].astype(np.int32)
        self.uses = np.zeros(len(pool), np.int32)
        self._label = np.ascontiguousarray(rows["number"])
        self._scores = {name: np.ascontiguousarray(rows[name]) for name in ("vote_share", "stability")}
        self._home = pool.image_kinds.astype(np.int16)
        self._texts = [
            " ".join((one.source.image, one.source.patient, one.source.slide)).casefold() for one in pool.images
        ]
        self._squares = np.array([one.mpp**2 for one in pool.images], np.float32)
        self._images: dict[str, list[int]] = {}
        for index, one in enumerate(pool.images):
            self._images.setdefault(one.source.image, []).append(index)
        # Sets of tags are only ever added, so that a code means the same to whoever reads meanwhile.
        self._sets: list[tuple[str, ...]] = [()]
        self._codes = {"": 0}
        self._load()

    def __len__(self) -> int:
        return len(self.pool)

    def _load(self) -> None:
        """Read everything from the study. What it says of segments or classes the pool lacks is passed over."""
        decision, kind = np.zeros(len(self), np.int8), self._home.copy()
        for number, word in self._stored("segment"):
            decision[number] = DECIDED.index(word)
        known = {name: index for index, name in enumerate(self.kinds)}
        for number, word in self._stored("segment class"):
            kind[number] = known.get(word, kind[number])
        tags = np.zeros(len(self), np.int32)
        for number, word in self._stored("segment tags"):
            tags[number] = self._code(word)
        self.decision, self.kind, self._tags = decision, kind, tags

    def _code(self, word: str) -> int:
        if word not in self._codes:
            self._sets.append(_split(word))
            self._codes[word] = len(self._sets) - 1
        return self._codes[word]

    def _stored(self, subject: Subject) -> Iterable[tuple[int, str]]:
        return ((number, word) for number, word in self.study.decisions(subject).items() if number < len(self))

    # Changes: on disk first.

    def decide(self, numbers: ArrayLike, decision: Decision | None) -> Numbers:
        """Keep or drop segments, or leave them undecided (None).

        Parameters
        ----------
        numbers : (n,) int, or (N,) bool

        Returns
        -------
        (n,) int
            Those that changed.

        Raises
        ------
        HistomixError
            If the study cannot be written; nothing has changed then.
        """
        code = DECIDED.index(decision or UNDECIDED)
        chosen = self._numbers(numbers)
        chosen = chosen[self.decision[chosen] != code]
        if len(chosen):
            self.study.decide("segment", chosen.tolist(), decision)
            self.decision[chosen] = code
        return chosen

    def drop_border(self, kept: bool = False) -> int:
        """Drop the segments that ``cut_off`` says; how many."""
        return len(self.decide(self.cut_off(kept), "drop"))

    def relabel(self, numbers: ArrayLike, kind: str) -> Numbers:
        """Give segments another class of the pool; those that changed.

        Raises
        ------
        HistomixError
            If the pool has no such class, or the study cannot be written.
        """
        if kind not in self.kinds:
            raise HistomixError(f"The pool has no class {kind}; choose one of {', '.join(self.kinds)}.")
        chosen, index = self._numbers(numbers), self.kinds.index(kind)
        chosen = chosen[self.kind[chosen] != index]
        if len(chosen):
            self.study.decide("segment class", chosen.tolist(), kind)
            self.kind[chosen] = index
        return chosen

    def tag(self, numbers: ArrayLike, text: str) -> Numbers:
        """Add a tag, or several with commas between, to segments; those that changed.

        Raises
        ------
        HistomixError
            If there is no text, or the study cannot be written.
        """
        return self._retag(numbers, text, add=True)

    def untag(self, numbers: ArrayLike, text: str = "") -> Numbers:
        """Take a tag off segments, or all of them; those that changed."""
        return self._retag(numbers, text, add=False)

    def _retag(self, numbers: ArrayLike, text: str, *, add: bool) -> Numbers:
        named = set(_split(text))
        if add and not named:
            raise HistomixError("Write what to tag the segments with.")
        chosen = self._numbers(numbers)
        changed: list[Numbers] = []
        changes: list[Change] = []
        words: list[str] = []
        for code in np.unique(self._tags[chosen]).tolist():
            before = set(self._sets[code])
            after = before | named if add else before - named if named else set()
            if after != before:
                words.append(", ".join(sorted(after)))
                changed.append(chosen[self._tags[chosen] == code])
                changes += [("segment tags", number, words[-1] or None) for number in changed[-1].tolist()]
        if changes:
            self.study.act(changes)
            for some, word in zip(changed, words, strict=True):
                self._tags[some] = self._code(word)
        return np.sort(np.concatenate(changed)) if changed else np.empty(0, np.intp)

    def correct(self, replaced: Mapping[int, int], dropped: Iterable[int] = ()) -> None:
        """Let segments take the place of others, which are dropped, and drop more: all of it one act.

        What a person said of a segment, its class, its tags and that it is kept, holds for the one in its place.

        Parameters
        ----------
        replaced : mapping of int to int
            The new segment for each old one.
        dropped : iterable of int
            More that are dropped.

        Raises
        ------
        HistomixError
            If the study cannot be written; nothing has changed then.
        """
        changes: list[Change] = [("segment", number, "drop") for number in (*replaced, *dropped)]
        for old, new in replaced.items():
            if self.kind[old] != self.kind[new]:
                changes.append(("segment class", new, self.kind_of(old)))
            if tags := self.tags_of(old):
                changes.append(("segment tags", new, ", ".join(tags)))
            if self.decision[old] == 1:
                changes.append(("segment", new, "keep"))
        if changes:
            self.study.act(changes)
            self._load()

    def undo(self) -> Numbers:
        """Take the last change back, whatever it was and also one of an earlier session; the segments it concerned."""
        return self._turned(self.study.undo("segment"))

    def redo(self) -> Numbers:
        """Make the change again that was taken back last, until there is a new one; the segments it concerned."""
        return self._turned(self.study.redo("segment"))

    def _turned(self, changes: Iterable[Change]) -> Numbers:
        numbers = np.array(sorted(items_of(changes)), np.intp)
        if len(numbers):
            self._load()
        return numbers[numbers < len(self)]

    def set_uses(self, uses: Mapping[int, int] | ArrayLike) -> None:
        """Say how often segments were drawn: by number, or (N,) int of all."""
        if isinstance(uses, Mapping):
            counted = np.zeros(len(self), np.int32)
            for number, count in uses.items():
                counted[number] = count
        else:
            counted = np.broadcast_to(np.asarray(uses, np.int32), len(self))
        self.uses = counted

    def _numbers(self, numbers: ArrayLike) -> Numbers:
        found = np.atleast_1d(np.asarray(numbers))
        return np.flatnonzero(found) if found.dtype == bool else found.astype(np.intp)

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
        """Number of the segment with a label in an image's segment map; the last one made, where it was made again."""
        for index in reversed(self._images.get(image, [])):
            found = np.flatnonzero((self.image == index) & (self._label == label))
            if len(found):
                return int(found[-1])
        return None

    def allowed(self) -> NDArray[np.bool_]:
        """Which segments may be drawn, (N,): those that are not dropped."""
        return self.decision != 2

    def members(self, kind: str) -> Numbers:
        """Segments of a class that may be drawn."""
        return np.flatnonzero((self.kind == self._index(kind)) & self.allowed())

    def _index(self, kind: str) -> int:
        return self.kinds.index(kind) if kind in self.kinds else -1

    def cut_off(self, kept: bool = False) -> NDArray[np.bool_]:
        """Which undecided segments, and ``kept`` ones, their image's border cuts off, (N,): their rest is missing."""
        return self.border & (self.decision != 2 if kept else self.decision == 0)

    def counts(self) -> Counts:
        """How many there are of what."""
        drawn = np.bincount(self.kind[self.allowed()], minlength=len(self.kinds))
        return Counts(
            len(self),
            int(np.count_nonzero(self.decision == 1)),
            int(np.count_nonzero(self.decision == 2)),
            int(np.count_nonzero(self.border)),
            dict(zip(self.kinds, drawn.tolist(), strict=True)),
        )

    def matching(self, filters: Filters) -> Numbers:
        """Segments that agree with everything the filters say, in the order they were added."""
        found = np.ones(len(self), bool)
        if filters.kind:
            found &= self.kind == self._index(filters.kind)
        if filters.decision:
            found &= self.decision == DECIDED.index(filters.decision)
        if filters.border is not None:
            found &= self.border == filters.border
        if filters.image or filters.patient:
            sources = [one.source for one in self.pool.images]
            found &= self._of_images(
                [filters.image in ("", one.image) and filters.patient in ("", one.patient) for one in sources]
            )
        for word in filters.text.casefold().split():
            found &= self._of_images([word in text for text in self._texts]) | self._of_tags(
                [any(word in tag.casefold() for tag in one) for one in self._sets]
            )
        if filters.tag:
            found &= self._of_tags([filters.tag in one for one in self._sets])
        if filters.low > 0 or np.isfinite(filters.high):
            size = self.area * self._squares[self.image] if filters.micrometers else self.area
            found &= (size >= filters.low) & (size <= filters.high)
        return np.flatnonzero(found)

    def _of_images(self, wanted: Sequence[bool]) -> NDArray[np.bool_]:
        return np.asarray(wanted, bool)[self.image]

    def _of_tags(self, wanted: Sequence[bool]) -> NDArray[np.bool_]:
        return np.asarray(wanted, bool)[self._tags]

    def ordered(self, numbers: Numbers, by: Order, selected: int | None = None, reverse: bool = False) -> Numbers:
        """Put segments in order: the largest, most agreed on, most used or most similar first; ``reverse`` turns it.

        Similar to ``selected`` are the segments of its image's class, by the distance of their vectors. The vectors of
        other classes lie in spaces of their own: those segments follow, by their distance on the map of all classes.
        Equal segments stay in the order they were added.
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
        found = np.empty(len(numbers), np.float32)
        members = np.flatnonzero(own)
        for start in range(0, len(members), CHUNK):
            some = members[start : start + CHUNK]
            apart = self.pool.vectors(numbers[some]) - target
            found[some] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        if not own.all():
            places = self.pool.places()
            others = numbers[~own]
            nearest = found[members].max(initial=0.0)
            found[~own] = nearest + 1 + np.linalg.norm(places[others] - places[selected], axis=1)
        return found


def _split(text: str) -> tuple[str, ...]:
    return tuple(sorted({" ".join(one.split()) for one in text.split(",")} - {""}))


def _sorted(numbers: Numbers, keys: NDArray[np.float32], descending: bool) -> Numbers:
    """Numbers by keys that are not negative; equal keys in order. Several times as fast as a stable argsort."""
    # The bits of such a number, read as an integer, grow with it (a zero must have no sign). Each half of them is
    # sorted by counting, the lower half first.
    bits = (np.maximum(np.asarray(keys, np.float32), 0) + np.float32(0)).view(np.uint32)
    if descending:
        bits = ~bits
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    return numbers[order[np.argsort((bits >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]]
