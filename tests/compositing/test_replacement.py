"""Geometry of replacements: where a donor lies, which pixels may change, and that no others do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.compositing.replacement import SCALES, Swap, lay, lay_all, paste, pose_of
from napari_histomix.records import Segment

SHAPE = (120, 140)


def ellipse(row: float, col: float, a: float, b: float, angle: float = 0.0, shape=SHAPE, number: int = 1) -> Segment:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    y, x = rows - row, cols - col
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    mask = (along / a) ** 2 + (across / b) ** 2 <= 1
    where = np.argwhere(mask)
    (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0) + 1
    return Segment(number, int(top), int(left), mask[top:bottom, left:right])


def whole(segment: Segment) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[segment.window] = segment.mask
    return mask


FREE = np.ones(SHAPE, bool)


def test_a_donor_of_the_same_shape_covers_its_target_however_it_was_turned():
    target = ellipse(60, 70, 40, 18, 0.4)
    donor = ellipse(40, 55, 36, 16, 2.1)
    for seed in range(6):
        pose = pose_of(target, donor, np.random.default_rng(seed))
        laid = lay(target, donor, pose, FREE)
        covered = laid.donor | laid.hole
        assert (covered & whole(target)).sum() == whole(target).sum()
        # Only the band is painted: half of it outside, half inside the outline.
        assert (covered ^ whole(target)).sum() < 0.3 * target.area and laid.hole.sum() < 0.6 * target.area
        assert pose.scale == pytest.approx(40 / 36, rel=0.03)
    assert {pose_of(target, donor, np.random.default_rng(seed)).mirrored for seed in range(12)} == {True, False}


def test_the_turn_that_covers_more_is_chosen():
    """A wedge, which lies wrong the other way round."""
    rows, cols = np.mgrid[:41, :81]
    wedge = Segment(1, 30, 30, (np.abs(rows - 20) <= 2 + cols / 5) & (cols < 79))
    for seed in range(8):
        laid = lay(wedge, wedge, pose_of(wedge, wedge, np.random.default_rng(seed)), FREE)
        assert (whole(wedge) & ~laid.donor & ~laid.hole).sum() == 0
        assert ((laid.donor | laid.hole) & ~whole(wedge)).sum() < 0.35 * wedge.area


@pytest.mark.parametrize(("radius", "scale"), [(60, 0.75), (5, 1.33), (20, 1.0)])
def test_donors_are_scaled_only_so_far(radius, scale):
    target = ellipse(60, 70, 20, 20)
    pose = pose_of(target, ellipse(60, 70, radius, radius - 2), np.random.default_rng(0))
    assert pose.scale == pytest.approx(scale, rel=0.06) and SCALES[0] - 1e-9 <= pose.scale <= SCALES[1] + 1e-9


def test_a_donor_of_another_scale_is_brought_to_the_targets_first():
    target, donor = ellipse(60, 70, 20, 16), ellipse(60, 70, 10, 8)
    pose = pose_of(target, donor, np.random.default_rng(0), factor=2.0)
    assert pose.scale == pytest.approx(2.0, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.floats(4, 110)] * 2, *[st.floats(4, 30)] * 2, st.floats(0, 3.1)),
    st.tuples(*[st.floats(4, 30)] * 2, st.floats(0, 3.1)),
    st.integers(0, 1000),
)
def test_what_is_not_free_stays_and_donor_and_hole_never_overlap(target_at, donor_at, seed):
    target, donor = ellipse(*target_at), ellipse(60, 70, *donor_at)
    free = np.random.default_rng(seed).random(SHAPE) < 0.8
    laid = lay(target, donor, pose_of(target, donor, np.random.default_rng(seed)), free)
    assert not (laid.donor & laid.hole).any() and not ((laid.donor | laid.hole) & ~free).any()
    assert (whole(target) & free & ~laid.donor & ~laid.hole).sum() == 0, "nothing of the target is left"
    (alone,), origin = lay_all([Swap(target, donor, pose_of(target, donor, np.random.default_rng(seed)))], SHAPE)
    assert np.array_equal(origin == 1, alone.donor) and np.array_equal(origin == 2, alone.hole)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (*SHAPE, 3), np.uint8)
    pose = pose_of(target, donor, rng)
    pasted = paste(pixels, rng.integers(0, 255, (*donor.mask.shape, 3), np.uint8), pose, laid)
    assert np.array_equal(pasted[~laid.donor], pixels[~laid.donor])


def test_the_donors_pixels_arrive_where_the_pose_says():
    donor = ellipse(60, 70, 30, 20)
    target = ellipse(60, 70, 30, 20)
    box = np.zeros((*donor.mask.shape, 3), np.uint8)
    box[..., 0] = np.linspace(0, 255, donor.mask.shape[1])
    for seed in range(6):
        pose = pose_of(target, donor, np.random.default_rng(seed))
        laid = lay(target, donor, pose, FREE)
        pasted = paste(np.full((*SHAPE, 3), 99, np.uint8), box, pose, laid)
        row = pasted[60, 45:95, 0].astype(int)
        direction = np.sign(pose.matrix[0][0])
        assert (np.diff(row) * direction >= -1).all() and np.ptp(row) > 150


def test_a_donor_that_hangs_over_the_edge_gets_no_band_along_it():
    target, donor = ellipse(0, 70, 30, 30), ellipse(60, 70, 30, 30)
    laid = lay(target, donor, pose_of(target, donor, np.random.default_rng(0)), FREE)
    middle = laid.donor[0, 62:78]
    assert middle.all(), "the image's own edge is no seam"
