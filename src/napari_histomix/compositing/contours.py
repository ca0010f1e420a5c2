"""Contour layers around a nucleus, by dilation with the 4-neighbor cross."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CROSS = ndimage.generate_binary_structure(2, 1)

Mask = NDArray[np.bool_]


def dilate(mask: Mask, pixels: int) -> Mask:
    """``mask`` (H, W) grown by ``pixels`` steps of the 4-neighbor cross."""
    return mask.copy() if pixels == 0 else ndimage.binary_dilation(mask, CROSS, iterations=pixels)


def layer_one(nucleus: Mask) -> Mask:
    """The one-pixel contour that is kept from the donor's surroundings."""
    return dilate(nucleus, 1) & ~nucleus


def transition_zone(nucleus: Mask) -> Mask:
    """Layers 2 and 3: the two pixels outside layer 1, which are inpainted."""
    return dilate(nucleus, 3) & ~dilate(nucleus, 1)
