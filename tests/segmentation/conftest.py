from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest


def paint_tissue(shape: tuple[int, int] = (240, 300), seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pink stroma with a violet gland around a bright lumen, and a bright vessel; and where each is."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    gland = np.hypot(rows - 0.45, cols - 0.4) < 0.3
    lumen = np.hypot(rows - 0.45, cols - 0.4) < 0.15
    vessel = np.hypot((rows - 0.8) * 2, cols - 0.8) < 0.16
    pixels = np.full((*shape, 3), (225, 165, 205), float)
    pixels[gland] = (130, 85, 160)
    pixels[lumen] = (244, 240, 246)
    pixels[vessel] = (205, 60, 90)
    pixels += cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 1.0)[..., None] * 14
    parts = {"gland": gland & ~lumen, "lumen": lumen, "vessel": vessel}
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), parts


@pytest.fixture(scope="session")
def tissue() -> Callable[..., tuple[np.ndarray, dict[str, np.ndarray]]]:
    return paint_tissue
