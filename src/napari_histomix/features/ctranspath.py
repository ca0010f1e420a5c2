"""CTransPath: a Swin transformer with a convolutional stem, trained on histology without labels.

Wang et al., "Transformer-based unsupervised contrastive learning for histopathological image classification", Medical
Image Analysis 81, 2022; the encoder of NucleiMix and USegMix. The weights are the user's own to obtain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from napari_histomix.features.torch_encoder import TorchEncoder
from napari_histomix.features.weights_file import fit_weights, read_weights

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class ConvStem(nn.Module):
    """Two strided convolutions in place of Swin's 4 × 4 patch projection; the names are those of the checkpoint.

    Parameters
    ----------
    embed_dim : int
        Channels of the output, a multiple of 8.
    """

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
    """Build CTransPath without weights.

    Parameters
    ----------
    embed_dim, depths, num_heads
        Sizes of the Swin transformer; the published network is Swin-tiny, the default.

    Returns
    -------
    SwinTransformer
        Takes (n, 3, 224, 224), gives (n, ``embed_dim * 2 ** (len(depths) - 1)``): 768 by default.
    """
    network = SwinTransformer(embed_dim=embed_dim, depths=depths, num_heads=num_heads, window_size=7, num_classes=0)
    network.patch_embed = ConvStem(embed_dim)
    return network


def modern_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the published checkpoint's weights, written with timm 0.5, as timm 1 names them.

    timm moved the downsampling from the end of a stage to the start of the next, and computes the attention masks and
    position indices that the checkpoint stores. Weights that have today's names keep them.

    Parameters
    ----------
    state : mapping of str to Tensor

    Returns
    -------
    dict of str to Tensor
    """
    kept = {key: value for key, value in state.items() if not key.endswith(("attn_mask", "relative_position_index"))}
    if not any(key.startswith("layers.0.downsample.") for key in kept):
        return kept
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.", key): value
        for key, value in kept.items()
    }


class CTransPathEncoder(TorchEncoder):
    """CTransPath with weights from a file; 768 features.

    Parameters
    ----------
    weights : str or Path
        The published ``ctranspath.pth`` or the same as ``.safetensors``.
    device : str
        Torch device.
    network : SwinTransformer, optional
        A network of other sizes from :func:`build_network`; the published one by default.

    Raises
    ------
    HistomixError
        If the file is absent, damaged or made for another network, or the device cannot be used.
    """

    def __init__(self, weights: str | Path, device: str = "cpu", network: SwinTransformer | None = None) -> None:
        state, digest = read_weights(weights)
        network = build_network() if network is None else network
        fit_weights(network, modern_names(state), "CTransPath", ignore=lambda key: key.startswith("head."))
        super().__init__(network, name=f"ctranspath@{digest}", mean=_IMAGENET_MEAN, std=_IMAGENET_STD, device=device)
