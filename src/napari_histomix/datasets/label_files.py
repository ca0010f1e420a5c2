"""One label file by itself, as people drag it in: QuPath's GeoJSON, HoVer-Net's JSON and MATLAB files, Aperio's XML."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    checked_mpp,
    files_by_stem,
    numbered_classes,
    read_json_object,
    read_type_info,
)
from napari_histomix.datasets.formats import format_of
from napari_histomix.datasets.formats.mat_files import read_mat
from napari_histomix.datasets.formats.polygons import FARTHEST
from napari_histomix.datasets.formats.qupath import read_features
from napari_histomix.datasets.formats.reading import begins_with, check_size, read_json, read_xml
from napari_histomix.datasets.listing import subfolder
from napari_histomix.datasets.pixels import read_mpp
from napari_histomix.records import HistomixError, NucleusClass

IMAGE_FOLDERS = ("images", "tissue images")
"""Where images lie that are not beside their labels, upper or lower case."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelFile:
    """The nuclei of one image.

    Parameters
    ----------
    name : str
        Of the image.
    instances : (H, W) int32
        Of the size of the image where that lies beside it; else as large as the nuclei reach.
    types : mapping of int to int
        Class number of every instance.
    classes : tuple of NucleusClass
    mpp : float, optional
        µm per pixel; None where nothing says it.
    """

    name: str
    instances: NDArray[np.int32]
    types: Mapping[int, int]
    classes: tuple[NucleusClass, ...]
    mpp: float | None


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of file is recognized, where it and its image lie in its format's folder, and how far it reaches."""

    format: str
    suffixes: frozenset[str]
    mark: re.Pattern[bytes]
    labels: str
    image: str
    corners: Callable[[Path], Iterator[NDArray[np.float64]]]


def _geojson_corners(path: Path) -> Iterator[NDArray[np.float64]]:
    for feature in read_features(path):
        yield from feature.rings


def _contours(path: Path) -> Iterator[NDArray[np.float64]]:
    content = read_json(path)
    nuclei = content.get("nuc") if isinstance(content, dict) else None
    for nucleus in nuclei.values() if isinstance(nuclei, dict) else ():
        # A contour runs through the centers of pixels, which reach one farther.
        yield _points(nucleus.get("contour") if isinstance(nucleus, dict) else None) + 1


def _vertices(path: Path) -> Iterator[NDArray[np.float64]]:
    yield _points([(one.get("X"), one.get("Y")) for one in read_xml(path).iter("Vertex")])


