"""Layouts recombined from real maps and edited by hand: nothing overlaps, nothing else changes, bad input is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layout_board import Board, turned_pixels
from napari_histomix.generation.layouts import (
    LayoutSettings,
    Recombiner,
    layout_statistics,
    moved,
    reclassed,
    recombine,
    turned,
    with_nucleus,
    without,
)
from napari_histomix.records import HistomixError, LabeledImage, Source
from tests.conftest import CLASSES, COMMON, RARE, paint_image

IMAGES = [paint_image(20, shape=(160, 180), seed=seed, name=f"image {seed}", rare=4, gap=1) for seed in range(3)]
SMALL = LayoutSettings(side=96)
STILL = {"moved": 0.0, "turned": 0.0, "swapped": 0.0}


def image_of(instances: np.ndarray, kind: int = COMMON, **changes: object) -> LabeledImage:
    types = {number: kind for number in np.unique(instances).tolist() if number}
    pixels = np.zeros((*instances.shape, 3), np.uint8)
    return replace(LabeledImage(pixels, instances, types, 0.5, Source("made up", "own")), **changes)


def square(row: int, col: int, side: int = 5, shape: tuple[int, int] = (32, 40)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[row : row + side, col : col + side] = True
    return mask


@pytest.fixture
def pair() -> Layout:
    """A tumor nucleus (1) and a lymphocyte (2) four pixels to its right."""
    empty = Layout(np.zeros((32, 40), np.int32), {}, 0.5)
    return with_nucleus(with_nucleus(empty, square(10, 6), "tumor"), square(10, 15), "lymphocyte")


@given(st.integers(0, 2**31 - 1), st.sampled_from([(), ("rare",), ("rare", "other")]))
@settings(max_examples=15, deadline=None)
def test_layouts_are_of_whole_nuclei_with_their_classes(seed: int, raised: tuple[str, ...]):
    images = [*IMAGES, paint_image([(40, 40, 6, 4, 3)], shape=(100, 100), name="with another")]
    layout = recombine(images, CLASSES, replace(SMALL, raised=raised, moved=1, turned=1, swapped=1), seed)
    assert layout.shape == (96, 96) and layout.mpp == 0.25 and layout.source
    assert {*np.unique(layout.instances).tolist()} - {0} == {*layout.classes}
    for number in layout.classes:
        # A window may cut one nucleus into two, at its border only.
        parts, count = ndimage.label(np.pad(layout.instances == number, 1))
        assert count == 1 or parts[[1, -2]].any() or parts[:, [1, -2]].any()
    assert layout.source not in layout.donors and {*layout.donors} <= {image.source.image for image in images}


def test_the_same_seed_gives_the_same_layout_and_others_another():
    several = Recombiner(IMAGES, CLASSES)
    layouts = [several.layout(SMALL, seed) for seed in (5, 6, 5)]
    alone = recombine(IMAGES, CLASSES, SMALL, 5)
    assert np.array_equal(layouts[0].instances, alone.instances) and layouts[0].classes == alone.classes
    assert np.array_equal(layouts[0].instances, layouts[2].instances)
    assert not np.array_equal(layouts[0].instances, layouts[1].instances)


def test_a_large_nucleus_is_not_laid_around_a_small_one():
    board = Board(with_nucleus(Layout(np.zeros((32, 40), np.int32), {}, 0.5), square(15, 15, 3), "tumor"))
    assert not board.lay(2, np.argwhere(square(8, 8, 16)), 0.1)
    assert board.lay(2, np.argwhere(square(2, 8, 14)), 0.1)


def test_a_layout_in_which_nothing_changes_is_a_window_of_a_real_map():
    layout = recombine(IMAGES[:1], CLASSES, replace(SMALL, **STILL), 3)
    real = IMAGES[0].instances > 0
    windows = [np.rot90(view, turns) for view in (real, real[:, ::-1]) for turns in range(4)]
    assert any(
        (np.lib.stride_tricks.sliding_window_view(view, (96, 96)) == (layout.instances > 0)).all(axis=(2, 3)).any()
        for view in windows
    )
    assert layout.source == "image 0" and layout.donors == ()


def test_moving_turning_and_swapping_change_most_nuclei_and_keep_their_classes():
    several = Recombiner(IMAGES, CLASSES)
    still = several.layout(replace(SMALL, **STILL), 1)
    changed = several.layout(replace(SMALL, moved=1, turned=1, swapped=1), 1)
    assert changed.counts() == still.counts()
    same = sum(np.array_equal(still.instances == number, changed.instances == number) for number in still.classes)
    assert same < 0.7 * len(still.classes)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_raised_class_has_its_share(share: float):
    several = Recombiner(IMAGES, CLASSES)
    asked = replace(SMALL, raised=("rare",), share=share)
    layouts = [several.layout(asked, seed) for seed in range(8)]
    shares = [layout.counts()["rare"] / len(layout.classes) for layout in layouts]
    before = [several.layout(SMALL, seed).counts() for seed in range(8)]
    assert np.mean([count["rare"] / count.total() for count in before]) < 0.4
    # Nuclei that the border cuts stay, so that not every layout gets as far as 0.9.
    assert np.mean(shares) > share - 0.2 and max(shares) >= min(share, 0.8)


def test_raised_nuclei_go_to_free_places_where_there_are_no_others():
    sparse = paint_image([(60, 60, 5, 6, RARE)], shape=(120, 120), name="a single nucleus")
    empty = image_of(np.zeros((300, 300), np.int32))
    layouts = [recombine([sparse, empty], CLASSES, replace(SMALL, raised=("rare",)), seed) for seed in range(5)]
    assert all(layout.counts()["rare"] >= 1 for layout in layouts)


def test_nuclei_of_another_scale_are_resampled():
    coarse = paint_image([(30, 30, 5, 6, RARE), (70, 60, 6, 5, RARE)], shape=(100, 100), mpp=0.5, name="coarse")
    fine = image_of(np.zeros((400, 400), np.int32), mpp=0.25)
    layouts = [recombine([coarse, fine], CLASSES, replace(SMALL, raised=("rare",)), seed) for seed in range(6)]
    areas = [np.bincount(layout.instances.ravel())[1] for layout in layouts if layout.source == "own"]
    # π · 5 · 6 pixels, at twice the scale; the border may cut it.
    assert 350 < max(areas) < 400


@pytest.mark.parametrize("side", [16, 64])
def test_maps_of_no_nuclei_one_and_tiny_ones_make_layouts(side: int):
    tiny = np.zeros((64, 64), np.int32)
    tiny[5, 5:8], tiny[30:33, 20], tiny[0, 10:13] = 2**31 - 1, 2, 3
    busy = LayoutSettings(side=side, moved=1, turned=1, swapped=1)
    for seed in range(5):
        assert recombine([image_of(np.zeros((64, 64), np.int32))], CLASSES, busy, seed).classes == {}
        layout = recombine([image_of(tiny)], CLASSES, busy, seed)
        assert side < 64 or np.bincount(layout.instances.ravel())[1:].tolist() == [3, 3, 3]


def test_synthetic_nuclei_are_left_out():
    image = replace(IMAGES[0], synthetic=frozenset(IMAGES[0].types))
    assert recombine([image], CLASSES, SMALL, 0).classes == {}


def test_what_cannot_be_made_is_told_in_a_sentence():
    with pytest.raises(HistomixError, match="the class 'mitosis'; there are common, rare"):
        recombine(IMAGES, CLASSES, replace(SMALL, raised=("mitosis",)), 0)
    with pytest.raises(HistomixError, match=r"256×256 pixels, the largest is 180×160; choose a side of at most 160"):
        recombine(IMAGES, CLASSES, LayoutSettings(), 0)
    with pytest.raises(HistomixError, match="no images"):
        recombine([], CLASSES, SMALL, 0)
    with pytest.raises(HistomixError, match="'share' must be 0 to 1"):
        recombine(IMAGES, CLASSES, replace(SMALL, share=2.0), 0)


def test_a_nucleus_is_moved_and_nothing_else_changes(pair: Layout):
    down = moved(pair, 1, 12, -2)
    assert np.array_equal(down.instances == 1, square(22, 4))
    assert np.array_equal(down.instances == 2, pair.instances == 2)
    assert np.array_equal(moved(down, 1, -12, 2).instances, pair.instances)
    assert (pair.instances == 1).sum() == 25, "the layout itself stays as it was"


def test_an_edited_nucleus_yields_to_its_neighbors_and_is_cut_by_the_border(pair: Layout):
    pushed = moved(pair, 1, 0, 6)
    assert np.array_equal(pushed.instances == 2, pair.instances == 2)
    assert (pushed.instances == 1).sum() == 15
    assert (moved(pair, 2, -12, 0).instances == 2).sum() == 15
    drawn = with_nucleus(pair, square(8, 4, 16), "stromal")
    assert ndimage.label(drawn.instances == 3)[1] == 1
    assert np.array_equal(drawn.instances == 1, pair.instances == 1)


@pytest.mark.parametrize(
    "edit",
    [
        lambda layout: moved(layout, 1, 0, 9),
        lambda layout: moved(layout, 1, -40, 0),
        lambda layout: with_nucleus(layout, square(11, 7, 2), "tumor"),
        lambda layout: with_nucleus(layout, np.zeros((32, 40), bool), "tumor"),
    ],
)
def test_a_nucleus_without_a_free_pixel_ends_in_a_sentence(pair: Layout, edit):
    with pytest.raises(HistomixError, match="no free pixel"):
        edit(pair)


def test_a_nucleus_is_turned_about_its_center(pair: Layout):
    long = with_nucleus(pair, np.pad(np.ones((3, 9), bool), ((24, 5), (20, 11))), "stromal")
    upright = turned(long, 3, 90)
    rows, cols = np.nonzero(upright.instances == 3)
    assert (np.ptp(rows), np.ptp(cols), len(rows)) == (8, 2, 27)
    assert (rows.mean(), cols.mean()) == (25, 24)


def test_nuclei_come_go_and_change_their_class(pair: Layout):
    assert with_nucleus(pair, square(20, 20), "stromal").classes == {**pair.classes, 3: "stromal"}
    gone = without(pair, 1)
    assert gone.classes == {2: "lymphocyte"} and not (gone.instances == 1).any()
    assert with_nucleus(gone, square(20, 20), "").classes == {2: "lymphocyte", 3: ""}
    assert reclassed(pair, 2, "tumor").counts() == {"tumor": 2}
    for edit in (lambda: without(pair, 9), lambda: moved(pair, 0, 1, 1), lambda: reclassed(gone, 1, "tumor")):
        with pytest.raises(HistomixError, match="There is no nucleus"):
            edit()
    with pytest.raises(HistomixError, match="layout's size"):
        with_nucleus(pair, np.ones((4, 4), bool), "tumor")


def test_a_new_nucleus_has_an_id_though_the_largest_is_taken():
    layout = Layout(np.full((4, 4), 2**31 - 1, np.int32) * (np.eye(4, dtype=np.int32)), {2**31 - 1: "tumor"}, 0.5)
    assert with_nucleus(layout, np.ones((4, 4), bool), "tumor").counts() == {"tumor": 2}


@given(st.floats(0, 360))
@settings(max_examples=20, deadline=None)
def test_turned_nuclei_keep_their_area_and_can_be_turned_back(degrees: float):
    pixels = np.argwhere(paint_image([(20, 20, 9, 4, COMMON)], shape=(40, 40)).instances) - np.array([20, 20])
    around = turned_pixels(pixels, degrees)
    assert len(np.unique(around, axis=0)) == len(pixels)
    back = {*map(tuple, turned_pixels(around, -degrees).tolist())}
    assert len(back & {*map(tuple, pixels.tolist())}) > 0.9 * len(pixels)


def test_statistics_are_in_micrometers_and_tell_other_layouts_apart(pair: Layout):
    counted = layout_statistics([pair, Layout(np.zeros((32, 40), np.int32), {}, 0.5)])
    assert counted.areas.tolist() == [6.25, 6.25]
    assert counted.neighbor_distances.tolist() == [4.5, 4.5]
    assert counted.class_shares["tumor"].tolist() == [0.5]
    assert counted.densities.tolist() == [2 / (32 * 40 * 0.25e-6), 0]
    assert set(counted.ks_distances(counted).values()) == {0.0}
    other = layout_statistics([reclassed(moved(pair, 2, 10, 4), 2, "tumor")])
    distances = counted.ks_distances(other)
    assert distances["neighbor distance"] == distances["share of lymphocyte"] == 1 and distances["area"] == 0
    assert np.isnan(counted.ks_distances(layout_statistics([]))["area"])
