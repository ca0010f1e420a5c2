"""What a prompter is: a segmenter that answers points with masks."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Job


class Proposals(Protocol):
    """The masks a prompter answers points with, one for each point, full size only where asked for.

    Attributes
    ----------
    scores : (N,) float64
        How sure the prompter is of each mask (SAM: the predicted intersection over union).
    identities : (N, 3) float64
        Identity vectors in pixels of the image: mean row, mean column, square root of the area. NaN where a point has
        no mask.
    """

    @property
    def scores(self) -> NDArray[np.float64]:
        """How sure the prompter is."""
        ...

    @property
    def identities(self) -> NDArray[np.float64]:
        """Mean row, mean column, square root of the area."""
        ...

    def overlaps(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
        """Intersections over union (n, m) of the masks of points ``first`` (n,) with those of ``second`` (m,)."""
        ...

    def masks(self, points: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Masks (n, H, W) of some points at the image's size."""
        ...


class Prompter(Protocol):
    """A segmenter that answers points with masks.

    Attributes
    ----------
    name : str
        Identity, for signatures and provenance: two prompters of one name give the same masks. Holds the first 12
        hexadecimal digits of the weights' sha256 where there are weights.
    """

    @property
    def name(self) -> str:
        """Identity."""
        ...

    def __call__(self, pixels: NDArray[np.uint8], points: NDArray[np.float64]) -> Job[Proposals]:
        """Answer points (N, 2: row, column) in an image (H, W, 3) uint8 RGB; a long job (see ``records.Job``)."""
        ...
