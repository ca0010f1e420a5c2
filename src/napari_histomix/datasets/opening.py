"""Open a folder of H&E images whatever its format, the bundled sample, or a label file by itself."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets.dataset import Dataset, read_marks
from napari_histomix.datasets.entries import (
    TABLE,
    UnknownLayoutError,
    checked_mpp,
    lost_objects,
    numbered_classes,
    read_json_object,
    read_type_info,
)
from napari_histomix.datasets.formats import (
    CLASS_FOLDERS,
    Format,
    aperio_xml,
    asap_xml,
    class_folders,
    halo_xml,
    hovernet_json,
    qupath,
    recognized,
)
from napari_histomix.datasets.formats.foreign import refusal
from napari_histomix.datasets.formats.mat_files import LIZARD, read_mat, read_mat_types
from napari_histomix.datasets.formats.polygons import FARTHEST
from napari_histomix.datasets.formats.side_files import HEAD, IMAGE_FOLDERS, SideFiles
from napari_histomix.datasets.formats.unrecognized import are_deeper, deeper, is_half, why_unknown
from napari_histomix.datasets.formats.xml_shapes import vertices
from napari_histomix.datasets.listing import IMAGE_SUFFIXES, files_by_stem, find_table, subfolder
from napari_histomix.datasets.names import Lookup
from napari_histomix.datasets.pixels import orientation_of, read_mpp
from napari_histomix.datasets.text_files import begins_with, check_size, naming, read_json, read_xml, readable
from napari_histomix.records import HistomixError, NucleusClass


def open_dataset(path: Path | str, mpp: float | None = None, *, split_parts: bool = False) -> Dataset:
    """Open a folder of labeled nuclei; its format is recognized.

    Read are listings, JSON and CSV files, image headers where nothing else says the scale or whether an image is
    synthetic, and the types in ``.mat`` files where no ``type_info.json`` lists the classes.

    Formats are those of ``datasets.formats``. Among them are HoVer-Net/CoNSeP (``Images``, ``Labels/*.mat``,
    ``type_info.json``, optionally ``images.csv`` with the columns image, patient, slide, split, mpp, synthetic) and
    plain (``images``, ``labels`` with label images, ``types.csv`` with image, instance, type and optionally those
    columns, or images.csv too). Either may lie in subfolders ``Train``, ``Val``, ``Test``, under other names such as
    ``imgs`` and ``gt``, or in one folder. ``Dataset.format`` says what the folder was taken for.

    Parameters
    ----------
    path : path
        The dataset's root.
    mpp : float, optional
        Micrometers per pixel of all images. Without it: the CSV, then ``dataset.json``, then the image's metadata.
    split_parts : bool
        Read each connected part of an instance as a nucleus of its own, as masks without ids need it. Without it:
        ``split_parts`` in ``dataset.json``, which is true or false.

    Raises
    ------
    HistomixError
        If the folder is missing, of no format, or half a dataset, or one of its JSON or CSV files is broken.
    """
    root = Path(path).expanduser()
    if mpp is not None:
        checked_mpp(mpp, "The scale given")
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise HistomixError(f"{root} {what}; choose the folder that holds the images and the labels.")
    with readable(root):
        return _nuclei(root.resolve(), recognized(root.resolve()), mpp, split_parts)


def _nuclei(root: Path, format: Format | None, mpp: float | None, split_parts: bool) -> Dataset:
    if format is None:
        raise why_unknown(root)
    dataset: Dataset = format.reader().open(root, mpp)
    described = read_json_object(root / "dataset.json")
    marks = read_marks(root, described)
    split_parts = split_parts or described.get("split_parts") is True
    entries = tuple(
        replace(entry, synthetic=entry.synthetic or bool(marks.get(entry.source.image))) for entry in dataset.entries
    )
    return replace(dataset, entries=entries, marks=marks, split_parts=split_parts, format=format.name)


def open_tissue(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open images that carry one class each; the layout is recognized.

    Layouts: a CSV with the columns image (a path relative to the CSV, with or without suffix) and class, optionally
    patient, slide, split, mpp and synthetic; or one folder per class with its images (PNG, TIFF, JPEG), directly in the
    root or in subfolders ``Train``, ``Val``, ``Test``. A CSV with a class column decides alone, and folders it does not
    speak of are not read. One without it may stand beside class folders, for the other columns.

    Image names are ``class/stem`` in class folders, and the CSV's own path without suffix. Where two splits have an
    image of one name, the training split's keeps it and the others' begin with their split's folder.

    ``path`` is the dataset's root, or the CSV itself; in a root the CSV is ``images.csv``, or else the only CSV there.
    ``mpp`` counts as in `open_dataset`.

    Raises
    ------
    HistomixError
        If the path is missing or of neither layout, the folder is a dataset of labeled nuclei, one of its JSON or CSV
        files is broken, or no image could be used.
    """
    given = Path(path).expanduser()
    if mpp is not None:
        mpp = checked_mpp(mpp, "The scale given")
    is_table = given.is_file() and given.suffix.casefold() == ".csv"
    if not is_table and not given.is_dir():
        what = "is a file but no CSV" if given.exists() else "does not exist"
        raise HistomixError(f"{given} {what}; choose the folder of the dataset, or a CSV of images and classes.")
    with readable(given):
        root = given.parent if is_table else given
        dataset = class_folders.open(root.resolve(), mpp, given if is_table else None)
        return replace(dataset, format=CLASS_FOLDERS)


def open_any(path: Path | str, mpp: float | None = None, *, split_parts: bool = False) -> Dataset:
    """Open labeled nuclei in any format, or images that carry one class each, whatever a folder holds.

    Parameters
    ----------
    path : path
        As for ``open_dataset`` or `open_tissue`.
    mpp : float, optional
        Micrometers per pixel of all images, where nothing else says it.
    split_parts : bool
        As for ``open_dataset``.

    Returns
    -------
    Dataset

    Raises
    ------
    HistomixError
        If the folder holds neither, or what it holds is broken.

    Examples
    --------
    >>> len(open_any(sample_folder()).entries)
    5
    """
    given = Path(path).expanduser()
    if not given.is_dir():
        # A CSV, or nothing that can be opened.
        return open_tissue(given, mpp)
    with readable(given):
        root = given.resolve()
        format = recognized(root)
        if format is not None or is_half(root):
            if mpp is not None:
                checked_mpp(mpp, "The scale given")
            return _nuclei(root, format, mpp, split_parts)
        unknown_to_both = f"; or {class_folders.LAYOUTS.removeprefix('expected ')}"
        if find_table(root, TABLE)[0] is None and are_deeper(root):
            raise why_unknown(root, unknown_to_both)
        try:
            return open_tissue(given, mpp)
        except HistomixError as error:
            if not isinstance(error, UnknownLayoutError) and not deeper(root):
                raise
            raise why_unknown(root, unknown_to_both) from None


SAMPLE_RARE = "lymphocyte"
"""The class to grow in the sample."""

SAMPLE_MAJORS = ("tumor", "stromal")
"""The classes a new lymphocyte may replace in the sample."""


def sample_folder() -> Path:
    """The folder of the bundled sample, in the HoVer-Net layout."""
    return Path(__file__).resolve().parent / "sample"


def load_sample() -> Dataset:
    """Open the bundled sample; see its NOTICE for where it comes from.

    Returns
    -------
    Dataset
        0.5 µm per pixel, with the classes lymphocyte (rare), tumor and stromal.

    Examples
    --------
    >>> [known.name for known in load_sample().classes]
    ['lymphocyte', 'tumor', 'stromal']
    """
    return open_dataset(sample_folder())


BUNDLED = "histomix:sample"
"""Stands for the bundled sample, wherever the package is installed."""


def way_to(root: Path, folder: Path) -> str:
    """The way from a folder to a dataset's root, for a file in that folder; empty where it may not be told.

    It is relative, and it is not told where it would pass through a person's own folder: exports travel, and such a way
    names people.
    """
    root, folder = Path(root).resolve(), Path(folder).resolve()
    if root == sample_folder():
        return BUNDLED
    try:
        shared, way = Path(os.path.commonpath([root, folder])), Path(os.path.relpath(root, folder))
    except ValueError:  # Windows knows no way from one drive to another
        return ""
    passed = {part.casefold() for part in (shared.name, *way.parts)}
    # Folders in "home" and "users" are people's own.
    personal = passed & {"home", "users"} or Path.home().name.casefold() in passed - {shared.name.casefold()}
    return "" if personal else way.as_posix()


def dataset_at(way: object, folder: Path) -> Path | None:
    """The folder that ``way_to`` led to from ``folder``; None where no way was told, or there is nothing any more."""
    if way == BUNDLED:
        return sample_folder()
    if not isinstance(way, str) or not way or "\0" in way:
        return None
    if PurePosixPath(way).is_absolute() or Path(way).is_absolute():
        return None
    root = Path(os.path.normpath(Path(folder).resolve() / PurePosixPath(way)))
    return root if root.is_dir() else None


@dataclass(frozen=True, slots=True, eq=False)
class LabelFile:
    """The nuclei of one image, whose name it has."""

    name: str
    instances: NDArray[np.int32]  # of the image's size where that lies beside it; else as large as the nuclei reach
    types: Mapping[int, int]
    classes: tuple[NucleusClass, ...]
    mpp: float | None  # None where nothing says it
    notes: tuple[str, ...] = ()  # what a person should know, in sentences


@dataclass(frozen=True, slots=True)
class _Kind:
    """The format of a kind of file, the folders where it and its image lie, and how far its nuclei reach."""

    format: ModuleType
    suffixes: tuple[str, ...]
    corners: Callable[[Path], Iterator[NDArray[np.float64]]]
    labels: str = "."
    images: str = "."


def _corners_by(kind: SideFiles) -> Callable[[Path], Iterator[NDArray[np.float64]]]:
    """How far the nuclei of such a file reach."""

    def corners(path: Path) -> Iterator[NDArray[np.float64]]:
        for shape in kind.read(path).shapes:
            yield from shape.rings

    return corners


def _contours(path: Path) -> Iterator[NDArray[np.float64]]:
    content = read_json(path)
    nuclei = content.get("nuc") if isinstance(content, dict) else None
    for nucleus in nuclei.values() if isinstance(nuclei, dict) else ():
        # A contour runs through the centers of pixels, which reach one farther.
        yield _points(nucleus.get("contour") if isinstance(nucleus, dict) else None) + 1


def _vertices(path: Path) -> Iterator[NDArray[np.float64]]:
    with naming(path.name):
        for region in read_xml(path).iter("Region"):
            yield vertices(region.iter("Vertex"))


def _points(content: Any) -> NDArray[np.float64]:
    """Corners of what may be a list of them; what it is instead, the format's own reader says."""
    try:
        points = np.asarray(content, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return np.zeros((0, 2))
    return points[np.isfinite(points).all(axis=1)]


_KINDS = (
    _Kind(qupath, (".geojson", ".json"), _corners_by(qupath.GEOJSON)),
    _Kind(hovernet_json, (".json",), _contours, "json", "images"),
    _Kind(aperio_xml, (".xml",), _vertices),
    _Kind(asap_xml, (".xml",), _corners_by(asap_xml.ASAP)),
    _Kind(halo_xml, (".xml", ".annotations"), _corners_by(halo_xml.HALO)),
)
_GZIP = ".gz"
_MAT, _MAT_MARK = ".mat", re.compile(rb"^MATLAB 5\.0 MAT-file")


def is_label_file(path: Path) -> bool:
    """Whether a file is one that can be read, by its name and its first bytes, or looks like a damaged one."""
    try:
        if not path.is_file():
            return False
        if path.suffix.casefold() != _MAT:
            return _kind_of(path) is not None
        if not begins_with([path], _MAT_MARK):
            return False
    except OSError:
        return False
    with suppress(Exception):  # scipy raises anything on a damaged file; reading it says in a sentence what is wrong
        return any(name == "inst_map" for name, _, _ in scipy.io.whosmat(path))
    return True


def _kind_of(path: Path) -> _Kind | None:
    suffix = PurePath(path.stem if path.suffix.casefold() == _GZIP else path.name).suffix.casefold()
    fitting = (kind for kind in _KINDS if suffix in kind.suffixes)
    return next((kind for kind in fitting if begins_with([path], kind.format.MARK, HEAD)), None)


def label_name(path: Path) -> str:
    """The name of a label file without its suffixes."""
    return PurePath(path.stem).stem if path.suffix.casefold() == _GZIP else path.stem


def read_label_file(path: Path, shape: tuple[int, int] | None = None) -> LabelFile:
    """Read the nuclei of one image from its label file.

    Size and scale are those of an image of the same name beside it, or in a folder ``images`` beside its own. Classes
    and their colors are the file's; where it only numbers them, those of a ``type_info.json`` nearby.
    """
    path = Path(path)
    image = _image_of(path)
    mpp = _scale(path, image)
    if path.suffix.casefold() == _MAT:
        nuclei = read_mat(path)
        info = _nearby(path, "type_info.json")
        classes = read_type_info(info) if info is not None else ()
        if not classes:
            numbers, is_lizard = read_mat_types(path)
            classes = LIZARD if is_lizard else numbered_classes(numbers)
        return LabelFile(path.stem, nuclei.instances, nuclei.types, classes, mpp)
    kind = _kind_of(path)
    if kind is None:
        readable_tools = "QuPath, HoVer-Net, Aperio, ASAP or HALO"
        raise HistomixError(refusal(path) or f"{path.name} is no label file of {readable_tools}; open another.")
    shape, name = shape or _shape(path, kind, image), label_name(path)
    check_size(shape, path.name)
    # The format's own reader reads folders, so the file gets one, with an image of a single pixel.
    with tempfile.TemporaryDirectory(prefix="histomix-") as folder:
        root = Path(folder)
        file, pixels = root / kind.labels / path.name, root / kind.images / f"{name}.png"
        for place in (file, pixels):
            place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, file)
        Image.new("RGB", (1, 1)).save(pixels)
        if (info := _nearby(path, "type_info.json")) is not None:
            shutil.copyfile(info, root / info.name)
        try:
            dataset = kind.format.open(root, 1.0)
            labels = dataset.files.labels(dataset.entries[0], shape)
            lost = lost_objects(labels.lost, len(labels.types))
        except HistomixError as error:
            # What is wrong with the folder is of no interest.
            raise HistomixError(str(error).rpartition("; the first: ")[2]) from None
    types = {number: known or dataset.unclassified.number for number, known in labels.types.items()}
    classes = dataset.classes if all(labels.types.values()) else dataset.all_classes
    notes = ((lost,) if lost else ()) + labels.notes
    return LabelFile(name, labels.instances, types, classes, mpp, notes)


def _shape(path: Path, kind: _Kind, image: Path | None) -> tuple[int, int]:
    """Height and width of the image; where there is none, of what the nuclei reach."""
    if image is not None:
        with suppress(Exception), Image.open(image) as opened:  # a damaged image says nothing, whatever Pillow raises
            return (opened.width, opened.height) if orientation_of(image) > 4 else (opened.height, opened.width)
    reach = np.array([1.0, 1.0])
    for points in kind.corners(path):
        reach = np.max([reach, *np.ceil(points)], axis=0)
    cols, rows = np.minimum(reach, FARTHEST).astype(int).tolist()
    return rows, cols


def _image_of(path: Path) -> Path | None:
    """The image that a label file belongs to, if it lies where it is looked for."""
    # QuPath writes a.png.geojson where a.png was open.
    stem = label_name(path)
    stems = [stem, *([PurePath(stem).stem] if PurePath(stem).suffix.casefold() in IMAGE_SUFFIXES else [])]
    for folder in (path.parent, *(subfolder(path.parent.parent, name) for name in IMAGE_FOLDERS)):
        images = Lookup(files_by_stem(folder, IMAGE_SUFFIXES, []) if folder else {})
        for name in stems:
            if (image := images.get(name)) is not None:
                return image
    return None


def _nearby(path: Path, name: str) -> Path | None:
    """A small file beside a label file, or beside its folder."""
    return next((folder / name for folder in path.parents[:2] if (folder / name).is_file()), None)


def _scale(path: Path, image: Path | None) -> float | None:
    file = _nearby(path, "dataset.json")
    if file is not None and (mpp := read_json_object(file).get("mpp")) is not None:
        return checked_mpp(mpp, f"dataset.json in {file.parent}")
    return None if image is None else read_mpp(image)
