"""Figures of a reader test against scikit-learn, against formulas written out, and against chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from napari_histomix.evaluation.figures import FEWEST, LEAST, auc, auc_of_counts, cohen_kappa, fleiss_kappa, share


def four_steps(rng: np.random.Generator, synthetic: np.ndarray, skill: float) -> np.ndarray:
    """Answers of a reader: a normal score, higher by ``skill`` for synthetic crops, cut into four steps."""
    return 1 + np.digitize(rng.standard_normal(len(synthetic)) + skill * synthetic, [-0.5, 0.4, 1.2])


def delong_by_hand(answers: np.ndarray, synthetic: np.ndarray) -> float:
    """Standard error by DeLong's formula, each pair of crops compared."""
    x, y = answers[synthetic], answers[~synthetic]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return float(np.sqrt(wins.mean(axis=1).var(ddof=1) / len(x) + wins.mean(axis=0).var(ddof=1) / len(y)))


def test_a_share_has_wilsons_interval():
    # Newcombe, Stat. Med. 17, 1998, table I, method 3: 81 of 263, and 0 of 20.
    one, none = share(81, 263), share(0, 20)
    assert (round(one.low, 4), round(one.high, 4)) == (0.2553, 0.3662)
    assert (round(none.low, 4), round(none.high, 4)) == (0.0, 0.1611)
    assert share(0, 0).value is None


def test_the_auc_is_the_share_of_pairs_in_the_right_order_and_its_interval_delongs():
    rng = np.random.default_rng(0)
    synthetic = rng.random(80) < 0.4
    answers = four_steps(rng, synthetic, 1.0)
    alone = auc(answers, synthetic, [str(number) for number in range(80)])
    assert alone.value == pytest.approx(roc_auc_score(synthetic, answers), abs=1e-12)
    error = delong_by_hand(answers, synthetic)
    assert alone.high - alone.value == pytest.approx(1.959964 * error, rel=1e-9)
    counts = [
        np.array([(answers[kind] == step).sum() for step in range(1, 5)], float) for kind in (synthetic, ~synthetic)
    ]
    assert float(auc_of_counts(*counts)) == pytest.approx(alone.value, abs=1e-12)


def test_seeing_every_crop_twice_makes_no_interval_narrower():
    rng = np.random.default_rng(1)
    synthetic = np.arange(60) % 2 == 0
    answers = four_steps(rng, synthetic, 0.8)
    names = [str(number) for number in range(60)]
    once = auc(answers, synthetic, names)
    twice, twins = np.repeat(answers, 2), np.repeat(synthetic, 2)
    known = auc(twice, twins, np.repeat(names, 2).tolist())
    unknown = auc(twice, twins, [str(number) for number in range(120)])
    width = once.high - once.low
    assert known.high - known.low == pytest.approx(width, rel=0.02)
    assert unknown.high - unknown.low == pytest.approx(width / np.sqrt(2), rel=0.02)
    one, other = answers > 2, four_steps(rng, synthetic, 0.8) > 2
    kappas = [
        cohen_kappa(one, other, names),
        cohen_kappa(np.repeat(one, 2), np.repeat(other, 2), np.repeat(names, 2).tolist()),
    ]
    assert kappas[0].value == pytest.approx(kappas[1].value)
    assert (kappas[0].low, kappas[0].high) == pytest.approx((kappas[1].low, kappas[1].high))


def test_the_interval_of_the_auc_holds_what_it_promises():
    """Crops of 20 patients, who differ: the true AUC lies in about 95 of 100 intervals."""
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(20), 6)
    synthetic = np.tile([True, False], 60)
    inside, alone = 0, 0
    for _ in range(400):
        # The patient's own look shifts all of its crops' scores, real and synthetic ones alike.
        shift = rng.standard_normal(20)[patients]
        scores = rng.standard_normal(120) + shift + 1.2 * synthetic
        found = auc(scores, synthetic, patients.astype(str).tolist())
        # P(X > Y) of normal scores: their difference has mean 1.2 and variance 4 between patients.
        inside += found.low <= 0.7257 <= found.high
        alone += found.value is None
    assert alone == 0 and 0.91 < inside / 400 < 0.99


@pytest.mark.parametrize("seed", range(3))
def test_cohens_kappa_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    one = rng.random(50) < 0.6
    other = np.where(rng.random(50) < 0.7, one, ~one)
    found = cohen_kappa(one, other, [str(number) for number in range(50)])
    assert found.value == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
    assert found.low < found.value < found.high and found.count == 50


def test_fleiss_kappa_is_the_formula_of_the_paper():
    # Four crops, three readers; yes votes 3, 2, 0, 1 of 3: P = 1, 1/3, 1, 1/3, mean 2/3; share of yes 1/2, chance 1/2.
    called = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1]], bool)
    found = fleiss_kappa(np.repeat(called, 5, axis=0), [str(number) for number in range(20)])
    assert found.value == pytest.approx(1 / 3, abs=1e-12)
    assert found.low < 1 / 3 < found.high
    # Two readers: Scott's pi, from their common shares.
    rng = np.random.default_rng(0)
    pair = rng.random((40, 2)) < 0.5
    agreed, yes = float((pair[:, 0] == pair[:, 1]).mean()), float(pair.mean())
    chance = yes**2 + (1 - yes) ** 2
    assert fleiss_kappa(pair, [str(number) for number in range(40)]).value == pytest.approx(
        (agreed - chance) / (1 - chance)
    )


def test_readers_who_guess_do_not_agree_beyond_chance():
    rng = np.random.default_rng(3)
    names = [str(number) for number in range(60)]
    found = [cohen_kappa(rng.random(60) < 0.5, rng.random(60) < 0.5, names) for _ in range(100)]
    assert abs(np.mean([one.value for one in found])) < 0.05
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.88


def test_too_little_gives_no_number_and_no_interval():
    rng = np.random.default_rng(4)
    synthetic = np.arange(40) % 2 == 0
    answers = four_steps(rng, synthetic, 1.0)
    few = auc(answers[: 2 * LEAST - 1], synthetic[: 2 * LEAST - 1], [str(number) for number in range(2 * LEAST - 1)])
    assert few.value is None and few.low is None
    patients = [str(number % (FEWEST - 1)) for number in range(40)]
    assert auc(answers, synthetic, patients).value is not None and auc(answers, synthetic, patients).low is None
    assert cohen_kappa(answers > 2, synthetic, patients).low is None
    # A reader without an error: 1, but nobody knows how surely.
    names = [str(number) for number in range(40)]
    perfect = auc(np.where(synthetic, 4, 1), synthetic, names)
    assert (perfect.value, perfect.low, perfect.high) == (1.0, None, None)
    # Two readers who call everything synthetic: chance alone makes them agree.
    always = np.ones(40, bool)
    assert cohen_kappa(always, always, names).value is None
    assert fleiss_kappa(np.ones((40, 3), bool), names).value is None
    assert cohen_kappa(np.empty(0, bool), np.empty(0, bool), []).value is None
