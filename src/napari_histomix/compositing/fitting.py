"""Where a donor's tissue fits: turns and shifts under which the donor's image meets a target's surroundings.

A donor brings its own surroundings along, so what counts is what lies around the target's outline: stain, lumen,
density of nuclei, and the direction of fibers, compared on ``TissueMap``. Turns are those that lose no pixel; the
target stays covered, and a seam can run anywhere around its outline.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.replacement import Pose
from napari_histomix.compositing.tissue_map import CELL, QUICK, TissueMap, in_large_cells
from napari_histomix.records import Segment

INSIDE, OUTSIDE = 2.0, 12.0
"""µm on either side of a target's outline in which a seam may run, and in which the tissue has to agree."""
SHIFT = 20.0
"""µm: how far a donor may be moved from where its centroid lies on the target's."""
CELLS = 400
"""Cells that are compared at most, on and around a target."""
TURNS = tuple(product(range(4), (False, True)))
"""Quarter turns, and whether it is mirrored before."""
MATRICES = np.stack(
    [np.linalg.matrix_power([[0, 1], [-1, 0]], quarter) @ np.diag([1 - 2 * mirrored, 1]) for quarter, mirrored in TURNS]
)
"""(8, 2, 2): of each turn, rows and columns of the donor's to those of the target's."""
FIBERS = 4, 5
"""Of the channels of a map, those of fibers."""
LEAST_COVER = 0.3
"""Share of a target that its donor's segment has to cover."""
OWN = 0.1
"""Most of a target, as a share, that may come from itself where both are of one image."""
APART = 1.5
"""How many times the radius of a target a place of its own image has to be away, or too much of it is itself."""
STAIN = 0.5
"""What a difference in stain may be that stain matching takes away, in tenths of optical density."""
COVERED = 0.5
"""How much a target that its donor's segment leaves open counts, beside what does not agree around it."""

ALIKE = 0.5
"""How much it counts that a donor is unlike its target."""


@dataclass(frozen=True)
class Fit:
    """How a donor fits: its ``pose``, the share of the target that its segment covers, and what does not agree.

    ``mismatch`` is the mean difference of the two maps around the target's outline, beside what stain matching takes
    away; ``unlike`` is how much the target and what comes in its place differ, in the channel in which they differ
    most: the larger difference of the means, and of the standard deviations of the cells. Both count tenths of optical
    density, thirds of lumen, crowded nuclei and fibers (``TissueMap``).
    """

    pose: Pose
    cover: float
    mismatch: float
    unlike: float

    @property
    def cost(self) -> float:
        """What the best donor has least of."""
        return self.mismatch + COVERED * (1 - self.cover) + ALIKE * self.unlike


@dataclass(frozen=True)
class Look:
    """A pose at a quick look: the turn (a number in ``TURNS``) and the cell of the donor's map on the target's middle.

    ``cost`` is what does not agree there, on the root mean square, and how far away from the donor's own place it is.
    """

    turn: int
    center: tuple[float, float]
    cost: float


class Donor:
    """A donor and the map of its image (``source``): its ``cells`` (h, w) in that, and their ``center``."""

    def __init__(self, segment: Segment, source: TissueMap) -> None:
        self.segment, self.source, self.cells = segment, source, source.cells(segment)
        self.center = np.argwhere(self.cells).mean(axis=0) if self.cells.any() else np.zeros(2)
        self.typical = _typical(source.channels[self.cells])


