"""A folder of images and QuPath's GeoJSON, one file per image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    Entry,
    Problem,
    about,
    files_by_stem,
    palette,
    read_json_object,
)
from napari_histomix.datasets.formats.geojson import Feature, read_features, write_features
from napari_histomix.datasets.formats.image_writer import ImageWriter
from napari_histomix.datasets.formats.polygons import paint
from napari_histomix.datasets.formats.reading import begins_with, check_size
from napari_histomix.datasets.listing import (
    UNCLASSIFIED,
    UNCLASSIFIED_COLOR,
    dataset_name,
    described_classes,
    listed,
    matched,
    subfolder,
)
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

_GEOJSON = frozenset({".geojson"})
_MARK = re.compile(rb'"(Feature|FeatureCollection)"')


def recognizes(root: Path) -> bool:
    """Whether there is GeoJSON with features beside images."""
    images, labels = _folders(root)
    return images is not None and begins_with(files_by_stem(labels, _GEOJSON, []).values(), _MARK)


def _folders(root: Path) -> tuple[Path | None, Path]:
    """Folders of the images and of the GeoJSON files."""
    labels = subfolder(root, "geojson", "annotations") or root
    images = subfolder(root, "images") or root
    if subfolder(root, "labels") is not None:
        return None, labels
    return images, labels


def open(root: Path, mpp: float | None) -> Dataset:
    """List images with a GeoJSON file of the same name each, ``a.geojson`` or ``a.png.geojson``.

    They lie in one folder, or in ``images`` and ``geojson`` (or ``annotations``). Where ``dataset.json`` does not list
    the classes, each file is read once for them, and they are numbered in alphabetical order.

    Raises
    ------
    HistomixError
        If no image can be used, or ``dataset.json`` or ``images.csv`` is broken.
    """
    problems: list[Problem] = []
    pictures, labels = _folders(root)
    images = files_by_stem(pictures or root, IMAGE_SUFFIXES, problems)
    found: dict[str, Path] = {}
    for stem, path in files_by_stem(labels, _GEOJSON, problems, "label").items():
        shorter, _, suffix = stem.rpartition(".")
        image = shorter if stem not in images and f".{suffix}".casefold() in IMAGE_SUFFIXES else stem
        if image in found:
            names = f"{found[image].name} and {path.name}"
            problems.append(Problem(image, f"{image}: {names} are two label files of one image; keep one of them."))
            images.pop(image, None)
        found[image] = path
    files = matched(images, found, problems)
    described = read_json_object(root / "dataset.json")
    classes = described_classes(root, described)
    if not classes:
        colors: dict[str, tuple[str, tuple[int, int, int] | None]] = {}
        for image, (_, path) in list(files.items()):
            try:
                features = nuclei(read_features(path))
            except HistomixError as error:
                problems.append(Problem(image, about(image, error)))
                del files[image]
                continue
            for one in features:
                name = one.name or UNCLASSIFIED
                known = colors.setdefault(name.casefold(), (name, one.color))
                if known[1] is None:
                    colors[name.casefold()] = (known[0], one.color)
        classes = _classes(colors)
    name = dataset_name(root, described)
    entries = listed(root, name, files, mpp, problems)
    return Dataset(name, root, classes, entries, tuple(problems), _Layout(class_numbers(classes)))


def _classes(colors: Mapping[str, tuple[str, tuple[int, int, int] | None]]) -> tuple[NucleusClass, ...]:
    ordered = sorted(colors, key=lambda key: (key == UNCLASSIFIED, key))
    return tuple(
        NucleusClass(number, colors[key][0], colors[key][1] or (UNCLASSIFIED_COLOR if key == UNCLASSIFIED else other))
        for number, (key, other) in enumerate(zip(ordered, palette(len(ordered)), strict=True), start=1)
    )


def class_numbers(classes: Iterable[NucleusClass]) -> dict[str, int]:
    """Class numbers by name in lower case."""
    return {(one.name.strip() or UNCLASSIFIED).casefold(): one.number for one in classes}


@dataclass(frozen=True)
class _Layout(ImageFiles):
    """GeoJSON files; ``numbers`` are those of the classes by name in lower case."""

    numbers: Mapping[str, int] = field(default_factory=dict)

    def labels(self, entry: Entry, shape: tuple[int, int]) -> tuple[NDArray[np.int32], dict[int, int]]:
        """Draw the objects in their order."""
        check_size(shape, entry.source.image)
        try:
            return draw(nuclei(read_features(entry.label_file)), shape, self.numbers)
        except HistomixError as error:
            raise HistomixError(about(entry.label_file.name, error)) from None


def nuclei(features: Sequence[Feature]) -> list[Feature]:
    """The objects that are nuclei: detections and cells where a file has any, else annotations.

    Annotations beside detections are the regions in which those were searched for.
    """
    detected = [one for one in features if one.kind != "annotation"]
    return detected or list(features)


def draw(
    features: Iterable[Feature], shape: tuple[int, int], numbers: Mapping[str, int]
) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Draw objects into an instance map, in their order.

    Parameters
    ----------
    features : iterable of Feature
    shape : (H, W)
    numbers : mapping of str to int
        See `class_numbers`.

    Returns
    -------
    instances : (H, W) int32
    types : dict of int to int

    Raises
    ------
    HistomixError
        If an object is of a class that is not in ``numbers``, or as for ``polygons.paint``.
    """
    polygons = []
    for one in features:
        name = one.name or UNCLASSIFIED
        if name.casefold() not in numbers:
            raise HistomixError(f"an object is of the class {name!r}, which the dataset does not list; add it there.")
        polygons.append((one.rings, numbers[name.casefold()]))
    return paint(shape, polygons)


class Writer(ImageWriter):
    """Writes ``images/NAME.png`` and ``geojson/NAME.geojson``: nuclei as detections in the colors of their classes."""

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        """Write both files of an image."""
        self.write_image(image, synthetic)
        folder = self.folder / "geojson"
        folder.mkdir(exist_ok=True)
        write_features(folder / f"{image.source.image}.geojson", image, self.classes, synthetic=synthetic)
