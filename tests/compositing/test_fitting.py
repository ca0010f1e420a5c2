"""Donors are turned and moved to where their surroundings agree with those of a target, and lose no pixel by it."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest

from napari_histomix.compositing.fitting import MATRICES, STAIN, TURNS, Donor, Surroundings, fit_donor
from napari_histomix.compositing.replacement import moved_image
from napari_histomix.compositing.tissue_map import QUICK, TissueMap
from napari_histomix.records import Segment
from napari_histomix.segmentation.anchors import segments_of

SIDE, MPP = 400, 0.5


def glands(seed: int = 0) -> np.ndarray:
    """Dark blobs and bright lumina in pink, unlike at every place and in every direction."""
    rng = np.random.default_rng(seed)
    coarse, fine = (cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), sigma) for sigma in (14, 1.5))
    pixels = np.full((SIDE, SIDE, 3), (225, 165, 205), float)
    pixels[coarse > 0.015] = (130, 85, 160)
    pixels[coarse < -0.02] = (244, 240, 246)
    return np.clip(pixels + 60 * fine[..., None], 0, 255).astype(np.uint8)


def disc(row: int, col: int, radius: int = 40) -> Segment:
    rows, cols = np.mgrid[:SIDE, :SIDE]
    (segment,) = segments_of((np.hypot(rows - row, cols - col) < radius).astype(np.uint8))
    return segment


@pytest.mark.parametrize(("quarter", "mirrored"), list(product(range(4), (False, True))))
def test_an_image_that_was_turned_is_turned_back_to_the_last_pixel(quarter, mirrored):
    pixels = glands()
    turned = np.rot90(pixels[:, ::-1] if mirrored else pixels, quarter).copy()
    target = disc(190, 210)
    mask = target.in_image((SIDE, SIDE))
    (donor,) = segments_of(np.rot90(mask[:, ::-1] if mirrored else mask, quarter).astype(np.uint8))
    fit = fit_donor(target, TissueMap.of(pixels, MPP), donor, TissueMap.of(turned, MPP))
    assert fit.mismatch < 0.1 and fit.cover > 0.95 and fit.unlike < 0.1 and fit.pose.scale == 1
    whole = slice(0, SIDE), slice(0, SIDE)
    moved = moved_image(turned, donor, fit.pose, whole)
    matrix = np.array(fit.pose.matrix)[:, :2]
    assert np.array_equal(np.abs(matrix).sum(axis=0), [1, 1]), "a turn by a multiple of 90 degrees"
    # Its place is found to a cell of the map; its pixels are the donor's own.
    apart = [
        np.abs(np.roll(moved, by, (0, 1)).astype(int) - pixels)[mask].max() for by in product(range(-4, 5), repeat=2)
    ]
    assert min(apart) == 0


def test_other_tissue_does_not_fit():
    ground, same = (TissueMap.of(glands(seed), MPP) for seed in (0, 0))
    plain = TissueMap.of(np.full((SIDE, SIDE, 3), (225, 165, 205), np.uint8), MPP)
    target = disc(190, 210)
    assert fit_donor(target, ground, target, same).mismatch < 0.05
    other = fit_donor(target, ground, disc(200, 200), plain)
    assert other.mismatch > 0.4 and other.unlike > 0.5


def test_fibers_keep_their_direction():
    rows, cols = np.mgrid[:SIDE, :SIDE]
    stripes = 30 * np.sin(cols / 3 + 2 * np.sin(rows / 60))
    pixels = np.clip(np.array((215, 150, 190)) + stripes[..., None], 0, 255).astype(np.uint8)
    across = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    fit = fit_donor(disc(200, 200), TissueMap.of(pixels, MPP), disc(200, 200), TissueMap.of(across, MPP))
    direction = np.array(fit.pose.matrix)[:, :2]
    assert abs(direction[0, 1]) == 1, "rows become columns"


def test_a_donor_whose_image_ends_too_near_is_none():
    pixels = TissueMap.of(glands(), MPP)
    assert fit_donor(disc(200, 200, 150), pixels, disc(60, 60), pixels) is None


def test_an_image_of_another_scale_is_brought_to_the_targets():
    pixels = glands()
    large = np.asarray(cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    target = disc(190, 210)
    (donor,) = segments_of(cv2.resize(target.in_image((SIDE, SIDE)).astype(np.uint8), None, fx=2, fy=2))
    fit = fit_donor(target, TissueMap.of(pixels, MPP), donor, TissueMap.of(large, MPP / 2))
    assert fit.pose.scale == 0.5 and fit.mismatch < 0.15
    moved = moved_image(large, donor, fit.pose, target.window)
    apart = np.abs(moved.astype(int) - pixels[target.window])[target.mask].mean()
    assert apart < 12


def test_a_target_is_not_replaced_by_itself():
    pixels = glands()
    ground = TissueMap.of(pixels, MPP)
    target, beside = disc(200, 200), disc(200, 215)
    fit = fit_donor(target, ground, beside, ground)
    if fit is not None:
        moved = moved_image(pixels, beside, fit.pose, target.window)
        assert (moved == pixels[target.window]).all(axis=-1)[target.mask].mean() < 0.2


def test_a_quick_look_at_all_places_is_what_comparing_cell_by_cell_gives():
    ground, source = TissueMap.of(glands(1), MPP), TissueMap.of(glands(2), MPP)
    around = Surroundings(disc(190, 210), ground)
    looked = around._mismatch(source)
    places = np.argwhere(around.quick_around)
    middle = np.argwhere(around.inner).mean(axis=0) / QUICK + 0.5 / QUICK - 0.5
    expected = ground.quick[around.quick_around]
    for turn, center in ((0, (25, 24)), (3, (23, 27)), (6, (26, 26))):
        rows, cols = (np.rint((places - middle) @ MATRICES[turn]).astype(int) + center).T
        quarter, mirrored = TURNS[turn]
        seen = source.quick[rows, cols].copy()
        cosine = 1 if quarter % 2 == 0 else -1
        seen[:, 4] *= cosine
        seen[:, 5] *= -cosine if mirrored else cosine
        differences = seen - expected
        differences[:, :2] -= np.clip(differences[:, :2].mean(axis=0), -STAIN, STAIN)
        assert looked[turn, *center] == pytest.approx(np.sqrt((differences**2).mean()), abs=1e-3)


def test_other_tissue_seems_unlike_before_it_is_looked_at():
    ground = TissueMap.of(glands(), MPP)
    around = Surroundings(disc(190, 210), ground)
    plain = TissueMap.of(np.full((SIDE, SIDE, 3), (225, 165, 205), np.uint8), MPP)
    assert around.unlike(Donor(disc(190, 210), ground)) == 0
    assert around.unlike(Donor(disc(200, 200), plain)) > 0.5
