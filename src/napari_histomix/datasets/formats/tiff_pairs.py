"""Pairs of an image and its label image, as StarDist and Cellpose train on them.

StarDist's examples have the folders ``images`` and ``masks`` with files of one name; Cellpose has ``NAME.tif`` and
``NAME_masks.tif`` in one folder (https://cellpose.readthedocs.io/en/latest/train.html). Neither knows classes:
``types.csv`` beside them says them, and without it all nuclei are of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    SPLIT_FOLDERS,
    Entry,
    Problem,
    Row,
    about,
    dataset_name,
    described_classes,
    files_by_stem,
    listed,
    matched,
    palette,
    read_json_object,
    read_rows,
    split_name,
    subfolder,
)
from napari_histomix.datasets.formats import plain
from napari_histomix.datasets.formats.plain import LabelFiles, TypeTable
from napari_histomix.datasets.pixels import read_label_image
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, smallest_ids, write_tiff
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

_MASKS = ("_masks", "_cp_masks")
_NO_IMAGES = ("_masks", "_flows", "_flows_0", "_flows_1", "_flows_2", "_cellprob", "_cp_output")
"""What Cellpose writes beside an image and does not take for one (``cellpose.io.get_image_files``)."""


def recognizes(root: Path) -> bool:
    """Whether the folder, or one for a split in it, has ``images`` and ``masks``, or ``NAME`` and ``NAME_masks``."""
    return any(_is_pairs(folder) for folder, _ in _sections(root))


def open(root: Path, mpp: float | None) -> Dataset:
    """List the pairs.

    Raises
    ------
    HistomixError
        If no pair is left, two splits have an image of one name, or a table or JSON file is broken.
    """
    problems: list[Problem] = []
    described = read_json_object(root / "dataset.json")
    files: dict[str, tuple[Path, Path]] = {}
    said: dict[str, Row] = {}
    for folder, split in _sections(root):
        if _is_pairs(folder):
            for image, pair in _pairs(folder, problems).items():
                if image in files:
                    raise HistomixError(f"{root} has two images named {image!r}; rename one, and its labels with it.")
                files[image], said[image] = pair, Row(split=split)
    table = root / plain.TYPES_TABLE
    classes = described_classes(root, described)
    layout: LabelFiles | Untyped
    if table.is_file():
        images = {image: pair[0] for image, pair in files.items()}
        rows = read_rows(table, images, problems, with_types=True)
        classes = classes or plain.classes_of({kind for row in rows.values() for kind in row.types.values()}, table)
        types = _types(images, rows, classes, problems)
        files = {image: files[image] for image in types}
        layout = LabelFiles(types)
    else:
        classes = classes or (NucleusClass(1, "nucleus", palette(1)[0]),)
        if len(classes) > 1:
            raise HistomixError(
                f"{root} has {len(classes)} classes but nothing says which nucleus is of which; add "
                f"{plain.TYPES_TABLE} with the columns image, instance, type."
            )
        layout = Untyped(classes[0].number)
    name = dataset_name(root, described)
    entries = listed(root, name, files, mpp, problems, said=said)
    return Dataset(name, root, classes, entries, tuple(problems), layout)


@dataclass(frozen=True)
class Untyped(ImageFiles):
    """Label images whose nuclei are all of one class."""

    number: int

    def labels(self, entry: Entry, shape: tuple[int, int]) -> tuple[NDArray[np.int32], Mapping[int, int]]:
        """Read the label image; its map has the shape it has."""
        instances = read_label_image(entry.label_file)
        return instances, dict.fromkeys(np.unique(instances).tolist(), self.number)


def _sections(root: Path) -> list[tuple[Path, str]]:
    """The folders that may hold pairs, with the split that their names say."""
    inside = [path for path in sorted(root.iterdir()) if path.name.casefold() in SPLIT_FOLDERS and path.is_dir()]
    return [(root, ""), *((path, split_name(path.name)) for path in inside)]


def _is_pairs(folder: Path) -> bool:
    if subfolder(folder, "images") and subfolder(folder, "masks"):
        return subfolder(folder, "labels") is None
    names = {path.stem for path in folder.iterdir() if path.suffix.casefold() in IMAGE_SUFFIXES}
    return any(name + ending in names for name in names for ending in _MASKS)


def _pairs(folder: Path, problems: list[Problem]) -> dict[str, tuple[Path, Path]]:
    """Image and label file by image name; what has no partner is reported."""
    images_folder, masks_folder = subfolder(folder, "images"), subfolder(folder, "masks")
    if images_folder and masks_folder:
        images = files_by_stem(images_folder, IMAGE_SUFFIXES, problems)
        masks = files_by_stem(masks_folder, LABEL_SUFFIXES, problems, "label")
    else:
        found = files_by_stem(folder, IMAGE_SUFFIXES, problems)
        images = {stem: path for stem, path in found.items() if not stem.endswith(_NO_IMAGES)}
        masks = {}
        # What a person drew goes before what Cellpose found, which ends with _cp_masks.
        for stem, path in sorted(found.items(), key=lambda item: item[0].endswith(_MASKS[1])):
            bases = [stem.removesuffix(ending) for ending in _MASKS if stem.endswith(ending)]
            if bases and path.suffix.casefold() in LABEL_SUFFIXES:
                masks.setdefault(next((one for one in bases if one in images), bases[0]), path)
    if not images and not masks:
        problems.append(Problem(folder.name, f"{folder.name}: there is no pair of an image and its label image in it."))
    return matched(images, masks, problems)


def _types(
    images: Mapping[str, Path],
    rows: Mapping[str, Row],
    classes: tuple[NucleusClass, ...],
    problems: list[Problem],
) -> dict[str, dict[int, int]]:
    types: dict[str, dict[int, int]] = {}
    for image in images:
        try:
            types[image] = plain.types_by_number(rows.get(image, Row()).types, classes)
        except HistomixError as error:
            problems.append(Problem(image, about(image, error)))
    return types


class Writer(ImageWriter):
    """Writes ``images/NAME.tif`` and ``masks/NAME.tif``, the classes beside them, and ``dataset.json``."""

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass], kinds: Sequence[str] = ()) -> None:
        super().__init__(folder, name, classes)
        self._table = TypeTable(folder, classes)
        for part in ("images", "masks"):
            (folder / part).mkdir()

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        """Write the pixels with their resolution, and the ids as uint16, or as int32 where there are larger ones."""
        file = f"{image.source.image}.tif"
        density = 10_000 / image.mpp
        write_tiff(
            self.folder / "images" / file,
            image.pixels,
            resolution=(density, density),
            resolutionunit="CENTIMETER",
            description=SYNTHETIC_NOTICE if synthetic else None,
        )
        write_tiff(self.folder / "masks" / file, smallest_ids(image.instances))
        self._table.add(image)

    def finish(self) -> None:
        """Write ``dataset.json``, ``types.csv`` and ``type_info.json``."""
        super().finish()
        self._table.write()
