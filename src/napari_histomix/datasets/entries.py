"""What readers hand over and share: entries, problems, files by name, and small metadata files beside them."""

from __future__ import annotations

import colorsys
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.text_files import read_json
from napari_histomix.records import HistomixError, NucleusClass, Problem, Source

TABLE = "images.csv"
UNCLASSIFIED, UNCLASSIFIED_COLOR = "unclassified", (160, 160, 160)
"""Class of nuclei without one, in formats that allow that: none of them is lost, and nobody has to use them."""

_TCGA = re.compile(r"TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4}(?![A-Za-z0-9])")
_MAX_JSON = 2**24
"""Bytes of the small files that speak of a whole dataset."""
_SPLITS = {
    "train": ("train", "training", "trn", "default", "all"),
    "val": ("val", "valid", "validation", "dev", "minival"),
    "test": ("test", "testing", "tst", "holdout", "test-dev", "testdev"),
}
_SPLIT_NAMES = {name: split for split, names in _SPLITS.items() for name in names}
SPLITS = tuple(_SPLITS)
"""Splits under their one spelling."""
SPLIT_FOLDERS = tuple(name for name in _SPLIT_NAMES if name not in ("default", "all"))
"""How a folder for a split may be called, in lower case."""
_SPLIT_ENDS = re.compile(r"[-_ ]*(20[0-9]{2}|set|split)$")
"""What may follow the name of a split: ``train2017``, ``Test set``."""


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


Loss = tuple[str, str]
"""Why an object of a label file is no nucleus of the map: the end of a sentence about one object, and about several."""

OUTSIDE: Loss = "lies outside the image", "lie outside the image"
EMPTY: Loss = "holds no pixel", "hold no pixel"
COVERED: Loss = "is covered by others", "are covered by others"
NO_OUTLINE: Loss = "has no outline", "have no outline"
ONLY_BOX: Loss = "has a box but no outline", "have a box but no outline"
CROWD: Loss = "is a region of many objects (iscrowd)", "are regions of many objects (iscrowd)"


def unread(shape: str) -> Loss:
    """The loss of objects that are drawn as a shape which is not read, such as an ellipse."""
    return f"is drawn as {shape}, which is not read", f"are drawn as {shape}, which is not read"


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The nuclei of one image as its files have them.

    Parameters
    ----------
    instances : (H, W) int32
        Instance map, 0 = background.
    types : mapping of int to int
        Class number by id; an instance that is not there, or of type 0, is unclassified.
    synthetic : frozenset of int
        Ids that the files themselves flag as synthetic.
    lost : mapping of Loss to int
        How many objects of the files are not in the map, by the reason.
    notes : tuple of str
        What else a person should know, in sentences without the image's name.
    sized : bool
        Whether the files state the size of the image that was labeled, which tells how it was held.
    """

    instances: NDArray[np.int32]
    types: Mapping[int, int]
    synthetic: frozenset[int] = frozenset()
    lost: Mapping[Loss, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sized: bool = False


def lost_objects(lost: Mapping[Loss, int], drawn: int) -> str:
    """Say how many of all objects are lost and why; empty where none is.

    Raises HistomixError where all of them are lost.
    """
    total = drawn + sum(lost.values())
    reasons = [f"{count:,} {words[count > 1]}" for words, count in lost.items() if count]
    if not reasons:
        return ""
    if not drawn:
        if set(lost) == {OUTSIDE}:
            raise HistomixError(
                f"none of the {total:,} objects lies in the image; their coordinates may be those of a whole slide: "
                "export them for this image alone."
            )
        raise HistomixError(f"none of the {total:,} objects can be read: {', '.join(reasons)}; export them again.")
    first, *others = reasons
    number, _, words = first.partition(" ")
    verb = "it is" if total - drawn == 1 else "they are"
    return f"{', '.join([f'{number} of {total:,} objects {words}', *others])}; {verb} left out."


class UnknownLayoutError(HistomixError):
    """A folder is of none of the layouts that were asked for; it may be of another one."""


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
    """One spelling per split: ``Training`` and ``train2017`` are ``train``, ``validation`` is ``val``; empty is empty.

    ``default`` is what CVAT calls a task without splits, so it is for training as well. A name that is not understood
    stays as it is, in lower case, and is never that of the training split.
    """
    text = text.strip().casefold()
    begin = _SPLIT_ENDS.sub("", text)
    return _SPLIT_NAMES.get(begin, text) if begin in SPLIT_FOLDERS else _SPLIT_NAMES.get(text, text)


def split_problems(entries: Iterable[Entry]) -> list[Problem]:
    """A problem for each split that is none of those there are, and of which nothing is learned therefore."""
    unknown = Counter(entry.source.split for entry in entries if entry.source.split not in SPLITS)
    problems = []
    for split, count in sorted(unknown.items()):
        images = "1 image is" if count == 1 else f"{count:,} images are"
        name = f"split {split!r}"
        sentence = (
            f"{name}: {images} of it, and it is none of {', '.join(SPLITS)}; nothing is learned from {split!r} until "
            f'dataset.json says what it is, {{"splits": {{{json.dumps(split)}: "train"}}}}.'
        )
        problems.append(Problem(name, sentence, "splits"))
    return problems


def is_split_folder(name: str) -> bool:
    """Whether a folder of that name is one for a split, ``Train`` or ``val2017``; ``default`` may be anything."""
    return split_name(name) in SPLITS and name.strip().casefold() not in ("default", "all")


def named_split(text: str) -> str:
    """The only split among the words of a file's name, ``consep_Train-v2``; empty where there is none, or several."""
    # COCO's test-dev is one for tests.
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"(?i)(test)[-_ ]?dev", r"\1", text))
    words = re.split(r"[\W_]+", apart)
    splits = {split_name(word) for word in words if is_split_folder(word)}
    return splits.pop() if len(splits) == 1 else ""


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


