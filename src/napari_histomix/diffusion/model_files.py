"""Models on disk: which kinds are known, how each is loaded, how ours are saved.

=========================================  ==================================================================
what a path holds                          what it becomes
=========================================  ==================================================================
``config.json`` of a UNet2DModel           a network for pixels; 3 or 7 channels
``model_index.json`` of an LDMPipeline     autoencoder (AutoencoderKL or VQModel) and a network for latents
``model_index.json`` of anything else      a pipeline that follows a prompt, for ``AutoPipelineForInpainting``
``.pt``, ``.pth``, ``.ckpt``,              guided-diffusion weights (``diffusion.adm``), converted
``.safetensors``
=========================================  ==================================================================

Each needs a scale: ``histomix.json`` in the folder (or ``NAME.json`` beside a file) with ``mpp`` and ``windows``, or
the arguments of ``load_model``. Weights load from safetensors, or with ``weights_only=True``; nothing unpickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from napari_histomix.diffusion import adm
from napari_histomix.diffusion.models import AnyModel, InpaintingModel, PromptedModel, latent_space
from napari_histomix.preferences import preferences
from napari_histomix.records import HistomixError
from napari_histomix.weights import fit_weights

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
SCHEDULE_FILE = "scheduler_config.json"
CARD_FILE = "histomix.json"
INDEX_FILE = "model_index.json"
CHECKPOINTS = {".pt", ".pth", ".ckpt", ".safetensors"}


def load_model(
    path: Path | str,
    *,
    mpp: tuple[float, float] | None = None,
    windows: tuple[int, ...] | None = None,
    prompt: str = "",
) -> AnyModel:
    """Load a model of any known kind (see the table above).

    Parameters
    ----------
    path : Path or str
        Folder or checkpoint; or a hub's ``owner/name``, which is fetched only where downloads are allowed.
    mpp : (low, high), optional
        Range of µm/px it was trained on; wins over the card's.
    windows : tuple of int, optional
        Sides in pixels it may be run at; wins over the card's. Without either, the size its own files name.
    prompt : str
        For a pipeline that follows one.

    Raises
    ------
    HistomixError
        For missing, damaged or ill-fitting files, for another hash than the card's, or where no scale is given.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        folder = _fetched(str(path))
    card = read_card(folder)
    if mpp is not None:
        card |= {"mpp": mpp}
    if windows is not None:
        card |= {"windows": windows}
    if folder.is_file():
        if folder.suffix not in CHECKPOINTS:
            raise HistomixError(f"{folder.name} is no checkpoint; choose a .pt or .safetensors file, or a folder.")
        network, sha256 = adm.load_adm(folder, int(card.get("head_channels", 64))), file_sha256(folder)
        _check_hash(card.get("sha256"), sha256, folder)
        return _finished(card, folder, network, adm.SCHEDULE, sha256)
    if (folder / INDEX_FILE).is_file():
        index = read_json(folder / INDEX_FILE, "a diffusers pipeline")
        if index.get("_class_name") != "LDMPipeline":
            return _load_prompted(folder, card, prompt)
        return _load_latent(folder, index, card)
    schedule = read_json(folder / SCHEDULE_FILE, "a diffusers scheduler configuration")
    network, sha256 = load_part(UNet2DModel, folder, card.get("sha256"))
    if int(network.config["in_channels"]) not in (3, 7) or int(network.config["out_channels"]) not in (3, 6):
        raise HistomixError(
            f"{folder}: a network for pixels has 3 or 7 input channels and 3 outputs, this one has "
            f"{network.config['in_channels']} and {network.config['out_channels']}."
        )
    return _finished(card, folder, network, schedule, sha256)


def read_card(path: Path) -> dict[str, Any]:
    """``histomix.json`` of a model folder, or ``NAME.json`` beside a checkpoint; empty where there is none."""
    file = path / CARD_FILE if path.is_dir() else path.with_suffix(".json")
    return read_json(file, "a model card") if file.is_file() else {}


