"""From a segment to the crop that encoders see."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.features.context import PATCH_SIZE
from napari_histomix.records import Segment


def segment_crops(pixels: NDArray[np.uint8], segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """Bounding boxes of segments, resized to squares (USegMix, section 2.1).

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    segments : sequence of Segment

    Returns
    -------
    (N, 224, 224, 3) uint8
    """
    crops = [_resized(pixels[one.window], PATCH_SIZE, PATCH_SIZE) for one in segments]
    return np.array(crops, np.uint8).reshape(-1, PATCH_SIZE, PATCH_SIZE, 3)


def segment_thumbnail(pixels: NDArray[np.uint8], segment: Segment, side: int) -> NDArray[np.uint8]:
    """A segment as a person sees it: its box in its own proportions, what is not part of it faded; (side, side, 3)."""
    box = pixels[segment.window]
    shown = np.where(segment.mask[..., None], box, box // 3 + 160).astype(np.uint8)
    factor = side / max(box.shape[:2])
    rows, cols = (max(1, round(size * factor)) for size in box.shape[:2])
    framed = np.full((side, side, 3), 245, np.uint8)
    top, left = (side - rows) // 2, (side - cols) // 2
    framed[top : top + rows, left : left + cols] = _resized(shown, rows, cols)
    return framed


def _resized(box: NDArray[np.uint8], rows: int, cols: int) -> NDArray[np.uint8]:
    smaller = rows <= box.shape[0] and cols <= box.shape[1]
    return np.asarray(cv2.resize(box, (cols, rows), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR))
