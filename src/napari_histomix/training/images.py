"""What networks learn from: pictures, slides held out, random windows and holes."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from napari_histomix.datasets import Dataset, Entry
from napari_histomix.datasets.entries import TABLE, described_split, read_json_object, split_name, stated_splits
from napari_histomix.datasets.formats.plain import TYPES_TABLE
from napari_histomix.datasets.opening import open_dataset
from napari_histomix.datasets.pixels import is_flagged
from napari_histomix.datasets.splits import with_splits
from napari_histomix.datasets.text_files import read_table
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.stains import optical_density
from napari_histomix.training.settings import InpainterSettings, TrainingSettings

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
IN_MEMORY = 1_500_000_000
"""Bytes of pixels that are kept decoded; larger collections are read again for every window."""


@dataclass(frozen=True)
class Picture:
    """One image to learn from: a file, the pixels of an open layer, or an image of a dataset, of which ``entry`` is.

    ``folder`` is the collection it belongs to, for the model card; ``slide`` what a validation split must not cut.
    """

    name: str
    folder: str
    slide: str
    path: Path | None = None
    given: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    dataset: Dataset | None = field(default=None, compare=False, repr=False)
    entry: Entry | None = field(default=None, compare=False, repr=False)
    sides: tuple[int, int] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        if self.sides is not None:
            return self.sides
        if self.given is not None:
            return self.given.shape[0], self.given.shape[1]
        assert self.path is not None
        with Image.open(self.path) as image:
            return image.height, image.width

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8. Raises HistomixError where a file cannot be read."""
        if self.given is not None:
            return self.given
        if self.dataset is not None and self.entry is not None:
            return self.dataset.files.pixels(self.entry)
        assert self.path is not None
        pixels = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise HistomixError(f"{self.path} cannot be read as an image; remove it or export it again.")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8)


def pictures_of(
    source: Path | tuple[str, NDArray[np.uint8]], splits: Mapping[str, str] | None = None
) -> tuple[list[Picture], list[str]]:
    """The color images of a folder, or of one open layer (its name and pixels); and what a person should know.

    Images of a test or validation split are left out: those in folders of that name, and those that a labeled
    dataset's own files (such as COCO's), tables or ``dataset.json`` say. Where ``splits`` lists an image, by its name
    or its path without suffix, it decides alone. Images that hold synthetic pixels, by the tables or their own
    descriptions, are left out too.

    Raises
    ------
    HistomixError
        For a folder without any color image to learn from, or pixels that are not (H, W, 3) uint8.
    """
    if isinstance(source, tuple):
        name, pixels = source
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise HistomixError(f"'{name}' is no 8-bit RGB image, which is what networks learn from.")
        return [Picture(name, "open layers", name, given=pixels)], []
    images, broken = find_images(source)
    notes = [f"Skipped: {path} cannot be read as an image." for path in broken]
    facts_of = cache(_folder_facts)
    known = _dataset_splits(source)
    left = [path for path in images if not _is_reserved(path, source, splits or {}, known, facts_of)]
    if len(left) < len(images):
        reserved = len(images) - len(left)
        notes.append(f"{reserved} images of test and validation splits in {source.name} are not learned from.")
    if not left:
        raise HistomixError(f"{source} holds images of test or validation splits only; name training images.")
    real = [path for path in left if not _is_synthetic(path, source, facts_of)]
    if len(real) < len(left):
        notes.append(f"{len(left) - len(real)} synthetic images in {source.name} are not learned from.")
    if not real:
        raise HistomixError(f"{source} holds synthetic images only; name real training images.")
    return [Picture(path.name, source.name, slide_of(path), path) for path in real], notes


def _dataset_splits(folder: Path) -> dict[Path, str]:
    """The split of each image file of a folder that is a labeled dataset; empty for any other folder."""
    with suppress(HistomixError):
        # The scale does not matter here.
        return {entry.image.resolve(): entry.source.split for entry in open_dataset(folder, 1.0).entries}
    return {}


def _is_reserved(
    path: Path, top: Path, splits: Mapping[str, str], known: Mapping[Path, str], facts_of: Callable[[Path], _Facts]
) -> bool:
    """Whether an image belongs to a split that must not be learned from."""
    parts = path.with_suffix("").parts
    belongs = {splits[name] for at in range(len(parts)) if (name := "/".join(parts[at:])) in splits}
    if not belongs:
        folders = _folders(path, top)
        belongs = {split_name(folder.name) for folder in folders} & {"test", "val"} | {known.get(path.resolve(), "")}
        for folder in folders:
            rows, described = facts_of(folder)
            listed = rows.get(path.stem, {}).get("split", "")
            split = split_name(listed) or described_split(described, path.stem, folder)
            belongs.add(stated_splits(described, folder).get(split, split))
    return bool({split_name(split) for split in belongs} - {"train", ""})


def _is_synthetic(path: Path, top: Path, facts_of: Callable[[Path], _Facts]) -> bool:
    rows = [facts_of(folder)[0].get(path.stem, {}) for folder in _folders(path, top)]
    return any(row.get("synthetic", "").casefold() == "yes" for row in rows) or is_flagged(path)


