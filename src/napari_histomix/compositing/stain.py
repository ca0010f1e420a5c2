"""Stain matching in optical density: a donor made to look as if stained where it will lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, rgb_from_hed

from napari_histomix.compositing.contours import Mask
from napari_histomix.records import LabeledImage

GAIN = (0.7, 1.4)
SHIFT = 0.08
"""Largest change of a stain's mean, in optical density."""

MINIMUM = 60
"""Pixels of tissue below which statistics are not trusted and the donor is left as it is."""

GLASS = 0.05
"""Summed optical density (base 10) below which a pixel is bare glass, not tissue."""

UNMATCHED: dict[str, list[float]] = {"gain": [1.0, 1.0], "shift": [0.0, 0.0, 0.0]}
"""Settings that leave a donor as it is."""


def optical_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density in base 10, (…, 3) float32, of RGB pixels (…, 3) uint8."""
    return -np.log10((pixels.astype(np.float32) + 1) / 256)


def hue(density: NDArray[np.floating]) -> NDArray[np.floating]:
    """How blue optical densities (…, 3) are: (red − blue) / sum, (…).

    Nuclei lie between 0 (red) and 0.2 (blue); a brown nucleus among blue ones is seen from 0.05 on.
    """
    return (density[..., 0] - density[..., 2]) / np.maximum(density.sum(axis=-1), GLASS)


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


@dataclass(frozen=True, eq=False)
class Staining:
    """How a whole image is stained.

    ``spread`` (2,): standard deviations of the hematoxylin and eosin densities of its tissue between the nuclei; NaN
    without tissue. ``nuclei_hue``: the hue of all its nuclei on the whole; None where it has none.
    """

    spread: NDArray[np.float64]
    nuclei_hue: float | None


@lru_cache(maxsize=2)
def staining(image: LabeledImage) -> Staining:
    """The staining of an image; the last two are remembered."""
    nuclei = image.instances != 0
    free = image.pixels[::2, ::2][~nuclei[::2, ::2]]
    tissue = free[_is_tissue(free)]
    spread = stain_density(tissue)[:, :2].std(axis=0) if len(tissue) >= MINIMUM else np.full(2, np.nan)
    nuclei_hue = float(hue(optical_density(image.pixels[nuclei]).mean(axis=0))) if nuclei.any() else None
    return Staining(np.asarray(spread, np.float64), nuclei_hue)


def _is_tissue(pixels: NDArray[np.uint8]) -> Mask:
    return optical_density(pixels).sum(axis=-1) > GLASS


def match_stain(
    pixels: NDArray[np.uint8],
    own: tuple[NDArray[np.uint8], Mask],
    other: tuple[NDArray[np.uint8], Mask],
    gain: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], dict[str, list[float]]]:
    """Carry pixels from the staining of their own surroundings to that of other surroundings.

    Hematoxylin and eosin are each scaled by ``gain`` (clipped to ``GAIN``), and all three densities moved by the
    difference of means (clipped to ``SHIFT``): c' = (c − m_own)·g + m_own + shift. Without the residual's shift a donor
    from eosin-rich tissue turns olive.

    Parameters
    ----------
    pixels : (…, 3) uint8
    own, other : pair of (h, w, 3) uint8 and (h, w) bool
        Surroundings, and where in them there is no nucleus.
    gain : (2,) float
        Spread of hematoxylin and eosin in the other image over that in the own one (``staining``). Of whole images: in
        a few micrometers it depends on how much lumen and fiber happens to lie there. NaN counts as 1.

    Returns
    -------
    matched : (…, 3) uint8
    settings : dict
        ``gain`` (hematoxylin, eosin) and ``shift`` (hematoxylin, eosin, residual); ``UNMATCHED`` where too little
        tissue is there to compare, and then ``matched`` is ``pixels``.
    """
    samples = []
    for surroundings, mask in (own, other):
        free = surroundings[mask]
        samples.append(stain_density(free[_is_tissue(free)]))
    if min(map(len, samples)) < MINIMUM:
        return pixels, UNMATCHED
    own_mean, other_mean = (sample.mean(axis=0) for sample in samples)
    gain = np.clip(np.where(np.isfinite(gain), gain, 1.0), *GAIN)
    shift = np.clip(other_mean - own_mean, -SHIFT, SHIFT)
    scale = np.array([*gain, 1.0], np.float32)
    stains = (stain_density(pixels) - own_mean) * scale + own_mean + shift
    settings = {
        name: np.round(values.astype(np.float64), 4).tolist() for name, values in (("gain", gain), ("shift", shift))
    }
    return stain_pixels(stains), settings
