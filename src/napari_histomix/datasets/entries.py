"""What layout readers hand over and share: entries, problems, files by name, and small metadata files beside them."""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_histomix.datasets.text_files import read_json
from napari_histomix.records import HistomixError, NucleusClass, Source

TABLE = "images.csv"
UNCLASSIFIED, UNCLASSIFIED_COLOR = "unclassified", (160, 160, 160)
"""Class of nuclei without one, in formats that allow that: none of them is lost, and nobody has to use them."""

_TCGA = re.compile(r"TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4}(?![A-Za-z0-9])")
_MAX_JSON = 2**24
"""Bytes of the small files that speak of a whole dataset."""
_SPLITS = {"training": "train", "testing": "test", "valid": "val", "validation": "val"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a dataset and the files it lies in.

    ``labels`` is the file of its nuclei: in some formats that of its pixels, or one for many images.
    """

    source: Source
    image: Path  # file of its pixels
    labels: Path | None  # None where the image has a class as a whole and no instances
    mpp: float | None  # µm per pixel; None where nothing says it
    index: int = 0  # its place in files that hold many images
    kind: str = ""  # class of the image as a whole; empty where it has none
    synthetic: bool = False  # whether the image holds synthetic pixels

    @property
    def label_file(self) -> Path:
        assert self.labels is not None, "an image without instances has no file of labels"
        return self.labels


class UnknownLayoutError(HistomixError):
    """A folder is of none of the layouts that were asked for; it may be of another one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one image (its name), in one sentence a person can act on."""

    image: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Row:
    """What a CSV or a format says about one image; empty strings, None and an empty mapping where it says nothing."""

    patient: str = ""
    slide: str = ""
    split: str = ""
    mpp: float | None = None
    types: Mapping[int, str] = field(default_factory=dict)
    synthetic: bool | None = None
    index: int = 0  # its place in files that hold many images


def natural_key(text: str) -> tuple[str | int, ...]:
    """Sort key by which ``train_2`` comes before ``train_10``; upper and lower case are equal."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts))


def natural_order(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key in natural order by which no two names are equal."""
    return natural_key(text), text


def split_name(text: str) -> str:
    """One spelling per split: ``Training`` is ``train``, ``validation`` is ``val``; empty stays empty."""
    text = text.strip().casefold()
    return _SPLITS.get(text, text)


def tcga_origin(image: str) -> tuple[str, str]:
    """Patient and slide by a TCGA barcode at the start of a file name; empty strings if there is none.

    The patient is the first 12 characters, the slide the part up to the first underscore.
    """
    return (image[:12].upper(), image.split("_", 1)[0]) if _TCGA.match(image) else ("", "")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is not there is an empty one."""
    if not path.is_file():
        return {}
    content = read_json(path, _MAX_JSON)
    if not isinstance(content, dict):
        raise HistomixError(f'{path.name} in {path.parent} must hold one JSON object, {{"…": …}}; mend it.')
    return content


def checked_mpp(value: object, where: str) -> float:
    """Turn what a file or a person says into µm per pixel, a positive finite number."""
    try:
        mpp = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        mpp = math.nan
    if isinstance(value, bool) or not (math.isfinite(mpp) and mpp > 0):
        raise HistomixError(f"{where} says {value!r} µm per pixel; write a positive number such as 0.25.")
    return mpp


def dataset_name(root: Path, described: Mapping[str, Any]) -> str:
    """Name by what ``dataset.json`` says, else the folder's."""
    name = described.get("name", "")
    return name.strip() if isinstance(name, str) and name.strip() else root.name


def described_split(described: Mapping[str, Any], image: str, folder: Path) -> str:
    """The split that ``dataset.json`` gives an image: one name for all, or lists of images by split; else empty."""
    split = described.get("split", "")
    if isinstance(split, dict):
        split = next((name for name, images in split.items() if isinstance(images, list) and image in images), "")
    if not isinstance(split, str):
        raise HistomixError(
            f'dataset.json in {folder}: split must be one name for all images, or {{"test": ["image", …]}}.'
        )
    return split_name(split)


def palette(count: int) -> list[tuple[int, int, int]]:
    """``count`` distinct colors (0–255): hues one golden angle apart, so that the first few differ most."""
    return [_color(index) for index in range(count)]


def _color(index: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((0.33 + index * 0.618034) % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def numbered_classes(numbers: set[int]) -> tuple[NucleusClass, ...]:
    """Classes known by number only: "type 1", "type 2", … A number keeps its color whichever others occur."""
    return tuple(NucleusClass(number, f"type {number}", _color(number - 1)) for number in sorted(numbers))


def named_classes(*names: str) -> tuple[NucleusClass, ...]:
    """Classes of these names, numbered from 1."""
    return tuple(NucleusClass(index + 1, name, _color(index)) for index, name in enumerate(names))


def read_type_info(path: Path) -> tuple[NucleusClass, ...]:
    """Classes of HoVer-Net's ``type_info.json``, by number, without type 0 (background); empty without such a file."""
    return classes_of(read_json_object(path), f"{path.name} in {path.parent}")


def classes_of(content: Mapping[str, Any], where: str) -> tuple[NucleusClass, ...]:
    """Classes of ``{"1": ["name", [r, g, b]], …}``, by number; ``where`` names the file in messages."""
    classes = []
    for key, value in content.items():
        try:
            name, color = value
            red, green, blue = (int(part) for part in color)
            number = int(key)
        except (TypeError, ValueError, OverflowError):
            number = -1
        if not (0 <= number < 2**31 and isinstance(name, str) and all(0 <= c <= 255 for c in (red, green, blue))):
            raise HistomixError(f'{where}: the entry "{key:.40}" must read "number": ["name", [red, green, blue]].')
        if number > 0:
            classes.append(NucleusClass(number, name, (red, green, blue)))
    names, numbers = {known.name.casefold() for known in classes}, {known.number for known in classes}
    if min(len(names), len(numbers)) < len(classes):
        raise HistomixError(f"{where} gives one name or number to two classes; rename one.")
    return tuple(sorted(classes, key=lambda known: known.number))


def described_classes(root: Path, described: Mapping[str, Any]) -> tuple[NucleusClass, ...]:
    """Classes by ``type_info.json``, else by ``classes`` of the same form in ``dataset.json``; empty without either."""
    classes = read_type_info(root / "type_info.json")
    content = described.get("classes")
    if classes or content is None:
        return classes
    where = f"dataset.json in {root}, classes"
    if not isinstance(content, dict):
        raise HistomixError(f'{where}: they must read {{"number": ["name", [red, green, blue]], …}}.')
    return classes_of(content, where)
