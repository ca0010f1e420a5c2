"""Label files of other tools that are not read, by their first bytes: what they are, and what to do instead."""

from __future__ import annotations

import re
from pathlib import Path

from napari_histomix.datasets.text_files import begins_with

LABEL_SUFFIXES = frozenset({".xml", ".json", ".ndpa", ".ndjson", ".roi", ".zip", ".qpdata", ".qpproj", ".h5", ".hdf5"})
"""What files are called that can be of these tools."""

_COCO = "export COCO with masks or polygons from it"
_QUPATH = "open the slide in QuPath and export the objects as GeoJSON"

FOREIGN: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"<annotations>\s*<ndpviewstate"), "an annotation of Hamamatsu's NDP.view", _QUPATH),
    (re.compile(rb"<annotations>\s*<(version|meta|image)\b"), "CVAT's own XML", "export COCO 1.0 from CVAT"),
    (re.compile(rb"<annotation(\s[^>]*)?>[^\0]*<bndbox>"), "Pascal VOC's XML of boxes", "export outlines"),
    (re.compile(rb"<annotation(\s[^>]*)?>"), "the XML of Pascal VOC or LabelMe", "convert it to COCO"),
    (re.compile(rb"<session\b[^>]*Sedeen"), "a session of Sedeen", _QUPATH),
    (re.compile(rb'"shapes"\s*:[^\0]*"points"|"imagePath"\s*:'), "LabelMe's JSON", "convert it to COCO"),
    (re.compile(rb'"_via_|"(shape|region)_attributes"\s*:'), "the JSON of the VGG Image Annotator", _COCO),
    (re.compile(rb'"from_name"\s*:|"to_name"\s*:'), "Label Studio's own JSON", _COCO),
    (re.compile(rb'"wsi_metadata"\s*:|"cell_status"\s*:'), "CellViT's own JSON", "let it write GeoJSON (--geojson)"),
    (re.compile(rb'"classTitle"\s*:'), "Supervisely's JSON", _COCO),
    (re.compile(rb'"schema_ref"\s*:\s*"https://darwin'), "the JSON of V7 Darwin", _COCO),
    (re.compile(rb'"data_row"\s*:'), "Labelbox's JSON", _COCO),
    (re.compile(rb"^Iout|^PK\x03\x04[^\0]*.{0,30}?\.roi", re.DOTALL), "ROIs of ImageJ", "save a label image from it"),
    (re.compile(rb"^\xac\xed\x00\x05|\"createTimestamp\"\s*:"), "QuPath's own data", "export the objects as GeoJSON"),
    (re.compile(rb"^\x89HDF\r\n"), "HDF5", "save images and label images from it"),
)
"""The first bytes of a file, what it is, and what to do; the first that fits counts."""


def refusal(path: Path) -> str:
    """Why a label file is not read, in a sentence, where it is known to be another tool's; else empty."""
    for mark, what, remedy in FOREIGN:
        if begins_with([path], mark):
            return f"{path.name} is {what}, which is not read; {remedy}."
    return ""
