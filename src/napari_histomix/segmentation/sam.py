"""SAM as a prompter: one image encoding, many points, full-size masks only where asked for.

Kirillov et al., "Segment Anything", ICCV 2023. Answers are those of ``SamPredictor.predict`` asked point by point with
``multimask_output=True``, of which the mask of highest predicted quality is taken; only the order of sums differs.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.devices import choose_device, free_memory, memory_error, out_of_memory
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.segmentation.sam_network import PointDecoder, load_network
from napari_histomix.weights import CHECKPOINTS, checkpoint_path

BATCH = 64
REMEMBERED = 8
"""Embeddings kept in memory, 4 MB each."""


class SamPrompter:
    """A SAM that answers points; see ``segmentation.Prompter``.

    ``weights`` are a name in ``weights.CHECKPOINTS``, or a checkpoint file (see ``sam_network.load_network``). At most
    ``batch`` points are answered together; that is halved, and said so, when the device runs out of memory. Matrices
    are multiplied in ``dtype``: by default bfloat16 on CUDA (float16 on cards that lack it), and float32 elsewhere, as
    fewer bits move the masks. ``name`` is "sam-ARCHITECTURE-" and the first 12 digits of the weights' hash, with the
    number format where it is not float32.

    Raises HistomixError if segment-anything is not installed, weights are missing, damaged or made for another network,
    or the device is not there.
    """

    def __init__(
        self, weights: str | Path, device: str = "auto", batch: int = BATCH, *, dtype: torch.dtype | None = None
    ) -> None:
        if batch < 1:
            raise HistomixError(f"A batch holds at least one point, not {batch}.")
        self._device, self._batch = choose_device(device), batch
        named = isinstance(weights, str) and weights in CHECKPOINTS and not Path(weights).is_file()
        network, architecture, sha256 = load_network(checkpoint_path(str(weights)) if named else weights)
        self._dtype = dtype or _format(self._device)
        with memory_error("The device has no memory left for SAM's weights; close other programs or use cpu."):
            self._network: Any = network.to(self._device)
        self._decoder = PointDecoder(network)
        self._side: int = network.image_encoder.img_size
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        suffix = "" if self._dtype == torch.float32 else "-" + str(self._dtype).removeprefix("torch.")
        self.name = f"sam-{architecture}-{sha256[:12]}{suffix}"

    def __call__(self, pixels: NDArray[np.uint8], points: NDArray[np.float64]) -> Job[SamProposals]:
        """Answer foreground points (N, 2: row, column) in an image (H, W, 3) uint8; a long job (see ``records.Job``).

        There is an event before every layer of the image encoder, unless the image's embedding is known already, and
        for every batch of points. Raises HistomixError if the network returns something that is not a number, or the
        device has no memory left for one point; ValueError for pixels or points of another shape or dtype.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points must be (N, 2), not {points.shape}")
        shape, seen = (pixels.shape[0], pixels.shape[1]), _input_size(pixels.shape, self._side)
        low = 4 * self._network.prompt_encoder.image_embedding_size[0]
        if not len(points):
            return SamProposals(torch.empty(0, low, low), np.empty(0), shape, seen, self._side)
        embedding = yield from self._embedding(pixels, seen)
        scene = self._in_few_bits(self._decoder.scene, embedding.to(self._device))
        logits, scores = torch.empty(len(points), low, low), np.empty(len(points))
        # SAM counts columns first, in pixels of what it sees.
        scaled = points[:, ::-1] * (seen[1] / shape[1], seen[0] / shape[0])
        prompts = torch.from_numpy(np.ascontiguousarray(scaled, np.float32))
        start, batch = 0, self._batch
        while start < len(points):
            yield Event("Asking SAM", start, len(points))
            try:
                answers = self._in_few_bits(self._decoder, scene, prompts[start : start + batch].to(self._device))
                drawn, sure = answers[0].cpu(), answers[1].cpu().double().numpy()
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if batch == 1:
                    raise HistomixError(
                        "The device has no memory left for a single point; close other programs or use cpu."
                    ) from None
                batch //= 2
            else:
                if not (np.isfinite(sure).all() and bool(torch.isfinite(drawn).all())):
                    raise self._not_a_number("mask decoder")
                logits[start : start + len(sure)], scores[start : start + len(sure)] = drawn, sure
                start += len(sure)
                continue
            # Outside the handler: while it runs, the error's traceback still holds the batch that did not fit.
            free_memory(self._device)
            message = f"Out of memory: going on with batches of {batch} points."
            yield Event("Asking SAM", start, len(points), message=message)
        yield Event("Asking SAM", len(points), len(points))
        return SamProposals(logits, scores, shape, seen, self._side)

    def _in_few_bits(self, function: Any, *given: Any) -> Any:
        # Never across a yield: it is a state of the thread, which others use in between.
        few = torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)
        with torch.no_grad(), few:
            return function(*given)

    def _embedding(self, pixels: NDArray[np.uint8], seen: tuple[int, int]) -> Job[Tensor]:
        """The image's embedding (1, C, h, w) float32 on the CPU, remembered or made."""
        key = pixels_sha256(pixels)
        with self._lock:
            known = self._remembered.get(key)
        if known is None:
            known = yield from self._encode(pixels, seen)
        with self._lock:
            self._remembered[key] = known
            self._remembered.move_to_end(key)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return known

    def _encode(self, pixels: NDArray[np.uint8], seen: tuple[int, int]) -> Job[Tensor]:
        encoder, depth = self._network.image_encoder, len(self._network.image_encoder.blocks)
        yield Event("Encoding the image", 0, depth)
        resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(seen[::-1], Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(resized)).to(self._device).permute(2, 0, 1)[None]
        with memory_error("The device has no memory left for a single image; close other programs or use cpu."):
            tokens = self._in_few_bits(lambda: encoder.patch_embed(self._network.preprocess(image)) + encoder.pos_embed)
            for number, block in enumerate(encoder.blocks, start=1):
                tokens = self._in_few_bits(block, tokens)
                yield Event("Encoding the image", number, depth)
            # In full: its normalization squares what few bits hold badly, and it costs next to nothing.
            with torch.no_grad():
                embedding: Tensor = encoder.neck(tokens.float().permute(0, 3, 1, 2)).cpu()
        if not bool(torch.isfinite(embedding).all()):
            raise self._not_a_number("image encoder")
        return embedding

    def _not_a_number(self, step: str) -> HistomixError:
        return HistomixError(
            f"The {step} of '{self.name}' returned something that is not a number; its weights are unusable on this "
            "device."
        )


