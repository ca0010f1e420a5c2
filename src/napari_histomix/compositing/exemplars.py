"""Large holes filled with real tissue: pieces of the same image, and of others, that agree with what surrounds them.

Efros & Freeman, *Image quilting* (SIGGRAPH 2001), beside what is known instead of from nothing. Where enough around a
piece is known, the place of all exemplars is looked for that agrees with it best, in eight turns: first on maps of the
tissue (``exemplar_atlas``), then in the pixels along the piece's edge. A minimum cut (``seams``) joins it to those laid
before. Nuclei keep their chromatin: within an image nothing is resampled, and little averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.exemplar_atlas import (
    CELL,
    FIELD,
    TURNS,
    Atlas,
    Turn,
    blurred,
    exemplar_of,
    in_cells,
    signs_of,
    turned,
    turned_back,
)
from napari_histomix.compositing.seams import find_seam
from napari_histomix.compositing.stain import STAINED
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.stains import optical_density

U8 = NDArray[np.uint8]

SIDES = (64.0, 48.0, 32.0, 16.0)
"""µm: diameter of a piece with what it overlaps; a smaller one where no place has room for the larger."""
OVERLAP = 6.0
"""µm: rim of a piece in which its seam with earlier pieces may run."""
KNOWN = 0.5
"""Share of a window that is known before a piece is laid there, if there is such a place."""
NEAR = 16.0
"""µm over which what surrounds a piece counts less and less."""
GUESS = 0.4
"""Weight of what its surroundings let expect of a piece, blurred, beside the surroundings themselves."""
CLOSE, LOOKED_AT = 1.5, 6
"""Places that are compared pixel by pixel: those at most so much worse than the best, and their number."""
EDGE, SAMPLES = 6.0, 800
"""µm around a piece in which pixels are compared, and how many are."""
PIXELS = 30.0
"""Weight of the mean squared difference of pixels (of 0 to 1), beside that of maps."""
CHANCE = 0.25
"""By how much, as a share, chance makes a turn worse at most: another seed is to take other pieces."""
TONE = 0.04
"""Most that a piece's optical density is moved to that of its surroundings."""
SEEN, SEEN_BETWEEN = 0.05, 0.12
"""Differences of colors (of 0 to 1) from which a joint is seen: at the hole's edge, and between pieces, where both are
blended over a pixel or two."""


@dataclass(frozen=True, eq=False)
class Quilt:
    """A filled image (H, W, 3), pixels of the hole along joints that are seen (H, W), and how many pieces it took."""

    pixels: U8
    joints: Mask
    pieces: int


def quilt(
    pixels: U8,
    hole: Mask,
    mpp: float,
    others: Sequence[tuple[U8, float]] = (),
    seed: int = 0,
    *,
    phase: str = "Choosing pieces",
) -> Job[Quilt]:
    """Fill a hole with pieces of real tissue; a long job (see ``records.Job``).

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        RGB; what lies in the hole is never looked at.
    hole : (H, W) bool
    mpp : float
        µm per pixel.
    others : sequence of ((h, w, 3) uint8, float)
        Further exemplars with their µm per pixel; their stain is matched to that of the image.
    seed : int
        The same seed gives the same pieces.

    Returns
    -------
    Quilt
        Outside the hole, its pixels are those of the image, bit for bit.

    Raises
    ------
    HistomixError
        If there is no hole, or too little around it to take pieces from.
    """
    if not hole.any():
        raise HistomixError("A hole without a pixel cannot be filled.")
    if hole.all():
        raise HistomixError("A hole that covers the whole image leaves nothing to go by; replace less of it.")
    window = tuple(
        slice(max(0, int(places.min()) - round(FIELD / mpp)), int(places.max()) + 1 + round(FIELD / mpp))
        for places in np.nonzero(hole)
    )
    # What lay in the hole must not come through at its edge.
    bare = np.where(hole[..., None], pixels[~hole].mean(axis=0), pixels).astype(np.uint8)
    work = _Work(bare[window], hole[window], mpp, others, np.random.default_rng(seed))
    total = int(work.unfilled.sum())
    count = 0
    while left := int(work.unfilled.sum()):
        yield Event(phase, total - left, total)
        work.lay()
        count += 1
    filled, joints = pixels.copy(), np.zeros_like(hole)
    filled[window], joints[window] = work.result()
    return Quilt(filled, joints, count)


