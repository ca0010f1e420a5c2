"""HALO's annotations, one ``.annotations`` or ``.xml`` per image: a layer for each class, and its regions.

``<Annotations><Annotation Name="Tumor" LineColor="255"><Regions><Region Type="Polygon" NegativeROA="0"><Vertices>
<V X="…" Y="…"/>``. Rectangles and ellipses have two vertices, opposite corners of their box.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import Loss, unread
from napari_histomix.datasets.formats import side_files
from napari_histomix.datasets.formats.foreign import refusal
from napari_histomix.datasets.formats.polygons import Ring
from napari_histomix.datasets.formats.side_files import Color, Drawing, Shape, SideFiles, class_name
from napari_histomix.datasets.formats.xml_shapes import (
    ARROW,
    LINE,
    RULER,
    Holes,
    box,
    check_ellipses,
    ellipse,
    is_hole,
    too_few,
    vertices,
)
from napari_histomix.datasets.text_files import naming, read_xml
from napari_histomix.records import HistomixError

MARK = re.compile(
    rb'<V\s+[XY]=|<Region\s[^<>]{0,300}?\bType="[A-Za-z]|<Annotation\s[^<>]{0,300}?\bVisible="(True|False)"'
)
_WITHOUT_AREA: dict[str, Loss] = {
    "ruler": RULER,
    "arrow": ARROW,
    "line": LINE,
    "polyline": LINE,
    "pin": unread("a pin"),
    "text": unread("a text"),
}


def recognizes(root: Path) -> bool:
    """Whether there are HALO's files beside images."""
    return side_files.recognizes(root, HALO)


def open(root: Path, mpp: float | None) -> Dataset:
    """List images with a HALO file of the same name each; see ``side_files.open_side_files``."""
    return side_files.open_side_files(root, mpp, HALO)


def read_drawing(path: Path) -> Drawing:
    """Read the nuclei of a HALO file; negative regions are holes of those of their layer that they lie in."""
    root = read_xml(path)
    if root.tag != "Annotations" or next(root.iter("Vertex"), None) is not None:
        raise HistomixError(refusal(path) or f"{path.name} is not of HALO as the other files are; export it again.")
    with naming(path.name):
        check_ellipses(root, "ellipse")
    drawing = Drawing()
    for layer in root.iter("Annotation"):
        name, color = class_name(layer.get("Name")), _color(layer.get("LineColor"))
        rings: list[Ring] = []
        holes: list[Ring] = []
        for number, region in enumerate(layer.iter("Region"), start=1):
            with naming(f"{path.name}, {name[:80] or 'layer without a name'}, region {number}"):
                ring = _outline(region)
            if not is_hole(region):
                if isinstance(ring, tuple):
                    drawing.lost[ring] += 1
                else:
                    rings.append(ring)
            elif not isinstance(ring, tuple):
                holes.append(ring)
        with naming(path.name):
            negative = Holes(holes)
        drawing.shapes += [Shape(((ring, *negative.within(ring)),), name, color if name else None) for ring in rings]
    return drawing


def _outline(region: ElementTree.Element) -> Ring | Loss:
    """The outline of a region, or why it has none."""
    kind, ring = region.get("Type", "Polygon").strip().casefold(), vertices(region.iter("V"))
    if kind in _WITHOUT_AREA:
        return _WITHOUT_AREA[kind]
    if len(ring) == 2 and kind in ("rectangle", "ellipse"):
        return box(ring) if kind == "rectangle" else ellipse(ring)
    return ring if len(ring) > 2 else too_few(ring)


def _color(text: str | None) -> Color | None:
    """Red, green and blue of a number with blue in the highest byte."""
    text = (text or "").strip()
    packed = int(text) if text.isdecimal() and len(text) <= 10 else -1
    return (packed & 255, packed >> 8 & 255, packed >> 16 & 255) if packed >= 0 else None


HALO = SideFiles({".annotations": True, ".xml": False}, MARK, ("halo", "annotations", "xml", "labels"), read_drawing)
