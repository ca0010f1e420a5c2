"""Superpixels, on images made small enough that it takes a fraction of a second."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import slic

from napari_histomix.stains import is_tissue

WORKING_SIDE = 512
"""Pixels: the longer side of an image that regions are looked for in. Tissue regions are large."""
LEAST_SHARE = 0.15
"""Of a superpixel's expected area, what is left alone: scikit-image's own half merges most of H&E's superpixels."""


def working_copy(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its longer side at most ``WORKING_SIDE``."""
    factor = WORKING_SIDE / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    rows, cols = (max(1, round(size * factor)) for size in pixels.shape[:2])
    return np.asarray(cv2.resize(pixels, (cols, rows), interpolation=cv2.INTER_AREA), np.uint8)


def enlarged(labels: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Labels (h, w) at the size of an image (H, W, …), nearest neighbor."""
    if labels.shape == shape[:2]:
        return labels
    return np.asarray(cv2.resize(labels, shape[1::-1], interpolation=cv2.INTER_NEAREST), np.int32)


def superpixels(
    pixels: NDArray[np.uint8], count: int = 30, compactness: float = 10.0, sigma: float = 1.0, tissue: float = 0.5
) -> NDArray[np.int32]:
    """SLIC superpixels in Lab (Achanta et al., TPAMI 2012).

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    count : int
        About how many.
    compactness : float
        The higher, the squarer.
    sigma : float
        Gaussian smoothing before, in pixels of the image that is looked at (``WORKING_SIDE``).
    tissue : float
        Least share of tissue (not bare glass) in a superpixel that counts.

    Returns
    -------
    (H, W) int32
        From 1; 0 where a superpixel holds too little tissue.
    """
    small = working_copy(pixels)
    labels = slic(
        small, n_segments=count, compactness=compactness, sigma=sigma, start_label=1, min_size_factor=LEAST_SHARE
    )
    labels = np.asarray(labels, np.int32)
    area = np.bincount(labels.ravel())
    held = np.bincount(labels.ravel(), is_tissue(small).ravel())
    labels[(held < tissue * np.maximum(area, 1))[labels]] = 0
    return enlarged(labels, pixels.shape)
