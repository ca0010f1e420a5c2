"""The weighted draw of a replacement, against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.sampling.segment_draw import SegmentDraw

VECTORS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
TARGET = VECTORS[7] + 0.1


def formula(weights: np.ndarray, temperature: float, allowed: np.ndarray) -> np.ndarray:
    """USegMix, equation 1, with a temperature."""
    heights = np.exp(-weights * np.linalg.norm(VECTORS.astype(float) - TARGET, axis=1) / temperature) * allowed
    return heights / heights.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.1, 30.0])
def test_chances_are_those_of_the_paper(temperature):
    draw = SegmentDraw(VECTORS, temperature)
    allowed = np.arange(50) % 3 > 0
    draw.use(8)
    draw.use(8)
    weights = np.ones(50)
    weights[8] = 3
    assert np.allclose(draw.chances(TARGET, allowed), formula(weights, temperature, allowed), atol=1e-6)


def test_draws_follow_the_chances_and_each_use_makes_the_next_less_likely():
    rng = np.random.default_rng(1)
    allowed = np.ones(50, bool)
    counts = np.zeros(50)
    for _ in range(3000):
        draw = SegmentDraw(VECTORS, 1.0)
        chosen, chance = draw.draw(TARGET, allowed, rng)
        counts[chosen] += 1
        assert chance == pytest.approx(float(SegmentDraw(VECTORS, 1.0).chances(TARGET, allowed)[chosen]), abs=1e-5)
    expected = 3000 * formula(np.ones(50), 1.0, allowed)
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected.max())
    draw = SegmentDraw(VECTORS, 1.0)
    before = draw.chances(TARGET, allowed)
    chosen, _ = draw.draw(TARGET, allowed, rng)
    assert draw.chances(TARGET, allowed)[chosen] < before[chosen] and draw.weights.sum() == 51


def test_without_a_temperature_the_draw_is_spread_over_many():
    spread = SegmentDraw(VECTORS).chances(TARGET, np.ones(50, bool))
    sharp = SegmentDraw(VECTORS * 100).chances(TARGET * 100, np.ones(50, bool))
    assert 1 / (spread**2).sum() > 20 and np.allclose(spread, sharp, atol=1e-4)


def test_where_nothing_is_allowed_nothing_is_drawn():
    draw = SegmentDraw(VECTORS)
    nobody = np.zeros(50, bool)
    assert draw.draw(TARGET, nobody, np.random.default_rng(0)) is None and not draw.chances(TARGET, nobody).any()
    one = np.arange(50) == 3
    assert draw.draw(TARGET, one, np.random.default_rng(0)) == (3, 1.0)
    single = SegmentDraw(VECTORS[:1])
    assert single.draw(VECTORS[0], np.ones(1, bool), np.random.default_rng(0)) == (0, 1.0)
