"""Holes in real images, whose content is known, and fills that need no network, which samplers have to beat."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csc_matrix, diags
from scipy.sparse.linalg import spsolve

from napari_histomix.compositing.donors import Mask, dilate, transition_zone
from napari_histomix.datasets import Dataset
from napari_histomix.diffusion.random_field import fill_smoothly
from napari_histomix.records import Event, Job, LabeledImage
from napari_histomix.sampling import nucleus_boxes, tissue

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

RADIUS = 3
"""Pixels that Navier–Stokes and Telea look at around each pixel they fill."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class HiddenWindow:
    """A window of a real image: the truth (S, S, 3), and the hole (S, S) in which it is hidden and filled.

    ``seed`` is that of the noise this window meets, ``image`` the name of the image; windows of one image are not
    independent. ``mpp`` is in µm per pixel.
    """

    pixels: Pixels
    hole: Mask
    seed: int
    image: str
    mpp: float


def draw_windows(
    dataset: Dataset, kinds: Collection[HoleKind], count: int, seed: int
) -> Job[tuple[dict[HoleKind, list[HiddenWindow]], dict[str, Pixels]]]:
    """Draw windows from real images of the training split without synthetic pixels; a long job (see ``records.Job``).

    ``ring``: the transition zone around a nucleus with no other within ``FREE`` pixels. ``disc``: a circle of that
    nucleus's size on free background. ``large``: an irregular blob of the size of a tissue segment, anywhere on
    tissue, whatever lies in it. Which kinds are asked for does not change what is drawn for each.

    Returns at most ``count`` windows of each kind in random order, fewer where there is no room for more; at most count
    / images, rounded up, and one more come from one image. And the pixels of every image they could come from.
    """
    entries = [entry for entry in dataset.training if not entry.synthetic]
    each = -(-count // max(1, len(entries))) + 1
    nucleus_rng, large_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    windows: dict[HoleKind, list[HiddenWindow]] = {kind: [] for kind in KINDS}
    images: dict[str, Pixels] = {}
    for number, entry in enumerate(entries):
        yield Event("Reading images", number, len(entries))
        image = dataset.read(entry)
        images[image.source.image] = image.pixels
        rings, discs = _rings_and_discs(image, each, nucleus_rng)
        windows["ring"] += rings
        windows["disc"] += discs
        if "large" in kinds:
            windows["large"] += _large_holes(image, each, large_rng)
    yield Event("Reading images", len(entries), len(entries))
    orders = {kind: nucleus_rng.permutation(len(windows[kind])) for kind in ("ring", "disc")}
    orders["large"] = large_rng.permutation(len(windows["large"]))
    return {kind: [windows[kind][i] for i in orders[kind][:count]] for kind in KINDS if kind in kinds}, images


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
    boxes = nucleus_boxes(image.instances)
    for instance in rng.permutation(list(boxes)):
        if len(rings) == count:
            break
        box = boxes[int(instance)]
        inside = np.nonzero(image.instances[box] == instance)
        rows, cols = (places + part.start for places, part in zip(inside, box, strict=True))
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
    windows: list[HiddenWindow] = []
    for _ in range(TRIES):
        if len(windows) == count:
            break
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        if on_tissue[top : top + side, left : left + side].mean() >= LEAST_TISSUE:
            windows.append(_window(image, top, left, segment_hole(side, rng), int(rng.integers(2**31))))
    return windows


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


# Fills without a network, each of a window and of another one whose pixels it may use.


def continued(window: HiddenWindow, other: HiddenWindow, method: int) -> Pixels:
    """What OpenCV continues into the hole from around it."""
    # Without what the hole hides: OpenCV looks at that where a hole meets the border.
    mean = window.pixels[~window.hole].mean(axis=0)
    emptied = np.where(window.hole[..., None], np.rint(mean), window.pixels).astype(np.uint8)
    return _inside(window, cv2.inpaint(emptied, window.hole.astype(np.uint8), RADIUS, method))


def kriging(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """The mean of a Gaussian random field: the engine's own first guess, before any network."""
    return fill_smoothly(window.pixels, window.hole)


def hard_paste(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """The same pixels of another window, as they are."""
    return _inside(window, other.pixels)


def poisson(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """The gradients of another window, fitted to the known pixels around the hole (Pérez et al., SIGGRAPH 2003).

    Solves 4·f − Σ f = 4·g − Σ g over the hole, sums over the four neighbors, f known outside and g the other window.
    OpenCV's ``seamlessClone`` is of no use here: it shrinks the mask by three pixels and lets what is hidden there,
    all of a transition zone, shine through.
    """
    hole, known, source = window.hole, window.pixels.astype(float), other.pixels.astype(float)
    rows, cols = np.nonzero(hole)
    number = np.zeros(hole.shape, int)
    number[hole] = np.arange(len(rows))
    degree, right = np.zeros(len(rows)), np.zeros((len(rows), 3))
    links: list[NDArray[np.int_]] = []
    for down, along in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        to_row, to_col = rows + down, cols + along
        there = (to_row >= 0) & (to_row < hole.shape[0]) & (to_col >= 0) & (to_col < hole.shape[1])
        here = np.flatnonzero(there)
        near = to_row[here], to_col[here]
        degree[here] += 1
        right[here] += source[rows[here], cols[here]] - source[near]
        inner = hole[near]
        right[here[~inner]] += known[near][~inner]
        links.append(np.stack([here[inner], number[near][inner]]))
    pairs = np.concatenate(links, axis=1)
    laplacian = diags(degree).tocsc() - csc_matrix((np.ones(pairs.shape[1]), tuple(pairs)), [len(rows)] * 2)
    filled = window.pixels.copy()
    filled[hole] = np.clip(np.rint(spsolve(laplacian.tocsc(), right)), 0, 255)
    return filled


def _inside(window: HiddenWindow, pixels: NDArray[np.generic]) -> Pixels:
    return np.where(window.hole[..., None], pixels, window.pixels).astype(np.uint8)


CLASSIC_FILLS: Mapping[str, Callable[[HiddenWindow, HiddenWindow], Pixels]] = {
    "navier-stokes": partial(continued, method=cv2.INPAINT_NS),  # isophotes (Bertalmio et al., CVPR 2001)
    "telea": partial(continued, method=cv2.INPAINT_TELEA),  # fast marching (Telea, J. Graphics Tools 9, 2004)
    "kriging": kriging,
    "hard-paste": hard_paste,
    "poisson": poisson,
}


def other_windows(windows: Sequence[HiddenWindow], seed: int) -> list[HiddenWindow]:
    """For each of two or more windows another one of the list, drawn at random: what is pasted or cloned into it."""
    steps = np.random.default_rng([seed, 2]).integers(1, len(windows), size=len(windows))
    return [windows[(i + int(step)) % len(windows)] for i, step in enumerate(steps)]
