"""YOLO's segmentation labels: a text file per image (https://docs.ultralytics.com/datasets/segment/).

A line is a nucleus: ``class x1 y1 x2 y2 …``, x and y as shares of the image's width and height, perhaps with a
confidence behind them; a line with a box instead is no nucleus. ``data.yaml`` or ``classes.txt`` names the classes,
which count from 0. Images and labels lie in ``images/train`` and ``labels/train``, in ``train/images`` and
``train/labels``, without folders for the splits, or in one folder; ``data.yaml`` and lists of images, ``train.txt``,
may say the splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import ONLY_BOX, Entry, Labels, Row, classes_of, palette
from napari_histomix.datasets.formats.polygons import Canvas, one_ring, shapes_of
from napari_histomix.datasets.formats.yolo_files import (
    NO_LABELS,
    TXT,
    Section,
    Splits,
    class_names,
    read_yaml,
    sections_in,
)
from napari_histomix.datasets.listing import IMAGE_SUFFIXES, Listing, visible_files
from napari_histomix.datasets.text_files import decoded, naming, read_bytes
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, safe_name, write_png, write_text
from napari_histomix.records import HistomixError, LabeledImage

_MAX_LABELS = 2**26
_FARTHEST = 1.0
"""How far beyond the image a point may lie, as a share of its size; what lies farther was written in pixels."""
_MOST_CLASSES = 10_000
"""Numbers of classes that are read without names."""
_DECIMALS = 8
"""Of what is written: in an image of a million pixels a side, a point stays within 0.01 pixels of its place."""


def recognizes(root: Path) -> bool:
    """Whether there are text files beside images as YOLO wants them, and no label images or ``.mat`` files."""
    return bool(sections_in(root))


def open(root: Path, mpp: float | None) -> Dataset:
    """List the images and their text files.

    Classes keep their numbers where ``type_info.json`` or ``dataset.json`` has classes of the same names; otherwise
    they count from 1. Where nothing names them they are "class 0", "class 1", …, which is reported.
    """
    listing, sections, described = Listing(root, mpp), sections_in(root), read_yaml(root)
    pairs: list[tuple[Section, str, tuple[Path, Path]]] = []
    # What is said first is why images without labels have none.
    for section in sorted(sections, key=lambda section: section.labels is not None):
        if section.labels is None:
            if count := sum(1 for _ in visible_files(section.images, IMAGE_SUFFIXES)):
                folder = section.images.relative_to(root).as_posix()
                listing.report(folder, f"there is no folder of labels for it; its {count:,} image(s) are left out.")
            continue
        found = listing.pairs_in(section.images, section.labels, TXT, NO_LABELS)
        pairs += [(section, image, files) for image, files in found.items()]
    splits = Splits(root, described[1], (files[0] for _, _, files in pairs))
    for section, image, files in pairs:
        row = Row(split=splits.of(files[0], section.split))
        with listing.reporting(image):
            listing.add(image, files, row, "/".join(section.folders))
    where, names = class_names(root, described, sections)
    if not names:
        where, names = "data.yaml", _numbers_in(listing)
        listing.report(
            root.name,
            "nothing says what the classes are called, so they are named by their numbers; add a classes.txt with one "
            "name a line, or a data.yaml with names.",
        )
    classes = listing.classes
    by_name = {known.name.casefold(): known.number for known in classes}
    if not classes or any(name.casefold() not in by_name for name in names.values()):
        colors = map(list, palette(len(names)))
        table = {str(key + 1): [name, color] for (key, name), color in zip(names.items(), colors, strict=True)}
        classes = classes_of(table, f"the names in {where} in {root}")
        return listing.dataset(classes, _Files({key: key + 1 for key in names}, where))
    return listing.dataset(classes, _Files({key: by_name[name.casefold()] for key, name in names.items()}, where))


def _numbers_in(listing: Listing) -> dict[int, str]:
    """Names for the numbers of classes that occur in label files."""
    numbers = set()
    for _, labels in listing.files.values():
        with suppress(HistomixError):
            numbers |= {int(words[0]) for words in _lines(labels) if words[0].isdecimal() and len(words[0]) < 9}
    return {number: f"class {number}" for number in sorted(numbers)[:_MOST_CLASSES]}


def _lines(path: Path) -> list[list[str]]:
    """The words of each line of a label file that is not empty, with decimal points."""
    text = decoded(read_bytes(path, _MAX_LABELS))
    if not text.isascii():
        raise HistomixError(f"{path.name} is no text of numbers; export it again.")
    lines = [line.split() for line in text.splitlines()]
    if "," in text and "." not in text and all(word.count(",") < 2 for words in lines for word in words):
        lines = [line.replace(",", ".").split() for line in text.splitlines()]
    return lines


@dataclass(frozen=True)
class _Files(ImageFiles):
    numbers: Mapping[int, int]  # of the classes, by YOLO's numbers
    names: str  # of the file that names them

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        name, canvas = entry.label_file.name, Canvas(shape)
        notes: tuple[str, ...] = ()
        lines = [(number, words) for number, words in enumerate(_lines(entry.label_file), start=1) if words]
        if lines and all(len(words) > 5 and len(words) % 2 == 0 for _, words in lines):
            # As Ultralytics writes what it predicts: a number behind the points.
            lines = [(number, words[:-1]) for number, words in lines if self._is_share(words[-1], name, number)]
            notes = ("the last number of each line in its label file is taken for a confidence and not read.",)
        with naming(name):
            for number, words in lines:
                rings, kind = self._polygon(words, shape, f"{name}, line {number}")
                if rings:
                    canvas.draw(rings, kind)
                else:
                    canvas.lost[ONLY_BOX] += 1
        return canvas.labels(notes=notes)

    def _polygon(self, words: Sequence[str], shape: tuple[int, int], where: str) -> tuple[list[NDArray[Any]], int]:
        """The outline and the class number of a line; no outline where it has a box."""
        values = np.array([_number(word, where) for word in words])
        if values[0] not in self.numbers:
            raise HistomixError(f"{where}: its class {words[0]!r:.20} has no name in {self.names}; add it there.")
        if len(values) < 5 or len(values) % 2 == 0:
            raise HistomixError(f"{where}: it must read class x1 y1 x2 y2 x3 y3 …; export it again.")
        points = values[1:].reshape(-1, 2)
        if not ((points >= -_FARTHEST) & (points <= 1 + _FARTHEST)).all():
            cause = ", and are pixels" if np.isfinite(points).all() and (points > 1 + _FARTHEST).any() else ""
            raise HistomixError(
                f"{where}: its points must be shares of the image's size, from 0 to 1{cause}; export it again."
            )
        return [points * (shape[1], shape[0])] if len(points) > 2 else [], self.numbers[int(values[0])]

    @staticmethod
    def _is_share(word: str, name: str, line: int) -> bool:
        """That a number is one from 0 to 1."""
        if not 0 <= _number(word, f"{name}, line {line}") <= 1:
            raise HistomixError(f"{name}, line {line}: it must read class x1 y1 x2 y2 x3 y3 …; export it again.")
        return True


def _number(word: str, where: str) -> float:
    try:
        if "_" in word:
            raise ValueError(word)
        return float(word)
    except ValueError:
        raise HistomixError(f"{where}: it must hold numbers, class x1 y1 x2 y2 …; export it again.") from None


class Writer(ImageWriter):
    """Writes ``images/SPLIT/NAME.png``, ``labels/SPLIT/NAME.txt`` and ``data.yaml``.

    A line holds a single ring, along the borders of the pixels, from which the same pixels come back here. Programs
    that fill a ring together with its outline, as OpenCV and so Ultralytics do, see nuclei one pixel wider to the right
    and below. A nucleus with holes or in several parts becomes a ring by lines that run there and back again, as
    Ultralytics' own converter joins parts; those programs see bridges of one pixel. data.yaml says how many they are.
    """

    def start(self) -> None:
        self._splits: set[str] = set()
        self._joined = 0

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        name, split = image.source.image, safe_name(image.source.split or "train", "train")
        self._splits.add(split)
        for part in ("images", "labels"):
            (self.folder / part / split).mkdir(parents=True, exist_ok=True)
        write_png(self.folder / "images" / split / f"{name}.png", image.pixels, image.mpp, synthetic)
        rows, cols = image.instances.shape
        indices = {known.number: index for index, known in enumerate(self.classes)}
        lines = []
        for number, parts in shapes_of(image.instances):
            self._joined += len(parts) > 1 or bool(parts[0][1])
            points = np.round(one_ring(parts) / (cols, rows), _DECIMALS).ravel().tolist()
            lines.append(" ".join(map(str, [indices[image.types[number]], *points])) + "\n")
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
