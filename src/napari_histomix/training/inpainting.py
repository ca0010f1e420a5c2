"""What networks for holes and their autoencoders learn: architecture, loss, how they are checked and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histomix.diffusion.inpainter import Window, as_pixels, inpaint
from napari_histomix.diffusion.model_files import CARD_FILE, SCHEDULE_FILE, load_model, load_part, read_json
from napari_histomix.diffusion.models import InpaintingModel, encode, fast_dtype, latent_space, network_input
from napari_histomix.diffusion.samplers import PRESETS
from napari_histomix.records import HistomixError, drain
from napari_histomix.training.images import Batches, Picture, random_hole, training_pictures
from napari_histomix.training.settings import InpainterSettings, TrainingSettings

SCHEDULE: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": True,
}
CHECK_TIMES = (20, 60, 120, 250, 500, 900)
"""Timesteps of the validation loss."""
CHECKED = 48
"""Windows of the validation loss."""
SHOWN = 4
"""Windows in the picture of samples."""


class Inpainter:
    """The conditional network on pixels, or on the latents of an autoencoder."""

    settings: InpainterSettings
    columns: tuple[str, ...] = ("Real", "Hidden", "Painted")
    what = (
        "An inpainting network for H&E windows. Input: 7 channels (noisy RGB, known RGB with the hole at 0, mask). "
        "Output: v-prediction."
    )
    pictures = staticmethod(training_pictures)
    facts: Mapping[str, Any] = {}

    def __init__(self, settings: InpainterSettings, start: Path | None, _autoencoder: Path | None = None) -> None:
        self._begin(settings, start, None)

    def _begin(
        self, settings: InpainterSettings, start: Path | None, autoencoder: AutoencoderKL | VQModel | None
    ) -> None:
        self.settings, self.autoencoder = settings, autoencoder
        channels, self.reduction = latent_space(autoencoder)
        self.network, self.schedule = _begun(start, channels, settings.window // self.reduction)
        self.scheduler = DDPMScheduler.from_config(dict(self.schedule))
        sides = (48, 64, 80, 96, 128) if autoencoder is None else (64, 96, 128, 192, 256)
        self.windows = tuple(side for side in sides if side % (4 * self.reduction) == 0)
        if settings.window % (4 * self.reduction):
            raise HistomixError(f"Windows of this network must be multiples of {4 * self.reduction} pixels.")

    def batches(self, pictures: Sequence[Picture], rank: int = 0) -> Batches:
        """Random windows with random holes."""
        return Batches(pictures, self.settings, random_hole, rank)

    def fixed(self, pictures: Sequence[Picture]) -> tuple[Tensor, ...]:
        """Windows of the validation loss: none of them hidden whole."""
        settings = replace(self.settings, batch=CHECKED, unconditional=0.0)
        return Batches(pictures, settings, random_hole).at(0)

    def loss(self, network: Any, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Weighted square error of v, inside the hole and a little outside; all randomness from a CPU generator."""
        images, holes = self._space(*batch)
        times = random_steps(len(images), self.settings, generator).to(images.device)
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        return self._loss(network, images, holes, times, noise, self.settings.outside_weight)

    def _space(self, images: Tensor, holes: Tensor) -> tuple[Tensor, Tensor]:
        if self.autoencoder is None:
            return images, holes
        with torch.no_grad():
            return encode(self.autoencoder.to(images.device), images), nn.functional.max_pool2d(holes, self.reduction)

    def _loss(
        self, network: Any, images: Tensor, hole: Tensor, steps: Tensor, noise: Tensor, outside_weight: float
    ) -> Tensor:
        noisy = self.scheduler.add_noise(images, noise, steps)
        seen = network_input(noisy, images, hole, 2 * images.shape[1] + 1)
        with few_bits(images.device):
            predicted = network(seen.contiguous(memory_format=torch.channels_last), steps).sample
        wanted = self.scheduler.get_velocity(images, noise, steps)
        error = (predicted.float() - wanted).square().mean(1, keepdim=True)
        inside = (error * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3)).clamp(min=1)
        outside = (error * (1 - hole)).sum((1, 2, 3)) / (1 - hole).sum((1, 2, 3)).clamp(min=1)
        each = inside + outside_weight * outside
        if self.settings.weighting == "min-snr":
            alphas = self.scheduler.alphas_cumprod.to(images.device)[steps]
            ratio = alphas / (1 - alphas)
            each = each * ratio.clamp(max=5) / (ratio + 1)
        return each.mean()

    @torch.no_grad()
    def check(self, network: Any, batch: tuple[Tensor, Tensor]) -> float:
        """Validation loss: mean inside the holes at six timesteps, over fixed noise."""
        images, holes = self._space(*batch)
        total = 0.0
        for step in CHECK_TIMES:
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(step)).to(images.device)
            steps = torch.full((len(images),), step, device=images.device)
            total += float(self._loss(network, images, holes, steps, noise, 0.0))
        return total / len(CHECK_TIMES)

    def shown(self, network: Any, batch: tuple[Tensor, Tensor]) -> NDArray[np.uint8]:
        """Truth, hole and fill side by side (H, W, 3), one row a window."""
        images, holes = batch
        truths, masks = as_pixels(images[:SHOWN]), holes[:SHOWN, 0].cpu().numpy() > 0
        shown = [(truth, mask) for truth, mask in zip(truths, masks, strict=True) if not mask.all() and mask.any()]
        model = InpaintingModel(network, self.schedule, (1, 1), self.windows, "sample", "", self.autoencoder)
        windows = [Window(truth, mask, seed) for seed, (truth, mask) in enumerate(shown)]
        fills = drain(inpaint(windows, model, PRESETS["fast"].disc, device=str(images.device)))
        rows = []
        for window, fill in zip(windows, fills, strict=True):
            hidden = np.where(window.hole[..., None], np.uint8(255), window.pixels)
            rows.append(np.concatenate([window.pixels, hidden, fill], axis=1))
        return np.concatenate(rows)

    def parts(self, network: Any, _batch: Any) -> nn.Module | Mapping[str, nn.Module]:
        """What is saved: the network, alone or with its autoencoder as an ``LDMPipeline``."""
        return network if self.autoencoder is None else {"unet": network, "vqvae": self.autoencoder}


