"""Target + placements → synthetic image: a pure function, so that a rejected placement simply is not there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import REAL, LabeledImage, Placement


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A synthetic image: pixels and labels, and each pixel's origin (H, W) uint8 (0 real, 1 donor, 2 inpainted)."""

    image: LabeledImage
    origin: NDArray[np.uint8]


def compose(target: LabeledImage, placements: Iterable[Placement]) -> Synthetic:
    """Apply placements to their target.

    Outside the placements' changed pixels, the result equals the target bit for bit. A replaced nucleus leaves the
    labels; the new one enters under its own id with its donor's type.

    Parameters
    ----------
    target : LabeledImage
    placements : iterable of Placement
        All in this image; their changed pixels are disjoint.
    """
    pixels, instances = target.pixels.copy(), target.instances.copy()
    types, synthetic = dict(target.types), set(target.synthetic)
    origin = np.zeros(instances.shape, np.uint8)
    for placement in placements:
        window = placement.window
        changed = placement.origin != REAL
        pixels[window][changed] = placement.pixels[changed]
        origin[window][changed] = placement.origin[changed]
        replaced = placement.candidate.target.instance
        if replaced:
            instances[window][instances[window] == replaced] = 0
            types.pop(replaced, None)
            synthetic.discard(replaced)
        instances[window][placement.nucleus] = placement.instance
        types[placement.instance] = placement.candidate.donor.type
        synthetic.add(placement.instance)
    image = replace(target, pixels=pixels, instances=instances, types=types, synthetic=frozenset(synthetic))
    return Synthetic(image, origin)
