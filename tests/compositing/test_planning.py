from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_histomix.compositing.donors import CUT_BY_EDGE, cut_donor, dilate, transition_zone
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.planning import (
    COVERS_NEIGHBOR,
    CROSSES_EDGE,
    FADED,
    GUARD,
    OFF_COLOR,
    TOO_CLIPPED,
    TOO_CLOSE,
    UNLIKE,
    Plan,
    plan_placement,
)
from napari_histomix.records import Candidate, LabeledImage

NUCLEAR = (85, 60, 130)


@pytest.fixture
def giver(labeled_image):
    return labeled_image([(40, 40, 6, 4, 1)], shape=(80, 80), seed=5, name="giver")


@pytest.fixture
def plan(giver, location):
    """Plan the giver's nucleus onto a place of an image: an instance, or a row and a column."""

    def make(image: LabeledImage, instance: int = 0, row: float = 0, col: float = 0, source=None, **more):
        source = source or giver
        where = location(source, 1)
        settings = {"stain_matching": False, "symmetries": False, "seed": 1} | more
        settings.setdefault("taken", np.zeros(image.instances.shape, bool))
        candidate = Candidate(0, location(image, instance, row, col), where, 0.0, 50.0)
        return plan_placement(IndexedImage(image), candidate, cut_donor(IndexedImage(source), where), **settings)

    return make


def whole(planned: Plan, image: LabeledImage, mask: np.ndarray) -> np.ndarray:
    full = np.zeros(image.instances.shape, bool)
    full[planned.window] = mask
    return full


def test_copy_and_paste_lays_the_donor_centered_on_the_place(plan, giver, labeled_image):
    image = labeled_image([], shape=(80, 80))
    planned = plan(image, row=30, col=50)
    nucleus = whole(planned, image, planned.nucleus)
    assert np.argwhere(nucleus).mean(axis=0) == pytest.approx([30, 50], abs=0.5)
    assert nucleus.sum() == (giver.instances == 1).sum()
    assert not planned.erased.any()
    assert np.array_equal(whole(planned, image, planned.donor), dilate(nucleus, 1))
    assert np.array_equal(whole(planned, image, planned.blended), transition_zone(nucleus))
    assert np.array_equal(planned.donor_pixels[planned.donor], giver.pixels[dilate(giver.instances == 1, 1)])


def test_copy_and_replace_hides_the_target_and_the_place_of_the_donor(plan, labeled_image):
    image = labeled_image([(40, 40, 4, 9, 2)], shape=(80, 80))
    planned = plan(image, 1)
    nucleus = whole(planned, image, planned.nucleus)
    expected = dilate(image.instances == 1, 2) | dilate(nucleus, 3)
    assert np.array_equal(whole(planned, image, planned.erased), expected)
    assert np.array_equal(whole(planned, image, planned.changed), expected)


def test_the_turn_comes_from_the_seed_and_is_written_down(plan, giver, labeled_image):
    image = labeled_image([], shape=(80, 80))
    turns = set()
    for seed in range(40):
        planned = plan(image, row=40, col=40, symmetries=True, seed=seed)
        again = plan(image, row=40, col=40, symmetries=True, seed=seed)
        assert np.array_equal(planned.donor_pixels, again.donor_pixels)
        done = planned.provenance["quarter_turns"], planned.provenance["mirrored"]
        turns.add(done)
        crop = giver.pixels[:, ::-1] if done[1] else giver.pixels
        mask = giver.instances[:, ::-1] if done[1] else giver.instances
        donor = np.rot90(crop, done[0])[dilate(np.rot90(mask, done[0]) == 1, 1)]
        assert np.array_equal(planned.donor_pixels[planned.donor], donor)
    assert len(turns) == 8


@pytest.mark.parametrize(("row", "fits"), [(9, True), (8, False), (70, True), (71, False)])
def test_refused_across_the_edge(plan, labeled_image, row, fits):
    # Half height 6 and three pixels of layers: the outermost rows touched are row ± 9, of 0 to 79.
    image = labeled_image([], shape=(80, 80))
    planned = plan(image, row=row, col=40)
    assert isinstance(planned, Plan) if fits else planned == CROSSES_EDGE


