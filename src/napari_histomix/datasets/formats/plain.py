"""Images in one folder and labels in another: the plain layout, and what HoVer-Net's shares with it.

The plain layout is ``images/``, ``labels/`` with one label image each, and a CSV that gives every nucleus its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from napari_histomix.datasets.dataset import Dataset, Layout
from napari_histomix.datasets.entries import (
    TABLE,
    Entry,
    Labels,
    Row,
    UnknownLayoutError,
    named_classes,
    natural_key,
    numbered_classes,
    read_json_object,
    read_type_info,
)
from napari_histomix.datasets.formats.mat_files import read_mat, read_mat_types
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAT_SUFFIXES,
    Listing,
    Section,
    find_table,
    read_rows,
    sections_of,
    subfolder,
)
from napari_histomix.datasets.pixels import read_label_image
from napari_histomix.datasets.text_files import whole_number, write_table
from napari_histomix.datasets.writing import ImageWriter, class_map, smallest_ids, write_png, write_tiff
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, instance_ids

TYPES_TABLE = "types.csv"
NUCLEI_LAYOUTS = (
    "expected the folders Images and Labels with one .mat per image (HoVer-Net, CoNSeP), "
    "or images and labels with one label image per image and a types.csv"
)


@dataclass(frozen=True)
class LabelFiles(Layout):
    """A label file for each image: HoVer-Net's ``.mat``, or an instance map whose types are listed by image.

    Where all nuclei of instance maps are of one class, no types are listed, and ``untyped`` is its number.
    """

    listed_types: Mapping[str, Mapping[int, int]] = field(default_factory=dict, repr=False)
    untyped: int = 0

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        if entry.label_file.suffix.casefold() in MAT_SUFFIXES:
            return Labels(*read_mat(entry.label_file))
        instances = read_label_image(entry.label_file)
        if self.untyped:
            return Labels(instances, dict.fromkeys(np.unique(instances).tolist(), self.untyped))
        return Labels(instances, self.listed_types.get(entry.source.image, {}))


def _types_table(folder: Path) -> Path:
    """The CSV with the types: ``types.csv``, or the folder's only CSV."""
    table, count = find_table(folder, TYPES_TABLE)
    if table:
        return table
    if count:
        raise HistomixError(f"{folder} has {count} CSV files; name the one with the nucleus types {TYPES_TABLE}.")
    raise HistomixError(
        f"{folder} has images and label images but nothing gives the nuclei a type; "
        f"add {TYPES_TABLE} with the columns image, instance, type."
    )


def classes_of(kinds: set[str], table: Path) -> tuple[NucleusClass, ...]:
    """Classes of a table without ``type_info.json``.

    Types written as names are numbered from 1 in alphabetical order, so that the order of rows does not matter;
    types written as numbers keep them and are named "type 1", "type 2", …
    """
    numbers = {kind: whole_number(kind) for kind in kinds}
    whole = {number for number in numbers.values() if number is not None}
    if whole and None in numbers.values():
        raise HistomixError(
            f"{table.name} in {table.parent} writes some types as numbers and some as names; "
            "use one way, or add a type_info.json that lists both."
        )
    if whole:
        return numbered_classes({number for number in whole if number > 0})
    names: dict[str, str] = {}
    for kind in sorted(kinds):
        names.setdefault(kind.casefold(), kind)
    return named_classes(*(names[key] for key in sorted(names)))


def types_by_number(types: Mapping[int, str], classes: tuple[NucleusClass, ...]) -> dict[int, int]:
    """Class numbers of a table's types; type 0 means that the nucleus has none and is left out."""
    by_name = {known.name.casefold(): known.number for known in classes}
    numbers = set(by_name.values())
    result: dict[int, int] = {}
    for instance, kind in types.items():
        number = by_name.get(kind.casefold(), whole_number(kind))
        if number == 0:
            continue
        if number not in numbers:
            names = ", ".join(known.name for known in classes)
            raise HistomixError(f"the type {kind!r} of instance {instance} is none of the classes ({names}).")
        result[instance] = number
    return result


