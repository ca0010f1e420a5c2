"""Where exactly a donor goes and which pixels may change, or why it cannot go there or would look out of place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.donors import (
    CONTRAST_UM,
    CUT_BY_EDGE,
    DonorCrop,
    Mask,
    density_around,
    dilate,
    layer_one,
    transition_zone,
)
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.stain import GAIN, UNMATCHED, hue, match_stain
from napari_histomix.records import Candidate
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


CROSSES_EDGE = "it would cross the image's edge"
COVERS_NEIGHBOR = "it would cover another nucleus"
TOO_CLIPPED = "neighbors leave too little room for its transition zone"
TOO_CLOSE = "it would touch another synthetic nucleus"
TOO_SMALL = "its donor is too small to be seen at the target's scale"
TOO_LARGE = "it is larger than the model's largest window"

CLIPPED_AT_MOST = 0.25
"""Share of the transition zone that neighbors may take before a placement is refused."""

GUARD = 4
"""Pixels kept free between the holes of two placements, so that either can be taken back alone."""

STAIN_UM = 15.0
"""Half width in µm of the target's surroundings that its stain is measured in."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A placement before diffusion, as full-size geometry cut to the patch that changes.

    Parameters
    ----------
    candidate : Candidate
    seed : int
    row, col : int
        Upper left corner of the patch in the target image.
    donor_pixels : (h, w, 3) uint8
        The donor as it will lie there, valid where ``donor``.
    nucleus, donor, erased, blended : (h, w) bool
        The new nucleus; it and its layer 1; the hole of stage 1 (empty for copy-and-paste); the hole of stage 2.
    provenance : dict
        How the donor came to lie there: ``crop`` of its image (row, column, height, width), resampled by ``scale``,
        mirrored, turned, its upper left corner moved to ``shift`` (row, column); gains and shifts of its stains.
    """

    candidate: Candidate
    seed: int
    row: int
    col: int
    donor_pixels: NDArray[np.uint8]
    nucleus: Mask
    donor: Mask
    erased: Mask
    blended: Mask
    provenance: dict[str, Any]

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the patch in its image."""
        height, width = self.donor.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)

    @property
    def changed(self) -> Mask:
        """Every pixel that differs from the target in origin."""
        return self.donor | self.erased | self.blended


def stained(
    donor: DonorCrop, target: IndexedImage, row: float, col: float
) -> tuple[NDArray[np.uint8], dict[str, list[float]]]:
    """A donor's pixels in the staining around a place in another image, and the settings of that (``match_stain``).

    Examples
    --------
    >>> from napari_histomix.compositing import IndexedImage, cut_donor
    >>> from napari_histomix.datasets import load_sample
    >>> from napari_histomix.records import Location
    >>> data = load_sample()
    >>> image = IndexedImage(data.read(data.training[0].source.image))
    >>> number = next(iter(image.image.types))
    >>> donor = cut_donor(image, Location(image.image.source.image, "rare", 0.0, 0.0, number, 1, 80))
    >>> stained(donor, image, 100.0, 100.0)[0].shape == donor.pixels.shape
    True
    """
    image, reach = target.image, round(STAIN_UM / target.image.mpp)
    around = tuple(slice(max(0, m - reach), m + reach + 1) for m in (round(row), round(col)))
    gain = target.staining.spread / np.maximum(donor.staining.spread, 1e-6)
    surroundings = image.pixels[around], image.instances[around] == 0
    return match_stain(donor.pixels, (donor.pixels, donor.surroundings), surroundings, gain)


