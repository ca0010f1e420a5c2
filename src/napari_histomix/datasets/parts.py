"""Instances that are more than one nucleus: one id on many shapes, or on the whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

GAP = 4
"""Pixels between two parts of an instance from which on they lie apart: a crack or a nucleus on top is narrower."""
SMALLEST = 9
"""Pixels of a part that can be a nucleus."""
WHOLE = 0.5
"""Share of an image that no nucleus covers."""
MOST_PARTS = 64
"""Outlines that a nucleus can have."""
_MOST_PAIRS = 2**18
"""Pairs of corners that are looked at for one object; where there are more, the boxes of its outlines decide."""


def split_parts(
    instances: NDArray[np.int32], types: Mapping[int, int], synthetic: frozenset[int]
) -> tuple[NDArray[np.int32], dict[int, int], frozenset[int]]:
    """Number each connected part (8 neighbors) of an instance map (H, W) as an instance of its own, from 1.

    Parts keep the type of their instance, and whether it is synthetic.
    """
    parts = label(instances, background=0, connectivity=2).astype(np.int32)
    owners = _owners(instances, parts)
    kinds = {part: types[owner] for part, owner in enumerate(owners.tolist(), start=1) if owner in types}
    flagged = frozenset(part for part, owner in enumerate(owners.tolist(), start=1) if owner in synthetic)
    return parts, kinds, flagged


def merged_notes(instances: NDArray[np.int32]) -> list[str]:
    """Sentences about ids of an instance map (H, W) that cover shapes far apart, or most of the image."""
    parts = label(instances, background=0, connectivity=2)
    owners = _owners(instances, parts)
    ids, counts = np.unique(owners, return_counts=True)
    apart = {}
    if several := ids[counts > 1].tolist():
        windows = ndimage.find_objects(parts)
        for number in several:
            boxes = [windows[part] for part in np.flatnonzero(owners == number)]
            if (shapes := _apart(instances, number, boxes)) > 1:
                apart[number] = shapes
    notes = []
    if apart:
        which = "1 id covers" if len(apart) == 1 else f"{len(apart):,} ids cover"
        notes.append(
            f"{which} {sum(apart.values()):,} shapes that lie apart; if each of them is a nucleus, read the data with "
            "--split-parts."
        )
    areas = np.bincount(parts.ravel())[1:]
    if areas.size and areas.max() > WHOLE * instances.size:
        number = int(owners[areas.argmax()])
        notes.append(f"object {number} covers {areas.max() / instances.size:.0%} of the image; it is hardly a nucleus.")
    return notes


def _owners(instances: NDArray[np.int32], parts: NDArray[np.int_]) -> NDArray[np.int32]:
    """The id that each part belongs to."""
    owners = np.zeros(int(parts.max(initial=0)) + 1, np.int32)
    owners[parts] = instances
    return owners[1:]


def _apart(instances: NDArray[np.int32], number: int, boxes: list[tuple[slice, slice]]) -> int:
    """How many groups of an instance's parts lie apart from one another, those too small to be a nucleus left out."""
    low = [max(min(box[axis].start for box in boxes) - GAP, 0) for axis in (0, 1)]
    high = [max(box[axis].stop for box in boxes) + GAP for axis in (0, 1)]
    mask = instances[low[0] : high[0], low[1] : high[1]] == number
    # Parts that grow together are one shape.
    grown = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=GAP // 2)
    groups, count = ndimage.label(grown, np.ones((3, 3)))
    return int(np.count_nonzero(np.bincount(groups[mask], minlength=count + 1)[1:] >= SMALLEST))


def lie_apart(outlines: Sequence[NDArray[np.float64]]) -> bool:
    """Whether outlines (n, 2), x and y in pixels, of one object lie so far apart that they are several nuclei.

    Those too small to be a nucleus do not count, nor do those that lie within another one, such as an island in a hole.
    """
    shapes = [outline for outline in outlines if len(outline) > 2 and polygon_area(outline) >= SMALLEST]
    if len(shapes) > MOST_PARTS:
        return True
    exact = sum(map(len, shapes)) ** 2 <= _MOST_PAIRS
    # Whatever is near to one of the group joins it.
    near, rest = shapes[:1], shapes[1:]
    while near and rest:
        shape = near.pop()
        joining = [other for other in rest if _near(shape, other, exact)]
        rest = [other for other in rest if not any(other is joined for joined in joining)]
        near += joining
    return bool(rest)


def polygon_area(ring: NDArray[np.float64]) -> float:
    """The area within a ring (n, 2) of x and y."""
    x, y = (ring - ring[0]).T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def _near(first: NDArray[np.float64], second: NDArray[np.float64], exact: bool) -> bool:
    """Whether two outlines, or at least their boxes, are less than `GAP` apart, or one lies within the other."""
    gaps = np.maximum(first.min(axis=0) - second.max(axis=0), second.min(axis=0) - first.max(axis=0))
    if (gaps >= GAP).any():
        return False
    if not exact or _within(first[0], second) or _within(second[0], first):
        return True
    return min(_distance(first, second), _distance(second, first)) < GAP


def _within(point: NDArray[np.float64], ring: NDArray[np.float64]) -> bool:
    """Whether a point lies in a ring, by the even-odd rule."""
    start, end = ring, np.roll(ring, -1, axis=0)
    crosses = (start[:, 1] > point[1]) != (end[:, 1] > point[1])
    start, end = start[crosses], end[crosses]
    at = start[:, 0] + (point[1] - start[:, 1]) / (end[:, 1] - start[:, 1]) * (end[:, 0] - start[:, 0])
    return bool(np.count_nonzero(at > point[0]) % 2)


def _distance(points: NDArray[np.float64], ring: NDArray[np.float64]) -> float:
    """The least distance of points to the edges of a ring."""
    along = np.roll(ring, -1, axis=0) - ring
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    to = points[:, None] - ring
    share = np.clip((to * along).sum(axis=2) / length, 0, 1)
    return float(np.sqrt(((to - share[..., None] * along) ** 2).sum(axis=2).min()))
