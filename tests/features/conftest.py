"""Images made up for the feature tests."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from napari_histomix.records import LabeledImage, Source


def paint(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pink and violet noise with detail at several scales."""
    rng = np.random.default_rng(seed)
    nuclei, fibers = (
        sum(cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), s) * s for s in (1, 2, 6)) for _ in range(2)
    )
    density = 0.15 + 0.25 * np.clip(nuclei, 0, 2)[..., None] * [0.65, 0.70, 0.29]
    density = density + 0.15 * np.clip(fibers, 0, 2)[..., None] * [0.07, 0.99, 0.11]
    return np.round(255 * 10**-density).astype(np.uint8)


@pytest.fixture
def tissue() -> Callable[..., NDArray[np.uint8]]:
    return paint


@pytest.fixture
def make_image() -> Callable[..., LabeledImage]:
    def make(pixels: NDArray[np.uint8], mpp: float = 0.25) -> LabeledImage:
        return LabeledImage(pixels, np.zeros(pixels.shape[:2], np.int32), {}, mpp, Source("made up", "image"))

    return make


@pytest.fixture
def patches() -> NDArray[np.uint8]:
    return np.stack([paint(224, 224, seed) for seed in range(6)])
