"""SAM's answers to many single points in one image, without doing again for each point what all have in common.

The numbers are those of ``segment_anything``'s prompt encoder and mask decoder but for rounding; the sums are done in
another order. With N image tokens (4096), T tokens a point (7) and h heads (8):

- What the first layer makes of the image is the same for every point: it is computed once.
- Later layers would project all N tokens of every point (N·C·C/2 products each, five times). As q·(W x) = (Wᵀq)·x, the
  few tokens are projected instead, head by head, which leaves N·C·h·T, less than half of it.
- The three masks' qualities are known before any mask is drawn, so only the best one is: the final attention is asked
  for five tokens, not seven, and one mask, not four, is multiplied out.
- Upscaling by two transposed convolutions is two matrix products, as their steps equal their sizes. Pixels are put in
  their places at the end, when each is one number and not 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

THREADS = 2
"""A processor's threads for each point that is decoded with others: what one point needs just fits into the caches of
two cores, where two points at once take a quarter longer each."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What all points in one image share: tokens (1, N, C), their positions, and the first layer's view of them."""

    tokens: Tensor
    positions: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


class PointDecoder:
    """Prompt encoder and mask decoder of a SAM in evaluation mode, for one foreground point a prompt."""

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
                asked = tokens + start
                tokens = tokens + layer.self_attn(q=asked, k=asked, v=tokens)
            tokens = layer.norm1(tokens)
            look, tell = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            asked = tokens + start
            found = _look_first(look, asked, scene) if number == 0 else _look(look, asked, placed, seen)
            tokens = layer.norm2(tokens + found)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            told = _tell(tell, scene.queries if number == 0 else None, placed, tokens + start, tokens)
            # In place where it can be: tensors of this size cost a processor more to get than to fill.
            told = told.add_(seen) if told.dtype == seen.dtype else told + seen
            seen = layer.norm4(told)
            placed = torch.add(seen, scene.positions, out=told)

        # The quality's token and the masks': those of the prompt have nothing more to say.
        count = len(own)
        tokens, start = tokens[:, :count], start[:, :count]
        found = _look(transformer.final_attn_token_to_image, tokens + start, placed, seen)
        tokens = transformer.norm_final_attn(tokens + found)
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


def _look_first(attention: Any, asked: Tensor, scene: Scene) -> Tensor:
    """Tokens attend to an image that is still the same for all of them."""
    query = _by_head(attention.q_proj(asked), attention.num_heads)
    weights = (query * query.shape[-1] ** -0.5 @ scene.keys).softmax(-1)
    return attention.out_proj((weights @ scene.values).transpose(1, 2).flatten(2))


def _look(attention: Any, asked: Tensor, placed: Tensor, seen: Tensor) -> Tensor:
    """Tokens attend to the image: (B, T, C) from ``placed`` and ``seen`` (B, N, C), which are not projected."""
    heads = attention.num_heads
    query = _by_head(attention.q_proj(asked), heads)
    # The keys' bias adds the same to all of a query's weights, which the softmax takes away again.
    turned = query * query.shape[-1] ** -0.5 @ attention.k_proj.weight.unflatten(0, (heads, -1))
    weights = (turned.flatten(1, 2) @ placed.transpose(1, 2)).softmax(-1)
    found = (weights @ seen).unflatten(1, (heads, -1))
    projected = found @ attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)
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
