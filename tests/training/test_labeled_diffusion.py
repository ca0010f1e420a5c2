"""The image and the structure model learn from labels, and end in models that load with their classes."""

from __future__ import annotations

import math

import pytest
import torch

from napari_histomix.datasets import load_sample
from napari_histomix.generation.models import adapted, load_generator
from napari_histomix.generation.networks import ConditionedUNet
from napari_histomix.records import HistomixError, drain
from napari_histomix.training import settings_class
from napari_histomix.training.loop import train
from napari_histomix.training.structure_model import for_classes
from napari_histomix.weights import bundled_model


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


@torch.no_grad()
def test_a_network_for_more_classes_draws_the_known_ones_as_before_and_no_new_one():
    torch.manual_seed(0)
    cell = 16
    before = ConditionedUNet(5 * cell, 5 * cell, 0, 4, block_out_channels=(8, 8)).eval()
    torch.nn.init.normal_(before.embed[2].weight, std=0.1)
    after = ConditionedUNet(6 * cell, 6 * cell, 0, 5, block_out_channels=(8, 8)).eval()
    after.load_state_dict(
        for_classes(before.state_dict(), ("lymphocyte", "tumor"), ("epithelial", "mitosis", "lymphocyte"))
    )
    noisy, shares = torch.randn(1, 5 * cell, 16, 16), torch.tensor([[0.25, 0.75, 0.5, 1]])
    structure, lymphocyte, tumor = noisy.split([3 * cell, cell, cell], dim=1)
    more = torch.cat([structure, tumor, torch.randn_like(tumor), lymphocyte], dim=1)
    drawn = before(noisy, 500, None, shares)
    again = after(more, 500, None, torch.tensor([[0.75, 0.9, 0.25, 0.5, 1]]))
    parts = again.split([3 * cell, cell, cell, cell], dim=1)
    torch.testing.assert_close(torch.cat([parts[0], parts[3], parts[1]], dim=1), drawn)
    assert (parts[2] == -1).all()


def test_a_network_of_another_kind_is_no_start(tmp_path):
    settings = settings_class("structure")(steps=1, batch=1, window=32)
    start = load_generator("", "image")
    job = train("structure", [load_sample()], tmp_path / "new", settings=settings, start=bundled_model("he-image"))
    with pytest.raises(HistomixError, match=f"{start.name} is of the kind 'image', not 'structure'"):
        drain(job)
