from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.evaluation.blend_windows import CLASSIC_FILLS, HiddenWindow, other_windows, poisson, segment_hole

ROWS, COLS = np.ogrid[:64, :64]
AWAY = np.hypot(ROWS - 30, COLS - 33)
HOLES = {
    "ring": (AWAY <= 12) & (AWAY > 10),
    "disc": AWAY <= 12,
    "at the border": (ROWS < 9) & (COLS < 12),
    "segment": segment_hole(64, np.random.default_rng(0)),
}


def window(hole: np.ndarray, seed: int = 0) -> HiddenWindow:
    noise = np.random.default_rng(seed).integers(0, 256, (*hole.shape, 3), dtype=np.uint8)
    return HiddenWindow(cv2.GaussianBlur(noise, (0, 0), 1.5), hole, seed, "image", 0.25)


@pytest.mark.parametrize("fill", CLASSIC_FILLS)
@given(seed=st.integers(0, 2**20), share=st.floats(0.02, 0.9))
@settings(max_examples=8, deadline=None)
def test_nothing_changes_outside_the_hole(fill, seed, share):
    hole = np.random.default_rng(seed).random((40, 40)) < share
    hole[0, 0], hole[-1, -1] = True, False
    one = window(hole, seed)
    before = one.pixels.copy()
    filled = CLASSIC_FILLS[fill](one, window(hole, seed + 1))
    assert filled.dtype == np.uint8 and np.array_equal(filled[~hole], before[~hole])
    assert np.array_equal(one.pixels, before) and not np.array_equal(filled, before)


@pytest.mark.parametrize("fill", CLASSIC_FILLS)
@pytest.mark.parametrize("hole", HOLES)
def test_what_lies_inside_the_hole_is_never_looked_at(fill, hole):
    one, other = window(HOLES[hole]), window(HOLES[hole], 1)
    hidden = replace(one, pixels=np.where(HOLES[hole][..., None], 255 - one.pixels, one.pixels))
    assert np.array_equal(CLASSIC_FILLS[fill](one, other), CLASSIC_FILLS[fill](hidden, other))


def test_a_hard_paste_is_the_other_windows_pixels():
    one, other = window(HOLES["disc"]), window(HOLES["disc"], 1)
    filled = CLASSIC_FILLS["hard-paste"](one, other)
    assert np.array_equal(filled[one.hole], other.pixels[one.hole])


@pytest.mark.parametrize("hole", HOLES)
def test_poisson_takes_over_gradients_but_not_levels(hole):
    """From a window of the same gradients, whatever its brightness, the truth comes back."""
    one = window(HOLES[hole])
    brighter = replace(one, pixels=(one.pixels.astype(int) + 20).clip(0, 255).astype(np.uint8))
    assert brighter.pixels.max() < 255
    assert np.abs(poisson(one, brighter).astype(int) - one.pixels).max() <= 1


def test_each_window_gets_another():
    for count in (2, 3, 30):
        windows = [window(HOLES["disc"], seed) for seed in range(count)]
        others = other_windows(windows, 0)
        assert all(one is not other for one, other in zip(windows, others, strict=True))
        assert [one.seed for one in other_windows(windows, 0)] == [one.seed for one in others]
    assert len({one.seed for one in others}) > 10
