"""Reading a network's weights from a file: nothing is unpickled, and what does not fit is said in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histomix.records import HistomixError
from napari_histomix.weights import read_checkpoint

if TYPE_CHECKING:
    import torch


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """Read a state dict and the identity of its file.

    Parameters
    ----------
    path : str or Path
        ``.safetensors``, or a torch checkpoint: a state dict, alone or under the key "model" or "state_dict". The
        latter is loaded with ``weights_only=True``, which builds tensors and plain containers and nothing else.

    Returns
    -------
    state : dict of str to Tensor
        On the CPU.
    digest : str
        First 12 hexadecimal digits of the file's sha256.

    Raises
    ------
    HistomixError
        If the file is absent, damaged or holds anything but weights.
    """
    import torch

    path = Path(path).expanduser()
    loaded, sha256 = read_checkpoint(path)
    for key in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not (
        isinstance(loaded, Mapping)
        and loaded
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items())
    ):
        raise HistomixError(f"'{path.name}' holds no table of weights; choose the network's checkpoint file.")
    return dict(loaded), sha256[:12]


def fit_weights(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, ignore: Callable[[str], bool]
) -> None:
    """Load weights into a network; every parameter must be there, in its shape, and nothing else.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place, only if everything fits.
    state : mapping of str to Tensor
    what : str
        Names the weights and the network in the error's sentence.
    ignore : callable
        Whether a key unknown to the network may be left out (a classifier head).

    Raises
    ------
    HistomixError
        If keys are missing or unexpected, or shapes differ.
    """
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(key for key in state.keys() - own.keys() if not ignore(key))
    misshapen = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    for fault, keys in (("lack", missing), ("have unexpected", unexpected), ("have another shape for", misshapen)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise HistomixError(
                f"{what}: the weights {fault} '{keys[0]}'{more}; choose the file made for this network."
            )
    network.load_state_dict({key: state[key] for key in own})
