"""How the network learns that draws nuclei structures: diffusion on the maps of real labels, no image needed.

NuDiff's first network (arXiv 2310.14197) is unconditional. This one also follows class shares and density where they
are given; dropped now and then, the same weights serve without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_histomix.datasets import Dataset
from napari_histomix.generation.denoising import denoise
from napari_histomix.generation.models import class_origins, load_generator, picked
from napari_histomix.generation.networks import ConditionedUNet
from napari_histomix.generation.structure_model import CELL, condition_vector, structure_maps
from napari_histomix.records import HistomixError, Job
from napari_histomix.training.inpainting import few_bits
from napari_histomix.training.labeled_diffusion import LabeledDiffusion, mean_error
from napari_histomix.training.labeled_windows import (
    LabeledBatches,
    LabeledPicture,
    LabeledWindow,
    class_names,
    labeled_pictures,
)
from napari_histomix.training.settings import StructureSettings

WIDTHS = (64, 96, 128)
CHECKED = 16
SHOWN = 4


class StructureRecipe(LabeledDiffusion):
    """The network that draws nuclei structures."""

    columns = ("Real", "Drawn")
    what = (
        "A network that draws nuclei structures: semantic, horizontal and vertical maps and a map for each class, "
        "four by four pixels in one. Output: the structure without noise."
    )
    windows = (64, 128, 256)

    def __init__(self, settings: StructureSettings, start: Path | None, _autoencoder: Path | None = None) -> None:
        super().__init__(settings, start)
        # Structures are smooth: a network that need not repeat the noise, as v would, learns them in fewer steps.
        self.schedule = {**self.schedule, "prediction_type": "sample"}
        if settings.window % 16:
            raise HistomixError("Windows of this network must be multiples of 16 pixels.")

    def pictures(
        self, sources: Sequence[Path | Dataset], seed: int, splits: Mapping[str, str] | None
    ) -> Job[tuple[list[LabeledPicture], list[LabeledPicture]]]:
        """Labeled pictures; their classes are those that the network will draw."""
        learned, checked = yield from labeled_pictures(sources, self.settings, splits)
        self.classes = class_names(learned)
        start = load_generator(self.start, "structure") if self.start is not None else None
        channels = CELL**2 * (3 + len(self.classes))
        widths = WIDTHS if start is None else start.network.config["block_out_channels"]
        self.network = ConditionedUNet(channels, channels, 0, len(self.classes) + 2, widths)
        if start is not None:
            self.network.load_state_dict(for_classes(start.network.state_dict(), start.classes, self.classes))
        return learned, checked

    def fixed(self, pictures: Sequence[LabeledPicture]) -> tuple[Tensor, ...]:
        """The windows of the validation loss."""
        batches = LabeledBatches(pictures, self.settings, self.prepare)
        windows = [window for step in range(CHECKED) for window in batches.windows(step)][:CHECKED]
        return self.prepare(windows, np.random.default_rng(0), dropped=False)

    def prepare(
        self, windows: Sequence[LabeledWindow], rng: np.random.Generator, dropped: bool = True
    ) -> tuple[Tensor, ...]:
        """Structures (N, 16·(3 + classes), S/4, S/4), where the loss counts, and condition vectors."""
        maps = [structure_maps(window.layout, self.classes) for window in windows]
        vectors = []
        for window in windows:
            given = not (dropped and rng.random() < self.settings.dropout)
            vectors.append(condition_vector(window.layout if given else None, self.classes))
        ignored = torch.from_numpy(np.stack([window.ignore for window in windows]))[:, None].float()
        shuffle = torch.nn.functional.pixel_unshuffle
        counted = 1 - torch.nn.functional.max_pool2d(ignored, CELL)
        return shuffle(torch.from_numpy(np.stack(maps)), CELL), counted, torch.from_numpy(np.stack(vectors))

    def _predicted(self, network: Any, batch: Any, noisy: Tensor, times: Tensor) -> Tensor:
        with few_bits(noisy.device):
            predicted: Tensor = network(noisy.contiguous(memory_format=torch.channels_last), times, None, batch[2])
        return predicted

    def _error(self, predicted: Tensor, batch: Any, times: Tensor, noise: Tensor) -> Tensor:
        structures, counted, _ = batch
        error = mean_error(predicted, structures, counted)
        # v and what is denoised are linear in each other: v's error is this one times 1 / (1 − ᾱ).
        return error / (1 - self.scheduler.alphas_cumprod.to(error.device)[times])

    @torch.no_grad()
    def shown(self, network: Any, batch: Any) -> NDArray[np.uint8]:
        """A real structure, and one drawn for its shares and density, side by side."""
        real, _, vectors = (tensor[:SHOWN] for tensor in batch)
        *_, drawn = denoise(network, self.schedule, tuple(real.shape[1:]), None, vectors, range(len(real)), steps=20)
        rows = []
        for pair in zip(real, drawn, strict=True):
            maps = [torch.nn.functional.pixel_shuffle(each, CELL)[:3].cpu().numpy() for each in pair]
            rows.append(np.concatenate([((each + 1) * 127.5).clip(0, 255).transpose(1, 2, 0) for each in maps], axis=1))
        return np.concatenate(rows).astype(np.uint8)


def for_classes(weights: dict[str, Tensor], old: Sequence[str], new: Sequence[str]) -> dict[str, Tensor]:
    """Weights of a network that draws ``old`` classes for one that draws ``new`` ones.

    A class that is new begins as the old one that it is a synonym of, else as one that no nucleus has.
    """
    fixed = 3 * CELL**2
    origins = class_origins(old, new)
    cells = [None if at is None else fixed + CELL**2 * at + cell for at in origins for cell in range(CELL**2)]
    drawn = [*range(fixed), *cells]
    told = [*origins, len(old), len(old) + 1]
    weights["unet.conv_in.weight"] = picked(weights["unet.conv_in.weight"], 1, drawn)
    weights["unet.conv_out.weight"] = picked(weights["unet.conv_out.weight"], 0, drawn)
    bias = picked(weights["unet.conv_out.bias"], 0, drawn)
    bias[[at is None for at in drawn]] = -1
    weights["unet.conv_out.bias"] = bias
    weights["embed.0.weight"] = picked(weights["embed.0.weight"], 1, told)
    return weights
