"""Untrained generators, small enough for seconds: where they paint and what they leave alone is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from napari_histomix.diffusion.model_files import save_model
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.networks import ConditionedUNet
from napari_histomix.generation.pix2pix import Generator

SCHEDULE = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": True,
}
CLASSES = ("lymphocyte", "tumor")


def image_model_folder(folder: Path) -> Path:
    """A model folder of the kind "image", for 0.5 µm/px."""
    torch.manual_seed(0)
    network = ConditionedUNet(7, 3, len(CLASSES) + 6, 7, (8, 16), 1, 4, 4)
    for weights in network.parameters():
        # What begins at zero would not follow any condition.
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.3)
    extra = {"kind": "image", "classes": list(CLASSES)}
    save_model(folder, network, SCHEDULE, name="tiny", mpp=(0.5, 0.5), windows=(64,), extra=extra)
    return folder


def pix2pix_folder(folder: Path) -> Path:
    """A model folder of the kind "pix2pix", for 0.5 µm/px."""
    torch.manual_seed(0)
    network = Generator(list(CLASSES), 4, 2)
    extra = {"kind": "pix2pix", "classes": list(CLASSES)}
    save_model(folder, network, {}, name="tiny pix2pix", mpp=(0.5, 0.5), windows=(64,), extra=extra)
    return folder


def squares(shape: tuple[int, int] = (48, 64), mpp: float = 0.5) -> Layout:
    """Three square nuclei: a lymphocyte, a tumor cell and one without a class."""
    instances = np.zeros(shape, np.int32)
    for number, (row, col) in enumerate(((6, 8), (6, 40), (30, 8)), start=1):
        instances[row : row + 9, col : col + 9] = number
    return Layout(instances, {1: "lymphocyte", 2: "tumor", 3: ""}, mpp)
