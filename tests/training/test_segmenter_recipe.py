"""What the segmenter learns from labeled windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_histomix.diffusion.model_files import save_model
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.segmenter import SegmenterNetwork, SegmenterOutput
from napari_histomix.training.labeled_windows import LabeledWindow
from napari_histomix.training.segmenting import (
    NOT_KNOWN,
    SegmenterBatch,
    SegmenterRecipe,
    batch_of,
    slopes,
    structure_loss,
    vary,
)
from napari_histomix.training.settings import SegmenterSettings


@pytest.fixture
def tiny_segmenter() -> SegmenterNetwork:
    torch.manual_seed(0)
    options = {"layers": [1, 1], "channels": [8, 8], "stem_type": "deep", "stem_width": 4, "out_indices": [0, 1, 2]}
    return SegmenterNetwork("resnet18", options, widths=[8, 8], detail=4, classes=("lymphocyte", "tumor", "stromal"))


def perfect(batch: SegmenterBatch) -> SegmenterOutput:
    """What a network would say that has learned everything."""
    classes = torch.nn.functional.one_hot(batch.classes.clamp(min=0), 3).permute(0, 3, 1, 2)
    return SegmenterOutput(40 * batch.structure[:, :1] - 20, batch.structure[:, 1:].clone(), 40.0 * classes)


@pytest.fixture
def batch() -> SegmenterBatch:
    structure, classes = torch.zeros(1, 3, 32, 32), torch.full((1, 32, 32), NOT_KNOWN)
    structure[0, 0, 8:16, 8:16], classes[0, 8:16, 8:16] = 1, 1
    structure[0, 1, 8:16, 8:16] = torch.linspace(-1, 1, 8)
    structure[0, 0, 20:28, 20:28] = 1  # of no known class
    known = torch.ones(1, 1, 32, 32)
    known[:, :, :, 28:] = 0
    return SegmenterBatch(torch.zeros(1, 3, 32, 32), structure, classes, known)


def test_the_loss_falls_to_nothing_where_all_is_right_and_hears_every_error(batch):
    assert structure_loss(perfect(batch), batch) < 1e-4
    for number in range(3):
        wrong = perfect(batch)
        wrong[number][:, :, 8:16, 8:16] *= -1
        assert structure_loss(wrong, batch) > 0.05


def test_ignored_pixels_and_unknown_classes_give_no_loss(batch):
    output = perfect(batch)
    output.semantic[..., 28:] = 20
    output.classes[:, :, 20:28, 20:28] = torch.randn(1, 3, 8, 8)
    assert structure_loss(output, batch) < 1e-4


def test_slopes_are_along_each_maps_own_axis():
    ramp = torch.arange(16.0).expand(16, 16)
    along, across = (slopes(torch.stack([plane, plane])[None])[0, :, 4:-4, 4:-4] for plane in (ramp, ramp.T))
    assert (along[0] > 1).all() and (across[1] > 1).all()
    assert along[1].abs().max() < 1e-3 and across[0].abs().max() < 1e-3


def test_colors_vary_and_repeat():
    pixels = np.random.default_rng(0).integers(60, 220, (32, 32, 3)).astype(np.uint8)
    first, again, other = (vary(pixels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.uint8 and first.shape == pixels.shape
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_other_classes_keep_all_but_the_class_layer(tiny_segmenter, tmp_path):
    save_model(tmp_path / "tiny", tiny_segmenter, {}, name="tiny", mpp=(0.5, 0.5), windows=(64,))
    recipe = SegmenterRecipe(SegmenterSettings(), tmp_path / "tiny")
    recipe.begin(("eosinophil", "other"))
    assert recipe.network.class_head[1].out_channels == 2
    torch.testing.assert_close(
        recipe.network.backbone.conv1[0].weight, tiny_segmenter.backbone.conv1[0].weight.half().float()
    )


def test_windows_become_targets():
    instances, ignore = np.zeros((32, 32), np.int32), np.zeros((32, 32), bool)
    instances[4:12, 4:12], instances[4:12, 16:24], instances[20:28, 4:12] = 5, 7, 9
    ignore[:, 28:] = True
    layout = Layout(instances, {5: "tumor", 7: "", 9: "lymphocyte"}, 0.5)
    pixels = np.full((32, 32, 3), 255, np.uint8)
    batch = batch_of([LabeledWindow(pixels, layout, ignore, np.zeros(6, np.float32))], ("lymphocyte", "tumor"))
    assert batch.images.min() == 1 and batch.structure[0, 0].sum() == 3 * 64
    assert set(batch.classes[0, 4:12, 4:12].flatten().tolist()) == {1}
    assert set(batch.classes[0, 4:12, 16:24].flatten().tolist()) == {NOT_KNOWN}
    assert set(batch.classes[0, 20:28, 4:12].flatten().tolist()) == {0}
    assert batch.known[..., :28].all() and not batch.known[..., 28:].any()
