"""Images and label maps at another scale (µm/px). Imported by many rooms, imports none of ours but records."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import HistomixError

SAME_SCALE = 0.02
"""Relative difference of two scales up to which they count as the same."""
MOST_PIXELS = 2**28
"""Of an image that is enlarged to another scale: 16,384²; more is asked for by a scale that is wrong."""
MOST_ENLARGED = 16
"""By how much an image is enlarged: at 8 µm/px, 16 times 0.5, a nucleus is a pixel."""


def same_scale(mpp: float, other: float) -> bool:
    """Whether two scales (µm/px) count as the same.

    Examples
    --------
    >>> same_scale(0.5, 0.4985), same_scale(0.5, 0.25)
    (True, False)
    """
    return abs(mpp / other - 1) <= SAME_SCALE


def resampled_shape(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    """Height and width of an image (h, w, …) that is made ``factor`` times as large; at least a pixel each."""
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def shape_at_scale(shape: tuple[int, ...], mpp: float, other: float) -> tuple[int, int]:
    """Height and width of an image (h, w, …) of ``mpp`` µm/px at another scale.

    Raises
    ------
    HistomixError
        Where it would be enlarged beyond reason: then a scale is wrong.

    Examples
    --------
    >>> shape_at_scale((1000, 1000, 3), 0.25, 0.5)
    (500, 500)
    """
    height, width = resampled_shape(shape, mpp / other)
    if mpp > MOST_ENLARGED * other or (mpp > other and height * width > MOST_PIXELS):
        raise HistomixError(
            f"At {mpp:g} µm/px, an image of {shape[1]}×{shape[0]} pixels would have {width:,}×{height:,} at {other:g} "
            "µm/px, where the network works; check the scale."
        )
    return height, width


def resampled(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """An image (h, w, 3) made ``factor`` times as large."""
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, resampled_shape(pixels.shape, factor)[::-1], interpolation=smooth), np.uint8)


def resized(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (H, W) or (H, W, 3) uint8 of another shape (H, W); itself where it has that shape."""
    if pixels.shape[:2] == shape:
        return pixels
    smooth = cv2.INTER_AREA if shape[0] < pixels.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, shape[::-1], interpolation=smooth), np.uint8)


def resized_labels(labels: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """A label map or mask (H, W) of another shape (H, W): each pixel is what lies at its center."""
    rows, cols = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(shape, labels.shape, strict=True)
    )
    return labels[rows[:, None], cols]
