"""The weighted draw of donors, against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.sampling import DonorDraw, fitting

SINGLE = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
EVERYONE = np.ones(50, bool)


def formula(vectors: np.ndarray, target: np.ndarray, weights: np.ndarray, temperature: float, allowed: np.ndarray):
    """NucleiMix, algorithm 1, line 11, and USegMix, equation 1, with a temperature."""
    heights = np.exp(-weights * np.linalg.norm(vectors.astype(float) - target, axis=1) / temperature) * allowed
    return heights / heights.sum()


@pytest.fixture(params=[np.float32, np.float64])
def vectors(request) -> np.ndarray:
    """Segments of a pool are compared in single precision, surroundings of nuclei in double."""
    return SINGLE.astype(request.param)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 30.0])
def test_chances_are_those_of_the_papers(vectors, temperature):
    draw, target = DonorDraw(vectors, temperature), vectors[7] + 0.1
    allowed = np.arange(50) % 3 > 0
    draw.use(8)
    draw.use(8)
    weights = np.ones(50)
    weights[8] = 3
    chances = draw.chances(target, allowed)
    assert chances.dtype == vectors.dtype
    tolerance = 1e-6 if vectors.dtype == np.float32 else 1e-14
    assert np.allclose(chances, formula(vectors, target, weights, temperature, allowed), atol=tolerance)


def test_draws_follow_the_chances_and_each_use_makes_the_next_less_likely(vectors):
    rng, target = np.random.default_rng(1), vectors[7] + 0.1
    counts = np.zeros(50)
    for _ in range(3000):
        chosen, chance = DonorDraw(vectors, 1.0).draw(target, EVERYONE, rng)
        counts[chosen] += 1
        assert chance == pytest.approx(float(DonorDraw(vectors, 1.0).chances(target, EVERYONE)[chosen]), abs=1e-5)
    expected = 3000 * formula(vectors, target, np.ones(50), 1.0, EVERYONE)
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected.max())
    draw = DonorDraw(vectors, 1.0)
    before = draw.chances(target, EVERYONE)
    chosen, _ = draw.draw(target, EVERYONE, rng)
    assert draw.chances(target, EVERYONE)[chosen] < before[chosen] and draw.weights.sum() == 51


def test_two_donors_are_used_in_proportion_to_their_distances():
    donors = DonorDraw(np.array([[1.0], [2.0]]), 1.0)
    rng = np.random.default_rng(0)
    drawn = [donors.draw(np.array([0.0]), np.ones(2, bool), rng)[0] for _ in range(60)]
    assert donors.weights.tolist() == [1 + drawn.count(0), 1 + drawn.count(1)]
    # Twice as far is drawn about half as often once w·D has evened out; without w it would be 27 %, ever on.
    assert drawn.count(1) / 60 == pytest.approx(1 / 3, abs=0.07)
    assert set(drawn[-6:]) == {0, 1}


def test_without_a_temperature_the_draw_is_spread_over_many(vectors):
    target = vectors[7] + np.array(0.1, vectors.dtype)
    spread = DonorDraw(vectors).chances(target, EVERYONE)
    sharp = DonorDraw(vectors * 100).chances(target * 100, EVERYONE)
    assert 1 / (spread**2).sum() > 20 and np.allclose(spread, sharp, atol=1e-4)


def test_where_nothing_is_allowed_nothing_is_drawn_and_no_use_is_counted(vectors):
    draw, target = DonorDraw(vectors), vectors[7]
    nobody = np.zeros(50, bool)
    assert draw.draw(target, nobody, np.random.default_rng(0)) is None and not draw.chances(target, nobody).any()
    assert draw.weights.sum() == 50
    assert draw.draw(target, np.arange(50) == 3, np.random.default_rng(0)) == (3, 1.0)
    single = DonorDraw(vectors[:1])
    assert single.draw(vectors[0], np.ones(1, bool), np.random.default_rng(0)) == (0, 1.0)
    assert DonorDraw(vectors[:0]).draw(target, np.ones(0, bool), np.random.default_rng(0)) is None


def test_a_far_away_target_still_gets_a_donor():
    draw = DonorDraw(np.array([[0.0], [1.0]]), 1e-9)
    assert draw.draw(np.array([1e6]), np.ones(2, bool), np.random.default_rng(0)) == (1, 1.0)


@pytest.mark.parametrize(("area", "expected"), [(100.0, {1, 2}), (24.9, {0}), (1000.0, set()), (1.0, set())])
def test_the_size_gate(area, expected):
    # Ratios 0.4 and 1.1 themselves pass: 40 and 110 on 100.
    assert set(np.flatnonzero(fitting(np.array([10.0, 40.0, 110.0]), area, (0.4, 1.1))).tolist()) == expected
