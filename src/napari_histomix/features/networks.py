"""Encoders that are torch networks: any of timm's, and CTransPath.

CTransPath is a Swin transformer with a convolutional stem, trained on histology without labels (Wang et al.,
"Transformer-based unsupervised contrastive learning for histopathological image classification", Medical Image Analysis
81, 2022); the encoder of NucleiMix and USegMix. The weights are the user's own to obtain.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from torch.nn.functional import interpolate

from napari_histomix.features.context import check_patches
from napari_histomix.records import HistomixError
from napari_histomix.weights import checkpoint_path, fit_weights, read_weights
from napari_histomix.weights.known import timm_network


class TorchEncoder:
    """Runs a network over patches in batches.

    The network takes (n, 3, side, side) float32, of RGB in 0–1 normalized by ``mean`` and ``std``, and gives (n, dim);
    patches are resized to ``side``. The batch is halved, with a warning, when the device's memory does not suffice.
    Raises HistomixError if the device cannot be used, or the network does not give one vector per patch.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        name: str,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        side: int = 224,
        device: str = "cpu",
        batch: int = 32,
    ) -> None:
        try:
            self._device = torch.device(device)
            self._network = network.eval().to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise HistomixError(f"The device '{device}' cannot be used here; choose cpu.") from error
        self._mean = torch.tensor(mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self._device).view(1, 3, 1, 1)
        self._side = side
        self._batch = batch
        self.name = name
        probe = self._forward(np.zeros((1, side, side, 3), np.uint8))
        if probe.ndim != 2:
            raise HistomixError(
                f"{name} gives an output of shape {probe.shape} per patch; choose a network that pools."
            )
        self.dim = probe.shape[1]

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB patches (N, 224, 224, 3) uint8 as (N, dim) float32.

        Raises ValueError for another shape or dtype, torch's OutOfMemoryError if the device cannot hold one patch.
        """
        check_patches(patches)
        features = np.empty((len(patches), self.dim), np.float32)
        start = 0
        while start < len(patches):
            stop = min(start + self._batch, len(patches))
            try:
                features[start:stop] = self._forward(patches[start:stop])
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch //= 2
                warnings.warn(
                    f"Out of memory on {self._device}: going on with {self._batch} patches at a time.", stacklevel=2
                )
            else:
                start = stop
        return features

    @torch.inference_mode()
    def _forward(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-1] != self._side:
            pixels = interpolate(pixels, (self._side, self._side), mode="bicubic", antialias=True).clamp(0, 1)
        features: NDArray[np.float32] = self._network((pixels - self._mean) / self._std).float().cpu().numpy()
        return features


class TimmEncoder(TorchEncoder):
    """A timm model without its classifier; its pooled output is the feature vector.

    ``model`` may carry the tag of its pretrained weights ("resnet18.a1_in1k"). Without ``weights``, a
    ``.safetensors`` file or torch checkpoint, its published ones are used (see ``open_encoder``). Raises HistomixError
    if timm has no such model, or the weights are absent, damaged or made for another model.
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
        fit_weights(network, state, f"timm model {model}", prefixes)
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
    """The model's published weights on this disk; fetched to it only where that is allowed."""
    if not repository:
        raise HistomixError(f"timm publishes no weights for '{model}'; give a file as timm:{model}@WEIGHTS_FILE.")
    try:
        return checkpoint_path(timm_network(repository))
    except HistomixError as error:
        raise HistomixError(f"{str(error).rstrip('.')}, or give a file as timm:{model}@WEIGHTS_FILE.") from error


class ConvStem(nn.Module):
    """Two strided convolutions in place of Swin's 4 × 4 patch projection; the names are those of the checkpoint."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for after in (embed_dim // 8, embed_dim // 4):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
            before = after
        layers.append(nn.Conv2d(before, embed_dim, 1))
        self.proj = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (n, 3, H, W) images into (n, H / 4, W / 4, embed_dim) tokens."""
        tokens: torch.Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens


def build_network(
    embed_dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2), num_heads: tuple[int, ...] = (3, 6, 12, 24)
) -> SwinTransformer:
    """CTransPath without weights; the published network is Swin-tiny, the default, and gives 768 features."""
    network = SwinTransformer(embed_dim=embed_dim, depths=depths, num_heads=num_heads, window_size=7, num_classes=0)
    network.patch_embed = ConvStem(embed_dim)
    return network


def modern_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the published checkpoint's weights, written with timm 0.5, as timm 1 names them.

    timm moved the downsampling from the end of a stage to the start of the next, and computes the attention masks and
    position indices that the checkpoint stores. Weights that have today's names keep them.
    """
    kept = {key: value for key, value in state.items() if not key.endswith(("attn_mask", "relative_position_index"))}
    if not any(key.startswith("layers.0.downsample.") for key in kept):
        return kept
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample.", key): value
        for key, value in kept.items()
    }


class CTransPathEncoder(TorchEncoder):
    """CTransPath with weights from a file: the published ``ctranspath.pth``, or the same as ``.safetensors``.

    ``network`` may have other sizes (see ``build_network``). Raises HistomixError if the file is absent, damaged or
    made for another network.
    """

    def __init__(self, weights: str | Path, device: str = "cpu", network: SwinTransformer | None = None) -> None:
        state, digest = read_weights(weights)
        network = build_network() if network is None else network
        fit_weights(network, modern_names(state), "CTransPath", ("head.",))
        super().__init__(network, name=f"ctranspath@{digest}", device=device)
