from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from napari_histomix.compositing.donors import cut_donor
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.jpeg_grid import BLOCK, Grid, find_grid, onto_grid
from napari_histomix.compositing.planning import pose_donor


def compressed(pixels: np.ndarray, quality: int = 60) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (7, 1)])
def test_the_grid_of_a_crop_of_a_compressed_image_is_found(labeled_image, corner):
    pixels = compressed(labeled_image(20, shape=(160, 200)).pixels)
    row, col = corner
    assert find_grid(pixels[row:, col:]) == Grid(-row % BLOCK, -col % BLOCK)


def test_an_image_that_was_never_compressed_has_none(labeled_image):
    assert find_grid(labeled_image(20, shape=(160, 200)).pixels) is None
    assert find_grid(np.full((64, 64, 3), 200, np.uint8)) is None
    assert find_grid(np.zeros((8, 8, 3), np.uint8)) is None


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_a_turned_grid_is_the_grid_of_what_was_turned(labeled_image, turns, mirrored):
    pixels = compressed(labeled_image(20, shape=(163, 206)).pixels)[3:, 5:]
    grid = find_grid(pixels)
    assert grid is not None
    turned = np.rot90(pixels[:, ::-1] if mirrored else pixels, turns)
    assert grid.turned(pixels.shape[:2], turns, mirrored) == find_grid(np.ascontiguousarray(turned))


def test_a_donor_is_moved_by_half_a_block_at_most():
    for place in range(20):
        for own in range(BLOCK):
            for other in range(BLOCK):
                moved = onto_grid(place, own, other)
                assert (moved + own - other) % BLOCK == 0
                assert -4 <= moved - place < 4


@pytest.mark.parametrize("seed", range(8))
def test_a_posed_donor_lies_on_the_grid_of_the_target(labeled_image, location, seed):
    giver = labeled_image([(60, 70, 6, 4, 1)], shape=(150, 170), seed=3, name="giver")
    giver.pixels[:] = compressed(giver.pixels)
    crop = cut_donor(IndexedImage(giver), location(giver, 1))
    place = location(giver, 0, 90, 40)
    own = find_grid(giver.pixels)
    posed = pose_donor(crop, 0.25, place, seed, True, Grid(2, 5))
    free = pose_donor(crop, 0.25, place, seed, True)
    facts = posed.facts
    there = own.moved(*crop.corner).turned(crop.nucleus.shape, facts["quarter_turns"], facts["mirrored"])
    assert ((there.row + posed.row) % BLOCK, (there.col + posed.col) % BLOCK) == (2, 5)
    assert max(abs(posed.row - free.row), abs(posed.col - free.col)) <= 4
