"""Composing only a part of an image: what a decision changes, and what a close look shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing import Synthetic, compose
from napari_histomix.records import LabeledImage, Placement

Window = tuple[slice, slice]


def compose_window(target: LabeledImage, window: Window, placements: Iterable[Placement]) -> tuple[Synthetic, Window]:
    """Compose only the part of a target that a window touches.

    Parameters
    ----------
    target : LabeledImage
    window : (rows, columns)
        Within the target.
    placements : iterable of Placement
        Those of this image that count.

    Returns
    -------
    Synthetic
        Of the smallest rectangle that holds the window and those of all placements that overlap it.
    (rows, columns)
        The window in that rectangle.
    """
    near = [one for one in placements if overlap(one.window, window)]
    windows = [window, *(one.window for one in near)]
    top, left = (min(one[axis].start for one in windows) for axis in (0, 1))
    bottom, right = (max(one[axis].stop for one in windows) for axis in (0, 1))
    part = slice(top, bottom), slice(left, right)
    crop = replace(target, pixels=target.pixels[part], instances=target.instances[part])
    moved = [one.moved(one.row - top, one.col - left) for one in near]
    rows, cols = window
    return compose(crop, moved), (slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left))


def overlap(a: Window, b: Window) -> bool:
    """Whether two windows share a pixel."""
    return all(one.start < other.stop and other.start < one.stop for one, other in zip(a, b, strict=True))


class Look(NamedTuple):
    """A place before and after, (side, side, 3) uint8 each, and where the pixels come from, (side, side) uint8."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    origin: NDArray[np.uint8]


def look(target: LabeledImage, row: float, col: float, side: int, placements: Iterable[Placement]) -> Look:
    """Before and after, centered on a place; gray beyond the image."""
    before = crop(target.pixels, row, col, side)
    rows, cols = (
        slice(max(round(at) - side // 2, 0), min(round(at) - side // 2 + side, size))
        for at, size in zip((row, col), target.instances.shape, strict=True)
    )
    made, window = compose_window(target, (rows, cols), placements)
    after, origin = before.copy(), np.zeros((side, side), np.uint8)
    top, left = rows.start - (round(row) - side // 2), cols.start - (round(col) - side // 2)
    piece = made.image.pixels[window]
    part = slice(top, top + piece.shape[0]), slice(left, left + piece.shape[1])
    after[part], origin[part] = piece, made.origin[window]
    return Look(before, after, origin)


def crop(pixels: NDArray[np.uint8], row: float, col: float, side: int) -> NDArray[np.uint8]:
    """A (side, side, 3) piece of an (H, W, 3) image centered on a place; gray beyond the image."""
    out = np.full((side, side, 3), 60, np.uint8)
    top, left = round(row) - side // 2, round(col) - side // 2
    rows, cols = slice(max(top, 0), max(top + side, 0)), slice(max(left, 0), max(left + side, 0))
    piece = pixels[rows, cols]
    if piece.size:
        r, c = rows.start - top, cols.start - left
        out[r : r + piece.shape[0], c : c + piece.shape[1]] = piece
    return out
