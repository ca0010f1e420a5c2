"""Where a donor's tissue fits: turns and shifts under which the donor's image meets a target's surroundings.

A donor brings its own surroundings along, so what counts is what lies on both sides of the target's outline: stain,
lumen, density of nuclei, and the direction of fibers, compared on maps of 2 µm a cell. Turns are those that lose no
pixel; the target stays covered, and a seam can run anywhere around its outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.replacement import Pose
from napari_histomix.records import Segment
from napari_histomix.stains import GLASS, optical_density, stain_density

CELL = 2.0
"""µm: a cell of a map."""
FINE = 0.5
"""µm/px that a map is computed at, where an image is as fine."""
FIBERS = 12.0
"""µm: standard deviation over which the direction of fibers is averaged."""
DENSITY = 8.0
"""µm: standard deviation over which nuclei are counted."""
MARGIN = 8.0
"""µm on each side of a target's outline in which a seam may run, and in which the tissue has to agree."""
SHIFT = 20.0
"""µm: how far a donor may be moved from where its centroid lies on the target's."""
WEIGHTS = (1.0, 1.0, 3.0, 1.0, 1.0, 1.0)
"""Of the channels of a map: a third more or less of lumen counts one."""
CLEAR = 2
"""Of the channels, that of lumen and glass."""
CELLS = 400
"""Cells that are compared at most, on and around a target."""
QUICK, QUICK_CELLS, DOUBT = 3, 80, 1.4
"""Of the quick look: cells between two shifts, cells that are compared at most, and how much worse than asked for the
best must be to be the last."""
Turn = tuple[int, bool]
"""Quarter turns, and whether it is mirrored before."""
TURNS: tuple[Turn, ...] = tuple(product(range(4), (False, True)))
LEAST_COVER = 0.3
"""Share of a target that its donor's segment has to cover."""
OWN = 0.1
"""Most of a target, as a share, that may come from itself where both are of one image."""
TENTH = 0.1
"""Optical density that counts one."""
CROWDED = 0.2
"""Share of dark nuclei in tissue that counts one."""
STAIN = 0.5
"""What a difference in stain may be that stain matching takes away, in tenths of optical density."""
COVERED = 0.5
"""How much a target that its donor's segment leaves open counts, beside what does not agree around it."""


@dataclass(frozen=True, eq=False)
class TissueMap:
    """What an image shows, in cells of ``CELL`` µm.

    ``channels`` (h, w, 6): hematoxylin and eosin in tenths of optical density; share of lumen and glass; density of
    dark nuclei; coherence of fibers times the cosine and the sine of twice their angle. ``shape`` is (H, W) of the
    image, ``mpp`` its µm/px, and ``sharpness`` the mean absolute Laplacian of its stains at 0.5 µm/px or its own scale.
    """

    channels: NDArray[np.float32]
    shape: tuple[int, int]
    mpp: float
    sharpness: float

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], mpp: float) -> TissueMap:
        """The map of an image (H, W, 3)."""
        height, width = pixels.shape[:2]
        fine = min(1.0, mpp / FINE)
        half = np.asarray(cv2.resize(pixels, None, fx=fine, fy=fine, interpolation=cv2.INTER_AREA), np.uint8)
        stains = stain_density(half)
        clear = (optical_density(half).sum(axis=-1) < 3 * GLASS).astype(np.float32)
        tissue = clear == 0
        hematoxylin, eosin = (np.where(tissue, stains[..., stain], 0) for stain in (0, 1))
        seen = hematoxylin[tissue]
        dark = (hematoxylin > seen.mean() + 1.5 * seen.std()) if seen.size else np.zeros_like(tissue)
        size = max(1, round(width * mpp / CELL)), max(1, round(height * mpp / CELL))

        def in_cells(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)

        def averaged(values: NDArray[np.float32], micrometers: float) -> NDArray[np.float32]:
            return np.asarray(cv2.GaussianBlur(values, (0, 0), micrometers / CELL), np.float32)

        gray = np.ascontiguousarray(stains[..., :2].sum(axis=-1))
        edges = np.abs(cv2.Laplacian(gray, cv2.CV_32F))[tissue]
        gray = cv2.GaussianBlur(gray, (0, 0), 1.0)
        down, right = (cv2.Sobel(gray, cv2.CV_32F, *order, scale=0.125) for order in ((0, 1), (1, 0)))
        tensor = [averaged(in_cells(part), FIBERS) for part in (right * right, down * down, right * down)]
        energy = tensor[0] + tensor[1] + 1e-4
        channels = [
            in_cells(hematoxylin) / TENTH,
            in_cells(eosin) / TENTH,
            in_cells(clear),
            averaged(in_cells(dark.astype(np.float32)), DENSITY) / CROWDED,
            (tensor[0] - tensor[1]) / energy,
            2 * tensor[2] / energy,
        ]
        sharpness = max(float(edges.mean()) if edges.size else 0.0, 1e-4)
        return cls(np.stack(channels, axis=-1) * np.array(WEIGHTS, np.float32), (height, width), mpp, sharpness)

    def cells(self, mask: Mask) -> Mask:
        """A mask (H, W) of the image in cells (h, w)."""
        size = self.channels.shape[1::-1]
        return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5)

    def tissue(self, segment: Segment) -> float:
        """Share of a segment that is neither lumen nor glass."""
        inside = self.cells(segment.in_image(self.shape))
        return float(1 - self.channels[inside, CLEAR].mean() / WEIGHTS[CLEAR]) if inside.any() else 1.0


