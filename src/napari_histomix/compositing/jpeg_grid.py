"""The grid of JPEG: images that were ever compressed have faint steps every eight pixels, also when they are PNG now.

A donor laid at random has its own grid beside that of the target, which tells a network that looks for it. Moved by
four pixels at most, it lies on the target's grid.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK = 8
"""Side of a block of JPEG, in pixels."""
STEP = 1.1
"""How much larger than elsewhere steps are at the borders of blocks in an image that counts as having a grid."""


class Grid(NamedTuple):
    """Where blocks of an image begin: rows and columns that are ``row`` and ``col`` modulo ``BLOCK``."""

    row: int
    col: int

    def moved(self, row: int, col: int) -> Grid:
        """The same grid, counted from another pixel (row, column)."""
        return Grid((self.row - row) % BLOCK, (self.col - col) % BLOCK)

    def turned(self, shape: tuple[int, int], quarter_turns: int, mirrored: bool) -> Grid:
        """The grid of a crop (h, w) that was mirrored left to right, then turned counterclockwise."""
        (height, width), (row, col) = shape, self
        col = width - col if mirrored else col
        for _ in range(quarter_turns % 4):
            row, col, height, width = width - col, row, width, height
        return Grid(row % BLOCK, col % BLOCK)


def find_grid(pixels: NDArray[np.uint8]) -> Grid | None:
    """The grid of an image (H, W, 3), or None where steps at no row or at no column stand out every eight pixels."""
    if min(pixels.shape[:2]) < 4 * BLOCK:
        return None
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    phases = []
    for lines in (gray, gray.T):
        steps = np.abs(np.diff(lines, axis=0))
        # Against its neighbors, so that smooth edges do not count.
        excess = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
        own, whole = excess.mean(axis=1), steps.mean()
        means = np.array([own[phase::BLOCK].mean() for phase in range(BLOCK)])
        best = int(means.argmax())
        if whole == 0 or 1 + means[best] / whole < STEP:
            return None
        # The step of excess k lies between lines k + 1 and k + 2.
        phases.append((best + 2) % BLOCK)
    return Grid(*phases)


def onto_grid(place: int, own: int, other: int) -> int:
    """The pixel nearest to ``place`` at which a crop whose grid begins at ``own`` lies on that of an image."""
    away = (other - own - place + BLOCK // 2) % BLOCK - BLOCK // 2
    return place + away
