"""Target + changes → synthetic image: a pure function, so that a rejected change simply is not there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import KEEP, REAL, Change, HistomixError, LabeledImage, Source


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A synthetic image: pixels and labels, and each pixel's origin (H, W) uint8 (0 real, 1 donor, 2 inpainted)."""

    image: LabeledImage
    origin: NDArray[np.uint8]


def compose(target: LabeledImage, changes: Iterable[Change]) -> Synthetic:
    """Apply changes to their target.

    Outside the changed pixels, the result equals the target bit for bit. An instance that is removed leaves the labels;
    then the labels of the patch are laid on, where they do not keep the target's own. An instance of which no pixel is
    left in the patch's window goes too, unless pixels of it lie elsewhere.

    Parameters
    ----------
    target : LabeledImage
    changes : iterable of Change
        All in this image; their changed pixels are disjoint. Or a single derived image, which is all of it.

    Returns
    -------
    Synthetic
        Of the target's name; of its own name where it is a derived image.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_histomix.records import Source
    >>> blank = LabeledImage(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int32), {}, 0.5, Source("", "a"))
    >>> compose(blank, []).image.source.image
    'a'
    """
    pixels, instances = target.pixels.copy(), target.instances.copy()
    types, synthetic = dict(target.types), set(target.synthetic)
    origin = np.zeros(instances.shape, np.uint8)
    source, kind = target.source, target.kind
    for change in changes:
        window = change.window
        changed = change.origin != REAL
        pixels[window][changed] = change.pixels[changed]
        origin[window][changed] = change.origin[changed]
        _lay_labels(instances, types, change)
        synthetic |= change.added.keys()
        if not change.in_place:
            source = replace(source, image=change.name)
        if change.class_shares is not None:
            kind = max(change.class_shares, key=change.class_shares.__getitem__)
    left = frozenset(synthetic & types.keys())
    return Synthetic(LabeledImage(pixels, instances, types, target.mpp, source, kind, left), origin)


def _lay_labels(instances: NDArray[np.int32], types: dict[int, int], change: Change) -> None:
    """Write the labels of a change into an instance map (H, W) and its types, in place."""
    there = instances[change.window]
    if change.removed:
        there[np.isin(there, change.removed)] = 0
        for instance in change.removed:
            types.pop(instance, None)
    if change.labels is None:
        return
    laid = change.labels != KEEP
    covered = np.setdiff1d(there[laid], change.labels[laid])
    there[laid] = change.labels[laid]
    types.update(change.added)
    # What lies under the patch altogether is gone, though nobody said so.
    for instance in covered.tolist():
        if instance and instance in types and not (instances == instance).any():
            del types[instance]


def new_image(change: Change, mpp: float, dataset: str) -> Synthetic:
    """The image of a change that has no target, at ``mpp`` µm per pixel; raises HistomixError if it has one."""
    if change.image:
        raise HistomixError(f"{change.name} was made of {change.image}; compose it with that image.")
    shape = change.origin.shape
    blank = LabeledImage(
        np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.int32), {}, mpp, Source(dataset, change.name)
    )
    return compose(blank, [change])


def nucleus_of(change: Change) -> NDArray[np.bool_]:
    """The mask (h, w) of the instances that a change adds, in its patch."""
    if change.labels is None:
        return np.zeros(change.origin.shape, bool)
    return np.isin(change.labels, list(change.added))


Window = tuple[slice, slice]
BEYOND = 60
"""Gray of what lies beyond an image."""


def compose_window(target: LabeledImage, window: Window, changes: Iterable[Change]) -> tuple[Synthetic, Window]:
    """Compose the smallest part of a target that holds a window and all changes that overlap it; the window in it."""
    near = [change for change in changes if overlap(change.window, window)]
    part = window_around([window, *(change.window for change in near)], 0, target.instances.shape)
    top, left = part[0].start, part[1].start
    cropped = replace(target, pixels=target.pixels[part], instances=target.instances[part])
    moved = [change.moved(change.row - top, change.col - left) for change in near]
    rows, cols = window
    return compose(cropped, moved), (
        slice(rows.start - top, rows.stop - top),
        slice(cols.start - left, cols.stop - left),
    )


def window_around(boxes: Sequence[Window], margin: int, shape: tuple[int, ...]) -> Window:
    """The smallest window that holds all boxes and a margin around them, within an image of ``shape`` (H, W)."""
    rows, cols = (
        slice(
            max(0, min(box[axis].start for box in boxes) - margin),
            min(shape[axis], max(box[axis].stop for box in boxes) + margin),
        )
        for axis in (0, 1)
    )
    return rows, cols


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
    square = _square(row, col, side)
    inner = window_around([square], 0, target.instances.shape)
    made, window = compose_window(target, inner, changes)
    corner = inner[0].start, inner[1].start
    after = cut(made.image.pixels[window], square, corner, BEYOND)
    return Look(crop(target.pixels, row, col, side), after, cut(made.origin[window], square, corner, REAL))


def look_at_image(target: LabeledImage | None, change: Change, row: float, col: float, side: int) -> Look:
    """A derived image beside its target, or a new image beside nothing, centered on a place; gray beyond them."""
    pixels = change.pixels
    if target is None:
        before = np.full((side, side, 3), BEYOND, np.uint8)
    else:
        before = crop(target.pixels, row, col, side)
        pixels = np.where(change.origin[..., None] == REAL, target.pixels, pixels)
    return Look(before, crop(pixels, row, col, side), cut(change.origin, _square(row, col, side), beyond=REAL))


def crop(pixels: NDArray[np.uint8], row: float, col: float, side: int) -> NDArray[np.uint8]:
    """A (side, side, 3) piece of an (H, W, 3) image centered on a place; gray beyond the image."""
    return cut(pixels, _square(row, col, side), beyond=BEYOND)


def cut(array: NDArray[Any], window: Window, corner: tuple[int, int] = (0, 0), beyond: int = 0) -> NDArray[Any]:
    """What an array (h, w, …) at a corner (row, column) of an image shows in a window, which may stick out of it."""
    out = np.full((*(axis.stop - axis.start for axis in window), *array.shape[2:]), beyond, array.dtype)
    here, there = [], []
    for axis, start, size in zip(window, corner, array.shape[:2], strict=True):
        first = max(axis.start, start)
        stop = max(first, min(axis.stop, start + size))
        here.append(slice(first - axis.start, stop - axis.start))
        there.append(slice(first - start, stop - start))
    out[tuple(here)] = array[tuple(there)]
    return out


def _square(row: float, col: float, side: int) -> Window:
    top, left = round(row) - side // 2, round(col) - side // 2
    return slice(top, top + side), slice(left, left + side)
