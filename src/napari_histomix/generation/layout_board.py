"""A layout in the making: nuclei as lists of their pixels, turned, and laid down where there is room."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_histomix.generation.layout import Layout

Mask = NDArray[np.bool_]

Pixels = NDArray[np.int64]
"""(N, 2): row and column of every pixel of a nucleus, in its map or from its center."""

CLIPPED_AT_MOST = 0.1
"""Share of a nucleus that its neighbors may hide before another place is tried; touching nuclei flatten each other."""

BLUR = 0.8
"""Of a nucleus that is turned, in pixels: keeps its outline smooth."""

MIRROR = np.array([1, -1])

Random = np.random.Generator

TRIES = 8
"""Places, donors or recipients that are tried for a nucleus."""


class Board:
    """A layout in the making, on which nuclei never overlap."""

    def __init__(self, layout: Layout) -> None:
        self.instances = layout.instances.copy()
        self.classes = dict(layout.classes)
        self.mpp = layout.mpp
        inside = np.flatnonzero(self.instances)
        ids = self.instances.ravel()[inside]
        order = np.argsort(ids, kind="stable")
        numbers, starts = np.unique(ids[order], return_index=True)
        places = np.array(np.divmod(inside[order], layout.shape[1])).T
        self.pixels: dict[int, Pixels] = dict(zip(numbers.tolist(), np.split(places, starts[1:]), strict=False))
        self._last = max(self.pixels, default=0)

    def whole(self) -> list[int]:
        """Nuclei that the border does not cut."""
        rim = np.concatenate([self.instances[[0, -1]].ravel(), self.instances[:, [0, -1]].ravel()])
        cut = set(rim.tolist())
        return [number for number in self.pixels if number not in cut]

    def holds(self, places: Pixels) -> Mask:
        """Which of these places (N, 2) lie on the board."""
        (height, width), (rows, cols) = self.instances.shape, places.T
        return (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)

    def lay(self, number: int, pixels: Pixels, clipped_at_most: float) -> bool:
        """Lay a nucleus down where it is free.

        Not if neighbors would hide more of it than that, or if it would surround one: lie over a third of it.
        """
        pixels = pixels[self.holds(pixels)]
        there = self.instances[pixels[:, 0], pixels[:, 1]]
        free = there == 0
        if np.count_nonzero(free) < max(1, (1 - clipped_at_most) * len(pixels)):
            return False
        if not free.all():
            hidden = Counter(there[~free].tolist())
            if any(count > len(self.pixels[neighbor]) / 3 for neighbor, count in hidden.items()):
                return False
            pixels = largest_part(pixels[free])
        self.pixels[number] = pixels
        self._paint(number, number)
        return True

    def _paint(self, number: int, value: int) -> None:
        pixels = self.pixels[number]
        self.instances[pixels[:, 0], pixels[:, 1]] = value

    def lay_anew(self, number: int, choices: Iterable[Pixels]) -> bool:
        """Lay a nucleus down in the first of these ways that there is room for; it stays as it was if there is none."""
        self._paint(number, 0)
        if any(self.lay(number, pixels, CLIPPED_AT_MOST) for pixels in choices):
            return True
        self._paint(number, number)
        return False

    def give_way(self, recipients: list[int], donor: Pixels, name: str, rng: Random) -> bool:
        """Lay a donor in the place of a recipient of about its size, which is one no longer."""
        drawn = sorted(set(rng.integers(len(recipients), size=4 * TRIES).tolist()))
        drawn.sort(key=lambda order: abs(len(self.pixels[recipients[order]]) - len(donor)))
        for order in drawn[:TRIES]:
            number = recipients[order]
            center, shape = centered(self.pixels[number])
            if self.lay_anew(number, [center + lying_as(donor, shape, rng)]):
                self.classes[number] = name
                recipients[order] = recipients[-1]
                recipients.pop()
                return True
        return False

    def neighbors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centroid of every nucleus (N, 2), and the distance of the nearest other from it (N,); empty for one nucleus.

        In pixels, in the order of ``pixels``.
        """
        centroids = np.array([pixels.mean(axis=0) for pixels in self.pixels.values()]).reshape(-1, 2)
        if len(centroids) < 2:
            return centroids, np.empty(0)
        return centroids, cKDTree(centroids).query(centroids, k=2)[0][:, 1]

    def add(
        self, donor: Pixels, name: str, centroids: NDArray[np.float64], reach: NDArray[np.float64], rng: Random
    ) -> bool:
        """Lay a donor at a free place, as far from a nucleus as another's nearest neighbor is from that (``reach``)."""
        donor = turned_pixels(donor, rng.uniform(0, 360), mirrored=bool(rng.integers(2)))
        for _ in range(TRIES):
            place = rng.uniform(0, self.instances.shape)
            if len(reach):
                anchor, other = rng.integers(len(reach), size=2)
                angle = rng.uniform(0, 2 * np.pi)
                place = centroids[anchor] + reach[other] * np.array([np.sin(angle), np.cos(angle)])
            spot = np.floor(place).astype(np.int64)
            if self.holds(spot[None])[0] and self.lay(self._last + 1, spot + donor, 0):
                self._last += 1
                self.classes[self._last] = name
                return True
        return False


def centered(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """The center of a nucleus, as a pixel, and its pixels from there."""
    center = np.rint(pixels.sum(axis=0) / len(pixels)).astype(np.int64)
    return center, pixels - center


def largest_part(pixels: Pixels) -> Pixels:
    """The largest connected part of a nucleus."""
    rows, cols = (pixels - pixels.min(axis=0)).T
    mask = np.zeros((rows.max() + 1, cols.max() + 1), np.uint8)
    mask[rows, cols] = 1
    labels = cv2.connectedComponents(mask, connectivity=4)[1][rows, cols]
    return pixels[labels == np.bincount(labels).argmax()]


def turned_pixels(pixels: Pixels, degrees: float, mirrored: bool = False) -> Pixels:
    """Pixels (N, 2) from a nucleus's center, mirrored left to right if asked for, then turned counterclockwise.

    There are as many as before: those that the turned nucleus, slightly blurred, covers most.
    """
    if mirrored:
        pixels = pixels * MIRROR
    # The square that holds it however it is turned, and its blur.
    reach = int(1.5 * np.abs(pixels).max()) + 2
    side = 2 * reach + 1
    mask = np.zeros((side, side), np.float32)
    mask[tuple((pixels + reach).T)] = 1
    matrix = cv2.getRotationMatrix2D((reach, reach), degrees, 1.0)
    cover = cv2.warpAffine(cv2.GaussianBlur(mask, (5, 5), BLUR), matrix, (side, side), flags=cv2.INTER_LINEAR)
    most = np.argpartition(-cover, len(pixels) - 1, axis=None)[: len(pixels)]
    return np.array(np.divmod(most, side)).T - reach


def lying_as(donor: Pixels, model: Pixels, rng: Random) -> Pixels:
    """A donor mirrored or turned upside down at random, its long axis along that of another nucleus."""
    if rng.integers(2):
        donor = donor * MIRROR
    return turned_pixels(donor, _direction(model) - _direction(donor) + 180 * int(rng.integers(2)))


def _direction(pixels: Pixels) -> float:
    """Direction of the long axis of a nucleus, in degrees counterclockwise from the right; pixels from its center."""
    (vertical, both), (_, horizontal) = (pixels.T @ pixels).tolist()
    return math.degrees(math.atan2(-2 * both, horizontal - vertical) / 2)
