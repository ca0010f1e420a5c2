"""How the nuclei segmenter learns: targets, color augmentation and HoVer-Net's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import mark_boundaries
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d, cross_entropy

from napari_histomix.datasets import Dataset
from napari_histomix.diffusion.model_files import load_part, read_card
from napari_histomix.generation.segmenter import SegmenterNetwork, SegmenterOutput, new_segmenter
from napari_histomix.generation.structure import class_maps, instances_of, structure_of
from napari_histomix.records import HistomixError, Job
from napari_histomix.stains import stain_density, stain_pixels
from napari_histomix.training.inpainting import few_bits
from napari_histomix.training.labeled_windows import (
    LabeledBatches,
    LabeledPicture,
    LabeledWindow,
    class_names,
    labeled_pictures,
)
from napari_histomix.training.settings import SegmenterSettings

NOT_KNOWN = -1
"""In class targets: no loss here."""
SLOPES = 0.2
"""Weight of the slopes: where nuclei are half as wide as those that HoVer-Net gave 1, slopes are twice as steep."""
NUCLEUS = "nucleus"
"""The class of a network that learns from labels without classes."""
GRID = 32
"""Windows are multiples of this, whatever the size of the network."""
CHECKED = 48
"""Windows of the validation loss."""
SHOWN = 4
"""Windows in the picture of samples."""


class SegmenterBatch(NamedTuple):
    """Tensors of a step, N windows."""

    images: Tensor
    """(N, 3, S, S) in [−1, 1]."""
    structure: Tensor
    """(N, 3, S, S): semantic, horizontal, vertical."""
    classes: Tensor
    """(N, S, S) int64: index of the nucleus's class, ``NOT_KNOWN`` outside nuclei and where no class is known."""
    known: Tensor
    """(N, 1, S, S): 0 on pixels that give no loss."""


def batch_of(
    windows: Sequence[LabeledWindow], classes: Sequence[str], rng: np.random.Generator | None = None
) -> SegmenterBatch:
    """Tensors of labeled windows; with ``rng``, in colors and sharpness that vary."""
    pixels = np.stack([window.pixels if rng is None else vary(window.pixels, rng) for window in windows])
    structures = np.stack([structure_of(window.layout.instances) for window in windows])
    one_hot = np.stack([class_maps(window.layout.instances, window.layout.classes, classes) for window in windows])
    ignored = np.stack([window.ignore for window in windows])
    numbers = np.where(one_hot.any(axis=1) & ~ignored, one_hot.argmax(axis=1), NOT_KNOWN)
    return SegmenterBatch(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1,
        torch.from_numpy(structures),
        torch.from_numpy(numbers),
        torch.from_numpy(~ignored)[:, None].float(),
    )


