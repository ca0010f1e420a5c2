"""CutOut: a square of an image hidden (DeVries & Taylor, arXiv 1708.04552)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from napari_histomix.methods.deriving import Derived, Deriving
from napari_histomix.methods.pasting import VISIBLE, CountSettings
from napari_histomix.records import INPAINTED, LabeledImage
from napari_histomix.settings import Option


@dataclass(frozen=True, kw_only=True)
class CutOutSettings(CountSettings):
    """What is hidden."""

    side: Annotated[float, Option("Side of the square over the shorter side of the image.", low=0.01, high=1.0)] = 0.5
    erase: Annotated[
        bool, Option("Erase the nuclei under the square from the labels; otherwise they stay, to be guessed.")
    ] = True


class CutOut(Deriving[CutOutSettings]):
    """A square at a random place, filled with the image's mean color."""

    name, title = "cutout", "CutOut"
    makes = "copies of images in which a square is hidden under the mean color."
    citation = "DeVries & Taylor, Improved Regularization with CutOut, arXiv 1708.04552"
    settings = CutOutSettings

    def derive(
        self, target: LabeledImage, partner: LabeledImage | None, rng: np.random.Generator, settings: CutOutSettings
    ) -> Derived:
        """Hide a square; a nucleus of which hardly anything is left to see goes with what is erased."""
        height, width = target.pixels.shape[:2]
        side = max(1, round(settings.side * min(height, width)))
        row, col = (int(rng.integers(size - side + 1)) for size in (height, width))
        square = slice(row, row + side), slice(col, col + side)
        pixels, origin = target.pixels.copy(), np.zeros((height, width), np.uint8)
        pixels[square] = np.rint(target.pixels.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
        origin[square] = INPAINTED
        facts = {"square": [row, col, side]}
        if not (settings.erase and target.types):
            return Derived(pixels, origin, facts=facts)
        labels = target.instances.copy()
        labels[square] = 0
        removed = []
        for instance, hidden in zip(*np.unique(target.instances[square], return_counts=True), strict=True):
            left = int(np.count_nonzero(labels == instance)) if instance else 1
            if left == 0 or (instance and left < VISIBLE * (left + hidden)):
                labels[labels == instance] = 0
                removed.append(int(instance))
        return Derived(pixels, origin, labels, tuple(removed), facts=facts)


METHOD = CutOut()
