"""What networks that paint or find nuclei learn from: labeled datasets, patients held out, random windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from napari_histomix.datasets import Dataset, open_any
from napari_histomix.datasets.splits import with_splits
from napari_histomix.generation.layout import Layout
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.scales import resized, resized_labels, same_scale, shape_at_scale
from napari_histomix.stains import optical_density, stain_of
from napari_histomix.training.settings import LabeledSettings
from napari_histomix.training.subsets import typical_tiles

MOST_PIXELS = 400_000_000
"""Pixels that are kept in memory, with their labels."""


@dataclass(frozen=True, eq=False)
class LabeledPicture:
    """A labeled image at the scale that windows are cut at.

    Parameters
    ----------
    name, folder, slide : str
        Of the image, its dataset, and what a validation split must not cut: its patient, else its slide or itself.
    given : (H, W, 3) uint8
        Pixels as the file has them.
    layout : Layout
        At the scale of ``scaled``; nuclei of ignored classes are not in it.
    scaled : (H', W', 3) uint8
    ignored : (H', W') bool
        Where nothing is to be learned.
    stain : (6,) float32
        Mean and standard deviation of the optical density of each channel.
    """

    name: str
    folder: str
    slide: str
    given: NDArray[np.uint8] = field(repr=False)
    scaled: NDArray[np.uint8] = field(repr=False)
    layout: Layout
    ignored: NDArray[np.bool_] = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as windows are cut."""
        return self.layout.shape

    def pixels(self) -> NDArray[np.uint8]:
        """As the file has them, by which a model card names what it was trained on."""
        return self.given

    @cached_property
    def stain(self) -> NDArray[np.float32]:
        """Mean and spread of each channel's optical density, (6,)."""
        return stain_of(self.scaled)

    @cached_property
    def centers(self) -> Mapping[str, NDArray[np.float64]]:
        """Centers (N, 2) of the nuclei of each class."""
        ids, first, counts = np.unique(self.layout.instances.ravel(), return_inverse=True, return_counts=True)[:3]
        rows, cols = np.divmod(np.arange(first.size), self.size[1])
        places = np.stack([np.bincount(first.ravel(), values) / counts for values in (rows, cols)], axis=1)
        by_class: dict[str, list[NDArray[np.float64]]] = {}
        for number, place in zip(ids.tolist(), places, strict=True):
            if number:
                by_class.setdefault(self.layout.classes[number], []).append(place)
        return {name: np.array(listed) for name, listed in by_class.items()}


@dataclass(frozen=True, slots=True, eq=False)
class LabeledWindow:
    """An augmented window: pixels (S, S, 3), its nuclei, where nothing is learned, and its image's stain (6,)."""

    pixels: NDArray[np.uint8]
    layout: Layout
    ignore: NDArray[np.bool_]
    stain: NDArray[np.float32]


def labeled_pictures(
    sources: Sequence[Path | Dataset],
    settings: LabeledSettings,
    splits: Mapping[str, str] | None = None,
    mpp: float | None = None,
) -> Job[tuple[list[LabeledPicture], list[LabeledPicture]]]:
    """Pictures to learn from and to check on; a long job.

    Test images are never read. Validation images of a dataset are checked on; where it has none, a tenth of its
    patients, at least one, is held out whole. Images without nuclei, and those that hold synthetic ones, are left out.

    Raises
    ------
    HistomixError
        For a folder that is no labeled dataset, or too few images.
    """
    learned: list[LabeledPicture] = []
    checked: list[LabeledPicture] = []
    for source in sources:
        dataset = source if isinstance(source, Dataset) else open_any(source, mpp)
        if not dataset.has_nuclei:
            raise HistomixError(f"{dataset.name} has no labeled nuclei, which this network learns from.")
        if splits:
            dataset = with_splits(dataset, splits)
        held: list[LabeledPicture] = []
        trained: list[LabeledPicture] = []
        total = len(dataset.entries)
        for number, entry in enumerate(dataset.entries):
            yield Event("Reading images", number, total)
            if entry.source.split not in ("train", "", "val"):
                continue
            try:
                image = dataset.read(entry)
            except HistomixError as error:
                yield Event("Reading images", number, total, message=f"Skipped: {error}")
                continue
            if image.synthetic or entry.synthetic:
                continue
            slide = image.source.patient or image.source.slide or image.source.image
            names = {known.number: known.name for known in dataset.all_classes}
            classes = {i: _plain_name(names[kind], dataset) for i, kind in image.types.items()}
            layout = Layout(image.instances, classes, image.mpp, image.source.image)
            picture = _at_scale(image.pixels, layout, settings, dataset.name, slide)
            (held if entry.source.split == "val" else trained).append(picture)
        if not held:
            trained, held = _held_out(trained, settings.seed)
        learned += trained
        checked += held
    if not learned or not checked:
        raise HistomixError("Training needs labeled images of two patients: one to learn from, one to check on.")
    return (yield from typical_tiles(learned, settings)), checked


def _plain_name(name: str, dataset: Dataset) -> str:
    """A class's name; none for nuclei that have no class."""
    return "" if name == dataset.unclassified.name else name


