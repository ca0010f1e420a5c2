"""A folder of images and QuPath's GeoJSON, one file per image."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import NO_OUTLINE, Loss, unread
from napari_histomix.datasets.formats import side_files
from napari_histomix.datasets.formats.foreign import refusal
from napari_histomix.datasets.formats.polygons import Ring, as_ring, shapes_of
from napari_histomix.datasets.formats.side_files import Drawing, Shape, SideFiles, class_name
from napari_histomix.datasets.parts import lie_apart
from napari_histomix.datasets.text_files import naming, read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, check_classes, write_text
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

MARK = re.compile(rb'"type"\s*:\s*"(Feature|FeatureCollection|GeometryCollection|Polygon|MultiPolygon)"')


def recognizes(root: Path) -> bool:
    """Whether there is GeoJSON beside images."""
    return side_files.recognizes(root, GEOJSON)


def open(root: Path, mpp: float | None) -> Dataset:
    """List images with a GeoJSON file of the same name each, ``a.geojson``, ``a.json`` or ``a.png.geojson.gz``.

    They lie in one folder, or in ``images`` and ``geojson`` (or ``annotations``); see ``side_files.open_side_files``.
    """
    return side_files.open_side_files(root, mpp, GEOJSON)


def read_drawing(path: Path) -> Drawing:
    """Read the nuclei of a GeoJSON file.

    They are its detections and cells where it has any, else its annotations. Annotations beside detections are the
    regions in which those were searched for; those that are no larger than nuclei are told of.
    """
    features, lost = read_objects(path)
    nuclei = [feature for feature in features if feature.kind != "annotation"]
    regions = [feature for feature in features if feature.kind == "annotation"] if nuclei else []
    losses = sum((counts for kind, counts in lost.items() if not (nuclei and kind == "annotation")), Counter[Loss]())
    shapes, notes = split_objects(nuclei or features)
    largest = max(map(_extent, nuclei)) if regions else 0.0
    if nuclei and (aside := sum(_extent(region) <= largest for region in regions) + lost["annotation"][POINT]):
        which = "1 annotation, no larger than a nucleus, was" if aside == 1 else f"{aside:,} annotations were"
        notes.append(f"{which} left aside beside detections; make detections of those that are nuclei.")
    return Drawing(list(shapes), losses, tuple(notes))


def _extent(shape: Shape) -> float:
    """The area of the box around a shape."""
    low = np.min([ring.min(axis=0) for ring in shape.rings], axis=0)
    high = np.max([ring.max(axis=0) for ring in shape.rings], axis=0)
    return float(np.prod(high - low))


GEOJSON = SideFiles(
    {".geojson": True, ".json": False}, MARK, ("geojson", "annotations", "labels", "json"), read_drawing
)


def split_objects(features: Sequence[Feature]) -> tuple[list[Feature], list[str]]:
    """Take apart objects that are many nuclei, and say so.

    Some programs, CellViT among them, write all nuclei of a class as one object. So an annotation whose outlines lie
    far apart is as many nuclei as it has outlines, and so are the objects of a file that has one for each class.
    """
    apart = [
        len(feature.polygons) > 1 and not feature.is_whole and lie_apart([rings[0] for rings in feature.polygons])
        for feature in features
    ]
    drawn = [feature.kind == "annotation" for feature in features]
    chosen = [is_apart and by_hand for is_apart, by_hand in zip(apart, drawn, strict=True)]
    by_class = len({feature.name.casefold() for feature in features}) == len(features)
    if by_class and not any(feature.is_whole for feature in features) and (any(chosen) if all(drawn) else all(apart)):
        chosen = [len(feature.polygons) > 1 for feature in features]
    nuclei: list[Feature] = []
    for feature, is_many in zip(features, chosen, strict=True):
        nuclei += [replace(feature, polygons=(polygon,)) for polygon in feature.polygons] if is_many else [feature]
    if not (split := sum(chosen)):
        return nuclei, []
    which = "1 object of several outlines was" if split == 1 else f"{split:,} objects of several outlines were"
    return nuclei, [f"{which} read as {len(nuclei) - len(features) + split:,} nuclei."]


class Writer(ImageWriter):
    """Writes ``images/NAME.png`` and ``geojson/NAME.geojson``: nuclei as detections in the colors of their classes."""

    parts = ("geojson",)

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        self.write_image(image, synthetic)
        write_features(self.folder / "geojson" / f"{image.source.image}.geojson", image, self.classes)


_SYNTHETIC = "Synthetic"
"""Measurement of an object that is synthetic, and key in its metadata."""

_NUCLEUS = "Nucleus: "
"""How measurements of an object begin that somebody took for one nucleus."""

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


_ASIDE = frozenset({"tile", "tmaCore", "root"})
"""Types of objects that are never nuclei."""

_GEOMETRIES = ("Polygon", "MultiPolygon", "GeometryCollection")
"""Types of geometries that may stand in a file without a feature around them."""

_CLASS_KEYS = ("class", "type", "label", "category")
"""Where other programs write the name of the class, TIAToolbox in ``type``."""

POINT, LINE = unread("a point"), unread("a line")


@dataclass(frozen=True, slots=True, eq=False)
class Feature(Shape):
    """One object; of a cell, the polygons are those of its nucleus, where it has one.

    The name of a derived class is joined as QuPath shows it, "Tumor: Positive".
    """

    kind: str = "annotation"  # one of `KINDS`
    measurements: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the program that wrote it took it for one nucleus."""
        return self.kind == "cell" or any(name.startswith(_NUCLEUS) for name in self.measurements)


