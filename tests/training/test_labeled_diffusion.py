"""The image and the structure model learn from labels, and end in models that load with their classes."""

from __future__ import annotations

import math

import pytest

from napari_histomix.datasets import load_sample
from napari_histomix.generation.models import load_generator
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
