"""Figures of how like two sets of pictures are, against what is known of normal distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from napari_histomix.evaluation.likeness import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    picture_features,
    stain_distances,
    standardized,
)
from napari_histomix.features.texture import TextureEncoder


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_distance_is_that_of_the_formula(rng):
    first, second = rng.standard_normal((80, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal((90, 6)) + 1
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    cross = np.trace(sqrtm(covariances[0] @ covariances[1]).real)
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_fewer_pictures_than_features_still_give_a_distance(rng):
    first = rng.standard_normal((5, 20))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(first + 1, first) == pytest.approx(20)


def test_kid_is_unbiased(rng):
    values = [kernel_distance(*rng.standard_normal((2, 12, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    first, second = rng.standard_normal((2, 6, 3))
    kernel = (first @ first.T / 3 + 1) ** 3, (second @ second.T / 3 + 1) ** 3, (first @ second.T / 3 + 1) ** 3
    within = [(each.sum() - np.trace(each)) / 30 for each in kernel[:2]]
    assert kernel_distance(first, second) == pytest.approx(sum(within) - 2 * kernel[2].mean())


def test_density_and_coverage_tell_fidelity_from_variety(rng):
    reference, alike = rng.standard_normal((2, 300, 3))
    density, coverage = density_coverage(alike, reference)
    assert 0.85 < density < 1.15 and coverage > 0.93
    far, none = density_coverage(alike + 20, reference)
    assert far == none == 0
    # Pictures without variety lie in balls as real ones do, but in those of few.
    density, coverage = density_coverage(alike * 0.05, reference)
    assert density > 0.3 and coverage < 0.3


def test_constant_features_tell_nothing(rng):
    reference = np.column_stack([rng.standard_normal(20), np.full(20, 7.0)])
    assert np.isfinite(standardized(reference, reference)).all()


def test_a_picture_has_as_many_patches_as_fit(tissue_pixels):
    encoder = TextureEncoder(workers=1, whole=True)
    pictures = [tissue_pixels(0, 250, 130), tissue_pixels(1, 64, 64)]
    assert picture_features(pictures, 0.5, encoder).shape == (3, encoder.dim)
    assert picture_features([], 0.5, encoder).shape == (0, encoder.dim)


def test_color_is_that_of_the_whole_picture(tissue_pixels):
    real = [tissue_pixels(seed) for seed in range(3)]
    assert stain_distances(real, real) == (0, 0)
    flat = [np.full_like(pixels, np.median(pixels, axis=(0, 1)).astype(np.uint8)) for pixels in real]
    darker = [(pixels * 0.8).astype(np.uint8) for pixels in real]
    mean, spread = stain_distances(flat, real)
    assert spread > 0.02 and mean < 0.05
    assert stain_distances(darker, real)[0] == pytest.approx(-np.log10(0.8), abs=0.01)
