"""Composing only a part of an image: what a decision changes, and what a close look shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing import Synthetic, compose
from napari_histomix.records import Change, LabeledImage

Window = tuple[slice, slice]
BEYOND = 60
"""Gray of what lies beyond an image."""


def compose_window(target: LabeledImage, window: Window, changes: Iterable[Change]) -> tuple[Synthetic, Window]:
    """Compose only the part of a target that a window touches.

    Parameters
    ----------
    target : LabeledImage
    window : (rows, columns)
        Within the target.
    changes : iterable of Change
        Those in place in this image that count.

    Returns
    -------
    Synthetic
        Of the smallest rectangle that holds the window and those of all changes that overlap it.
    (rows, columns)
        The window in that rectangle.
    """
    near = [change for change in changes if overlap(change.window, window)]
    windows = [window, *(change.window for change in near)]
    top, left = (min(each[axis].start for each in windows) for axis in (0, 1))
    bottom, right = (max(each[axis].stop for each in windows) for axis in (0, 1))
    part = slice(top, bottom), slice(left, right)
    cropped = replace(target, pixels=target.pixels[part], instances=target.instances[part])
    moved = [change.moved(change.row - top, change.col - left) for change in near]
    rows, cols = window
    return compose(cropped, moved), (
        slice(rows.start - top, rows.stop - top),
        slice(cols.start - left, cols.stop - left),
    )


def overlap(a: Window, b: Window) -> bool:
    """Whether two windows share a pixel."""
    return all(mine.start < other.stop and other.start < mine.stop for mine, other in zip(a, b, strict=True))


class Look(NamedTuple):
    """A place before and after, (side, side, 3) uint8 each, and where the pixels come from, (side, side) uint8."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    origin: NDArray[np.uint8]


def look(target: LabeledImage, row: float, col: float, side: int, changes: Iterable[Change]) -> Look:
    """Before and after changes in place, centered on a place of their image; gray beyond the image."""
    before = crop(target.pixels, row, col, side)
    rows, cols = (
        slice(max(round(at) - side // 2, 0), min(round(at) - side // 2 + side, size))
        for at, size in zip((row, col), target.instances.shape, strict=True)
    )
    made, window = compose_window(target, (rows, cols), changes)
    after, origin = before.copy(), np.zeros((side, side), np.uint8)
    top, left = rows.start - (round(row) - side // 2), cols.start - (round(col) - side // 2)
    piece = made.image.pixels[window]
    part = slice(top, top + piece.shape[0]), slice(left, left + piece.shape[1])
    after[part], origin[part] = piece, made.origin[window]
    return Look(before, after, origin)


def look_at_image(before: LabeledImage | None, made: Synthetic, row: float, col: float, side: int) -> Look:
    """A derived image beside its target, or a new image beside nothing, centered on a place; gray beyond them."""
    after = crop(made.image.pixels, row, col, side)
    origin = crop(np.repeat(made.origin[..., None], 3, axis=2), row, col, side, 0)[..., 0]
    earlier = np.full_like(after, BEYOND) if before is None else crop(before.pixels, row, col, side)
    return Look(earlier, after, origin)


def crop(pixels: NDArray[np.uint8], row: float, col: float, side: int, beyond: int = BEYOND) -> NDArray[np.uint8]:
    """A (side, side, 3) piece of an (H, W, 3) image centered on a place; gray beyond the image."""
    out = np.full((side, side, 3), beyond, np.uint8)
    top, left = round(row) - side // 2, round(col) - side // 2
    rows, cols = slice(max(top, 0), max(top + side, 0)), slice(max(left, 0), max(left + side, 0))
    piece = pixels[rows, cols]
    if piece.size:
        r, c = rows.start - top, cols.start - left
        out[r : r + piece.shape[0], c : c + piece.shape[1]] = piece
    return out