@dataclass(frozen=True)
class Fit:
    """How a donor fits: its ``pose``, the share of the target that its segment covers, and what does not agree.

    ``mismatch`` is the mean difference of the two maps around the target's outline, beside what stain matching takes
    away; ``unlike`` is how much the means of the target and of what comes in its place differ, in the channel in which
    they differ most. Both count tenths of optical density, thirds of lumen, crowded nuclei and fibers (``TissueMap``).
    """

    pose: Pose
    cover: float
    mismatch: float
    unlike: float

    @property
    def cost(self) -> float:
        """What the best pose has least of."""
        return self.mismatch + COVERED * (1 - self.cover)


def fit_donor(
    target: Segment, ground: TissueMap, donor: Segment, source: TissueMap, most: float = np.inf
) -> Fit | None:
    """The pose under which a donor's image agrees best with a target's surroundings; None where it does not reach.

    ``ground`` and ``source`` are the maps of the target's and the donor's images; of one image they are one map, and a
    target is not replaced by itself. A donor covers ``LEAST_COVER`` of its target, or it is not laid there. It is
    turned and mirrored by multiples of 90° and brought to the target's scale, not made larger or smaller than it was.
    Where a quick look shows that the mismatch will be above ``most``, the pose is the best of that look.
    """
    inner, covering = ground.cells(target.in_image(ground.shape)), source.cells(donor.in_image(source.shape))
    if not inner.any() or not covering.any():
        return None
    width = round(MARGIN / CELL)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    grown = cv2.dilate(inner.astype(np.uint8), kernel) > 0
    # Beyond an image's border nothing has to agree, so what is eroded there stays.
    shrunk = cv2.erode(inner.astype(np.uint8), kernel, borderValue=1) > 0
    needed = np.argwhere(grown)
    search = _Search(ground, donor, source, inner, covering, np.array([needed.min(axis=0), needed.max(axis=0)]))
    around = grown & ~shrunk
    # A quick look at all turns and at shifts far apart, then a close one near the best of it.
    quick = search.best(TURNS, _grid(round(SHIFT / CELL), QUICK), _some(around, QUICK_CELLS), _some(inner, QUICK_CELLS))
    if quick is None or quick[0].mismatch > DOUBT * most:
        return None if quick is None else quick[0]
    _, turn, shift = quick
    found = search.best([turn], shift + _grid(QUICK, 1), _some(around, CELLS), _some(inner, CELLS))
    return quick[0] if found is None else found[0]


