"""What tests of networks share."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.draw import disk
from skimage.measure import label
from torch import Tensor, nn

from napari_histomix.diffusion.models import InpaintingModel
from napari_histomix.generation.models import GeneratorModel
from napari_histomix.generation.segmenter import SegmenterOutput
from napari_histomix.generation.structure import structure_of


def sees_surroundings(model: InpaintingModel) -> bool:
    """Whether the network is given the known pixels and the mask beside the sample."""
    return int(model.network.config["in_channels"]) == 2 * model.channels + 1


class SeesDiscs(nn.Module):
    """A segmenter that needs no training: dark is a nucleus, red dark is of the second class."""

    grid = 16

    def forward(self, images: Tensor) -> SegmenterOutput:
        assert not (images.shape[2] % 16 or images.shape[3] % 16)
        red, _, blue = images[0].numpy()
        nuclei = label(blue < 0).astype(np.int32)
        structure = torch.from_numpy(structure_of(nuclei))[None]
        second = torch.from_numpy(red > 0).float()
        return SegmenterOutput(12 * structure[:, :1] - 6, structure[:, 1:], torch.stack([1 - second, second])[None] * 9)


def disc_segmenter() -> GeneratorModel:
    """A segmenter of ``discs`` at 0.5 µm/px."""
    return GeneratorModel("segmenter", SeesDiscs(), {}, ("blue", "red"), 0.5, "discs", "0" * 64)


def discs(shape: tuple[int, int], places: list[tuple[int, int]], radius: int = 6) -> NDArray[np.uint8]:
    """White, with discs that are red and blue in turn."""
    pixels = np.full((*shape, 3), 255, np.uint8)
    for number, place in enumerate(places):
        pixels[disk(place, radius, shape=shape)] = [(40, 40, 90), (220, 40, 90)][number % 2]
    return pixels