def plan_placement(
    target: IndexedImage,
    candidate: Candidate,
    donor: DonorCrop,
    *,
    seed: int,
    taken: Mask,
    stain_matching: bool,
    symmetries: bool,
) -> Plan | str:
    """Lay the donor on the candidate location.

    The donor is centered on the target; contour layers are those of NucleiMix (arXiv 2410.16671): layer 1 comes along,
    layers 2 and 3 are blended, and a replaced nucleus is erased with a margin of two pixels around it and three
    around the donor. Holes never enter another instance: they are clipped there, and refused where more than
    ``CLIPPED_AT_MOST`` of the transition zone is clipped.

    Parameters
    ----------
    target : IndexedImage
        The image it goes to.
    candidate : Candidate
    donor : DonorCrop
    seed : int
        Of the placement; chooses the donor's turn.
    taken : (H, W) bool
        Pixels that earlier placements in this image change.
    stain_matching, symmetries : bool
        Match the donor's stain to the target's surroundings; turn and mirror it at random.

    Returns
    -------
    Plan, or the reason for a refusal.
    """
    image = target.image
    rng = np.random.default_rng(seed)
    turns, mirrored = (int(rng.integers(4)), bool(rng.integers(2))) if symmetries else (0, False)
    crop = donor
    donor = crop.at_scale(image.mpp).turned(turns, mirrored)
    if not donor.nucleus.any():
        return TOO_SMALL
    # Resampling can use up the few pixels between a nucleus and the edge of its image, and layer 1 with them.
    if donor.nucleus[[0, -1]].any() or donor.nucleus[:, [0, -1]].any():
        return CUT_BY_EDGE
    height, width = image.instances.shape

    # Everything is laid out on the smallest box that holds donor, target and their margins.
    donor_rows, donor_cols = np.nonzero(donor.nucleus)
    top = round(candidate.target.row - donor_rows.mean())
    left = round(candidate.target.col - donor_cols.mean())
    rows, cols = (
        slice(int(axis.min()) + shift, int(axis.max()) + shift + 1)
        for axis, shift in ((donor_rows, top), (donor_cols, left))
    )
    if min(rows.start, cols.start) < 3 or rows.stop > height - 3 or cols.stop > width - 3:
        return CROSSES_EDGE
    boxes = [(rows, cols)]
    if candidate.target.instance:
        boxes.append(target.boxes[candidate.target.instance])
    # Three layers and the guard around them.
    row, col = (max(min(box[axis].start for box in boxes) - 3 - GUARD, 0) for axis in (0, 1))
    stop = [max(box[axis].stop for box in boxes) + 3 + GUARD for axis in (0, 1)]
    window = slice(row, min(stop[0], height)), slice(col, min(stop[1], width))
    instances = image.instances[window]

    nucleus = np.zeros(instances.shape, bool)
    nucleus[donor_rows + top - row, donor_cols + left - col] = True
    carried = dilate(nucleus, 1)
    replaced = (instances == candidate.target.instance) & (candidate.target.instance != 0)
    others = (instances != 0) & ~replaced
    if np.any(carried & others):
        return COVERS_NEIGHBOR
    ring = transition_zone(nucleus)
    blended = ring & ~others
    if blended.sum() < (1 - CLIPPED_AT_MOST) * ring.sum():
        return TOO_CLIPPED
    erased = (dilate(replaced, 2) | dilate(nucleus, 3)) & ~others if replaced.any() else np.zeros_like(nucleus)
    if np.any(dilate(carried | erased | blended, GUARD) & taken[window]):
        return TOO_CLOSE

    colors, stain = donor.pixels, UNMATCHED
    if stain_matching:
        colors, stain = stained(donor, target, candidate.target.row, candidate.target.col)
    if flaw := look_flaw(donor, colors, target, (row, col), nucleus, replaced):
        return flaw
    pixels = np.zeros((*instances.shape, 3), np.uint8)
    # The crop's margin always holds layer 1, so the donor's pixels can be read around its mask as well.
    carried_rows, carried_cols = np.nonzero(carried)
    pixels[carried] = colors[carried_rows + row - top, carried_cols + col - left]
    provenance = {
        "crop": [*crop.corner, *crop.nucleus.shape],
        "scale": crop.mpp / donor.mpp,
        "quarter_turns": turns,
        "mirrored": mirrored,
        "shift": [top, left],
        "stain": stain,
        "stain_matching": stain_matching,
        "symmetries": symmetries,
    }
    return Plan(candidate, seed, row, col, pixels, nucleus, carried, erased, blended, provenance)
