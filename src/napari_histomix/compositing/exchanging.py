"""Donors pasted over the segments that they replace, one after the other: a mixed image before it is blended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.contours import Mask
from napari_histomix.compositing.replacement import Pose, Replacement, lay, paste
from napari_histomix.compositing.stain import match_stain, stain_spread
from napari_histomix.datasets.run_lengths import mask_of
from napari_histomix.records import REAL, LabeledImage, Segment
from napari_histomix.stains import optical_density

STAINED = 0.5
"""Summed optical density (base 10) from which a pixel is stained in full."""


@dataclass(frozen=True, eq=False)
class Swap:
    """A replacement: the segment that goes, the one that comes, and how it lies there."""

    target: Segment
    donor: Segment
    pose: Pose

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Swap:
        """The replacement that facts of provenance are of (``replaced_mask``, ``segment_mask``, ``pose``)."""
        target, donor = (
            Segment(0, int(mask["row"]), int(mask["col"]), mask_of(mask))
            for mask in (facts["replaced_mask"], facts["segment_mask"])
        )
        return cls(target, donor, Pose.of(facts["pose"]))


def lay_all(swaps: Iterable[Swap], shape: tuple[int, int]) -> tuple[list[Replacement], NDArray[np.uint8]]:
    """Where each donor lies in an image (H, W) and what is painted around it, and the origin map (H, W) uint8.

    Pixels that an earlier replacement changed stay as they are.
    """
    origin = np.zeros(shape, np.uint8)
    replacements = []
    for swap in swaps:
        laid = lay(swap.target, swap.donor, swap.pose, origin == REAL)
        origin = np.where(laid.donor | laid.hole, laid.origin, origin)
        replacements.append(laid)
    return replacements, origin


def paste_all(
    target: LabeledImage, swaps: Sequence[Swap], donors: Sequence[LabeledImage], stain_matching: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, list[float]]]]:
    """The target with its donors pasted in, not yet blended.

    Parameters
    ----------
    target : LabeledImage
    swaps : sequence of Swap
    donors : sequence of LabeledImage
        The image of each swap's donor.
    stain_matching : bool
        Match each donor's stain to the target.

    Returns
    -------
    pixels : (H, W, 3) uint8
    origin : (H, W) uint8
        0 real, 1 donor, 2 what is to be painted.
    stains : list of dict
        For each swap gains and shifts of its stains (``stain.match_stain``); empty without stain matching.
    """
    pixels = target.pixels
    laid, origin = lay_all(swaps, (pixels.shape[0], pixels.shape[1]))
    stains = []
    for swap, image, replacement in zip(swaps, donors, laid, strict=True):
        box, stain = image.pixels[swap.donor.window], dict[str, list[float]]()
        if stain_matching:
            box, stain = _matched(box, image.pixels, target.pixels)
        pixels = paste(pixels, box, swap.pose, replacement)
        stains.append(stain)
    return pixels, origin, stains


def _matched(
    box: NDArray[np.uint8], own: NDArray[np.uint8], other: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], dict[str, list[float]]]:
    """A donor's box in the staining of another image, and the settings of that."""
    # One pixel in sixteen tells as much of a whole image's staining.
    samples: list[tuple[NDArray[np.uint8], Mask]] = [
        (sample, np.ones(sample.shape[:2], bool)) for sample in (own[::4, ::4], other[::4, ::4])
    ]
    spreads = [stain_spread(sample) for sample, _ in samples]
    matched, stain = match_stain(box, samples[0], samples[1], spreads[1] / spreads[0])
    # Lumen in a segment stays as it is: the shift that moves tissue to another stain would color glass.
    stained = np.clip(optical_density(box).sum(axis=-1, keepdims=True) / STAINED, 0, 1)
    return np.rint(box + stained * (matched.astype(np.float32) - box)).astype(np.uint8), stain
