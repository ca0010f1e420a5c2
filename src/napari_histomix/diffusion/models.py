"""Inpainting networks on disk and in memory: diffusers' ``UNet2DModel`` with the scale and window it was made for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_histomix.records import HistomixError

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CARD_FILE = "histomix.json"


@dataclass(eq=False)
class InpaintingModel:
    """A network that denoises RGB windows, with what must be known to use it.

    Parameters
    ----------
    network : UNet2DModel
        7 input channels (noisy RGB, known RGB with the hole at 0, mask with 1 in the hole; RGB in [−1, 1]) or 3
        (noisy RGB only: unconditional).
    schedule : mapping
        diffusers scheduler configuration (``beta_schedule``, ``num_train_timesteps``, ``prediction_type``).
    mpp : (low, high)
        Range of µm/px the network was trained on; windows outside it are resampled to its nearer end.
    windows : tuple of int
        Side lengths in pixels it may be run at, smallest first.
    name, sha256 : str
        Identity, for provenance.
    """

    network: UNet2DModel
    schedule: Mapping[str, Any]
    mpp: tuple[float, float]
    windows: tuple[int, ...]
    name: str
    sha256: str

    @property
    def conditional(self) -> bool:
        """Whether the network sees the known pixels and the mask."""
        return int(self.network.config["in_channels"]) == 7


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


def network_input(noisy: Tensor, known: Tensor | None, hole: Tensor | None, channels: int) -> Tensor:
    """Stack what the network sees: (N, channels, H, W).

    ``known`` (N, 3, H, W) and ``hole`` (N, 1, H, W; 1 in the hole) condition a 7-channel network; without them
    everything counts as hidden, which makes the same network unconditional.
    """
    if channels == noisy.shape[1]:
        return noisy
    if known is None or hole is None:
        return torch.cat([noisy, torch.zeros_like(noisy), torch.ones_like(noisy[:, :1])], dim=1)
    return torch.cat([noisy, known * (1 - hole), hole], dim=1)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HistomixError(f"{path.parent} has no {path.name}; point to a folder that holds {what}.") from None
    except (OSError, ValueError) as error:
        raise HistomixError(f"{path} cannot be read ({error}); copy the model folder again.") from None
    if not isinstance(content, dict):
        raise HistomixError(f"{path} is not a JSON object; copy the model folder again.")
    return content


def load_network(folder: Path, sha256: str | None = None) -> tuple[UNet2DModel, dict[str, Any], str]:
    """Network, scheduler configuration and SHA-256 of a diffusers ``UNet2DModel`` folder.

    Raises
    ------
    HistomixError
        For missing or broken files, a hash other than ``sha256``, or weights that do not fit the configuration.
    """
    config = _read_json(folder / "config.json", "a diffusers UNet2DModel")
    schedule = _read_json(folder / "scheduler_config.json", "a diffusers scheduler configuration")
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise HistomixError(f"{folder} has no {WEIGHTS_FILE}; only safetensors weights are loaded.")
    found = file_sha256(weights)
    if sha256 is not None and found != sha256:
        raise HistomixError(
            f"{weights} is damaged or was changed (its SHA-256 is not the one its card names); get the folder again."
        )
    try:
        network = UNet2DModel.from_config(config)
        network.load_state_dict(load_file(weights))
    except SafetensorError as error:
        raise HistomixError(f"{weights} is not a whole safetensors file ({error}); get it again.") from None
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HistomixError(f"{weights} does not fit its config.json ({reason}).") from None
    channels = int(network.config["in_channels"])
    if channels not in (3, 7):
        raise HistomixError(f"{folder}: an inpainting network has 3 or 7 input channels, this one has {channels}.")
    return network, schedule, found


def load_model(folder: Path) -> InpaintingModel:
    """Load an inpainting model folder: ``config.json``, ``scheduler_config.json``, weights and ``histomix.json``.

    ``histomix.json`` names the model and gives ``mpp`` ([low, high] µm/px), ``windows`` (pixels) and the SHA-256 of
    the weights; a model without a scale cannot be used.

    Raises
    ------
    HistomixError
        For missing, damaged or ill-fitting files, or a card without a scale.
    """
    card = _read_json(folder / CARD_FILE, "a model made by 'histomix train inpainter'")
    try:
        low, high = (float(value) for value in card["mpp"])
        windows = tuple(sorted(int(side) for side in card["windows"]))
        name, sha256 = str(card["name"]), str(card["sha256"])
        if not (0 < low <= high and windows and windows[0] > 0):
            raise ValueError("mpp and windows must be positive")
    except (KeyError, TypeError, ValueError) as error:
        raise HistomixError(
            f"{folder / CARD_FILE} must give name, sha256, mpp [low, high] and windows ({error})."
        ) from None
    network, schedule, found = load_network(folder, sha256)
    return InpaintingModel(network, schedule, (low, high), windows, name, found)


def save_model(
    folder: Path,
    network: UNet2DModel,
    schedule: Mapping[str, Any],
    *,
    name: str,
    mpp: tuple[float, float],
    windows: tuple[int, ...],
    extra: Mapping[str, Any] | None = None,
    readme: str = "",
) -> None:
    """Write a model folder, fp16 weights, whole or not at all: beside its place first, then renamed.

    ``extra`` is added to ``histomix.json``; ``readme`` becomes ``README.md``. An earlier save of the same run at the
    same place is replaced. Raises HistomixError where the disk is full or does not let itself be written.
    """
    partial, old = (folder.with_name(folder.name + suffix) for suffix in (".partial", ".old"))
    weights = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in network.state_dict().items()}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(weights, partial / WEIGHTS_FILE)
        network.save_config(partial)
        (partial / "scheduler_config.json").write_text(json.dumps(dict(schedule), indent=1) + "\n", encoding="utf-8")
        card = {"name": name, "mpp": list(mpp), "windows": list(windows), "sha256": file_sha256(partial / WEIGHTS_FILE)}
        (partial / CARD_FILE).write_text(json.dumps(card | dict(extra or {}), indent=1) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(readme, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HistomixError(f"{folder} could not be written ({reason}); free space or choose another place.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():
            os.replace(old, folder)
