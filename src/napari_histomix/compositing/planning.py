"""Where exactly a donor goes and which pixels may change, or why it cannot go there or would look out of place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.collars import APART, BORDER, collar_room, cut_collar
from napari_histomix.compositing.composing import Window, cut, window_around
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
from napari_histomix.compositing.jpeg_grid import Grid, onto_grid
from napari_histomix.compositing.stain import GAIN, UNMATCHED, hue, match_stain
from napari_histomix.records import Candidate, Location
from napari_histomix.stains import optical_density

CROSSES_EDGE = "it would cross the image's edge"
COVERS_NEIGHBOR = "it would cover another nucleus"
TOO_CLIPPED = "neighbors leave too little room for its transition zone"
TOO_CLOSE = "it would touch another synthetic nucleus"
TOO_SMALL = "its donor is too small to be seen at the target's scale"
TOO_LARGE = "it is larger than the model's largest window"
UNLIKE = "what surrounds it looks unlike what surrounds its donor"
FADED = "it would stand out from what surrounds it far less than its donor does"
OFF_COLOR = "its color among the nuclei there is not what it is among those of its own image"

CLIPPED_AT_MOST = 0.25
"""Share of the transition zone that neighbors may take before a placement is refused."""

GUARD = 4
"""Pixels kept free between the holes of two placements, so that either can be taken back alone."""

STAIN_UM = 15.0
"""Half width in µm of the target's surroundings that its stain is measured in."""

LIKE = 0.08
"""Largest difference, in optical density, between the immediate surroundings of target and donor; beyond it a border
would have to fade one tissue into another within two pixels."""

SURROUNDINGS_UM = 1.25
"""Width in µm of the immediate surroundings that are compared."""

TENTHS = np.array([0.1, 0.9])
"""Quantiles below and above which the lightest and darkest tenths lie."""

