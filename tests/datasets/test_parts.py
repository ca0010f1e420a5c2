"""Instances that are more than one nucleus."""

import numpy as np
from skimage.draw import disk

from napari_histomix.datasets.parts import merged_notes, split_parts


def scene() -> np.ndarray:
    """Id 5 on two discs far apart, id 9 on one, with a crack of two pixels."""
    instances = np.zeros((80, 90), np.int32)
    for center, number in (((20, 20), 5), ((60, 70), 5), ((20, 60), 9)):
        instances[disk(center, 9)] = number
    instances[:, 60:62] = 0
    return instances


def test_parts_become_nuclei_of_the_same_type():
    parts, types, synthetic = split_parts(scene(), {5: 2, 9: 1}, frozenset({9}))
    assert parts.dtype == np.int32 and sorted(types) == list(range(1, 5)) == np.unique(parts[parts > 0]).tolist()
    owners = {number: int(np.unique(scene()[parts == number]).item()) for number in types}
    assert all(types[number] == {5: 2, 9: 1}[owner] for number, owner in owners.items())
    assert synthetic == {number for number, owner in owners.items() if owner == 9}
    np.testing.assert_array_equal(parts > 0, scene() > 0)


def test_shapes_far_apart_are_said_and_cracks_are_not():
    instances = scene()
    [note] = merged_notes(instances)
    assert note.startswith("1 id covers 2 shapes") and "--split-parts" in note
    instances[instances == 5] = 0
    assert merged_notes(instances) == []
    # A speck is no nucleus.
    instances[70, 10] = 9
    assert merged_notes(instances) == []
    assert merged_notes(np.zeros((5, 5), np.int32)) == []


def test_a_binary_mask_and_an_object_on_the_whole_image():
    [note] = merged_notes((scene() > 0).astype(np.int32) * 255)
    assert "1 id covers 3 shapes" in note
    whole = np.ones((20, 30), np.int32) * 7
    whole[:2] = 0
    assert merged_notes(whole) == ["object 7 covers 90% of the image; it is hardly a nucleus."]
