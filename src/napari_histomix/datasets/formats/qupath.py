"""A folder of images and QuPath's GeoJSON, one file per image."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    UNCLASSIFIED,
    UNCLASSIFIED_COLOR,
    Entry,
    Problem,
    about,
    dataset_name,
    described_classes,
    files_by_stem,
    listed,
    matched,
    palette,
    read_json_object,
    subfolder,
)
from napari_histomix.datasets.formats.polygons import Ring, as_ring, paint, shapes_of
from napari_histomix.datasets.text_files import begins_with, check_size, read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, check_classes
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

    def labels(self, entry: Entry, shape: tuple[int, int]) -> tuple[NDArray[np.int32], dict[int, int], frozenset[int]]:
        """Draw the objects in their order."""
        check_size(shape, entry.source.image)
        try:
            objects = nuclei(read_features(entry.label_file))
            instances, types = draw(objects, shape, self.numbers)
        except HistomixError as error:
            raise HistomixError(about(entry.label_file.name, error)) from None
        # Objects are drawn in their order, from 1.
        synthetic = frozenset(number for number, one in enumerate(objects, start=1) if one.synthetic)
        return instances, types, synthetic & types.keys()


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
        write_features(folder / f"{image.source.image}.geojson", image, self.classes)


_SYNTHETIC = "Synthetic"
"""Measurement of an object that is synthetic, and key in its metadata."""

KINDS = ("annotation", "detection", "cell")
"""Types of objects that can be nuclei."""

_LEGACY = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "PathRootObject": "root",
    "TMACoreObject": "tmaCore",
}
"""What QuPath 0.2 wrote as a feature's id."""


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One object.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    rings : tuple of (n, 2) float64
        Outlines and holes, x and y, not closed; of a cell those of its nucleus, where it has one.
    name : str
        Of its class; empty if it has none. Derived classes are joined as QuPath shows them, "Tumor: Positive".
    color : (int, int, int), optional
        Of its class, 0–255.
    measurements : mapping of str to float
    synthetic : bool
        Whether the object says of itself that it is synthetic.
    """

    kind: str
    rings: tuple[Ring, ...]
    name: str = ""
    color: tuple[int, int, int] | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    synthetic: bool = False


def read_features(path: Path) -> list[Feature]:
    """Read the objects of a GeoJSON file that have an area: a collection, a bare list of features, or a single one.

    Tiles, TMA cores, points and lines are left aside; of nested objects, children follow their parents.

    Raises
    ------
    HistomixError
        If the file cannot be read or is no GeoJSON as QuPath writes it.
    """
    # QuPath writes measurements that could not be made as NaN.
    content = read_json(path, not_a_number=True)
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list):
        raise HistomixError(f"{path.name} is no GeoJSON of features; export the objects from QuPath again.")
    found: list[Feature] = []
    waiting = content[::-1]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict) or one.get("type") != "Feature":
            raise HistomixError(f"{path.name} holds something that is no GeoJSON feature; export it again.")
        properties = one.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        try:
            feature = _feature(one, properties)
        except HistomixError as error:
            raise HistomixError(f"{path.name}, object {len(found) + 1}: {error}") from None
        if feature is not None:
            found.append(feature)
        children = properties.get("childObjects", properties.get("children"))
        waiting.extend(children[::-1] if isinstance(children, list) else [])
    return found


def _feature(one: Mapping[str, Any], properties: Mapping[str, Any]) -> Feature | None:
    """An object, None if it is nothing that can be a nucleus."""
    identity = one.get("id")
    legacy = _LEGACY.get(identity) if isinstance(identity, str) else None
    kind = properties.get("objectType", properties.get("object_type", properties.get("type", legacy)))
    kind = "annotation" if kind is None else _LEGACY.get(str(kind), kind)
    if kind not in KINDS:
        return None
    rings = _rings(one.get("nucleusGeometry") or one.get("geometry"))
    if not rings:
        return None
    name, color = _classification(properties.get("classification"))
    measurements = _measurements(properties.get("measurements"))
    # Metadata get lost in QuPath before 0.5, measurements do not.
    metadata = properties.get("metadata")
    said = isinstance(metadata, dict) and SYNTHETIC_NOTICE in metadata.values()
    return Feature(str(kind), rings, name, color, measurements, said or measurements.get(_SYNTHETIC, 0.0) > 0)


def _rings(geometry: Any) -> tuple[Ring, ...]:
    """All rings of a geometry; empty if it has no area."""
    rings: list[Ring] = []
    waiting = [geometry]
    while waiting:
        one = waiting.pop()
        if one is None:
            continue
        if not isinstance(one, dict):
            raise HistomixError("its geometry is no JSON object; export it again.")
        kind, coordinates = one.get("type"), one.get("coordinates")
        if kind == "GeometryCollection":
            inner = one.get("geometries")
            waiting.extend(inner if isinstance(inner, list) else [])
        elif kind in ("Polygon", "MultiPolygon"):
            polygons = [coordinates] if kind == "Polygon" else coordinates
            if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
                raise HistomixError(f"its {kind} has no list of rings; export it again.")
            rings += [_ring(ring) for polygon in polygons for ring in polygon]
    return tuple(ring for ring in rings if len(ring))


def _ring(points: Any) -> Ring:
    """A ring without its last point, which repeats the first."""
    if isinstance(points, list) and any(isinstance(point, list) and len(point) > 2 for point in points):
        # A third coordinate is the height.
        points = [point[:2] if isinstance(point, list) else point for point in points]
    ring = as_ring(points)
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def _classification(said: Any) -> tuple[str, tuple[int, int, int] | None]:
    """Name and color of a class, in any of the ways QuPath has written it; an empty name for none."""
    if isinstance(said, str):
        return said.strip(), None
    if not isinstance(said, dict):
        return "", None
    names = said.get("names")
    words = names if isinstance(names, list) else [said.get("name")]
    parent = said.get("parentClass")
    while isinstance(parent, dict) and len(words) < 10:
        words, parent = [parent.get("name"), *words], parent.get("parentClass")
    color = said.get("color", said.get("colorRGB"))
    return ": ".join(word.strip() for word in words if isinstance(word, str) and word.strip()), _color(color)


def _color(said: Any) -> tuple[int, int, int] | None:
    """Red, green and blue of a list, or of the signed 32-bit number that Java packs them into."""
    if isinstance(said, int) and not isinstance(said, bool):
        return said >> 16 & 255, said >> 8 & 255, said & 255
    if isinstance(said, list) and len(said) in (3, 4) and all(isinstance(one, int) and 0 <= one <= 255 for one in said):
        return said[0], said[1], said[2]
    return None


def _measurements(said: Any) -> dict[str, float]:
    """Numbers by name; until 0.3, QuPath wrote a list of names and values."""
    if isinstance(said, list):
        pairs = [(one.get("name"), one.get("value")) for one in said if isinstance(one, dict)]
    else:
        pairs = list(said.items()) if isinstance(said, dict) else []
    return {
        name: float(value)
        for name, value in pairs
        if isinstance(name, str) and isinstance(value, (int, float)) and abs(value) < 1e300
    }


def write_features(
    path: Path,
    image: LabeledImage,
    classes: Sequence[NucleusClass],
    *,
    kind: str = "detection",
    measured: bool = True,
) -> None:
    """Write the nuclei of an image as a GeoJSON file that QuPath imports.

    Each synthetic nucleus says in its metadata, and in a measurement "Synthetic", that it is one.

    Parameters
    ----------
    path : Path
    image : LabeledImage
    classes : sequence of NucleusClass
        With the colors that QuPath is to show.
    kind : str
        One of `KINDS`.
    measured : bool
        Whether each object has its area in µm²; without it where nothing says the scale.

    Raises
    ------
    HistomixError
        If there is no such kind, or a nucleus is of none of the classes.
    """
    if kind not in KINDS:
        raise HistomixError(f"{kind!r} is no type of QuPath's objects; choose one of {', '.join(KINDS)}.")
    check_classes(image, classes)
    known = {one.number: {"name": one.name, "color": list(one.color)} for one in classes}
    lines = []
    for number, parts in shapes_of(image.instances):
        polygons = [[_closed(ring) for ring in (exterior, *holes)] for exterior, holes in parts]
        geometry = {
            "type": "Polygon" if len(polygons) == 1 else "MultiPolygon",
            "coordinates": polygons[0] if len(polygons) == 1 else polygons,
        }
        area = sum(_area(ring) for exterior, holes in parts for ring in (exterior, *holes))
        measurements = {"Nucleus: Area µm^2": round(area * image.mpp**2, 6)} if measured else {}
        synthetic = number in image.synthetic
        feature = {
            "type": "Feature",
            # The same image gives the same file.
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"napari-histomix:{image.source.image}:{number}")),
            "geometry": geometry,
            **({"nucleusGeometry": geometry} if kind == "cell" else {}),
            "properties": {
                "objectType": kind,
                "classification": known[image.types[number]],
                "measurements": measurements | ({_SYNTHETIC: 1} if synthetic else {}),
                **({"metadata": {_SYNTHETIC: SYNTHETIC_NOTICE}} if synthetic else {}),
            },
        }
        lines.append(json.dumps(feature, ensure_ascii=False, separators=(",", ":")))
    text = '{"type":"FeatureCollection","features":[\n' + ",\n".join(lines) + "\n]}\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def _closed(ring: Ring) -> list[list[int]]:
    corners: list[list[int]] = ring.astype(int).tolist()
    return [*corners, corners[0]]


def _area(ring: Ring) -> float:
    """Signed: negative for a hole."""
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
