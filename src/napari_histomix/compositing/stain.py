"""Stain matching in optical density: a donor made to look as if stained where it will lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, rgb_from_hed

from napari_histomix.compositing.contours import Mask

GAIN = (0.7, 1.4)
SHIFT = 0.08
"""Largest change of a stain's mean, in optical density."""

MINIMUM = 60
"""Pixels of tissue below which statistics are not trusted and the donor is left as it is."""

GLASS = 0.05
"""Summed optical density (base 10) below which a pixel is bare glass, not tissue."""

UNMATCHED: dict[str, list[float]] = {"gain": [1.0, 1.0], "shift": [0.0, 0.0, 0.0]}
"""Settings that leave a donor as it is."""


def stain_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Hematoxylin, eosin and residual densities (…, 3) float32 of RGB pixels (…, 3) uint8.

    Optical density in base 10, unmixed with Ruifrok and Johnston's vectors (Anal. Quant. Cytol. Histol. 23, 2001).
    Unlike ``skimage.color.rgb2hed`` negative values are kept, so that ``stain_pixels`` is its inverse.
    """
    density = -np.log10((pixels.astype(np.float32) + 1) / 256)
    return density @ hed_from_rgb.astype(np.float32)


def stain_pixels(stains: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB pixels (…, 3) uint8 of stain densities; the inverse of ``stain_density``."""
    density = stains @ rgb_from_hed.astype(np.float32)
    return np.clip(np.rint(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)


def match_stain(
    pixels: NDArray[np.uint8],
    own: tuple[NDArray[np.uint8], Mask],
    other: tuple[NDArray[np.uint8], Mask],
) -> tuple[NDArray[np.uint8], dict[str, list[float]]]:
    """Carry pixels from the staining of their own surroundings to that of other surroundings.

    Hematoxylin and eosin are each scaled by the ratio of standard deviations (clipped to ``GAIN``), and all three
    densities moved by the difference of means (clipped to ``SHIFT``): c' = (c − m_own)·g + m_own + shift. Without the
    residual's shift a donor from eosin-rich tissue turns olive.

    Parameters
    ----------
    pixels : (…, 3) uint8
    own, other : pair of (h, w, 3) uint8 and (h, w) bool
        Surroundings, and where in them there is no nucleus.

    Returns
    -------
    matched : (…, 3) uint8
    settings : dict
        ``gain`` (hematoxylin, eosin) and ``shift`` (hematoxylin, eosin, residual); ``UNMATCHED`` where too little
        tissue is there to compare, and then ``matched`` is ``pixels``.
    """
    samples = []
    for surroundings, mask in (own, other):
        stains = stain_density(surroundings[mask])
        tissue = -np.log10((surroundings[mask].astype(np.float32) + 1) / 256).sum(axis=-1) > GLASS
        samples.append(stains[tissue])
    if min(map(len, samples)) < MINIMUM:
        return pixels, UNMATCHED
    (own_mean, own_std), (other_mean, other_std) = ((s.mean(axis=0), s.std(axis=0)) for s in samples)
    gain = np.clip(other_std / np.maximum(own_std, 1e-6), *GAIN)
    gain[2] = 1
    shift = np.clip(other_mean - own_mean, -SHIFT, SHIFT)
    stains = (stain_density(pixels) - own_mean) * gain + own_mean + shift
    settings = {
        name: np.round(values.astype(np.float64), 4).tolist() for name, values in (("gain", gain[:2]), ("shift", shift))
    }
    return stain_pixels(stains), settings
