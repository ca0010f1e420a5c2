"""A folder of images and QuPath's GeoJSON, one file per image."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix.datasets.dataset import Dataset, Layout
from napari_histomix.datasets.entries import UNCLASSIFIED, UNCLASSIFIED_COLOR, Entry, Labels, named_classes
from napari_histomix.datasets.formats.polygons import Canvas, Ring, as_ring, shapes_of
from napari_histomix.datasets.listing import IMAGE_SUFFIXES, Listing, files_by_stem, subfolder
from napari_histomix.datasets.text_files import begins_with, naming, read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, check_classes, write_text
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

_GEOJSON = frozenset({".geojson"})
MARK = re.compile(rb'"(Feature|FeatureCollection)"')


def recognizes(root: Path) -> bool:
    """Whether there is GeoJSON with features beside images."""
    labels = files_by_stem(subfolder(root, "geojson", "annotations") or root, _GEOJSON, [])
    return subfolder(root, "labels") is None and begins_with(labels.values(), MARK)


def open(root: Path, mpp: float | None) -> Dataset:
    """List images with a GeoJSON file of the same name each, ``a.geojson`` or ``a.png.geojson``.

    They lie in one folder, or in ``images`` and ``geojson`` (or ``annotations``). Where ``dataset.json`` does not list
    the classes, each file is read once for them, and they are numbered in alphabetical order.
    """
    listing = Listing(root, mpp)
    images = listing.images(subfolder(root, "images") or root)
    labels: dict[str, Path] = {}
    for stem, path in listing.labels(subfolder(root, "geojson", "annotations") or root, _GEOJSON).items():
        shorter, _, suffix = stem.rpartition(".")
        image = shorter if stem not in images and f".{suffix}".casefold() in IMAGE_SUFFIXES else stem
        if image in labels:
            names = f"{labels[image].name} and {path.name}"
            listing.report(image, f"{names} are two label files of one image; keep one of them.")
            images.pop(image, None)
        labels[image] = path
    listing.files = listing.pairs(images, labels)
    classes = listing.classes or _classes(listing)
    return listing.dataset(classes, _Layout(class_numbers(classes)))


def _classes(listing: Listing) -> tuple[NucleusClass, ...]:
    """The classes that the files name, in the colors that they give them."""
    names: dict[str, str] = {}
    colors: dict[str, tuple[int, int, int]] = {}
    for image, (_, path) in list(listing.files.items()):
        with listing.leaving_out(image):
            for feature in nuclei(read_features(path)):
                name = feature.name or UNCLASSIFIED
                names.setdefault(name.casefold(), name)
                if feature.color is not None:
                    colors.setdefault(name.casefold(), feature.color)
    colors.setdefault(UNCLASSIFIED, UNCLASSIFIED_COLOR)
    ordered = sorted(names, key=lambda key: (key == UNCLASSIFIED, key))
    named = zip(ordered, named_classes(*(names[key] for key in ordered)), strict=True)
    return tuple(replace(known, color=colors.get(key, known.color)) for key, known in named)


def class_numbers(classes: Iterable[NucleusClass]) -> dict[str, int]:
    """Class numbers by name in lower case."""
    return {(known.name.strip() or UNCLASSIFIED).casefold(): known.number for known in classes}


@dataclass(frozen=True)
class _Layout(Layout):
    numbers: Mapping[str, int]  # of the classes, by name in lower case

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        with naming(entry.label_file.name):
            return draw(nuclei(read_features(entry.label_file)), shape, self.numbers)


def nuclei(features: Sequence[Feature]) -> list[Feature]:
    """The objects that are nuclei: detections and cells where a file has any, else annotations."""
    # Annotations beside detections are the regions in which those were searched for.
    return [feature for feature in features if feature.kind != "annotation"] or list(features)


def draw(features: Iterable[Feature], shape: tuple[int, int], numbers: Mapping[str, int]) -> Labels:
    """Draw objects into an instance map, in their order."""
    canvas, synthetic = Canvas(shape), set()
    for feature in features:
        name = feature.name or UNCLASSIFIED
        if name.casefold() not in numbers:
            raise HistomixError(f"an object is of the class {name!r}, which the dataset does not list; add it there.")
        number = canvas.draw(feature.rings, numbers[name.casefold()])
        if feature.synthetic and number:
            synthetic.add(number)
    return canvas.labels(synthetic)


class Writer(ImageWriter):
    """Writes ``images/NAME.png`` and ``geojson/NAME.geojson``: nuclei as detections in the colors of their classes."""

    parts = ("geojson",)

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        self.write_image(image, synthetic)
        write_features(self.folder / "geojson" / f"{image.source.image}.geojson", image, self.classes)


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
    """One object, with the name and color of its class."""

    kind: str  # one of `KINDS`
    rings: tuple[Ring, ...]  # outlines and holes, not closed; of a cell those of its nucleus, where it has one
    name: str = ""  # derived classes are joined as QuPath shows them, "Tumor: Positive"
    color: tuple[int, int, int] | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    synthetic: bool = False  # whether the object says so of itself


def read_features(path: Path) -> list[Feature]:
    """Read the objects of a GeoJSON file that have an area: a collection, a bare list of features, or a single one.

    Tiles, TMA cores, points and lines are left aside; of nested objects, children follow their parents.
    """
    # QuPath writes measurements that could not be made as NaN.
    content = read_json(path, not_a_number=True)
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list):
        raise HistomixError(f"{path.name} is no GeoJSON of features; export the objects from QuPath again.")
    features: list[Feature] = []
    waiting = content[::-1]
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict) or item.get("type") != "Feature":
            raise HistomixError(f"{path.name} holds something that is no GeoJSON feature; export it again.")
        properties = item.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        with naming(f"{path.name}, object {len(features) + 1}"):
            features += _feature(item, properties)
        children = properties.get("childObjects", properties.get("children"))
        waiting.extend(children[::-1] if isinstance(children, list) else [])
    return features


def _feature(item: Mapping[str, Any], properties: Mapping[str, Any]) -> list[Feature]:
    """An object; none if it is nothing that can be a nucleus."""
    identity = item.get("id")
    legacy = _LEGACY.get(identity) if isinstance(identity, str) else None
    kind = properties.get("objectType", properties.get("object_type", properties.get("type", legacy)))
    kind = "annotation" if kind is None else _LEGACY.get(str(kind), kind)
    rings = _rings(item.get("nucleusGeometry") or item.get("geometry")) if kind in KINDS else ()
    if not rings:
        return []
    name, color = _classification(properties.get("classification"))
    measurements = _measurements(properties.get("measurements"))
    # Metadata get lost in QuPath before 0.5, measurements do not.
    metadata = properties.get("metadata")
    noticed = isinstance(metadata, dict) and SYNTHETIC_NOTICE in metadata.values()
    synthetic = noticed or measurements.get(_SYNTHETIC, 0.0) > 0
    return [Feature(str(kind), rings, name, color, measurements, synthetic)]


def _rings(geometry: Any) -> tuple[Ring, ...]:
    """All rings of a geometry; empty if it has no area."""
    rings: list[Ring] = []
    waiting = [geometry]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        if not isinstance(part, dict):
            raise HistomixError("its geometry is no JSON object; export it again.")
        kind, coordinates = part.get("type"), part.get("coordinates")
        if kind == "GeometryCollection":
            inner = part.get("geometries")
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


def _classification(value: Any) -> tuple[str, tuple[int, int, int] | None]:
    """Name and color of a class, in any of the ways QuPath has written it; an empty name for none."""
    if isinstance(value, str):
        return value.strip(), None
    if not isinstance(value, dict):
        return "", None
    names = value.get("names")
    words = names if isinstance(names, list) else [value.get("name")]
    parent = value.get("parentClass")
    while isinstance(parent, dict) and len(words) < 10:
        words, parent = [parent.get("name"), *words], parent.get("parentClass")
    color = value.get("color", value.get("colorRGB"))
    return ": ".join(word.strip() for word in words if isinstance(word, str) and word.strip()), _color(color)


def _color(value: Any) -> tuple[int, int, int] | None:
    """Red, green and blue of a list, or of the signed 32-bit number that Java packs them into."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value >> 16 & 255, value >> 8 & 255, value & 255
    if isinstance(value, list) and len(value) in (3, 4) and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return None


