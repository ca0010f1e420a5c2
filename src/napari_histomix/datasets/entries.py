"""What a layout reader hands over: entries, problems, and the small metadata files beside the data."""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_histomix.datasets.formats.reading import read_json
from napari_histomix.records import HistomixError, NucleusClass, Source

IMAGE_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg"})
LABEL_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
MAT_SUFFIXES = frozenset({".mat"})

_TCGA = re.compile(r"TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4}(?![A-Za-z0-9])")
_MAX_JSON = 2**24
"""Bytes of the small files that speak of a whole dataset."""
_SPLITS = {"training": "train", "testing": "test", "valid": "val", "validation": "val"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a dataset and the files it lies in.

    Parameters
    ----------
    source : Source
    image : Path
        File of its pixels.
    labels : Path, optional
        File of its nuclei, in some formats that of its pixels, or one for many images; None where the image has a
        class as a whole and no instances.
    mpp : float, optional
        µm per pixel; None where nothing says it.
    index : int
        Its place in files that hold many images.
    kind : str
        Class of the image as a whole; empty where it has none.
    synthetic : bool
        Whether the image holds synthetic pixels.
    """

    source: Source
    image: Path
    labels: Path | None
    mpp: float | None
    index: int = 0
    kind: str = ""
    synthetic: bool = False

    @property
    def label_file(self) -> Path:
        """File of its nuclei, for an image that has instances."""
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
    """What a CSV says about one image; empty strings, None and an empty mapping where it says nothing."""

    patient: str = ""
    slide: str = ""
    split: str = ""
    mpp: float | None = None
    types: Mapping[int, str] = field(default_factory=dict)
    synthetic: bool | None = None


def natural_key(text: str) -> tuple[str | int, ...]:
    """Sort key by which ``train_2`` comes before ``train_10``; upper and lower case are equal."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts))


def about(image: str, error: HistomixError) -> str:
    """What is wrong, with the image's name in front where the sentence does not begin with it."""
    sentence = str(error)
    return sentence if sentence.startswith(image) else f"{image}: {sentence}"


def split_name(text: str) -> str:
    """One spelling per split: ``Training`` is ``train``, ``validation`` is ``val``; empty stays empty."""
    text = text.strip().casefold()
    return _SPLITS.get(text, text)


def described_split(described: Mapping[str, Any], image: str, folder: Path) -> str:
    """The split that ``dataset.json`` gives an image: one name for all, or lists of images by split; else empty.

    Raises
    ------
    HistomixError
        If it says something else.
    """
    said = described.get("split", "")
    if isinstance(said, dict):
        said = next((name for name, images in said.items() if isinstance(images, list) and image in images), "")
    if not isinstance(said, str):
        raise HistomixError(
            f'dataset.json in {folder}: split must be one name for all images, or {{"test": ["image", …]}}.'
        )
    return split_name(said)


def tcga_origin(image: str) -> tuple[str, str]:
    """Patient and slide by a TCGA barcode at the start of a file name.

    Parameters
    ----------
    image : str
        File name without its suffix.

    Returns
    -------
    patient, slide : str
        First 12 characters and the part up to the first underscore; empty strings if there is no barcode.
    """
    if not _TCGA.match(image):
        return "", ""
    return image[:12].upper(), image.split("_", 1)[0]


def files_by_stem(
    folder: Path, suffixes: frozenset[str], problems: list[Problem], what: str = "image"
) -> dict[str, Path]:
    """Files of a folder by name without suffix; two files of one name are reported and both left out.

    Hidden files (and the ``._x.png`` that macOS leaves on network drives) do not count.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.casefold() in suffixes and not path.name.startswith(".") and path.is_file():
            found.setdefault(path.stem, []).append(path)
    for stem, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            problems.append(Problem(stem, f"{stem}: {names} are two {what} files of one name; keep one of them."))
    return {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}


def checked_mpp(value: object, where: str) -> float:
    """Turn what a file or a person says into µm per pixel.

    Raises
    ------
    HistomixError
        If it is not a positive finite number.
    """
    try:
        mpp = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        mpp = math.nan
    if isinstance(value, bool) or not (math.isfinite(mpp) and mpp > 0):
        raise HistomixError(f"{where} says {value!r} µm per pixel; write a positive number such as 0.25.")
    return mpp


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is not there is an empty one.

    Raises
    ------
    HistomixError
        If the file is there but cannot be read or is no JSON object.
    """
    if not path.is_file():
        return {}
    content = read_json(path, _MAX_JSON)
    if not isinstance(content, dict):
        raise HistomixError(f'{path.name} in {path.parent} must hold one JSON object, {{"…": …}}; mend it.')
    return content


def palette(count: int) -> list[tuple[int, int, int]]:
    """``count`` distinct colors (0–255): hues one golden angle apart, so that the first few differ most."""
    return [_color(index) for index in range(count)]


def _color(index: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((0.33 + index * 0.618034) % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def read_type_info(path: Path) -> tuple[NucleusClass, ...]:
    """Classes of HoVer-Net's ``type_info.json``, ``{"1": ["name", [r, g, b]], …}``, without type 0 (background).

    Returns
    -------
    tuple of NucleusClass
        By number; empty if there is no such file.

    Raises
    ------
    HistomixError
        If the file is there but is not of that form, or two classes share a name.
    """
    return classes_of(read_json_object(path), f"{path.name} in {path.parent}")


def classes_of(content: Mapping[str, Any], where: str) -> tuple[NucleusClass, ...]:
    """Classes of what `read_type_info` reads, ``{"1": ["name", [r, g, b]], …}``, by number.

    Parameters
    ----------
    content : mapping
    where : str
        Names the file in messages.

    Raises
    ------
    HistomixError
        As for `read_type_info`.
    """
    classes = []
    for key, value in content.items():
        try:
            name, color = value
            red, green, blue = (int(part) for part in color)
            number = int(key)
        except (TypeError, ValueError, OverflowError):
            number = -1
        if (
            not 0 <= number < 2**31
            or not isinstance(name, str)
            or not all(0 <= part <= 255 for part in (red, green, blue))
        ):
            raise HistomixError(f'{where}: the entry "{key:.40}" must read "number": ["name", [red, green, blue]].')
        if number > 0:
            classes.append(NucleusClass(number, name, (red, green, blue)))
    names = [one.name.casefold() for one in classes]
    numbers = [one.number for one in classes]
    if len(set(names)) < len(names) or len(set(numbers)) < len(numbers):
        raise HistomixError(f"{where} gives one name or number to two classes; rename one.")
    return tuple(sorted(classes, key=lambda one: one.number))


def numbered_classes(numbers: set[int]) -> tuple[NucleusClass, ...]:
    """Classes known by number only: "type 1", "type 2", … A number keeps its color whichever others occur."""
    return tuple(NucleusClass(number, f"type {number}", _color(number - 1)) for number in sorted(numbers))
