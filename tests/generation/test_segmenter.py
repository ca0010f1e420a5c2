"""The segmenter's network."""

from __future__ import annotations

import pytest
import torch

from napari_histomix.diffusion.model_files import load_part, save_model
from napari_histomix.generation.segmenter import SegmenterNetwork, new_segmenter

CLASSES = ("lymphocyte", "tumor", "stromal")
TINY = {"layers": [1, 1], "channels": [8, 8], "stem_type": "deep", "stem_width": 4, "out_indices": [0, 1, 2]}


@pytest.fixture
def tiny() -> SegmenterNetwork:
    torch.manual_seed(0)
    return SegmenterNetwork("resnet18", TINY, widths=[8, 8], detail=4, classes=CLASSES).eval()


def test_sizes_are_those_that_are_promised():
    small, full = (
        sum(weight.numel() for weight in new_segmenter(size, CLASSES).parameters()) for size in ("small", "full")
    )
    assert 0.8e6 < small < 1.3e6 < 10e6 < full


@pytest.mark.parametrize("shape", [(32, 64), (96, 32)])
def test_every_pixel_gets_an_answer(tiny, shape):
    output = tiny(torch.zeros(2, 3, *shape))
    assert [tensor.shape for tensor in output] == [(2, 1, *shape), (2, 2, *shape), (2, 3, *shape)]


def test_it_comes_back_from_disk_as_it_was(tiny, tmp_path):
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    for _ in range(3):
        tiny.train()(images)
    tiny.eval().to(torch.float16).to(torch.float32)
    save_model(tmp_path / "tiny", tiny, {}, name="tiny", mpp=(0.5, 0.5), windows=(64,))
    again, _ = load_part(SegmenterNetwork, tmp_path / "tiny")
    assert again.config["classes"] == list(CLASSES)
    for before, after in zip(tiny(images), again.eval()(images), strict=True):
        torch.testing.assert_close(before, after)
