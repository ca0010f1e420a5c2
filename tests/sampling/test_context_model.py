from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.records import HistomixError
from napari_histomix.sampling import ContextModel


def clouds(rare: int, others: int, dimension: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    near = rng.normal(3, 1, (rare, dimension))
    return near, np.concatenate([near, rng.normal(0, 1, (others, dimension))])


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_rare_like_surroundings_score_higher_whatever_the_number_of_rare_nuclei(rare, seed):
    near, everything = clouds(rare, 200, seed=seed)
    model = ContextModel.fit(near, everything, components=6)
    scores = model.score_samples(model.transform(everything))
    assert np.isfinite(scores).all()
    like, unlike = np.random.default_rng(seed).normal(3, 1, (50, 20)), everything[rare:]
    assert model.score_samples(model.transform(like)).mean() > model.score_samples(model.transform(unlike)).mean()


def test_few_rare_nuclei_give_a_diagonal_many_a_full_covariance():
    for rare, full in ((59, False), (60, True)):
        near, everything = clouds(rare, 100)
        near[:, 0] = near[:, 1]
        model = ContextModel.fit(near, everything, components=6)
        off_diagonal = model.covariance - np.diag(np.diag(model.covariance))
        assert bool(np.abs(off_diagonal).max() > 1e-6) is full


def test_a_single_rare_nucleus_gives_a_density_of_the_width_of_all_surroundings():
    near, everything = clouds(1, 100)
    model = ContextModel.fit(near, everything, components=4)
    assert model.mean == pytest.approx(model.transform(near)[0])
    spread = np.diag(model.covariance) / model.transform(everything).var(axis=0)
    assert spread == pytest.approx(np.full(4, 0.8), rel=1e-3)  # 4 pseudo-observations of 4 + 1


def test_percentile_is_the_share_of_rare_surroundings_at_or_below():
    near, everything = clouds(50, 100)
    model = ContextModel.fit(near, everything, components=5)
    own = model.score_samples(model.transform(near))
    assert np.sort(model.percentile(own)) == pytest.approx(np.arange(1, 51) * 2)
    assert model.percentile(np.array([own.min() - 1, own.max() + 1])).tolist() == [0, 100]


def test_never_more_components_than_the_data_has():
    near, everything = clouds(2, 3, dimension=3)
    assert ContextModel.fit(near, everything).mean.size == 3
    assert ContextModel.fit(near, everything[:3]).mean.size == 2


def test_surroundings_that_are_all_the_same():
    same = np.ones((12, 5))
    model = ContextModel.fit(same[:3], same)
    scores = model.score_samples(model.transform(same))
    assert np.isfinite(scores).all() and np.ptp(scores) == 0


def test_components_of_the_rare_only_as_published():
    near, everything = clouds(40, 100)
    # A direction in which the rare do not vary is no component of theirs, but the first of all surroundings.
    near[:, 0] = 3
    everything[:40, 0], everything[40:, 0] = 3, 50 * everything[40:, 0]
    rare_only = ContextModel.fit(near, everything, components=3, pca_on_rare=True)
    assert np.abs(rare_only.pca.components_[:, 0]).max() < 1e-9
    assert np.abs(ContextModel.fit(near, everything, components=3).pca.components_[:, 0]).max() > 0.1
    # One nucleus has no directions of its own.
    assert ContextModel.fit(near[:1], everything, components=3, pca_on_rare=True).mean.size == 3


def test_no_location_is_no_score():
    near, everything = clouds(3, 10)
    model = ContextModel.fit(near, everything)
    assert model.transform(np.empty((0, 20))).shape == (0, model.mean.size)
    assert model.score_samples(np.empty((0, model.mean.size))).shape == (0,)


def test_nothing_to_learn_from_is_said():
    near, everything = clouds(3, 10)
    with pytest.raises(HistomixError, match="no rare nucleus"):
        ContextModel.fit(near[:0], everything)
    with pytest.raises(HistomixError, match="too few"):
        ContextModel.fit(near[:1], everything[:1])
