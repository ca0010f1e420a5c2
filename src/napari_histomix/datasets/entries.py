"""From files to entries: what all layouts share once they know which image belongs to which labels."""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_histomix.datasets.pixels import is_flagged, read_mpp
from napari_histomix.datasets.text_files import read_json, read_table, whole_number
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


TABLE = "images.csv"
UNCLASSIFIED, UNCLASSIFIED_COLOR = "unclassified", (160, 160, 160)
"""Class of nuclei without one, in formats that allow that: none of them is lost, and nobody has to use them."""
SPLIT_FOLDERS = ("train", "training", "test", "testing", "val", "valid", "validation")


def listed(
    root: Path,
    name: str,
    files: Mapping[str, tuple[Path, Path]],
    mpp: float | None,
    problems: list[Problem],
    *,
    said: Mapping[str, Row] | None = None,
    index: Mapping[str, int] | None = None,
) -> tuple[Entry, ...]:
    """The entries of a dataset that lies in one folder.

    Patient, slide and split: ``images.csv`` in the root, then what the format itself says, then ``dataset.json``, then
    a TCGA barcode in the image's name; without a split an image is for training. Scale: ``mpp``, then ``images.csv``,
    ``dataset.json``, the format itself, and the image's own metadata.

    Parameters
    ----------
    root : Path
    name : str
        The dataset's (see `dataset_name`).
    files : mapping of str to (image, labels)
        By image name.
    mpp : float, optional
        µm per pixel of all images, where a person said it.
    problems : list of Problem
        Added to; images that ``images.csv`` is wrong about are left out.
    said : mapping of str to Row, optional
        What the format itself says of an image.
    index : mapping of str to int, optional
        Places of images in files that hold many.

    Returns
    -------
    tuple of Entry
        In natural order of their names.

    Raises
    ------
    HistomixError
        If ``images.csv`` or ``dataset.json`` is broken, or no image is left.
    """
    described = read_json_object(root / "dataset.json")
    wanted = {image: paths[0] for image, paths in files.items()}
    table = root / TABLE
    rows = read_rows(table, wanted, problems) if table.is_file() else {}
    entries = [
        entry_of(
            image,
            files[image],
            name,
            rows.get(image, Row()),
            described,
            root,
            mpp,
            said=(said or {}).get(image, Row()),
            index=(index or {}).get(image, 0),
        )
        for image in wanted
    ]
    if not entries:
        raise nothing_left(root, problems)
    return in_order(entries)


def matched(
    images: Mapping[str, Path], labels: Mapping[str, Path], problems: list[Problem]
) -> dict[str, tuple[Path, Path]]:
    """Images and labels of one name; what is left over on either side becomes a problem, unless it has one already."""
    reported = {problem.image for problem in problems}
    for image in sorted(images.keys() - labels.keys() - reported, key=natural_key):
        problems.append(Problem(image, f"{image}: there is no label file of that name; it is left out."))
    for image in sorted(labels.keys() - images.keys() - reported, key=natural_key):
        problems.append(Problem(image, f"{image}: there are labels but no image of that name; add the image."))
    return {image: (images[image], labels[image]) for image in images if image in labels}


def in_order(entries: list[Entry]) -> tuple[Entry, ...]:
    """Entries in natural order of their images' names."""
    return tuple(sorted(entries, key=lambda entry: (natural_key(entry.source.image), entry.source.image)))


def nothing_left(root: Path, problems: list[Problem]) -> HistomixError:
    """The error about a dataset none of whose images can be used."""
    reason = f"; the first: {problems[0].sentence}" if problems else "."
    return HistomixError(f"{root} has no image that could be used{reason}")


def read_rows(
    path: Path, images: dict[str, Path], problems: list[Problem], *, with_types: bool = False
) -> dict[str, Row]:
    """What a table says by image name.

    A row without instance and type speaks of its image alone. A row that cannot be right, or contradicts another, is
    reported as a problem of its image, and that image is left out.

    Parameters
    ----------
    path : Path
        A CSV with the column ``image`` and, ``with_types``, ``instance`` and ``type``; optionally ``patient``,
        ``slide``, ``split``, ``mpp`` and ``synthetic``. It may write "a.png" or "a"; what it writes is only compared
        with the listing and never made into a path.
    images : dict of str to Path
        Image files by name; those the table is wrong about are taken out.
    problems : list of Problem
        Added to.
    with_types : bool
        Whether the table gives each nucleus its type.

    Raises
    ------
    HistomixError
        If the file is not a readable CSV or lacks a needed column.
    """
    table = read_table(path, "image", *(("instance", "type") if with_types else ()))
    stems = {file.name: image for image, file in images.items()} | {image: image for image in images}
    drafts: dict[str, RowDraft] = {}
    failed: set[str] = set()
    for line, cells in table.rows:
        written = cells["image"]
        if not written or written in failed:
            continue
        if sentence := drafts.setdefault(written, RowDraft()).add(cells):
            failed.add(written)
            image = stems.get(written, written)
            images.pop(image, None)
            problems.append(Problem(image, f"{written}: {path.name}, line {line}: {sentence}"))
    rows: dict[str, Row] = {}
    for written, draft in drafts.items():
        if written in failed:
            continue
        if written not in stems:
            problems.append(Problem(written, f"{written}: {path.name} lists it but no such image is there; add it."))
        elif stems[written] in rows:
            images.pop(stems[written], None)
            problems.append(Problem(written, f"{written}: {path.name} writes it with and without suffix; use one."))
        else:
            rows[stems[written]] = draft.row()
    return rows