class Surroundings:
    """A target, and what a donor has to agree with around it, in the cells of its image's map (``ground``)."""

    def __init__(self, target: Segment, ground: TissueMap) -> None:
        self.ground, self.inner = ground, ground.cells(target)
        grown, shrunk = _spread(self.inner, OUTSIDE), ~_spread(~self.inner, INSIDE)
        around = grown & ~shrunk
        self.around, self.own = _some(around), _some(self.inner)
        self.typical = _typical(ground.channels[self.inner])
        places = np.argwhere(grown) if grown.any() else np.zeros((1, 2), np.intp)
        self.middle = np.argwhere(self.inner).mean(axis=0) if grown.any() else np.zeros(2)
        self.diameter = 2 * float(np.sqrt(max(1.0, float(self.inner.sum())) / np.pi))
        self.needed = np.array([places.min(axis=0), places.max(axis=0)])
        # What is needed of a donor's map, and its first and last large cell for each turn, as seen from the middle.
        boxes = (self.needed - self.middle) @ MATRICES / QUICK
        self._first, self._last = boxes.min(axis=1), boxes.max(axis=1)
        self.quick_around = in_large_cells(around.astype(np.float32)) >= 0.5
        self._templates: dict[tuple[int, int], NDArray[np.complex64]] = {}
        self._mismatches: dict[TissueMap, NDArray[np.float32]] = {}

    def unlike(self, donor: Donor) -> float:
        """How much a donor, wherever it may lie, seems to differ from the target: about as ``Fit.unlike`` will."""
        differences = np.abs(donor.typical - self.typical)
        differences[0, :2] = np.maximum(0, differences[0, :2] - STAIN)
        # Fibers may be turned yet.
        return float(np.delete(differences, FIBERS, axis=1).max())

    def look(self, donor: Donor) -> Look | None:
        """The best turn, and the best place near a donor's own, at a quick look; None where its image does not reach.

        Everywhere in its image all turns are compared at once, in large cells.
        """
        source = donor.source
        if not donor.cells.any() or not self.quick_around.any():
            return None
        if source not in self._mismatches:
            self._mismatches[source] = self._mismatch(source)
        reach, last = round(SHIFT / CELL / QUICK), np.array(source.quick.shape[:2]) - 1
        center = np.rint(_large(donor.center))
        low = np.maximum(center - reach, np.ceil(-self._first)).astype(int)
        high = np.minimum(center + reach, np.floor(last - self._last)).astype(int)
        best: Look | None = None
        for turn in np.flatnonzero((low <= high).all(axis=1)):
            (row, col), (end_row, end_col) = low[turn], high[turn] + 1
            tried = self._mismatches[source][turn, row:end_row, col:end_col]
            # The farther away, the less of the target its segment covers.
            away = np.hypot(np.arange(row, end_row)[:, None] - center[0], np.arange(col, end_col) - center[1])
            tried = tried + COVERED * QUICK / self.diameter * away
            place = int(tried.argmin())
            cost = float(tried.flat[place])
            if cost < (np.inf if best is None else best.cost):
                down, right = divmod(place, end_col - col)
                at = QUICK * (row + down) + (QUICK - 1) / 2, QUICK * (col + right) + (QUICK - 1) / 2
                best = Look(int(turn), at, cost)
        return best

    def _mismatch(self, source: TissueMap) -> NDArray[np.float32]:
        """How much does not agree (8, H, W) with each turn and each large cell of the donor's map as the middle."""
        expected = self.ground.quick[self.quick_around]
        templates, spectra = self._template(source.padded, expected), source.spectra
        # The mean square of the differences, multiplied out: each term is a correlation of the ring with a plane.
        alone = templates[:, -1]
        terms = np.stack([alone * plane for plane in (spectra[-1], spectra[0], spectra[1])], axis=1)
        for channel, plane in enumerate(2 * spectra[:-1]):
            terms[:, 0] -= templates[:, channel] * plane
        planes = irfft2(terms, s=source.padded) / len(expected)
        squares = planes[:, 0] + (expected**2).sum() / len(expected)
        for stain in (0, 1):
            difference = planes[:, 1 + stain] - expected[:, stain].mean()
            taken = np.clip(difference, -STAIN, STAIN)
            squares -= (2 * difference - taken) * taken
        mismatch = np.sqrt(np.maximum(squares, 0) / expected.shape[1]).astype(np.float32)
        if source is self.ground:
            away = np.hypot(*(np.indices(source.padded) - _large(self.middle)[:, None, None]))
            mismatch[:, away < APART * self.diameter / 2 / QUICK] = np.inf
        return mismatch

    def _template(self, padded: tuple[int, int], expected: NDArray[np.float32]) -> NDArray[np.complex64]:
        """Of every turn, transforms (8, 9, H, W / 2 + 1) of what is expected around the middle, and of where."""
        if padded not in self._templates:
            planes = np.zeros((len(TURNS), expected.shape[1] + 1, *padded), np.float32)
            offsets = np.argwhere(self.quick_around) - _large(self.middle)
            for turn, matrix in enumerate(MATRICES):
                rows, cols = np.rint(offsets @ matrix).astype(np.intp).T % np.array(padded)[:, None]
                planes[turn, :-1, rows, cols] = _turned(expected, turn)
                planes[turn, -1, rows, cols] = 1
            self._templates[padded] = np.asarray(rfft2(planes).conj(), np.complex64)
        return self._templates[padded]

    def fit(self, donor: Donor, look: Look) -> Fit | None:
        """The best pose near that of a quick look; None where the donor covers too little there.

        A donor covers ``LEAST_COVER`` of its target, or it is not laid there. It is turned and mirrored by multiples of
        90° and brought to the target's scale, not made larger or smaller than it was. In its own image, a target is not
        replaced by itself.
        """
        turn, source, covering = MATRICES[look.turn], donor.source, donor.cells
        # The inverse of a turn is its transpose. Moved by whole cells, none is between two.
        first = np.rint(look.center - self.middle @ turn).astype(np.intp)
        seen, laid, box = (cells @ turn + first for cells in (self.around, self.own, self.needed))
        low, high = box.min(axis=0) + NEAR, box.max(axis=0) + NEAR
        shifts = NEAR[((low >= 0) & (high < covering.shape)).all(axis=1)]
        if not len(shifts):
            return None
        seen, laid = seen + shifts[:, None], laid + shifts[:, None]
        expected, usual = (self.ground.channels[tuple(cells.T)] for cells in (self.around, self.own))
        differences = _turned(source.channels[seen[..., 0], seen[..., 1]], look.turn) - expected
        stain = np.clip(differences[..., :2].mean(axis=1), -STAIN, STAIN)
        differences[..., :2] -= stain[:, None]
        cover = covering[laid[..., 0], laid[..., 1]].mean(axis=1)
        mismatch = np.abs(differences).mean(axis=(1, 2))
        costs = np.where(cover >= LEAST_COVER, mismatch + COVERED * (1 - cover), np.inf)
        if source is self.ground:
            costs[self.inner[laid[..., 0], laid[..., 1]].mean(axis=1) > OWN] = np.inf
        best = int(costs.argmin())
        if not np.isfinite(costs[best]):
            return None
        found = _turned(source.channels[laid[best][:, 0], laid[best][:, 1]], look.turn)
        found[:, :2] -= stain[best]
        unlike = float(np.abs(_typical(found) - _typical(usual)).max())
        onto, of_donor = (self.middle, self.ground), (self.middle @ turn + first + shifts[best], source)
        pose = _pose(look.turn, onto, of_donor, donor.segment)
        return Fit(pose, float(cover[best]), float(mismatch[best]), unlike)


