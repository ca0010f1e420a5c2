from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_histomix.sampling import (
    at_places,
    background_locations,
    clearance,
    locations_beside,
    nucleus_boxes,
    nucleus_locations,
    numbers_within,
)


def test_nuclei_with_their_centers_areas_and_kinds(labeled_image):
    image = labeled_image([(20, 30, 4, 6, 1), (50, 20, 5, 5, 2), (50, 50, 5, 5, 3)], shape=(70, 70), name="x")
    rare, major = nucleus_locations(image, rare=[1], major=[2])
    assert (rare.image, rare.kind, rare.instance, rare.type) == ("x", "rare", 1, 1)
    assert (rare.row, rare.col) == pytest.approx((20, 30))
    assert rare.area == (image.instances == 1).sum()
    assert (major.kind, major.instance, major.type) == ("major", 2, 2)


def test_ids_may_have_gaps(labeled_image):
    image = labeled_image([(20, 30, 4, 6, 1)], shape=(70, 70))
    image = replace(image, instances=image.instances * 70_000, types={70_000: 1})
    assert [one.instance for one in nucleus_locations(image, [1], [])] == [70_000]


def test_ids_may_be_as_large_as_32_bit_labels_allow(labeled_image):
    image = labeled_image([(20, 30, 4, 6, 1)], shape=(70, 70))
    largest = 2**31 - 2
    image = replace(image, instances=image.instances * largest, types={largest: 1})
    assert [one.instance for one in nucleus_locations(image, [1], [])] == [largest]


@given(st.integers(0, 10_000), st.floats(2, 12))
@settings(max_examples=20, deadline=None)
def test_background_places_are_free_of_nuclei_and_edges_and_on_tissue(labeled_image, seed, radius):
    image = labeled_image(8, shape=(90, 110), seed=seed)
    image.instances[:, 70:], image.pixels[:, 70:] = 0, 250  # glass
    places = background_locations(image, 40, radius, np.random.default_rng(seed))
    distance = ndimage.distance_transform_edt(np.pad(image.instances == 0, 1))[1:-1, 1:-1]
    for one in places:
        assert (one.kind, one.instance, one.type, one.area) == ("background", 0, 0, 0)
        # OpenCV's distances are good to a few percent.
        assert distance[int(one.row), int(one.col)] > 0.95 * radius
        assert one.col < 70 + 8  # the tissue mask is smoothed over 2 µm, 8 pixels
    assert len({(one.row, one.col) for one in places}) == len(places)


def test_background_places_depend_on_the_generator_alone(labeled_image):
    image = labeled_image(8)
    first, again, other = (background_locations(image, 30, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 30


def test_fewer_places_than_asked_for_and_none_at_all(labeled_image):
    image = labeled_image([], shape=(13, 13))
    assert len(background_locations(image, 50, 6.5, np.random.default_rng(0))) == 1
    assert background_locations(image, 50, 8, np.random.default_rng(0)) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_boxes_are_those_of_every_instance(seed, height, width):
    rng = np.random.default_rng(seed)
    ids = np.array([0, 1, 2, 7, 2**31 - 1], np.int32)
    instances = rng.choice(ids, (height, width), p=[0.6, 0.1, 0.1, 0.1, 0.1])
    boxes = nucleus_boxes(instances)
    assert list(boxes) == [one for one in np.unique(instances).tolist() if one]
    for instance, box in boxes.items():
        rows, cols = np.nonzero(instances == instance)
        assert box == (slice(rows.min(), rows.max() + 1), slice(cols.min(), cols.max() + 1))


def test_places_beside_nuclei_are_near_them_and_as_tight_as_asked(labeled_image):
    image = labeled_image([(40, 40, 5, 5, 1), (40, 56, 5, 5, 2)], shape=(90, 110))
    rare = nucleus_locations(image, [1], [])
    clear = clearance(image)
    radii = np.array([3.0, 9.0])
    places = locations_beside(image, rare, 20.0, 400, radii, np.random.default_rng(0), clear)
    assert len({(one.row, one.col) for one in places}) == len(places) > 20
    own = at_places(clear, places)
    assert (own > 3).all()
    assert (own < 9).any()
    assert all(np.hypot(one.row - 40, one.col - 40) <= 21 for one in places)
    assert numbers_within(places, rare, 21.0).tolist() == [1] * len(places)
    assert locations_beside(image, [], 20.0, 400, radii, np.random.default_rng(0), clear) == []
