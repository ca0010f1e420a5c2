"""GeoJSON as QuPath writes and reads it: objects with outlines, classes with colors, and measurements.

This follows QuPath 0.2 to 0.6 (its ``PathObject`` as a GeoJSON feature; Bankhead et al., 2017). Coordinates are pixels
of the full resolution: the upper left corner of the image is 0, 0 and a pixel spans 1, so outlines run along the
borders of pixels.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_histomix.datasets.formats.image_writer import check_classes
from napari_histomix.datasets.formats.polygons import Ring, as_ring, shapes_of
from napari_histomix.datasets.formats.reading import read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

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
    """

    kind: str
    rings: tuple[Ring, ...]
    name: str = ""
    color: tuple[int, int, int] | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)


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
    return Feature(str(kind), rings, name, color, _measurements(properties.get("measurements")))


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
    synthetic: bool = False,
    measured: bool = True,
) -> None:
    """Write the nuclei of an image as a GeoJSON file that QuPath imports.

    Parameters
    ----------
    path : Path
    image : LabeledImage
    classes : sequence of NucleusClass
        With the colors that QuPath is to show.
    kind : str
        One of `KINDS`.
    synthetic : bool
        Whether each object says in its metadata that its image is synthetic.
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
        feature = {
            "type": "Feature",
            # The same image gives the same file.
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"napari-histomix:{image.source.image}:{number}")),
            "geometry": geometry,
            **({"nucleusGeometry": geometry} if kind == "cell" else {}),
            "properties": {
                "objectType": kind,
                "classification": known[image.types[number]],
                "measurements": {"Nucleus: Area µm^2": round(area * image.mpp**2, 6)} if measured else {},
                **({"metadata": {"Image": SYNTHETIC_NOTICE}} if synthetic else {}),
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