def scale_of(
    card: Mapping[str, Any], folder: Path, sizes: tuple[int, ...]
) -> tuple[tuple[float, float], tuple[int, ...]]:
    """µm/px range and windows that a card gives. Raises HistomixError where it gives none, or nonsense."""
    if "mpp" not in card:
        raise HistomixError(
            f"Nothing says how many µm a pixel of '{folder.name}' is; give it (--model-mpp LOW HIGH), "
            f"or write it into {folder.name}/{CARD_FILE}."
        )
    try:
        low, high = (float(value) for value in card["mpp"])
        windows = tuple(sorted(int(side) for side in card.get("windows", sizes)))
        if not (0 < low <= high < float("inf") and windows and windows[0] > 0):
            raise ValueError("they must be positive")
    except (TypeError, ValueError) as error:
        raise HistomixError(f"{folder.name}: mpp must be [low, high] and windows a list of sides ({error}).") from None
    return (low, high), windows


def _finished(
    card: Mapping[str, Any],
    folder: Path,
    network: UNet2DModel,
    schedule: Mapping[str, Any],
    sha256: str,
    autoencoder: AutoencoderKL | VQModel | None = None,
) -> InpaintingModel:
    """The model of a loaded network, with the scale that its card gives; its windows must fit the network."""
    size = network.config["sample_size"] or 64
    side = int(size if isinstance(size, int) else size[0]) * latent_space(autoencoder)[1]
    mpp, windows = scale_of(card, folder, (side,))
    name = str(card.get("name", folder.name))
    model = InpaintingModel(network, schedule, mpp, windows, name, sha256, autoencoder, card)
    if any(window % model.grid for window in windows):
        raise HistomixError(f"{folder.name}: its windows must be multiples of {model.grid} pixels, not {windows}.")
    return model


def _load_latent(folder: Path, index: Mapping[str, Any], card: Mapping[str, Any]) -> InpaintingModel:
    """An ``LDMPipeline`` folder: vqvae (AutoencoderKL or VQModel), unet, scheduler."""
    kinds = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    kind = (index.get("vqvae") or [None, None])[1]
    if kind not in kinds:
        raise HistomixError(f"{folder}: an autoencoder of kind '{kind}' is not known; AutoencoderKL and VQModel are.")
    network, network_hash = load_part(UNet2DModel, folder / "unet")
    autoencoder, autoencoder_hash = load_part(kinds[kind], folder / "vqvae")
    schedule = read_json(folder / "scheduler" / SCHEDULE_FILE, "a diffusers scheduler")
    sha256 = _joint_hash([network_hash, autoencoder_hash])
    _check_hash(card.get("sha256"), sha256, folder)
    latent, _ = latent_space(autoencoder)
    inputs = int(network.config["in_channels"])
    if inputs not in (latent, 2 * latent + 1):
        raise HistomixError(
            f"{folder}: its network takes {inputs} channels, but its autoencoder has {latent} latent channels; "
            f"they do not belong together."
        )
    # Latents have no limits: clipping them to the pixels' range, as some published schedules say, spoils them.
    return _finished(card, folder, network, schedule | {"clip_sample": False}, sha256, autoencoder)


def _load_prompted(folder: Path, card: Mapping[str, Any], prompt: str) -> PromptedModel:
    """Any other pipeline folder with safetensors weights; the card's ``prompt`` counts where the argument is empty."""
    words = prompt or str(card.get("prompt", ""))
    if not words:
        raise HistomixError(f"The pipeline '{folder.name}' follows a prompt; say what the hole is to hold (--prompt).")
    mpp, windows = scale_of(card, folder, (512,))
    if any(side % PromptedModel.grid for side in windows):
        raise HistomixError(f"{folder.name}: windows of a pipeline must be multiples of 8 pixels, not {windows}.")
    try:
        from diffusers import AutoPipelineForInpainting

        pipeline = AutoPipelineForInpainting.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except ImportError as error:
        raise HistomixError(f"Pipelines that follow a prompt need 'pip install transformers' ({error}).") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise HistomixError(f"{folder} does not open as an inpainting pipeline ({reason}).") from None
    pipeline.set_progress_bar_config(disable=True)
    sha256 = _joint_hash([file_sha256(weights) for weights in sorted(folder.rglob("*.safetensors"))])
    return PromptedModel(pipeline, words, mpp, windows, str(card.get("name", folder.name)), sha256, card)


