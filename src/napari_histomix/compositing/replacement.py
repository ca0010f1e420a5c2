"""A segment in another's place: where it lies, what it covers, what is left to paint (USegMix, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.stain import STAINED, match_stain, stain_spread, with_kind_shifts
from napari_histomix.datasets.formats.polygons import mask_of
from napari_histomix.records import DONOR, INPAINTED, REAL, HistomixError, LabeledImage, Segment
from napari_histomix.segmentation.anchors import without_crumbs
from napari_histomix.stains import optical_density

SCALES = (0.75, 1.33)
"""Least and largest magnification of a donor."""
BAND = 4.0
"""Pixels on each side of a donor's outline that are painted anew, in an image of ``BAND_SIDE``."""
BAND_SIDE = 512


@dataclass(frozen=True)
class Pose:
    """The similarity that lays a donor on its target: pixels of the donor's box → pixels of the target image.

    ``matrix`` (2, 3) is as OpenCV's: x, y; ``scale`` the magnification, and ``angle`` the turn in degrees.
    """

    matrix: tuple[tuple[float, ...], tuple[float, ...]]
    scale: float
    angle: float
    mirrored: bool

    def facts(self) -> dict[str, Any]:
        """The pose as plain JSON values, for provenance."""
        matrix = [list(row) for row in self.matrix]
        return {"matrix": matrix, "scale": self.scale, "angle": self.angle, "mirrored": self.mirrored}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Pose:
        """The pose that facts of provenance are of."""
        first, second = (tuple(float(value) for value in row) for row in facts["matrix"])
        return cls((first, second), float(facts["scale"]), float(facts["angle"]), bool(facts["mirrored"]))


@dataclass(frozen=True, eq=False)
class Replacement:
    """A donor laid into an image (H, W): where its pixels lie, and the ``hole`` that is to be painted around them.

    The hole is the rest of the target and a band along the donor's outline, and no part of ``donor``.
    """

    donor: Mask
    hole: Mask


def pose_of(target: Segment, donor: Segment, rng: np.random.Generator, factor: float = 1.0) -> Pose:
    """Lay a donor's centroid and principal axis on the target's, as large as the target, within ``SCALES``.

    Whether it is mirrored is random; which way along the axis it looks is the one that covers more of the target.
    ``factor`` is µm/px of the donor's image over that of the target's, to whose scale the donor is brought first.
    """
    mirrored = bool(rng.integers(2))
    scale = factor * float(np.clip(np.sqrt(target.area / (donor.area * factor**2)), *SCALES))
    poses = [_pose(target, donor, scale, mirrored, turn) for turn in (0.0, np.pi)]
    covered = []
    for pose in poses:
        # In the box of the target.
        matrix = np.array(pose.matrix)
        matrix[:, 2] -= (target.col, target.row)
        covered.append(np.count_nonzero(_moved(donor.mask, matrix, target.mask.shape) & target.mask))
    return poses[int(np.argmax(covered))]


def _pose(target: Segment, donor: Segment, scale: float, mirrored: bool, turn: float) -> Pose:
    (row, col), axis = _frame(target.mask)
    (own_row, own_col), own_axis = _frame(donor.mask)
    flip = -1.0 if mirrored else 1.0
    angle = axis - flip * own_axis + turn
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1.0, 0.0], [0.0, flip]])
    shift = np.array([target.col + col, target.row + row]) - linear @ np.array([own_col, own_row])
    first, second = np.column_stack([linear, shift]).tolist()
    return Pose((tuple(first), tuple(second)), scale, float(np.degrees(angle) % 360), mirrored)


def _moved(mask: Mask, matrix: NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    """A donor's mask in an image (H, W)."""
    moved = cv2.warpAffine(mask.astype(np.float32), matrix, shape[::-1], flags=cv2.INTER_LINEAR)
    return np.asarray(moved > 0.5)


def lay(target: Segment, donor: Segment, pose: Pose, free: Mask) -> Replacement:
    """The donor's mask in the target's image, and the hole around it, within the pixels (H, W) that may change."""
    laid = without_crumbs(_moved(donor.mask, np.array(pose.matrix), free.shape) & free)
    band = _band(laid, max(2.0, BAND * max(free.shape) / BAND_SIDE))
    hole = ((target.in_image(free.shape) & ~laid) | band) & free
    return Replacement(laid & ~hole, hole)


def moved_image(
    pixels: NDArray[np.uint8], donor: Segment, pose: Pose, window: tuple[slice, slice]
) -> NDArray[np.uint8]:
    """What lies in a window of the target's image when a donor's whole image (h, w, 3) is moved there, (H, W, 3).

    Beyond its border the donor's image is mirrored.
    """
    matrix = np.array(pose.matrix)
    # The pose is of pixels of the donor's box.
    matrix[:, 2] -= matrix[:, :2] @ (donor.col, donor.row) + (window[1].start, window[0].start)
    shape = window[0].stop - window[0].start, window[1].stop - window[1].start
    return _moved_pixels(pixels, matrix, pose.scale, shape)


def _moved_pixels(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64], scale: float, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    if scale < 1:
        # OpenCV's affine transforms do not average: without this, fine texture would come out as moiré.
        sigma = 0.5 * np.sqrt(scale**-2 - 1) + 1e-3
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)
    edge = cv2.BORDER_REFLECT_101
    moved = cv2.warpAffine(pixels, matrix, shape[::-1], flags=cv2.INTER_CUBIC, borderMode=edge)
    return np.asarray(moved, np.uint8)


