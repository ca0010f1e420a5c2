"""Which images trained a model: their fingerprints, kept in its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.pixels import pixels_sha256


def trained_on(card: Mapping[str, Any], pixels: NDArray[np.uint8]) -> bool:
    """Whether a model's card lists an image (H, W, 3) uint8 RGB under ``training_pixels``."""
    return pixels_sha256(pixels) in card.get("training_pixels", ())
