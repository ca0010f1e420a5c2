from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_histomix.compositing.donors import cut_donor, dilate
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.looks import look_around, look_of_nucleus, look_of_plan
from napari_histomix.compositing.planning import Plan, plan_placement
from napari_histomix.datasets import SAMPLE_RARE, load_sample
from napari_histomix.records import Candidate, LabeledImage, Location
from napari_histomix.sampling import nucleus_locations


@pytest.fixture(scope="module")
def nuclei() -> list[tuple[LabeledImage, Location]]:
    """Nuclei of the sample that can be laid back where they are."""
    dataset = load_sample()
    rare = dataset.class_number(SAMPLE_RARE)
    image = dataset.read(dataset.training[0])
    return [(image, nucleus) for nucleus in nucleus_locations(image, (rare,), ())]


def laid_back(image: LabeledImage, nucleus: Location) -> Plan | str:
    """A donor on its own place, which nobody labeled."""
    here = replace(image, instances=np.where(image.instances == nucleus.instance, 0, image.instances))
    place = Location(image.source.image, "background", nucleus.row, nucleus.col)
    return plan_placement(
        IndexedImage(here),
        Candidate(0, place, nucleus, 0.0, 50.0),
        cut_donor(IndexedImage(image), nucleus),
        seed=0,
        taken=np.zeros(here.instances.shape, bool),
        stain_matching=False,
        symmetries=False,
        collar=2.0,
    )


def test_a_donor_on_its_own_place_looks_as_at_home(nuclei):
    same = 0
    for image, nucleus in nuclei:
        plan = laid_back(image, nucleus)
        if isinstance(plan, Plan):
            here = replace(image, instances=np.where(image.instances == nucleus.instance, 0, image.instances))
            home = look_of_nucleus(IndexedImage(image), nucleus)
            # A plan's frame is a little wider, so that distances to the nucleus are the same.
            assert np.allclose(look_of_plan(IndexedImage(here), plan), home, atol=1e-6)
            same += 1
    assert same > 3


def test_a_light_ring_is_seen(nuclei):
    image, nucleus = nuclei[0]
    own = image.instances == nucleus.instance
    haloed = image.pixels.copy()
    haloed[dilate(own, 3) & ~dilate(own, 1)] = 250
    before, after = (
        look_of_nucleus(IndexedImage(replace(image, pixels=pixels)), nucleus) for pixels in (image.pixels, haloed)
    )
    near, far = 2, 7
    assert after[near] < before[near] - 0.05 and after[far] == before[far]


def test_a_look_does_not_depend_on_how_the_image_is_turned(labeled_image):
    image = labeled_image(6, shape=(64, 64))
    own, others = image.instances == 1, image.instances > 1
    known = np.ones_like(own)
    look = look_around(image.pixels, own, others, known, image.mpp)
    turned = look_around(
        *(np.ascontiguousarray(np.rot90(part)) for part in (image.pixels, own, others, known)), image.mpp
    )
    assert np.allclose(look, turned, atol=1e-5)


def test_where_neighbors_leave_no_room_they_are_what_is_seen(labeled_image):
    image = labeled_image([(20, 20, 6, 6, 1)], shape=(40, 40))
    own = image.instances == 1
    look = look_around(image.pixels, own, ~own, np.ones_like(own), image.mpp)
    assert np.isfinite(look).all()
