from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_histomix.compositing.donors import cut_donor, dilate
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.planning import TOO_CLOSE, UNLIKE, Plan, plan_placement
from napari_histomix.records import Candidate, LabeledImage

PINK, HALO = (225, 175, 205), (250, 240, 250)
REACH_UM = 2.0
REACH = 8


def flat(image: LabeledImage, halo: int = 0) -> LabeledImage:
    """The image with even tissue, and a light halo of so many pixels around its first nucleus."""
    pixels = np.where((image.instances != 0)[..., None], image.pixels, PINK).astype(np.uint8)
    if halo:
        nucleus = image.instances == 1
        pixels[dilate(nucleus, halo) & ~nucleus] = HALO
    return replace(image, pixels=pixels)


@pytest.fixture
def lay(labeled_image, location):
    """Lay the nucleus of an image with a halo onto a place of another image."""

    def make(image: LabeledImage, instance: int = 0, row: float = 0, col: float = 0, *, halo=5, giver=None, **more):
        giver = giver or flat(labeled_image([(40, 40, 6, 4, 1)], shape=(80, 80), name="giver"), halo)
        where = location(giver, 1)
        candidate = Candidate(0, location(image, instance, row, col), where, 0.0, 50.0)
        settings = {"seed": 1, "stain_matching": False, "symmetries": False, "collar": REACH_UM} | more
        settings.setdefault("taken", np.zeros(image.instances.shape, bool))
        return plan_placement(IndexedImage(image), candidate, cut_donor(IndexedImage(giver), where), **settings)

    return make


def whole(planned: Plan, image: LabeledImage, mask: np.ndarray) -> np.ndarray:
    full = np.zeros(image.instances.shape, bool)
    full[planned.window] = mask
    return full


def test_a_halo_comes_along_as_a_whole_and_the_seam_runs_through_what_both_have(lay, labeled_image):
    image = flat(labeled_image([], shape=(80, 80)))
    planned = lay(image, row=40, col=40)
    assert isinstance(planned, Plan)
    assert (planned.donor >= dilate(planned.nucleus, 5)).all()
    assert (planned.donor <= dilate(planned.nucleus, REACH)).all()
    assert (planned.donor_pixels[dilate(planned.nucleus, 5) & ~planned.nucleus] == HALO).all()
    assert np.array_equal(planned.blended, dilate(planned.donor, 2) & ~planned.donor)


def test_without_a_collar_the_halo_is_refused(lay, labeled_image):
    assert lay(flat(labeled_image([], shape=(80, 80))), row=40, col=40, collar=0.0) == UNLIKE


def test_a_halo_wider_than_the_collar_is_refused(lay, labeled_image):
    assert lay(flat(labeled_image([], shape=(80, 80))), row=40, col=40, halo=14) == UNLIKE


def test_a_collar_keeps_off_neighbors_at_home_and_in_the_target(lay, labeled_image):
    image = flat(labeled_image([(40, 52, 5, 4, 2)], shape=(80, 80)))
    crowded = flat(labeled_image([(40, 40, 6, 4, 1), (54, 40, 5, 5, 1)], shape=(80, 80), name="giver"))
    planned = lay(image, row=40, col=40, giver=crowded)
    assert isinstance(planned, Plan)
    assert not (whole(planned, image, planned.changed) & (image.instances == 1)).any()
    beyond = planned.donor & ~dilate(planned.nucleus, 1)
    assert not (whole(planned, image, beyond) & dilate(crowded.instances == 2, 2)).any()


def test_a_replaced_nucleus_gives_way_to_real_tissue_where_that_reaches(lay, labeled_image):
    image = flat(labeled_image([(40, 40, 9, 8, 2)], shape=(80, 80)))
    planned = lay(image, 1)
    assert isinstance(planned, Plan)
    gone = image.instances == 1
    assert not planned.erased.any()
    assert (whole(planned, image, planned.changed) >= dilate(gone, 2)).all()
    assert (whole(planned, image, planned.donor) >= gone).all()


def test_a_collar_does_not_depend_on_other_placements_but_is_refused_beside_them(lay, labeled_image):
    image = flat(labeled_image([], shape=(80, 80)))
    alone = lay(image, row=40, col=40)
    assert isinstance(alone, Plan)
    changed = whole(alone, image, alone.changed)
    taken = np.zeros((80, 80), bool)
    taken[:, np.flatnonzero(changed.any(axis=0)).max() + 5 :] = True
    beside = lay(image, row=40, col=40, taken=taken)
    assert isinstance(beside, Plan)
    assert np.array_equal(beside.changed, alone.changed)
    assert lay(image, row=40, col=40, taken=np.roll(taken, -1, axis=1)) == TOO_CLOSE


@pytest.mark.parametrize("collar", [0.0, REACH_UM])
def test_the_collar_is_written_down(lay, labeled_image, collar):
    planned = lay(flat(labeled_image([], shape=(80, 80))), row=40, col=40, halo=0, collar=collar)
    assert isinstance(planned, Plan)
    assert planned.provenance["collar"] == collar


def test_the_turn_that_fits_lets_a_border_go_on(lay, labeled_image, location):
    def beside_lumen(name: str, side: str) -> LabeledImage:
        nuclei = [(40, 40, 6, 4, 1)] if name == "giver" else []
        image = flat(labeled_image(nuclei, shape=(80, 80), name=name))
        light = np.zeros((80, 80), bool)
        light[{"right": np.s_[:, 48:], "below": np.s_[48:]}[side]] = True
        image.pixels[light] = HALO
        return image

    target = beside_lumen("target", "below")
    planned = lay(target, row=40, col=40, giver=beside_lumen("giver", "right"), symmetries=True, fit_turn=True)
    assert isinstance(planned, Plan)
    assert planned.provenance["quarter_turns"] % 2 == 1
    laid = planned.donor & ~planned.nucleus
    assert np.array_equal(planned.donor_pixels[laid], target.pixels[planned.window][laid])
