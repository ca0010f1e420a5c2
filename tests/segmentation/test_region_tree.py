"""The region tree answers a point with the region the eye sees there, and says nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.records import drain
from napari_histomix.segmentation import RegionTree, RegionTreePrompter
from napari_histomix.segmentation.region_tree import WORKING_SIDE


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("shape", [(240, 300), (130, 110), (700, 640)], ids=str)
def test_a_point_in_a_structure_is_answered_with_that_structure(tissue, shape):
    pixels, parts = tissue(shape)
    tree = RegionTree.grow(pixels)
    for name, part in parts.items():
        inside = np.argwhere(part)
        points = inside[:: max(1, len(inside) // 7)].astype(float)
        nodes = tree.best(points)
        assert nodes.shape == (len(points),) and (tree.scores[nodes[nodes >= 0]] > 0).all()
        # A gland is its epithelium and the lumen in it.
        thing = part | parts["lumen"] if name == "gland" else part
        assert np.median([overlap(tree.mask(int(node)), thing) for node in nodes if node >= 0]) > 0.8, name


def test_proposals_speak_of_the_image_not_of_its_small_copy(tissue):
    pixels, parts = tissue((WORKING_SIDE * 2, WORKING_SIDE * 2))
    where = np.argwhere(parts["vessel"])[::4001].astype(float)
    proposals = drain(RegionTreePrompter()(pixels, where))
    center, size = np.argwhere(parts["vessel"]).mean(axis=0), np.sqrt(parts["vessel"].sum())
    row, col, root = np.median(proposals.identities, axis=0)
    assert np.hypot(row - center[0], col - center[1]) < 0.1 * size and root == pytest.approx(size, rel=0.1)
    everyone = np.arange(len(where))
    masks = proposals.masks(everyone)
    assert masks.shape == (len(where), *pixels.shape[:2]) and masks.dtype == bool
    overlaps = proposals.overlaps(everyone, everyone)
    assert np.allclose(np.diag(overlaps), 1) and np.allclose(overlaps, overlaps.T)
    assert overlaps[0, 1] == pytest.approx(overlap(masks[0], masks[1]), abs=0.03)


@pytest.mark.parametrize("color", [(255, 255, 255), (225, 165, 205)], ids=["white", "pink"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (200, 200)], ids=str)
def test_one_color_holds_no_region(color, shape):
    pixels = np.full((*shape, 3), color, np.uint8)
    proposals = drain(RegionTreePrompter()(pixels, np.zeros((4, 2))))
    assert np.isnan(proposals.identities).all() and np.isnan(proposals.scores).all()


def test_no_points_no_answers(tissue):
    pixels, _ = tissue()
    proposals = drain(RegionTreePrompter()(pixels, np.zeros((0, 2))))
    none = np.zeros(0, np.intp)
    assert proposals.identities.shape == (0, 3) and proposals.masks(none).shape == (0, *pixels.shape[:2])


def test_a_gland_without_its_tongues_is_preferred_to_strands_and_to_what_the_border_cuts_off(tissue):
    """A disc with a thin handle, beside a region of the same color that runs along the border."""
    rows, cols = np.mgrid[:256, :256]
    disc, handle = np.hypot(rows - 120, cols - 120) < 50, (np.abs(rows - 120) < 5) & (cols > 120) & (cols < 236)
    pixels = np.full((256, 256, 3), (225, 165, 205), np.uint8)
    pixels[disc | handle | (rows > 230)] = (130, 85, 160)
    noise = np.random.default_rng(0).normal(0, 6, (256, 256, 1))
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    tree = RegionTree.grow(pixels)
    (node,) = tree.best(np.array([[120.0, 100.0]]))
    mask = tree.mask(int(node))
    assert overlap(mask, disc) > 0.6 and (mask & disc).sum() > 0.95 * mask.sum()
    assert not mask[120, 185:].any(), "the handle is no part of it"
    assert not mask[0].any() and not mask[-1].any()
