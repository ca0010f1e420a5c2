"""The image and the structure model learn from labels, and end in models that load with their classes."""

from __future__ import annotations

import math

import pytest
import torch

from napari_histomix.datasets import load_sample
from napari_histomix.generation.models import adapted, load_generator
from napari_histomix.generation.networks import ConditionedUNet
from napari_histomix.training import settings_class
from napari_histomix.training.loop import train


@pytest.mark.parametrize("kind", ["image", "structure"])
def test_a_short_run_ends_in_a_model_that_knows_its_classes(kind, tmp_path):
    settings = settings_class(kind)(steps=1, batch=1, window=32)
    job = train(kind, [load_sample()], tmp_path / kind, settings=settings, mpp=(0.5, 0.5), device="cpu")
    checked = [event.figures["validation"] for event in job if "validation" in event.figures]
    assert all(map(math.isfinite, checked)) and checked
    model = load_generator(tmp_path / kind, kind)
    assert model.classes == ("lymphocyte", "stromal", "tumor") and model.mpp == 0.5
    assert model.card["training_pixels"]


@torch.no_grad()
def test_a_network_for_the_same_classes_in_another_order_paints_the_same():
    torch.manual_seed(0)
    before = ConditionedUNet(7, 3, 6 + 3, 0, block_out_channels=(8, 8)).eval()
    for convolution in before.spade:
        torch.nn.init.normal_(convolution.weight, std=0.1)
    after = adapted(before, ("lymphocyte", "tumor", "stromal"), ("Lymphocyte", "connective", "epithelial")).eval()
    noisy, maps = torch.randn(1, 7, 16, 16), torch.rand(1, 9, 16, 16)
    reordered = maps[:, [0, 1, 3, 2, *range(4, 9)]]
    torch.testing.assert_close(after(noisy, 500, reordered), before(noisy, 500, maps))
