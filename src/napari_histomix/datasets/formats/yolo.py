"""YOLO's segmentation labels: a text file per image (https://docs.ultralytics.com/datasets/segment/).

A line is a nucleus: ``class x1 y1 x2 y2 …``, x and y as shares of the image's width and height. ``data.yaml`` names the
classes, which count from 0. Images and labels lie in ``images/train`` and ``labels/train``, in ``train/images`` and
``train/labels``, or without folders for the splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset, Layout
from napari_histomix.datasets.entries import SPLIT_FOLDERS, Entry, Labels, Row, classes_of, palette, split_name
from napari_histomix.datasets.formats.polygons import one_ring, paint, shapes_of
from napari_histomix.datasets.listing import LABEL_SUFFIXES, MAT_SUFFIXES, Listing, subfolder
from napari_histomix.datasets.text_files import naming, read_bytes
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, safe_name, write_png, write_text
from napari_histomix.records import HistomixError, LabeledImage

_TXT = frozenset({".txt"})
_YAML = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_MAX_YAML = 2**16
"""Bytes: room for thousands of names, and read in a second or two whatever they are."""
_MAX_LABELS = 2**26
_OUTSIDE = 0.01
"""How far beyond the image a point may lie, as a share of its size: as much as Ultralytics lets pass."""
_DECIMALS = 8
"""Of what is written: in an image of a million pixels a side, a point stays within 0.01 pixels of its place."""


def recognizes(root: Path) -> bool:
    """Whether there are text files beside images as YOLO wants them, and no label images or ``.mat`` files."""
    return any(True for _ in _sections(root))


def _sections(root: Path) -> Iterator[tuple[Path, Path, str]]:
    """Folders of images and of their labels, with the split that their names say."""
    images, labels = subfolder(root, "images"), subfolder(root, "labels")
    pairs = [(images, labels, "")]
    for name in SPLIT_FOLDERS:
        if images and labels:
            pairs.append((subfolder(images, name), subfolder(labels, name), split_name(name)))
        if folder := subfolder(root, name):
            pairs.append((subfolder(folder, "images"), subfolder(folder, "labels"), split_name(name)))
    for images, labels, split in pairs:
        if images and labels:
            suffixes = {path.suffix.casefold() for path in labels.iterdir() if not path.name.startswith(".")}
            if suffixes & _TXT and not suffixes & (LABEL_SUFFIXES | MAT_SUFFIXES):
                yield images, labels, split


def open(root: Path, mpp: float | None) -> Dataset:
    """List the images and their text files.

    Classes keep their numbers where ``type_info.json`` or ``dataset.json`` has classes of the same names; otherwise
    they count from 1.
    """
    listing = Listing(root, mpp)
    for images, labels, split in _sections(root):
        texts = listing.labels(labels, _TXT)
        # Some programs put the list of the classes there.
        texts.pop("classes", None)
        for image, pair in listing.pairs(listing.images(images), texts).items():
            listing.add(image, pair, Row(split=split))
    names, classes = _names(root), listing.classes
    by_name = {known.name.casefold(): known.number for known in classes}
    if not classes or any(name.casefold() not in by_name for name in names.values()):
        colors = map(list, palette(len(names)))
        table = {str(key + 1): [name, color] for (key, name), color in zip(names.items(), colors, strict=True)}
        classes = classes_of(table, f"the names in data.yaml in {root}")
        return listing.dataset(classes, _Layout({key: key + 1 for key in names}))
    return listing.dataset(classes, _Layout({key: by_name[name.casefold()] for key, name in names.items()}))


def _names(root: Path) -> dict[int, str]:
    """The names of the classes by YOLO's numbers."""
    path = next((root / name for name in _YAML if (root / name).is_file()), None)
    if path is None:
        raise HistomixError(f"{root} has YOLO's labels but nothing names the classes; add a data.yaml with names.")
    where = f"{path.name} in {root}"
    content = read_bytes(path, 2**20)
    if len(content) > _MAX_YAML:
        raise HistomixError(f"{where} is larger than {_MAX_YAML >> 10} KB; it should only name the classes.")
    try:
        # All scalars as text, and no merge keys, by which a small file can grow without end.
        said = yaml.load(content, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise HistomixError(f"{where} is not valid YAML; mend it.") from None
    names = said.get("names") if isinstance(said, dict) else None
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and isinstance(key, str) and key.isdecimal() and len(key) < 9
        for key, name in names.items()
    ):
        raise HistomixError(f"{where} must name the classes: names: {{0: tumor, 1: stroma}}; mend it.")
    return {int(key): name for key, name in sorted(names.items(), key=lambda item: int(item[0]))}


