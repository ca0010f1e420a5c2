from __future__ import annotations

import numpy as np
import pytest
from sample_changes import image_change, nucleus_change

from napari_histomix.compositing.composing import compose, new_image
from napari_histomix.records import DONOR, INPAINTED, KEEP, REAL, Candidate, Change, HistomixError, Location, SourceRef


@pytest.fixture
def target(labeled_image):
    return labeled_image([(20, 20, 5, 5, 2), (50, 50, 5, 5, 2)], shape=(70, 70))


def place(target, instance: int, row: int, col: int, where: Location) -> Change:
    """A 20 × 20 patch: a square nucleus of 6 × 6 inside donor pixels inside inpainted ones, the frame untouched."""
    origin = np.zeros((20, 20), np.uint8)
    origin[3:17, 3:17] = INPAINTED
    origin[6:14, 6:14] = DONOR
    nucleus = np.zeros((20, 20), bool)
    nucleus[7:13, 7:13] = True
    donor = Location("other image", "rare", 0, 0, 9, 1, 36)
    pixels = np.full((20, 20, 3), 7, np.uint8)
    return nucleus_change(Candidate(instance, where, donor, 0.0, 50.0), instance, (row, col), pixels, origin, nucleus)


def test_replacing_and_pasting(target, location):
    replaced = place(target, 3, 10, 10, location(target, 1))
    pasted = place(target, 4, 0, 50, location(target, row=10, col=60))
    result = compose(target, [replaced, pasted])
    instances = result.image.instances
    assert set(np.unique(instances)) == {0, 2, 3, 4}
    assert {number: result.image.types[number] for number in (2, 3, 4)} == {2: 2, 3: 1, 4: 1}
    assert 1 not in result.image.types
    assert (instances == 3).sum() == (instances == 4).sum() == 36
    assert result.image.counts() == {1: 2, 2: 1}
    changed = result.origin != REAL
    assert changed.sum() == 2 * 14 * 14
    assert np.array_equal(result.image.pixels[~changed], target.pixels[~changed])
    assert (result.image.pixels[changed] == 7).all()
    assert np.array_equal(instances == 2, target.instances == 2)


def test_the_target_is_not_touched(target, location):
    pixels, instances, types = target.pixels.copy(), target.instances.copy(), dict(target.types)
    compose(target, [place(target, 3, 10, 10, location(target, 1))])
    assert np.array_equal(target.pixels, pixels)
    assert np.array_equal(target.instances, instances)
    assert target.types == types


def test_nothing_placed_is_the_target_itself(target):
    result = compose(target, [])
    assert np.array_equal(result.image.pixels, target.pixels)
    assert np.array_equal(result.image.instances, target.instances)
    assert result.image.types == target.types
    assert not result.origin.any()


def test_a_box_of_labels_clips_drops_and_adds(target):
    box = np.full((30, 30), KEEP, np.int32)
    box[:20] = 0
    box[5:10, 5:10] = 90
    origin = (box != KEEP).astype(np.uint8)
    change = Change(
        0,
        target.source.image,
        target.source.image,
        8,
        8,
        np.full((30, 30, 3), 9, np.uint8),
        origin,
        box,
        {90: 1},
        (1,),
        None,
        "x",
        0,
        (SourceRef("target", target.source.image),),
    )
    made = compose(target, [change]).image
    assert set(np.unique(made.instances)) == {0, 2, 90} and made.types == {2: 2, 90: 1} and made.synthetic == {90}
    assert np.array_equal(made.instances == 2, target.instances == 2)


def test_what_lies_under_a_patch_altogether_loses_its_type(target):
    labels = np.zeros((40, 40), np.int32)
    origin = np.ones((40, 40), np.uint8)
    change = Change(
        *(0, target.source.image, target.source.image, 0, 0, np.zeros((40, 40, 3), np.uint8), origin, labels),
        *({}, (), None, "x", 0, ()),
    )
    assert compose(target, [change]).image.types == {2: 2}


def test_a_derived_image_has_its_own_name_and_class(target):
    pixels, origin = np.zeros((70, 70, 3), np.uint8), np.ones((70, 70), np.uint8)
    made = compose(target, [image_change(0, target.source.image, "low", pixels, origin, name="mixed")]).image
    assert made.source.image == "mixed" and made.kind == "low" and not made.pixels.any()
    assert np.array_equal(made.instances, target.instances)


def test_a_new_image_needs_no_target():
    labels = np.zeros((8, 8), np.int32)
    labels[2:4, 2:4] = 5
    pixels, origin = np.full((8, 8, 3), 3, np.uint8), np.full((8, 8), 2, np.uint8)
    change = Change(0, "", "new", 0, 0, pixels, origin, labels, {5: 1}, (), None, "x", 0, ())
    made = new_image(change, 0.5, "made up")
    assert made.image.source.image == "new" and made.image.types == {5: 1} and made.image.synthetic == {5}
    assert np.array_equal(made.image.pixels, pixels) and np.array_equal(made.origin, origin)
    with pytest.raises(HistomixError, match="compose it with that image"):
        new_image(image_change(0, "a", "low", pixels, origin), 0.5, "made up")
