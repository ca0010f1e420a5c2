"""Tissue into segments: superpixels, prompters that answer points with masks, anchor segments. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import HistomixError, Job
from napari_histomix.segmentation.anchors import AnchorSettings, find_segments, segment_map, segments_of
from napari_histomix.segmentation.region_tree import RegionTree, RegionTreePrompter

__all__ = [
    "AnchorSettings",
    "Prompter",
    "Proposals",
    "RegionTree",
    "RegionTreePrompter",
    "find_segments",
    "open_prompter",
    "segment_map",
    "segments_of",
]


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

    scores: NDArray[np.float64]
    identities: NDArray[np.float64]

    def overlaps(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
        """Intersections over union (n, m) of the masks of points ``first`` (n,) with those of ``second`` (m,)."""

    def masks(self, points: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Masks (n, H, W) of some points at the image's size."""


class Prompter(Protocol):
    """A segmenter that answers points with masks.

    Attributes
    ----------
    name : str
        Identity, for signatures and provenance: two prompters of one name give the same masks. Holds the first 12
        hexadecimal digits of the weights' sha256 where there are weights.
    """

    name: str

    def __call__(self, pixels: NDArray[np.uint8], points: NDArray[np.float64]) -> Job[Proposals]:
        """Answer points (N, 2: row, column) in an image (H, W, 3) uint8 RGB; a long job (see ``records.Job``)."""


def open_prompter(kind: str = "region-tree", weights: str | Path | None = None, device: str = "auto") -> Prompter:
    """Open a prompter.

    Parameters
    ----------
    kind : str
        ``region-tree``, which needs no weights, or ``sam``.
    weights : str or path, optional
        SAM's: a name in ``weights.CHECKPOINTS`` or a checkpoint file.
    device : str
        auto, cpu, cuda or mps; a region tree is always grown on the processor.

    Raises
    ------
    HistomixError
        If there is no such prompter, weights are missing or do not fit, or the device is not there.
    """
    if kind == "region-tree":
        if weights is not None:
            raise HistomixError("The region tree takes no weights; leave them out, or choose the prompter sam.")
        return RegionTreePrompter()
    if kind != "sam":
        raise HistomixError(f"'{kind}' is not a prompter; choose region-tree or sam.")
    if weights is None:
        raise HistomixError("SAM needs weights; name a checkpoint file, or choose the prompter region-tree.")
    from napari_histomix.segmentation.sam import SamPrompter

    return SamPrompter(weights, device)