@dataclass(frozen=True)
class _Layout(Layout):
    numbers: Mapping[int, int]  # of the classes, by YOLO's numbers

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        try:
            lines = read_bytes(entry.label_file, _MAX_LABELS).decode("ascii").splitlines()
        except UnicodeDecodeError:
            raise HistomixError(f"{entry.label_file.name} is no text of numbers; export it again.") from None
        name = entry.label_file.name
        numbered = enumerate(map(str.split, lines), start=1)
        with naming(name):
            return paint(shape, (self._polygon(words, shape, f"{name}, line {n}") for n, words in numbered if words))

    def _polygon(self, words: Sequence[str], shape: tuple[int, int], where: str) -> tuple[list[NDArray[Any]], int]:
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            raise HistomixError(f"{where}: it must hold numbers, class x1 y1 x2 y2 …; export it again.") from None
        if len(values) == 5:
            raise HistomixError(f"{where}: it has a box but no outline; use a dataset for segmentation.")
        if len(values) < 7 or len(values) % 2 == 0:
            raise HistomixError(f"{where}: it must read class x1 y1 x2 y2 x3 y3 …; export it again.")
        if values[0] not in self.numbers:
            raise HistomixError(f"{where}: its class {words[0]!r:.20} has no name in data.yaml; add it there.")
        points = values[1:].reshape(-1, 2)
        if not ((points >= -_OUTSIDE) & (points <= 1 + _OUTSIDE)).all():
            raise HistomixError(f"{where}: its points must be shares of the image's size, from 0 to 1.")
        return [points * (shape[1], shape[0])], self.numbers[int(values[0])]


class Writer(ImageWriter):
    """Writes ``images/SPLIT/NAME.png``, ``labels/SPLIT/NAME.txt`` and ``data.yaml``.

    A line holds a single ring, along the borders of the pixels, from which the same pixels come back here. Programs
    that fill a ring together with its outline, as OpenCV and so Ultralytics do, see nuclei one pixel wider to the right
    and below. A nucleus with holes or in several parts becomes a ring by lines that run there and back again, as
    Ultralytics' own converter joins parts; those programs see bridges of one pixel. data.yaml says how many they are.
    """

    def start(self) -> None:
        self._indices = {known.number: index for index, known in enumerate(self.classes)}
        self._splits: set[str] = set()
        self._joined = 0

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        name, split = image.source.image, safe_name(image.source.split or "train", "train")
        self._splits.add(split)
        for part in ("images", "labels"):
            (self.folder / part / split).mkdir(parents=True, exist_ok=True)
        write_png(self.folder / "images" / split / f"{name}.png", image.pixels, image.mpp, synthetic)
        rows, cols = image.instances.shape
        lines = []
        for number, parts in shapes_of(image.instances):
            self._joined += len(parts) > 1 or bool(parts[0][1])
            points = np.round(one_ring(parts) / (cols, rows), _DECIMALS).ravel().tolist()
            lines.append(" ".join(map(str, [self._indices[image.types[number]], *points])) + "\n")
        write_text(self.folder / "labels" / split / f"{name}.txt", "".join(lines))

    def finish(self) -> None:
        super().finish()
        lines = [SYNTHETIC_NOTICE] if self.has_synthetic else []
        if self._joined:
            lines.append(f"{self._joined} nuclei have holes or several parts; their rings are joined by lines.")
        splits = sorted(self._splits) or ["train"]
        train = "train" if "train" in splits else splits[0]
        if "val" not in splits:
            lines.append("There are no images for validation; name your own as val.")
        # Ultralytics wants both, and takes the folder of this file where no path is given.
        places = {"train": train, "val": train} | dict(zip(splits, splits, strict=True))
        places = {key: f"images/{split}" for key, split in places.items()}
        names = {index: known.name for index, known in enumerate(self.classes)}
        text = yaml.safe_dump(places | {"names": names}, sort_keys=False, allow_unicode=True, width=1000)
        write_text(self.folder / "data.yaml", "".join(f"# {line}\n" for line in lines) + text)
