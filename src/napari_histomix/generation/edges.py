"""Label images with structure edges, as edge pix2pix paints them, and their shape augmentation.

The generator's input has, a channel each: edge, nucleus and background (one-hot, where an edge wins over a nucleus; all
zero where the label is unknown), every class, and *hidden*, 1 where nobody says which edges there are. Hidden is not
the same as empty: where edges are known and there are none, the tissue is smooth; where they are hidden, the generator
invents them. A layout without any real image behind it, and the inside of an edit, are hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.morphology import skeletonize

from napari_histomix.generation.layout import Layout
from napari_histomix.records import instance_ids
from napari_histomix.stains import stain_density

SIGMA = 1.4
PERCENTILES = (80.0, 92.0)
"""Gradient percentiles of Canny's hysteresis: weak edges from the first, strong ones from the second."""
FAINTEST = 0.01
"""Gradient, in optical density a pixel, below which nothing is an edge: glass has none, whatever its percentiles."""
FIXED = 4
"""Input channels beside the classes: edge, nucleus, background, hidden."""


def canny_edges(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Canny edges (H, W) of the hematoxylin density of RGB pixels (H, W, 3) uint8.

    Gaussian of sigma 1.4, Sobel gradients, hysteresis between two percentiles of the gradient (``PERCENTILES``).
    """
    smooth = cv2.GaussianBlur(np.ascontiguousarray(stain_density(pixels)[..., 0]), (0, 0), SIGMA)
    # Sobel's kernel weighs 8, so that this is the density's change from one pixel to the next.
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0))
    low, high = np.maximum(np.percentile(np.hypot(across, down), PERCENTILES), FAINTEST)
    # Canny's implementation wants whole numbers.
    steps = 4000 / max(float(np.abs(across).max()), float(np.abs(down).max()), 1e-6)
    dx, dy = (np.rint(gradient * steps).astype(np.int16) for gradient in (across, down))
    return np.asarray(cv2.Canny(dx, dy, float(low * steps), float(high * steps), L2gradient=True) > 0)


def label_maps(
    layout: Layout,
    names: Sequence[str],
    edges: NDArray[np.bool_] | None = None,
    hidden: NDArray[np.bool_] | None = None,
    ignore: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """The generator's input (4 + classes, H, W) float32, see above.

    Parameters
    ----------
    layout : Layout
    names : sequence of str
        The generator's classes; nuclei of other classes are nuclei of no known class.
    edges : (H, W) bool, optional
        None: there are none to know, everything is hidden.
    hidden : (H, W) bool, optional
        Where edges are to be redrawn.
    ignore : (H, W) bool, optional
        Where the label is unknown.
    """
    nucleus = layout.instances > 0
    if edges is None:
        edges, hidden = np.zeros(layout.shape, bool), np.ones(layout.shape, bool)
    if hidden is None:
        hidden = np.zeros(layout.shape, bool)
    edge = edges & ~hidden
    unknown = np.zeros(layout.shape, bool) if ignore is None else ignore
    order = {name: 1 + index for index, name in enumerate(names)}
    lookup = np.zeros(int(layout.instances.max(initial=0)) + 1, np.int32)
    for number in instance_ids(layout.instances):
        lookup[number] = order.get(layout.classes[number], 0)
    kinds = np.where(unknown, 0, lookup[layout.instances])
    channels = [edge, nucleus & ~edge & ~unknown, ~nucleus & ~edge & ~unknown]
    channels += [kinds == 1 + index for index in range(len(names))]
    return np.stack([*channels, hidden]).astype(np.float32)


def replica(layout: Layout, edges: NDArray[np.bool_]) -> tuple[Layout, NDArray[np.bool_]]:
    """The paper's G0: the same labels with the same edges, for the generator to paint again."""
    return layout, edges


def shaped(layout: Layout, edges: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Layout, NDArray[np.bool_]]:
    """The paper's G1: labels and their edges turned, mirrored, enlarged and cropped together, at the size they had.

    Rotation is by a quarter turn and up to 15° more; the enlargement, up to 1.5 times, is at least what keeps the
    corners filled. Nuclei that the crop cuts off are gone.

    Parameters
    ----------
    layout : Layout
    edges : (H, W) bool
    rng : numpy.random.Generator

    Returns
    -------
    layout : Layout
    edges : (H, W) bool
    """
    height, width = layout.shape
    turns = int(rng.integers(4)) if height == width else 2 * int(rng.integers(2))
    flip = bool(rng.integers(2))
    tilt = math.radians(float(rng.uniform(-15, 15)))
    # A turned rectangle that covers an upright one of the same size is larger by this factor.
    longer = max(height / width, width / height)
    scale = float(rng.uniform(math.cos(tilt) + longer * abs(math.sin(tilt)), 1.5))
    rows, cols = rng.uniform(-1, 1, 2)
    # From the place in the result to the place in the source: turn and shrink about the center, then shift.
    angle = tilt + turns * math.pi / 2
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / scale
    if flip:
        matrix = matrix @ np.diag([-1.0, 1.0])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    reach = np.abs(matrix) @ middle
    shift = np.array([cols, rows]) * np.maximum(middle - reach, 0)
    affine = np.column_stack([matrix, middle + shift - matrix @ middle])

    def warp(plane: NDArray[np.float32], how: int) -> NDArray[np.float32]:
        flags = how | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(plane, affine, (width, height), flags=flags), np.float32)

    # Floats keep ids below 2^24 exact.
    instances = warp(layout.instances.astype(np.float32), cv2.INTER_NEAREST).astype(np.int32)
    # Edges stay lines of one pixel: broadened so that enlarging does not break them, then thinned again.
    broad = cv2.dilate(edges.astype(np.uint8), np.ones((2, 2), np.uint8)).astype(np.float32)
    lines = skeletonize(warp(broad, cv2.INTER_LINEAR) >= 0.5)
    left = {number: layout.classes[number] for number in instance_ids(instances)}
    return replace(layout, instances=instances, classes=left), lines
