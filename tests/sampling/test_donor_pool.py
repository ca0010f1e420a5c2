from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.sampling import DonorPool


def pool(features, areas=None, temperature=1.0, area_ratio=(0.4, 1.1)) -> DonorPool:
    features = np.asarray(features, float).reshape(len(features), -1)
    areas = np.full(len(features), 10.0) if areas is None else np.asarray(areas)
    return DonorPool(features, areas, temperature, area_ratio)


def test_the_draw_follows_the_softmax_of_distances():
    counts = np.zeros(3)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        counts[pool([0.0, 1.0, 2.0], temperature=0.5).draw(np.array([0.5]), None, rng)] += 1
    expected = np.exp(-np.array([0.5, 0.5, 1.5]) / 0.5)
    assert counts / 4000 == pytest.approx(expected / expected.sum(), abs=0.025)


def test_each_use_makes_a_donor_less_likely():
    donors = pool([1.0, 2.0])
    rng = np.random.default_rng(0)
    drawn = [donors.draw(np.array([0.0]), None, rng) for _ in range(60)]
    assert donors.weights.sum() == 2 + 60
    assert donors.weights.tolist() == [1 + drawn.count(0), 1 + drawn.count(1)]
    # Twice as far is drawn about half as often once w·D has evened out; without w it would be 27 %, ever on.
    assert drawn.count(1) / 60 == pytest.approx(1 / 3, abs=0.07)
    assert set(drawn[-6:]) == {0, 1}


@pytest.mark.parametrize(
    ("area", "expected"), [(100.0, {1, 2}), (24.9, {0}), (1000.0, None), (1.0, None), (None, {0, 1, 2})]
)
def test_the_size_gate(area, expected):
    # Ratios 0.4 and 1.1 themselves pass: 40 and 110 on 100.
    rng = np.random.default_rng(0)
    drawn = {pool([0.0, 0.0, 0.0], [10.0, 40.0, 110.0]).draw(np.zeros(1), area, rng) for _ in range(100)}
    assert drawn == ({None} if expected is None else expected)


def test_a_refused_draw_counts_no_use():
    donors = pool([0.0], [10.0])
    assert donors.draw(np.zeros(1), 1000.0, np.random.default_rng(0)) is None
    assert donors.weights.tolist() == [1]


def test_a_far_away_target_still_gets_a_donor():
    assert pool([0.0, 1.0], temperature=1e-9).draw(np.array([1e6]), None, np.random.default_rng(0)) == 1