class SamProposals:
    """SAM's answers in its own low resolution; see ``segmentation.Proposals``.

    ``logits`` (N, L, L) are of the network's padded input, a square of ``side`` pixels, of which the image with its
    ``shape`` (H, W) takes ``seen`` (h, w); a mask is where they are above 0. ``scores`` are predicted intersections
    over union.
    """

    def __init__(
        self, logits: Tensor, scores: NDArray[np.float64], shape: tuple[int, int], seen: tuple[int, int], side: int
    ) -> None:
        self.scores = scores
        self._logits, self._shape, self._seen, self._side = logits, shape, seen, side
        cell = side / logits.shape[-1]
        (heights, rows), (widths, columns) = (_cells(shape[axis], seen[axis], cell) for axis in (0, 1))
        masks: NDArray[np.bool_] = (logits[:, : len(heights), : len(widths)] > 0).numpy()
        self._masks = masks.reshape(len(masks), len(heights) * len(widths))
        # A cell at the border of the image may lie in it only in part.
        self._weights = np.outer(heights, widths).ravel()
        # One at a time: all of them as numbers would take eight times the memory.
        per_row = np.array([mask @ widths for mask in masks]).reshape(-1, len(heights)) * heights
        per_column = np.array([heights @ mask for mask in masks]).reshape(-1, len(widths)) * widths
        areas = per_row.sum(axis=1)
        with np.errstate(invalid="ignore"):
            center = np.stack([per_row @ rows / areas, per_column @ columns / areas], axis=1)
        self.identities: NDArray[np.float64] = np.column_stack([center, np.where(areas > 0, np.sqrt(areas), np.nan)])

    def overlaps(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
        """Intersections over union (n, m), in low resolution; 0 where both are empty."""
        masks, others = self._masks[first].astype(np.float32), self._masks[second].astype(np.float32)
        weights = (self._weights / self._weights.max()).astype(np.float32)
        common = ((masks * weights) @ others.T).astype(np.float64)
        union = (masks @ weights)[:, None] + (others @ weights)[None, :] - common
        return np.divide(common, union, out=np.zeros_like(common), where=union > 0)

    def masks(self, points: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Masks (n, H, W) of some points at the image's size, as ``Sam.postprocess_masks`` makes them."""
        masks = np.empty((len(points), *self._shape), np.bool_)
        for mask, point in zip(masks, points, strict=True):
            logits = self._logits[int(point)][None, None]
            full = interpolate(logits, (self._side, self._side), mode="bilinear", align_corners=False)
            full = full[..., : self._seen[0], : self._seen[1]]
            # To its own size it would be interpolated to itself.
            if self._seen != self._shape:
                full = interpolate(full, self._shape, mode="bilinear", align_corners=False)
            mask[:] = (full[0, 0] > 0).numpy()
        return masks


def _input_size(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Height and width at which an image's longer side is ``side``, rounded as SAM rounds, at least 1."""
    scale = side / max(shape[:2])
    return max(1, int(shape[0] * scale + 0.5)), max(1, int(shape[1] * scale + 0.5))


def _cells(length: int, seen: int, cell: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sizes and centers, in pixels of the image, of the low-resolution cells along a side that lie in the image.

    A side of ``length`` pixels takes ``seen`` pixels of the network's input, ``cell`` of which are one cell. The first
    pixel's center is 0.
    """
    edges = np.minimum(np.arange(math.ceil(seen / cell) + 1) * cell, seen) * (length / seen)
    return np.diff(edges), (edges[1:] + edges[:-1]) / 2 - 0.5


def _format(device: torch.device) -> torch.dtype:
    """What matrices are multiplied in on a device by default."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