def load_part(kind: Any, folder: Path, sha256: str | None = None) -> tuple[Any, str]:
    """A diffusers model of class ``kind`` from its ``config.json`` and safetensors, and the SHA-256 of its weights."""
    config = read_json(folder / "config.json", f"a diffusers {kind.__name__}")
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise HistomixError(f"{folder} has no {WEIGHTS_FILE}; only safetensors weights are loaded.")
    actual = file_sha256(weights)
    _check_hash(sha256, actual, weights)
    try:
        network = kind.from_config(config)
        state = load_file(weights)
    except SafetensorError as error:
        raise HistomixError(f"{weights} is not a whole safetensors file ({error}); get it again.") from None
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HistomixError(f"{folder / 'config.json'} describes no {kind.__name__} ({reason}).") from None
    fit_weights(network, state, str(folder))
    return network, actual


def _check_hash(named: str | None, actual: str, path: Path) -> None:
    if named not in (None, actual):
        raise HistomixError(
            f"{path} is damaged or was changed (its SHA-256 is not the one its card names); get it again."
        )


def _joint_hash(hashes: Sequence[str]) -> str:
    """SHA-256 of several files' SHA-256."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _fetched(name: str) -> Path:
    """A hub's model on this disk. Nothing goes online unless the user asked."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise HistomixError(f"There is no model at '{name}'; check the path.")
    if not preferences().online:
        raise HistomixError(
            f"There is no folder '{name}', and nothing is fetched from a hub unless HISTOMIX_ONLINE=1 is set or the "
            "preferences allow downloads; copy the model's folder to this machine and give its path."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:
        raise HistomixError(f"'{name}' could not be fetched ({' '.join(str(error).split())[:150]}).") from None


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file of a model folder. Raises HistomixError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HistomixError(f"{path.parent} has no {path.name}; point to a folder that holds {what}.") from None
    except (OSError, ValueError) as error:
        raise HistomixError(f"{path} cannot be read ({error}); copy the model folder again.") from None
    if not isinstance(content, dict):
        raise HistomixError(f"{path} is not a JSON object; copy the model folder again.")
    return content


def check_room(folder: Path, needed: int) -> None:
    """Raise HistomixError unless the disk below ``folder`` has ``needed`` bytes left."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise HistomixError(
            f"{folder} needs {needed / 1e6:,.0f} MB, but its disk has {free / 1e6:,.0f} MB left; "
            "free space or choose another place."
        )


def save_model(
    folder: Path,
    parts: torch.nn.Module | Mapping[str, torch.nn.Module],
    schedule: Mapping[str, Any],
    *,
    name: str,
    mpp: tuple[float, float],
    windows: tuple[int, ...],
    extra: Mapping[str, Any] | None = None,
    readme: str = "",
) -> None:
    """Write a model folder, fp16 weights, whole or not at all: beside its place first, then renamed.

    ``parts`` is one network, or ``unet`` and ``vqvae``, written as an ``LDMPipeline``; ``schedule`` is a diffusers
    scheduler configuration, empty for an autoencoder alone. ``name``, ``mpp``, ``windows`` (see ``InpaintingModel``)
    and ``extra`` go into ``histomix.json``. An earlier save of the same run at the same place is replaced. Raises
    HistomixError where the disk is full or does not let itself be written.
    """
    partial, old = (folder.with_name(folder.name + suffix) for suffix in (".partial", ".old"))
    networks = dict(parts) if isinstance(parts, Mapping) else {"": parts}
    weights = chain.from_iterable(network.state_dict().values() for network in networks.values())
    check_room(folder, sum(2 * weight.numel() for weight in weights))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        hashes = [_save_part(partial / part, network) for part, network in networks.items()]
        if schedule:
            steps = partial / "scheduler" if len(networks) > 1 else partial
            steps.mkdir(exist_ok=True)
            _write_json(steps / SCHEDULE_FILE, schedule)
        if len(networks) > 1:
            index: dict[str, Any] = {part: ["diffusers", type(network).__name__] for part, network in networks.items()}
            index |= {"scheduler": ["diffusers", schedule["_class_name"]], "_class_name": "LDMPipeline"}
            _write_json(partial / INDEX_FILE, index)
        sha256 = hashes[0] if len(hashes) == 1 else _joint_hash(hashes)
        card = {"name": name, "mpp": list(mpp), "windows": list(windows), "sha256": sha256}
        _write_json(partial / CARD_FILE, card | dict(extra or {}))
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


def _save_part(folder: Path, network: Any) -> str:
    folder.mkdir(parents=True)
    weights = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    network.save_config(folder)
    return file_sha256(folder / WEIGHTS_FILE)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=1) + "\n", encoding="utf-8")
