"""Optical density and stains of H&E pixels. Imported by many rooms, imports none of ours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, rgb_from_hed

GLASS = 0.05
"""Summed optical density (base 10) below which a pixel is bare glass, not tissue."""


def optical_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density in base 10, (…, 3) float32, of RGB pixels (…, 3) uint8."""
    return -np.log10((pixels.astype(np.float32) + 1) / 256)


def is_tissue(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels (…, 3) are not bare glass, (…)."""
    return optical_density(pixels).sum(axis=-1) > GLASS


def stain_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Hematoxylin, eosin and residual densities (…, 3) float32 of RGB pixels (…, 3) uint8.

    Optical density in base 10, unmixed with Ruifrok and Johnston's vectors (Anal. Quant. Cytol. Histol. 23, 2001).
    Unlike ``skimage.color.rgb2hed`` negative values are kept, so that ``stain_pixels`` is its inverse.
    """
    return optical_density(pixels) @ hed_from_rgb.astype(np.float32)


def stain_pixels(stains: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB pixels (…, 3) uint8 of stain densities; the inverse of ``stain_density``."""
    density = stains @ rgb_from_hed.astype(np.float32)
    return np.clip(np.rint(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)