@dataclass(frozen=True, eq=False)
class _Spot:
    """Where a piece is to lie on the canvas: its square, and in its pixels what it has to fill and what it may fill."""

    square: tuple[slice, slice]
    cells: tuple[slice, slice]
    core: Mask
    rim: Mask


Place = tuple[float, Turn, int, int]
"""How badly it agrees, a turn, and the first row and column in the atlas."""


class _Work:
    """A canvas that is filled piece by piece."""

    def __init__(
        self, pixels: U8, hole: Mask, mpp: float, others: Sequence[tuple[U8, float]], rng: np.random.Generator
    ) -> None:
        self.mpp, self.rng = mpp, rng
        self.step = step = max(1, round(CELL / mpp))
        self.shape, self.margin = hole.shape, round(SIDES[0] / CELL / 2) * step
        exemplars = [(pixels, ~hole), *(exemplar_of(other, scale, pixels, ~hole, mpp) for other, scale in others)]
        self.atlas = Atlas(exemplars, step)
        # Around the canvas lies what is neither known nor to be filled.
        around = tuple((self.margin, self.margin + -length % step) for length in self.shape)
        self.pixels = np.pad(pixels, (*around, (0, 0)))
        self.unfilled, self.hole = np.pad(hole, around), np.pad(hole, around)
        self.inside = np.pad(np.ones_like(hole), around)
        self.maps, _ = self.atlas.described(self.pixels, self.known)
        self.joints = np.zeros_like(self.hole)

    @property
    def known(self) -> Mask:
        return self.inside & ~self.unfilled

    def result(self) -> tuple[U8, Mask]:
        """The filled image and its joints."""
        inner = tuple(slice(self.margin, self.margin + length) for length in self.shape)
        return self.pixels[inner], self.joints[inner]

    def lay(self) -> None:
        """Lay one piece, as large as there is room for somewhere in the atlas."""
        for micrometers in SIDES:
            side = 2 * round(micrometers / CELL / 2)
            if side > min(self.atlas.cells.shape):
                continue
            spot = self._spot(side)
            if places := self._places(spot, side):
                self._put(spot, self._closest(spot, places))
                return
        raise HistomixError("Too little tissue is left around the hole to fill it from; replace less of the image.")

    def _spot(self, side: int) -> _Spot:
        """Where most would be filled of a window that is known well enough."""
        waiting, there = (in_cells(mask, self.step) for mask in (self.unfilled, self.known))
        known, gain = (
            cv2.boxFilter(each, -1, (side, side), borderType=cv2.BORDER_CONSTANT) for each in (there, waiting)
        )
        score = np.where(known >= KNOWN, gain, known - 2)
        score[waiting == 0] = -3
        row, col = (int(place) for place in np.unravel_index(score.argmax(), score.shape))
        top, left = row - side // 2, col - side // 2
        length = side * self.step
        square = tuple(slice(start * self.step, start * self.step + length) for start in (top, left))
        rows, cols = np.mgrid[:length, :length] - (length - 1) / 2
        far = np.hypot(rows, cols)
        core = self.unfilled[square] & (far <= length / 2 - OVERLAP / self.mpp)
        if not core.any():
            core = self.unfilled[square] & (far <= length / 2)
        rim = self.hole[square] & ~self.unfilled[square] & (far <= length / 2)
        return _Spot((square[0], square[1]), (slice(top, top + side), slice(left, left + side)), core, rim)

    def _places(self, spot: _Spot, side: int) -> list[Place]:
        """The best places of the atlas in each turn, those that agree best first."""
        core = in_cells(spot.core, self.step) > 0
        there = in_cells(self.known[spot.square], self.step) > 0.99
        far = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        weight = np.where(there, np.exp(-far * CELL / NEAR), 0).astype(np.float32)
        if not weight.any():
            weight += np.float32(1e-6)
        template = np.where(there[..., None], self.maps[spot.cells], np.float32(0))
        expected, guess = blurred(template, weight), GUESS * core.astype(np.float32)
        needed = cv2.dilate(core.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
        maps, low, unknown = self.atlas.spectra(side)
        used = cv2.boxFilter(self.atlas.used, -1, (side, side), anchor=(0, 0))[: maps.found[0], : maps.found[1]]
        total = weight.sum() + guess.sum()
        places: list[Place] = []
        for turn in TURNS:
            signs = signs_of(turn)
            differences = sum(
                spectra.differences(turned_back(values, turn) * signs, turned_back(weights, turn))
                for spectra, values, weights in ((maps, template, weight), (low, expected, guess))
            )
            cost = np.maximum(differences / total, 0) * (1 + used)
            cost[unknown.counts(turned_back(needed, turn)) > 0.5] = np.inf
            row, col = np.unravel_index(int(cost.argmin()), cost.shape)
            if np.isfinite(cost[row, col]):
                places.append((float(cost[row, col]), turn, int(row), int(col)))
        places.sort(key=lambda place: place[0])
        return [place for place in places if place[0] <= CLOSE * places[0][0]][:LOOKED_AT]

    def _closest(self, spot: _Spot, places: Sequence[Place]) -> Place:
        """The place, in pixels now and a cell from those given at most, that agrees best along the piece's edge."""
        known, length = self.known[spot.square], len(spot.core)
        far = cv2.distanceTransform((~spot.core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        rows, cols = np.nonzero(known & (far <= EDGE / self.mpp))
        some = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLES)).astype(int)
        rows, cols = rows[some], cols[some]
        wanted = self.pixels[spot.square][rows, cols].astype(np.float32) / 255
        numbers, atlas = np.arange(length * length).reshape(length, length), self.atlas.pixels
        # All that a piece has to show is known a cell farther, too.
        steps = range(-self.step, self.step + 1, max(1, self.step // 4))
        shifts = np.array(list(product(steps, steps)))
        found: list[Place] = []
        for cost, turn, row, col in places:
            corners = shifts + np.array([row, col]) * self.step
            corners = corners[((corners >= 0) & (corners + length <= atlas.shape[:2])).all(axis=1)]
            down, right = np.divmod(turned(numbers, turn)[rows, cols], length)
            colors = atlas[corners[:, :1] + down, corners[:, 1:] + right].astype(np.float32) / 255
            # A piece that is lighter all over is brought to the tone of its surroundings.
            worse = PIXELS * (colors - wanted).var(axis=1).sum(axis=-1) if len(rows) else np.zeros(len(corners))
            best = int(worse.argmin())
            chance = 1 + CHANCE * self.rng.random()
            found.append(((cost + float(worse[best])) * chance, turn, *corners[best].tolist()))
        return min(found, key=lambda place: place[0])

    def _put(self, spot: _Spot, place: Place) -> None:
        """Cut the piece out along what it has in common with those laid before, and lay it."""
        _, turn, top, left = place
        length, there = len(spot.core), self.pixels[spot.square]
        part = np.s_[top : top + length, left : left + length]
        piece, seen = (turned(values[part], turn) for values in (self.atlas.pixels, self.atlas.known))
        known = self.known[spot.square]
        piece = _toned(piece, there, known & seen)
        rim = spot.rim & seen
        mask = find_seam(there, piece, spot.core, rim, self.mpp).mask if rim.any() else spot.core
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.7, 0.2 / self.mpp))
        share = np.where(rim, soft, mask.astype(np.float32))[..., None]
        blended = np.rint(share * piece + (1 - share) * there).astype(np.uint8)
        # Where the piece shows nothing of what it meets, nobody can tell how they agree.
        apart = np.where(seen, np.abs(piece.astype(np.float32) - there).mean(axis=-1) / 255, 1).astype(np.float32)
        near = cv2.blur(apart * known, (3, 3)) / np.maximum(cv2.blur(known.astype(np.float32), (3, 3)), 0.1)
        differs = (near > np.where(self.hole[spot.square], SEEN_BETWEEN, SEEN)) & known & ~mask
        joints = self.joints[spot.square]
        joints &= ~mask
        joints |= mask & (cv2.dilate(differs.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        self.pixels[spot.square] = blended
        self.unfilled[spot.square] &= ~mask
        cells = np.s_[top // self.step :, left // self.step :]
        side = length // self.step
        laid = in_cells(mask, self.step) > 0.5
        shown = turned(self.atlas.maps[cells][:side, :side], turn) * signs_of(turn)
        self.maps[spot.cells][laid] = shown[laid]
        self.atlas.used[cells][:side, :side] += 1


def _toned(piece: U8, there: U8, common: Mask) -> U8:
    """A piece whose tissue has the mean optical density of what it overlaps, by a change of ``TONE`` at most."""
    if common.sum() < SAMPLES // 4:
        return piece
    own, other = (optical_density(each, common).mean(axis=0) for each in (piece, there))
    density = optical_density(piece)
    share = np.clip(density.sum(axis=-1, keepdims=True) / STAINED, 0, 1)
    moved = density + share * np.clip(other - own, -TONE, TONE)
    return np.rint(np.clip(256 * 10**-moved - 1, 0, 255)).astype(np.uint8)
