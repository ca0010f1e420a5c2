"""Whether a donor looks at home where it is to lie: what surrounds it, its color, how much it stands out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.contours import Mask, dilate, layer_one
from napari_histomix.compositing.donors import CONTRAST_UM, DonorCrop, density_around
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.stain import GAIN, hue
from napari_histomix.stains import optical_density

UNLIKE = "what surrounds it looks unlike what surrounds its donor"
FADED = "it would stand out from what surrounds it far less than its donor does"
OFF_COLOR = "its color among the nuclei there is not what it is among those of its own image"

LIKE = 0.08
"""Largest difference, in optical density, between the immediate surroundings of target and donor; beyond it a border
would have to fade one tissue into another within two pixels."""

SURROUNDINGS_UM = 1.25
"""Width in µm of the immediate surroundings that are compared."""

TENTHS = np.array([0.1, 0.9])
"""Quantiles below and above which the lightest and darkest tenths lie."""

HUE = 0.05
"""Largest difference between a donor's hue against the nuclei of the target's image and against those of its own."""


def look_flaw(
    donor: DonorCrop,
    colors: NDArray[np.uint8],
    target: IndexedImage,
    corner: tuple[int, int],
    nucleus: Mask,
    replaced: Mask,
) -> str | None:
    """Why a donor would look out of place, or None.

    Parameters
    ----------
    donor : DonorCrop
        At the target's scale.
    colors : (h, w, 3) uint8
        The donor's pixels as they would be placed.
    target : IndexedImage
        The image it goes to.
    corner : (row, column)
        Upper left of the box that the masks lie in.
    nucleus, replaced : (H, W) bool
        In that box: the donor's nucleus, and the nucleus that it replaces (empty: none).
    """
    image = target.image
    # A frame around the box, so that the box does not cut off what surrounds the nuclei.
    margin = 2 + max(2, round(CONTRAST_UM / image.mpp))
    rows, cols = (
        slice(max(0, at - margin), min(at + size + margin, end))
        for at, size, end in zip(corner, nucleus.shape, image.instances.shape, strict=True)
    )
    top, left = corner[0] - rows.start, corner[1] - cols.start
    free = image.instances[rows, cols] == 0
    hidden = np.zeros(free.shape, bool)
    hidden[top : top + nucleus.shape[0], left : left + nucleus.shape[1]] = nucleus | replaced
    there = image.pixels[rows, cols]
    if any(difference > LIKE for difference in _differences(donor, colors, there, hidden, free, image.mpp)):
        return UNLIKE
    if _off_color(donor, colors, target):
        return OFF_COLOR
    if _fades(donor, colors, there, hidden, free, image.mpp):
        return FADED
    return None


def _differences(
    donor: DonorCrop, colors: NDArray[np.uint8], there: NDArray[np.uint8], hidden: Mask, free: Mask, mpp: float
) -> Iterator[float]:
    """Differences of immediate surroundings, of the donor as it will look and of the place it goes to, cheapest first.

    The root mean square over R, G and B of the difference of mean optical densities; two thirds of the difference of
    the lightest and darkest tenths in green; how much lighter than the median of the new surroundings the lightest
    tenth of layer 1 is; two fifths of how much bluer its bluest tenth is (red minus blue), as lenses leave it.
    """
    width = max(2, round(SURROUNDINGS_UM / mpp))
    own = optical_density(colors, dilate(donor.nucleus, width + 1) & ~donor.nucleus & donor.surroundings)
    # Around a replaced nucleus, its own rim is not tissue that will be seen.
    other = optical_density(there, dilate(hidden, width + 2) & ~dilate(hidden, 2) & free)
    if len(own) == 0 or len(other) == 0:
        return
    yield float(np.sqrt(np.mean((own.mean(axis=0) - other.mean(axis=0)) ** 2)))
    # A halo on one side of the donor hides in the mean; the lightest and darkest tenths may differ half as much again.
    tenths = [_quantiles(density[:, 1], TENTHS) for density in (own, other)]
    yield float(np.abs(tenths[0] - tenths[1]).max()) / 1.5
    # Layer 1 stays as it is: its lightest tenth would be seen against what will surround it.
    rim = optical_density(colors, layer_one(donor.nucleus))
    yield float(np.median(other[:, 1]) - _quantiles(rim[:, 1], TENTHS)[0])
    yield 0.4 * float(_quantiles(rim[:, 0] - rim[:, 2], TENTHS)[1] - np.median(other[:, 0] - other[:, 2]))


def _off_color(donor: DonorCrop, colors: NDArray[np.uint8], target: IndexedImage) -> bool:
    """Whether the donor's hue stands out from the nuclei there, as it does not from those of its own image."""
    there, home = target.staining.nuclei_hue, donor.staining.nuclei_hue
    if there is None or home is None:
        return False
    before, after = (optical_density(pixels, donor.nucleus) for pixels in (donor.pixels, colors))
    changed = (hue(after.mean(axis=0)) - there) - (hue(before.mean(axis=0)) - home)
    # What is odd at home may stay odd, but no tenth of it may be as red as an erythrocyte.
    reddest = float(_quantiles(hue(after), TENTHS)[0]) - there
    return bool(abs(changed) > HUE or reddest < -2 * HUE)


def _fades(
    donor: DonorCrop, colors: NDArray[np.uint8], there: NDArray[np.uint8], hidden: Mask, free: Mask, mpp: float
) -> bool:
    """Whether the donor stands out by less than the largest stain gain could explain."""
    own = density_around(donor.pixels, donor.nucleus, donor.surroundings, donor.mpp)
    other = density_around(there, hidden, free, mpp)
    if own is None or other is None:
        return False
    before, after = (float(optical_density(one, donor.nucleus)[:, 1].mean()) for one in (donor.pixels, colors))
    return after - other < GAIN[0] * (before - own)


def _quantiles(values: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """``np.quantile`` of a few hundred values, in a tenth of the time."""
    ordered = np.sort(values)
    place = (len(ordered) - 1) * shares
    low = place.astype(int)
    part = place - low
    below, above = ordered[low], ordered[np.minimum(low + 1, len(ordered) - 1)]
    # From the nearer of the two, as NumPy does.
    return np.where(part < 0.5, below + (above - below) * part, above - (above - below) * (1 - part))