def listed_types(
    listing: Listing, types: Mapping[str, Mapping[int, str]], classes: tuple[NucleusClass, ...]
) -> dict[str, dict[int, int]]:
    """Class numbers of the types of all images; an image with a type that is none of the classes is left out."""
    result: dict[str, dict[int, int]] = {}
    for image in list(listing.files):
        with listing.leaving_out(image):
            result[image] = types_by_number(types.get(image, {}), classes)
    return result


def recognizes(root: Path) -> bool:
    """Whether images and labels lie in folders of these names, perhaps for each split."""
    return bool(label_folders(root))


def label_folders(root: Path) -> list[Path]:
    """The folders ``Labels`` that lie beside ``Images``, in a root or in its folders for splits."""
    folders = ((subfolder(path, "images"), subfolder(path, "labels")) for path, _ in sections_of(root))
    return [labels for images, labels in folders if images is not None and labels is not None]


def open(root: Path, mpp: float | None) -> Dataset:
    """List images and labels of one name in the folders Images and Labels, HoVer-Net's ``.mat`` or label images."""
    sections = _sections(root)
    listing = Listing(root, mpp)
    parts = [_Part(*section, listing) for section in sections]
    classes = _classes(parts, listing)
    part_of: dict[str, _Part] = {}
    for part in parts:
        for image in (image for image in part.images if image in part.labels):
            if image in part_of:
                raise HistomixError(
                    f"{root} has two images named {image!r} in different splits; rename one, and its labels with it."
                )
            part_of[image] = part
            listing.files[image] = part.images[image], part.labels[image]
    rows = {image: part.rows.get(image, Row()) for image, part in part_of.items()}
    files = listing.files
    entries = [listing.entry(image, files[image], part.section, rows[image]) for image, part in part_of.items()]
    types = listed_types(listing, {image: row.types for image, row in rows.items() if part_of[image].is_plain}, classes)
    entries = [entry for entry in entries if entry.source.image in files]
    return listing.dataset_of(entries, classes, LabelFiles(types))


def _sections(root: Path) -> list[tuple[Path, str, tuple[Path, Path]]]:
    """The folders that have images and labels, with the split that their names say, and these two in each."""
    if halves := _halves(root):
        return [(root, "", halves)]
    if sections := [(path, split, halves) for path, split in sections_of(root)[1:] if (halves := _halves(path))]:
        return sections
    if root.name.casefold() in ("images", "labels") and _halves(root.parent):
        raise HistomixError(f"{root} is one half of a dataset; choose the folder it lies in, {root.parent}.")
    if any(path.suffix.casefold() in IMAGE_SUFFIXES and path.is_file() for path in root.iterdir()):
        raise UnknownLayoutError(f"{root} holds images but no labels folder; {NUCLEI_LAYOUTS}.")
    raise UnknownLayoutError(f"{root} holds no labeled images; {NUCLEI_LAYOUTS}.")


