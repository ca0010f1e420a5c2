"""Covering and boundary F of known cases, and the region tree against things drawn by hand."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from napari_histomix.datasets import read_pixels
from napari_histomix.evaluation.segment_figures import best_overlaps, boundary_agreement, covering, read_outlines
from napari_histomix.records import HistomixError, drain
from napari_histomix.segmentation import RegionTreePrompter, find_segments, segment_map
from napari_histomix.segmentation.region_tree import superpixels

DRAWN = Path(__file__).with_name("drawn_segments.json")


def square(first: int, beyond: int, side: int = 40) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[first:beyond, first:beyond] = True
    return mask


def test_covering_weighs_the_best_overlap_of_each_thing_by_its_area():
    truth = np.array([square(0, 20), square(30, 40)])
    halves = np.where(np.arange(40) < 10, 1, 2) * square(0, 20)
    assert best_overlaps(truth, halves) == pytest.approx([0.5, 0])
    assert covering(truth, halves) == pytest.approx(0.5 * 400 / 500)
    assert covering(truth, 7 * square(0, 20) + 3 * square(30, 40)) == 1
    assert covering(truth, np.ones((40, 40), int)) == pytest.approx((400 * 400 + 100 * 100) / 1600 / 500)
    assert covering(truth, np.zeros((40, 40), int)) == 0
    assert math.isnan(covering(truth[:0], halves))


def test_boundaries_agree_within_the_tolerance():
    truth = square(10, 30)[None]
    assert boundary_agreement(truth, square(10, 30).astype(int), 1) == (1, 1, 1)
    assert boundary_agreement(truth, square(13, 27).astype(int), 5) == (1, 1, 1)
    assert boundary_agreement(truth, square(15, 25).astype(int), 2) == (0, 0, 0)
    assert boundary_agreement(truth, np.ones((40, 40), int), 4) == (0, 0, 0)


def test_a_boundary_within_a_thing_counts_against_segments_and_one_in_the_unknown_does_not():
    truth = square(10, 30)[None]
    within = np.where(square(18, 22), 2, square(10, 30))
    beyond = square(10, 30) + 2 * (np.arange(40) > 36)
    # A square's boundary is the ring of its outermost pixels and the one around it, without corners.
    ring, inner = 4 * 19 + 4 * 20, 4 * 3 + 4 * 4
    precision, recall, f = boundary_agreement(truth, within, 1)
    assert precision == pytest.approx(ring / (ring + inner)) and recall == 1
    assert f == pytest.approx(2 * precision / (precision + 1))
    assert boundary_agreement(truth, beyond, 1) == (1, 1, 1)


def test_what_fills_the_image_has_no_boundary():
    assert all(math.isnan(figure) for figure in boundary_agreement(square(0, 40)[None], square(10, 30).astype(int), 4))


def test_outlines_are_read_and_every_drawn_thing_is_one_piece_of_its_image():
    drawn = read_outlines(DRAWN)
    assert len(drawn) == 10 and all(4 <= len(outlines) <= 9 for outlines in drawn.values())
    for outlines in drawn.values():
        masks = np.array([outline.mask((1000, 1000)) for outline in outlines])
        assert all(cv2.connectedComponents(mask.astype(np.uint8))[0] == 2 for mask in masks)
        assert (masks.sum(axis=(1, 2)) > 3000).all()
        shared = np.count_nonzero(masks.sum(axis=0) > 1)
        assert shared < 0.02 * np.count_nonzero(masks), "things lie side by side"


def test_a_file_without_outlines_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"train_1": [{"outline": [[0, 1, 2]]}]}')
    with pytest.raises(HistomixError, match="holds no outlines"):
        read_outlines(tmp_path / "other.json")


@pytest.mark.parametrize("name", ["train_6", "train_26"])
def test_the_region_tree_covers_drawn_things_better_than_superpixels(shared, name):
    pixels = read_pixels(shared / "data" / "consep-train" / "Images" / f"{name}.png")
    truth = np.array([outline.mask(pixels.shape) for outline in read_outlines(DRAWN)[name]])
    segments = segment_map(drain(find_segments(pixels, RegionTreePrompter())), pixels.shape)
    assert covering(truth, segments) > covering(truth, superpixels(pixels, tissue=0.0)) + 0.1