class LatentInpainter(Inpainter):
    """The conditional network on the latents of a trained autoencoder."""

    what = (
        "An inpainting network on the latents of an autoencoder, with it, as a diffusers LDMPipeline folder. "
        "Input: known latents and mask beside the noisy ones. Output: v-prediction."
    )

    def __init__(self, settings: InpainterSettings, start: Path | None, autoencoder: Path | None = None) -> None:
        if autoencoder is None:
            raise HistomixError("A latent network needs an autoencoder: train one first and name its folder.")
        coder = load_part(AutoencoderKL, autoencoder)[0].eval().requires_grad_(False)
        self._begin(settings, start / "unet" if start else None, coder)


class Autoencoder:
    """An AutoencoderKL: a quarter of the pixels a side, four channels. Its methods are those of ``Inpainter``."""

    schedule: Mapping[str, Any] = {}
    windows = (64, 96, 128, 192, 256)
    columns = ("Real", "Rebuilt")
    what = "An autoencoder for H&E windows: a quarter of the pixels a side, four channels."
    pictures = staticmethod(training_pictures)
    facts: Mapping[str, Any] = {}

    def __init__(self, settings: TrainingSettings, start: Path | None, _autoencoder: Path | None = None) -> None:
        self.settings = settings
        if settings.window % 4:
            raise HistomixError("Windows of an autoencoder must be multiples of 4 pixels.")
        self.network = load_part(AutoencoderKL, start)[0] if start else new_autoencoder(settings.window)

    def batches(self, pictures: Sequence[Picture], rank: int = 0) -> Batches:
        """Random windows."""
        return Batches(pictures, self.settings, None, rank)

    def fixed(self, pictures: Sequence[Picture]) -> tuple[Tensor, ...]:
        """Windows of the validation loss."""
        return Batches(pictures, replace(self.settings, batch=CHECKED), None).at(0)

    def loss(self, network: Any, batch: tuple[Tensor], generator: torch.Generator) -> Tensor:
        """Mean absolute error of colors and of their differences, and a little Kullback–Leibler divergence."""
        (images,) = batch
        noise_seed = int(torch.randint(2**31, (1,), generator=generator))
        # One of several processes trains the network within a wrapper.
        coder = network.module if hasattr(network, "module") else network
        with few_bits(images.device):
            made = network(images, sample_posterior=True, generator=torch.Generator().manual_seed(noise_seed)).sample
            divergence = coder.encode(images).latent_dist.kl().mean()
            return reconstruction_loss(made.float(), images) + 1e-6 * divergence

    @torch.no_grad()
    def check(self, network: Any, batch: tuple[Tensor]) -> float:
        """Mean reconstruction loss."""
        (images,) = batch
        return float(reconstruction_loss(network(images).sample.float(), images))

    @torch.no_grad()
    def shown(self, network: Any, batch: tuple[Tensor]) -> NDArray[np.uint8]:
        """Truth and reconstruction side by side."""
        (images,) = batch
        truths, made = as_pixels(images[:SHOWN]), as_pixels(network(images[:SHOWN]).sample)
        return np.concatenate(np.concatenate([truths, made], axis=2))

    @torch.no_grad()
    def parts(self, network: Any, batch: tuple[Tensor]) -> nn.Module:
        """The autoencoder, with the scaling factor that gives latents of unit spread in its configuration."""
        (images,) = batch
        spread = float(network.encode(images).latent_dist.mode().std())
        network.register_to_config(scaling_factor=1 / max(spread, 1e-6))
        return network