def _folders(path: Path, top: Path) -> list[Path]:
    """The folders that an image lies in, up to the one that was named."""
    return [folder for folder in path.parents if folder == top or top in folder.parents]


_Facts = tuple[dict[str, Mapping[str, str]], Mapping[str, Any]]


def _folder_facts(folder: Path) -> _Facts:
    """What the tables in a folder say of images by their names, and its ``dataset.json``."""
    files = [folder / name for name in (TABLE, TYPES_TABLE)]
    rows = [row for file in files if file.is_file() for _, row in read_table(file, "image").rows]
    return {Path(row["image"]).stem: row for row in rows}, read_json_object(folder / "dataset.json")


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Color images below ``folder``, and files that cannot be read, both sorted; label maps beside them are left out.

    Raises
    ------
    HistomixError
        For a folder without any color image.
    """
    images: list[Path] = []
    broken: list[Path] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            with Image.open(path) as image:
                if image.mode in ("RGB", "RGBA", "P"):
                    images.append(path)
        except (OSError, ValueError):
            broken.append(path)
    if not images:
        raise HistomixError(f"{folder} holds no color PNG, JPEG or TIFF image; name a folder of H&E images.")
    return images, broken


def slide_of(path: Path) -> str:
    """What a validation split must not cut: the TCGA patient a file name begins with, else the file's folder."""
    barcode = re.match(r"TCGA-\w{2}-\w{4}", path.name)
    return barcode.group() if barcode else path.parent.name


