"""Crops of real and synthetic images: where one may be taken, and what a change would have been without blending."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import nucleus_of
from napari_histomix.datasets import Dataset
from napari_histomix.records import DONOR, REAL, Change, Source
from napari_histomix.stains import is_tissue

GENUINE = "real"
"""In place of a method's name: nothing was changed."""
COPY_PASTE = "copy-paste"
"""Donors as they are pasted, before anything is blended."""

CROSSES_EDGE = "its crop would cross the edge of its image"
NOT_READ = "its image is gone, cannot be read, or is not in the training split any more"

LEAST_NEW = 0.2
"""Share of a synthetic crop of tissue that must not be its target's own pixels."""
LEAST_TISSUE = 0.5
"""Share of tissue in any crop of tissue."""
TRIES = 50


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


def crop_side(dataset: Dataset, micrometers: float) -> int:
    """Side of a crop in pixels at the median scale of the training images, an even number; 0 where none is known."""
    scales = [entry.mpp for entry in dataset.training if entry.mpp is not None]
    return max(2 * round(micrometers / float(np.median(scales)) / 2), 16) if scales else 0


def group_of(source: Source) -> str:
    """Patient, slide or image, the first that is known: crops of one are not independent."""
    return source.patient or source.slide or source.image


def method_name(title: str, sampler: str) -> str:
    """What a method is called in a report."""
    return f"{title}, {sampler}" if sampler else title


def made_by(change: Change) -> str:
    """What made a change, as a report calls it."""
    return method_name(str(change.provenance.get("method", change.method)), str(change.provenance.get("sampler", "")))


def center_of(change: Change) -> tuple[int, int]:
    """Centroid of the new nucleus in its image, to the pixel as that of a real one."""
    row, col = np.argwhere(nucleus_of(change)).mean(axis=0)
    return round(float(row) + change.row), round(float(col) + change.col)


def tissue_square(
    name: str, pixels: NDArray[np.uint8], side: int, rng: np.random.Generator, new: NDArray[np.bool_] | None = None
) -> Square | None:
    """A crop on tissue, with enough that is new where ``new`` (H, W) says what is; None where none is found."""
    height, width = pixels.shape[:2]
    for _ in range(TRIES):
        square = Square(name, int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side)
        if is_tissue(pixels[square.window]).mean() >= LEAST_TISSUE and (
            new is None or new[square.window].mean() >= LEAST_NEW
        ):
            return square
    return None


def unblended(change: Change) -> Change:
    """A change as it was before anything was painted: the donor on the target's own pixels."""
    origin = np.where(change.origin == DONOR, DONOR, REAL).astype(np.uint8)
    values = {field.name: getattr(change, field.name) for field in fields(Change)}
    return Change(**{**values, "origin": origin})