def test_a_replaced_nucleus_may_lie_at_the_edge(plan, labeled_image):
    image = labeled_image([(11, 40, 11, 6, 2)], shape=(80, 80))
    planned = plan(image, 1)
    assert isinstance(planned, Plan)
    assert planned.row == 0
    assert not (whole(planned, image, planned.changed) & (image.instances > 1)).any()
    assert (whole(planned, image, planned.erased) >= (image.instances == 1)).all()


def test_refused_over_a_neighbor(plan, labeled_image):
    image = labeled_image([(40, 48, 5, 4, 2)], shape=(80, 80))
    # The donor's half width is 4: at column 40 its layer 1 reaches column 45, the neighbor starts at 44.
    assert plan(image, row=40, col=40) == COVERS_NEIGHBOR
    assert plan(image, row=40, col=39) == COVERS_NEIGHBOR
    assert not isinstance(plan(image, row=40, col=38), str)


def with_neighbor_in_the_ring(image: LabeledImage, nucleus: np.ndarray, columns: slice) -> LabeledImage:
    band = dilate(nucleus, 5) & ~dilate(nucleus, 1)
    kept = np.zeros_like(band)
    kept[:, columns] = True
    instances = image.instances.copy()
    instances[band & kept] = 1
    pixels = image.pixels.copy()
    pixels[band & kept] = NUCLEAR
    return replace(image, pixels=pixels, instances=instances, types={1: 2})


def test_a_neighbor_clips_the_hole_and_refuses_it_beyond_a_quarter(plan, labeled_image):
    image = labeled_image([], shape=(80, 80))
    free = plan(image, row=40, col=40)
    nucleus = whole(free, image, free.nucleus)
    ring = transition_zone(nucleus)

    half = with_neighbor_in_the_ring(image, nucleus, slice(40, 80))
    assert plan(half, row=40, col=40) == TOO_CLIPPED

    side = with_neighbor_in_the_ring(image, nucleus, slice(45, 80))
    clipped = (ring & (side.instances > 0)).sum() / ring.sum()
    assert 0 < clipped <= 0.25
    planned = plan(side, row=40, col=40)
    assert np.array_equal(whole(planned, side, planned.blended), ring & (side.instances == 0))
    assert not (whole(planned, side, planned.changed) & (side.instances > 0)).any()


def test_erasing_never_enters_a_touching_neighbor(plan, labeled_image):
    image = labeled_image([(40, 34, 6, 6, 2), (40, 47, 6, 6, 2)], shape=(80, 80))
    planned = plan(image, 1)
    changed = whole(planned, image, planned.changed)
    assert not (changed & (image.instances == 2)).any()
    assert (changed >= (image.instances == 1)).all()


@pytest.mark.parametrize(("gap", "fits"), [(GUARD, False), (GUARD + 1, True)])
def test_refused_beside_another_placement(plan, labeled_image, gap, fits):
    image = labeled_image([], shape=(80, 80))
    free = plan(image, row=40, col=40)
    last = np.argwhere(whole(free, image, free.changed))[:, 0].max()
    taken = np.zeros((80, 80), bool)
    taken[last + gap, 40] = True
    planned = plan(image, row=40, col=40, taken=taken)
    assert isinstance(planned, Plan) if fits else planned == TOO_CLOSE


def test_refused_where_the_surroundings_look_unlike(plan, labeled_image):
    image = labeled_image([], shape=(80, 80))
    dark = replace(image, pixels=(image.pixels * 0.7).astype(np.uint8))
    assert plan(dark, row=40, col=40) == UNLIKE
    # Beside the same dark tissue there is room.
    dark.pixels[:, :50] = image.pixels[:, :50]
    assert isinstance(plan(dark, row=40, col=30), Plan)


def test_a_halo_on_one_side_of_the_place_counts(plan, labeled_image):
    image = labeled_image([], shape=(80, 80))
    assert isinstance(plan(image, row=40, col=40), Plan)
    image.pixels[:, 46:] = 250
    assert plan(image, row=40, col=40) == UNLIKE