def vary(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same tissue (H, W, 3) as another laboratory would have it: stains, sharpness, noise and JPEG."""
    changed: NDArray[Any] = pixels
    if rng.random() < 0.7:
        gain = rng.uniform((0.7, 0.6, 0.7), (1.4, 1.5, 1.3))
        stains = stain_density(pixels) * gain + rng.uniform(-0.04, 0.04, 3)
        changed = stain_pixels(stains.astype(np.float32))
    draw = rng.random()
    if draw < 0.35:
        soft = cv2.GaussianBlur(changed, (0, 0), float(rng.uniform(0.3, 1.3)))
        changed = soft if draw < 0.2 else cv2.addWeighted(changed, 1.6, soft, -0.6, 0)
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(1, 8), pixels.shape)
        changed = np.clip(np.rint(changed + noise), 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        # OpenCV's order of colors is the other way round.
        coded = cv2.imencode(".jpg", changed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])[1]
        decoded: Any = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        changed = decoded[..., ::-1]
    return np.ascontiguousarray(changed, np.uint8)


class SegmenterRecipe:
    """The nuclei segmenter (see ``training.loop.Recipe``)."""

    network: SegmenterNetwork
    schedule: Mapping[str, Any] = {}
    windows = (64, 96, 128, 192, 256, 512)
    columns = ("Real", "Labeled", "Found")
    what = (
        "A nuclei segmenter for H&E images. Input: RGB. Output: logit of being in a nucleus, horizontal and vertical "
        "maps, logits of classes."
    )

    def __init__(self, settings: SegmenterSettings, start: Path | None, _autoencoder: Path | None = None) -> None:
        self.settings, self.start = settings, start
        if settings.window % GRID:
            raise HistomixError(f"Windows of this network must be multiples of {GRID} pixels.")

    def pictures(
        self, sources: Sequence[Path | Dataset], seed: int, splits: Mapping[str, str] | None
    ) -> Job[tuple[list[LabeledPicture], list[LabeledPicture]]]:
        """Labeled pictures; their classes are those that the network will know."""
        learned, checked = yield from labeled_pictures(sources, self.settings, splits)
        self.begin(class_names(learned) or (NUCLEUS,))
        return learned, checked

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by index."""
        return tuple(self.network.config["classes"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the model card says beside the run."""
        return {"classes": list(self.classes)}

    def batches(self, pictures: Sequence[LabeledPicture], rank: int = 0) -> LabeledBatches:
        """Random windows of labeled pictures, in colors that vary."""
        return LabeledBatches(pictures, self.settings, self._varied, rank)

    def _varied(self, windows: Sequence[LabeledWindow], rng: np.random.Generator) -> SegmenterBatch:
        return batch_of(windows, self.classes, rng)

    def fixed(self, pictures: Sequence[LabeledPicture]) -> SegmenterBatch:
        """Windows of the validation loss."""
        batches = LabeledBatches(pictures, self.settings, self._varied)
        windows = [window for step in range(CHECKED) for window in batches.windows(step)][:CHECKED]
        return batch_of(windows, self.classes)

    def begin(self, classes: Sequence[str]) -> None:
        """Make the network for these classes, or take up the one to start from, whose class layer may be another."""
        if self.start is None:
            self.network = new_segmenter(self.settings.size, classes)
            return
        before, _ = load_part(SegmenterNetwork, self.start, read_card(self.start).get("sha256"))
        self.network = SegmenterNetwork.from_config(before.config, classes=list(classes))
        kept = before.state_dict()
        if list(before.config["classes"]) != list(classes):
            fresh = self.network.state_dict()
            kept |= {name: fresh[name] for name in fresh if name.startswith("class_head.1.")}
        self.network.load_state_dict(kept)

    def loss(self, network: Any, batch: Sequence[Tensor], _generator: torch.Generator) -> Tensor:
        """HoVer-Net's loss: cross entropy and Dice where nuclei are, square errors of offsets and their slopes, class.

        Pixels that are to be ignored count nowhere; a nucleus without a class counts for all but the class.
        """
        given = SegmenterBatch(*batch)
        with few_bits(given.images.device):
            output = network(given.images.contiguous(memory_format=torch.channels_last))
        return structure_loss(output, given)

    @torch.no_grad()
    def check(self, network: Any, batch: Sequence[Tensor]) -> float:
        """The same loss, over windows that were not learned from."""
        given = SegmenterBatch(*batch)
        return float(structure_loss(network(given.images), given))

    @torch.no_grad()
    def shown(self, network: Any, batch: Sequence[Tensor]) -> NDArray[np.uint8]:
        """Pixels, outlines of the labels, and outlines that the network finds, side by side; one row a window."""
        images, structure = (tensor[:SHOWN] for tensor in batch[:2])
        output: SegmenterOutput = network(images)
        given = structure.cpu().numpy()
        semantic, offsets = output.semantic.sigmoid().cpu().numpy(), output.offsets.float().cpu().numpy()
        rows = []
        for number, image in enumerate(images.cpu().numpy()):
            pixels = np.rint((image.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
            maps = (given[number], np.concatenate([semantic[number], offsets[number]]))
            outlined = [mark_boundaries(pixels, instances_of(*planes), color=(0, 1, 0)) for planes in maps]
            rows.append(np.concatenate([pixels, *(np.rint(255 * drawn).astype(np.uint8) for drawn in outlined)], 1))
        return np.concatenate(rows)

    def parts(self, network: Any, _batch: Sequence[Tensor]) -> nn.Module:
        """What is saved."""
        return network


def structure_loss(output: SegmenterOutput, batch: SegmenterBatch) -> Tensor:
    """HoVer-Net's loss of an output against its targets."""
    semantic, offsets = batch.structure[:, :1], batch.structure[:, 1:]
    inside = semantic * batch.known
    logits = output.semantic.float()
    entropy = binary_cross_entropy_with_logits(logits, semantic, batch.known, reduction="sum") / _count(batch.known)
    probable = logits.sigmoid() * batch.known
    dice = 1 - (2 * (probable * inside).sum() + 1) / (probable.sum() + inside.sum() + 1)
    error = output.offsets.float() - offsets
    distance = (error.square() * inside).sum() / (2 * _count(inside))
    slope = (slopes(error).square() * inside).sum() / (2 * _count(inside))
    return entropy + dice + distance + SLOPES * slope + class_loss(output.classes.float(), batch.classes)


def slopes(offsets: Tensor) -> Tensor:
    """Slope of the horizontal map along x, of the vertical along y, (N, 2, H, W), by HoVer-Net's 5 × 5 kernel."""
    steps = torch.arange(-2.0, 3.0, device=offsets.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    along = x / (x.square() + y.square()).clamp(min=1)
    kernels = torch.stack([along, along.T])[:, None]
    return conv2d(offsets, kernels, padding=2, groups=2)


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy over the pixels whose class is known; rare classes weigh more, by the root of their share."""
    counted = torch.bincount(classes[classes >= 0], minlength=logits.shape[1]).float()
    weights = (counted.sum().clamp(min=1) / counted.clamp(min=1)).sqrt() * (counted > 0)
    total = (counted * weights).sum().clamp(min=1)
    return cross_entropy(logits, classes, weights, ignore_index=NOT_KNOWN, reduction="sum") / total


def _count(mask: Tensor) -> Tensor:
    return mask.sum().clamp(min=1)