HUE = 0.05
"""Largest difference between a donor's hue against the nuclei of the target's image and against those of its own."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A placement before diffusion, as full-size geometry cut to the patch at (row, column) that changes.

    Parameters
    ----------
    candidate : Candidate
    seed, row, col : int
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


@dataclass(frozen=True, eq=False)
class PosedDonor:
    """A donor at the target's scale, turned, its upper left corner at (row, column) of the target image.

    ``box`` is the bounding box of the nucleus in that image; ``facts`` tell how it came to lie there, for provenance.
    """

    crop: DonorCrop
    row: int
    col: int
    box: tuple[slice, slice]
    facts: dict[str, Any]


Turn = tuple[int, bool]
"""Quarter turns counterclockwise, after mirroring left to right or not."""


def pose_donor(
    donor: DonorCrop,
    mpp: float,
    place: Location,
    seed: int,
    symmetries: bool,
    grid: Grid | None = None,
    turn: Turn | None = None,
) -> PosedDonor | None:
    """Center a donor on a place, turned and mirrored; None if nothing is left of it.

    With ``symmetries`` at random, but for a ``turn`` that is given. With the ``grid`` of the target it is moved by half
    a block of JPEG at most, onto that, if it has a grid itself.
    """
    if turn is None:
        rng = np.random.default_rng(seed)
        turn = (int(rng.integers(4)), bool(rng.integers(2))) if symmetries else (0, False)
    crop = donor.at_scale(mpp).turned(*turn)
    rows, cols = np.nonzero(crop.nucleus)
    if not len(rows):
        return None
    row, col = round(place.row - rows.mean()), round(place.col - cols.mean())
    if grid and crop.grid:
        row, col = onto_grid(row, crop.grid.row, grid.row), onto_grid(col, crop.grid.col, grid.col)
    box = (
        slice(int(rows.min()) + row, int(rows.max()) + row + 1),
        slice(int(cols.min()) + col, int(cols.max()) + col + 1),
    )
    facts = {
        "crop": [*donor.corner, *donor.nucleus.shape],
        "scale": donor.mpp / crop.mpp,
        "quarter_turns": turn[0],
        "mirrored": turn[1],
        "shift": [row, col],
    }
    return PosedDonor(crop, row, col, box, facts)


def fitting_turn(donor: DonorCrop, target: IndexedImage, place: Location, reach: int) -> Turn | None:
    """The turn with which a donor's surroundings agree best with its place's; None where nothing can be compared.

    What is compared is the green optical density, blurred by a pixel, in a ring from the nucleus's blurred border to
    three pixels beyond ``reach``; its mean does not count, which stain matching takes care of. So fibers go on in their
    direction, and a nucleus at the border of a lumen comes to lie at one.
    """
    image, crop = target.image, donor.at_scale(target.image.mpp)
    fits: dict[Turn, float] = {}
    for turn in ((quarter, mirrored) for quarter in range(4) for mirrored in (False, True)):
        posed = pose_donor(crop, image.mpp, place, 0, True, target.grid, turn)
        if posed is None:
            return None
        window = window_around([posed.box], reach + BORDER, image.instances.shape)
        nucleus, known = (
            cut(mask, window, (posed.row, posed.col)) for mask in (posed.crop.nucleus, posed.crop.surroundings)
        )
        ring = dilate(nucleus, reach + BORDER) & ~dilate(nucleus, BORDER) & known & (image.instances[window] == 0)
        if not ring.any():
            continue
        green = (cut(posed.crop.pixels[..., 1], window, (posed.row, posed.col)), image.pixels[window][..., 1])
        own, other = (optical_density(_blurred(pixels)[ring]) for pixels in green)
        fits[turn] = float((own - other).std())
    return min(fits, key=fits.__getitem__) if fits else None


def stained(
    donor: DonorCrop, target: IndexedImage, row: float, col: float
) -> tuple[NDArray[np.uint8], dict[str, list[float]]]:
    """A donor's pixels in the staining around a place in another image, and the settings of that (``match_stain``)."""
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
    collar: float = 0.0,
    jpeg_grid: bool = False,
    fit_turn: bool = False,
) -> Plan | str:
    """Lay the donor on the candidate location, or give the reason for a refusal.

    The donor is centered on the target; contour layers are those of NucleiMix (arXiv 2410.16671): layer 1 comes along,
    layers 2 and 3 are blended, and a replaced nucleus is erased with a margin of two pixels around it and three
    around the donor. Holes never enter another instance: they are clipped there, and refused where more than
    ``CLIPPED_AT_MOST`` of the transition zone is clipped.

    ``taken`` (H, W) are pixels that earlier placements in this image change. The donor's stain may be matched to the
    target's surroundings, and the donor turned and mirrored at random, by the seed of the placement. With a ``collar``
    (its largest width in µm), more of the donor's surroundings than layer 1 may come along (``cut_collar``): the
    transition zone lies around all that does, and a replaced nucleus that it covers needs no erasing. With
    ``jpeg_grid``, it is moved onto the target's grid of JPEG where both images have one; with ``fit_turn``, its turn is
    the one that fits its new surroundings best.
    """
    image, place = target.image, candidate.target
    reach = round(collar / image.mpp)
    turn = fitting_turn(donor, target, place, reach) if symmetries and fit_turn else None
    posed = pose_donor(donor, image.mpp, place, seed, symmetries, target.grid if jpeg_grid else None, turn)
    if posed is None:
        return TOO_SMALL
    # Resampling can use up the few pixels between a nucleus and the edge of its image, and layer 1 with them.
    own = posed.crop.nucleus
    if own[[0, -1]].any() or own[:, [0, -1]].any():
        return CUT_BY_EDGE
    shape = image.instances.shape
    if any(axis.start < 3 or axis.stop > size - 3 for axis, size in zip(posed.box, shape, strict=True)):
        return CROSSES_EDGE

    # Everything is laid out on the smallest box that holds donor, target, collar, three layers and the guard around.
    boxes = [posed.box, *([target.boxes[place.instance]] if place.instance else ())]
    window = window_around(boxes, max(3, reach + 2, BORDER + APART + 2 if reach else 0) + GUARD, shape)
    row, col = (axis.start for axis in window)
    instances = image.instances[window]
    nucleus = cut(own, window, (posed.row, posed.col))
    carried = dilate(nucleus, 1)
    replaced = (instances == place.instance) & (place.instance != 0)
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

    colors, stain = posed.crop.pixels, UNMATCHED
    if stain_matching:
        colors, stain = stained(posed.crop, target, place.row, place.col)
    pixels = cut(colors, window, (posed.row, posed.col))
    if reach:
        # Not cut short by other placements: a change is laid again as if it were the only one.
        room = collar_room(posed.crop, (posed.row, posed.col), window, others)
        carried = cut_collar(image.pixels[window], pixels, nucleus, replaced, room, reach)
        blended = dilate(carried, 2) & ~carried & ~others
        left = dilate(replaced, 2) & ~(carried | blended | others)
        erased = (dilate(replaced, 2) | dilate(carried, 2)) & ~others if left.any() else np.zeros_like(nucleus)
        if np.any(dilate(carried | erased | blended, GUARD) & taken[window]):
            return TOO_CLOSE
    if flaw := _look_flaw(posed, colors, target, window, _Masks(nucleus, carried, replaced, reach > 0)):
        return flaw
    how = {"stain": stain, "stain_matching": stain_matching, "symmetries": symmetries}
    how |= {"collar": collar, "jpeg_grid": jpeg_grid, "fit_turn": fit_turn}
    laid = np.where(carried[..., None], pixels, 0).astype(np.uint8)
    return Plan(candidate, seed, row, col, laid, nucleus, carried, erased, blended, posed.facts | how)


