"""Label images with structure edges, as edge pix2pix paints them, and their shape augmentation.

The generator's input has, a channel each: edge, nucleus and background (one-hot, where an edge wins over a nucleus; all
zero where the label is unknown), every class, and *hidden*, 1 where nobody says which edges there are. Hidden is not
the same as empty: where edges are known and there are none, the tissue is smooth; where they are hidden, the generator
invents them. A layout without any real image behind it, and the inside of an edit, are hidden, but for the outlines of
nuclei: they are edges there, or nuclei that touch would become one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.generation.layout import Layout
from napari_histomix.generation.structure import boundary_of
from napari_histomix.records import instance_ids
from napari_histomix.stains import stain_density

T = TypeVar("T", bound=np.generic)

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
        None: there are none to know, everything but the outlines of nuclei is hidden.
    hidden : (H, W) bool, optional
        Where edges are to be redrawn. The outlines of nuclei are edges there.
    ignore : (H, W) bool, optional
        Where the label is unknown.
    """
    nucleus = layout.instances > 0
    if edges is None:
        edges, hidden = np.zeros(layout.shape, bool), np.ones(layout.shape, bool)
    if hidden is None:
        hidden = np.zeros(layout.shape, bool)
    unknown = np.zeros(layout.shape, bool) if ignore is None else ignore
    # Whoever redraws edges knows those that the labels themselves say.
    outlines = hidden & (boundary_of(layout.instances) > 0) & ~unknown
    edge, hidden = (edges & ~hidden) | outlines, hidden & ~outlines
    order = {name: 1 + index for index, name in enumerate(names)}
    lookup = np.zeros(int(layout.instances.max(initial=0)) + 1, np.int32)
    for number in instance_ids(layout.instances):
        lookup[number] = order.get(layout.classes[number], 0)
    kinds = np.where(unknown, 0, lookup[layout.instances])
    channels = [edge, nucleus & ~edge & ~unknown, ~nucleus & ~edge & ~unknown]
    channels += [kinds == 1 + index for index in range(len(names))]
    return np.stack([*channels, hidden]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Shape:
    """The paper's G1: labels and their edges turned, mirrored, enlarged and cropped together, at the size they had.

    Edges are found in pixels that are shaped as the labels are: lines of one pixel that are enlarged, and thinned
    again, are no longer the lines that a generator has learned. ``Shape()`` is the paper's G0, the replica.

    Parameters
    ----------
    turns : int
        Quarter turns, counterclockwise; of what is not square, two or none.
    flip : bool
        Whether it is mirrored left to right, before it is turned.
    tilt : float
        Degrees it is turned beyond that.
    enlarged : float
        At least what keeps the corners filled (``draw``).
    down, right : float
        Where the crop lies, from −1 to 1 of the room that the enlargement leaves.

    Examples
    --------
    >>> pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    >>> bool((Shape(turns=1).pixels(pixels) == np.rot90(pixels)).all())
    True
    """

    turns: int = 0
    flip: bool = False
    tilt: float = 0.0
    enlarged: float = 1.0
    down: float = 0.0
    right: float = 0.0

    @classmethod
    def draw(cls, size: tuple[int, int], rng: np.random.Generator) -> Shape:
        """A random shape for maps of a size (H, W): any turn, up to 15° of tilt, up to 1.5 times as large."""
        longer = max(size) / min(size)
        turns = int(rng.integers(4)) if longer == 1 else 2 * int(rng.integers(2))
        flip = bool(rng.integers(2))
        # The longer it is, the more a tilt has to be made up for.
        tilt = float(rng.uniform(-1, 1)) * 15 / longer
        angle = math.radians(abs(tilt))
        enlarged = float(rng.uniform(math.cos(angle) + longer * math.sin(angle), 1.5))
        down, right = (float(place) for place in rng.uniform(-1, 1, 2))
        return cls(turns, flip, tilt, enlarged, down, right)

    @property
    def exact(self) -> bool:
        """Whether pixels only change places."""
        return self.tilt == 0 and self.enlarged == 1

    def layout(self, layout: Layout) -> Layout:
        """A layout in this shape; nuclei that the crop cuts off are gone."""
        if self.exact:
            instances = self._turned(layout.instances)
        else:
            # OpenCV warps no whole numbers of 32 bits; floats keep those up to 2^24 exact.
            ids, places = np.unique(layout.instances, return_inverse=True)
            planes = places.reshape(layout.shape).astype(np.float32)
            instances = ids[self._warped(planes, cv2.INTER_NEAREST).astype(np.int64)].astype(np.int32)
        left = {number: layout.classes[number] for number in instance_ids(instances)}
        return replace(layout, instances=instances, classes=left)

    def pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) in this shape."""
        return self._turned(pixels) if self.exact else self._warped(pixels, cv2.INTER_CUBIC)

    def source(self, row: float, col: float, size: tuple[int, int]) -> tuple[float, float]:
        """Where a place of the result was before (row, column), in maps of a size (H, W)."""
        x, y = self._affine(size) @ (col, row, 1.0)
        return float(y), float(x)

    def _turned(self, plane: NDArray[T]) -> NDArray[T]:
        return np.ascontiguousarray(np.rot90(plane[:, ::-1] if self.flip else plane, self.turns))

    def _affine(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """From a place (x, y, 1) in the result to the place (x, y) before."""
        angle = math.radians(90 * self.turns + self.tilt)
        matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / self.enlarged
        if self.flip:
            matrix = np.diag([-1.0, 1.0]) @ matrix
        middle = (np.array(size[::-1]) - 1) / 2
        room = np.maximum(middle - np.abs(matrix) @ middle, 0)
        return np.column_stack([matrix, middle + np.array([self.right, self.down]) * room - matrix @ middle])

    def _warped(self, plane: NDArray[T], how: int) -> NDArray[T]:
        size = plane.shape[0], plane.shape[1]
        flags = how | cv2.WARP_INVERSE_MAP
        # Rounding may ask for a sliver beyond the border.
        made: Any = cv2.warpAffine(plane, self._affine(size), size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[arg-type]
        return np.asarray(made, plane.dtype)
