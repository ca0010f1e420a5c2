from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import multivariate_normal

from napari_histomix.place_scores import (
    FOLDS,
    DensityRatio,
    Pairs,
    balanced,
    calibrated,
    cross_fit,
    fit_ratio,
    fold_numbers,
)
from napari_histomix.records import HistomixError, drain
from napari_histomix.sampling import effective_sample_size


def test_the_ratio_of_two_gaussians_is_found():
    rng = np.random.default_rng(0)
    shift = np.array([1.5, -1.0, 0.0])
    rare, others = rng.normal(shift, 1, (2000, 3)), rng.normal(0, 1, (20000, 3))
    places = rng.normal(0, 1, (200, 3))
    true = multivariate_normal(shift).logpdf(places) - multivariate_normal(np.zeros(3)).logpdf(places)
    assert DensityRatio.fit(rare, others).score_samples(places) == pytest.approx(true, abs=0.3)


def test_a_single_rare_nucleus_hardly_moves_it_and_a_constant_feature_not_at_all():
    rng = np.random.default_rng(0)
    others = np.c_[rng.normal(0, 1, (500, 20)), np.full(500, 7.0)]
    rare = np.c_[np.full((1, 20), 3.0), [[7.0]]]
    model = DensityRatio.fit(rare, others)
    assert model.coefficients[-1] == pytest.approx(0, abs=1e-9)
    assert np.abs(model.score_samples(others)).max() < np.log(500)
    assert model.score_samples(rare)[0] > np.quantile(model.score_samples(others), 0.99)
    assert model.score_samples(rare[:0]).shape == (0,)


def test_nothing_to_compare_is_one_sentence():
    with pytest.raises(HistomixError, match="no rare nuclei, or no other places"):
        DensityRatio.fit(np.zeros((0, 2)), np.zeros((3, 2)))
    with pytest.raises(HistomixError, match="Fewer than two rare nuclei"):
        fold_numbers(np.array([True, False]), ["a", "b"])


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_folds_are_of_whole_groups_and_leave_rare_nuclei_elsewhere(counts, seed):
    rng = np.random.default_rng(seed)
    groups = [name for name, count in enumerate(counts) for _ in range(count + 3)]
    rare = np.array([number < count for count in counts for number in range(count + 3)])
    order = rng.permutation(len(rare))
    rare, names = rare[order], [f"image {groups[place]}" for place in order]
    if rare.sum() < 2:
        return
    folds = fold_numbers(rare, names)
    assert folds.max() < FOLDS
    for fold in np.unique(folds):
        assert rare[folds != fold].any()
    if sum(count > 0 for count in counts) > 1:
        assert all(
            len({fold for fold, other in zip(folds, names, strict=True) if other == name}) == 1 for name in names
        )


def test_no_place_is_scored_by_a_model_that_learned_from_it_or_its_group():
    features = np.arange(40.0)[:, None]
    rare = np.arange(40) % 4 == 0
    groups = [f"patient {number // 8}" for number in range(40)]
    folds = fold_numbers(rare, groups)
    learned = []

    def fit(own, others):
        seen = {int(value) for value in np.concatenate([own, others])[:, 0]}
        learned.append(seen)

        def score(held):
            assert not {number // 8 for number in seen} & {int(value) // 8 for value in held[:, 0]}
            return held[:, 0]

        return score

    assert drain(cross_fit(features, rare, folds, fit)).tolist() == features[:, 0].tolist()
    assert len(learned) == 5 and all(learned)


def test_calibration_bounds_what_rises_where_nothing_was_seen():
    rng = np.random.default_rng(0)
    rare = np.arange(20500) < 500
    scores = np.where(rare, rng.normal(2, 1, 20500), rng.normal(0, 1, 20500))
    scores[-200:] = 40.0
    true = 2 * scores - 2
    ratios = calibrated(scores, rare)
    assert ratios.max() < 3.5, "two hundred odd places are no more rare-like than what rare places show"
    inside = np.abs(scores) < 1.5
    assert np.abs(ratios - true)[inside].mean() < 0.6
    assert (np.diff(ratios[np.argsort(scores)]) >= 0).all()
    assert np.isfinite(calibrated(np.zeros(30), np.arange(30) < 12)).all()


def test_scores_that_tell_nothing_give_ratios_near_one():
    rng = np.random.default_rng(3)
    rare = np.arange(4000) < 400
    ratios = calibrated(rng.normal(size=4000), rare)
    assert np.median(np.abs(ratios)) < 0.3


class TestPairs:
    def test_auc_over_all_images_and_within_them(self):
        # Image b scores higher as a whole; within each image the order is by chance in a and right in b.
        scores = np.array([0.0, 0.0, 5.0, 4.0])
        found = Pairs.of(scores, np.array([True, False, True, False]), ["a", "a", "b", "b"]).separability()
        assert found == (0.625, 0.75)

    @given(st.integers(0, 999))
    @settings(max_examples=20, deadline=None)
    def test_it_is_the_share_of_pairs_in_the_right_order(self, seed):
        rng = np.random.default_rng(seed)
        scores, rare = rng.integers(0, 5, 30).astype(float), rng.random(30) < 0.4
        rare[:2] = True, False
        images = np.array([f"i{number}" for number in rng.integers(0, 4, 30)])

        def plain(chosen):
            own, others = scores[chosen & rare], scores[chosen & ~rare]
            wins = (own[:, None] > others) + 0.5 * (own[:, None] == others)
            return wins.mean() if wins.size else None

        pairs = Pairs.of(scores, rare, images.tolist())
        assert pairs.separability().pooled == pytest.approx(plain(np.ones(30, bool)))
        parts = [(plain(images == name), (rare & (images == name)).sum()) for name in np.unique(images)]
        parts = [part for part in parts if part[0] is not None]
        within = pairs.separability().within
        assert (within is None) == (not parts)
        if parts:
            values, weights = zip(*parts, strict=True)
            assert within == pytest.approx(np.average(values, weights=[max(weight, 1e-12) for weight in weights]))


def test_a_planted_difference_is_found_and_shuffled_labels_are_not():
    rng = np.random.default_rng(0)
    rare, images = np.arange(600) % 6 == 0, [f"image {number % 8}" for number in range(600)]
    features = rng.normal(size=(600, 10))
    features[rare, 0] += 3

    def found(truth):
        folds = fold_numbers(truth, images)
        return Pairs.of(drain(cross_fit(features, truth, folds, fit_ratio)), truth, images).separability()

    assert min(found(rare)) > 0.95
    assert abs(found(rng.permutation(rare)).pooled - 0.5) < 0.12


def test_a_balanced_draw_has_the_surroundings_of_rare_places_on_the_mean():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5000, 3))
    rare = rng.normal([1.0, 0.0, -0.5], [0.7, 1.0, 1.0], size=(300, 3))
    flat = np.zeros(len(features))
    chances = softmax(balanced(flat, features, rare))
    assert chances @ features == pytest.approx(rare.mean(axis=0), abs=0.12)
    # No more is changed than that takes: what tells nothing of rare places stays as it was.
    alike = balanced(flat, features, features[:300])
    assert effective_sample_size(alike) > 0.95 * len(features)


def test_one_odd_place_does_not_take_a_balanced_draw():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(2000, 2))
    features[0] = 1e6
    rare = rng.normal(1.0, 0.7, size=(50, 2))
    chances = softmax(balanced(np.zeros(2000), features, rare))
    assert chances[0] <= chances[1:].max()
