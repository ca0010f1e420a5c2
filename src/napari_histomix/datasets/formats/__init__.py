"""The formats of labeled images that others read and write, each a module of its own, listed here.

A format's module has any of these:

- ``recognizes(root: Path) -> bool``: whether a folder is of this format, by its listing and the first bytes of a file;
- ``open(root: Path, mpp: float | None) -> Dataset``: only a listing, with ``ImageFiles`` that read image by image;
- ``Writer``, an heir of ``datasets.writing.ImageWriter``; ``datasets.dataset_writer.WrittenDataset`` adds what all
  formats share.

Readers raise HistomixError for whatever a file may hold, and nothing else; they never unpickle, and take no path from
a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from napari_histomix.records import HistomixError


@dataclass(frozen=True, slots=True)
class Format:
    """A format by its name on the command line and its title in a window.

    ``holds`` says what its images have: labeled nuclei, or a class each as a whole (kinds).
    """

    name: str
    title: str
    module: str
    holds: Literal["nuclei", "kinds"] = "nuclei"
    writes: bool = True

    def reader(self) -> Any:
        """The module that reads it."""
        return import_module(f"{__name__}.{self.module}")

    def writer(self) -> Any:
        """The class that writes it."""
        return self.reader().Writer


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("hovernet", "HoVer-Net, CoNSeP, GLySAC (.mat)", "hovernet"),
        Format("hovernet-json", "HoVer-Net output (.json)", "hovernet_json"),
        Format("pannuke", "PanNuke (.npy)", "pannuke"),
        Format("aperio-xml", "Aperio ImageScope, MoNuSAC, MoNuSeg, Kumar (.xml)", "aperio_xml"),
        Format("asap-xml", "ASAP (.xml)", "asap_xml", writes=False),
        Format("halo-xml", "HALO (.annotations, .xml)", "halo_xml", writes=False),
        Format("qupath", "QuPath (GeoJSON)", "qupath"),
        Format("coco", "COCO instances", "coco"),
        Format("yolo", "YOLO segmentation", "yolo"),
        Format("tiff-pairs", "StarDist, Cellpose (TIFF pairs)", "tiff_pairs"),
        Format("ome-zarr", "OME-Zarr labels", "ome_zarr"),
        Format("plain", "Images and label images", "plain"),
        Format("class-folders", "Class folders", "class_folders", holds="kinds"),
    )
}
"""By name, in the order in which they are tried: the plain layout takes what no other has recognized."""


CLASS_FOLDERS = "class-folders"
"""The format of images that have a class each."""


def recognized(root: Path) -> Format | None:
    """The format of a folder among those that hold nuclei; None if it is none of them."""
    candidates = (format for format in FORMATS.values() if format.holds == "nuclei")
    return next((format for format in candidates if format.reader().recognizes(root)), None)


def format_of(name: str) -> Format:
    """A format by name."""
    if name not in FORMATS:
        raise HistomixError(f"'{name}' is not a format; choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]
