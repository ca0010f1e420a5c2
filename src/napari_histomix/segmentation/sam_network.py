"""SAM's network from a checkpoint: the architecture is read off the weights themselves.

Plain SAM (vit_b, vit_l, vit_h: Kirillov et al., "Segment Anything", ICCV 2023) and every network of its architecture in
another size, as micro-sam and PathoSAM train and publish them. The modules are those of the ``segment-anything``
package; only the image encoder's attention and the way to its answers are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

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
THREADS = 2
"""A processor's threads for each point that is decoded with others: what one point needs just fits into the caches of
two cores, where two points at once take a quarter longer each."""


def load_network(path: str | Path) -> tuple[Sam, str, str]:
    """Load a SAM from a checkpoint: the network in evaluation mode, its architecture's name, and the file's SHA-256.

    The file is ``.safetensors``, or a torch checkpoint: a state dict, alone or under the key "model_state" (micro-sam's
    training), "model" or "state_dict", with or without a prefix such as "sam." before its keys. Torch checkpoints load
    with ``weights_only=True``, which builds tensors and plain containers and nothing else. Architectures are named
    "vit_b", "vit_l", "vit_h", or "vit_WIDTHxDEPTH" for any other. Raises HistomixError if segment-anything is not
    installed; the file is absent, damaged or holds no SAM; or its weights are not all there.
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


@dataclass(frozen=True, eq=False)
class Scene:
    """What all points in one image share: tokens (1, N, C), their positions, and the first layer's view of them."""

    tokens: Tensor
    positions: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


