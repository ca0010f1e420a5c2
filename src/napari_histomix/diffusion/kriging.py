"""What a Gaussian random field tells of a hole: the first guess of truncated samplers."""

from __future__ import annotations

from functools import cache, reduce

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve2d
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu

DEEP = 4.0
"""Pixels: holes that reach farther from what is known are wide."""
THIN, WIDE = (4, 0.5), (2, 0.3)
"""Power and κ in 1/pixel of the precision below. The higher the power, the more the slopes at the hole's edge count:
right across a few pixels, wild in the middle of many. Chosen on half of the CoNSeP training images."""


def fill_smoothly(pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The most probable pixels in a hole, had a Gaussian Markov random field made the image.

    Kriging with a Matérn covariance, in its sparse form: the field's precision is (κ² − Δ)^power (Lindgren, Rue and
    Lindström 2011), and the mean in the hole given the rest solves one sparse linear system.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        What lies inside the hole is never looked at.
    hole : (H, W) bool
        Some but not all pixels.

    Returns
    -------
    (H, W, 3) uint8
        ``pixels`` outside the hole.
    """
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
    reach, kappa = THIN if depth <= DEEP else WIDE
    stencil = _stencil(reach, kappa)
    places = np.argwhere(hole)[:, None] + np.argwhere(stencil) - reach
    # Mirrored at the image's edges, as if every slope ended there.
    places = np.where(places < 0, -1 - places, places)
    places = np.where(places >= hole.shape, 2 * np.array(hole.shape) - 1 - places, places)
    columns = places[..., 0] * hole.shape[1] + places[..., 1]
    hidden = hole.ravel()
    near = np.zeros_like(hidden)
    near[columns] = True
    colors = pixels.reshape(-1, 3).astype(float)
    mean = colors[near & ~hidden].mean(axis=0)
    known = np.where(hidden[:, None], 0, colors - mean)
    entries = np.broadcast_to(stencil[stencil != 0], columns.shape)
    starts = np.arange(0, columns.size + 1, columns.shape[1])
    precision = csr_matrix((entries.ravel(), columns.ravel(), starts), shape=(len(columns), hole.size))
    among = precision[:, np.flatnonzero(hidden)].tocsc()
    solved = splu(among, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(-(precision @ known))
    colors = solved + mean
    if depth <= DEEP:
        # A slope that leaves a pasted nucleus must not run on into a rim lighter than anything around it.
        square = np.ones((2 * reach + 1,) * 2, np.uint8)
        darkest = cv2.erode(np.where(hole[..., None], np.uint8(255), pixels), square)
        lightest = cv2.dilate(np.where(hole[..., None], np.uint8(0), pixels), square)
        colors = np.clip(colors, darkest[hole], lightest[hole])
    filled = pixels.copy()
    filled[hole] = np.clip(np.rint(colors), 0, 255)
    return filled


def prediction_errors(pixels: NDArray[np.uint8], power: int, kappa: float) -> NDArray[np.float32]:
    """How far each pixel (H, W, 3) lies from what all others together tell of it, in such a field; 8-bit units."""
    stencil = _stencil(power, kappa)
    scaled = stencil / stencil[power, power]
    errors = cv2.filter2D(pixels.astype(np.float32), cv2.CV_32F, scaled, borderType=cv2.BORDER_REFLECT)
    return errors.astype(np.float32, copy=False)


@cache
def _stencil(power: int, kappa: float) -> NDArray[np.float64]:
    """(κ² − Δ)^power as a kernel of 2·power + 1 pixels."""
    once = np.array([[0, -1, 0], [-1, 4 + kappa**2, -1], [0, -1, 0]])
    return reduce(convolve2d, [once] * power)
