"""Models that fill holes, what must be known to use them, and what provenance tells of them and of the machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel
from torch import Tensor

from napari_histomix import __version__
from napari_histomix.devices import choose_device

LIBRARIES = ("diffusers", "numpy", "scikit-image", "scipy")
"""By the names they are installed under; torch and OpenCV say theirs themselves."""


@dataclass(eq=False)
class InpaintingModel:
    """A network that denoises windows of pixels or of latents, with what must be known to use it.

    Parameters
    ----------
    network : UNet2DModel
        Of C channels (3 for pixels, else the autoencoder's): takes C (noisy windows only: unconditional) or 2·C + 1
        (noisy, known with the hole at 0, mask with 1 in the hole). What it gives beyond C channels (a learned
        variance) is left aside.
    schedule : mapping
        diffusers scheduler configuration (``beta_schedule``, ``num_train_timesteps``, ``prediction_type``).
    mpp : (low, high)
        Range of µm/px the network was trained on; windows outside it are resampled to its nearer end.
    windows : tuple of int
        Side lengths in pixels it may be run at, smallest first.
    name, sha256 : str
        Identity, for provenance.
    autoencoder : AutoencoderKL or VQModel, optional
        Between pixels and latents; None for a network that works on pixels.
    card : mapping
        All that ``histomix.json`` says.
    """

    network: UNet2DModel
    schedule: Mapping[str, Any]
    mpp: tuple[float, float]
    windows: tuple[int, ...]
    name: str
    sha256: str
    autoencoder: AutoencoderKL | VQModel | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Channels of the space the network works in."""
        return latent_space(self.autoencoder)[0]

    @property
    def reduction(self) -> int:
        """Pixels a side of one latent; 1 for a network that works on pixels."""
        return latent_space(self.autoencoder)[1]

    @property
    def grid(self) -> int:
        """Sides in pixels that the model can see are multiples of this."""
        return 2 ** (len(self.network.config["block_out_channels"]) - 1) * self.reduction


@dataclass(eq=False)
class PromptedModel:
    """A whole pipeline with its prompt; the rest as in ``InpaintingModel``.

    It runs its own scheduler: of a sampler only ``steps`` and ``start`` (its strength, out of 1000) count.
    """

    pipeline: Any
    prompt: str
    mpp: tuple[float, float]
    windows: tuple[int, ...]
    name: str
    sha256: str
    card: Mapping[str, Any]

    grid = 8


AnyModel = InpaintingModel | PromptedModel
"""Whatever the engine can fill holes with."""


def latent_space(autoencoder: AutoencoderKL | VQModel | None) -> tuple[int, int]:
    """Channels of an autoencoder's latents, and how many pixels a side one of them stands for; without it, pixels."""
    if autoencoder is None:
        return 3, 1
    return int(autoencoder.config["latent_channels"]), 2 ** (len(autoencoder.config["block_out_channels"]) - 1)


def encode(autoencoder: AutoencoderKL | VQModel, pixels: Tensor) -> Tensor:
    """Latents (N, C, H/f, W/f) of pixels (N, 3, H, W) in [−1, 1], scaled as the network expects them."""
    coded = autoencoder.encode(pixels)
    latents = coded.latents if isinstance(autoencoder, VQModel) else coded.latent_dist.mode()
    return latents * autoencoder.config["scaling_factor"]


def decode(autoencoder: AutoencoderKL | VQModel, latents: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) in [−1, 1] of latents."""
    return autoencoder.decode(latents / autoencoder.config["scaling_factor"]).sample


def network_input(noisy: Tensor, known: Tensor | None, hole: Tensor | None, channels: int) -> Tensor:
    """Stack what the network sees: (N, channels, H, W).

    ``known`` (N, C, H, W) and ``hole`` (N, 1, H, W; 1 in the hole) condition a network of 2·C + 1 channels; without
    them everything counts as hidden, which makes the same network unconditional.
    """
    if channels == noisy.shape[1]:
        return noisy
    if known is None or hole is None:
        return torch.cat([noisy, torch.zeros_like(noisy), torch.ones_like(noisy[:, :1])], dim=1)
    return torch.cat([noisy, known * (1 - hole), hole], dim=1)


def fast_dtype(device: torch.device) -> torch.dtype:
    """The number format a network runs fastest in without visible loss.

    bfloat16 on CUDA and on processors with bfloat16 instructions, float16 on MPS; elsewhere float32, because emulated
    bfloat16 is twice as slow.
    """
    if device.type == "cuda":
        return torch.bfloat16
    if device.type == "mps":
        return torch.float16
    listed = _processor_lines()
    return torch.bfloat16 if "amx_bf16" in listed or "avx512_bf16" in listed else torch.float32


def model_facts(model: AnyModel) -> dict[str, Any]:
    """Which model it was, and its prompt, which its weights do not hold."""
    facts: dict[str, Any] = {
        "model": model.name,
        "model_sha256": model.sha256,
        "model_mpp": list(model.mpp),
        "model_windows": list(model.windows),
    }
    return facts | ({"prompt": model.prompt} if isinstance(model, PromptedModel) else {})


def machine_facts(model: object, device: str) -> dict[str, Any]:
    """Where a model computes on this machine when told to use ``device`` (auto, cpu, cuda or mps), and with what.

    ``threads`` counts on a processor alone: sums over several of them are rounded in another order.
    """
    place = choose_device(device)
    precision = fast_dtype(place)
    # Pipelines keep their own number format on a processor (``inpainter``).
    if isinstance(model, PromptedModel) and place.type == "cpu":
        precision = model.pipeline.dtype
    facts: dict[str, Any] = {"device": place.type, "precision": str(precision).removeprefix("torch.")}
    if place.type == "cpu":
        facts |= {"processor": processor(), "threads": torch.get_num_threads()}
    elif place.type == "cuda":
        facts["device"] = f"cuda {torch.cuda.get_device_name(place)}"
    return facts | {"versions": versions()}


def processor() -> str:
    """The processor's name, and the widest instructions that torch uses on it."""
    lines = _processor_lines().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, "") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _processor_lines() -> str:
    """Linux's description of the processor; empty elsewhere."""
    description = Path("/proc/cpuinfo")
    return description.read_text(encoding="utf-8", errors="replace") if description.is_file() else ""


def versions() -> dict[str, str]:
    """Versions of everything that shapes pixels."""
    own = {"napari-histomix": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return own | {"opencv": cv2.__version__} | {name: version(name) for name in LIBRARIES}
