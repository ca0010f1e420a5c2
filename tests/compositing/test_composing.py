from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.compositing import compose
from napari_histomix.records import DONOR, INPAINTED, REAL, Candidate, Location, Placement


@pytest.fixture
def target(labeled_image):
    return labeled_image([(20, 20, 5, 5, 2), (50, 50, 5, 5, 2)], shape=(70, 70))


def place(target, instance: int, row: int, col: int, where: Location) -> Placement:
    """A 20 × 20 patch: a square nucleus of 6 × 6 inside donor pixels inside inpainted ones, the frame untouched."""
    origin = np.zeros((20, 20), np.uint8)
    origin[3:17, 3:17] = INPAINTED
    origin[6:14, 6:14] = DONOR
    nucleus = np.zeros((20, 20), bool)
    nucleus[7:13, 7:13] = True
    donor = Location("other image", "rare", 0, 0, 9, 1, 36)
    pixels = np.full((20, 20, 3), 7, np.uint8)
    return Placement(Candidate(instance, where, donor, 0.0, 50.0), instance, row, col, pixels, origin, nucleus, 0)


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
