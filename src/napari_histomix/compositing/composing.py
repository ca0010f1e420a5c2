"""Target + changes → synthetic image: a pure function, so that a rejected change simply is not there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

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
    """The image of a change that has no target.

    Parameters
    ----------
    change : Change
        Its patch is the whole image.
    mpp : float
        Micrometers per pixel.
    dataset : str
        Name of the dataset that it is made for.

    Raises
    ------
    HistomixError
        If it has a target.
    """
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