def test_a_light_layer_one_counts_as_a_halo(plan, giver, labeled_image):
    image = labeled_image([], shape=(80, 80))
    nucleus = giver.instances == 1
    haloed = replace(giver, pixels=giver.pixels.copy())
    haloed.pixels[dilate(nucleus, 1) & ~nucleus] = np.minimum(giver.pixels[40, 60].astype(int) + 45, 255)
    assert isinstance(plan(image, row=40, col=40), Plan)
    assert plan(image, row=40, col=40, source=haloed) == UNLIKE


def test_a_blue_layer_one_counts_as_a_fringe(plan, giver, labeled_image):
    image = labeled_image([], shape=(80, 80))
    nucleus = giver.instances == 1
    fringed = replace(giver, pixels=giver.pixels.copy())
    rim = fringed.pixels[dilate(nucleus, 1) & ~nucleus].astype(float)
    rim[:, 0] *= 0.6
    rim[:, 2] = 245
    fringed.pixels[dilate(nucleus, 1) & ~nucleus] = rim
    assert plan(image, row=40, col=40, source=fringed) == UNLIKE


def test_refused_where_it_would_fade(plan, giver, labeled_image):
    # Tissue farther out than the immediate surroundings is darker than at home, up to where contrast is measured.
    image = labeled_image([], shape=(80, 80))
    near = dilate(giver.instances == 1, 8)
    dim = replace(image, pixels=np.where(near[..., None], image.pixels, image.pixels * 0.45).astype(np.uint8))
    assert isinstance(plan(image, row=40, col=40), Plan)
    assert plan(dim, row=40, col=40) == FADED


@pytest.mark.parametrize("swap", [False, True])
def test_refused_where_its_color_would_stand_out_among_the_nuclei(plan, giver, labeled_image, swap):
    image = labeled_image([(15, 15, 6, 6, 2)], shape=(80, 80))
    nuclei = image.instances == 1
    if swap:
        image.pixels[nuclei] = image.pixels[nuclei][:, [2, 1, 0]]  # brown instead of blue
    planned = plan(image, row=50, col=50)
    assert planned == OFF_COLOR if swap else isinstance(planned, Plan)


def test_stain_matching_is_applied_and_written_down(plan, labeled_image):
    image = labeled_image([], shape=(80, 80))
    image = replace(image, pixels=(image.pixels * 0.93).astype(np.uint8))
    plain, matched = (plan(image, row=40, col=40, stain_matching=wanted) for wanted in (False, True))
    assert plain.provenance["stain"]["shift"] == [0, 0, 0]
    assert any(matched.provenance["stain"]["shift"])
    assert matched.donor_pixels[matched.donor].mean() < plain.donor_pixels[plain.donor].mean() - 1


def test_a_donor_of_another_scale_arrives_at_the_targets(plan, labeled_image):
    source = labeled_image([(40, 40, 12, 8, 1)], shape=(80, 80), mpp=0.25, name="giver")
    image = labeled_image([], shape=(80, 80), mpp=0.5)
    planned = plan(image, row=40, col=40, source=source)
    assert planned.nucleus.sum() == pytest.approx((source.instances == 1).sum() / 4, rel=0.1)


@pytest.mark.parametrize("edge", [8, 71])
def test_a_donor_that_loses_its_surroundings_by_resampling_is_refused(plan, labeled_image, edge):
    # Two pixels of surroundings are none after resampling by a quarter, so layer 1 is not there to come along.
    source = labeled_image([(edge, edge, 6, 6, 1)], shape=(80, 80), mpp=0.25, name="giver")
    image = labeled_image([], shape=(80, 80), mpp=1.5)
    assert plan(image, row=40, col=40, source=source) == CUT_BY_EDGE


def test_a_donor_that_vanishes_by_resampling_is_refused(plan, labeled_image):
    source = labeled_image([(40, 40, 1, 1, 1)], shape=(80, 80), mpp=0.25, name="giver")
    image = labeled_image([], shape=(80, 80), mpp=2.0)
    reason = plan(image, row=40, col=40, source=source)
    assert isinstance(reason, str) and "small" in reason


def test_an_image_barely_larger_than_the_donor(plan, labeled_image):
    image = labeled_image([], shape=(19, 15))
    planned = plan(image, row=9, col=7)
    assert isinstance(planned, Plan)
    assert planned.donor.shape == (19, 15)
