"""Networks that fill holes, with what must be known to use them: scale, window, and the space they work in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel
from torch import Tensor


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
        return 3 if self.autoencoder is None else int(self.autoencoder.config["latent_channels"])

    @property
    def conditional(self) -> bool:
        """Whether the network sees the known pixels and the mask."""
        return int(self.network.config["in_channels"]) == 2 * self.channels + 1

    @property
    def reduction(self) -> int:
        """Pixels a side of one latent; 1 for a network that works on pixels."""
        return 1 if self.autoencoder is None else 2 ** (len(self.autoencoder.config["block_out_channels"]) - 1)


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
    flags = Path("/proc/cpuinfo")
    listed = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
    return torch.bfloat16 if "amx_bf16" in listed or "avx512_bf16" in listed else torch.float32