class RowDraft:
    """What the rows read so far say about one image."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.types: dict[int, str] = {}

    def add(self, row: Mapping[str, str]) -> str:
        """Take one more row in; returns what is wrong with it, or an empty string."""
        for column in ("patient", "slide", "split", "mpp", "synthetic"):
            value = row.get(column, "")
            if column == "split":
                value = split_name(value)
            if column == "synthetic":
                value = value.casefold()
            if value and self.said.setdefault(column, value) != value:
                return f"the {column} is {self.said[column]} above and {value} here; keep one."
        if self.said.get("mpp"):
            try:
                checked_mpp(self.said["mpp"], "it")
            except HistomixError as error:
                return str(error)
        instance, kind = row.get("instance", ""), row.get("type", "")
        if not instance and not kind:
            return ""
        number = whole_number(instance)
        if number is None or number < 1:
            return f"the instance {instance!r} is not a positive whole number."
        if kind and self.types.setdefault(number, kind) != kind:
            return f"instance {number} is of type {self.types[number]} above and {kind} here; keep one."
        return ""

    def row(self) -> Row:
        mpp = self.said.get("mpp")
        said = self.said
        return Row(
            said.get("patient", ""),
            said.get("slide", ""),
            said.get("split", ""),
            float(mpp) if mpp else None,
            self.types,
            {"yes": True, "no": False}.get(said.get("synthetic", "")),
        )


def entry_of(
    image: str,
    files: tuple[Path, Path],
    dataset: str,
    row: Row,
    described: Mapping[str, Any],
    folder: Path,
    mpp: float | None,
    *,
    said: Row | None = None,
    split: str = "",
    index: int = 0,
) -> Entry:
    """The entry of one image.

    Parameters
    ----------
    image : str
    files : (image, labels)
    dataset : str
        Name of the dataset.
    row : Row
        What a table says.
    described : mapping
        What dataset.json says, which lies in ``folder``.
    folder : Path
    mpp : float, optional
        As a person gave it.
    said : Row, optional
        What the format itself says.
    split : str
        Of the folder the image lies in.
    index : int

    Raises
    ------
    HistomixError
        If dataset.json gives an impossible scale or split.
    """
    said = said or Row()
    patient, slide = tcga_origin(image)
    source = Source(
        dataset=dataset,
        image=image,
        split=row.split or split_name(said.split) or described_split(described, image, folder) or split or "train",
        patient=row.patient or said.patient or patient,
        slide=row.slide or said.slide or slide,
    )
    if mpp is None:
        mpp = row.mpp
    if mpp is None and described.get("mpp") is not None:
        mpp = checked_mpp(described["mpp"], f"dataset.json in {folder}")
    if mpp is None:
        mpp = said.mpp
    if mpp is None:
        mpp = read_mpp(files[0])
    return Entry(source, *files, mpp, index, synthetic=is_synthetic(files[0], row))


def is_synthetic(image: Path, row: Row) -> bool:
    """Whether an image holds synthetic pixels, by its table or, where that does not say, by its own description."""
    return is_flagged(image) if row.synthetic is None else row.synthetic


def dataset_name(root: Path, described: Mapping[str, Any]) -> str:
    """Name by what ``dataset.json`` says, else the folder's."""
    name = described.get("name", "")
    return name.strip() if isinstance(name, str) and name.strip() else root.name


def described_classes(root: Path, described: Mapping[str, Any]) -> tuple[NucleusClass, ...]:
    """Classes by ``type_info.json``, else by ``classes`` in ``dataset.json``, of the same form; empty without either.

    Raises
    ------
    HistomixError
        If what is there is of another form.
    """
    found = read_type_info(root / "type_info.json")
    written = described.get("classes")
    if found or written is None:
        return found
    where = f"dataset.json in {root}, classes"
    if not isinstance(written, dict):
        raise HistomixError(f'{where}: they must read {{"number": ["name", [red, green, blue]], …}}.')
    return classes_of(written, where)


def subfolder(folder: Path, *names: str) -> Path | None:
    """A subfolder by its name in lower case, however the disk writes it; the first of several names that is there."""
    inside = [path for path in folder.iterdir() if path.name.casefold() in names and path.is_dir()]
    for name in names:
        found = [path for path in inside if path.name.casefold() == name]
        if found:
            return min(found, key=lambda path: path.name != name.capitalize())
    return None
