"""What a Gaussian random field tells of a hole: its mean is a smooth first guess, its errors are the missing grain."""

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
AROUND = 14
"""Pixels around a hole whose grain is looked at."""
FIELD = (2, 0.3)
"""Power and κ of the random field whose errors are called grain."""
ALIKE = 0.75
"""Of the two roughnesses below, weight of the one that follows the fill. Chosen, like ``FIELD``, on half of the CoNSeP
training images."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Of the channels, ITU-R BT.601."""


def fill_smoothly(
    pixels: NDArray[np.uint8], hole: NDArray[np.bool_], field: tuple[int, float] | None = None
) -> NDArray[np.uint8]:
    """The most probable pixels (H, W, 3) in a hole (H, W), had a Gaussian Markov random field made the image.

    Kriging with a Matérn covariance, in its sparse form: the field's precision is (κ² − Δ)^power (Lindgren, Rue and
    Lindström 2011), and the mean in the hole given the rest solves one sparse linear system. The hole is some but not
    all pixels; what lies inside it is never looked at.
    """
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
    reach, kappa = field or (THIN if depth <= DEEP else WIDE)
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
        square = np.ones((2 * max(reach, int(np.ceil(depth))) + 1,) * 2, np.uint8)
        darkest = cv2.erode(np.where(hole[..., None], np.uint8(255), pixels), square)
        lightest = cv2.dilate(np.where(hole[..., None], np.uint8(0), pixels), square)
        colors = np.clip(colors, darkest[hole], lightest[hole])
    filled = pixels.copy()
    filled[hole] = np.clip(np.rint(colors), 0, 255)
    return filled


def fill_between(pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """As ``fill_smoothly``, of a narrow hole between two images that do not go on in one another.

    Brightness follows the slopes of both sides, or the hole would be blurred; colors do not, or where each channel went
    on by itself there would be yellow and cyan specks.
    """
    sharp, calm = (fill_smoothly(pixels, hole, field).astype(float) for field in (THIN, WIDE))
    bright = calm + ((sharp - calm) @ LUMA)[..., None]
    return np.where(hole[..., None], np.clip(np.rint(bright), 0, 255), pixels).astype(np.uint8)


def add_grain(filled: NDArray[np.uint8], hole: NDArray[np.bool_], noise: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Make a filled hole as rough as it would be, had it not been predicted.

    Every known pixel near the hole is predicted from its neighbors. The errors' colors are those of the grain; how much
    smoother the predictions are than the pixels tells how much is missing in a fill, which is a prediction too. What
    the fill should have is the weighted geometric mean of that and the roughness of the surroundings, which a fill
    without any detail does not follow. Roughness is the variance of the Laplacian.

    ``noise`` (N, 3) is standard normal, for the N pixels of the hole. ``filled`` itself comes back where the hole is
    rough enough, or too little is known around it.
    """
    stencil = _stencil(*FIELD)
    # How far each pixel lies from what all others together tell of it, in such a field; 8-bit units.
    scaled = stencil / stencil[FIELD[0], FIELD[0]]
    errors = cv2.filter2D(filled.astype(np.float32), cv2.CV_32F, scaled, borderType=cv2.BORDER_REFLECT)
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


@cache
def _stencil(power: int, kappa: float) -> NDArray[np.float64]:
    """(κ² − Δ)^power as a kernel of 2·power + 1 pixels."""
    once = np.array([[0, -1, 0], [-1, 4 + kappa**2, -1], [0, -1, 0]])
    return reduce(convolve2d, [once] * power)


def _roughness(pixels: NDArray[np.generic], where: NDArray[np.bool_]) -> float:
    """Variance of the Laplacian of the luma; 0 where there is nothing to look at."""
    if not where.any():
        return 0.0
    laplacian = cv2.Laplacian(pixels.astype(float) @ LUMA, cv2.CV_64F, borderType=cv2.BORDER_REFLECT)
    return float(laplacian[where].var())


def _grown(hole: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return cv2.dilate(hole.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0
