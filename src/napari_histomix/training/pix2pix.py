"""How edge pix2pix learns: generator and 70×70 discriminator in one step, edges dropped now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, binary_cross_entropy_with_logits, unfold

from napari_histomix.datasets import Dataset
from napari_histomix.diffusion.inpainter import as_pixels
from napari_histomix.diffusion.model_files import load_part
from napari_histomix.generation.edges import FIXED, canny_edges, label_maps
from napari_histomix.generation.models import class_origins, picked
from napari_histomix.generation.pix2pix import SIZES, Generator, PatchDiscriminator
from napari_histomix.records import HistomixError, Job, instance_ids
from napari_histomix.training.inpainting import few_bits
from napari_histomix.training.labeled_windows import (
    LabeledBatches,
    LabeledPicture,
    LabeledWindow,
    class_names,
    labeled_pictures,
)
from napari_histomix.training.settings import Pix2PixSettings

CHECKED = 24
SHOWN = 4
HIDDEN_SHARE = 0.2
"""Weight of the L1 loss and of the distance of features where edges are hidden: nobody can know that texture, and the
mean of all that it may be is a blur. What is left holds color and shade."""


class Pix2Pix(nn.Module):
    """Generator and discriminator, and the loss of both."""

    def __init__(
        self, generator: Generator, discriminator: PatchDiscriminator, l1: float = 100.0, matching: float = 0.0
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.l1, self.matching = generator, discriminator, l1, matching

    def forward(self, pictures: Tensor, maps: Tensor, stains: Tensor, counted: Tensor, noise: Tensor) -> Tensor:
        """The sum of the generator's and the discriminator's loss, each of which moves its own weights only."""
        made = self.generator(maps, noise, stains)
        # 1. Where labels are unknown nobody judges: the truth is shown there.
        shown = torch.where(counted > 0, made, pictures)
        # 2. The discriminator: half the rate, as Isola's.
        real, fake = self.discriminator(maps, pictures), self.discriminator(maps, shown.detach())
        loss = 0.5 * (_verdict(real[-1], real=True) + _verdict(fake[-1], real=False))
        # 3. The generator: fool a discriminator that stands still, and stay near the truth.
        still = {name: weights.detach() for name, weights in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, still, (maps, shown))
        weight = counted * (1 - (1 - HIDDEN_SHARE) * maps[:, -1:])
        distance = ((made - pictures).abs() * weight).sum() / (3 * counted.sum()).clamp(min=1)
        loss = loss + _verdict(judged[-1], real=True) + self.l1 * distance
        if not self.matching:
            return loss
        # Beyond Isola: the same features of texture as the truth has (Wang et al., pix2pixHD, arXiv 1711.11585).
        apart = [
            ((ours - theirs.detach()).abs() * adaptive_avg_pool2d(weight, ours.shape[2:])).mean()
            for ours, theirs in zip(judged[:-1], real[:-1], strict=True)
        ]
        return loss + self.matching * torch.stack(apart).mean()


def _verdict(logits: Tensor, real: bool) -> Tensor:
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class Pix2PixRecipe:
    """The generator that paints labels with edges. Its methods are those of ``loop.Recipe``."""

    what = (
        "A generator (pix2pix) that paints H&E from labels and Canny edges of hematoxylin. Input: edge, nucleus, "
        "background, classes, hidden edges; noise; stain. Output: RGB."
    )
    schedule: Mapping[str, Any] = {}
    windows = (64, 128, 256, 512)
    columns = ("Labels", "Painted", "No edges", "Real")
    betas = (0.5, 0.999)

    def __init__(self, settings: Pix2PixSettings, start: Path | None, _autoencoder: Path | None = None) -> None:
        self.settings, self.start = settings, start
        self.classes: tuple[str, ...] = ()
        self.network: Any = None
        if settings.window < 48:
            raise HistomixError("Windows of pix2pix must be at least 48 pixels, for its discriminator.")

    def pictures(
        self, sources: Sequence[Path | Dataset], _seed: int, splits: Mapping[str, str] | None
    ) -> Job[tuple[list[LabeledPicture], list[LabeledPicture]]]:
        """Labeled pictures; their classes are those that the generator will know."""
        learned, checked = yield from labeled_pictures(sources, self.settings, splits)
        self.begin(class_names(learned))
        return learned, checked

    def begin(self, classes: Sequence[str]) -> None:
        """Make the networks, for these classes."""
        self.classes = tuple(classes)
        size = SIZES[self.settings.size]
        generator = Generator(list(classes), **size)
        if self.start is not None:
            _adopt(generator, load_part(Generator, self.start)[0], self.start)
        discriminator = PatchDiscriminator(FIXED + len(classes), min(size["width"], 64))
        self.network = Pix2Pix(generator, discriminator, self.settings.l1, self.settings.matching)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the model card says beside the run."""
        return {"classes": list(self.classes)}

    def batches(self, pictures: Sequence[LabeledPicture], rank: int = 0) -> LabeledBatches:
        """Random windows of labeled pictures."""
        return LabeledBatches(pictures, self.settings, self.prepare, rank)

    def fixed(self, pictures: Sequence[LabeledPicture]) -> tuple[Tensor, ...]:
        """Windows with all their edges, and last their maps without any."""
        batches = LabeledBatches(pictures, self.settings, self.prepare)
        windows = [window for step in range(CHECKED) for window in batches.windows(step)][:CHECKED]
        without = [label_maps(window.layout, self.classes, ignore=window.ignore) for window in windows]
        return *self.prepare(windows, None), torch.from_numpy(np.stack(without))

    def prepare(self, windows: Sequence[LabeledWindow], rng: np.random.Generator | None) -> tuple[Tensor, ...]:
        """Pictures, maps, stains and where labels are known, (N, 1, S, S); without a generator no edge is hidden."""
        maps = [
            label_maps(
                window.layout,
                self.classes,
                canny_edges(window.pixels),
                None if rng is None else hidden_edges(window, self.settings, rng),
                window.ignore,
            )
            for window in windows
        ]
        pixels = torch.from_numpy(np.stack([window.pixels for window in windows]))
        return (
            pixels.permute(0, 3, 1, 2).float() / 127.5 - 1,
            torch.from_numpy(np.stack(maps)),
            torch.from_numpy(np.stack([window.stain for window in windows])),
            torch.from_numpy(np.stack([~window.ignore for window in windows]))[:, None].float(),
        )

    def loss(self, network: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Both networks' loss."""
        noise = torch.randn(batch[3].shape, generator=generator).to(batch[0].device)
        with few_bits(batch[0].device):
            return network(*batch, noise)

    @torch.no_grad()
    def check(self, network: Any, batch: Any) -> float:
        """Mean distance to the truth and distance of textures, with all edges and with none."""
        pictures, maps, stains, counted, without = batch
        total = 0.0
        for seen in (maps, without):
            made = torch.where(counted > 0, _painted(network, seen, stains), pictures)
            total += float((made - pictures).abs().mean() + texture_distance(made, pictures))
        return total / 2

    @torch.no_grad()
    def shown(self, network: Any, batch: Any) -> NDArray[np.uint8]:
        """Labels with edges, painted, painted without edges and real side by side, one row a window."""
        pictures, maps, stains, _, without = (tensor[:SHOWN] for tensor in batch)
        labels = (255 * torch.maximum(maps[:, :1], 0.5 * maps[:, 1:2])).permute(0, 2, 3, 1).cpu().numpy()
        columns = [np.repeat(labels.astype(np.uint8), 3, axis=3)]
        columns += [as_pixels(_painted(network, seen, stains)) for seen in (maps, without)]
        return np.concatenate(np.concatenate([*columns, as_pixels(pictures)], axis=2))

    def parts(self, network: Any, batch: Any) -> nn.Module:
        """The generator, with the held-out windows' stains for pictures that follow no reference."""
        generator: Generator = network.generator
        generator.register_to_config(stains=[[round(value, 4) for value in stain] for stain in batch[2].tolist()])
        return generator


def hidden_edges(
    window: LabeledWindow, settings: Pix2PixSettings, rng: np.random.Generator
) -> NDArray[np.bool_] | None:
    """Where a window's edges are hidden (S, S): nowhere, everywhere, or in one to three nuclei or ellipses.

    Everywhere, so that layouts without a real image can be painted; here and there, so that edits can be.
    """
    drawn, size = rng.random(), window.pixels.shape[0]
    if drawn < settings.unedged:
        return np.ones((size, size), np.bool_)
    if drawn >= settings.unedged + settings.edited:
        return None
    hidden = np.zeros((size, size), np.uint8)
    ids = instance_ids(window.layout.instances)
    if ids and rng.random() < 0.5:
        chosen = rng.choice(ids, size=min(int(rng.integers(1, 4)), len(ids)), replace=False)
        reach = 2 * int(rng.integers(2, 8)) + 1
        hidden |= np.isin(window.layout.instances, chosen).astype(np.uint8)
        hidden = np.asarray(cv2.dilate(hidden, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))), np.uint8)
    else:
        for _ in range(int(rng.integers(1, 4))):
            center, axes = rng.integers(size, size=2).tolist(), rng.integers(size // 16, size // 4, size=2).tolist()
            cv2.ellipse(hidden, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return hidden > 0


def _painted(network: Pix2Pix, maps: Tensor, stains: Tensor) -> Tensor:
    noise = torch.randn(maps[:, :1].shape, generator=torch.Generator().manual_seed(0)).to(maps.device)
    return network.generator(maps, noise, stains).float()


def texture_distance(made: Tensor, truth: Tensor) -> float:
    """Sliced Wasserstein distance of 7×7 patches at two scales, between pictures (N, 3, H, W) in −1…1.

    Patches are compared as collections, not place by place: blur and checkerboards are far from tissue, another
    texture of the same kind is not. (The figure by which Karras et al., arXiv 1710.10196, watch a GAN learn.)
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3 * 49, 64, generator=generator).to(made.device)
    directions /= directions.norm(dim=0)
    total = 0.0
    for _ in range(2):
        slices = []
        for pictures in (made, truth):
            patches = unfold(pictures, 7, stride=3)
            patches = patches - patches.mean(1, keepdim=True)
            slices.append((patches.transpose(1, 2).flatten(0, 1) @ directions).sort(0).values)
        total += float((slices[0] - slices[1]).abs().mean())
        made, truth = avg_pool2d(made, 2), avg_pool2d(truth, 2)
    return total / 2


def _adopt(generator: Generator, start: Generator, folder: Path) -> None:
    """Begin with another generator's weights; channels of classes that it does not know begin at 0."""
    shape = ("width", "depth")
    if [start.config[key] for key in shape] != [generator.config[key] for key in shape]:
        raise HistomixError(f"{folder} is a generator of another size; train one of that size, or start anew.")
    known = list(start.config["classes"])
    # Edge, nucleus and background stand before the classes, hidden edges and noise behind them.
    order = [0, 1, 2, *(None if at is None else 3 + at for at in class_origins(known, generator.config["classes"]))]
    order += [3 + len(known), 4 + len(known)]
    weights = start.state_dict()
    for name, before in (("down.0.weight", 0), ("full.weight", start.config["width"] // 2)):
        shifted = [None if at is None else before + at for at in order]
        weights[name] = picked(weights[name], 1, [*range(before), *shifted])
    generator.load_state_dict(weights)