def paste(
    pixels: NDArray[np.uint8], donor_pixels: NDArray[np.uint8], pose: Pose, replacement: Replacement
) -> NDArray[np.uint8]:
    """The image (H, W, 3) with the donor's pixels (h, w, 3: its bounding box) laid in; the hole is left as it was."""
    moved = _moved_pixels(donor_pixels, np.array(pose.matrix), pose.scale, replacement.donor.shape)
    return np.where(replacement.donor[..., None], moved, pixels).astype(np.uint8)


def _frame(mask: Mask) -> tuple[tuple[float, float], float]:
    """Centroid (row, column) and direction of the principal axis in radians, x to y."""
    moments = cv2.moments(mask.astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    angle = 0.5 * np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"])
    return (moments["m01"] / area, moments["m10"] / area), float(angle)


def _band(mask: Mask, width: float) -> Mask:
    """Pixels at most ``width`` from a mask's outline; the image's own edge is none."""
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, bool)
    inside, outside = (
        cv2.distanceTransform(np.asarray(side, np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (mask, ~mask)
    )
    return np.asarray(np.maximum(inside, outside) <= width)


@dataclass(frozen=True, eq=False)
class Swap:
    """A replacement: the segment that goes, the one that comes, and how it lies there.

    With a ``cut``, that part of the target's image (a segment of it) becomes what lies there in the donor's, of its
    segment or of its surroundings, and ``painted`` is the hole along its seam, none where nobody would see one. Without
    a cut the donor's segment alone is laid in, and what it leaves open is a hole. ``stain`` is what
    ``stain.match_tissue`` recorded of a cut; empty: as it is.
    """

    target: Segment
    donor: Segment
    pose: Pose
    cut: Segment | None = None
    stain: Mapping[str, Sequence[float]] = field(default_factory=dict)
    painted: Segment | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Swap:
        """The replacement that facts of provenance are of: masks, ``pose`` and, along a seam, ``cut``.

        HistomixError is raised where an earlier version did not record what is painted along a cut.
        """
        target, donor = (_segment_of(facts[mask]) for mask in ("replaced_mask", "segment_mask"))
        pose = Pose.of(facts["pose"])
        if "cut" not in facts:
            return cls(target, donor, pose)
        if "painted_mask" not in facts:
            raise HistomixError("An earlier version made this mix and recorded too little to say what it painted.")
        painted = _segment_of(facts["painted_mask"]) if facts["painted_mask"] else None
        return cls(target, donor, pose, _segment_of(facts["cut"]), facts["stain"], painted)


def lay_swap(swap: Swap, free: Mask) -> Replacement:
    """A replacement within the pixels (H, W) of an image that may change."""
    if swap.cut is None:
        return lay(swap.target, swap.donor, swap.pose, free)
    hole = swap.painted.in_image(free.shape) & free if swap.painted else np.zeros(free.shape, bool)
    return Replacement(swap.cut.in_image(free.shape) & free & ~hole, hole)


def _segment_of(mask: Mapping[str, Any]) -> Segment:
    return Segment(0, int(mask["row"]), int(mask["col"]), mask_of(mask))


def lay_all(swaps: Iterable[Swap], shape: tuple[int, int]) -> tuple[list[Replacement], NDArray[np.uint8]]:
    """Where each donor lies in an image (H, W) and what is painted around it, and the origin map (H, W) uint8.

    Pixels that an earlier replacement changed stay as they are.
    """
    origin = np.zeros(shape, np.uint8)
    replacements = []
    for swap in swaps:
        laid = lay_swap(swap, origin == REAL)
        origin[laid.donor], origin[laid.hole] = DONOR, INPAINTED
        replacements.append(laid)
    return replacements, origin


def paste_all(
    target: LabeledImage, swaps: Sequence[Swap], donors: Sequence[LabeledImage], stain_matching: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[Mapping[str, Sequence[float]]]]:
    """The target (H, W, 3) with the donors of these images pasted in, not yet blended; and its origin map (H, W).

    For each swap the settings of its stain matching are returned as well: those of a cut, else gains and shifts of its
    stains (``stain.match_stain``); empty without stain matching.
    """
    pixels, shape = target.pixels, (target.pixels.shape[0], target.pixels.shape[1])
    laid, origin = lay_all(swaps, shape)
    stains: list[Mapping[str, Sequence[float]]] = []
    for swap, image, replacement in zip(swaps, donors, laid, strict=True):
        if swap.cut:
            window = swap.cut.window
            moved = with_kind_shifts(moved_image(image.pixels, swap.donor, swap.pose, window), swap.stain)
            pixels = pixels.copy()
            pixels[window] = np.where(replacement.donor[window][..., None], moved, pixels[window])
            stains.append(swap.stain)
            continue
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
