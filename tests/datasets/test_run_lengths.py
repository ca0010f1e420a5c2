from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from napari_histomix.datasets.formats.polygons import mask_of, mask_text
from napari_histomix.records import HistomixError

HUGE = {"size": [2**20, 2**20], "counts": "PPPPPPPP1"}
MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(MASKS)
def test_a_mask_comes_back_as_it_was(mask):
    again = mask_of(mask_text(mask))
    assert again.dtype == bool and np.array_equal(again, mask)


@given(MASKS)
def test_it_is_what_the_coco_tools_write_and_read(mask):
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    assert mask_text(mask) == {"size": theirs["size"], "counts": theirs["counts"].decode()}


def test_a_whole_segment_is_a_short_text():
    rows, cols = np.mgrid[:200, :240]
    mask = ((rows - 100) / 100) ** 2 + ((cols - 120) / 120) ** 2 <= 1
    assert len(mask_text(mask)["counts"]) < 1000


@given(st.text(max_size=12), st.integers(-3, 9), st.integers(-3, 9))
def test_any_other_text_is_refused_or_fills_the_mask(counts, height, width):
    try:
        mask = mask_of({"size": [height, width], "counts": counts})
    except HistomixError:
        return
    assert mask.shape == (height, width)


@pytest.mark.parametrize("text", [None, {}, "4", {"size": [2], "counts": "4"}, {"size": [2, 2], "counts": "é"}, HUGE])
def test_what_is_no_mask_is_one_sentence(text):
    with pytest.raises(HistomixError, match="run lengths"):
        mask_of(text)