def fit_donor(target: Segment, ground: TissueMap, donor: Segment, source: TissueMap) -> Fit | None:
    """The pose under which a donor's image agrees best with a target's surroundings; None where it does not reach.

    ``ground`` and ``source`` are the maps of the target's and the donor's images; of one image they are one map.
    """
    around, laid = Surroundings(target, ground), Donor(donor, source)
    look = around.look(laid)
    return None if look is None else around.fit(laid, look)


NEAR = np.array(list(product(range(-QUICK, QUICK + 1), repeat=2)))
"""Shifts (k, 2) in cells that are tried around the place of a quick look."""


def _typical(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means and standard deviations (2, 8) of the channels of cells (n, 8)."""
    return (
        np.stack([cells.mean(axis=0), cells.std(axis=0)]) if len(cells) else np.zeros((2, cells.shape[1]), np.float32)
    )


def _large(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a place in cells is in large ones."""
    return np.asarray((cell + 0.5) / QUICK - 0.5)


def _spread(cells: Mask, micrometers: float) -> Mask:
    """Cells and those at most some micrometers away."""
    width = round(micrometers / CELL)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    return np.asarray(cv2.dilate(cells.astype(np.uint8), kernel) > 0)


def _some(cells: Mask) -> NDArray[np.intp]:
    """Places (n, 2) of the cells of a mask, evenly thinned out where there are more than ``CELLS``."""
    places = np.argwhere(cells)
    return places[:: max(1, -(-len(places) // CELLS))]


def _turned(channels: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """Channels of a map after a turn: twice the angle of fibers turns with them."""
    quarter, mirrored = TURNS[turn]
    cosine = 1.0 if quarter % 2 == 0 else -1.0
    return channels * np.array([1, 1, 1, 1, cosine, -cosine if mirrored else cosine, 1, 1], np.float32)


def _pose(
    turn: int, onto: tuple[NDArray[np.float64], TissueMap], of: tuple[NDArray[np.float64], TissueMap], donor: Segment
) -> Pose:
    """The pose that lays a cell of the donor's map onto a cell of the target's."""
    there, here = ((cell + 0.5) * np.array(known.shape) / known.channels.shape[:2] - 0.5 for cell, known in (onto, of))
    scale = of[1].mpp / onto[1].mpp
    linear = scale * MATRICES[turn]
    shift = there - linear @ (here - (donor.row, donor.col))
    if scale == 1.0:
        # By whole pixels, so that none is resampled.
        shift = np.rint(shift)
    # OpenCV's x and y are columns and rows.
    first, second = [linear[1, 1], linear[1, 0], shift[1]], [linear[0, 1], linear[0, 0], shift[0]]
    rows = tuple(map(float, first)), tuple(map(float, second))
    return Pose(rows, float(scale), 90.0 * TURNS[turn][0], TURNS[turn][1])
