"""The network of the image and the structure model: a UNet that follows maps, by SPADE blocks, and a vector.

``ConditionedUNet`` is diffusers' UNet2DModel without attention, so that it runs on images of any size. Its maps stand
beside the noisy image at the input, and modulate every block of the decoder (Park et al., arXiv 1903.07291; NuDiff,
arXiv 2310.14197): ``x · (1 + γ(maps)) + β(maps)`` behind the second normalization. γ and β do not depend on the
timestep, so that they are computed once for all steps of a sampler (``modulate``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

Modulations = Sequence[tuple[Tensor, Tensor]]
"""γ and β of every block of the decoder, from the first to the last."""

_modulations: ContextVar[Modulations] = ContextVar("modulations")


class ConditionedUNet(ModelMixin, ConfigMixin):
    """A UNet that denoises (N, C, H, W), given maps (N, M, H, W) and a vector (N, V).

    Parameters
    ----------
    in_channels, out_channels : int
        Of what is denoised, with what stands beside it (known pixels, hole); the maps not among them.
    map_channels, vector_channels : int
        Of the condition; 0 for none.
    block_out_channels : sequence of int
        Widths of the levels; sides of images are multiples of 2 to the number of levels less one.
    spade_channels : int
        Width of what γ and β of a level are computed from; 0: maps stand at the input alone.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        map_channels: int = 0,
        vector_channels: int = 0,
        block_out_channels: Sequence[int] = (32, 64, 128),
        layers_per_block: int = 2,
        spade_channels: int = 24,
        norm_num_groups: int = 8,
        sample_size: int = 64,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        self.unet = UNet2DModel(
            sample_size=sample_size,
            in_channels=in_channels + map_channels,
            out_channels=out_channels,
            layers_per_block=layers_per_block,
            block_out_channels=tuple(block_out_channels),
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=norm_num_groups,
            add_attention=False,
            class_embed_type="identity" if vector_channels else None,
        )
        width = 4 * block_out_channels[0]
        if vector_channels:
            self.embed = nn.Sequential(nn.Linear(vector_channels, width), nn.SiLU(), _zero(nn.Linear(width, width)))
        if map_channels and spade_channels:
            self.shared = nn.ModuleList(nn.Conv2d(map_channels, spade_channels, 3, padding=1) for _ in range(levels))
            blocks = [resnet for block in self.unet.up_blocks for resnet in block.resnets]
            widths = [int(block.norm2.num_channels) for block in blocks]
            self.spade = nn.ModuleList(_zero(nn.Conv2d(spade_channels, 2 * width, 3, padding=1)) for width in widths)
            for number, block in enumerate(blocks):
                block.norm2 = _SpadeNorm(block.norm2, number)

    def modulate(self, maps: Tensor) -> Modulations:
        """γ and β of maps (N, M, H, W); empty for a network without SPADE blocks."""
        if not hasattr(self, "spade"):
            return ()
        made: list[tuple[Tensor, Tensor]] = []
        levels, each = len(self.shared), len(self.spade) // len(self.shared)
        for level, shared in enumerate(self.shared):
            shrink = 2 ** (levels - 1 - level)
            hidden = functional.silu(shared(functional.avg_pool2d(maps, shrink) if shrink > 1 else maps))
            for convolution in self.spade[level * each : (level + 1) * each]:
                gamma, beta = convolution(hidden).chunk(2, dim=1)
                made.append((gamma, beta))
        return made

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        maps: Tensor | None = None,
        vector: Tensor | None = None,
        modulations: Modulations | None = None,
    ) -> Tensor:
        """The network's raw prediction (N, out_channels, H, W).

        ``modulations`` may be handed over, where ``modulate(maps)`` was called before.
        """
        if maps is not None:
            sample = torch.cat([sample, maps.to(sample.dtype)], dim=1)
            modulations = self.modulate(maps) if modulations is None else modulations
        embedded = self.embed(vector) if vector is not None else None
        token = _modulations.set(modulations or ())
        try:
            return self.unet(sample, timestep, class_labels=embedded).sample
        finally:
            _modulations.reset(token)


class _SpadeNorm(nn.Module):
    """A normalization of the decoder, followed by the modulation that is in force."""

    def __init__(self, norm: nn.GroupNorm, number: int) -> None:
        super().__init__()
        self.norm, self.number = norm, number

    def forward(self, values: Tensor) -> Tensor:
        gamma, beta = _modulations.get()[self.number]
        return self.norm(values) * (1 + gamma) + beta


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """A layer that begins with giving nothing: what it is added to behaves as without it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def adopt_weights(network: ConditionedUNet, weights: Mapping[str, Tensor], channels: Sequence[int | None]) -> int:
    """Take over a UNet2DModel's weights wherever they fit.

    Parameters
    ----------
    network : ConditionedUNet
    weights : mapping of str to Tensor
        State of a UNet2DModel of the same widths; its attention is left aside.
    channels : sequence
        For each input channel of the network, maps included, the channel of ``weights`` that it was; None: a new one,
        which begins at zero.

    Returns
    -------
    int
        How many tensors were taken over.
    """
    own = network.unet.state_dict()
    taken = {}
    for name, value in own.items():
        old = weights.get(name.replace(".norm2.norm.", ".norm2."))
        if old is None:
            continue
        if name == "conv_in.weight":
            value = torch.zeros_like(value)
            for channel, origin in enumerate(channels):
                if origin is not None:
                    value[:, channel] = old[:, origin].to(value.dtype)
            taken[name] = value
        elif old.shape == value.shape:
            taken[name] = old.to(value.dtype)
    network.unet.load_state_dict(own | taken)
    return len(taken)
