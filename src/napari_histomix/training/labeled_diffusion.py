"""What diffusion networks share that learn from labeled windows: the loss over timesteps, and how it is checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from napari_histomix.training.inpainting import SCHEDULE
from napari_histomix.training.labeled_windows import LabeledBatches, LabeledPicture, LabeledWindow

CHECK_TIMES = (60, 250, 500, 800)
"""Timesteps of the validation loss."""


class LabeledDiffusion(ABC):
    """A recipe (``loop.Recipe``) of a network that denoises what ``prepare`` puts first."""

    def __init__(self, settings: Any, start: Path | None) -> None:
        self.settings, self.start = settings, start
        self.schedule: Mapping[str, Any] = dict(SCHEDULE)
        self.scheduler = DDPMScheduler.from_config(dict(SCHEDULE))
        self.classes: tuple[str, ...] = ()
        self.network: Any = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the model card says beside the run."""
        return {"classes": list(self.classes)}

    def batches(self, pictures: Sequence[LabeledPicture], rank: int = 0) -> LabeledBatches:
        """Random windows of labeled pictures."""
        return LabeledBatches(pictures, self.settings, self.prepare, rank)

    @abstractmethod
    def prepare(
        self, windows: Sequence[LabeledWindow], rng: np.random.Generator, dropped: bool = True
    ) -> tuple[Tensor, ...]:
        """The tensors of windows: first what is denoised; conditions are left out now and then if ``dropped``."""

    @abstractmethod
    def _predicted(self, network: Any, batch: Any, noisy: Tensor, times: Tensor) -> Tensor:
        """What the network says of noisy items."""

    @abstractmethod
    def _error(self, predicted: Tensor, batch: Any, times: Tensor, noise: Tensor) -> Tensor:
        """Mean square error of v of each item (N,), where it counts."""

    def _besides(self, _predicted: Tensor, _batch: Any, _noisy: Tensor, _times: Tensor) -> Tensor | float:
        """What else the loss holds; by default nothing."""
        return 0.0

    def loss(self, network: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Weighted square error of v, where it counts; all randomness from a CPU generator."""
        clean = batch[0]
        times = torch.randint(len(self.scheduler), (len(clean),), generator=generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        alphas = self.scheduler.alphas_cumprod.to(clean.device)[times]
        ratio = alphas / (1 - alphas)
        weight = ratio.clamp(max=5) / (ratio + 1) if self.settings.weighting == "min-snr" else torch.ones_like(ratio)
        noisy = self.scheduler.add_noise(clean, noise, times)
        predicted = self._predicted(network, batch, noisy, times)
        error = (self._error(predicted, batch, times, noise) * weight).mean()
        return error + self._besides(predicted, batch, noisy, times)

    @torch.no_grad()
    def check(self, network: Any, batch: Any) -> float:
        """Mean loss at four timesteps over fixed noise."""
        total = 0.0
        for step in CHECK_TIMES:
            noise = torch.randn(batch[0].shape, generator=torch.Generator().manual_seed(step)).to(batch[0].device)
            times = torch.full((len(noise),), step, device=noise.device)
            predicted = self._predicted(network, batch, self.scheduler.add_noise(batch[0], noise, times), times)
            total += float(self._error(predicted, batch, times, noise).mean())
        return total / len(CHECK_TIMES)

    def parts(self, network: Any, _batch: Any) -> Any:
        """The network."""
        return network


def mean_error(predicted: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Mean square error of each item (N,) where it counts, (N, 1, H, W)."""
    error = (predicted.float() - wanted).square().mean(1, keepdim=True)
    return (error * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3)).clamp(min=1)
