"""Locations in an image: its rare and major nuclei, and places with no nucleus."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import LabeledImage, Location
from napari_histomix.stains import optical_density

TISSUE_DENSITY = 0.12
"""Green optical density (base 10) from which a place counts as tissue."""


def nucleus_boxes(instances: NDArray[np.int32]) -> dict[int, tuple[slice, slice]]:
    """Bounding box of every instance that occurs in an instance map (H, W), by id in ascending order."""
    if not instances.size:
        return {}
    # By runs of equal ids within a row: far fewer than pixels, and ids may be as large as 32 bits allow.
    width = instances.shape[1]
    flat = instances.ravel()
    starts = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=starts[1:])
    starts[::width] = True
    first = np.flatnonzero(starts)
    stop = np.append(first[1:], flat.size)
    kept = flat[first] != 0
    first, stop = first[kept], stop[kept]
    order = np.argsort(flat[first], kind="stable")
    first, stop = first[order], stop[order]
    ids, groups = np.unique(flat[first], return_index=True)
    if not len(ids):
        return {}
    rows, lefts, rights = first // width, first % width, (stop - 1) % width
    # Within an id, runs are still in the order of their rows.
    tops, bottoms = rows[groups], rows[np.append(groups[1:], len(rows)) - 1]
    lefts, rights = np.minimum.reduceat(lefts, groups), np.maximum.reduceat(rights, groups)
    return {
        instance: (slice(top, bottom + 1), slice(left, right + 1))
        for instance, top, bottom, left, right in zip(
            *(values.tolist() for values in (ids, tops, bottoms, lefts, rights)), strict=True
        )
    }


def nucleus_locations(image: LabeledImage, rare: Collection[int], major: Collection[int]) -> list[Location]:
    """Rare and major nuclei of an image by id, without synthetic ones; their centers are centroids, in pixels."""
    found = []
    for instance, box in nucleus_boxes(image.instances).items():
        if instance in image.synthetic:
            continue
        number = image.types[instance]
        if number not in (*rare, *major):
            continue
        rows, cols = np.nonzero(image.instances[box] == instance)
        location = Location(
            image.source.image,
            "rare" if number in rare else "major",
            float(rows.mean() + box[0].start),
            float(cols.mean() + box[1].start),
            instance,
            number,
            len(rows),
        )
        found.append(location)
    return found


def tissue(image: LabeledImage) -> NDArray[np.bool_]:
    """(H, W) bool: where there is tissue, not glass, lumen or mucus: green optical density, smoothed over 2 µm."""
    density = optical_density(image.pixels[..., 1])
    return cv2.GaussianBlur(density, (0, 0), 2.0 / image.mpp) > TISSUE_DENSITY


def background_locations(image: LabeledImage, count: int, radius: float, rng: np.random.Generator) -> list[Location]:
    """Uniformly drawn places with nothing but tissue without a nucleus within ``radius`` pixels of their center.

    Parameters
    ----------
    image : LabeledImage
    count : int
        How many to return; all there are where there are fewer.
    radius : float
        Pixels.
    rng : numpy.random.Generator
    """
    free = ((image.instances == 0) & tissue(image)).astype(np.uint8)
    # A frame of zeros makes the image's edge count as occupied.
    distance = cv2.distanceTransform(np.pad(free, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    places = np.flatnonzero(distance > radius)
    chosen = rng.choice(places, size=min(count, len(places)), replace=False)
    rows, cols = np.unravel_index(chosen, free.shape)
    name = image.source.image
    return [Location(name, "background", float(row), float(col)) for row, col in zip(rows, cols, strict=True)]
