"""Where two images of tissue change into one another: a graph cut along what they have in common.

Kwatra et al., *Graphcut textures* (SIGGRAPH 2003): between pixels that must be the donor's and pixels that must be the
target's, the cut of least cost. Crossing costs what the two images differ by in color and gradient there, and it costs
more within nuclei of either. OpenCV's seam finder makes the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.donors import Mask
from napari_histomix.stains import stain_density

WORKING_MPP = 0.5
"""µm/px at which a seam is sought; it is as fine as a nucleus' membrane."""
NUCLEI = 0.6
"""What crossing a dark nucleus costs, beside a difference in color of one (all of an 8-bit range)."""
WIDTH = 3.0, 2.0
"""Pixels on each side of a seam that are painted anew where it is seen, at 0.25 µm/px, and at least."""
ALONG = 1.0
"""µm along a seam over which it is looked at: the standard deviation of a Gaussian."""
SCALE = 2000.0
"""Brings costs well above the smallest that OpenCV's seam finder gives to any edge."""


@dataclass(frozen=True, eq=False)
class Seam:
    """What of an image (H, W) becomes the donor's, and the mean cost of a pixel of the seam (0 to about 2)."""

    mask: Mask
    cost: float


def seam_costs(target: NDArray[np.uint8], donor: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What it costs to change from one image (H, W, 3) to the other at each pixel, (H, W)."""
    differs = _difference(target, donor, 1.0)
    crossed = np.zeros(differs.shape, np.float32)
    for pixels in (target, donor):
        hematoxylin = cv2.GaussianBlur(np.ascontiguousarray(stain_density(pixels)[..., 0]), (0, 0), 1.0)
        level, spread = float(np.median(hematoxylin)), float(hematoxylin.std()) + 1e-6
        crossed += np.clip((hematoxylin - level) / spread - 1.0, 0, 1)
    return np.asarray(differs + NUCLEI * crossed, np.float32)


def _difference(target: NDArray[np.uint8], donor: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """What two images (H, W, 3) differ by in color and gradient, (H, W), each smoothed by ``sigma`` pixels."""
    first, second = (cv2.GaussianBlur(pixels, (0, 0), sigma).astype(np.float32) / 255 for pixels in (target, donor))
    color = np.abs(first - second).mean(axis=-1)
    gradients = []
    for image in (first, second):
        gray = image.mean(axis=-1)
        gradients.append([cv2.Sobel(gray, cv2.CV_32F, *order, scale=0.25) for order in ((1, 0), (0, 1))])
    edges = sum(np.abs(one - other) for one, other in zip(*gradients, strict=True))
    return np.asarray(color + edges, np.float32)


def seen_along(target: NDArray[np.uint8], donor: NDArray[np.uint8], mask: Mask, mpp: float, visible: float) -> Mask:
    """Where the seam around what became a donor's (H, W) is seen, ``WIDTH`` pixels on each side of it.

    That is where both images (H, W, 3) differ by more than ``visible``, on the scale of a seam's cost; 0: all along it.
    """
    kernel = np.ones((3, 3), np.uint8)
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, kernel).astype(np.float32)
    # One pixel is as much as the seam was looked at with.
    differs = _difference(target, donor, max(1.0, WORKING_MPP / mpp)) * outline
    around, weight = (cv2.GaussianBlur(values, (0, 0), ALONG / mpp) for values in (differs, outline))
    seen = (outline > 0) & (around >= visible * weight)
    away = cv2.distanceTransform((~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The outline is a pixel on each side.
    return np.asarray(away <= max(WIDTH[1], WIDTH[0] * 0.25 / mpp) - 1) & seen.any()


def find_seam(
    target: NDArray[np.uint8], donor: NDArray[np.uint8], core: Mask, band: Mask, mpp: float | None = None
) -> Seam:
    """Cut a donor's image out along what it has in common with a target's.

    Parameters
    ----------
    target, donor : (H, W, 3) uint8
        Two images of one size, the donor's where it is to lie.
    core : (H, W) bool
        What is the donor's in any case.
    band : (H, W) bool
        What may become either's; all else stays the target's.
    mpp : float, optional
        µm/px of both: the seam is sought at ``WORKING_MPP`` where they are finer. None: at their own scale.

    Returns
    -------
    Seam
    """
    rows, cols = (slice(int(places.min()), int(places.max()) + 1) for places in np.nonzero(core | band))
    box = tuple(slice(max(0, part.start - 2), part.stop + 2) for part in (rows, cols))
    factor = 1.0 if mpp is None else min(1.0, mpp / WORKING_MPP)
    full = core[box].shape
    size = max(1, round(full[1] * factor)), max(1, round(full[0] * factor))

    def reduced(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.uint8)

    costs = seam_costs(reduced(target[box]), reduced(donor[box]))
    inner, free = (reduced(mask[box].astype(np.uint8) * 255) > 127 for mask in (core, core | band))
    # The finder compares two pictures: one is empty, and the other's squares are what an edge costs.
    picture = np.zeros((*costs.shape, 3), np.float32)
    empty = picture.copy()
    picture[..., 0] = np.sqrt(SCALE * costs)
    finder = cv2.detail.GraphCutSeamFinder("COST_COLOR")
    sides: list[Any] = [np.where(free, 255, 0).astype(np.uint8), np.where(inner, 0, 255).astype(np.uint8)]
    pictures: list[Any] = [picture, empty]
    found: Any = finder.find(pictures, [(0, 0), (0, 0)], sides)[0]
    chosen = np.asarray(found.get() if isinstance(found, cv2.UMat) else found) > 0
    chosen = (chosen & free) | inner
    outline = cv2.morphologyEx(chosen.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    outline[[0, -1]] = outline[:, [0, -1]] = False
    smooth = cv2.GaussianBlur(chosen.astype(np.float32), (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    large = cv2.resize(smooth, full[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    mask = np.zeros(core.shape, bool)
    mask[box] = (large & (core | band)[box]) | core[box]
    return Seam(mask, float(costs[outline].mean()) if outline.any() else 0.0)
