"""Checkpoints of guided-diffusion's ``UNetModel`` (ADM, arXiv 2105.05233) as diffusers' ``UNet2DModel``.

The networks that the papers' code trains are of this kind. Converted, one gives the same output from the same input, up
to the rounding of float32. A network that learned its variance has 6 output channels: the first 3 are ε, and only they
are used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from napari_histomix.records import HistomixError
from napari_histomix.weights import read_weights

SCHEDULE: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    # The learned variance, where there is one, is left aside with the channels that hold it.
    "variance_type": "fixed_small",
    "clip_sample": True,
}
"""diffusers' scheduler configuration for the schedule guided-diffusion calls linear, with 1000 steps."""

GROUPS = 32
MARKERS = (
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "middle_block.0.in_layers.0.weight",
    "output_blocks.0.0.in_layers.0.weight",
    "out.2.weight",
)
PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}


def load_adm(file: Path, head_channels: int = 64) -> UNet2DModel:
    """Load a guided-diffusion checkpoint, ``.safetensors`` or torch's own; raises HistomixError as ``convert_adm``."""
    state, _ = read_weights(file)
    try:
        return convert_adm(state, head_channels=head_channels)
    except HistomixError as error:
        raise HistomixError(f"{file.name}: {error}") from None


def convert_adm(state: Mapping[str, Tensor], *, head_channels: int = 64, image_size: int = 256) -> UNet2DModel:
    """Make a diffusers network of a guided-diffusion state dict.

    Channels, levels, blocks a level, where there is attention, how the sides are halved and doubled, and how the
    timestep enters are read off the names and shapes. Attention is taken to be in the legacy order, guided-diffusion's
    default: heads outside, then query, key and value.

    ``head_channels`` is guided-diffusion's ``num_head_channels``, which the tensors do not tell, ``image_size`` the
    side in pixels of the images it was trained on. The network is float32 and in evaluation mode. It takes 3 or 7
    channels and gives 3, or 6 with a learned variance. Weights that are float32 already may be shared with ``state``.

    Raises
    ------
    HistomixError
        If it is another network or class-conditional, keys are missing or unexpected, shapes differ, or the channels
        cannot be split into such heads.
    """
    lacking = [key for key in MARKERS if key not in state]
    if lacking:
        raise HistomixError(
            f"These are not weights of guided-diffusion's UNetModel: they lack {_listed(lacking)}; choose another file."
        )
    if "label_emb.weight" in state:
        raise HistomixError(
            "This network was trained with class labels ('label_emb.weight'), which a hole does not have; choose a "
            "checkpoint trained with class_cond False."
        )
    config = _configuration(state, head_channels)
    # Not initialized: every weight is about to be replaced.
    with torch.device("meta"):
        network = UNet2DModel(sample_size=image_size, **config)
    own = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    modules = _modules(config)
    names = {key: _adm_name(key, modules) for key in own}
    wanted = {name: _adm_shape(key, own[key]) for key, name in names.items()}
    _refuse("lack", wanted.keys() - state.keys())
    _refuse("have unexpected", state.keys() - wanted.keys())
    _refuse("have another shape for", [name for name in wanted if tuple(state[name].shape) != wanted[name]])
    converted = {key: _converted(key, state[names[key]].detach(), own[key], head_channels) for key in own}
    network.load_state_dict(converted, assign=True)
    return network.eval()