def _measurements(content: Any) -> dict[str, float]:
    """Numbers by name; until 0.3, QuPath wrote a list of names and values."""
    if isinstance(content, list):
        pairs = [(item.get("name"), item.get("value")) for item in content if isinstance(item, dict)]
    else:
        pairs = list(content.items()) if isinstance(content, dict) else []
    return {
        name: float(value)
        for name, value in pairs
        if isinstance(name, str) and isinstance(value, (int, float)) and abs(value) < 1e300
    }


def write_features(
    path: Path, image: LabeledImage, classes: Sequence[NucleusClass], *, kind: str = "detection", measured: bool = True
) -> None:
    """Write the nuclei of an image as a GeoJSON file that QuPath imports.

    Each synthetic nucleus says in its metadata, and in a measurement "Synthetic", that it is one.
    """
    if kind not in KINDS:
        raise HistomixError(f"{kind!r} is no type of QuPath's objects; choose one of {', '.join(KINDS)}.")
    check_classes(image, classes)
    shown = {known.number: {"name": known.name, "color": list(known.color)} for known in classes}
    lines = []
    for number, parts in shapes_of(image.instances):
        polygons = [[_closed(ring) for ring in (exterior, *holes)] for exterior, holes in parts]
        geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": polygons}
        if len(polygons) == 1:
            geometry = {"type": "Polygon", "coordinates": polygons[0]}
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
                "classification": shown[image.types[number]],
                "measurements": measurements | ({_SYNTHETIC: 1} if synthetic else {}),
                **({"metadata": {_SYNTHETIC: SYNTHETIC_NOTICE}} if synthetic else {}),
            },
        }
        lines.append(json.dumps(feature, ensure_ascii=False, separators=(",", ":")))
    write_text(path, '{"type":"FeatureCollection","features":[\n' + ",\n".join(lines) + "\n]}\n")


def _closed(ring: Ring) -> list[list[int]]:
    corners: list[list[int]] = ring.astype(int).tolist()
    return [*corners, corners[0]]


def _area(ring: Ring) -> float:
    """Signed: negative for a hole."""
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
