"""Images and a label file for each: the plain layout, HoVer-Net's, and all others of this kind.

The plain layout is ``images/``, ``labels/`` with one label image each, and a CSV that gives every nucleus its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    TABLE,
    Entry,
    Labels,
    Row,
    named_classes,
    natural_key,
    numbered_classes,
    read_json_object,
    read_type_info,
)
from napari_histomix.datasets.formats.folder_pairs import Place, places
from napari_histomix.datasets.formats.foreign import refusal
from napari_histomix.datasets.formats.mat_files import LIZARD, read_mat, read_mat_types
from napari_histomix.datasets.listing import MAT_SUFFIXES, Listing, Section, find_table, read_rows, visible_files
from napari_histomix.datasets.pixels import read_label_image
from napari_histomix.datasets.text_files import has_columns, whole_number, write_table
from napari_histomix.datasets.writing import ImageWriter, class_map, smallest_ids, write_png, write_tiff
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, Problem, instance_ids

TYPES_TABLE = "types.csv"


@dataclass(frozen=True)
class LabelFiles(ImageFiles):
    """A label file for each image: a ``.mat``, or an instance map whose types are listed by image.

    Where nothing types any nucleus of the dataset, all are of the class with the number ``untyped``.
    """

    listed_types: Mapping[str, Mapping[int, int]] = field(default_factory=dict, repr=False)
    untyped: int = 0

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        if entry.label_file.suffix.casefold() in MAT_SUFFIXES:
            labels = read_mat(entry.label_file)
        else:
            labels = Labels(read_label_image(entry.label_file), {}, sized=True)
        if not labels.types:
            labels = replace(labels, types=self.listed_types.get(entry.source.image, {}))
        if self.untyped:
            return replace(labels, types=dict.fromkeys(np.unique(labels.instances).tolist(), self.untyped))
        return labels


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
    """Whether images and label files lie in two folders or in one, perhaps for each split."""
    return bool(places(root))


def are_pairs(parts: list[Place]) -> bool:
    """Whether these are pairs as StarDist and Cellpose have them, which know no classes."""
    return all(part.labels in part.images or part.labels.name.casefold() == "masks" for part in parts)


def open(root: Path, mpp: float | None) -> Dataset:
    """List images and their label files, ``.mat`` or label images, and what the tables beside them say.

    Tables lie in the root, in the folder of a split, or in both; what lies nearer to the images says it better. Where
    nothing says the type of any nucleus, all are of one class: the only one that is listed, else "nucleus".
    """
    listing, parts = Listing(root, mpp), places(root)
    part_of: dict[str, Place] = {}
    alone: dict[str, Path] = {}
    for part in parts:
        names, without = _add(part, listing)
        part_of |= dict.fromkeys(names, part)
        alone |= without
    tables = _Tables(part_of, alone, listing)
    files = listing.files
    mat = [image for image in files if files[image][1].suffix.casefold() in MAT_SUFFIXES]
    classes, typed = _stated_classes(parts, listing), tables.has_types
    if len(classes) > 1:
        typed = typed or bool(mat)
    else:
        numbers, is_lizard = _mat_classes(mat, listing)
        kinds = {kind for row in tables.rows.values() for kind in row.types.values()}
        if not classes and is_lizard and not kinds:
            classes = LIZARD
        typed = typed or bool(numbers)
        if not classes and typed:
            classes = classes_of(kinds | {str(number) for number in numbers}, root / TYPES_TABLE)
    classes = classes if typed else classes or named_classes("nucleus")
    if not typed and len(classes) > 1:
        raise HistomixError(
            f"{root} has {len(classes)} classes but nothing says which nucleus is of which; add "
            f"{TYPES_TABLE} with the columns image, instance, type."
        )
    if not typed and not mat and not are_pairs(parts):
        sentence = f"There is no {TYPES_TABLE} with the columns image, instance, type, so all nuclei are of one class"
        listing.problems.append(Problem(TYPES_TABLE, f"{sentence}, {classes[0].name}.", "types"))
    types = listed_types(listing, {image: row.types for image, row in tables.rows.items()}, classes)
    entries = [
        listing.entry(image, files[image], tables.section(part_of[image]), tables.rows.get(image, Row()))
        for image in files
    ]
    return listing.dataset_of(entries, classes, LabelFiles(types, 0 if typed else classes[0].number))


def _add(part: Place, listing: Listing) -> tuple[list[str], dict[str, Path]]:
    """List a part's images that have a label file; returns their names, and the images that have none."""
    before = len(listing.problems)
    images, labels = part.files(listing)
    # Without a problem yet that would say why, there are files.
    if len(listing.problems) == before and not (images and labels):
        folder = part.folder if not images and not labels else part.labels if images else part.images[0]
        if not images and not labels:
            raise HistomixError(f"{folder} has no images (PNG, TIFF or JPEG) and no labels in its folders; add them.")
        others = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        if images and others:
            raise HistomixError(
                refusal(others[0])
                or f"{folder} has no label files that are read (.mat, PNG or TIFF) but "
                f"{others[0].name}; save the labels as label images."
            )
        missing = "label files (.mat, PNG or TIFF)" if images else "images (PNG, TIFF or JPEG)"
        raise HistomixError(f"{folder} has no {missing}; put them there.")
    pairs = listing.pairs(images, labels)
    if images and labels and not pairs:
        raise HistomixError(
            f"no label file in {part.folder} has the name of an image (such as {min(images)!r}); name them alike."
        )
    names = [listing.add(image, files, folder=part.split or part.folder.name) for image, files in pairs.items()]
    return names, {image: path for image, path in images.items() if image not in pairs}


