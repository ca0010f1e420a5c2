"""The changes of a study as arrays: filtered, put in order and counted without looking at each of them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.decision_log import Subject
from napari_histomix.study.store import REASONS
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT, UNDECIDED, nouns

CODES = {UNDECIDED: 0, APPROVE: 1, REJECT: 2, DELETE: 3}
"""Decisions as numbers."""
ANY, NO_REASON, NOTED = "any", "none", "noted"
BY_IMAGE, BEST_FIRST, WORST_FIRST, BY_DONOR, RANDOM = "image", "best", "worst", "donor", "random"
Said = Mapping[Subject, Mapping[int, str]]
"""What people said of changes: by subject and id."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person wants to see; what is empty leaves everything in.

    Parameters
    ----------
    decision : str
        A decision or "undecided"; empty: all that are not deleted; ``ANY``: the deleted ones too.
    kind : str
        Name of the class of what was added, or of the image.
    image : str
        That the changes are seen in.
    donor_image, sampler, method : str
    donor : int
        Instance or segment in ``donor_image``; 0 for all.
    reason : str
        A code of ``REASONS``, ``NO_REASON`` or ``NOTED``.
    low, high : float
        Bounds of the fit, both included; a change whose fit nobody knows is left out by any but 0 and 100.
    """

    decision: str = ""
    kind: str = ""
    image: str = ""
    donor_image: str = ""
    donor: int = 0
    reason: str = ""
    sampler: str = ""
    low: float = 0.0
    high: float = 100.0
    method: str = ""


@dataclass(frozen=True, eq=False)
class ChangeRows:
    """The table of a study's changes, with the names of their classes.

    Parameters
    ----------
    table : ChangeTable
    class_names : tuple of str
        Of ``table.class_keys``.
    """

    table: ChangeTable
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: ChangeTable, class_name: Callable[[int], str]) -> Self:
        """Classes of nuclei are named by their numbers; those of images are named already."""
        names = (key if isinstance(key, str) else class_name(key) if key else "" for key in table.class_keys)
        return cls(table, tuple(names))

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def words(self) -> tuple[str, str]:
        """What the changes are, one and several: nuclei, images, or both."""
        return nouns(self.table)

    def noun(self, row: int | None) -> str:
        """What a row is: a nucleus in an image, or an image of its own."""
        return self.words[0] if row is None else "nucleus" if self.table.in_place[row] else "image"

    @cached_property
    def donor_codes(self) -> NDArray[np.int64]:
        """A number (N,) for each donor, in the order of their images' names and their own numbers."""
        names = self.table.donor_image_names
        order = np.argsort(np.argsort(names)) if names else np.zeros(0, np.int64)
        return order[self.table.donor_images].astype(np.int64) << 32 | self.table.donors

    def arranged(self, by: str, seed: int = 0) -> NDArray[np.intp]:
        """All rows in an order; equal ones by id, random ones by a seed, those whose fit nobody knows last.

        Changes that are added later do not shuffle those that were there: each draws its number by its place.
        """
        keys: Mapping[str, Callable[[], NDArray[Any]]] = {
            BY_IMAGE: lambda: self.table.names,
            BEST_FIRST: lambda: -self.table.scores,
            WORST_FIRST: lambda: self.table.scores,
            BY_DONOR: lambda: self.donor_codes,
            RANDOM: lambda: np.random.default_rng(seed).random(len(self)),
        }
        return np.argsort(keys[by](), kind="stable")


class Marks:
    """What people said of N changes: decision, reasons and note of each row."""

    def __init__(self, size: int) -> None:
        self.decisions = np.zeros(size, np.uint8)
        self.reasons = np.zeros(size, np.uint8)
        """One bit for each of ``REASONS``."""
        self.noted = np.zeros(size, bool)

    def update(self, table: ChangeTable, ids: Iterable[int], said: Said) -> None:
        """Take over what is known now of some changes."""
        decisions, reasons, notes = (said.get(subject, {}) for subject in ("change", "change reasons", "change note"))
        rows = table.rows(list(ids))
        known = table.ids[rows].tolist()
        self.decisions[rows] = [CODES[decisions.get(number, UNDECIDED)] for number in known]
        self.reasons[rows] = [bits_of(reasons.get(number, "")) for number in known]
        self.noted[rows] = [bool(notes.get(number)) for number in known]

    def counts(self) -> tuple[int, int, int, int]:
        """How many are undecided, approved, rejected and deleted."""
        undecided, approved, rejected, deleted = np.bincount(self.decisions, minlength=len(CODES)).tolist()
        return undecided, approved, rejected, deleted


def matching(
    rows: ChangeRows, marks: Marks, wanted: Wanted, samplers: NDArray[np.object_] | None = None
) -> NDArray[np.bool_]:
    """Which rows (N,) agree with all that is wanted; ``samplers`` (N,) is looked at only where one is wanted."""
    table, keep = rows.table, np.ones(len(rows), bool)
    if (wanted.low, wanted.high) != (0.0, 100.0):
        keep &= (table.scores >= wanted.low) & (table.scores <= wanted.high)
    if wanted.decision == "":
        keep &= marks.decisions != CODES[DELETE]
    elif wanted.decision != ANY:
        keep &= marks.decisions == CODES[wanted.decision]
    if wanted.kind:
        keep &= table.classes == _code(rows.class_names, wanted.kind)
    if wanted.image:
        keep &= table.names == _code(table.made_names, wanted.image)
    if wanted.method:
        keep &= table.methods == _code(table.method_names, wanted.method)
    if wanted.donor_image:
        keep &= table.donor_images == _code(table.donor_image_names, wanted.donor_image)
        if wanted.donor:
            keep &= table.donors == wanted.donor
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
    return sum(1 << REASONS.index(code) for code in codes.split(", ")) if codes else 0


def _code(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1
