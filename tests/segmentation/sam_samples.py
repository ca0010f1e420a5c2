"""A small SAM and its answers by the package's own means, for the tests of ours."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

SIDE = 128


def small_sam(*, depth: int = 3, width: int = 32, window: int = 3, whole: tuple[int, ...] = (1,)) -> Sam:
    """A SAM of the real classes with a few thousand random weights, large enough for prompts to matter."""
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=16,
        embed_dim=width,
        depth=depth,
        num_heads=2,
        mlp_ratio=2,
        norm_layer=norm,
        out_chans=32,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=whole,
    )
    prompts = PromptEncoder(32, (8, 8), (SIDE, SIDE), mask_in_chans=8)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=48)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_depth=3, iou_head_hidden_dim=16)
    network = Sam(encoder, prompts, decoder).eval()
    generator = torch.Generator().manual_seed(13)
    for name, weight in network.named_parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.35
        if weight.ndim == 1 and name.endswith("weight"):
            weight.data += 1
    matrix = network.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    matrix.copy_(torch.randn(matrix.shape, generator=generator))
    return network


def scene(shape: tuple[int, int], count: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels (H, W, 3) and points (count, 2) in them."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (*shape, 3), np.uint8), rng.uniform(0, 1, (count, 2)) * shape


def one_by_one(network: Sam, pixels: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Masks, qualities and which of three masks it was, as SamPredictor gives them."""
    predictor = SamPredictor(network)
    predictor.set_image(pixels)
    masks, qualities, which = [], [], []
    for row, col in points:
        three, sure, _ = predictor.predict(np.array([[col, row]]), np.ones(1), multimask_output=True)
        best = int(sure.argmax())
        masks.append(three[best])
        qualities.append(sure[best])
        which.append(best)
    return np.array(masks), np.array(qualities), which
