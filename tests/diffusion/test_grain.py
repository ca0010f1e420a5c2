"""Grain makes a fill as rough as its surroundings ask for, in their colors, and no rougher."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from napari_histomix.compositing.donors import transition_zone
from napari_histomix.datasets import load_sample
from napari_histomix.diffusion.grain import add_grain
from napari_histomix.diffusion.kriging import fill_smoothly
from napari_histomix.evaluation.figures import window_figures

DISTANCE = np.hypot(*(np.mgrid[:96, :96] - 48))
HOLE = (DISTANCE <= 20) & (DISTANCE > 17)


def draw(hole: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((int(hole.sum()), 3))


def speckled(strength: float) -> np.ndarray:
    """Smooth tissue with noise that green has half of, and a hole that was filled."""
    tissue = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 60, (96, 96)), (0, 0), 3)[..., None] + (180, 130, 190)
    noise = np.random.default_rng(2).normal(0, strength, (96, 96, 1)) * (1.0, 0.5, 1.0)
    return fill_smoothly(np.clip(np.rint(tissue + noise), 0, 255).astype(np.uint8), HOLE)


def test_real_transition_zones_get_the_roughness_that_was_hidden():
    dataset = load_sample()
    image = dataset.read(dataset.training[0])
    before, after = [], []
    for instance in np.unique(image.instances)[1:61]:
        ring = transition_zone(image.instances == instance)
        smooth = fill_smoothly(image.pixels, ring)
        rough = add_grain(smooth, ring, draw(ring, int(instance)))
        before.append(window_figures(image.pixels, smooth, ring)["laplacian"])
        after.append(window_figures(image.pixels, rough, ring)["laplacian"])
    assert np.median(before) < 0.5 and np.median(after) == pytest.approx(1, abs=0.15)


def test_grain_has_the_colors_of_the_noise_around_and_grows_with_it():
    weak, strong = ((add_grain(speckled(s), HOLE, draw(HOLE)).astype(int) - speckled(s))[HOLE] for s in (6, 12))
    red, green, blue = strong.std(axis=0)
    assert green / red == pytest.approx(0.5, abs=0.1) and blue == pytest.approx(red, rel=0.1)
    assert np.corrcoef(strong[:, 0], strong[:, 2])[0, 1] > 0.9
    assert red / weak[:, 0].std() == pytest.approx(2, rel=0.25)


def test_nothing_changes_outside_the_hole_and_noise_decides_inside():
    filled = speckled(6)
    first, again, other = (add_grain(filled, HOLE, draw(HOLE, seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(first[~HOLE], filled[~HOLE])


def test_a_fill_as_rough_as_its_surroundings_is_left_alone():
    filled = speckled(4)
    noisy = np.random.default_rng(3).normal(0, 12, filled.shape)
    filled = np.where(HOLE[..., None], np.clip(filled + noisy, 0, 255), filled).astype(np.uint8)
    assert np.array_equal(add_grain(filled, HOLE, draw(HOLE)), filled)


@pytest.mark.parametrize("known", ["flat", "none", "one pixel"])
def test_where_nothing_is_known_of_grain_none_is_added(known):
    filled = np.full((96, 96, 3), 240, np.uint8) if known == "flat" else speckled(5)
    hole = HOLE if known == "flat" else np.ones_like(HOLE)
    if known == "one pixel":
        hole[0, 0] = False
    assert np.array_equal(add_grain(filled, hole, draw(hole)), filled)