def _configuration(state: Mapping[str, Tensor], head_channels: int) -> dict[str, Any]:
    """Arguments of ``UNet2DModel``, from names and shapes."""
    names = "\n".join(state)
    count = 1 + max(int(number) for number in re.findall(r"^(?:in|out)put_blocks\.(\d+)\.", names, re.MULTILINE))
    # A halving residual block has the names of an ordinary one, so the doublings tell where levels end.
    doublings = re.findall(r"^output_blocks\.(\d+)\.[12]\.(in_layers|conv)\.", names, re.MULTILINE)
    ends = {int(number): part for number, part in doublings}
    blocks = min(ends, default=count - 1)
    levels, rest = divmod(count, blocks + 1)
    if rest or blocks < 1:
        raise HistomixError(
            "The numbers in the weights' names 'input_blocks' and 'output_blocks' are not those of guided-diffusion's "
            "UNetModel; choose the file made for that network."
        )
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    channels = [_size(state, f"{first}.0.out_layers.3.weight") for first in firsts]
    attended = [any(key.startswith(f"{first}.1.") for key in state) for first in firsts]
    for width, split in zip([*channels, channels[-1]], [*attended, True], strict=True):
        if width < 1 or width % GROUPS:
            raise HistomixError(
                f"A level of {width} channels is not one of guided-diffusion's UNetModel, which has multiples of "
                f"{GROUPS}; choose the file made for that network."
            )
        if split and (head_channels < 1 or width % head_channels):
            raise HistomixError(
                f"Attention over {width} channels cannot be split into heads of {head_channels}; give the "
                "num_head_channels that the network was trained with."
            )
    inputs, outputs = _size(state, "input_blocks.0.0.weight", 1), _size(state, "out.2.weight")
    if inputs not in (3, 7) or outputs not in (3, 6):
        raise HistomixError(
            f"A network for windows has 3 or 7 input channels and 3 or 6 output channels, this one {inputs} and "
            f"{outputs} ('input_blocks.0.0.weight', 'out.2.weight'); choose another."
        )
    residual = "in_layers" in ends.values()
    plain = "Resnet{}sampleBlock2D" if residual else "{}Block2D"
    scaled = _size(state, "input_blocks.1.0.emb_layers.1.weight") == 2 * channels[0]
    return {
        "in_channels": inputs,
        "out_channels": outputs,
        "block_out_channels": tuple(channels),
        "layers_per_block": blocks,
        "down_block_types": tuple("AttnDownBlock2D" if attends else plain.format("Down") for attends in attended),
        "up_block_types": tuple("AttnUpBlock2D" if attends else plain.format("Up") for attends in attended[::-1]),
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "resnet_time_scale_shift": "scale_shift" if scaled else "default",
        "attention_head_dim": head_channels,
        "norm_num_groups": GROUPS,
        # Otherwise the middle attention of a network with scale_shift would have no norm.
        "attn_norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def _modules(config: Mapping[str, Any]) -> dict[str, str]:
    """guided-diffusion's name of each module of a ``UNet2DModel``; a module stands after those within it."""
    blocks, levels = int(config["layers_per_block"]), len(config["block_out_channels"])
    modules = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for level in range(levels):
        start = level * (blocks + 1)
        for i in range(blocks):
            modules[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{start + 1 + i}.0"
            modules[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{start + 1 + i}.1"
        for i in range(blocks + 1):
            modules[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{start + i}.0"
            modules[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{start + i}.1"
        halving = f"input_blocks.{start + blocks + 1}.0"
        doubling = f"output_blocks.{start + blocks}.{2 if config['up_block_types'][level] == 'AttnUpBlock2D' else 1}"
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"{halving}.op"
        modules[f"down_blocks.{level}.downsamplers.0"] = halving
        modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"{doubling}.conv"
        modules[f"up_blocks.{level}.upsamplers.0"] = doubling
    return modules


def _adm_name(key: str, modules: Mapping[str, str]) -> str:
    module = next(module for module in modules if key.startswith(f"{module}."))
    *part, kind = key.removeprefix(f"{module}.").rsplit(".", 1)
    return ".".join([modules[module], *(PARTS[layer] for layer in part), kind])


def _adm_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Attention is linear in diffusers; in guided-diffusion, a convolution over a line, one for q, k and v."""
    if re.search(r"\.to_[qkv]\.", key):
        return (3 * shape[0], *shape[1:], 1)[: 3 if key.endswith("weight") else 1]
    return (*shape, 1) if key.endswith(".to_out.0.weight") else shape


def _converted(key: str, tensor: Tensor, shape: tuple[int, ...], head_channels: int) -> Tensor:
    which = re.search(r"\.to_([qkv])\.", key)
    if which:
        tensor = tensor.reshape(-1, 3, head_channels, *shape[1:])[:, "qkv".index(which[1])]
    return tensor.reshape(shape).float().contiguous()


def _size(state: Mapping[str, Tensor], key: str, axis: int = 0) -> int:
    _refuse("lack", [key] if key not in state else [])
    _refuse("have another shape for", [key] if state[key].ndim <= axis else [])
    return int(state[key].shape[axis])


def _refuse(fault: str, keys: Collection[str]) -> None:
    if keys:
        raise HistomixError(
            f"The weights {fault} {_listed(keys)}, if they are of guided-diffusion's UNetModel; choose a whole "
            "checkpoint of that network."
        )


def _listed(keys: Collection[str]) -> str:
    named = ", ".join(f"'{key}'" for key in sorted(keys)[:3])
    return named + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
