"""What a reader test is made of: crops whose truth is known, and where in an image a crop may be taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Event, HistomixError, Source

GENUINE = "real"
"""In place of a method's name: nothing was changed."""
COPY_PASTE = "copy-paste"
"""Donors as they are pasted, before anything is blended."""

CROSSES_EDGE = "its crop would cross the edge of its image"
SHOWN_ALREADY = "its crop would show what another crop shows"
DONOR_SHOWN = "its donor is in the test already"
TOO_LARGE = "it is larger than a crop"
NO_PARTNER = "nothing real of its class and size is left to be shown as well"
NOT_READ = "its image is not in the training split, or could not be read"


@dataclass(frozen=True)
class ReaderTestSettings:
    """How a reader test is made; the only home of these defaults.

    Parameters
    ----------
    per_kind : int
        Real ones, and synthetic ones of all methods together.
    copy_paste : bool
        Also show donors pasted without blending, as a method of its own: what blending has to be better than.
    side_um, tissue_um : float
        Side of a crop around a nucleus, and of one out of a tissue image, in µm.
    seed : int
    """

    per_kind: int = 50
    copy_paste: bool = False
    side_um: float = 32.0
    tissue_um: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_kind < 1:
            raise HistomixError("A reader test needs at least one real and one synthetic crop; ask for more.")
        if self.seed < 0:
            raise HistomixError("A seed is 0 or more; choose another one.")


@dataclass(frozen=True, eq=False)
class Specimen:
    """A crop with its truth.

    Parameters
    ----------
    pixels : (S, S, 3) uint8
    mark : (row, col), optional
        Pixel of the crop that lies in the nucleus asked about; None where the whole crop is.
    kind : str
        Name of its class, which the reader is told.
    method : str
        ``GENUINE``, ``COPY_PASTE``, or what made it.
    cluster : str
        Patient, slide or image it comes from, the first that is known: specimens of one are not independent.
    facts : mapping
        Where it comes from, as plain JSON values.
    """

    pixels: NDArray[np.uint8]
    mark: tuple[int, int] | None
    kind: str
    method: str
    cluster: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether something in it is not as it was scanned."""
        return self.method != GENUINE


@dataclass(frozen=True, eq=False)
class Drawn:
    """Specimens, as many real as synthetic of each class; and why others could not be shown, counted by reason."""

    specimens: tuple[Specimen, ...]
    refusals: Counter[str]


def drawn(specimens: Sequence[Specimen], refusals: Counter[str]) -> Drawn:
    """What was drawn.

    Raises
    ------
    HistomixError
        If nothing was.
    """
    if not specimens:
        reason = f"; {refusals.most_common(1)[0][0]}" if refusals else ""
        raise HistomixError(f"No synthetic result can be shown beside a real one{reason}. Make more, or add images.")
    return Drawn(tuple(specimens), refusals)


def shortage(made: int, wanted: int, refusals: Counter[str]) -> Event:
    """An event that says how many crops of each kind there are, with a message where they are fewer than wanted."""
    message = None
    if made < wanted:
        why = "; ".join(f"{count} left out: {reason}" for reason, count in refusals.most_common())
        message = f"{made} real and {made} synthetic crops instead of {wanted} each{f' ({why})' if why else ''}."
    return Event("Choosing crops", made, wanted, message=message)


def cluster_of(source: Source) -> str:
    """Patient, slide or image, the first that is known."""
    return source.patient or source.slide or source.image


def crop_side(micrometers: float, mpp: float) -> int:
    """Side of a crop in pixels, an even number."""
    return max(2 * round(micrometers / mpp / 2), 16)


@dataclass(frozen=True, slots=True)
class Square:
    """A square crop of an image by its upper left corner."""

    image: str
    row: int
    col: int
    side: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the crop in its image."""
        return slice(self.row, self.row + self.side), slice(self.col, self.col + self.side)

    def within(self, shape: tuple[int, int]) -> bool:
        """Whether an image (H, W) holds all of it."""
        return min(self.row, self.col) >= 0 and self.row + self.side <= shape[0] and self.col + self.side <= shape[1]

    def holds(self, image: str, row: float, col: float) -> bool:
        """Whether a place is to be seen in it."""
        return self.image == image and 0 <= row - self.row < self.side and 0 <= col - self.col < self.side

    def overlaps(self, other: Square) -> bool:
        """Whether it shows some of what another one shows."""
        apart = max(abs(self.row - other.row), abs(self.col - other.col))
        return self.image == other.image and apart < max(self.side, other.side)


def square_around(image: str, row: int, col: int, side: int, rng: np.random.Generator) -> Square:
    """A crop with a place near its middle: off it by a random step, the same rule for real and synthetic ones."""
    reach = side // 16
    down, along = (int(step) for step in rng.integers(-reach, reach + 1, size=2))
    return Square(image, row - side // 2 - down, col - side // 2 - along, side)
