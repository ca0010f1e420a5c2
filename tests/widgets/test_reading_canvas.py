"""Crops of a reader test on the canvas: all alike but for their pixels, and nothing left of them while covered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_histomix.widgets.reader_test_panel import Offer
from napari_histomix.widgets.reading_canvas import BLANK, CanvasCrop

SIDE = 64


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def crop(lost: list[str]) -> CanvasCrop:
    return CanvasCrop(ViewerModel(), lambda: lost.append("lost"))


def a_crop(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def test_all_crops_are_shown_alike_with_arrowheads_beside_them(crop: CanvasCrop) -> None:
    viewer, states = crop.viewer, []
    for seed, mark in enumerate(((30, 33), (35, 28), (30, 33))):
        viewer.camera.zoom = 40 + seed
        crop.show(a_crop(seed), mark)
        np.testing.assert_array_equal(crop.pixels, a_crop(seed))
        assert crop.mark == mark
        names = [(layer.name, dict(layer.metadata), tuple(layer.scale)) for layer in viewer.layers]
        states.append((names, viewer.camera.zoom, tuple(viewer.camera.center)))
        heads = np.stack(crop.marks.data)
        assert ((heads < -0.5) | (heads > SIDE - 0.5)).any(axis=(1, 2)).all(), "none over the crop"
        tips = heads[:, 0]
        assert tips[:2, 0].tolist() == [mark[0]] * 2 and tips[2:, 1].tolist() == [mark[1]] * 2
        status = viewer.layers.selection.active.get_status((5.0, 5.0), dims_displayed=[0, 1])
        assert status["layer_name"] == "crop"
    assert states[0] == states[1] == states[2]
    assert crop.image.interpolation2d == "cubic"


def test_crops_are_asked_about_in_two_dimensions(crop: CanvasCrop) -> None:
    crop.show(a_crop(1), (30, 30))
    crop.viewer.dims.ndisplay = 3
    crop.show(a_crop(2), (35, 28))
    assert crop.viewer.dims.ndisplay == 2 and len(crop.marks.data) == 4
    np.testing.assert_array_equal(crop.pixels, a_crop(2))


def test_nothing_of_a_covered_crop_is_left(crop: CanvasCrop) -> None:
    crop.show(a_crop(1), (30, 30))
    crop.cover()
    assert crop.pixels is None and (crop.image.data == BLANK).all() and not len(crop.marks.data)
    assert not any(layer.visible for layer in crop.viewer.layers)
    assert (crop.image.thumbnail[..., :3] == crop.image.thumbnail[0, 0, :3]).all()
    crop.close()
    assert not len(crop.viewer.layers)


def test_a_crop_whose_layer_is_deleted_comes_back(crop: CanvasCrop, lost: list[str]) -> None:
    crop.show(a_crop(1), (30, 30))
    crop.viewer.layers.remove(crop.marks)
    assert lost == ["lost"] and crop.pixels is None and not len(crop.viewer.layers)
    crop.show(a_crop(2), (30, 30))
    np.testing.assert_array_equal(crop.pixels, a_crop(2))


def test_what_a_test_can_show_is_said_of_one_and_of_many() -> None:
    words = [text for text, *_ in Offer(None, {"nuclei": (1, 3), "images": (0, 1)}).choices]
    assert words == [
        "1 approved nucleus",
        "3 nuclei, all but rejected",
        "0 approved images",
        "1 image, all but rejected",
    ]
