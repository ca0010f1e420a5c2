"""Narrow holes along an outline, such as a seam: small windows side by side, each of which paints a stretch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_histomix.diffusion.inpainter import BATCH, Window, inpaint, opened
from napari_histomix.diffusion.models import AnyModel
from napari_histomix.diffusion.random_field import fill_between
from napari_histomix.diffusion.samplers import Sampler
from napari_histomix.records import HistomixError, Job

SIDE = 64
"""Pixels of the model: the side of a window, or the smallest that the model has above it."""
CONTEXT = 8
"""Pixels of the model that are known, or painted and thrown away, around a window's own stretch."""

TOGETHER = 4
"""Windows in a pass of a processor."""


def fill_narrow(
    pixels: NDArray[np.uint8],
    hole: NDArray[np.bool_],
    mpp: float,
    model: AnyModel,
    sampler: Sampler,
    seed: int,
    *,
    device: str = "auto",
    batch: int = BATCH,
    phase: str = "Blending",
) -> Job[NDArray[np.uint8]]:
    """Fill a narrow hole of any length in an image; a long job (see ``records.Job``).

    The arguments are those of ``large_holes.fill_holes``; outside the hole, ``pixels`` stay bit for bit. Raises
    HistomixError if there is no hole or nothing else, or as ``inpaint``.
    """
    if not hole.any() or hole.all():
        raise HistomixError("A hole must be some, but not all, of an image's pixels.")
    low, high = model.mpp
    factor = mpp / min(max(mpp, low), high)
    side = min((window for window in model.windows if window >= SIDE), default=max(model.windows))
    size, context = round(side / factor), round(CONTEXT / factor)
    short = [(0, max(0, size - length)) for length in hole.shape]
    # A mirrored hole is a hole: nothing is known under it.
    wide, hidden = np.pad(pixels, [*short, (0, 0)], mode="symmetric"), np.pad(hole, short, mode="symmetric")
    corners, stretches = _stretches(hidden, size, context)
    windows = []
    for number, (row, col) in enumerate(corners):
        part = np.s_[row : row + size, col : col + size]
        own = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
        windows.append(Window(wide[part], hidden[part], own, side, fill_between(wide[part], hidden[part])))
    engine = opened(model, device, TOGETHER)
    filled = yield from inpaint(windows, engine, sampler, batch=batch, phase=phase)
    result = wide.copy()
    for (row, col), stretch, painted in zip(corners, stretches, filled, strict=True):
        rows, cols = stretch
        result[rows, cols] = painted[rows - row, cols - col]
    return result[: hole.shape[0], : hole.shape[1]]


def _stretches(
    hole: NDArray[np.bool_], size: int, context: int
) -> tuple[list[tuple[int, int]], list[tuple[NDArray[np.intp], NDArray[np.intp]]]]:
    """Corners of windows that cover a hole together, and the pixels (rows, columns) that are taken from each.

    From above to below, each begins at the first pixel that has none yet and is moved to where it takes most.
    """
    waiting = hole.copy()
    height, width = hole.shape
    inner = size - 2 * context
    corners, stretches = [], []
    while (places := np.flatnonzero(waiting.any(axis=1))).size:
        top = int(places[0])
        band = waiting[top : top + inner]
        # How many pixels a window takes from each of its possible first columns on.
        counts = np.cumsum(np.pad(band.sum(axis=0), (1, inner)))
        taken = counts[inner:] - counts[:-inner]
        first = int(np.flatnonzero(band[0])[0])
        start = max(0, first - inner + 1)
        left = start + int(taken[start : first + 1].argmax())
        row, col = (min(max(edge - context, 0), length - size) for edge, length in ((top, height), (left, width)))
        rows, cols = np.nonzero(waiting[top : top + inner, left : left + inner])
        stretch = rows + top, cols + left
        waiting[stretch] = False
        corners.append((row, col))
        stretches.append(stretch)
    return corners, stretches
