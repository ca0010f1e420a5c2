"""Stain and texture statistics of a patch: an encoder that needs no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.features.context import PATCH_SIZE, check_patches, map_in_order

# At half the patch's size, 0.5 µm/px, a nucleus is still some 12 pixels across, and everything costs a quarter.
_SIDE = PATCH_SIZE // 2
# Optical density of hematoxylin, eosin and DAB in red, green and blue: Ruifrok & Johnston, Anal. Quant. Cytol. Histol.
# 23, 2001, Table 1.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
# Hematoxylin, eosin and the mean optical density of a pixel from its three optical densities.
_UNMIX = np.vstack([np.linalg.inv(_STAINS).T[:2], np.full((1, 3), 1 / 3)]).astype(np.float32)
_STRONG = (0.1, 0.2, 0.3, 0.45)
_SCALES = (_SIDE, _SIDE // 2, _SIDE // 4)
_CELLS = (_SIDE // 4, _SIDE // 8)
_Places = Mapping[int, NDArray[np.intp]]
# Of the finer Gaussian of a band, in pixels of what ``texture_maps`` is given.
_SIGMAS = (1.0, 2.0)
# Contrast (optical density) below which a texture is noise: keeps shape ratios of blank patches at 0.
_NOISE = 1e-3


def _central(side: int, fraction: float) -> NDArray[np.bool_]:
    """Mask of the central square with ``fraction`` of the side."""
    mask = np.zeros((side, side), bool)
    low = round(side * (1 - fraction) / 2)
    mask[low : side - low, low : side - low] = True
    return mask


_CENTER, _NEAR = _central(_SIDE, 0.5), _central(_SIDE, 0.75)
_ZONES = [zone.astype(np.uint8) for zone in (_CENTER, _NEAR & ~_CENTER, ~_NEAR)]
# Flat positions: taking them is several times faster than indexing with a mask.
_RINGS = [np.flatnonzero(ring) for ring in _ZONES[1:]]
_SURROUNDINGS = {side: np.flatnonzero(~_central(side, 0.5)) for side in {*_SCALES, *_CELLS}}
_WHOLE = {side: np.arange(side * side) for side in _SURROUNDINGS}


class TextureEncoder:
    """Describes a patch by 59 statistics of its stains and textures.

    Zones are the central square of half the patch's side (which :func:`~napari_histomix.features.context_patches`
    fills), the ring around it up to three quarters of the side, and the rest. Surroundings are all but the first.

    ====================  =============================================================================
    Columns               Statistic
    ====================  =============================================================================
    0-23                  per zone: mean and standard deviation of hematoxylin, eosin, mean optical
                          density and saturation
    24-31                 per ring: share of pixels with hematoxylin over 0.1, 0.2, 0.3, 0.45
    32-46                 per scale (about 1, 2, 4 µm), in the surroundings: standard deviation, skewness,
                          kurtosis and mean magnitude of the hematoxylin band, standard deviation of the
                          eosin band
    47-58                 for hematoxylin and eosin, in the surroundings: root mean square gradient; mean
                          and standard deviation of the coherence of its direction in cells of 2 and 4 µm;
                          coherence over all
    ====================  =============================================================================

    Bands are differences of Gaussians on a pyramid of area averages. Coherence is √((Jxx − Jyy)² + 4Jxy²)/(Jxx + Jyy)
    of the structure tensor J (Bigün & Granlund, ICCV 1987): 0 without direction, 1 for parallel lines. Stains are
    optical densities unmixed with the matrix of Ruifrok & Johnston (2001). None of the statistics changes when a patch
    is turned by quarters or flipped, but for rounding.

    Parameters
    ----------
    workers : int, optional
        Threads; one per core by default. The features do not depend on it.
    whole : bool
        Count the center as surroundings: for patches whose center was not filled, such as tissue segments.
    """

    dim = 59

    def __init__(self, workers: int | None = None, whole: bool = False) -> None:
        self.name = "texture-whole-1" if whole else "texture-1"
        self._workers = workers
        self._where = _WHOLE if whole else _SURROUNDINGS

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe patches.

        Parameters
        ----------
        patches : (N, 224, 224, 3) uint8
            RGB at 0.25 µm/px.

        Returns
        -------
        (N, 59) float32

        Raises
        ------
        ValueError
            If the patches have another shape or dtype.
        """
        check_patches(patches)
        rows = map_in_order(partial(_describe, where=self._where), list(patches), self._workers)
        return np.array(rows, np.float32).reshape(len(patches), self.dim)


