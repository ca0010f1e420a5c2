"""The formats of labeled images that others read and write, each a module of its own, listed here.

A format's module has any of these:

- ``recognizes(root: Path) -> bool``: whether a folder is of this format, by its listing and the first bytes of a file;
- ``open(root: Path, mpp: float | None) -> Dataset``: only a listing, with a ``Layout`` that reads image by image;
- ``Writer(folder: Path, name: str, classes: Sequence[NucleusClass])`` with ``add(image: LabeledImage, *,
  synthetic: bool) -> None`` and ``finish() -> None``: writes into a folder that is there and empty.

Readers raise HistomixError for whatever a file may hold, and nothing else; they never unpickle, and take no path from
a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from napari_histomix.records import HistomixError, LabeledImage, NucleusClass


class Writer(Protocol):
    """Writes labeled images in one format."""

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass]) -> None: ...

    def add(self, image: LabeledImage, *, synthetic: bool) -> None:
        """Write one image."""

    def finish(self) -> None:
        """Write what comes after all images."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format by its name on the command line and its title in a window."""

    name: str
    title: str
    module: str
    reads: bool = True
    writes: bool = True

    def reader(self) -> Any:
        """The module that reads it."""
        return import_module(f"{__name__}.{self.module}")

    def writer(self) -> type[Writer]:
        """The class that writes it."""
        found: type[Writer] = import_module(f"{__name__}.{self.module}").Writer
        return found


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("hovernet", "HoVer-Net, CoNSeP, GLySAC (.mat)", "hovernet_mat", reads=False),
        Format("hovernet-json", "HoVer-Net output (.json)", "hovernet_json"),
        Format("pannuke", "PanNuke (.npy)", "pannuke"),
        Format("aperio-xml", "MoNuSAC, MoNuSeg, Kumar (.xml)", "aperio_xml"),
        Format("qupath", "QuPath (GeoJSON)", "qupath"),
        Format("coco", "COCO instances", "coco"),
        Format("yolo", "YOLO segmentation", "yolo"),
        Format("tiff-pairs", "StarDist, Cellpose (TIFF pairs)", "tiff_pairs"),
        Format("ome-zarr", "OME-Zarr labels", "ome_zarr"),
        Format("plain", "Images, label images and a table", "plain_folder", reads=False),
    )
}
"""By name. HoVer-Net's layout and the plain one are read by ``datasets.opening``."""


def recognized(root: Path) -> Format | None:
    """The format of a folder; None if it is none of those that have a reader here."""
    return next((one for one in FORMATS.values() if one.reads and one.reader().recognizes(root)), None)


def format_of(name: str) -> Format:
    """A format by name.

    Raises
    ------
    HistomixError
        If there is none of that name; the message lists them.
    """
    if name not in FORMATS:
        raise HistomixError(f"'{name}' is not a format; choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]
