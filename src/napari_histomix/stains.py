"""Optical density and stains of H&E pixels. Imported by many rooms, imports none of ours."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, rgb_from_hed

T = TypeVar("T", bound=np.generic)

GLASS = 0.05
"""Summed optical density (base 10) below which a pixel is bare glass, not tissue."""

CONTRAST = 1.5
"""The most by which ``with_stain`` changes contrast: a flat picture is not blown up."""

_DENSITIES = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density (256,) of every 8-bit value: looking it up takes a twentieth of the logarithm's time."""


def optical_density(pixels: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Optical density in base 10, (…, 3) float32, of RGB pixels (…, 3) uint8; (N, 3) of those that a mask (…) picks."""
    chosen = pixels if where is None else picked(pixels, where)
    if not chosen.size:
        return np.empty(chosen.shape, np.float32)
    return np.asarray(cv2.LUT(chosen.reshape(-1, 1), _DENSITIES), np.float32).reshape(chosen.shape)


def picked(pixels: NDArray[T], where: NDArray[np.bool_]) -> NDArray[T]:
    """``pixels[where]``, (N, 3) of (…, 3), in a fifth of the time."""
    return pixels.reshape(-1, 3).compress(where.ravel(), axis=0)


def mean_over_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``values.mean(axis=0)`` of (N, k) to the last bit, in a quarter of the time where k is small."""
    # Both add the rows one after the other.
    return np.einsum("ij->j", values) / np.float32(len(values))


def stain_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean and standard deviation of the optical density of each channel, (6,) float32, of RGB pixels (H, W, 3)."""
    density = optical_density(pixels).reshape(-1, 3)
    return np.concatenate([density.mean(axis=0), density.std(axis=0)]).astype(np.float32)


def with_stain(pixels: NDArray[np.uint8], stain: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) whose optical density has the mean and the spread of a stain (6,), as ``stain_of`` measures it.

    Contrast changes by a factor of ``CONTRAST`` at most.

    Examples
    --------
    >>> pixels = np.random.default_rng(0).integers(90, 250, (32, 32, 3)).astype(np.uint8)
    >>> wanted = np.array([0.3, 0.4, 0.2, 0.12, 0.11, 0.1], np.float32)
    >>> bool(np.abs(stain_of(with_stain(pixels, wanted)) - wanted).max() < 0.01)
    True
    """
    mean, spread = np.split(stain_of(pixels), 2)
    gain = np.clip(stain[3:] / np.maximum(spread, 1e-6), 1 / CONTRAST, CONTRAST)
    density = (optical_density(pixels) - mean) * gain + stain[:3]
    return np.clip(np.rint(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)


def hue_of(pixels: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Share of each channel in the optical density (3,) of the pixels (H, W, 3) under a mask; None for glass alone."""
    density = optical_density(pixels, where).sum(axis=0, dtype=np.float64)
    return (density / density.sum()).astype(np.float32) if density.sum() > GLASS * where.sum() else None


def with_hue(pixels: NDArray[np.uint8], where: NDArray[np.bool_], hue: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) that have another hue under a mask (H, W), and are as dark as before.

    No channel's density changes by more than a factor of ``CONTRAST``.

    Examples
    --------
    >>> pixels = np.full((8, 8, 3), (90, 80, 200), np.uint8)
    >>> everywhere, hue = np.ones((8, 8), bool), np.array([0.4, 0.45, 0.15], np.float32)
    >>> bool(np.abs(hue_of(with_hue(pixels, everywhere, hue), everywhere) - hue).max() < 0.01)
    True
    """
    own = hue_of(pixels, where)
    if own is None:
        return pixels
    gain = np.clip(hue / np.maximum(own, 1e-6), 1 / CONTRAST, CONTRAST)
    changed = pixels.copy()
    density = optical_density(pixels, where) * gain
    changed[where] = np.clip(np.rint(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)
    return changed


def is_tissue(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels (…, 3) are not bare glass, (…)."""
    return _above_glass(optical_density(pixels))


def stain_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Hematoxylin, eosin and residual densities (…, 3) float32 of RGB pixels (…, 3) uint8.

    Optical density in base 10, unmixed with Ruifrok and Johnston's vectors (Anal. Quant. Cytol. Histol. 23, 2001).
    Unlike ``skimage.color.rgb2hed`` negative values are kept, so that ``stain_pixels`` is its inverse.
    """
    return optical_density(pixels) @ hed_from_rgb.astype(np.float32)


def tissue_stains(pixels: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Stain densities (N, 3) float32, as of ``stain_density``, of the pixels (…, 3) that are tissue, within a mask."""
    density = optical_density(pixels, where)
    return picked(density, _above_glass(density)) @ hed_from_rgb.astype(np.float32)


def stain_pixels(stains: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB pixels (…, 3) uint8 of stain densities; the inverse of ``stain_density``."""
    density = stains @ rgb_from_hed.astype(np.float32)
    return np.clip(np.rint(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)


def _above_glass(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    # Adding three planes is ten times as fast as summing over a last axis of three.
    return density[..., 0] + density[..., 1] + density[..., 2] > GLASS
