"""The placements of a study as arrays: filtered, put in order and counted without looking at each of them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Placement
from napari_histomix.study.store import REASONS
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT, UNDECIDED

CODES = {UNDECIDED: 0, APPROVE: 1, REJECT: 2, DELETE: 3}
"""Decisions as numbers."""
ANY, NO_REASON, NOTED = "any", "none", "noted"
BY_IMAGE, BEST_FIRST, WORST_FIRST, BY_DONOR, RANDOM = "image", "best", "worst", "donor", "random"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person wants to see; what is empty leaves everything in.

    Parameters
    ----------
    decision : str
        A decision or "undecided"; empty: all that are not deleted; ``ANY``: the deleted ones too.
    type : int
        Class number of the donor; 0 for all.
    image, donor_image, sampler : str
    donor : int
        Instance in ``donor_image``; 0 for all.
    reason : str
        A code of ``REASONS``, ``NO_REASON`` or ``NOTED``.
    low, high : float
        Bounds of the percentile, both included.
    """

    decision: str = ""
    type: int = 0
    image: str = ""
    donor_image: str = ""
    donor: int = 0
    reason: str = ""
    sampler: str = ""
    low: float = 0.0
    high: float = 100.0


@dataclass(frozen=True, eq=False)
class PlacementRows:
    """What never changes of N placements, a row for each, made once.

    Parameters
    ----------
    items : tuple of Placement
    ranks : (N,) int64
    images, donor_images : (N,) int32
        Places in ``image_names`` and ``donor_image_names``.
    donors, types, replaced : (N,) int32
        The donor's instance and class, and the class of the nucleus replaced (0 for none).
    percentiles : (N,) float64
    windows : (N, 4) int32
        Top, left, bottom and right of the patch, the last two not included.
    row_of : dict of int to int
        By rank.
    """

    items: tuple[Placement, ...]
    ranks: NDArray[np.int64]
    images: NDArray[np.int32]
    donor_images: NDArray[np.int32]
    donors: NDArray[np.int32]
    types: NDArray[np.int32]
    replaced: NDArray[np.int32]
    percentiles: NDArray[np.float64]
    windows: NDArray[np.int32]
    row_of: dict[int, int]
    image_names: tuple[str, ...]
    donor_image_names: tuple[str, ...]
    _groups: tuple[NDArray[np.intp], NDArray[np.intp]]

    @classmethod
    def of(cls, placements: Sequence[Placement]) -> Self:
        """The rows of placements; their pixels are not looked at."""
        candidates = [one.candidate for one in placements]
        donors = [one.donor for one in candidates]
        targets = [one.target for one in candidates]
        ranks = [one.rank for one in candidates]
        images, image_names = _coded([one.image for one in targets])
        donor_images, donor_image_names = _coded([one.image for one in donors])
        corners = np.array([(one.row, one.col, *one.shape) for one in placements], np.int32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        by_image = np.argsort(images, kind="stable")
        return cls(
            tuple(placements),
            np.array(ranks, np.int64),
            images,
            donor_images,
            _integers(one.instance for one in donors),
            _integers(one.type for one in donors),
            _integers(one.type if one.instance else 0 for one in targets),
            np.array([one.percentile for one in candidates], np.float64),
            corners,
            {rank: row for row, rank in enumerate(ranks)},
            image_names,
            donor_image_names,
            (by_image, np.searchsorted(images[by_image], np.arange(len(image_names) + 1))),
        )

    def __len__(self) -> int:
        return len(self.items)

    def of_image(self, image: int) -> NDArray[np.intp]:
        """Rows of the placements in an image, given by its place in ``image_names``."""
        order, starts = self._groups
        return order[starts[image] : starts[image + 1]]

    def places(self, ranks: Iterable[int]) -> NDArray[np.intp]:
        """Rows of those ranks that are here."""
        found = [self.row_of.get(rank, -1) for rank in ranks]
        return np.array([row for row in found if row >= 0], np.intp)

    def donor_codes(self) -> NDArray[np.int64]:
        """A number (N,) for each donor, in the order of their images' names and their instances."""
        order = np.argsort(np.argsort(self.donor_image_names)) if self.donor_image_names else np.zeros(0, np.int64)
        return order[self.donor_images].astype(np.int64) << 32 | self.donors

    def arranged(self, by: str, seed: int = 0) -> NDArray[np.intp]:
        """All rows in an order; equal ones by rank, random ones by a seed.

        Placements that are added later do not shuffle those that were there: each draws its number by its place.
        """
        keys: Mapping[str, NDArray[Any]] = {
            BY_IMAGE: self.images,
            BEST_FIRST: -self.percentiles,
            WORST_FIRST: self.percentiles,
        }
        if by == BY_DONOR:
            return np.argsort(self.donor_codes(), kind="stable")
        if by == RANDOM:
            return np.argsort(np.random.default_rng(seed).random(len(self)), kind="stable")
        return np.argsort(keys[by], kind="stable")


class Marks:
    """What people said of N placements: decision, reasons and note of each row."""

    def __init__(self, size: int) -> None:
        self.decisions = np.zeros(size, np.uint8)
        self.reasons = np.zeros(size, np.uint8)
        """One bit for each of ``REASONS``."""
        self.noted = np.zeros(size, bool)

    def update(
        self,
        rows: PlacementRows,
        ranks: Iterable[int],
        decisions: Mapping[int, str],
        reasons: Mapping[int, str],
        notes: Mapping[int, str],
    ) -> None:
        """Take over what is known now of some ranks."""
        places = rows.places(ranks)
        known = rows.ranks[places].tolist()
        self.decisions[places] = [CODES[decisions.get(rank, UNDECIDED)] for rank in known]
        self.reasons[places] = [bits_of(reasons.get(rank, "")) for rank in known]
        self.noted[places] = [bool(notes.get(rank)) for rank in known]

    def counts(self) -> tuple[int, int, int, int]:
        """How many are undecided, approved, rejected and deleted."""
        undecided, approved, rejected, deleted = np.bincount(self.decisions, minlength=len(CODES)).tolist()
        return undecided, approved, rejected, deleted


def matching(
    rows: PlacementRows, marks: Marks, wanted: Wanted, samplers: NDArray[np.object_] | None = None
) -> NDArray[np.bool_]:
    """Which rows (N,) agree with all that is wanted; ``samplers`` (N,) is looked at only where one is wanted."""
    keep = (rows.percentiles >= wanted.low) & (rows.percentiles <= wanted.high)
    if wanted.decision == "":
        keep &= marks.decisions != CODES[DELETE]
    elif wanted.decision != ANY:
        keep &= marks.decisions == CODES[wanted.decision]
    if wanted.type:
        keep &= rows.types == wanted.type
    if wanted.image:
        keep &= rows.images == _code(rows.image_names, wanted.image)
    if wanted.donor_image:
        keep &= rows.donor_images == _code(rows.donor_image_names, wanted.donor_image)
        if wanted.donor:
            keep &= rows.donors == wanted.donor
    if wanted.reason == NO_REASON:
        keep &= marks.reasons == 0
    elif wanted.reason == NOTED:
        keep &= marks.noted
    elif wanted.reason:
        keep &= (marks.reasons & bits_of(wanted.reason)) > 0
    if wanted.sampler and samplers is not None:
        keep &= samplers == wanted.sampler
    return keep


def bits_of(codes: str) -> int:
    """Reasons as they are written down ("seam, stain"), as one bit each."""
    return sum(1 << REASONS.index(one) for one in codes.split(", ")) if codes else 0


def _coded(names: Sequence[str]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(name, len(known)) for name in names], np.int32)
    return codes, tuple(known)


def _code(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1


def _integers(values: Iterable[int]) -> NDArray[np.int32]:
    return np.fromiter(values, np.int32)
