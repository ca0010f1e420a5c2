from __future__ import annotations

import numpy as np

from napari_histomix.compositing.donors import dilate, layer_one, transition_zone


def mask(drawing: str) -> np.ndarray:
    return np.array([[character == "#" for character in line.strip()] for line in drawing.strip().splitlines()])


NUCLEUS = mask(
    """
    .........
    .........
    .........
    .........
    ....##...
    .........
    .........
    .........
    .........
    """
)


def test_layer_one_is_the_four_neighbor_contour_without_corners():
    expected = mask(
        """
        .........
        .........
        .........
        ....##...
        ...#..#..
        ....##...
        .........
        .........
        .........
        """
    )
    assert np.array_equal(layer_one(NUCLEUS), expected)


def test_transition_zone_is_layers_two_and_three():
    expected = mask(
        """
        .........
        ....##...
        ...####..
        ..##..##.
        .##....##
        ..##..##.
        ...####..
        ....##...
        .........
        """
    )
    assert np.array_equal(transition_zone(NUCLEUS), expected)


def test_nucleus_layer_one_and_transition_zone_tile_its_surroundings():
    parts = [NUCLEUS, layer_one(NUCLEUS), transition_zone(NUCLEUS)]
    assert np.array_equal(sum(part.astype(int) for part in parts), dilate(NUCLEUS, 3).astype(int))


def test_holes_in_a_nucleus_are_filled_inward_too():
    ring = np.zeros((7, 7), bool)
    ring[1:6, 1:6] = True
    ring[3, 3] = False
    assert layer_one(ring)[3, 3]


def test_dilating_by_nothing_copies():
    grown = dilate(NUCLEUS, 0)
    assert np.array_equal(grown, NUCLEUS) and grown is not NUCLEUS