# Whether a donor looks at home where it is to lie.


@dataclass(frozen=True, eq=False)
class _Masks:
    """Masks (h, w) in a window of the target.

    The donor's nucleus; ``carried``, all that comes along, with a ``collar`` or without; the nucleus that is replaced.
    """

    nucleus: Mask
    carried: Mask
    replaced: Mask
    collar: bool


def _look_flaw(
    posed: PosedDonor, colors: NDArray[np.uint8], target: IndexedImage, window: Window, masks: _Masks
) -> str | None:
    """Why a donor would look out of place with ``colors`` (those of its crop as it would lie there), or None."""
    image, donor, corner = target.image, posed.crop, (posed.row, posed.col)
    # A frame around the window, so that it does not cut off what surrounds the nuclei.
    frame = window_around([window], 2 + max(2, round(CONTRAST_UM / image.mpp)), image.instances.shape)
    top, left = (axis.start for axis in window)

    def framed(mask: Mask) -> Mask:
        return cut(mask, frame, (top, left))

    free = image.instances[frame] == 0
    there = image.pixels[frame].copy()
    carried = framed(masks.carried)
    there[carried] = cut(colors, frame, corner)[carried]
    # What of a replaced nucleus a collar covers is tissue that will be seen.
    nuclei = framed(masks.nucleus | (masks.replaced & ~masks.carried if masks.collar else masks.replaced))
    differences = (
        _seam_differences(cut(colors, window, corner), image.pixels[window], masks)
        if masks.collar
        else _differences(donor, colors, there, nuclei, free, image.mpp)
    )
    if any(difference > LIKE for difference in differences):
        return UNLIKE
    if _off_color(donor, colors, target):
        return OFF_COLOR
    # It may stand out by less, but not by less than the largest stain gain could explain.
    own = density_around(donor.pixels, donor.nucleus, donor.surroundings, donor.mpp)
    other = density_around(there, nuclei, free | carried, image.mpp)
    if own is None or other is None:
        return None
    before, after = (float(optical_density(pixels, donor.nucleus)[:, 1].mean()) for pixels in (donor.pixels, colors))
    return FADED if after - other < GAIN[0] * (before - own) else None


def _seam_differences(donor: NDArray[np.uint8], there: NDArray[np.uint8], masks: _Masks) -> Iterator[float]:
    """Differences of two images (h, w, 3), of the donor as it would lie there and of the target, along a collar's seam.

    The root mean square over R, G and B of the difference of mean optical densities; that of the densities of each
    pixel, on the mean; two thirds of what a tenth of the pixels exceeds. Grain and the replaced nucleus do not count.
    """
    seam = dilate(masks.carried, 1) & dilate(~masks.carried, 1) & ~dilate(masks.replaced, 2)
    if not seam.any():
        return
    own, other = (optical_density(_blurred(pixels), seam) for pixels in (donor, there))
    yield float(np.sqrt(np.mean((own.mean(axis=0) - other.mean(axis=0)) ** 2)))
    apart = np.sqrt(np.mean((own - other) ** 2, axis=1))
    yield float(apart.mean())
    yield float(_quantiles(apart, TENTHS)[1]) / 1.5


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


def _blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels without their grain."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 1.0), np.uint8)


def _quantiles(values: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """``np.quantile`` of a few hundred values, in a tenth of the time."""
    ordered = np.sort(values)
    place = (len(ordered) - 1) * shares
    low = place.astype(int)
    part = place - low
    below, above = ordered[low], ordered[np.minimum(low + 1, len(ordered) - 1)]
    # From the nearer of the two, as NumPy does.
    return np.where(part < 0.5, below + (above - below) * part, above - (above - below) * (1 - part))
