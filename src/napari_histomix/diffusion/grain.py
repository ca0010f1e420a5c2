"""The grain of tissue, stain and scanner that a blurred fill lacks: how much is missing, and that much of it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.diffusion.kriging import prediction_errors

AROUND = 14
"""Pixels around a hole that are looked at."""
FIELD = (2, 0.3)
"""Power and κ of the random field (``guess``) whose errors are called grain."""
ALIKE = 0.75
"""Of the two roughnesses below, weight of the one that follows the fill. Chosen, like ``FIELD``, on half of the CoNSeP
training images."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Of the channels, ITU-R BT.601."""


def add_grain(filled: NDArray[np.uint8], hole: NDArray[np.bool_], noise: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Make a filled hole as rough as it would be, had it not been predicted.

    Every known pixel near the hole is predicted from its neighbors. The errors' colors are those of the grain; how much
    smoother the predictions are than the pixels tells how much is missing in a fill, which is a prediction too. What
    the fill should have is the weighted geometric mean of that and the roughness of the surroundings, which a fill
    without any detail does not follow. Roughness is the variance of the Laplacian.

    Parameters
    ----------
    filled : (H, W, 3) uint8
    hole : (H, W) bool
        The grain is added here; the rest is known.
    noise : (N, 3) float64
        Standard normal, for the N pixels of the hole.

    Returns
    -------
    (H, W, 3) uint8
        ``filled`` itself where the hole is rough enough, or too little is known around it.
    """
    errors = prediction_errors(filled, *FIELD)
    near = _grown(hole, AROUND) & ~_grown(hole, FIELD[0] + 1)
    own, around, predicted = _roughness(filled, hole), _roughness(filled, near), _roughness(filled - errors, near)
    if min(own, around, predicted) <= 0:
        return filled
    missing = (own * around / predicted) ** ALIKE * around ** (1 - ALIKE) - own
    values, vectors = np.linalg.eigh(np.cov(errors[near].T))
    grain = np.zeros(filled.shape)
    grain[hole] = noise @ (vectors * np.sqrt(values.clip(min=0))).T
    # Roughness is quadratic in the strength: own + 2·shared·strength + added·strength².
    added, both = _roughness(grain, hole), _roughness(filled + grain, hole)
    shared = (both - own - added) / 2
    if missing <= 0 or added <= 0:
        return filled
    strength = (np.sqrt(shared**2 + added * missing) - shared) / added
    return np.clip(np.rint(filled + strength * grain), 0, 255).astype(np.uint8)


def _roughness(pixels: NDArray[np.generic], where: NDArray[np.bool_]) -> float:
    """Variance of the Laplacian of the luma; 0 where there is nothing to look at."""
    if not where.any():
        return 0.0
    laplacian = cv2.Laplacian(pixels.astype(float) @ LUMA, cv2.CV_64F, borderType=cv2.BORDER_REFLECT)
    return float(laplacian[where].var())


def _grown(hole: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return cv2.dilate(hole.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0
