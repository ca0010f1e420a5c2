from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histomix.compositing.stain import (
    GAIN,
    KIND_SHIFT,
    SHIFT,
    UNMATCHED,
    match_stain,
    match_tissue,
    stain_spread,
    staining,
    with_kind_shifts,
)
from napari_histomix.stains import mean_over_rows, optical_density, stain_density, stain_pixels

EVERYWHERE = np.ones((40, 40), bool)


def tissue(hematoxylin: float, eosin: float, spread: float = 0.01, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    stains = np.stack([np.full((40, 40), hematoxylin), np.full((40, 40), eosin), np.zeros((40, 40))], axis=-1)
    stains[..., :2] += spread * rng.standard_normal((40, 40, 2))
    return stain_pixels(stains.astype(np.float32))


@given(st.integers(0, 2**24 - 1))
def test_density_and_pixels_are_inverse_within_one_gray_level(first):
    colors = (first + 977 * np.arange(500)) % 2**24
    pixels = np.stack([colors >> 16, (colors >> 8) & 255, colors & 255], axis=-1).astype(np.uint8)
    back = stain_pixels(stain_density(pixels))
    assert np.abs(back.astype(int) - pixels).max() <= 1


def test_white_is_nearly_no_stain():
    assert np.abs(stain_density(np.full((1, 3), 255, np.uint8))).max() < 1e-3


SAME = np.ones(2)


def test_matching_brings_means_and_spreads_together(labeled_image):
    own, other = tissue(0.10, 0.12, 0.010), tissue(0.15, 0.08, 0.0125, seed=1)
    image = labeled_image([], shape=(40, 40))
    spreads = [staining(replace(image, pixels=pixels)).spread for pixels in (own, other)]
    matched, settings = match_stain(own, (own, EVERYWHERE), (other, EVERYWHERE), spreads[1] / spreads[0])
    means = [stain_density(pixels).reshape(-1, 3).mean(axis=0) for pixels in (own, other, matched)]
    assert np.abs(means[0] - means[1]).max() > 0.03
    assert np.abs(means[2] - means[1]).max() < 0.003
    spread = stain_density(matched).reshape(-1, 3)[:, :2].std(axis=0)
    assert spread == pytest.approx(stain_density(other).reshape(-1, 3)[:, :2].std(axis=0), rel=0.1)
    assert len(settings["gain"]) == 2 and len(settings["shift"]) == 3


def test_matching_never_goes_beyond_its_limits():
    own, other = tissue(0.05, 0.05, 0.002), tissue(0.5, 0.5, 0.05)
    _, settings = match_stain(own, (own, EVERYWHERE), (other, EVERYWHERE), 9 * SAME)
    assert settings["gain"] == [GAIN[1], GAIN[1]]
    assert max(np.abs(settings["shift"])) <= SHIFT
    assert settings["shift"][:2] == [SHIFT, SHIFT]
    _, settings = match_stain(own, (other, EVERYWHERE), (own, EVERYWHERE), 0.1 * SAME)
    assert settings["gain"] == [GAIN[0], GAIN[0]]
    assert settings["shift"][:2] == [-SHIFT, -SHIFT]


def test_matching_to_ones_own_surroundings_changes_nothing():
    own = tissue(0.1, 0.1)
    matched, _ = match_stain(own, (own, EVERYWHERE), (own, EVERYWHERE), SAME)
    assert np.abs(matched.astype(int) - own).max() <= 1


@pytest.mark.parametrize("why", ["masked", "glass"])
def test_too_little_tissue_leaves_the_donor_as_it_is(why):
    own, other = tissue(0.1, 0.1), tissue(0.2, 0.2)
    mask = EVERYWHERE.copy()
    if why == "masked":
        mask[:] = False
        mask[0, :20] = True
    else:
        other = np.full_like(other, 254)
    matched, settings = match_stain(own, (own, EVERYWHERE), (other, mask), SAME)
    assert np.array_equal(matched, own)
    assert settings == UNMATCHED == {"gain": [1.0, 1.0], "shift": [0.0, 0.0, 0.0]}


def test_a_blank_image_has_no_staining_to_match(labeled_image):
    image = labeled_image([], shape=(40, 40))
    blank = staining(replace(image, pixels=np.full_like(image.pixels, 255)))
    assert np.isnan(blank.spread).all()
    assert blank.nuclei_hue is None
    own = tissue(0.1, 0.1)
    _, settings = match_stain(own, (own, EVERYWHERE), (own, EVERYWHERE), blank.spread)
    assert settings["gain"] == [1.0, 1.0]


def test_means_and_spreads_are_numpys_to_the_last_bit():
    """Placements made again from their records must equal those made before, whichever is faster."""
    rng = np.random.default_rng(0)
    for count in (60, 61, 127, 1000, 40_000):
        pixels = rng.integers(0, 200, (count, 3), dtype=np.uint8)
        density = -np.log10((pixels.astype(np.float32) + 1) / 256)
        assert np.array_equal(optical_density(pixels), density)
        assert np.array_equal(mean_over_rows(density), density.mean(axis=0))
        assert np.array_equal(stain_spread(pixels), stain_density(pixels)[:, :2].std(axis=0))


def test_synthetic_nuclei_are_no_part_of_an_images_staining(labeled_image):
    image = labeled_image([(30, 30, 6, 6, 1), (80, 80, 6, 6, 1)])
    image.pixels[image.instances == 2] = (200, 40, 40)
    alone = labeled_image([(30, 30, 6, 6, 1)])
    hue = staining(replace(image, synthetic=frozenset({2}))).nuclei_hue
    assert hue == staining(alone).nuclei_hue != staining(image).nuclei_hue


def test_nuclei_and_the_rest_of_tissue_are_matched_apart_and_lumen_stays():
    rng = np.random.default_rng(0)
    stains = np.zeros((80, 80, 3), np.float32)
    stains[..., 0], stains[..., 1] = 0.12, 0.25
    rows, cols = np.mgrid[:80, :80]
    nuclei = (rows % 20 < 8) & (cols % 20 < 8)
    stains[nuclei] = (0.45, 0.15, 0.02)
    lumen = rows > 70
    stains[lumen] = 0
    own = stain_pixels(stains + rng.normal(0, 0.004, stains.shape).astype(np.float32))
    other = stains.copy()
    other[nuclei] += (0.1, 0.0, 0.0)
    other[~nuclei & ~lumen] += (0.0, -0.08, 0.0)
    there = stain_pixels(other)
    everywhere = np.ones((80, 80), bool)
    matched, settings = match_tissue(own, (own, everywhere), (there, everywhere))
    assert settings["nuclei"] == pytest.approx([0.1, 0, 0], abs=0.015)
    assert settings["rest"] == pytest.approx([0, -0.08, 0], abs=0.015)
    assert np.abs(matched.astype(int) - there)[~lumen].mean() < 3
    assert np.abs(matched.astype(int) - own)[lumen].max() <= 2
    assert np.array_equal(with_kind_shifts(own, settings), matched)
    # Far apart: moved by the bound, and no farther; too little tissue: left alone.
    _, bounded = match_tissue(own, (own, everywhere), (stain_pixels(stains + np.float32(0.4)), everywhere))
    assert max(map(abs, bounded["nuclei"] + bounded["rest"])) == KIND_SHIFT
    few = np.zeros((80, 80), bool)
    few[:3, :3] = True
    left, nothing = match_tissue(own, (own, few), (there, everywhere))
    assert left is own and nothing == {}
