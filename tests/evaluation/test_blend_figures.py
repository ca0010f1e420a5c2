from __future__ import annotations

import cv2
import numpy as np
import pytest

from napari_histomix.evaluation.figures import FIGURES, bootstrap_median, window_figures, window_spread

ROWS, COLS = np.ogrid[:64, :64]
HOLE = np.hypot(ROWS - 30, COLS - 33) <= 12


@pytest.fixture
def truth() -> np.ndarray:
    noise = np.random.default_rng(0).integers(60, 220, (64, 64, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.0)


def inside(truth, pixels):
    return np.where(HOLE[..., None], pixels, truth).astype(np.uint8)


def test_a_perfect_fill(truth):
    found = window_figures(truth, truth.copy(), HOLE)
    assert set(found) == set(FIGURES)
    assert found["rmse"] == found["color"] == found["log_seam"] == found["log_laplacian"] == 0
    assert found["seam"] == found["laplacian"] == 1 and found["psnr"] == pytest.approx(58.9, abs=0.05)


def test_a_perfect_fill_of_bare_glass_is_perfect_too():
    glass = np.full((64, 64, 3), 250, np.uint8)
    found = window_figures(glass, glass, HOLE)
    assert found["seam"] == found["laplacian"] == 1 and np.isfinite(list(found.values())).all()


def test_an_offset_is_its_own_rmse_and_makes_a_seam(truth):
    found = window_figures(truth, inside(truth, truth.astype(int) + 10), HOLE)
    assert found["rmse"] == pytest.approx(10)
    assert found["psnr"] == pytest.approx(20 * np.log10(25.5))
    assert found["seam"] > 1 and found["log_seam"] == pytest.approx(np.log(found["seam"]))
    assert found["laplacian"] > 1


def test_a_blurred_fill_has_too_little_laplacian(truth):
    found = window_figures(truth, inside(truth, cv2.GaussianBlur(truth, (0, 0), 3.0)), HOLE)
    assert found["laplacian"] < 0.3 and found["log_laplacian"] == pytest.approx(-np.log(found["laplacian"]))
    assert found["color"] < 0.01, "blur keeps the mean"


def test_color_is_the_shift_in_optical_density(truth):
    flat = np.full_like(truth, 127)
    # 256 / 128 to 256 / 64: log10(2) in one of three channels.
    redder = flat.copy()
    redder[HOLE, 1] = 63
    assert window_figures(flat, redder, HOLE)["color"] == pytest.approx(np.log10(2) / 3, rel=1e-5)


def test_what_lies_outside_and_away_does_not_count(truth):
    other = truth.copy()
    other[:10] = 0
    assert window_figures(truth, other, HOLE)["rmse"] == 0


def test_spread_is_the_standard_deviation_inside_the_hole(truth):
    samples = [inside(np.zeros_like(truth), np.full_like(truth, value)) for value in (90, 110)]
    assert window_spread(samples, HOLE) == 10
    assert window_spread([truth, truth], HOLE) == 0


class TestBootstrap:
    def test_the_median_is_that_of_all_windows(self):
        for count in (4, 5):
            values = np.random.default_rng(count).random(count).tolist()
            assert bootstrap_median(values, list("abcde")[:count]).median == np.median(values)

    def test_it_resamples_images_not_windows(self):
        """Two images of a hundred windows each: alone they say 1 or 2, however many windows they have."""
        rng = np.random.default_rng(0)
        values = np.concatenate([rng.normal(1, 0.01, 100), rng.normal(2, 0.01, 100)])
        by_image = bootstrap_median(values, ["a"] * 100 + ["b"] * 100)
        assert by_image.low < 1.1 and by_image.high > 1.9
        many = np.concatenate([rng.normal(1, 0.3, 400)])
        by_window = bootstrap_median(many, [str(i) for i in range(400)])
        assert 0.03 < by_window.high - by_window.low < 0.12

    def test_it_agrees_with_resampling_done_plainly(self):
        rng = np.random.default_rng(3)
        images = [str(i) for i in rng.integers(0, 9, 60)]
        values = rng.normal(size=60) + np.array(images, float) / 3
        names = np.unique(images)
        plain = [
            np.median(np.concatenate([values[np.array(images) == name] for name in rng.choice(names, len(names))]))
            for _ in range(2000)
        ]
        found = bootstrap_median(values, images)
        assert (found.low, found.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.15)

    def test_one_image_has_no_interval_to_speak_of(self):
        found = bootstrap_median([1.0, 2.0, 4.0], ["a"] * 3)
        assert (found.median, found.low, found.high) == (2, 2, 2)
