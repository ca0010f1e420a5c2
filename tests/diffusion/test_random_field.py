"""The smooth guess against fields it must know and what it replaces; grain as the surroundings ask for, no rougher."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from napari_histomix.compositing.donors import transition_zone
from napari_histomix.datasets import load_sample
from napari_histomix.diffusion.random_field import WIDE, add_grain, fill_between, fill_smoothly
from napari_histomix.evaluation.figures import window_figures

DISTANCE = np.hypot(*(np.mgrid[:96, :96] - 48))
HOLE = (DISTANCE <= 20) & (DISTANCE > 17)


def disc(side: int, center: tuple[float, float], radius: float) -> np.ndarray:
    rows, cols = np.mgrid[:side, :side]
    return np.hypot(rows - center[0], cols - center[1]) <= radius


def rmse(first, second, hole) -> float:
    return float(np.sqrt(np.mean((first[hole].astype(float) - second[hole]) ** 2)))


def test_a_slope_and_a_wave_go_on_through_a_thin_hole():
    rows, cols = np.mgrid[:48, :48].astype(float)
    pixels = np.stack([4 * rows, 250 - 3 * cols, 128 + 60 * np.sin(rows / 3) * np.cos(cols / 4)], axis=-1)
    pixels = np.rint(pixels).astype(np.uint8)
    hole = disc(48, (24, 24), 12) & ~disc(48, (24, 24), 9)
    assert rmse(fill_smoothly(pixels, hole), pixels, hole) < 1.0
    flow = cv2.inpaint(pixels, hole.astype(np.uint8), 3, cv2.INPAINT_NS)
    assert rmse(flow, pixels, hole) > 4.0


def test_real_transition_zones_are_nearer_to_the_truth_than_by_navier_stokes():
    dataset = load_sample()
    image = dataset.read(dataset.training[0])
    ours, flow = [], []
    for instance in np.unique(image.instances)[1:41]:
        ring = transition_zone(image.instances == instance)
        ours.append(rmse(fill_smoothly(image.pixels, ring), image.pixels, ring))
        filled = cv2.inpaint(image.pixels, ring.astype(np.uint8), 3, cv2.INPAINT_NS)
        flow.append(rmse(filled, image.pixels, ring))
    assert np.median(ours) < 0.8 * np.median(flow)


@pytest.mark.parametrize("hole", [disc(40, (20, 20), 3), disc(40, (0, 0), 9), disc(40, (39, 20), 15)], ids=str)
def test_what_the_hole_hides_never_shines_through(hole):
    rng = np.random.default_rng(0)
    pixels = rng.integers(80, 160, (40, 40, 3), np.uint8)
    other = pixels.copy()
    other[hole] = 255
    filled = fill_smoothly(pixels, hole)
    assert np.array_equal(filled[hole], fill_smoothly(other, hole)[hole])
    assert np.array_equal(filled[~hole], pixels[~hole])


def test_the_middle_of_a_wide_hole_stays_between_its_surroundings():
    """Slopes carried far into a hole would end at black or white."""
    rows, cols = np.mgrid[:128, :128].astype(float)
    pixels = np.stack([90 + rows, 210 - rows / 2, 120 + cols / 2], axis=-1).astype(np.uint8)
    pixels[60:70] = (pixels[60:70] * 0.6).astype(np.uint8)
    hole = disc(128, (70, 64), 45)
    around = pixels[disc(128, (70, 64), 49) & ~hole].astype(float)
    filled = fill_smoothly(pixels, hole)[disc(128, (70, 64), 30)]
    assert (filled >= around.min(axis=0) - 10).all() and (filled <= around.max(axis=0) + 10).all()


@pytest.mark.parametrize("side", [8, 24])
def test_all_but_one_pixel_may_be_hidden(side):
    pixels = np.full((side, side, 3), (10, 120, 250), np.uint8)
    hole = np.ones((side, side), bool)
    hole[side // 2, 3] = False
    assert np.array_equal(fill_smoothly(pixels, hole), pixels)


def test_no_rim_is_lighter_or_darker_than_anything_around_it():
    """A dark nucleus with a lighter contour of one pixel, pasted into flat tissue: its slope must not run on."""
    pixels = np.full((48, 48, 3), 180, np.uint8)
    pixels[disc(48, (24, 24), 8)] = 200
    pixels[disc(48, (24, 24), 7)] = 60
    hole = disc(48, (24, 24), 10) & ~disc(48, (24, 24), 8)
    filled = fill_smoothly(pixels, hole)[hole]
    assert filled.max() <= 200 and filled.min() >= 60


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


def test_where_two_images_meet_colors_stay_within_those_around():
    rng = np.random.default_rng(0)
    violet = np.clip(np.array((150, 110, 200)) + rng.normal(0, 12, (64, 64, 3)), 0, 255)
    cols = np.mgrid[:64, :64][1]
    # Two pictures of unlike slopes that meet in the middle, each channel in its own way.
    left = violet + np.stack([2 * (32 - cols), -1.5 * (32 - cols), 0 * cols], axis=-1)
    right = violet + np.stack([1.5 * (cols - 32), 2 * (cols - 32), -2 * (cols - 32)], axis=-1)
    pixels = np.clip(np.where((cols < 32)[..., None], left, right), 0, 255).astype(np.uint8)
    hole = np.abs(cols - 31.5) < 3

    def spread(filled: np.ndarray) -> float:
        """How far blue less red reaches."""
        return float(np.ptp(filled[hole].astype(int) @ (-1, 0, 1)))

    filled = fill_between(pixels, hole)
    assert np.array_equal(filled[~hole], pixels[~hole])
    darkest, lightest = pixels[~hole].min(axis=0).astype(int), pixels[~hole].max(axis=0).astype(int)
    assert (filled[hole] >= darkest - 30).all() and (filled[hole] <= lightest + 30).all()
    assert spread(filled) < 0.9 * spread(fill_smoothly(pixels, hole))
    # It is not blurred for that.
    rough, calm, ours = (
        cv2.Laplacian(each.astype(float).mean(axis=-1), cv2.CV_64F)[hole].std()
        for each in (fill_smoothly(pixels, hole), fill_smoothly(pixels, hole, WIDE), filled)
    )
    assert abs(ours - rough) < abs(ours - calm)
