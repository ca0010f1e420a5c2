from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.compositing.donors import cut_donor
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.planning import TOO_LARGE, plan_placement
from napari_histomix.diffusion.inpainter import inpaint
from napari_histomix.diffusion.samplers import PRESETS
from napari_histomix.methods.painting import CONTEXT, finished_change, first_stage, second_stage, windowed
from napari_histomix.records import DONOR, INPAINTED, REAL, Candidate, LabeledImage, drain


@pytest.fixture
def plan(labeled_image, location):
    def make(image: LabeledImage, instance: int = 0, row: float = 0, col: float = 0, seed: int = 0):
        giver = labeled_image([(40, 40, 6, 4, 1)], shape=(80, 80), mpp=image.mpp, name="giver")
        candidate = Candidate(0, location(image, instance, row, col), location(giver, 1), 0.0, 50.0)
        taken = np.zeros(image.instances.shape, bool)
        donor = cut_donor(IndexedImage(giver), location(giver, 1))
        settings = {"seed": seed, "taken": taken, "stain_matching": False, "symmetries": True}
        planned = plan_placement(IndexedImage(image), candidate, donor, **settings)
        assert not isinstance(planned, str), planned
        return planned

    return make


def make_change(planned, model):
    """Both stages, as the method does them."""
    background = planned.pixels
    if planned.plan.erased.any():
        (background,) = drain(inpaint([first_stage(planned)], model, PRESETS["fast"].disc, device="cpu"))
    (blended,) = drain(inpaint([second_stage(planned, background)], model, PRESETS["fast"].ring, device="cpu"))
    return finished_change(planned, blended, number=0, method="nucleimix", how={"sampler": "fast"}), background, blended


@pytest.mark.parametrize("place", [(100, 100), (12, 12), (187, 12), (12, 187), (187, 187)])
def test_the_hole_lies_in_the_middle_of_its_window_or_the_window_at_the_edge(plan, labeled_image, small_model, place):
    image = labeled_image([], shape=(200, 200))
    planned = windowed(plan(image, row=place[0], col=place[1]), image, small_model)
    assert planned.pixels.shape == (48, 48, 3) and planned.side == 48
    top, left = planned.plan.row - planned.row, planned.plan.col - planned.col
    assert np.array_equal(planned.pixels, image.pixels[top : top + 48, left : left + 48])
    rows, cols = np.nonzero(planned.in_window(planned.plan.changed))
    for axis, asked in ((rows, place[0]), (cols, place[1])):
        if asked == 100:
            assert (axis.min() + axis.max()) / 2 == pytest.approx(23.5, abs=1)
    assert planned.in_window(planned.plan.changed).sum() == plan(image, row=place[0], col=place[1]).changed.sum()


def test_a_larger_hole_gets_a_larger_window_and_too_large_a_one_is_refused(plan, labeled_image, small_model):
    sides = []
    for half in (10, 22, 36, 45):
        image = labeled_image([(100, 100, half, half, 2)], shape=(200, 200))
        planned = windowed(plan(image, 1), image, small_model)
        sides.append(planned if isinstance(planned, str) else planned.side)
    # Margins of two pixels and of CONTEXT: 2 · (half + 2 + 8) + 1 pixels.
    assert CONTEXT == 8
    assert sides == [48, 96, 96, TOO_LARGE]


@pytest.mark.parametrize("shape", [(20, 20), (30, 90), (90, 30)])
def test_an_image_smaller_than_the_window_is_mirrored(plan, labeled_image, small_model, shape):
    image = labeled_image([], shape=shape)
    planned = windowed(plan(image, row=shape[0] / 2, col=shape[1] / 2), image, small_model)
    assert planned.pixels.shape == (48, 48, 3)
    height = min(48, shape[0])
    left = planned.plan.col - planned.col
    width = min(48, shape[1])
    top = planned.plan.row - planned.row
    assert np.array_equal(planned.pixels[:height, :width], image.pixels[top : top + height, left : left + width])
    change, *_ = make_change(planned, small_model)
    assert change.window[0].stop <= shape[0] and change.window[1].stop <= shape[1]


@pytest.mark.parametrize(
    ("mpp", "size", "side"),
    # The hole is 19 pixels long; at 1 µm/px those are 38 of the model's, which with their context need the next window.
    [(0.25, 48, 48), (0.4, 48, 48), (0.5, 48, 48), (1.0, 32, 64), (0.125, 96, 48)],
)
def test_images_beyond_the_models_scale_get_windows_that_are_resampled(
    plan, labeled_image, small_model, mpp, size, side
):
    image = labeled_image([], shape=(120, 120), mpp=mpp)
    planned = windowed(plan(image, row=60, col=60), image, small_model)
    assert (len(planned.pixels), planned.side) == (size, side)
    hole = planned.in_window(planned.plan.changed)
    assert 0 < hole.sum() < hole.size
    change, _, blended = make_change(planned, small_model)
    assert np.array_equal(blended[~hole], planned.pixels[~hole]), "only the hole may come back from the model"
    donor = planned.in_window(planned.plan.donor)
    assert np.array_equal(blended[donor], planned.plan.donor_pixels[planned.plan.donor])
    assert change.origin.shape == planned.plan.donor.shape


def test_the_two_stages(plan, labeled_image, small_model):
    image = labeled_image([(60, 60, 8, 8, 2)], shape=(120, 120))
    planned = windowed(plan(image, 1), image, small_model)
    first = first_stage(planned)
    assert np.array_equal(first.hole, planned.in_window(planned.plan.erased))
    assert np.array_equal(first.pixels, planned.pixels)
    change, background, blended = make_change(planned, small_model)
    second = second_stage(planned, background)
    donor = planned.in_window(planned.plan.donor)
    assert np.array_equal(second.hole, planned.in_window(planned.plan.blended))
    assert np.array_equal(second.pixels[~donor], background[~donor])
    assert np.array_equal(second.pixels[donor], planned.plan.donor_pixels[planned.plan.donor])
    assert first.seed != second.seed

    plan_ = planned.plan
    assert np.array_equal(change.origin == DONOR, plan_.donor)
    assert np.array_equal(change.origin == INPAINTED, (plan_.erased | plan_.blended) & ~plan_.donor)
    assert not change.pixels[change.origin == REAL].any(), "nothing of the target is kept twice"
    rows = slice(planned.row, planned.row + plan_.donor.shape[0])
    cols = slice(planned.col, planned.col + plan_.donor.shape[1])
    changed = change.origin != REAL
    assert np.array_equal(change.pixels[changed], blended[rows, cols][changed])
    assert change.provenance["sampler"] == "fast" and "stain" in change.provenance