def _at_scale(
    pixels: NDArray[np.uint8], layout: Layout, settings: LabeledSettings, folder: str, slide: str
) -> LabeledPicture:
    scaled, instances = pixels, layout.instances
    if not same_scale(layout.mpp, settings.window_mpp):
        shape = shape_at_scale(layout.shape, layout.mpp, settings.window_mpp)
        scaled, instances = resized(pixels, shape), resized_labels(instances, shape)
    left_out = {name.casefold() for name in settings.ignore}
    ignored_ids = [i for i, name in layout.classes.items() if name.casefold() in left_out]
    ignored = np.isin(instances, ignored_ids)
    instances = np.where(ignored, 0, instances).astype(np.int32)
    classes = {i: name for i, name in layout.classes.items() if i not in ignored_ids}
    kept = Layout(instances, classes, settings.window_mpp, layout.source)
    return LabeledPicture(layout.source, folder, slide, pixels, scaled, kept, ignored)


def _held_out(pictures: Sequence[LabeledPicture], seed: int) -> tuple[list[LabeledPicture], list[LabeledPicture]]:
    """Pictures to learn from, and those of a tenth of the patients, at least one, to check on."""
    slides = sorted({picture.slide for picture in pictures})
    if len(slides) < 2:
        return list(pictures), []
    held = set(np.random.default_rng(seed).permutation(slides)[: max(1, len(slides) // 10)].tolist())
    learned = [picture for picture in pictures if picture.slide not in held]
    return learned, [picture for picture in pictures if picture.slide in held]


def class_names(pictures: Sequence[LabeledPicture]) -> tuple[str, ...]:
    """Names of all classes that nuclei have, in alphabetical order."""
    return tuple(sorted({name for picture in pictures for name in picture.centers if name}))


def random_window(picture: LabeledPicture, settings: LabeledSettings, rng: np.random.Generator) -> LabeledWindow:
    """One augmented window: scale, flips, quarter turns, stain gain and shift.

    Flips and turns act on the instance map, so that what is computed from it afterwards fits.
    """
    size = settings.window
    height, width = picture.size
    side = min(round(size / rng.uniform(*settings.scale)), height, width)
    row, col = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    if picture.centers and rng.random() < settings.balanced:
        # Rare classes are seen as often as common ones.
        names = sorted(picture.centers)
        places = picture.centers[names[int(rng.integers(len(names)))]]
        place = places[int(rng.integers(len(places)))] - side * rng.uniform(0.2, 0.8, 2)
        row, col = (int(np.clip(at, 0, most - side)) for at, most in zip(place, (height, width), strict=True))
    window = slice(row, row + side), slice(col, col + side)
    pixels: Any = picture.scaled[window]
    instances: Any = picture.layout.instances[window]
    ignore: Any = picture.ignored[window]
    if side != size:
        smooth = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        pixels = cv2.resize(pixels, (size, size), interpolation=smooth)
        instances = cv2.resize(instances, (size, size), interpolation=cv2.INTER_NEAREST)
        ignore = cv2.resize(ignore.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    turns, flipped = int(rng.integers(4)), rng.random() < 0.5
    arrays = [np.rot90(array, turns) for array in (pixels, instances, ignore)]
    pixels, instances, ignore = (np.ascontiguousarray(array[:, ::-1] if flipped else array) for array in arrays)
    stain = picture.stain
    if rng.random() < 0.7:
        gain, shift = rng.uniform(0.85, 1.15, 3), rng.uniform(-0.03, 0.03, 3)
        density: NDArray[np.floating] = optical_density(pixels) * gain + shift
        pixels = np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8)
        stain = np.concatenate([stain[:3] * gain + shift, stain[3:] * gain]).astype(np.float32)
    present = np.unique(instances).tolist()
    classes = {number: picture.layout.classes[number] for number in present if number}
    layout = Layout(instances, classes, settings.window_mpp * side / size, picture.name)
    return LabeledWindow(pixels, layout, ignore, stain)


@dataclass(frozen=True, eq=False)
class LabeledBatches:
    """Batches of random windows by step: the same step gives the same batch, so a run can be taken up anywhere.

    ``prepare`` makes a recipe's tensors of windows; randomness that it needs comes from its generator. Each process of
    a run, by its ``rank``, has its own windows.
    """

    pictures: Sequence[LabeledPicture]
    settings: Any
    prepare: Callable[[Sequence[LabeledWindow], np.random.Generator], tuple[Tensor, ...]]
    rank: int = 0

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """Probability of each picture, by its number of pixels."""
        counts = np.asarray([math.prod(picture.size) for picture in self.pictures], np.float64)
        return counts / counts.sum()

    def windows(self, step: int, rng: np.random.Generator | None = None) -> list[LabeledWindow]:
        """The windows of one step."""
        rng = rng or np.random.default_rng([self.settings.seed, self.rank, step])
        chosen = rng.choice(len(self.pictures), size=self.settings.batch, p=self.shares)
        return [random_window(self.pictures[int(number)], self.settings, rng) for number in chosen]

    def at(self, step: int) -> tuple[Tensor, ...]:
        """The tensors of one step."""
        rng = np.random.default_rng([self.settings.seed, self.rank, step])
        return self.prepare(self.windows(step, rng), rng)
