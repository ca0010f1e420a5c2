from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.sampling import draw_order, effective_sample_size, sharpest_temperature

LIKELIHOODS = st.lists(st.floats(-5000, 100), min_size=2, max_size=60).map(np.array)


def test_the_first_drawn_follow_the_probabilities():
    chances = np.array([0.6, 0.3, 0.1])
    rng = np.random.default_rng(3)
    # Shifted far from zero: only differences of log-likelihoods may count.
    orders = np.array([draw_order(np.log(chances) - 4000, rng) for _ in range(6000)])
    first = np.bincount(orders[:, 0], minlength=3) / len(orders)
    # Three standard errors are 0.02.
    assert first == pytest.approx(chances, abs=0.02)
    # Without replacement: after 0, the others share what is left in proportion.
    second = np.bincount(orders[orders[:, 0] == 0][:, 1], minlength=3) / (orders[:, 0] == 0).sum()
    assert second == pytest.approx([0, 0.75, 0.25], abs=0.025)


@given(LIKELIHOODS, st.integers(0, 99))
def test_every_location_is_drawn_once_and_reproducibly(logits, seed):
    order = draw_order(logits, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(logits)))
    assert np.array_equal(order, draw_order(logits, np.random.default_rng(seed)))


def test_effective_sample_size_of_known_cases():
    assert effective_sample_size(np.zeros(7)) == pytest.approx(7)
    assert effective_sample_size(np.full(7, -5000.0)) == pytest.approx(7)
    assert effective_sample_size(np.array([0.0, -1000.0, -1000.0])) == pytest.approx(1)
    assert effective_sample_size(np.log([0.5, 0.25, 0.25])) == pytest.approx(1 / 0.375)
    assert effective_sample_size(np.array([3.0])) == pytest.approx(1)
    assert effective_sample_size(np.empty(0)) == 0


@given(LIKELIHOODS, st.floats(0.05, 0.9))
@settings(deadline=None)
def test_sharpest_temperature_is_the_lowest_that_is_worth_enough(likelihoods, share):
    wanted = share * len(likelihoods)
    found = sharpest_temperature(likelihoods, wanted)
    assert found >= 1
    assert effective_sample_size(likelihoods / found) >= wanted * (1 - 1e-9)
    if found > 1:
        assert effective_sample_size(likelihoods / (found / 1.01)) < wanted * (1 + 1e-9)


@given(LIKELIHOODS, st.floats(0.05, 0.45), st.floats(0.5, 0.9))
@settings(deadline=None)
def test_more_variety_needs_no_lower_temperature(likelihoods, few, many):
    temperatures = [sharpest_temperature(likelihoods, share * len(likelihoods)) for share in (few, many)]
    assert temperatures[0] <= temperatures[1] * (1 + 1e-3)


def test_likelihoods_that_are_flat_already_stay_as_they_are():
    assert sharpest_temperature(np.zeros(100), 50) == 1.0