class PointDecoder:
    """Answers many single points in one image, without doing again for each point what all have in common.

    The numbers are those of ``segment_anything``'s prompt encoder and mask decoder, in evaluation mode, but for
    rounding; the sums are done in another order. With N image tokens (4096), T tokens a point (7) and h heads (8):

    - What the first layer makes of the image is the same for every point: it is computed once.
    - Later layers would project all N tokens of every point (N·C·C/2 products each, five times). As q·(W x) = (Wᵀq)·x,
      the few tokens are projected instead, head by head, which leaves N·C·h·T, less than half of it.
    - The three masks' qualities are known before any mask is drawn, so only the best one is: the final attention is
      asked for five tokens, not seven, and one mask, not four, is multiplied out.
    - Upscaling by two transposed convolutions is two matrix products, as their steps equal their sizes. Pixels are put
      in their places at the end, when each is one number and not 32.
    """

    def __init__(self, network: Sam) -> None:
        self._prompts: Any = network.prompt_encoder
        self._decoder: Any = network.mask_decoder
        self._grid: tuple[int, int] = network.prompt_encoder.image_embedding_size

    @torch.no_grad()
    def scene(self, embedding: Tensor) -> Scene:
        """Prepare an image's embedding (1, C, h, w)."""
        tokens = embedding + self._prompts.no_mask_embed.weight[..., None, None]
        tokens = tokens.flatten(2).transpose(1, 2).contiguous()
        positions = self._prompts.get_dense_pe().flatten(2).transpose(1, 2).contiguous()
        first = self._decoder.transformer.layers[0]
        toward, back = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        placed = tokens + positions
        return Scene(
            tokens,
            positions,
            _by_head(toward.k_proj(placed), toward.num_heads).transpose(-1, -2).contiguous(),
            _by_head(toward.v_proj(tokens), toward.num_heads).contiguous(),
            _by_head(back.q_proj(placed), back.num_heads).transpose(-1, -2).contiguous(),
        )

    @torch.no_grad()
    def __call__(self, scene: Scene, points: Tensor) -> tuple[Tensor, Tensor]:
        """Answer points (B, 2: x, y in pixels of the network's input) with the best of SAM's several masks.

        Returns the logits (B, 4·h, 4·w) of the mask of highest predicted quality, which is where they are above 0, and
        that quality (B,), the predicted intersection over union.
        """
        if points.device.type != "cpu":
            return self._pass(scene, points)
        together = max(1, torch.get_num_threads() // THREADS)
        passes = [self._pass(scene, group) for group in points.split(together)]
        return torch.cat([logits for logits, _ in passes]), torch.cat([qualities for _, qualities in passes])

    def _pass(self, scene: Scene, points: Tensor) -> tuple[Tensor, Tensor]:
        decoder, transformer = self._decoder, self._decoder.transformer
        ones = torch.ones(len(points), 1, device=points.device)
        prompts, _ = self._prompts(points=(points[:, None], ones), boxes=None, masks=None)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        start = torch.cat([own.expand(len(points), -1, -1), prompts], dim=1)

        tokens, seen, placed = start, scene.tokens, scene.tokens
        for number, layer in enumerate(transformer.layers):
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
            else:
                queries = tokens + start
                tokens = tokens + layer.self_attn(q=queries, k=queries, v=tokens)
            tokens = layer.norm1(tokens)
            look, tell = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            queries = tokens + start
            attended = _look_first(look, queries, scene) if number == 0 else _look(look, queries, placed, seen)
            tokens = layer.norm2(tokens + attended)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            updated = _tell(tell, scene.queries if number == 0 else None, placed, tokens + start, tokens)
            # In place where it can be: tensors of this size cost a processor more to get than to fill.
            updated = updated.add_(seen) if updated.dtype == seen.dtype else updated + seen
            seen = layer.norm4(updated)
            placed = torch.add(seen, scene.positions, out=updated)

        # The quality's token and the masks': those of the prompt have nothing more to say.
        count = len(own)
        tokens, start = tokens[:, :count], start[:, :count]
        attended = _look(transformer.final_attn_token_to_image, tokens + start, placed, seen)
        tokens = transformer.norm_final_attn(tokens + attended)
        # The first mask is SAM's answer to prompts that leave no doubt; a single point does.
        qualities = decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
        best, which = qualities.float().max(dim=1)
        networks = decoder.output_hypernetworks_mlps[1:]
        filters = torch.stack([network(tokens[:, 2 + i]) for i, network in enumerate(networks)], dim=1)
        chosen = filters[torch.arange(len(points), device=points.device), which]
        return self._draw(seen, chosen).float(), best

    def _draw(self, seen: Tensor, filters: Tensor) -> Tensor:
        """Upscaled tokens (B, N, C) times filters (B, C / 8): logits (B, 4·h, 4·w)."""
        widen, norm, _, widen_again, _ = self._decoder.output_upscaling
        once, twice = _product(widen), _product(widen_again)

        large = linear(seen, *once).unflatten(-1, (4, -1))
        large = gelu(layer_norm(large, large.shape[-1:], norm.weight, norm.bias, norm.eps))
        large = gelu(linear(large, *twice).unflatten(-1, (4, -1)))
        values = large.flatten(1, 3) @ filters[..., None]
        height, width = self._grid
        # Row and column of the token, then within it of the first convolution's pixel, then of the second's.
        apart = values.view(-1, height, width, 2, 2, 2, 2)
        return apart.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * height, 4 * width)


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """(B, T, I) as (B, heads, T, I / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _product(convolution: Any) -> tuple[Tensor, Tensor]:
    """A transposed convolution of 2 × 2 pixels in steps of 2 as weight (4·out, in) and bias (4·out) of a product."""
    return convolution.weight.permute(2, 3, 1, 0).flatten(0, 2), convolution.bias.repeat(4)


def _look_first(attention: Any, queries: Tensor, scene: Scene) -> Tensor:
    """Tokens attend to an image that is still the same for all of them."""
    query = _by_head(attention.q_proj(queries), attention.num_heads)
    weights = (query * query.shape[-1] ** -0.5 @ scene.keys).softmax(-1)
    return attention.out_proj((weights @ scene.values).transpose(1, 2).flatten(2))


def _look(attention: Any, queries: Tensor, placed: Tensor, seen: Tensor) -> Tensor:
    """Tokens attend to the image: (B, T, C) from ``placed`` and ``seen`` (B, N, C), which are not projected."""
    heads = attention.num_heads
    query = _by_head(attention.q_proj(queries), heads)
    # The keys' bias adds the same to all of a query's weights, which the softmax takes away again.
    turned = query * query.shape[-1] ** -0.5 @ attention.k_proj.weight.unflatten(0, (heads, -1))
    weights = (turned.flatten(1, 2) @ placed.transpose(1, 2)).softmax(-1)
    attended = (weights @ seen).unflatten(1, (heads, -1))
    projected = attended @ attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)
    # A softmax's weights sum to 1, so the values' bias comes through whole.
    projected = projected + attention.v_proj.bias.view(heads, 1, -1)
    return attention.out_proj(projected.transpose(1, 2).flatten(2))


def _tell(attention: Any, queries: Tensor | None, placed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The image attends to the tokens: (B, N, C); ``queries`` (1, heads, d, N) where they are known already."""
    heads = attention.num_heads
    key = _by_head(attention.k_proj(keys), heads)
    key = key * key.shape[-1] ** -0.5
    if queries is not None:
        scores = key @ queries
    else:
        turned = (key @ attention.q_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)
        shift = key @ attention.q_proj.bias.view(heads, -1, 1)
        scores = (turned @ placed.transpose(1, 2)).unflatten(1, (heads, -1)) + shift
    weights = scores.softmax(2).flatten(1, 2)
    value = _by_head(attention.v_proj(values), heads)
    share = (value @ attention.out_proj.weight.T.unflatten(0, (heads, -1))).flatten(1, 2)
    return weights.transpose(1, 2) @ share + attention.out_proj.bias
