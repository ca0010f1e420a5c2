"""SAM's network from a checkpoint: the architecture is read off the weights themselves.

Plain SAM (vit_b, vit_l, vit_h: Kirillov et al., "Segment Anything", ICCV 2023) and every network of its architecture in
another size, as micro-sam and PathoSAM train and publish them. The modules are those of the ``segment-anything``
package; only the image encoder's attention is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from napari_histomix.records import HistomixError
from napari_histomix.weights import misfit, read_checkpoint, unwrapped

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
DECODER_HEADS = 8
"""Attention heads of every published mask decoder; no shape tells them."""
_NAMES = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
_LANDMARK = "image_encoder.patch_embed.proj.weight"
_QUERIES = 1024
"""Positions whose attention to all positions is held in memory together."""


def load_network(path: str | Path) -> tuple[Sam, str, str]:
    """Load a SAM from a checkpoint: the network in evaluation mode, its architecture's name, and the file's SHA-256.

    The file is ``.safetensors``, or a torch checkpoint: a state dict, alone or under the key "model_state" (micro-sam's
    training), "model" or "state_dict", with or without a prefix such as "sam." before its keys. Torch checkpoints load
    with ``weights_only=True``, which builds tensors and plain containers and nothing else. Architectures are named
    "vit_b", "vit_l", "vit_h", or "vit_WIDTHxDEPTH" for any other.

    Raises
    ------
    HistomixError
        If segment-anything is not installed; the file is absent, damaged or holds no SAM; or its weights are not all
        there.
    """
    try:
        import segment_anything  # noqa: F401
    except ImportError as error:
        raise HistomixError(
            "SAM needs segment-anything; install it with: pip install 'napari-histomix[sam]'."
        ) from error
    path = Path(path).expanduser()
    loaded, sha256 = read_checkpoint(path)
    state = _sam_weights(loaded, path.name)
    try:
        network = _build(state)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        lacks = f" (it lacks {error})" if isinstance(error, KeyError) else ""
        raise HistomixError(
            f"'{path.name}' holds no SAM of a known architecture{lacks}; choose a vit_b, vit_l or vit_h checkpoint."
        ) from error
    fault = misfit(network, state, verbs=("lacks", "has"))
    if fault:
        raise HistomixError(f"'{path.name}' {fault}; choose a checkpoint of SAM's architecture.")
    network.load_state_dict({key: weights.float() for key, weights in state.items()}, assign=True)
    for block in network.image_encoder.blocks:
        block.attn = LeanAttention(block.attn)
    width, depth = int(state[_LANDMARK].shape[0]), len(network.image_encoder.blocks)
    return network.eval().requires_grad_(False), _NAMES.get((width, depth), f"vit_{width}x{depth}"), sha256


def _sam_weights(loaded: Any, name: str) -> dict[str, Tensor]:
    """The weights of SAM's three parts, without what their keys begin with and without what lies beside them."""
    loaded = unwrapped(loaded, "model_state", "model", "state_dict")
    keys = [key for key in loaded if isinstance(key, str)] if isinstance(loaded, Mapping) else []
    prefix = next((key.removesuffix(_LANDMARK) for key in keys if key.endswith(_LANDMARK)), None)
    if prefix is None:
        raise HistomixError(
            f"'{name}' holds no SAM (it has no '{_LANDMARK}'); choose a vit_b, vit_l or vit_h checkpoint."
        )
    # Beside them may lie more, which no prompt needs: micro-sam's decoder of whole images, an optimizer's state.
    state = {key.removeprefix(prefix): loaded[key] for key in keys if key.startswith(tuple(prefix + p for p in PARTS))}
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise HistomixError(f"'{name}' holds something other than numbers among its weights; choose another file.")
    return state


def _count(state: Mapping[str, Tensor], before: str) -> int:
    """How many numbered entries follow a prefix: its highest number and one."""
    matches = (re.match(rf"{re.escape(before)}(\d+)\.", key) for key in state)
    return 1 + max(int(match[1]) for match in matches if match)


def _build(state: Mapping[str, Tensor]) -> Sam:
    """A network without weights whose sizes are those of ``state``."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    width, _, patch, _ = state[_LANDMARK].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, "image_encoder.blocks.")
    offsets = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    # A table of relative positions has an entry for every offset: 2·side − 1 for windows of that side.
    sides = [(length + 1) // 2 for length, _ in offsets]
    windows = {side for side in sides if side != grid}
    if len(windows) > 1:
        raise ValueError("windows of several sizes")
    wide = "prompt_encoder.point_embeddings.0.weight"
    channels = state[wide].shape[1]
    attention = state["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0]
    head = "mask_decoder.iou_prediction_head.layers."
    # Weights come from the file: drawing random ones first takes seconds and as much memory again.
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=width // offsets[0][1],
            mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
            out_chans=state["image_encoder.neck.0.weight"].shape[0],
            qkv_bias="image_encoder.blocks.0.attn.qkv.bias" in state,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=windows.pop() if windows else 0,
            global_attn_indexes=tuple(i for i, side in enumerate(sides) if side == grid),
        )
        prompts = PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(grid * patch, grid * patch),
            mask_in_chans=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        )
        decoder = MaskDecoder(
            num_multimask_outputs=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            transformer=TwoWayTransformer(
                depth=_count(state, "mask_decoder.transformer.layers."),
                embedding_dim=channels,
                mlp_dim=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
                num_heads=DECODER_HEADS,
                attention_downsample_rate=channels // attention,
            ),
            transformer_dim=channels,
            iou_head_depth=_count(state, head),
            iou_head_hidden_dim=state[head + "0.weight"].shape[0],
        )
    # Outside: it makes its normalization of colors itself, which no checkpoint holds.
    return Sam(encoder, prompts, decoder)


class LeanAttention(nn.Module):
    """The image encoder's attention with decomposed relative positions, some queries at a time.

    The same numbers but for rounding as ``segment_anything``'s own, whose weights are taken over and which holds the
    attention between all pairs of positions several times over (vit_b: 0.8 GB each time) and spends most of its time on
    moving them.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.heads: int = source.num_heads
        self.qkv, self.proj = source.qkv, source.proj
        self.rel_pos_h, self.rel_pos_w = source.rel_pos_h, source.rel_pos_w

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend within (B, H, W, C) tokens."""
        batch, height, width, _ = tokens.shape
        query, key, value = (
            self.qkv(tokens).view(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        grid = query.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, _offsets(self.rel_pos_h, height)).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, _offsets(self.rel_pos_w, width)).flatten(2, 3)
        attended = [
            scaled_dot_product_attention(q, key, value, attn_mask=(r[..., :, None] + c[..., None, :]).flatten(3))
            for q, r, c in zip(*(all_.split(_QUERIES, dim=2) for all_ in (query, by_row, by_column)), strict=True)
        ]
        together: Tensor = self.proj(torch.cat(attended, dim=2).transpose(1, 2).reshape(tokens.shape))
        return together


def _offsets(table: Tensor, side: int) -> Tensor:
    """Entries (side, side, c) of a table of relative positions (2·side − 1, c) for every query and key."""
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places + side - 1]