def new_network(channels: int, side: int) -> UNet2DModel:
    """An untrained conditional network of 4 million weights (8 MB in fp16)."""
    return UNet2DModel(
        sample_size=side,
        in_channels=2 * channels + 1,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
    )


def new_autoencoder(side: int) -> AutoencoderKL:
    """An untrained autoencoder of 1.6 million weights."""
    return AutoencoderKL(
        sample_size=side,
        latent_channels=4,
        block_out_channels=(24, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def _begun(start: Path | None, channels: int, side: int) -> tuple[UNet2DModel, dict[str, Any]]:
    """Network and schedule to begin with."""
    if start is None:
        return new_network(channels, side), SCHEDULE | {"clip_sample": channels == 3}
    if channels == 3 and (start / CARD_FILE).is_file():
        # With a card, the weights must be those it names.
        model = load_model(start)
        network, schedule = model.network, dict(model.schedule)  # type: ignore[union-attr]
    else:
        schedule = SCHEDULE | {"clip_sample": False}
        if channels == 3:
            schedule = read_json(start / SCHEDULE_FILE, "a diffusers scheduler configuration")
        network, _ = load_part(UNet2DModel, start)
    if int(network.config["in_channels"]) != 2 * channels + 1 or schedule.get("prediction_type") != "v_prediction":
        raise HistomixError(f"{start}: only a v-prediction network of {2 * channels + 1} channels can be trained on.")
    return network, schedule


def random_steps(count: int, settings: InpainterSettings, generator: torch.Generator) -> Tensor:
    """Timesteps of a batch, more of them where little noise is left."""
    low = torch.rand(count, generator=generator) < settings.low_noise
    position = torch.rand(count, generator=generator)
    total = int(SCHEDULE["num_train_timesteps"])
    near = position**settings.low_noise_power * settings.low_noise_limit
    return torch.where(low, near, position * total).long().clamp(max=total - 1)


def reconstruction_loss(made: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error of colors, and of the differences between neighbors: nuclei live by their outlines."""
    edges = sum((made.diff(dim=axis) - truth.diff(dim=axis)).abs().mean() for axis in (2, 3))
    return (made - truth).abs().mean() + edges


def few_bits(device: torch.device) -> torch.autocast:
    """Let products be computed in the number format that is fastest on a device."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
