"""Holes in real images: what lies in them is known, so a fill can be compared with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.compositing.contours import Mask, dilate, transition_zone
from napari_histomix.datasets import Dataset
from napari_histomix.records import Event, Job, LabeledImage
from napari_histomix.sampling.locations import tissue

HoleKind = Literal["ring", "disc", "large"]
KINDS: tuple[HoleKind, ...] = ("ring", "disc", "large")
SIDES = {"ring": 64, "disc": 64, "large": 128}
"""Sides of the windows in pixels."""

FREE = 7
"""Pixels around a nucleus in which a ring test wants no other."""

SMALLEST, WIDEST = 100, 40
"""Area in square pixels, and extent in pixels, of the nuclei that get a ring."""

SHARE = (0.25, 0.40)
"""Share of its window that a large hole covers."""

LEAST_TISSUE = 0.5
"""Share of tissue in a large hole's window."""

BORDER = 8
"""Pixels between a large hole and its window's border."""

TRIES = 50


@dataclass(frozen=True, eq=False)
class HiddenWindow:
    """A window of a real image with a hole in it.

    Parameters
    ----------
    pixels : (S, S, 3) uint8
        The truth, also inside the hole.
    hole : (S, S) bool
        What is hidden and filled.
    seed : int
        Of the noise this window meets.
    image : str
        Name of the image; windows of one image are not independent.
    mpp : float
        µm per pixel.
    """

    pixels: NDArray[np.uint8]
    hole: Mask
    seed: int
    image: str
    mpp: float


def draw_windows(
    dataset: Dataset, kinds: Collection[HoleKind], count: int, seed: int
) -> Job[tuple[dict[HoleKind, list[HiddenWindow]], dict[str, NDArray[np.uint8]]]]:
    """Draw windows from real images of the training split; a long job (see ``records.Job``).

    Images that hold synthetic pixels are left out.

    ``ring``: the transition zone around a nucleus with no other within ``FREE`` pixels. ``disc``: a circle of that
    nucleus's size on free background. ``large``: an irregular blob of the size of a tissue segment, anywhere on
    tissue, whatever lies in it.

    Parameters
    ----------
    dataset : Dataset
    kinds : collection of str
        Of ``KINDS``; which are asked for does not change what is drawn for each.
    count : int
        Windows of each kind at most, of which at most count / images, rounded up, and one more come from one image.
    seed : int

    Yields
    ------
    Event
        "Reading images", one an image.

    Returns
    -------
    windows : dict of str to list of HiddenWindow
        In random order, fewer than ``count`` where there is no room for more.
    images : dict of str to (H, W, 3) uint8
        Pixels of every image they could come from.

    Raises
    ------
    HistomixError
        If an image cannot be read.
    """
    entries = [entry for entry in dataset.training if not entry.synthetic]
    each = -(-count // max(1, len(entries))) + 1
    nucleus_rng, large_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    found: dict[HoleKind, list[HiddenWindow]] = {kind: [] for kind in KINDS}
    images: dict[str, NDArray[np.uint8]] = {}
    for number, entry in enumerate(entries):
        yield Event("Reading images", number, len(entries))
        image = dataset.read(entry)
        images[image.source.image] = image.pixels
        rings, discs = _rings_and_discs(image, each, nucleus_rng)
        found["ring"] += rings
        found["disc"] += discs
        if "large" in kinds:
            found["large"] += _large_holes(image, each, large_rng)
    yield Event("Reading images", len(entries), len(entries))
    orders = {kind: nucleus_rng.permutation(len(found[kind])) for kind in ("ring", "disc")}
    orders["large"] = large_rng.permutation(len(found["large"]))
    return {kind: [found[kind][i] for i in orders[kind][:count]] for kind in KINDS if kind in kinds}, images


def _window(image: LabeledImage, top: int, left: int, hole: Mask, seed: int) -> HiddenWindow:
    side = len(hole)
    pixels = image.pixels[top : top + side, left : left + side].copy()
    return HiddenWindow(pixels, hole, seed, image.source.image, image.mpp)


def _rings_and_discs(
    image: LabeledImage, count: int, rng: np.random.Generator
) -> tuple[list[HiddenWindow], list[HiddenWindow]]:
    """Rings around nuclei that lie alone, and for each of them a disc of its size on free background."""
    side, height, width = SIDES["ring"], *image.instances.shape
    half = side // 2
    distance = ndimage.distance_transform_edt(image.instances == 0)
    rings: list[HiddenWindow] = []
    discs: list[HiddenWindow] = []
    ids, numbered = np.unique(image.instances, return_inverse=True)
    boxes = ndimage.find_objects(numbered.reshape(height, width))
    for instance in rng.permutation(ids[1:]):
        if len(rings) == count:
            break
        box = boxes[int(np.searchsorted(ids, instance)) - 1]
        inside = np.nonzero(image.instances[box] == instance)
        rows, cols = (found + part.start for found, part in zip(inside, box, strict=True))
        top, left = (round(float(axis.mean())) - half for axis in (rows, cols))
        if min(top, left) < 0 or max(top, left) + side > min(height, width) or len(rows) < SMALLEST:
            continue
        seen = image.instances[top : top + side, left : left + side]
        nucleus = seen == instance
        if nucleus.sum() != len(rows) or max(np.ptp(rows), np.ptp(cols)) > WIDEST:
            continue
        if np.any((seen != 0) & dilate(nucleus, FREE) & ~nucleus):
            continue
        rings.append(_window(image, top, left, transition_zone(nucleus), int(instance)))
        radius = int(np.sqrt(len(rows) / np.pi)) + 3
        places = np.argwhere(distance[half:-half, half:-half] > radius + 3)
        if len(places):
            row, col = places[rng.integers(len(places))]
            ys, xs = np.ogrid[:side, :side]
            disc = np.hypot(ys - half, xs - half) <= radius
            discs.append(_window(image, int(row), int(col), disc, int(instance)))
    return rings, discs


def _large_holes(image: LabeledImage, count: int, rng: np.random.Generator) -> list[HiddenWindow]:
    """Segment-like holes in windows on tissue."""
    side, height, width = SIDES["large"], *image.instances.shape
    if min(height, width) < side:
        return []
    on_tissue = tissue(image)
    found: list[HiddenWindow] = []
    for _ in range(TRIES):
        if len(found) == count:
            break
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        if on_tissue[top : top + side, left : left + side].mean() < LEAST_TISSUE:
            continue
        found.append(_window(image, top, left, segment_hole(side, rng), int(rng.integers(2**31))))
    return found


def segment_hole(side: int, rng: np.random.Generator) -> Mask:
    """A blob with a smooth random outline, (side, side) bool, that covers a share of ``SHARE``."""
    row, col = rng.uniform(0.42 * side, 0.58 * side, 2)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    rows, cols = np.mgrid[:side, :side]
    along = (rows - row) * np.sin(turn) + (cols - col) * np.cos(turn)
    across = (rows - row) * np.cos(turn) - (cols - col) * np.sin(turn)
    angle = np.arctan2(across, along)
    outline = np.ones((side, side))
    for wave in range(2, 8):
        outline += rng.normal(0, 0.25 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    # Distance from the middle in units of the outline: cut at a rank, it has exactly the share that was drawn.
    distance = np.hypot(along / stretch, across) / np.maximum(outline, 0.3)
    inner = np.zeros((side, side), bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    wanted = round(rng.uniform(SHARE[0] + 0.01, SHARE[1] - 0.01) * side * side)
    distance[~inner] = np.inf
    return distance <= np.partition(distance.ravel(), wanted - 1)[wanted - 1]
