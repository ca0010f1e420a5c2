"""Nuclei structure: what it holds, and that decoding brings the nuclei back, from noisy maps, too."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.datasets import open_dataset
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.structure import boundary_of, class_maps, condition_maps, instances_of, structure_of
from napari_histomix.records import HistomixError
from tests.conftest import paint_image


def quality(truth: np.ndarray, decoded: np.ndarray, min_area: int = 1) -> tuple[float, int, int]:
    """Sum of the IoU of matched nuclei, number of true nuclei, number of decoded ones, by brute force.

    Nuclei of less than ``min_area`` pixels are left out on both sides.
    """
    true_ids, true_areas = np.unique(truth[truth > 0], return_counts=True)
    ids, areas = np.unique(decoded[decoded > 0], return_counts=True)
    size = dict(zip(ids.tolist(), areas.tolist(), strict=True))
    total = 0.0
    for number, area in zip(true_ids.tolist(), true_areas.tolist(), strict=True):
        if area < min_area:
            continue
        over, shared = np.unique(decoded[truth == number], return_counts=True)
        for other, common in zip(over.tolist(), shared.tolist(), strict=True):
            if other and (overlap := common / (area + size[other] - common)) > 0.5:
                total += overlap
    return total, int((true_areas >= min_area).sum()), int((areas >= min_area).sum())


def panoptic_quality(pairs: list[tuple[np.ndarray, np.ndarray]], min_area: int = 1) -> float:
    total, true, decoded = np.sum([quality(*pair, min_area) for pair in pairs], axis=0)
    return float(2 * total / (true + decoded))


def predicted(structure: np.ndarray, blur: float, noise: float, seed: int = 0) -> np.ndarray:
    """Structure as a network may predict it."""
    smooth = np.stack([cv2.GaussianBlur(each, (0, 0), blur) for each in structure]) if blur else structure
    return (smooth + np.random.default_rng(seed).normal(0, noise, smooth.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def consep(shared: Path) -> list[np.ndarray]:
    """Instance maps of real images, cropped so that the tests stay quick."""
    dataset = open_dataset(shared / "data" / "consep-train")
    return [dataset.read(entry.source.image).instances[:320, :320] for entry in dataset.entries[::5]]


def test_halves_of_a_nucleus_are_normalized_apart():
    instances = np.zeros((9, 12), np.int32)
    instances[2:7, 1:4] = 3  # a wide left part
    instances[4, 4:11] = 3  # and a long tail
    semantic, horizontal, vertical = structure_of(instances)
    inside = instances == 3
    assert np.array_equal(semantic, inside)
    assert (horizontal[inside].min(), horizontal[inside].max()) == (-1, 1)
    assert (vertical[inside].min(), vertical[inside].max()) == (-1, 1)
    assert not horizontal[~inside].any() and not vertical[~inside].any()


@given(st.integers(0, 2**31 - 1), st.sampled_from(["rows", "columns", "transposed"]))
@settings(max_examples=10, deadline=None)
def test_a_flipped_map_has_the_flipped_structure_with_its_signs_and_axes_changed(seed: int, how: str):
    instances = paint_image(14, shape=(64, 80), seed=seed, gap=0).instances
    semantic, horizontal, vertical = structure_of(instances)
    if how == "rows":
        turned, expected = instances[::-1], (semantic[::-1], horizontal[::-1], -vertical[::-1])
    elif how == "columns":
        turned, expected = instances[:, ::-1], (semantic[:, ::-1], -horizontal[:, ::-1], vertical[:, ::-1])
    else:
        turned, expected = instances.T, (semantic.T, vertical.T, horizontal.T)
    assert np.allclose(structure_of(np.ascontiguousarray(turned)), expected, atol=1e-6)


def test_real_nuclei_come_back(consep: list[np.ndarray]):
    decoded = [(truth, instances_of(*structure_of(truth))) for truth in consep]
    assert panoptic_quality(decoded) >= 0.99
    assert panoptic_quality(decoded, 30) >= 0.995


def test_real_nuclei_come_back_at_half_the_scale(consep: list[np.ndarray]):
    small = [np.ascontiguousarray(truth[1::2, 1::2]) for truth in consep]
    assert panoptic_quality([(truth, instances_of(*structure_of(truth))) for truth in small]) >= 0.99


@pytest.mark.parametrize(("blur", "noise", "bar"), [(1, 0, 0.96), (0, 0.1, 0.93), (1, 0.1, 0.90), (1, 0.2, 0.85)])
def test_blurred_and_noisy_maps_are_decoded(consep: list[np.ndarray], blur: float, noise: float, bar: float):
    decoded = [(truth, instances_of(*predicted(structure_of(truth), blur, noise))) for truth in consep]
    assert panoptic_quality(decoded) >= bar


def test_touching_nuclei_stay_apart():
    instances = np.zeros((24, 40), np.int32)
    cv2.circle(instances, (12, 12), 7, 5, -1)
    other = np.zeros(instances.shape, np.uint8)
    cv2.circle(other, (26, 12), 7, 1, -1)
    instances[(other > 0) & (instances == 0)] = 2
    for maps in (structure_of(instances), predicted(structure_of(instances), 1, 0.05)):
        assert np.unique(instances_of(*maps)).tolist() == [0, 1, 2]


def test_nuclei_that_are_too_small_are_dropped_and_others_of_three_pixels_are_not():
    instances = np.zeros((16, 16), np.int32)
    instances[3, 3:6] = 1
    instances[8:12, 8:12] = 2
    maps = structure_of(instances)
    assert np.unique(instances_of(*maps)).tolist() == [0, 1]
    assert np.unique(instances_of(*maps, min_area=3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (8, 8)])
def test_maps_without_nuclei_and_thin_ones_come_back(shape: tuple[int, int]):
    empty = np.zeros(shape, np.int32)
    assert not structure_of(empty).any()
    assert not instances_of(*structure_of(empty)).any()
    full = np.ones(shape, np.int32)
    assert np.array_equal(instances_of(*structure_of(full), min_area=1), full)


def test_maps_of_different_shapes_end_in_a_sentence():
    with pytest.raises(HistomixError, match="all of one shape"):
        instances_of(np.zeros((4, 4), np.float32), np.zeros((4, 5), np.float32), np.zeros((4, 4), np.float32))


def test_ids_may_be_as_large_as_32_bits_allow():
    instances = np.zeros((10, 20), np.int32)
    instances[2:8, 2:8], instances[2:8, 8:14] = 2**31 - 1, 4
    assert len(np.unique(instances_of(*structure_of(instances)))) == 3
    assert class_maps(instances, {2**31 - 1: "b", 4: "a"}, ["a", "b"])[1].sum() == 36


def test_the_boundary_lies_where_nuclei_meet_and_end_but_not_at_the_border():
    instances = np.zeros((4, 8), np.int32)
    instances[:3, :3], instances[:3, 3:6] = 1, 2
    assert boundary_of(instances).astype(int).tolist() == [
        [0, 0, 1, 1, 0, 1, 0, 0],
        [0, 0, 1, 1, 0, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_condition_maps_have_the_order_that_networks_rely_on():
    instances = np.zeros((6, 8), np.int32)
    instances[1:4, 1:4], instances[1:4, 5:7], instances[5, 5] = 3, 7, 9
    layout = Layout(instances, {3: "tumor", 7: "", 9: "lymphocyte"}, 0.5)
    ignore = instances == 7
    maps = condition_maps(layout, ["lymphocyte", "tumor", "stromal"], ignore)
    assert maps.shape == (9, 6, 8) and maps.dtype == np.float32
    assert np.array_equal(maps[0], instances > 0)
    assert np.array_equal(maps[1], instances == 9) and np.array_equal(maps[2], instances == 3) and not maps[3].any()
    assert np.array_equal(maps[4:6], structure_of(instances)[1:])
    assert np.array_equal(maps[6], boundary_of(instances))
    assert np.array_equal(maps[7], ignore) and (maps[8] == 1).all()
    assert not condition_maps(layout, ["tumor"], ignore, present=False).any()
