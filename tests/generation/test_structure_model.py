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
def crowded() -> tuple[Layout, np.ndarray]:
    """A hundred nuclei, every other one of class "a", the later the surer."""
    instances = np.zeros((SIDE, SIDE), np.int32)
    for number in range(100):
        row, col = 10 * (number // 10), 10 * (number % 10)
        instances[row : row + 6, col : col + 6] = number + 1
    semantic = np.where(instances, 0.2 + 0.008 * instances, 0).astype(np.float32)
    classes = {number: "ab"[number % 2] for number in range(1, 101)}
    return Layout(instances, classes, MPP), semantic


def test_the_surest_nuclei_are_left_in_the_numbers_that_are_due(crowded):
    layout, semantic = crowded
    left = thinned(layout, semantic, {"a": 0.75, "b": 0.25}, 20 / AREA, seed=0)
    assert density_of(left) == pytest.approx(20 / AREA) and left.counts() == {"a": 15, "b": 5}
    assert set(left.classes) == {*range(72, 101, 2), *range(91, 101, 2)} == set(instance_ids(left.instances))
    kept = left.instances > 0
    assert np.array_equal(left.instances[kept], layout.instances[kept])


def test_a_share_below_one_nucleus_comes_out_over_many_layouts(crowded):
    counts: Counter[str] = Counter()
    for seed in range(300):
        counts += thinned(*crowded, {"a": 0.97, "b": 0.03}, 10 / AREA, seed).counts()
    assert counts["b"] / counts.total() == pytest.approx(0.03, abs=0.01)


def test_fewer_than_are_due_all_stay_and_none_are_due_without_density(crowded):
    layout, semantic = crowded
    assert thinned(layout, semantic, {"a": 0.5, "b": 0.5}, 1000 / AREA, 0).counts() == {"a": 50, "b": 50}
    assert not thinned(layout, semantic, {"a": 0.5, "b": 0.5}, 0.0, 0).classes


def test_a_rare_class_and_a_density_can_be_asked_of_the_bundled_network():
    shares = {"lymphocyte": 0.9, "tumor": 0.1, "stromal": 0.0}
    job = sample(2, 128, load_generator("", "structure"), [1, 2], shares=shares, density=2000, steps=8, device="cpu")
    layouts = drain(job)
    counts = sum((layout.counts() for layout in layouts), Counter())
    assert counts["lymphocyte"] > 5 * counts["tumor"] and not counts["stromal"]
    assert all(0 < density_of(layout) <= 2300 for layout in layouts)
