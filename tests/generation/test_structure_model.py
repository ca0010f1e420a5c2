"""Layouts that a network draws hold what was asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.structure_model import density_of, sample, thinned
from napari_histomix.records import drain, instance_ids

SIDE, MPP = 100, 0.5
AREA = (SIDE * MPP / 1000) ** 2


@pytest.fixture
def crowded() -> Layout:
    """A hundred nuclei, every other one of class "a"; those of the upper half lie twice as near to each other."""
    instances = np.zeros((SIDE, SIDE), np.int32)
    for number in range(100):
        row, col = divmod(number, 10)
        top, left = (5 * row, 5 * col) if number < 50 else (10 * row, 10 * col)
        instances[top : top + 4, left : left + 4] = number + 1
    return Layout(instances, {number: "ab"[number % 2] for number in range(1, 101)}, MPP)


def test_the_most_crowded_nuclei_are_left_in_the_numbers_that_are_due(crowded):
    left = thinned(crowded, {"a": 0.75, "b": 0.25}, 20 / AREA, seed=0)
    assert density_of(left) == pytest.approx(20 / AREA) and left.counts() == {"a": 15, "b": 5}
    assert set(left.classes) == set(instance_ids(left.instances)) <= set(range(1, 51))
    kept = left.instances > 0
    assert np.array_equal(left.instances[kept], crowded.instances[kept])


def test_among_equally_crowded_nuclei_no_place_is_preferred(crowded):
    rows = [np.argwhere(thinned(crowded, {"a": 1.0}, 10 / AREA, seed).instances)[:, 0].mean() for seed in range(50)]
    assert np.mean(rows) == pytest.approx(np.argwhere(crowded.instances[:25])[:, 0].mean(), abs=2)


def test_a_share_below_one_nucleus_comes_out_over_many_layouts(crowded):
    counts: Counter[str] = Counter()
    for seed in range(300):
        counts += thinned(crowded, {"a": 0.97, "b": 0.03}, 10 / AREA, seed).counts()
    assert counts["b"] / counts.total() == pytest.approx(0.03, abs=0.01)


def test_fewer_than_are_due_all_stay_and_none_are_due_without_density(crowded):
    assert thinned(crowded, {"a": 0.5, "b": 0.5}, 1000 / AREA, 0).counts() == {"a": 50, "b": 50}
    assert not thinned(crowded, {"a": 0.5, "b": 0.5}, 0.0, 0).classes


@pytest.mark.parametrize("nuclei", [0, 1])
def test_a_layout_of_one_nucleus_or_none_stays(nuclei, crowded):
    instances = np.where(crowded.instances == 1, nuclei, 0).astype(np.int32)
    layout = Layout(instances, dict.fromkeys(range(1, nuclei + 1), "a"), MPP)
    assert thinned(layout, {"a": 1.0}, 20 / AREA, 0).counts() == Counter({"a": nuclei} if nuclei else {})


def test_a_rare_class_and_a_density_can_be_asked_of_the_bundled_network():
    shares = {"lymphocyte": 0.9, "tumor": 0.1, "stromal": 0.0}
    job = sample(2, 128, load_generator("", "structure"), [1, 2], shares=shares, density=2000, steps=8, device="cpu")
    layouts = drain(job)
    counts = sum((layout.counts() for layout in layouts), Counter())
    assert counts["lymphocyte"] > 5 * counts["tumor"] and not counts["stromal"]
    assert all(0 < density_of(layout) <= 2300 for layout in layouts)