class _Tables:
    """What ``types.csv``, ``images.csv`` and ``dataset.json`` say about images, in the root and nearer to them."""

    def __init__(self, part_of: Mapping[str, Place], alone: Mapping[str, Path], listing: Listing) -> None:
        self.listing, self.rows, self.has_types = listing, dict[str, Row](), False
        nearer = dict.fromkeys(part.folder for part in part_of.values() if part.folder != listing.root)
        for folder in (*nearer, listing.root):
            # What a table says of images without labels is not wrong, and of no use.
            images = dict(alone) | {
                image: pixels
                for image, (pixels, _) in listing.files.items()
                if folder in (part_of[image].folder, listing.root)
            }
            types, about_images = _types_table(folder), folder / TABLE
            self.has_types = self.has_types or types is not None
            for table in dict.fromkeys([types, about_images]):
                if table is not None and table.is_file():
                    self._read(table, images, with_types=table == types)

    def _read(self, table: Path, images: dict[str, Path], *, with_types: bool) -> None:
        before = set(images)
        for image, more in read_rows(table, images, self.listing.problems, with_types=with_types).items():
            row = self.rows.get(image, Row())
            # Where two tables say something about one image, the first counts.
            patient, slide, split = row.patient or more.patient, row.slide or more.slide, row.split or more.split
            synthetic = more.synthetic if row.synthetic is None else row.synthetic
            self.rows[image] = Row(patient, slide, split, row.mpp or more.mpp, row.types or more.types, synthetic)
        for image in before - images.keys():
            self.listing.files.pop(image, None)

    def section(self, part: Place) -> Section:
        """The folder of a part, with what ``dataset.json`` in it and in the root say."""
        listing = self.listing
        nearer = {} if part.folder == listing.root else read_json_object(part.folder / "dataset.json")
        return Section(part.folder, listing.described | nearer, part.split)


def _types_table(folder: Path) -> Path | None:
    """The CSV with the types: ``types.csv``, or the only CSV if it has their columns."""
    table, count = find_table(folder, TYPES_TABLE)
    if table is not None and table.name.casefold() == TYPES_TABLE:
        return table
    typed = [
        path for path in visible_files(folder, frozenset({".csv"})) if has_columns(path, "image", "instance", "type")
    ]
    if typed and count > 1:
        raise HistomixError(f"{folder} has {count} CSV files; name the one with the nucleus types {TYPES_TABLE}.")
    return typed[0] if typed else None


def _stated_classes(parts: list[Place], listing: Listing) -> tuple[NucleusClass, ...]:
    folders = dict.fromkeys([listing.root, *(part.folder for part in parts)])
    listed = {classes for folder in folders if (classes := read_type_info(folder / "type_info.json"))}
    if len(listed) > 1:
        raise HistomixError(f"the type_info.json files in {listing.root} differ; keep one, in that folder.")
    return listed.pop() if listed else listing.classes


def _mat_classes(images: list[str], listing: Listing) -> tuple[set[int], bool]:
    """The class numbers in ``.mat`` files, and whether all are Lizard's; images whose file is damaged are left out."""
    numbers: set[int] = set()
    lizard: set[bool] = set()
    for image in sorted(images, key=natural_key):
        with listing.leaving_out(image):
            numbers_here, is_lizard = read_mat_types(listing.files[image][1])
            numbers |= numbers_here
            lizard |= {is_lizard} if numbers_here else set()
    return numbers, lizard == {True}


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
