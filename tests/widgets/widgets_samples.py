"""Small candidates and changes."""

from __future__ import annotations

import numpy as np
from review_samples import nucleus_change

from napari_histomix.records import Candidate, Change, Location


def candidate(rank: int, image: str = "a", kind: str = "major", row: float = 20, col: float = 20) -> Candidate:
    instance = 1 if kind == "major" else 0
    target = Location(image, kind, row, col, instance, 2 if instance else 0, 25 if instance else 0)
    return Candidate(rank, target, Location("donors", "rare", 5, 5, 9, 1, 30), -float(rank), 100.0 - rank % 101)


def change(rank: int, row: int, col: int, value: int, instance: int, side: int = 8) -> Change:
    """A square nucleus in a square patch, its border one pixel of inpainting."""
    origin = np.full((side, side), 2, np.uint8)
    origin[1:-1, 1:-1] = 1
    pixels = np.full((side, side, 3), value, np.uint8)
    place = candidate(rank, kind="background", row=row + side / 2, col=col + side / 2)
    return nucleus_change(place, instance, row, col, pixels, origin)
