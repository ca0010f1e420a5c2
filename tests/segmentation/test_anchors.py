"""Anchor segments: one for each thing that prompts agree on, apart from each other, and honest about votes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.records import Event, HistomixError, Segment, drain
from napari_histomix.segmentation import AnchorSettings, RegionTreePrompter, find_segments, segment_map, segments_of
from napari_histomix.segmentation.anchors import random_points
from napari_histomix.segmentation.region_tree import superpixels


class Scripted:
    """A prompter that answers from a list of masks, whatever the points are."""

    name = "scripted"

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.answers = np.array(masks)

    def __call__(self, pixels, points):
        yield Event("Asking")
        self.points = points
        assert len(points) == len(self.answers)
        return self

    @property
    def scores(self):
        return np.ones(len(self.answers))

    @property
    def identities(self):
        found = []
        for mask in self.answers:
            rows, cols = np.nonzero(mask)
            found.append((rows.mean(), cols.mean(), np.sqrt(len(rows))) if len(rows) else (np.nan,) * 3)
        return np.array(found)

    def overlaps(self, first, second):
        a, b = self.answers[first], self.answers[second]
        return np.array([[(x & y).sum() / (x | y).sum() for y in b] for x in a])

    def masks(self, points):
        return self.answers[points]


def square(row: int, col: int, side: int) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[row : row + side, col : col + side] = True
    return mask


PINK = np.full((100, 100, 3), (225, 165, 205), np.uint8)


def chosen(masks: list[np.ndarray], settings: AnchorSettings) -> tuple[Segment, ...]:
    """Segments of one superpixel, or of those that ``settings`` ask for, answered with ``masks``."""
    return drain(find_segments(PINK, Scripted(masks), settings))


ONE = AnchorSettings(superpixels=1, points=5)


def test_the_anchor_is_the_mask_of_the_largest_cluster_that_agrees_most_with_the_others():
    near = [square(10, 10, 30), square(11, 10, 30), square(12, 10, 30)]
    (only,) = chosen([*near, square(60, 60, 20), square(60, 60, 21)], ONE)
    assert (only.row, only.col, only.mask.shape) == (11, 10, (30, 30))
    assert only.vote_share == pytest.approx(3 / 5) and 0.9 < only.stability < 1


def test_masks_too_small_too_large_or_empty_have_no_vote():
    masks = [square(0, 0, 4), square(0, 0, 90), np.zeros((100, 100), bool), square(40, 40, 20), square(0, 0, 3)]
    (only,) = chosen(masks, ONE)
    assert (only.row, only.col, only.area, only.vote_share) == (40, 40, 400, 0.2)
    with pytest.raises(HistomixError, match="Nothing stands out"):
        chosen([square(0, 0, 4)] * 5, ONE)


def test_duplicates_are_kept_once_and_the_smaller_lies_on_top():
    points = np.array([[5.0, 5.0], [6.0, 6.0], [50.0, 50.0], [70.0, 70.0]])
    masks = [square(10, 10, 50), square(10, 11, 50), square(30, 30, 10), square(80, 80, 15)]
    found = drain(find_segments(PINK, Scripted(masks), points=points))
    assert sorted(one.area for one in found) == [100, 225, 2400]
    labels = segment_map(found, (100, 100))
    assert len(np.unique(labels[30:40, 30:40])) == 1 and labels[0, 0] == 0
    assert [one.number for one in found] == [1, 2, 3] and all(one.vote_share == 1 for one in found)


def test_what_is_left_of_a_covered_segment_loses_its_crumbs():
    bar = np.zeros((100, 100), bool)
    bar[40:60, 2:98] = True
    points = np.array([[50.0, 90.0], [50.0, 20.0]])
    found = drain(find_segments(PINK, Scripted([bar, square(30, 4, 40)]), points=points))
    labels = segment_map(found, (100, 100))
    assert labels[50, 2] == 0 and labels[50, 80] not in (0, labels[50, 20])


def test_real_tissue_from_end_to_end(tissue):
    pixels, parts = tissue()
    events = find_segments(pixels, RegionTreePrompter(), AnchorSettings(seed=3))
    found = drain(events)
    again = drain(find_segments(pixels, RegionTreePrompter(), AnchorSettings(seed=3)))
    labels = segment_map(found, pixels.shape)
    assert np.array_equal(labels, segment_map(again, pixels.shape))
    for name, part in parts.items():
        inside = np.bincount(labels[part], minlength=len(found) + 1)
        best = int(inside[1:].argmax()) + 1
        assert inside[best] / np.count_nonzero((labels == best) | part) > 0.6, name
    for one in found:
        assert np.array_equal(labels[one.window] == one.number, one.mask)
        assert one.mask.any(axis=0).all() or one.mask.any(axis=0)[[0, -1]].all()


def test_where_there_is_no_tissue_nothing_is_found_and_it_is_said():
    with pytest.raises(HistomixError, match="no tissue"):
        drain(find_segments(np.full((80, 80, 3), 255, np.uint8), RegionTreePrompter()))
    with pytest.raises(HistomixError, match="Nothing stands out"):
        drain(find_segments(PINK, RegionTreePrompter()))
    with pytest.raises(HistomixError, match="No point lies in this image"):
        drain(find_segments(PINK, RegionTreePrompter(), points=np.array([[-1.0, 5.0], [100.0, 5.0]])))


def test_random_points_lie_in_their_regions_and_everywhere_in_them():
    regions = np.zeros((40, 60), np.int32)
    regions[:20, :30], regions[25:, 40:] = 2, 7
    points, owners = random_points(regions, 400, np.random.default_rng(0))
    assert np.array_equal(np.unique(owners, return_counts=True), ([2, 7], [400, 400]))
    rows, cols = points.astype(int).T
    assert (regions[rows, cols] == owners).all()
    assert np.ptp(rows[owners == 2]) == 19 and np.ptp(cols[owners == 7]) == 19


def test_a_corrected_label_map_gives_its_segments_back():
    labels = np.zeros((50, 60), np.int32)
    labels[3:9, 0:20], labels[40:50, 50:60], labels[41, 52] = 4, 9, 0
    found = segments_of(labels)
    assert [(one.number, one.area) for one in found] == [(4, 120), (9, 99)]
    assert np.array_equal(segment_map(found, labels.shape), labels)
    assert [one.at_border(labels.shape) for one in found] == [True, True]
    assert not segments_of(np.pad(labels, 1))[0].at_border((52, 62))


def test_superpixels_are_about_as_many_as_asked_for_and_skip_glass(tissue):
    pixels, parts = tissue((500, 520))
    labels = superpixels(pixels, 30)
    assert labels.shape == pixels.shape[:2] and labels.dtype == np.int32 and 15 <= labels.max() <= 45
    assert (labels[parts["lumen"]] == 0).mean() > (labels[~parts["lumen"]] == 0).mean() + 0.2 or not (labels == 0).any()
    white = pixels.copy()
    white[:, :200] = 255
    assert (superpixels(white, 30)[:, :150] == 0).all()
