from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_histomix.compositing.donors import dilate
from napari_histomix.datasets import open_dataset
from napari_histomix.evaluation.blend_windows import KINDS, SHARE, draw_windows, segment_hole
from napari_histomix.records import drain


@pytest.fixture(scope="module")
def images(labeled_image):
    """Three training images, one of bare glass to its right half, and one of the test split."""
    spots = [(40 + 55 * i, 40 + 50 * j, 8, 7, 1) for i in range(4) for j in range(4)]
    # Two nuclei that nearly touch: neither may get a ring.
    spots += [(230, 230, 8, 7, 1), (230, 247, 8, 7, 2)]
    made = [labeled_image(spots, shape=(300, 300), seed=seed, name=f"i{seed}") for seed in range(2)]
    glass = labeled_image(spots, shape=(300, 300), seed=2, name="i2")
    glass.pixels[:, 150:] = 250 + np.random.default_rng(0).integers(0, 3, (300, 150, 3))
    return [*made, glass, labeled_image(spots, shape=(300, 300), seed=3, name="held", split="test")]


@pytest.fixture(scope="module")
def dataset(images, dataset_folder, tmp_path_factory):
    return open_dataset(dataset_folder(tmp_path_factory.mktemp("windows") / "data", images))


def place(window, images):
    """The image of a window and where it lies in it."""
    (image,) = (one for one in images if one.source.image == window.image)
    side = len(window.hole)
    views = np.lib.stride_tricks.sliding_window_view(image.pixels, (side, side), axis=(0, 1))
    same = (views[:, :, :, 0, :] == window.pixels[0].T).all(axis=(2, 3))
    (at,) = (
        tuple(at) for at in np.argwhere(same) if np.array_equal(views[tuple(at)], window.pixels.transpose(2, 0, 1))
    )
    return image, (slice(at[0], at[0] + side), slice(at[1], at[1] + side))


@pytest.fixture(scope="module")
def drawn(dataset):
    return drain(draw_windows(dataset, KINDS, 8, 0))


def test_only_the_training_split_is_read(drawn):
    windows, pixels = drawn
    assert set(pixels) == {"i0", "i1", "i2"}
    assert {one.image for some in windows.values() for one in some} == set(pixels)
    for some in windows.values():
        assert len(some) == 8
        # Not more than a few from one image.
        assert max(sum(one.image == name for one in some) for name in pixels) <= 4


def test_images_with_synthetic_pixels_are_left_out(dataset):
    entries = tuple(replace(entry, synthetic=True) for entry in dataset.entries)
    windows, images = drain(draw_windows(replace(dataset, entries=entries), KINDS, 4, 0))
    assert not images and not any(windows.values())


def test_a_ring_lies_around_one_nucleus_and_far_from_all_others(drawn, images):
    for window in drawn[0]["ring"]:
        image, box = place(window, images)
        seen = image.instances[box]
        nucleus = seen == window.seed
        assert nucleus.sum() == (image.instances == window.seed).sum() >= 100
        assert np.array_equal(window.hole, dilate(nucleus, 3) & ~dilate(nucleus, 1))
        assert not (seen[dilate(nucleus, 7) & ~nucleus] > 0).any()
        assert not seen[window.hole].any()
        assert window.seed <= 16, "the two that nearly touch"


def test_a_disc_lies_on_free_background(drawn, images):
    for window in drawn[0]["disc"]:
        image, box = place(window, images)
        assert not image.instances[box][dilate(window.hole, 2)].any()
        nucleus = (image.instances == window.seed).sum()
        assert nucleus < window.hole.sum() < 3 * nucleus


def test_a_large_hole_lies_on_tissue_and_keeps_its_share(drawn, images):
    for window in drawn[0]["large"]:
        _, _ = place(window, images)
        assert window.hole.shape == (128, 128)
        assert SHARE[0] <= window.hole.mean() <= SHARE[1]
        assert (window.pixels < 245).all(axis=2).mean() > 0.4, "half of it is tissue"


@pytest.mark.parametrize("seed", range(20))
def test_a_segment_is_one_irregular_blob(seed):
    hole = segment_hole(128, np.random.default_rng(seed))
    assert SHARE[0] <= hole.mean() <= SHARE[1]
    _, count = ndimage.label(hole)
    assert count == 1
    assert not (hole[:8].any() or hole[-8:].any() or hole[:, :8].any() or hole[:, -8:].any())
    rows, cols = np.nonzero(hole)
    circle = np.hypot(*np.ogrid[-64:64, -64:64]) <= np.sqrt(hole.sum() / np.pi)
    moved = np.roll(circle, (round(rows.mean()) - 64, round(cols.mean()) - 64), (0, 1))
    assert (moved ^ hole).sum() > 0.03 * hole.sum(), "a circle is no segment"


def test_the_seed_decides_and_other_kinds_change_nothing(dataset, drawn):
    for kind in KINDS:
        again = drain(draw_windows(dataset, [kind], 8, 0))[0]
        assert list(again) == [kind]
        for one, same in zip(again[kind], drawn[0][kind], strict=True):
            assert np.array_equal(one.pixels, same.pixels) and np.array_equal(one.hole, same.hole)
            assert (one.seed, one.image) == (same.seed, same.image)
        other = drain(draw_windows(dataset, [kind], 8, 1))[0][kind]
        assert not all(np.array_equal(a.pixels, b.pixels) for a, b in zip(other, drawn[0][kind], strict=True))


def test_images_without_room_give_no_windows(labeled_image, dataset_folder, tmp_path):
    folder = dataset_folder(tmp_path / "data", [labeled_image([(15, 15, 8, 7, 1)], shape=(60, 60), name="small")])
    windows, pixels = drain(draw_windows(open_dataset(folder), KINDS, 4, 0))
    assert windows == {kind: [] for kind in KINDS} and set(pixels) == {"small"}
