"""Images and labels at another scale lie on each other, and no scale makes an image that no machine holds."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.generation.layout import Layout
from napari_histomix.records import HistomixError
from napari_histomix.scales import resized, resized_labels, same_scale, shape_at_scale


@pytest.mark.parametrize("mpp", [0.1, 0.25, 0.4, 0.5, 0.8, 1.3])
def test_pixels_and_labels_stay_on_each_other(mpp):
    labels = np.zeros((90, 130), np.int32)
    labels[20:60, 30:90] = 7
    shape = shape_at_scale(labels.shape, 0.5, mpp)
    shown = resized(np.uint8(200) * (labels > 0).astype(np.uint8), shape)
    moved = resized_labels(labels, shape)
    assert moved.shape == shown.shape == shape and set(np.unique(moved)) == {0, 7}
    # A pixel of a border may round either way, no more.
    assert np.count_nonzero((shown > 100) != (moved > 0)) <= 2 * sum(shape)
    inside, seen = (np.argwhere(mask).mean(0) for mask in (moved > 0, shown > 100))
    assert np.abs(inside - seen).max() <= 0.51


def test_a_scale_that_is_wrong_is_a_sentence_and_a_large_image_is_none():
    with pytest.raises(HistomixError, match=r"256×256 pixels would have 51,200×51,200 at 0.5"):
        shape_at_scale((256, 256, 3), 100, 0.5)
    for shape, mpp in (((64, 64), 8.5), ((20_000, 20_000), 0.6)):
        with pytest.raises(HistomixError, match="check the scale"):
            shape_at_scale(shape, mpp, 0.5)
    assert shape_at_scale((60_000, 80_000, 3), 0.25, 0.5) == (30_000, 40_000)
    assert not same_scale(0.5, 0.49) and same_scale(0.5, 0.4912)


def test_a_layout_of_its_own_scale_is_itself_and_lost_nuclei_are_not_listed():
    instances = np.zeros((40, 40), np.int32)
    instances[3, 3], instances[10:20, 10:20] = 1, 2
    layout = Layout(instances, {1: "a", 2: "b"}, 0.25)
    assert layout.at_scale(0.2512) is layout
    assert layout.at_scale(1.0).classes == {2: "b"}
