"""Stain matching in optical density: a donor made to look as if stained where it will lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import LabeledImage
from napari_histomix.stains import GLASS, mean_over_rows, optical_density, stain_density, stain_pixels, tissue_stains

GAIN = (0.7, 1.4)
SHIFT = 0.08
"""Largest change of a stain's mean, in optical density."""

KIND_SHIFT = 0.15
"""Largest change of the mean of a stain in nuclei or in the rest of tissue, in optical density (``match_tissue``)."""
STAINED = 0.5
"""Summed optical density (base 10) from which a pixel is stained in full; lumen is not."""

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


def staining(image: LabeledImage) -> Staining:
    """The staining of an image, of which synthetic nuclei are no part; costs some milliseconds a megapixel."""
    nuclei = image.instances != 0
    real = nuclei & ~np.isin(image.instances, list(image.synthetic)) if image.synthetic else nuclei
    inside = optical_density(image.pixels, real)
    # One pixel in four tells as much of what lies between the nuclei.
    between = np.zeros_like(nuclei)
    between[::2, ::2] = ~nuclei[::2, ::2]
    return Staining(stain_spread(image.pixels, between), float(hue(mean_over_rows(inside))) if len(inside) else None)


def stain_spread(pixels: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Standard deviations (2,) of hematoxylin and eosin of pixels (…, 3), within a mask; NaN without tissue."""
    stains = tissue_stains(pixels, where)
    if len(stains) < MINIMUM:
        return np.full(2, np.nan)
    # Column by column: far faster than row by row, each of three values.
    for stain, mean in zip(stains.T, mean_over_rows(stains), strict=True):
        stain -= mean
    return np.sqrt(mean_over_rows(stains * stains))[:2].astype(np.float64)


def match_stain(
    pixels: NDArray[np.uint8],
    own: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    other: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    gain: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], dict[str, list[float]]]:
    """Carry pixels from the staining of their own surroundings to that of other surroundings.

    Hematoxylin and eosin are each scaled by ``gain`` (clipped to ``GAIN``), and all three densities moved by the
    difference of means (clipped to ``SHIFT``): c' = (c − m_own)·g + m_own + shift. Without the residual's shift a donor
    from eosin-rich tissue turns olive.

    ``own`` and ``other`` are surroundings (h, w, 3), and where in them there is no nucleus (h, w). ``gain`` (2,) is the
    spread of hematoxylin and eosin in the other image over that in the own one (``staining``). Of whole images: in a
    few micrometers it depends on how much lumen and fiber happens to lie there. NaN counts as 1.

    The settings returned are ``gain`` (hematoxylin, eosin) and ``shift`` (hematoxylin, eosin, residual); ``UNMATCHED``,
    with the pixels as they are, where too little tissue is there to compare.
    """
    samples = [tissue_stains(*surroundings) for surroundings in (own, other)]
    if min(map(len, samples)) < MINIMUM:
        return pixels, UNMATCHED
    own_mean, other_mean = (mean_over_rows(sample) for sample in samples)
    gain = np.clip(np.where(np.isfinite(gain), gain, 1.0), *GAIN)
    shift = np.clip(other_mean - own_mean, -SHIFT, SHIFT)
    scale = np.array([*gain, 1.0], np.float32)
    stains = stain_density(pixels)
    # Repeated along a row, they are added to a whole row at once and not to one pixel at a time.
    own_row, scale_row, shift_row = (
        np.broadcast_to(values, stains.shape[-2:]).copy() for values in (own_mean, scale, shift)
    )
    stains = (stains - own_row) * scale_row + own_row + shift_row
    settings = {
        name: np.round(values.astype(np.float64), 4).tolist() for name, values in (("gain", gain), ("shift", shift))
    }
    return stain_pixels(stains), settings


# Nuclei and the rest of tissue apart.


def match_tissue(
    pixels: NDArray[np.uint8],
    own: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    other: tuple[NDArray[np.uint8], NDArray[np.bool_]],
) -> tuple[NDArray[np.uint8], dict[str, list[float]]]:
    """Carry tissue from the staining of its own surroundings to that of other ones, nuclei and all else apart.

    Nuclei are what Otsu's threshold on hematoxylin sets apart from the rest of tissue. The mean densities of both are
    moved onto those of the other surroundings, by ``KIND_SHIFT`` at most; a pixel between the two moves in proportion,
    and lumen stays as it is.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    own, other : ((h, w, 3) uint8, (h, w) bool)
        Surroundings of the same kinds of tissue, and where to look in them.

    Returns
    -------
    (H, W, 3) uint8
    dict
        Shifts of hematoxylin, eosin and residual: ``nuclei`` and ``rest``, as they were used, and ``from`` and ``to``,
        the hematoxylin densities between which pixels change from the rest to nuclei. Empty, with the pixels as they
        are, where too little tissue is there to compare.
    """
    kinds = [_kinds(*surroundings) for surroundings in (own, other)]
    if kinds[0] is None or kinds[1] is None:
        return pixels, {}
    shifts = [np.clip(there - here, -KIND_SHIFT, KIND_SHIFT) for here, there in zip(*kinds, strict=True)]
    nuclei, rest = (np.round(shift.astype(np.float64), 4).tolist() for shift in shifts)
    low, high = (round(float(kinds[0][kind][0]), 4) for kind in (1, 0))
    settings = {"nuclei": nuclei, "rest": rest, "from": [low], "to": [high]}
    return with_kind_shifts(pixels, settings), settings


def with_kind_shifts(pixels: NDArray[np.uint8], settings: Mapping[str, Sequence[float]]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) moved as ``match_tissue`` recorded it; as they are where it recorded nothing."""
    if not settings:
        return pixels
    stains = stain_density(pixels)
    low, high = settings["from"][0], settings["to"][0]
    nuclear = np.clip((stains[..., :1] - low) / max(high - low, 1e-3), 0, 1)
    nuclei, rest = (np.array(settings[kind], np.float32) for kind in ("nuclei", "rest"))
    moved = stain_pixels(stains + nuclear * nuclei + (1 - nuclear) * rest)
    stained = np.clip(optical_density(pixels).sum(axis=-1, keepdims=True) / STAINED, 0, 1)
    return np.rint(pixels + stained * (moved.astype(np.float32) - pixels)).astype(np.uint8)


def _kinds(
    pixels: NDArray[np.uint8], where: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Mean stain densities (3,) of nuclei and of the rest of tissue; None where there is too little of either."""
    from skimage.filters import threshold_otsu

    stains = tissue_stains(pixels, where)
    if len(stains) < MINIMUM:
        return None
    nuclear = stains[:, 0] > threshold_otsu(stains[:, 0])
    if min(nuclear.sum(), (~nuclear).sum()) < MINIMUM:
        return None
    return mean_over_rows(stains[nuclear]), mean_over_rows(stains[~nuclear])