@dataclass(frozen=True, eq=False)
class _Search:
    """Poses tried: of the target (``inner``) and the donor's segment (``covering``) in the cells of their images.

    ``box`` (2, 2), the first and the last corner of what is needed, has to lie in the donor's image.
    """

    ground: TissueMap
    donor: Segment
    source: TissueMap
    inner: Mask
    covering: Mask
    box: NDArray[np.intp]

    def best(
        self, turns: Sequence[Turn], shifts: NDArray[np.intp], around: NDArray[np.intp], own: NDArray[np.intp]
    ) -> tuple[Fit, Turn, NDArray[np.intp]] | None:
        """The best of some turns and shifts (k, 2), compared in cells around (n, 2) and on (m, 2) the target."""
        expected, usual = (self.ground.channels[cells[:, 0], cells[:, 1]] for cells in (around, own))
        middle, center = (np.argwhere(mask).mean(axis=0) for mask in (self.inner, self.covering))
        fits: list[tuple[Fit, Turn, NDArray[np.intp]]] = []
        for quarter, mirrored in turns:
            turn = _turn(quarter, mirrored)
            # The inverse of a turn is its transpose.
            seen, laid, box = (
                np.rint((cells - middle) @ turn + center).astype(np.intp) for cells in (around, own, self.box)
            )
            low, high = box.min(axis=0) + shifts, box.max(axis=0) + shifts
            tried = shifts[((low >= 1) & (high < np.array(self.covering.shape) - 1)).all(axis=1)]
            if not len(tried):
                continue
            seen, laid = seen + tried[:, None], laid + tried[:, None]
            differences = _turned(self.source.channels[seen[..., 0], seen[..., 1]], quarter, mirrored) - expected
            stain = np.clip(differences[..., :2].mean(axis=1), -STAIN, STAIN)
            differences[..., :2] -= stain[:, None]
            cover = self.covering[laid[..., 0], laid[..., 1]].mean(axis=1)
            mismatch = np.abs(differences).mean(axis=(1, 2))
            costs = np.where(cover >= LEAST_COVER, mismatch + COVERED * (1 - cover), np.inf)
            if self.source is self.ground:
                costs[self.inner[laid[..., 0], laid[..., 1]].mean(axis=1) > OWN] = np.inf
            best = int(costs.argmin())
            if not np.isfinite(costs[best]):
                continue
            found = _turned(self.source.channels[laid[best][:, 0], laid[best][:, 1]], quarter, mirrored).mean(axis=0)
            found[:2] -= stain[best]
            unlike = float(np.abs(found - usual.mean(axis=0)).max())
            onto, of = (middle, self.ground), (center + tried[best], self.source)
            pose = _pose(turn, quarter, mirrored, onto, of, self.donor)
            fit = Fit(pose, float(cover[best]), float(mismatch[best]), unlike)
            fits.append((fit, (quarter, mirrored), tried[best]))
        return min(fits, key=lambda one: one[0].cost, default=None)


def _grid(reach: int, step: int) -> NDArray[np.intp]:
    """Shifts (k, 2) by up to ``reach`` cells."""
    return np.array(list(product(range(-reach, reach + 1, step), repeat=2)))


def _some(cells: Mask, count: int) -> NDArray[np.intp]:
    """Places (n, 2) of the cells of a mask, evenly thinned out where there are more than a count."""
    places = np.argwhere(cells)
    return places[:: max(1, -(-len(places) // count))]


def _turn(quarter: int, mirrored: bool) -> NDArray[np.intp]:
    """(2, 2): rows and columns of the donor's to those of the target's."""
    turn = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), quarter)
    return np.asarray(turn @ np.diag([-1 if mirrored else 1, 1]), np.intp)


def _turned(channels: NDArray[np.float32], quarter: int, mirrored: bool) -> NDArray[np.float32]:
    """Channels of a map after a turn: twice the angle of fibers turns with them."""
    cosine = 1.0 if quarter % 2 == 0 else -1.0
    return channels * np.array([1, 1, 1, 1, cosine, -cosine if mirrored else cosine], np.float32)


def _pose(
    turn: NDArray[np.intp],
    quarter: int,
    mirrored: bool,
    onto: tuple[NDArray[np.float64], TissueMap],
    of: tuple[NDArray[np.float64], TissueMap],
    donor: Segment,
) -> Pose:
    """The pose that lays a cell of the donor's map onto a cell of the target's."""
    there, here = ((cell + 0.5) * np.array(known.shape) / known.channels.shape[:2] - 0.5 for cell, known in (onto, of))
    scale = of[1].mpp / onto[1].mpp
    linear = scale * turn
    shift = there - linear @ (here - (donor.row, donor.col))
    if scale == 1.0:
        # By whole pixels, so that none is resampled.
        shift = np.rint(shift)
    # OpenCV's x and y are columns and rows.
    first, second = [linear[1, 1], linear[1, 0], shift[1]], [linear[0, 1], linear[0, 0], shift[0]]
    rows = tuple(map(float, first)), tuple(map(float, second))
    return Pose(rows, float(scale), 90.0 * quarter, mirrored)
