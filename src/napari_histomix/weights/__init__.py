"""Bundled weights and published checkpoints, and reading them without unpickling.

``known`` lists every network, ``fetching`` gets one onto this disk. A checkpoint is looked up in the model folder. Only
where a person allowed it (the environment variable ``HISTOMIX_ONLINE``, or the preferences) is it fetched, and it is
used only after its SHA-256 matched. Checkpoints whose makers publish no SHA-256 (PathoSAM, CTransPath) are placed by
hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.records import HistomixError
from napari_histomix.weights.fetching import checkpoint_path, fetch
from napari_histomix.weights.known import CHECKPOINTS, Checkpoint, bundled, bundled_model, located, weights_folder

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "bundled",
    "bundled_model",
    "checkpoint_path",
    "fetch",
    "fit_weights",
    "misfit",
    "read_checkpoint",
    "read_weights",
    "unwrapped",
    "weights_folder",
]


def read_checkpoint(path: Path) -> tuple[Any, str]:
    """What a ``.safetensors`` file or a torch checkpoint holds, tensors and plain containers only, and its SHA-256.

    A file that is named without a folder, and is not in the current one, is looked for in the model folder.
    """
    import torch
    from safetensors.torch import load_file

    path = located(path)
    if not path.is_file():
        raise HistomixError(f"There is no weights file '{path}'; check the path or copy the file there.")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix == ".safetensors":
            return load_file(path), sha256
        return torch.load(path, map_location="cpu", weights_only=True), sha256
    except OSError as error:
        raise HistomixError(f"'{path}' cannot be read ({error.strerror}); check its permissions.") from error
    # Bytes that are no checkpoint make the readers fail in any way there is.
    except Exception as error:
        raise HistomixError(
            f"'{path.name}' is damaged or holds more than weights; download it again or convert it to .safetensors."
        ) from error


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """A state dict on the CPU, and the first 12 hexadecimal digits of its file's SHA-256.

    The file is read as by ``read_checkpoint``; the state dict is alone in it or under the key "model" or "state_dict".
    """
    import torch

    path = Path(path).expanduser()
    loaded, sha256 = read_checkpoint(path)
    state = unwrapped(loaded, "model", "state_dict")
    items = state.items() if isinstance(state, Mapping) else ()
    if not items or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in items):
        raise HistomixError(f"'{path.name}' holds no table of weights; choose the network's checkpoint file.")
    return dict(state), sha256[:12]


def unwrapped(loaded: Any, *keys: str) -> Any:
    """What a checkpoint holds, without the mappings of these keys around it."""
    for key in keys:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    return loaded


def fit_weights(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, ignored: tuple[str, ...] = ()
) -> None:
    """Load weights into a network; every parameter must be there, in its shape, and nothing else.

    ``what`` names both in the error's sentence. Keys that begin with one of ``ignored`` (a classifier head) may be left
    out. Where the weights do not fit, the network is unchanged.
    """
    if fault := misfit(network, state, ignored):
        raise HistomixError(f"{what}: the weights {fault}; choose the file made for this network.")
    network.load_state_dict({key: state[key] for key in network.state_dict()})


def misfit(
    network: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    ignored: tuple[str, ...] = (),
    verbs: tuple[str, str] = ("lack", "have"),
) -> str:
    """What keeps weights from fitting a network, as the end of a sentence ("lack 'conv.bias' and 3 more"), or ""."""
    own = network.state_dict()
    faults = {
        verbs[0]: own.keys() - state.keys(),
        f"{verbs[1]} unexpected": {key for key in state.keys() - own.keys() if not key.startswith(ignored)},
        f"{verbs[1]} another shape for": {key for key in own.keys() & state if own[key].shape != state[key].shape},
    }
    for fault, keys in faults.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            return f"{fault} '{min(keys)}'{more}"
    return ""