def stated_splits(described: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """What ``splits`` in ``dataset.json`` says that other names of splits mean: ``{"batch1": "train", …}``."""
    stated = described.get("splits", {})
    if not isinstance(stated, dict) or not all(split_name(str(split)) in SPLITS for split in stated.values()):
        raise HistomixError(
            f'dataset.json in {folder}: splits must say what a name means, {{"batch1": "train", …}}; it may mean '
            f"{', '.join(SPLITS)}."
        )
    return {split_name(name): split_name(split) for name, split in stated.items()}


APART = ((0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (86, 180, 233), (0, 0, 0), (230, 159, 0))
"""The colors of Okabe and Ito (2008), which deuteranopes tell apart, but for the purple, which is eosin's.

In this order, the first four differ by 33 in CIE Lab at least, the first six by 24, seen with or without red-green
blindness (simulated as by Machado et al. 2009).
"""


def palette(count: int) -> list[tuple[int, int, int]]:
    """``count`` distinct colors (0–255): those of ``APART``, and behind them hues one golden angle apart."""
    return [_color(index) for index in range(count)]


def _color(index: int) -> tuple[int, int, int]:
    if index < len(APART):
        return APART[index]
    red, green, blue = colorsys.hsv_to_rgb((0.33 + index * 0.618034) % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def numbered_classes(numbers: set[int]) -> tuple[NucleusClass, ...]:
    """Classes known by number only: "type 1", "type 2", … A number keeps its color whichever others occur."""
    return tuple(NucleusClass(number, f"type {number}", _color(number - 1)) for number in sorted(numbers))


def named_classes(*names: str) -> tuple[NucleusClass, ...]:
    """Classes of these names, numbered from 1."""
    return tuple(NucleusClass(index + 1, name, _color(index)) for index, name in enumerate(names))


def with_names(classes: Sequence[NucleusClass], names: Iterable[str]) -> tuple[NucleusClass, ...]:
    """Classes, and behind them those of these names that are not among them; upper and lower case are the same."""
    known = {kind.name.casefold() for kind in classes}
    more = sorted({name.casefold(): name for name in sorted(names) if name.casefold() not in known}.values())
    first = max((kind.number for kind in classes), default=0) + 1
    colors = palette(first + len(more))[first - 1 :]
    return (*classes, *(NucleusClass(first + at, name, colors[at]) for at, name in enumerate(more)))


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
