"""Fills that need no network: what any sampler has to be better than."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, diags
from scipy.sparse.linalg import spsolve

from napari_histomix.diffusion.kriging import fill_smoothly
from napari_histomix.evaluation.blend_windows import HiddenWindow

RADIUS = 3
"""Pixels that Navier–Stokes and Telea look at around each pixel they fill."""

Pixels = NDArray[np.uint8]


def navier_stokes(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """Isophotes continued into the hole (Bertalmio et al., CVPR 2001)."""
    return _inside(window, cv2.inpaint(_emptied(window), window.hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS))


def telea(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """Fast marching (Telea, J. Graphics Tools 9, 2004)."""
    return _inside(window, cv2.inpaint(_emptied(window), window.hole.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA))


def kriging(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """The mean of a Gaussian random field: the engine's own first guess, before any network."""
    return fill_smoothly(window.pixels, window.hole)


def hard_paste(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """The same pixels of another window, as they are."""
    return _inside(window, other.pixels)


def poisson(window: HiddenWindow, other: HiddenWindow) -> Pixels:
    """The gradients of another window, fitted to the known pixels around the hole (Pérez et al., SIGGRAPH 2003).

    Solves 4·f − Σ f = 4·g − Σ g over the hole, sums over the four neighbors, f known outside and g the other window.
    OpenCV's ``seamlessClone`` is of no use here: it shrinks the mask by three pixels and lets what is hidden there,
    all of a transition zone, shine through.
    """
    hole, known, source = window.hole, window.pixels.astype(float), other.pixels.astype(float)
    rows, cols = np.nonzero(hole)
    number = np.zeros(hole.shape, int)
    number[hole] = np.arange(len(rows))
    degree, right = np.zeros(len(rows)), np.zeros((len(rows), 3))
    links: list[NDArray[np.int_]] = []
    for down, along in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        to_row, to_col = rows + down, cols + along
        there = (to_row >= 0) & (to_row < hole.shape[0]) & (to_col >= 0) & (to_col < hole.shape[1])
        here = np.flatnonzero(there)
        near = to_row[here], to_col[here]
        degree[here] += 1
        right[here] += source[rows[here], cols[here]] - source[near]
        open_ = hole[near]
        right[here[~open_]] += known[near][~open_]
        links.append(np.stack([here[open_], number[near][open_]]))
    pairs = np.concatenate(links, axis=1)
    laplacian = diags(degree).tocsc() - csc_matrix((np.ones(pairs.shape[1]), tuple(pairs)), [len(rows)] * 2)
    filled = window.pixels.copy()
    filled[hole] = np.clip(np.rint(spsolve(laplacian.tocsc(), right)), 0, 255)
    return filled


def _emptied(window: HiddenWindow) -> Pixels:
    """The window without what its hole hides: OpenCV's inpainting looks at that where a hole meets the border."""
    mean = window.pixels[~window.hole].mean(axis=0)
    return np.where(window.hole[..., None], np.rint(mean), window.pixels).astype(np.uint8)


def _inside(window: HiddenWindow, pixels: NDArray[np.generic]) -> Pixels:
    return np.where(window.hole[..., None], pixels, window.pixels).astype(np.uint8)


CLASSIC_FILLS: Mapping[str, Callable[[HiddenWindow, HiddenWindow], Pixels]] = {
    "navier-stokes": navier_stokes,
    "telea": telea,
    "kriging": kriging,
    "hard-paste": hard_paste,
    "poisson": poisson,
}


def other_windows(windows: Sequence[HiddenWindow], seed: int) -> list[HiddenWindow]:
    """For each of two or more windows another one of the list, drawn at random: what is pasted or cloned into it."""
    steps = np.random.default_rng([seed, 2]).integers(1, len(windows), size=len(windows))
    return [windows[(i + int(step)) % len(windows)] for i, step in enumerate(steps)]