def _describe(patch: NDArray[np.uint8], where: _Places) -> NDArray[np.float32]:
    """All statistics of one patch, in the order of the table."""
    small = np.asarray(cv2.resize(patch, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    stains = _stains(small)
    hematoxylin, eosin = stains[..., 0].copy(), stains[..., 1].copy()
    return np.concatenate(
        [
            _zone_statistics(stains, _saturation(small)),
            _strong_hematoxylin(hematoxylin),
            _band_statistics(hematoxylin, eosin, where),
            _direction_statistics(hematoxylin, where),
            _direction_statistics(eosin, where),
        ],
        dtype=np.float32,
    )


def _stains(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Hematoxylin, eosin and mean optical density of every pixel, (H, W, 3)."""
    return np.asarray(cv2.transform(cv2.LUT(rgb, _DENSITY), _UNMIX), np.float32)


def _saturation(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    bright = np.maximum(np.maximum(red, green), blue)
    spread = bright - np.minimum(np.minimum(red, green), blue)
    return np.divide(spread, np.maximum(bright, 1), dtype=np.float32)


def _zone_statistics(stains: NDArray[np.float32], saturation: NDArray[np.float32]) -> NDArray[np.float64]:
    maps = cv2.merge([stains, saturation])
    return np.concatenate([np.concatenate(cv2.meanStdDev(maps, mask=zone)).ravel() for zone in _ZONES])


def _strong_hematoxylin(hematoxylin: NDArray[np.float32]) -> list[float]:
    """Stand-ins for how densely nuclei lie."""
    return [
        float(np.count_nonzero(values > strong) / len(values))
        for values in (hematoxylin.take(ring) for ring in _RINGS)
        for strong in _STRONG
    ]


def _band_statistics(hematoxylin: NDArray[np.float32], eosin: NDArray[np.float32], where: _Places) -> list[float]:
    """Statistics of the bands of the stains, from fine to coarse."""
    values: list[float] = []
    level = cv2.merge([hematoxylin, eosin])
    for side in _SCALES:
        if side != len(level):
            level = cv2.resize(level, (side, side), interpolation=cv2.INTER_AREA)
        bands = cv2.GaussianBlur(level, (7, 7), 1) - cv2.GaussianBlur(level, (13, 13), 2)
        band = bands[..., 0].take(where[side])
        band -= band.mean()
        square = band * band
        deviation = float(np.sqrt(square.mean()))
        floor = max(deviation, _NOISE)
        values += [
            deviation,
            float((square * band).mean()) / floor**3,
            float((square * square).mean()) / floor**4,
            float(np.abs(band).mean()),
            float(bands[..., 1].take(where[side]).std()),
        ]
    return values


def _direction_statistics(stain: NDArray[np.float32], where: _Places) -> list[float]:
    """How strong the gradients of a stain are and how much neighbors agree in direction."""
    smooth = cv2.GaussianBlur(stain, (7, 7), 1)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, yy = across * across, down * down
    # Rows: Jxx − Jyy, 2Jxy, Jxx + Jyy.
    tensor = [xx - yy, 2 * across * down, xx + yy]
    overall = np.array([part.take(where[_SIDE]).mean() for part in tensor])
    values = [float(np.sqrt(overall[2]))]
    for side in _CELLS:
        cells = [cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA) for part in tensor]
        coherence = _coherence(np.array([part.take(where[side]) for part in cells]))
        values += [float(coherence.mean()), float(coherence.std())]
    return [*values, float(_coherence(overall))]


def _coherence(tensor: NDArray[np.floating]) -> NDArray[np.floating]:
    coherence: NDArray[np.floating] = np.hypot(tensor[0], tensor[1]) / (tensor[2] + _NOISE)
    return coherence


def texture_maps(pixels: NDArray[np.uint8], side: int) -> Iterator[NDArray[np.float32]]:
    """Statistics of the patch around every pixel, a map (H, W) each: means over a patch are box filters.

    They are about those of ``TextureEncoder`` with ``whole``, at a cost that depends on the size of the image, not on
    how many patches are asked about. None changes when the image is turned by quarters or flipped, but for rounding.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        RGB; mirrored beyond its borders.
    side : int
        Of a patch, in pixels, at least 8; the next odd number counts.

    Examples
    --------
    >>> maps = list(texture_maps(np.full((16, 16, 3), 200, np.uint8), 9))
    >>> len(maps), bool(np.ptp(maps[0]) < 1e-6)
    (33, True)
    """
    stains = _stains(pixels)
    hematoxylin, eosin, density = (np.ascontiguousarray(stains[..., number]) for number in range(3))
    zones = [side // 4 * 2 + 1, side * 3 // 8 * 2 + 1, side // 2 * 2 + 1]
    areas = np.diff([0, *(length**2 for length in zones)]).astype(np.float32)

    def mean(plane: NDArray[np.float32], length: int = zones[-1]) -> NDArray[np.float32]:
        return np.asarray(cv2.boxFilter(plane, -1, (length, length), borderType=cv2.BORDER_REFLECT_101))

    def rings(plane: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Means over the center, the ring around it, and the rest."""
        center, near, whole = (mean(plane, length) * np.float32(length**2) for length in zones)
        return [part / area for part, area in zip((center, near - center, whole - near), areas, strict=True)]

    def root(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.sqrt(np.maximum(plane, 0)))

    for plane in (hematoxylin, eosin, density, _saturation(pixels)):
        for first, second in zip(rings(plane), rings(plane * plane), strict=True):
            yield first
            yield root(second - first * first)
    # Compression keeps little of the detail in color: bands and directions are of hematoxylin alone.
    for sigma in _SIGMAS:
        band = cv2.GaussianBlur(hematoxylin, (0, 0), sigma) - cv2.GaussianBlur(hematoxylin, (0, 0), 2 * sigma)
        deviation = root(mean(band * band))
        yield deviation
        yield mean(np.abs(band))
        yield mean(band**3) / np.maximum(deviation, _NOISE) ** 3
    across, down = cv2.Sobel(hematoxylin, cv2.CV_32F, 1, 0), cv2.Sobel(hematoxylin, cv2.CV_32F, 0, 1)
    tensor = np.stack([across * across - down * down, 2 * across * down, across * across + down * down])
    yield root(mean(tensor[2]))
    coherence = _coherence(np.stack([mean(part, 5) for part in tensor])).astype(np.float32)
    yield (local := mean(coherence))
    yield root(mean(coherence * coherence) - local * local)