def read_objects(path: Path) -> tuple[list[Feature], dict[str, Counter[Loss]]]:
    """Read the objects of a GeoJSON file: a collection, a bare list of features or geometries, or a single one.

    Returns those that have an area, children after their parents, and how many others there are, by kind and reason.
    Tiles and TMA cores are left aside.
    """
    # QuPath writes measurements that could not be made as NaN.
    content = read_json(path, not_a_number=True)
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list):
        sentence = f"{path.name} is no GeoJSON of features; export the objects from QuPath again."
        raise HistomixError(refusal(path) or sentence)
    features: list[Feature] = []
    lost: dict[str, Counter[Loss]] = {kind: Counter() for kind in KINDS}
    waiting, number = content[::-1], 0
    while waiting:
        item = waiting.pop()
        number += 1
        if isinstance(item, dict) and item.get("type") in _GEOMETRIES:
            item = {"type": "Feature", "geometry": item}
        if not isinstance(item, dict) or item.get("type") != "Feature":
            sentence = f"{path.name} holds something that is no GeoJSON feature; export it again."
            raise HistomixError(refusal(path) or sentence)
        properties = item.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        kind = _kind(item, properties)
        if kind in KINDS:
            with naming(f"{path.name}, object {number}"):
                polygons, losses = _polygons(item.get("nucleusGeometry") or item.get("geometry"))
            if polygons:
                features.append(_feature(kind, polygons, properties))
            else:
                lost[kind].update(losses or {NO_OUTLINE: 1})
        children = properties.get("childObjects", properties.get("children"))
        waiting.extend(children[::-1] if isinstance(children, list) else [])
    return features, lost


def _kind(item: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """The type of an object, one of `KINDS` where it can be a nucleus; of what is not QuPath's, annotation."""
    for said in (properties.get(key) for key in ("objectType", "object_type", "type")):
        kind = _LEGACY.get(said, said) if isinstance(said, str) else ""
        if kind in KINDS or kind in _ASIDE:
            return kind
    identity = item.get("id")
    return _LEGACY.get(identity, "annotation") if isinstance(identity, str) else "annotation"


def _feature(kind: str, polygons: tuple[tuple[Ring, ...], ...], properties: Mapping[str, Any]) -> Feature:
    name, color = _classification(properties.get("classification"))
    for key in _CLASS_KEYS if "classification" not in properties else ():
        said = properties.get(key)
        if isinstance(said, str) and said not in KINDS and said not in _LEGACY:
            name = name or class_name(said)
    measurements = _measurements(properties.get("measurements"))
    # Metadata get lost in QuPath before 0.5, measurements do not.
    metadata = properties.get("metadata")
    noticed = isinstance(metadata, dict) and SYNTHETIC_NOTICE in metadata.values()
    synthetic = noticed or measurements.get(_SYNTHETIC, 0.0) > 0
    return Feature(polygons, name, color, synthetic, kind, measurements)


def _polygons(geometry: Any) -> tuple[tuple[tuple[Ring, ...], ...], Counter[Loss]]:
    """The polygons of a geometry, each an outline and its holes; and what it has without an area."""
    found: list[tuple[Ring, ...]] = []
    losses: Counter[Loss] = Counter()
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
            waiting.extend(inner[::-1] if isinstance(inner, list) else [])
        elif kind in ("Polygon", "MultiPolygon"):
            polygons = [coordinates] if kind == "Polygon" else coordinates
            if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
                raise HistomixError(f"its {kind} has no list of rings; export it again.")
            rings = [tuple(ring for ring in map(_ring, polygon) if len(ring)) for polygon in polygons]
            found += [polygon for polygon in rings if polygon]
        elif coordinates and kind in ("Point", "MultiPoint"):
            losses[POINT] += len(coordinates) if kind == "MultiPoint" and isinstance(coordinates, list) else 1
        elif coordinates and kind in ("LineString", "MultiLineString"):
            losses[LINE] += 1
    return tuple(found), losses


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
        return class_name(value), None
    if not isinstance(value, dict):
        return "", None
    names = value.get("names")
    words = names if isinstance(names, list) else [value.get("name")]
    parent = value.get("parentClass")
    while isinstance(parent, dict) and len(words) < 10:
        words, parent = [parent.get("name"), *words], parent.get("parentClass")
    color = value.get("color", value.get("colorRGB"))
    return ": ".join(name for word in words if (name := class_name(word))), _color(color)


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
        measurements: dict[str, float] = {f"{_NUCLEUS}Area µm^2": round(area * image.mpp**2, 6)} if measured else {}
        if not measured and len(polygons) > 1:
            # By this the parts stay one nucleus where they are read again.
            measurements = {f"{_NUCLEUS}Outlines": len(polygons)}
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