def _halves(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of labels, in the case they have on disk; None where there is neither."""
    images, labels = subfolder(folder, "images"), subfolder(folder, "labels")
    if images is None and labels is None:
        return None
    if labels is None:
        raise HistomixError(f"{folder} has images but no folder Labels; put the label files there.")
    if images is None:
        raise HistomixError(f"{folder} has labels but no folder Images; put the images there.")
    return images, labels


class _Part:
    """A folder with images and labels while it is being opened: its files and what the tables beside them say."""

    def __init__(self, folder: Path, split: str, halves: tuple[Path, Path], listing: Listing) -> None:
        self.problems = listing.problems
        # What lies nearer to the images says it better.
        nearer = {} if folder == listing.root else read_json_object(folder / "dataset.json")
        self.section = Section(folder, listing.described | nearer, split)
        before = len(self.problems)
        self.images = listing.images(halves[0])
        self.labels = listing.labels(halves[1], MAT_SUFFIXES)
        self.is_plain = not self.labels
        if self.is_plain:
            self.labels = listing.labels(halves[1], LABEL_SUFFIXES)
        # Without a problem yet that would say why, there are files.
        if len(self.problems) == before and not self.images and not self.labels:
            raise HistomixError(f"{folder} has no images (PNG, TIFF or JPEG) and no labels in its folders; add them.")
        if len(self.problems) == before and not self.images:
            raise HistomixError(f"{halves[0]} has no images (PNG, TIFF or JPEG); put them there.")
        if len(self.problems) == before and not self.labels:
            raise HistomixError(f"{halves[1]} has no label files (.mat, PNG or TIFF); put them there.")
        if self.images and self.labels and not self.images.keys() & self.labels.keys():
            raise HistomixError(
                f"no label file in {folder} has the name of an image (such as {min(self.images)!r}); name them alike."
            )
        listing.pairs(self.images, self.labels)
        self.rows = self._rows()

    def _rows(self) -> dict[str, Row]:
        beside = self.section.folder / TABLE
        table = _types_table(self.section.folder) if self.is_plain else beside
        if not table.is_file():
            return {}
        rows = read_rows(table, self.images, self.problems, with_types=self.is_plain)
        if self.is_plain and beside.is_file() and beside != table:
            # Where both tables say something about one image, the first counts.
            for image, more in read_rows(beside, self.images, self.problems).items():
                row = rows.get(image, Row())
                patient, slide, split = row.patient or more.patient, row.slide or more.slide, row.split or more.split
                synthetic = more.synthetic if row.synthetic is None else row.synthetic
                rows[image] = Row(patient, slide, split, row.mpp or more.mpp, row.types or more.types, synthetic)
        return rows


def _classes(parts: list[_Part], listing: Listing) -> tuple[NucleusClass, ...]:
    folders = [listing.root, *(part.section.folder for part in parts)]
    listed = {classes for folder in folders if (classes := read_type_info(folder / "type_info.json"))}
    if len(listed) > 1:
        raise HistomixError(f"the type_info.json files in {listing.root} differ; keep one, in that folder.")
    if listed:
        return listed.pop()
    tables = [part for part in parts if part.is_plain]
    if tables:
        kinds = {kind for part in tables for row in part.rows.values() for kind in row.types.values()}
        return classes_of(kinds, _types_table(tables[0].section.folder))
    numbers: set[int] = set()
    for part in parts:
        for image in sorted(part.images.keys() & part.labels.keys(), key=natural_key):
            with listing.leaving_out(image):
                numbers |= read_mat_types(part.labels[image])
                continue
            del part.images[image]
    return numbered_classes(numbers)


class TypedWriter(ImageWriter):
    """Writes the class of every instance into ``types.csv``, and those that there are into ``type_info.json``."""

    has_type_info = True

    def start(self) -> None:
        self._rows: list[tuple[str, int, str]] = []

    def list_types(self, image: LabeledImage) -> None:
        """Take in the instances that occur in an image."""
        names = {known.number: known.name for known in self.classes}
        name, ids = image.source.image, instance_ids(image.instances)
        self._rows += [(name, instance, names[image.types[instance]]) for instance in ids]

    def finish(self) -> None:
        super().finish()
        write_table(self.folder / TYPES_TABLE, ("image", "instance", "type"), self._rows)


class Writer(TypedWriter):
    """Writes ``images/NAME.png``, ``labels/NAME.png`` with the ids, ``class_maps/NAME.png``, and ``types.csv``.

    Ids that do not fit in 16 bits, the most that a PNG file holds, go into ``labels/NAME.tif``.
    """

    parts = ("labels", "class_maps")

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        self.write_image(image, synthetic)
        name, ids = image.source.image, smallest_ids(image.instances)
        write_png(self.folder / "class_maps" / f"{name}.png", class_map(image))
        if ids.dtype == np.uint16:
            Image.fromarray(ids).save(self.folder / "labels" / f"{name}.png")
        else:
            write_tiff(self.folder / "labels" / f"{name}.tif", ids)
        self.list_types(image)
