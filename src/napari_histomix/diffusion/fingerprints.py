"""Which images trained a model: their fingerprints, kept in its card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pixels_sha256(pixels: NDArray[np.uint8]) -> str:
    """Hexadecimal SHA-256 of an image's shape and pixels (H, W, 3) uint8 RGB: the same in whatever file they lie."""
    shape = "x".join(map(str, pixels.shape))
    return hashlib.sha256(f"{shape}:".encode() + np.ascontiguousarray(pixels, np.uint8).tobytes()).hexdigest()


def trained_on(card: Mapping[str, Any], pixels: NDArray[np.uint8]) -> bool:
    """Whether a model's card lists an image (H, W, 3) uint8 RGB under ``training_pixels``."""
    return pixels_sha256(pixels) in card.get("training_pixels", ())
