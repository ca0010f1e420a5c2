"""ASAP's XML, one file per image: an ``Annotation`` for each object, in a group that is its class.

``<ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates><Coordinate Order="0" X="…"
Y="…"/>``; the color of a group stands in ``AnnotationGroups``.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import unread
from napari_histomix.datasets.formats import side_files
from napari_histomix.datasets.formats.foreign import refusal
from napari_histomix.datasets.formats.polygons import Ring
from napari_histomix.datasets.formats.side_files import Color, Drawing, Shape, SideFiles, class_name
from napari_histomix.datasets.formats.xml_shapes import POINT, RULER, box, too_few, vertices
from napari_histomix.datasets.text_files import naming, read_xml, whole_number
from napari_histomix.records import HistomixError

MARK = re.compile(rb"<ASAP_Annotations\b")
_AREAS = ("polygon", "spline", "rectangle")
_COLOR = re.compile("#?([0-9a-fA-F]{6})")


def recognizes(root: Path) -> bool:
    """Whether there are ASAP's files beside images."""
    return side_files.recognizes(root, ASAP)


def open(root: Path, mpp: float | None) -> Dataset:
    """List images with an ASAP file of the same name each; see ``side_files.open_side_files``."""
    return side_files.open_side_files(root, mpp, ASAP)


def read_drawing(path: Path) -> Drawing:
    """Read the nuclei of an ASAP file: polygons, rectangles, and splines, as polygons through their points."""
    root = read_xml(path)
    if root.tag != "ASAP_Annotations":
        raise HistomixError(refusal(path) or f"{path.name} is not of ASAP as the other files are; export it again.")
    groups = {class_name(group.get("Name")): _color(group.get("Color")) for group in root.iter("Group")}
    drawing = Drawing()
    splines = 0
    for number, annotation in enumerate(root.iterfind("Annotations/Annotation"), start=1):
        with naming(f"{path.name}, annotation {number}"):
            ring = _ring(annotation)
        kind = annotation.get("Type", "Polygon").strip()
        if kind.casefold() in ("dot", "pointset"):
            drawing.lost[POINT] += max(len(ring), 1)
        elif kind.casefold() == "measurement":
            drawing.lost[RULER] += 1
        elif kind.casefold() not in _AREAS:
            drawing.lost[unread(f"{kind[:40]!r}")] += 1
        elif kind.casefold() == "rectangle" and len(ring) == 2:
            drawing.shapes.append(_shape(annotation, box(ring), groups))
        elif len(ring) < 3:
            drawing.lost[too_few(ring)] += 1
        else:
            splines += kind.casefold() == "spline"
            drawing.shapes.append(_shape(annotation, ring, groups))
    if splines:
        which = (
            "1 spline was read as a polygon through its"
            if splines == 1
            else f"{splines:,} splines were read as polygons through their"
        )
        drawing.notes = (f"{which} points.",)
    return drawing


def _shape(annotation: ElementTree.Element, ring: Ring, groups: dict[str, Color | None]) -> Shape:
    name = class_name(annotation.get("PartOfGroup"))
    return Shape(((ring,),), name, (groups.get(name) or _color(annotation.get("Color"))) if name else None)


def _ring(annotation: ElementTree.Element) -> Ring:
    """The points of an annotation, in their order."""
    points = list(annotation.iterfind("Coordinates/Coordinate"))
    order = [whole_number(point.get("Order", "")) for point in points]
    ranks = [rank for rank in order if rank is not None]
    if len(ranks) == len(points):
        points = [points[place] for place in sorted(range(len(points)), key=ranks.__getitem__)]
    return vertices(points)


def _color(text: str | None) -> Color | None:
    """Red, green and blue of ``#F4FA58``."""
    match = _COLOR.fullmatch((text or "").strip())
    red, green, blue = bytes.fromhex(match[1]) if match else (0, 0, 0)
    return (red, green, blue) if match else None


ASAP = SideFiles({".xml": False}, MARK, ("asap", "annotations", "xml", "labels"), read_drawing)
