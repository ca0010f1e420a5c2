"""Classes without colors of their own get some that people with red-green blindness tell apart, too."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.color import rgb2lab

from napari_histomix.datasets.entries import named_classes, palette

DEUTERANOPE = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
"""Linear RGB as deuteranopes see it (Machado et al. 2009, severity 1)."""


def seen(colors: list[tuple[int, int, int]]) -> np.ndarray:
    srgb = np.array(colors) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    changed = np.clip(linear @ DEUTERANOPE.T, 0, 1)
    again = np.where(changed <= 0.0031308, 12.92 * changed, 1.055 * changed ** (1 / 2.4) - 0.055)
    return rgb2lab(again[None])[0]


@pytest.mark.parametrize(("count", "least"), [(4, 33), (6, 24)])
def test_the_first_classes_differ_with_and_without_red_green_blindness(count: int, least: float) -> None:
    plain = rgb2lab(np.array(palette(count))[None] / 255)[0]
    for colors in (plain, seen(palette(count))):
        assert min(np.linalg.norm(one - other) for one, other in combinations(colors, 2)) > least


def test_many_classes_all_have_colors_of_their_own() -> None:
    assert len(set(palette(40))) == 40
    assert [kind.color for kind in named_classes("a", "b")] == palette(2)
