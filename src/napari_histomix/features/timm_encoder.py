"""Any network of timm as an encoder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import timm

from napari_histomix.features.torch_encoder import TorchEncoder
from napari_histomix.features.weights_file import fit_weights, read_weights
from napari_histomix.records import HistomixError

_PUBLISHED = "model.safetensors"


class TimmEncoder(TorchEncoder):
    """A timm model without its classifier; its pooled output is the feature vector.

    Parameters
    ----------
    model : str
        Name of a timm model, with or without the tag of its pretrained weights ("resnet18.a1_in1k").
    weights : str or Path, optional
        ``.safetensors`` file or torch checkpoint. Without one, the model's published weights are taken from the local
        cache, and downloaded to it only if the environment variable ``HISTOMIX_ONLINE`` is 1.
    device : str
        Torch device.

    Raises
    ------
    HistomixError
        If timm has no such model, the weights are absent, damaged or made for another model, or the device cannot be
        used.
    """

    def __init__(self, model: str, weights: str | Path | None = None, device: str = "cpu") -> None:
        # A name with a colon would make timm fetch the model's description from the hub.
        if ":" in model or not timm.is_model(model):
            raise HistomixError(f"timm has no model '{model}'; timm.list_models() lists those it has.")
        try:
            network = timm.create_model(model, pretrained=False, num_classes=0)
        except RuntimeError as error:
            raise HistomixError(f"timm cannot build '{model}' ({error}); check the tag after the dot.") from error
        published = cast(dict[str, Any], network.pretrained_cfg)
        path = Path(weights) if weights is not None else _published_weights(model, published.get("hf_hub_id"))
        state, digest = read_weights(path)
        heads = published.get("classifier") or ()
        prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
        fit_weights(network, state, f"timm model {model}", ignore=lambda key: key.startswith(prefixes))
        data = timm.data.resolve_model_data_config(network)
        super().__init__(
            network,
            name=f"timm:{model}@{digest}",
            mean=data["mean"],
            std=data["std"],
            side=data["input_size"][-1],
            device=device,
        )


def _published_weights(model: str, repository: str | None) -> Path:
    """The model's published weights in the local cache; fetched to it only when going online is allowed."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not repository:
        raise HistomixError(f"timm publishes no weights for '{model}'; give a file as timm:{model}@WEIGHTS_FILE.")
    # Offline only the disk is looked at: hf_hub_download opens a connection of its own even with local_files_only.
    cached = try_to_load_from_cache(repository, _PUBLISHED)
    if isinstance(cached, str):
        return Path(cached)
    absent = f"The weights of timm model '{model}' are not on this machine"
    advice = f"or give a file as timm:{model}@WEIGHTS_FILE."
    if os.environ.get("HISTOMIX_ONLINE") != "1":
        raise HistomixError(f"{absent}; set HISTOMIX_ONLINE=1 to allow a download, {advice}")
    try:
        return Path(hf_hub_download(repository, _PUBLISHED))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise HistomixError(f"{absent} and cannot be downloaded; check the connection, {advice}") from error
