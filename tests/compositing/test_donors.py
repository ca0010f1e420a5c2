from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histomix.compositing.donors import CUT_BY_EDGE, TOUCHES_NEIGHBOR, before_turn, cut_donor, donor_flaw
from napari_histomix.compositing.indexed_image import IndexedImage


@pytest.mark.parametrize(
    ("row", "expected"), [(5, CUT_BY_EDGE), (6, CUT_BY_EDGE), (7, None), (56, None), (57, CUT_BY_EDGE)]
)
def test_a_nucleus_within_two_pixels_of_the_edge_cannot_be_a_donor(labeled_image, location, row, expected):
    # Half height 5: the outermost rows are row ± 5; 63 is the image's last one.
    for place in ((row, 30), (30, row)):
        image = labeled_image([(*place, 5, 5, 1)], shape=(64, 64))
        assert donor_flaw(IndexedImage(image), location(image, 1)) == expected


def test_a_touching_nucleus_cannot_be_a_donor(labeled_image, location):
    for col, expected in ((41, TOUCHES_NEIGHBOR), (42, None)):
        image = labeled_image([(30, 30, 5, 5, 1), (30, col, 5, 5, 2)], shape=(64, 64))
        assert donor_flaw(IndexedImage(image), location(image, 1)) == expected


def test_a_neighbor_at_the_corner_only_does_not_touch(labeled_image, location):
    image = labeled_image([(30, 30, 2, 2, 1)], shape=(64, 64))
    image.instances[33, 31] = 2  # next to the tip (32, 30), diagonally
    assert donor_flaw(IndexedImage(image), location(image, 1)) is None


def test_a_donor_is_cut_with_its_surroundings(labeled_image, location):
    image = labeled_image([(60, 50, 5, 7, 1), (80, 60, 5, 5, 2)], shape=(128, 128))
    donor = cut_donor(IndexedImage(image), location(image, 1))
    # 30 pixels are 7.5 µm at 0.25 µm/px.
    assert donor.nucleus.shape == (11 + 60, 15 + 60)
    assert np.array_equal(donor.pixels, image.pixels[25:96, 13:88])
    assert np.array_equal(donor.nucleus, image.instances[25:96, 13:88] == 1)
    assert np.array_equal(donor.surroundings, image.instances[25:96, 13:88] == 0)
    assert donor.corner == (25, 13)


def test_surroundings_end_where_the_image_does(labeled_image, location):
    image = labeled_image([(9, 50, 5, 5, 1)], shape=(40, 64))
    donor = cut_donor(IndexedImage(image), location(image, 1))
    assert donor.nucleus.shape == (40, 64 - 15)
    donor.pixels[:] = 0
    assert image.pixels.any(), "a donor must be a copy"


@given(st.integers(0, 3), st.booleans())
def test_turning_is_lossless_and_keeps_the_parts_together(labeled_image, location, turns, mirrored):
    image = labeled_image([(30, 30, 4, 7, 1)], shape=(64, 64))
    donor = cut_donor(IndexedImage(image), location(image, 1))
    turned = donor.turned(turns, mirrored)
    assert np.array_equal(np.sort(turned.pixels[turned.nucleus], axis=0), np.sort(donor.pixels[donor.nucleus], axis=0))
    back = np.rot90(turned.pixels, -turns)
    assert np.array_equal(back[:, ::-1] if mirrored else back, donor.pixels)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_donor_of_another_scale_is_resampled(labeled_image, location, factor):
    image = labeled_image([(60, 60, 14, 18, 1)], shape=(120, 120), mpp=0.4)
    donor = cut_donor(IndexedImage(image), location(image, 1))
    scaled = donor.at_scale(0.4 / factor)
    assert scaled.nucleus.sum() == pytest.approx(donor.nucleus.sum() * factor**2, rel=0.06)
    assert scaled.mpp == 0.4 / factor
    inside = np.abs(scaled.pixels[scaled.nucleus].mean(axis=0) - donor.pixels[donor.nucleus].mean(axis=0))
    assert inside.max() < 10


def test_a_donor_of_nearly_the_same_scale_keeps_its_pixels(labeled_image, location):
    image = labeled_image([(30, 30, 5, 5, 1)], shape=(64, 64), mpp=0.25)
    donor = cut_donor(IndexedImage(image), location(image, 1))
    assert donor.at_scale(0.252) is donor


@given(st.integers(0, 3), st.booleans(), st.integers(1, 6), st.integers(1, 6))
def test_a_turned_pixel_is_found_where_it_was(labeled_image, location, turns, mirrored, height, width):
    image = labeled_image([(30, 30, 4, 7, 1)], shape=(64, 64))
    places = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    crop = replace(
        cut_donor(IndexedImage(image), location(image, 1)), pixels=places, nucleus=places > 0, surroundings=places > 0
    )
    turned = crop.turned(turns, mirrored).pixels
    for (row, col), value in np.ndenumerate(turned):
        assert places[before_turn(row, col, (height, width), turns, mirrored)] == value
