"""Narrow holes: filled by small windows side by side, each pixel by one of them, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.diffusion.narrow_holes import CONTEXT, SIDE, _stretches, fill_narrow
from napari_histomix.diffusion.samplers import PRESETS
from napari_histomix.records import HistomixError, drain

SEAM = PRESETS["fast"].seam


def ring(side: int, radius: float) -> np.ndarray:
    rows, cols = np.mgrid[:side, :side]
    return np.abs(np.hypot(rows - side / 2, cols - side / 2) - radius) < 3


@settings(max_examples=40, deadline=None)
@given(st.integers(70, 260), st.integers(70, 260), st.integers(0, 10_000))
def test_every_pixel_of_a_hole_belongs_to_one_window_that_sees_around_it(height, width, seed):
    rng = np.random.default_rng(seed)
    hole = np.zeros((height, width), bool)
    for _ in range(4):
        row, col = rng.integers(height), rng.integers(width)
        hole[row : row + 3, : rng.integers(1, width)] = True
        hole[: rng.integers(1, height), col : col + 3] = True
    corners, stretches = _stretches(hole, SIDE, CONTEXT)
    taken = np.zeros(hole.shape, int)
    for (row, col), (rows, cols) in zip(corners, stretches, strict=True):
        np.add.at(taken, (rows, cols), 1)
        for places, corner, length in ((rows, row, height), (cols, col, width)):
            assert corner >= 0 and corner + SIDE <= length
            # Context on each side, but for the image's border.
            assert places.min() - corner >= min(CONTEXT, places.min())
            assert corner + SIDE - 1 - places.max() >= min(CONTEXT, length - 1 - places.max())
    assert np.array_equal(taken, hole)


def test_a_long_hole_takes_about_as_many_windows_as_it_is_long():
    corners, _ = _stretches(ring(500, 150), SIDE, CONTEXT)
    assert len(corners) < 1.3 * 2 * np.pi * 150 / (SIDE - 2 * CONTEXT)


@pytest.mark.parametrize(("mpp", "side"), [(0.5, 130), (0.25, 130), (0.9, 110), (0.5, 50)])
def test_what_is_not_the_hole_stays_and_a_batch_does_not_matter(small_model, tissue_pixels, mpp, side):
    pixels, hole = tissue_pixels(3, side, side), ring(side, side / 3)
    filled, again = (
        drain(fill_narrow(pixels, hole, mpp, small_model, SEAM, 7, device="cpu", batch=batch)) for batch in (16, 3)
    )
    assert np.array_equal(filled, again) and np.array_equal(filled[~hole], pixels[~hole])
    hidden = np.where(hole[..., None], np.uint8(0), pixels)
    assert np.array_equal(drain(fill_narrow(hidden, hole, mpp, small_model, SEAM, 7, device="cpu")), filled)


def test_no_hole_or_nothing_else_is_refused(small_model):
    pixels = np.zeros((80, 80, 3), np.uint8)
    for hole in (np.zeros((80, 80), bool), np.ones((80, 80), bool)):
        with pytest.raises(HistomixError, match="some, but not all"):
            drain(fill_narrow(pixels, hole, 0.5, small_model, SEAM, 0, device="cpu"))
