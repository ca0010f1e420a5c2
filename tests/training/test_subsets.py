from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.generation.layout import Layout
from napari_histomix.records import HistomixError, drain
from napari_histomix.training.labeled_windows import LabeledPicture
from napari_histomix.training.settings import LabeledSettings
from napari_histomix.training.subsets import nearest_to_centers, typical_tiles


@pytest.fixture(scope="module")
def groups() -> np.ndarray:
    """Ten points around each of six centers far apart; the first of each lies nearest to it."""
    rng = np.random.default_rng(0)
    centers = 100 * np.eye(6)
    return np.concatenate([center + np.arange(10)[:, None] * rng.choice([-0.5, 0.5], (10, 6)) for center in centers])


def test_each_group_gives_its_share_of_those_nearest_to_its_center(groups):
    assert len(nearest_to_centers(groups, 0.1)) == 6
    chosen = np.array(nearest_to_centers(groups, 0.5))
    assert np.bincount(chosen // 10).tolist() == [5] * 6
    assert nearest_to_centers(groups, 1.0) == list(range(60))


def test_a_smaller_share_is_part_of_a_larger_one_and_chosen_again_the_same(groups):
    shares = [set(nearest_to_centers(groups, share)) for share in (0.1, 0.2, 0.5)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[1] == set(nearest_to_centers(groups, 0.2))


@pytest.fixture
def picture() -> LabeledPicture:
    """One of 500 × 300 pixels: nuclei of two classes, one of them in the left half alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    instances = np.zeros((300, 500), np.int32)
    instances[10:20, 10:20], instances[280:290, 480:490] = 1, 2
    layout = Layout(instances, {1: "tumor", 2: "stromal"}, 0.5, "a")
    return LabeledPicture("a", "data", "p", pixels, pixels, layout, np.zeros((300, 500), bool))


def test_tiles_are_cut_with_their_labels(picture):
    tiles = drain(typical_tiles([picture], LabeledSettings(share=99)))
    assert [tile.name for tile in tiles] == [f"a, {row} {col}" for row in (0, 44) for col in (0, 128, 244)]
    assert all(tile.size == (256, 256) == tile.ignored.shape and tile.pixels() is picture.given for tile in tiles)
    assert tiles[0].layout.classes == {1: "tumor"} and tiles[-1].layout.classes == {2: "stromal"}
    assert np.array_equal(tiles[-1].scaled, picture.scaled[44:, 244:])
    assert np.array_equal(tiles[-1].layout.instances, picture.layout.instances[44:, 244:])


def test_all_of_it_is_the_pictures_themselves(picture):
    assert drain(typical_tiles([picture], LabeledSettings())) == [picture]


def test_too_small_a_share_is_one_sentence(picture):
    small = picture.layout.instances[:100, :100]
    layout = Layout(small, {1: "tumor"}, 0.5, "a")
    cut = LabeledPicture("a", "data", "p", picture.given, picture.scaled[:100, :100], layout, small > 9)
    with pytest.raises(HistomixError, match="take a larger share"):
        drain(typical_tiles([cut], LabeledSettings(share=10)))
