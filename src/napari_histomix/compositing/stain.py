"""Stain matching in optical density: a donor made to look as if stained where it will lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.contours import Mask
from napari_histomix.records import LabeledImage
from napari_histomix.stains import GLASS, is_tissue, optical_density, stain_density, stain_pixels

GAIN = (0.7, 1.4)
SHIFT = 0.08
"""Largest change of a stain's mean, in optical density."""

MINIMUM = 60
"""Pixels of tissue below which statistics are not trusted and the donor is left as it is."""

UNMATCHED: dict[str, list[float]] = {"gain": [1.0, 1.0], "shift": [0.0, 0.0, 0.0]}
"""Settings that leave a donor as it is."""


def hue(density: NDArray[np.floating]) -> NDArray[np.floating]:
    """How blue optical densities (…, 3) are: (red − blue) / sum, (…).

    Nuclei lie between 0 (red) and 0.2 (blue); a brown nucleus among blue ones is seen from 0.05 on.
    """
    return (density[..., 0] - density[..., 2]) / np.maximum(density.sum(axis=-1), GLASS)


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
    nuclei_hue = float(hue(optical_density(image.pixels[nuclei]).mean(axis=0))) if nuclei.any() else None
    return Staining(stain_spread(free), nuclei_hue)


def stain_spread(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Standard deviations (2,) of the hematoxylin and eosin densities of pixels (…, 3); NaN without tissue."""
    tissue = pixels[is_tissue(pixels)]
    if len(tissue) < MINIMUM:
        return np.full(2, np.nan)
    return np.asarray(stain_density(tissue)[:, :2].std(axis=0), np.float64)


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
        samples.append(stain_density(free[is_tissue(free)]))
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