def _points(said: Any) -> NDArray[np.float64]:
    """Corners of what may be a list of them; what it is instead, the format's own reader says."""
    try:
        points = np.asarray(said, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return np.zeros((0, 2))
    return points[np.isfinite(points).all(axis=1)]


_KINDS = (
    _Kind(
        "qupath",
        frozenset({".geojson", ".json"}),
        re.compile(rb'"(Feature|FeatureCollection)"'),
        "{name}.geojson",
        "{name}.png",
        _geojson_corners,
    ),
    _Kind(
        "hovernet-json",
        frozenset({".json"}),
        re.compile(rb'"(mag|nuc)"\s*:'),
        "json/{name}.json",
        "images/{name}.png",
        _contours,
    ),
    _Kind("aperio-xml", frozenset({".xml"}), re.compile(rb"<Annotations"), "{name}.xml", "{name}.png", _vertices),
)
_MAT, _MAT_MARK = ".mat", re.compile(rb"^MATLAB 5\.0 MAT-file")


def is_label_file(path: Path) -> bool:
    """Whether a file is one that can be read, by its name and its first bytes, or looks like a damaged one."""
    try:
        if not path.is_file():
            return False
        if path.suffix.casefold() == _MAT:
            return begins_with([path], _MAT_MARK) and _holds_instances(path)
        return _kind_of(path) is not None
    except OSError:
        return False


def _holds_instances(path: Path) -> bool:
    try:
        return any(name == "inst_map" for name, _, _ in scipy.io.whosmat(path))
    except Exception:  # scipy raises anything on a damaged file; reading it says in a sentence what is wrong
        return True


def _kind_of(path: Path) -> _Kind | None:
    fitting = (one for one in _KINDS if path.suffix.casefold() in one.suffixes)
    return next((one for one in fitting if begins_with([path], one.mark)), None)


def read_label_file(path: Path, shape: tuple[int, int] | None = None) -> LabelFile:
    """Read the nuclei of one image from its label file.

    Size and scale are those of an image of the same name beside it, or in a folder ``images`` beside its own. Classes
    and their colors are the file's; where it only numbers them, those of a ``type_info.json`` nearby.

    Parameters
    ----------
    path : Path
    shape : (H, W), optional
        Of the image, where it is known.

    Raises
    ------
    HistomixError
        If the file is damaged or of no kind that is read, or its nuclei reach too far for an image.
    """
    path = Path(path)
    image = _image_of(path)
    mpp = _scale(path, image)
    if path.suffix.casefold() == _MAT:
        instances, types = read_mat(path)
        info = _nearby(path, "type_info.json")
        listed = read_type_info(info) if info is not None else ()
        return LabelFile(path.stem, instances, types, listed or numbered_classes(set(types.values())), mpp)
    kind = _kind_of(path)
    if kind is None:
        raise HistomixError(f"{path.name} is no label file of QuPath, HoVer-Net or Aperio; open another.")
    shape = shape or _shape(path, kind, image)
    check_size(shape, path.name)
    # The format's own reader reads folders, so the file gets one, with an image of a single pixel.
    with tempfile.TemporaryDirectory(prefix="histomix-") as folder:
        root = Path(folder)
        labels, pixels = (root / place.format(name=path.stem) for place in (kind.labels, kind.image))
        for one in (labels, pixels):
            one.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, labels)
        Image.new("RGB", (1, 1)).save(pixels)
        if (info := _nearby(path, "type_info.json")) is not None:
            shutil.copyfile(info, root / info.name)
        try:
            dataset = format_of(kind.format).reader().open(root, 1.0)
            instances, types, *_ = dataset.layout.labels(dataset.entries[0], shape)
        except HistomixError as error:
            # What is wrong with the folder is of no interest.
            raise HistomixError(str(error).rpartition("; the first: ")[2]) from None
    return LabelFile(path.stem, instances, types, dataset.classes, mpp)


def _shape(path: Path, kind: _Kind, image: Path | None) -> tuple[int, int]:
    """Height and width of the image; where there is none, of what the nuclei reach."""
    if image is not None:
        with suppress(Exception), Image.open(image) as opened:  # a damaged image says nothing, whatever Pillow raises
            return opened.height, opened.width
    reach = np.array([1.0, 1.0])
    for points in kind.corners(path):
        reach = np.max([reach, *np.ceil(points)], axis=0)
    cols, rows = np.minimum(reach, FARTHEST).astype(int).tolist()
    return rows, cols


def _image_of(path: Path) -> Path | None:
    """The image that a label file belongs to, if it lies where it is looked for."""
    # QuPath writes a.png.geojson where a.png was open.
    stems = {path.stem, Path(path.stem).stem if Path(path.stem).suffix.casefold() in IMAGE_SUFFIXES else path.stem}
    folders = [path.parent, *(one for one in (subfolder(path.parent.parent, name) for name in IMAGE_FOLDERS) if one)]
    for folder in folders:
        found = files_by_stem(folder, IMAGE_SUFFIXES, [])
        for stem in stems & found.keys():
            return found[stem]
    return None


def _nearby(path: Path, name: str) -> Path | None:
    """A small file beside a label file, or beside its folder."""
    return next((folder / name for folder in path.parents[:2] if (folder / name).is_file()), None)


def _scale(path: Path, image: Path | None) -> float | None:
    described = _nearby(path, "dataset.json")
    said = read_json_object(described).get("mpp") if described is not None else None
    if described is not None and said is not None:
        return checked_mpp(said, f"dataset.json in {described.parent}")
    return read_mpp(image) if image is not None else None
