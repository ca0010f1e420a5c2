"""Figures of a filled hole against the hidden truth, and medians with intervals that know of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.contours import Mask
from napari_histomix.stains import optical_density

FIGURES: Mapping[str, str] = {
    "rmse": "RMSE",
    "psnr": "PSNR",
    "seam": "seam",
    "laplacian": "Laplacian",
    "color": "color (OD)",
    "log_seam": "abs log seam",
    "log_laplacian": "abs log Lapl.",
}
"""Figures of one window, with their headings."""

FLOOR = 1e-3
"""Least gradient (gray values) and variance of ratios, so that bare glass gives a number too."""

ROUNDING = 1 / np.sqrt(12)
"""RMSE that rounding to 8 bits makes by itself; PSNR (at most 58.9 dB) counts no less."""

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


def window_figures(truth: NDArray[np.uint8], filled: NDArray[np.uint8], hole: Mask) -> dict[str, float]:
    """Figures of one filled window.

    Parameters
    ----------
    truth, filled : (S, S, 3) uint8
    hole : (S, S) bool

    Returns
    -------
    dict
        By the keys of ``FIGURES``. ``rmse``: root mean square error inside the hole, 8-bit units; ``psnr``: the same
        in dB. ``seam``: mean absolute gradient across the hole's borders over the truth's; below 1 is blur, above 1 a
        seam. ``laplacian``: variance of the Laplacian inside the hole over the truth's; below 1 is blur, above 1
        noise. ``color``: difference of the mean optical densities (base 10) inside the hole, averaged over red, green
        and blue. ``log_seam``, ``log_laplacian``: absolute natural logarithms of the ratios; 0 is best.
    """
    before, after = truth.astype(float), filled.astype(float)
    rmse = float(np.sqrt(((before - after) ** 2)[hole].mean()))
    seam = max(_seam(after, hole), FLOOR) / max(_seam(before, hole), FLOOR)
    laplacian = max(_laplacian(after, hole), FLOOR) / max(_laplacian(before, hole), FLOOR)
    densities = [optical_density(pixels[hole]).mean(axis=0, dtype=float) for pixels in (truth, filled)]
    return {
        "rmse": rmse,
        "psnr": float(20 * np.log10(255 / max(rmse, ROUNDING))),
        "seam": seam,
        "laplacian": laplacian,
        "color": float(np.abs(densities[0] - densities[1]).mean()),
        "log_seam": abs(float(np.log(seam))),
        "log_laplacian": abs(float(np.log(laplacian))),
    }


def _seam(pixels: NDArray[np.float64], hole: Mask) -> float:
    """Mean absolute difference between neighbors of which one lies in the hole."""
    total, count = 0.0, 0
    for axis in (0, 1):
        across = np.diff(hole.astype(np.int8), axis=axis) != 0
        total += float(np.abs(np.diff(pixels, axis=axis))[across].mean(axis=1).sum())
        count += int(across.sum())
    return total / max(count, 1)


def _laplacian(pixels: NDArray[np.float64], hole: Mask) -> float:
    channels = [cv2.Laplacian(np.ascontiguousarray(pixels[..., c]), cv2.CV_64F)[hole] for c in range(3)]
    return float(np.stack(channels).var(axis=1).mean())


def window_spread(samples: Sequence[NDArray[np.uint8]], hole: Mask) -> float:
    """Standard deviation between several fills (S, S, 3) of one hole, averaged over its pixels; 8-bit units."""
    return float(np.stack(samples).astype(float)[:, hole].std(axis=0).mean())


def bootstrap_median(values: Sequence[float], images: Sequence[str], seed: int = 0) -> Interval:
    """Median of windows' values, with a 95 % percentile interval that resamples whole images.

    Windows of one image share staining and tissue; resampling windows would make intervals too narrow.

    Parameters
    ----------
    values : sequence of float
    images : sequence of str
        Which image each value comes from.
    seed : int
    """
    all_values = np.asarray(values, float)
    names, belongs = np.unique(np.asarray(images), return_inverse=True)
    order = np.argsort(all_values, kind="stable")
    ranked, cluster = all_values[order], belongs[order]
    drawn = np.random.default_rng(seed).integers(len(names), size=(DRAWS, len(names)))
    times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
    # Each value counts as often as its image was drawn: the median is where half of the counts is reached.
    reached = np.cumsum(times[:, cluster], axis=1)
    total = reached[:, -1:]
    lower, upper = (np.argmax(reached > (total - part) // 2, axis=1) for part in (1, 0))
    medians = (ranked[lower] + ranked[upper]) / 2
    low, high = np.quantile(medians, [0.025, 0.975])
    return Interval(float(np.median(all_values)), float(low), float(high))
