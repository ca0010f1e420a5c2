"""Images in one folder and labels in another: the plain layout, and what HoVer-Net's shares with it.

The plain layout is ``images/``, ``labels/`` with one label image each, and a CSV that gives every nucleus its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAT_SUFFIXES,
    SPLIT_FOLDERS,
    TABLE,
    Entry,
    Problem,
    Row,
    UnknownLayoutError,
    about,
    dataset_name,
    entry_of,
    files_by_stem,
    in_order,
    matched,
    natural_key,
    nothing_left,
    numbered_classes,
    palette,
    read_json_object,
    read_rows,
    read_type_info,
    split_name,
    subfolder,
)
from napari_histomix.datasets.formats.mat_files import read_mat, read_mat_types
from napari_histomix.datasets.pixels import read_label_image
from napari_histomix.datasets.text_files import whole_number, write_table
from napari_histomix.datasets.writing import (
    ImageWriter,
    class_map,
    smallest_ids,
    write_png,
    write_tiff,
    write_type_info,
)
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

TYPES_TABLE = "types.csv"
NUCLEI_LAYOUTS = (
    "expected the folders Images and Labels with one .mat per image (HoVer-Net, CoNSeP), "
    "or images and labels with one label image per image and a types.csv"
)


@dataclass(frozen=True)
class LabelFiles(ImageFiles):
    """A label file for each image: HoVer-Net's ``.mat``, or an instance map whose types a table lists.

    Parameters
    ----------
    listed_types : mapping
        Per image the class number of each instance, where the label files do not say the types.
    """

    listed_types: Mapping[str, Mapping[int, int]] = field(default_factory=dict, repr=False)

    def labels(self, entry: Entry, shape: tuple[int, int]) -> tuple[NDArray[np.int32], Mapping[int, int]]:
        """Read the label file; its map has the shape it has."""
        if entry.label_file.suffix.casefold() in MAT_SUFFIXES:
            return read_mat(entry.label_file)
        return read_label_image(entry.label_file), dict(self.listed_types.get(entry.source.image, {}))


def find_table(folder: Path) -> Path:
    """Find the CSV with the types: ``types.csv``, or the folder's only CSV.

    Raises
    ------
    HistomixError
        If there is none, or several and none of them is ``types.csv``.
    """
    tables = sorted(path for path in folder.iterdir() if path.suffix.casefold() == ".csv" and path.name[0] != ".")
    named = [path for path in tables if path.name.casefold() == TYPES_TABLE]
    if named or len(tables) == 1:
        return (named or tables)[0]
    if tables:
        raise HistomixError(f"{folder} has {len(tables)} CSV files; name the one with the nucleus types {TYPES_TABLE}.")
    raise HistomixError(
        f"{folder} has images and label images but nothing gives the nuclei a type; "
        f"add {TYPES_TABLE} with the columns image, instance, type."
    )


def classes_of(kinds: set[str], table: Path) -> tuple[NucleusClass, ...]:
    """Classes of a table without ``type_info.json``.

    Types written as names are numbered from 1 in alphabetical order, so that the order of rows does not matter;
    types written as numbers keep them and are named "type 1", "type 2", …

    Raises
    ------
    HistomixError
        If the table mixes names and numbers.
    """
    numbers = {kind: whole_number(kind) for kind in kinds}
    found = {number for number in numbers.values() if number is not None}
    if found and len(numbers) > sum(number is not None for number in numbers.values()):
        raise HistomixError(
            f"{table.name} in {table.parent} writes some types as numbers and some as names; "
            "use one way, or add a type_info.json that lists both."
        )
    if found:
        return numbered_classes({number for number in found if number > 0})
    names: dict[str, str] = {}
    for kind in sorted(kinds):
        names.setdefault(kind.casefold(), kind)
    ordered = [names[key] for key in sorted(names)]
    return tuple(
        NucleusClass(number, name, color)
        for number, (name, color) in enumerate(zip(ordered, palette(len(ordered)), strict=True), start=1)
    )


def types_by_number(types: Mapping[int, str], classes: tuple[NucleusClass, ...]) -> dict[int, int]:
    """Class numbers of a table's types; type 0 means that the nucleus has none and is left out.

    Raises
    ------
    HistomixError
        If a type is not one of the classes.
    """
    known = {one.name.casefold(): one.number for one in classes}
    numbers = {one.number for one in classes}
    result: dict[int, int] = {}
    for instance, kind in types.items():
        number = known.get(kind.casefold(), whole_number(kind))
        if number == 0:
            continue
        if number not in numbers:
            names = ", ".join(one.name for one in classes)
            raise HistomixError(f"the type {kind!r} of instance {instance} is none of the classes ({names}).")
        result[instance] = number
    return result


def recognizes(root: Path) -> bool:
    """Whether images and labels lie in folders of these names, perhaps for each split."""
    return bool(label_folders(root))


def label_folders(root: Path) -> list[Path]:
    """The folders ``Labels`` that lie beside ``Images``, in a root or in its folders for splits."""
    found = []
    for folder in (root, *_split_folders(root)):
        images, labels = subfolder(folder, "images"), subfolder(folder, "labels")
        if images is not None and labels is not None:
            found.append(labels)
    return found


def _split_folders(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.name.casefold() in SPLIT_FOLDERS and path.is_dir()]


def open(root: Path, mpp: float | None) -> Dataset:
    """List the images that have labels; see `open_label_folders`."""
    return open_label_folders(root, mpp)


def open_label_folders(root: Path, mpp: float | None) -> Dataset:
    """List images and labels of one name in the folders Images and Labels, HoVer-Net's ``.mat`` or label images.

    Raises
    ------
    HistomixError
        If the folder is of neither layout, or half a dataset, or one of its JSON or CSV files is broken.
    """
    sections = _sections(root)
    problems: list[Problem] = []
    described = read_json_object(root / "dataset.json")
    parts = [_Part(section, root, described, mpp, problems) for section in sections]
    classes = _classes(root, parts, problems)
    entries: dict[str, Entry] = {}
    listed: dict[str, dict[int, int]] = {}
    for part in parts:
        for image, entry in part.entries().items():
            if image in entries:
                raise HistomixError(
                    f"{root} has two images named {image!r} in different splits; rename one, and its labels with it."
                )
            if part.is_plain:
                try:
                    listed[image] = types_by_number(part.rows.get(image, Row()).types, classes)
                except HistomixError as error:
                    problems.append(Problem(image, about(image, error)))
                    continue
            entries[image] = entry
    if not entries:
        raise nothing_left(root, problems)
    ordered = in_order(list(entries.values()))
    return Dataset(dataset_name(root, described), root, classes, ordered, tuple(problems), LabelFiles(listed))


def _sections(root: Path) -> list[_Section]:
    section = _section(root, "")
    if section:
        return [section]
    sections = [found for path in _split_folders(root) if (found := _section(path, split_name(path.name)))]
    if sections:
        return sections
    if root.name.casefold() in ("images", "labels") and _section(root.parent, ""):
        raise HistomixError(f"{root} is one half of a dataset; choose the folder it lies in, {root.parent}.")
    files = [path.suffix.casefold() for path in root.iterdir() if path.is_file()]
    if any(suffix in IMAGE_SUFFIXES for suffix in files):
        raise UnknownLayoutError(f"{root} holds images but no labels folder; {NUCLEI_LAYOUTS}.")
    raise UnknownLayoutError(f"{root} holds no labeled images; {NUCLEI_LAYOUTS}.")


def _section(folder: Path, split: str) -> _Section | None:
    images, labels = subfolder(folder, "images"), subfolder(folder, "labels")
    if images is None and labels is None:
        return None
    if labels is None:
        raise HistomixError(f"{folder} has images but no folder Labels; put the label files there.")
    if images is None:
        raise HistomixError(f"{folder} has labels but no folder Images; put the images there.")
    return _Section(folder, images, labels, split)


@dataclass(frozen=True, slots=True)
class _Section:
    """A folder with images and labels, all of one split unless a table says otherwise.

    ``images_folder`` and ``labels_folder`` keep the case they have on disk.
    """

    folder: Path
    images_folder: Path
    labels_folder: Path
    split: str


class _Part:
    """A section while it is being opened: its files and what the small files beside them say."""

    def __init__(
        self, section: _Section, root: Path, described: Mapping[str, Any], mpp: float | None, problems: list[Problem]
    ) -> None:
        self.section, self.mpp, self.problems = section, mpp, problems
        self.described = dict(described)
        if section.folder != root:
            # What lies nearer to the images says it better.
            self.described |= read_json_object(section.folder / "dataset.json")
        self.dataset_name = dataset_name(root, described)
        before = len(problems)
        self.images = files_by_stem(section.images_folder, IMAGE_SUFFIXES, problems)
        self.labels = files_by_stem(section.labels_folder, MAT_SUFFIXES, problems, "label")
        self.is_plain = not self.labels
        if self.is_plain:
            self.labels = files_by_stem(section.labels_folder, LABEL_SUFFIXES, problems, "label")
        reported = {problem.image for problem in problems[before:]}
        self._match(reported)
        self.rows = self._rows()

    def _match(self, reported: set[str]) -> None:
        images, labels, folder = self.images, self.labels, self.section.folder
        if not images and not labels and not reported:
            raise HistomixError(f"{folder} has no images (PNG, TIFF or JPEG) and no labels in its folders; add them.")
        if not images and not reported:
            raise HistomixError(f"{self.section.images_folder} has no images (PNG, TIFF or JPEG); put them there.")
        if not labels and not reported:
            raise HistomixError(f"{self.section.labels_folder} has no label files (.mat, PNG or TIFF); put them there.")
        if images and labels and not images.keys() & labels.keys():
            raise HistomixError(
                f"no label file in {folder} has the name of an image (such as {min(images)!r}); name them alike."
            )
        matched(images, labels, self.problems)

    def _rows(self) -> dict[str, Row]:
        folder = self.section.folder
        if self.is_plain:
            table = find_table(folder)
        else:
            table = folder / TABLE
            if not table.is_file():
                return {}
        rows = read_rows(table, self.images, self.problems, with_types=self.is_plain)
        beside = folder / TABLE
        if self.is_plain and beside.is_file() and beside != table:
            said = read_rows(beside, self.images, self.problems)
            rows = {image: _joined(rows.get(image, Row()), said.get(image, Row())) for image in rows | said}
        return rows

    def entries(self) -> dict[str, Entry]:
        """Entries by image name, for images that have labels and no problem."""
        return {
            image: entry_of(
                image,
                (self.images[image], self.labels[image]),
                self.dataset_name,
                self.rows.get(image, Row()),
                self.described,
                self.section.folder,
                self.mpp,
                split=self.section.split,
            )
            for image in self.images
            if image in self.labels
        }


def _joined(row: Row, other: Row) -> Row:
    """What two tables say about one image; where both do, the first."""
    mpp = other.mpp if row.mpp is None else row.mpp
    return Row(
        row.patient or other.patient, row.slide or other.slide, row.split or other.split, mpp, row.types or other.types
    )


def _classes(root: Path, parts: list[_Part], problems: list[Problem]) -> tuple[NucleusClass, ...]:
    folders = [root, *(part.section.folder for part in parts)]
    found = {classes for folder in folders if (classes := read_type_info(folder / "type_info.json"))}
    if len(found) > 1:
        raise HistomixError(f"the type_info.json files in {root} differ; keep one, in that folder.")
    if found:
        return found.pop()
    tables = [part for part in parts if part.is_plain]
    if tables:
        kinds = {kind for part in tables for row in part.rows.values() for kind in row.types.values()}
        return classes_of(kinds, find_table(tables[0].section.folder))
    numbers: set[int] = set()
    for part in parts:
        for image in sorted(part.images.keys() & part.labels.keys(), key=natural_key):
            try:
                numbers |= read_mat_types(part.labels[image])
            except HistomixError as error:
                problems.append(Problem(image, about(image, error)))
                del part.images[image]
    return numbered_classes(numbers)


class TypeTable:
    """Collects the classes of the instances of all images, and writes them at the end."""

    def __init__(self, folder: Path, classes: Sequence[NucleusClass]) -> None:
        self.folder, self.classes = folder, classes
        self._names = {one.number: one.name for one in classes}
        self._rows: list[tuple[str, int, str]] = []

    def add(self, image: LabeledImage) -> None:
        """Take in the instances that occur in an image."""
        ids = np.unique(image.instances)
        self._rows += [(image.source.image, one, self._names[image.types[one]]) for one in ids[ids > 0].tolist()]

    def write(self) -> None:
        """Write both files."""
        write_table(self.folder / TYPES_TABLE, ("image", "instance", "type"), self._rows)
        write_type_info(self.folder, self.classes)


class Writer(ImageWriter):
    """Writes ``images/NAME.png``, ``labels/NAME.png`` with the ids, ``class_maps/NAME.png``, and ``types.csv``.

    Ids that do not fit in 16 bits, the most that a PNG file holds, go into ``labels/NAME.tif``.
    """

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass], kinds: Sequence[str] = ()) -> None:
        super().__init__(folder, name, classes)
        self._table = TypeTable(folder, classes)
        for part in ("labels", "class_maps"):
            (folder / part).mkdir()

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        """Write the pixels, the ids and the classes of one image."""
        self.write_image(image, synthetic)
        name, ids = image.source.image, smallest_ids(image.instances)
        write_png(self.folder / "class_maps" / f"{name}.png", class_map(image))
        if ids.dtype == np.uint16:
            Image.fromarray(ids).save(self.folder / "labels" / f"{name}.png")
        else:
            write_tiff(self.folder / "labels" / f"{name}.tif", ids)
        self._table.add(image)

    def finish(self) -> None:
        """Write ``dataset.json``, ``types.csv`` and ``type_info.json``."""
        super().finish()
        self._table.write()