def split_by_slide(pictures: Sequence[Picture], seed: int) -> tuple[list[Picture], list[Picture]]:
    """Training and validation pictures of one collection: a tenth of the slides, at least one, is held out whole.

    Of a single slide every tenth picture is held out instead.
    """
    slides = sorted({picture.slide for picture in pictures})
    if len(slides) == 1:
        return [picture for number, picture in enumerate(pictures) if number % 10], list(pictures[::10])
    held_out = set(np.random.default_rng(seed).permutation(slides)[: max(1, len(slides) // 10)].tolist())
    learned = [picture for picture in pictures if picture.slide not in held_out]
    return learned, [picture for picture in pictures if picture.slide in held_out]


def split_single(picture: Picture) -> tuple[list[Picture], list[Picture]]:
    """One large picture cut in two: its upper four fifths to learn from, the rest to check on."""

    def part(name: str, pixels: NDArray[np.uint8]) -> Picture:
        return Picture(f"{picture.name}, {name}", picture.folder, name, given=pixels)

    pixels = picture.pixels()
    cut = round(0.8 * len(pixels))
    return [part("upper part", pixels[:cut])], [part("lower part", pixels[cut:])]


def dataset_pictures(dataset: Dataset, splits: Mapping[str, str] | None = None) -> Job[list[Picture]]:
    """The real images of a dataset's training split, with labels or without; a long job.

    Images that are synthetic, or hold synthetic nuclei, are left out. ``splits`` are those that a person chose, by
    image. Pixels are read again when they are needed.

    Raises
    ------
    HistomixError
        If there is no real training image that can be read.
    """
    if splits:
        dataset = with_splits(dataset, splits)
    pictures: list[Picture] = []
    total = len(dataset.training)
    for done, entry in enumerate(dataset.training):
        yield Event("Reading images", done, total)
        if entry.synthetic:
            continue
        try:
            image = dataset.read(entry)
        except HistomixError as error:
            yield Event("Reading images", done, total, message=f"Skipped: {error}")
            continue
        if image.synthetic:
            continue
        source, sides = image.source, image.instances.shape
        slide = source.patient or source.slide or source.image
        pictures.append(Picture(source.image, dataset.name, slide, dataset=dataset, entry=entry, sides=sides))
    if not pictures:
        raise HistomixError(f"{dataset.name} has no real training image; give some to the training split.")
    return pictures


def training_pictures(
    images: Sequence[Path | tuple[str, NDArray[np.uint8]] | Dataset], seed: int, splits: Mapping[str, str] | None
) -> Job[tuple[list[Picture], list[Picture]]]:
    """Pictures to learn from and to check on, of each collection its own share; a long job."""
    learned: list[Picture] = []
    checked: list[Picture] = []
    collections: dict[str, list[Picture]] = {}
    for source in images:
        if isinstance(source, Dataset):
            found = yield from dataset_pictures(source, splits)
            collections.setdefault(f"dataset {source.root}", []).extend(found)
            continue
        pictures, notes = pictures_of(source, splits)
        for note in notes:
            yield Event("Reading images", message=note)
        collections.setdefault(str(source) if isinstance(source, Path) else pictures[0].folder, []).extend(pictures)
    for pictures in collections.values():
        if len(pictures) == 1 and min(pictures[0].size) >= 256:
            to_learn, to_check = split_single(pictures[0])
        else:
            to_learn, to_check = split_by_slide(pictures, seed)
        learned += to_learn
        checked += to_check
    if not learned or not checked:
        raise HistomixError("Training needs at least two images: one to learn from and one to check on.")
    return learned, checked


def collection_id(pictures: Sequence[Picture]) -> str:
    """Identity of a collection by names and sizes: a run may only be resumed on what it began with."""
    names = "\n".join(f"{picture.folder}/{picture.name} {picture.size}" for picture in pictures)
    return hashlib.sha256(names.encode()).hexdigest()


def random_window(pixels: NDArray[np.uint8], settings: TrainingSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One augmented (size, size, 3) uint8 crop: scale, flips, quarter turns, stain gain and shift."""
    size = settings.window
    side = round(size / rng.uniform(*settings.scale))
    side = min(side, *pixels.shape[:2])
    row = int(rng.integers(pixels.shape[0] - side + 1))
    col = int(rng.integers(pixels.shape[1] - side + 1))
    crop = pixels[row : row + side, col : col + side]
    if side != size:
        smooth = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        crop = cv2.resize(crop, (size, size), interpolation=smooth).astype(np.uint8)
    crop = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.7:
        density: NDArray[np.floating] = optical_density(crop)
        density = density * rng.uniform(0.85, 1.15, 3) + rng.uniform(-0.03, 0.03, 3)
        crop = np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(crop, dtype=np.uint8)


def random_hole(settings: InpainterSettings, rng: np.random.Generator) -> NDArray[np.float32]:
    """(size, size) float32 mask, 1 where hidden: all of it, a tissue segment, or rings and discs."""
    size = settings.window
    if rng.random() < settings.unconditional:
        return np.ones((size, size), np.float32)
    if rng.random() < settings.segments:
        return _segment(size, rng)
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    hole = np.zeros((size, size), bool)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        y, x = rng.uniform(0.2 * size, 0.8 * size, 2)
        a, b, turn = rng.uniform(5, 18), rng.uniform(5, 18), rng.uniform(0, math.pi)
        u = (rows - y) * math.cos(turn) + (cols - x) * math.sin(turn)
        v = (cols - x) * math.cos(turn) - (rows - y) * math.sin(turn)
        angle = np.arctan2(v, u)
        wobble = sum(rng.normal(0, 0.06) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 4, 5))
        distance = (np.hypot(u / a, v / b) - 1 - wobble) * min(a, b)
        if rng.random() < settings.rings:
            # Layers 2 and 3 are two pixels wide; wider rings appear where the engine magnifies a window.
            width = rng.choice([2.0, 2.5, 3.0, 4.0, 6.0], p=[0.4, 0.2, 0.2, 0.1, 0.1])
            hole |= (distance >= 1) & (distance < 1 + width)
        else:
            hole |= distance < rng.uniform(0, 3)
    return hole.astype(np.float32)


def _segment(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """All that lies on one side of a wavy line, or a blob as wide as half the window."""
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    y, x = rng.uniform(0.25 * size, 0.75 * size, 2)
    turn = rng.uniform(0, 2 * math.pi)
    along = (cols - x) * math.cos(turn) + (rows - y) * math.sin(turn)
    across = (rows - y) * math.cos(turn) - (cols - x) * math.sin(turn)
    if rng.random() < 0.4:
        hole = along > rng.uniform(1, 5) * np.sin(across / rng.uniform(3, 12) + turn)
    else:
        hole = np.hypot(along / rng.uniform(0.8, 1.4), across) < size * rng.uniform(0.2, 0.36)
    return hole.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of random windows by step: the same step gives the same batch, so a run can be taken up anywhere.

    Pictures are drawn by their number of pixels: a large image more often than a small tile. Each process of a run,
    by its ``rank``, has its own windows. ``hole`` draws a mask for each window; without it there are none.
    """

    pictures: Sequence[Picture]
    settings: Any
    hole: Callable[[Any, np.random.Generator], NDArray[np.float32]] | None = None
    rank: int = 0

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """Probability of each picture."""
        counts = np.asarray([math.prod(picture.size) for picture in self.pictures], np.float64)
        return counts / counts.sum()

    @cached_property
    def _pixels(self) -> Callable[[int], NDArray[np.uint8]]:
        """Reads a picture by its index; those of a small collection stay in memory."""

        def read(index: int) -> NDArray[np.uint8]:
            return self.pictures[index].pixels()

        small = 3 * sum(math.prod(picture.size) for picture in self.pictures) < IN_MEMORY
        return cache(read) if small else read

    def at(self, step: int) -> tuple[Tensor, ...]:
        """(N, 3, S, S) images in [−1, 1] of one step, and their (N, 1, S, S) holes where there are any."""
        rng = np.random.default_rng([self.settings.seed, self.rank, step])
        chosen = rng.choice(len(self.pictures), size=self.settings.batch, p=self.shares)
        crops = np.stack([random_window(self._pixels(int(i)), self.settings, rng) for i in chosen])
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
        if self.hole is None:
            return (images,)
        return images, torch.from_numpy(np.stack([self.hole(self.settings, rng) for _ in chosen]))[:, None]


def since(batch_at: Callable[[int], tuple[Tensor, ...]], step: int) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches from ``step`` on; the next one is made while one is used."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(batch_at, step)
        while True:
            batch = upcoming.result()
            step += 1
            upcoming = pool.submit(batch_at, step)
            yield batch
