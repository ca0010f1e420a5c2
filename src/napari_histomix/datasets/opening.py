"""Open a folder of H&E images, whatever its format; the bundled sample; where a dataset lies as seen from an export."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import UnknownLayoutError, checked_mpp, read_json_object
from napari_histomix.datasets.formats import class_folders, recognized
from napari_histomix.datasets.formats.plain import NUCLEI_LAYOUTS, open_label_folders
from napari_histomix.datasets.synthetic import read_marks
from napari_histomix.records import HistomixError


def open_dataset(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open a folder of labeled nuclei; its format is recognized.

    Read are listings, JSON and CSV files, image headers where nothing else says the scale or whether an image is
    synthetic, and the types in ``.mat`` files where no ``type_info.json`` lists the classes.

    Formats are those of ``datasets.formats``. Among them are HoVer-Net/CoNSeP (``Images``, ``Labels/*.mat``,
    ``type_info.json``, optionally ``images.csv`` with the columns image, patient, slide, split, mpp, synthetic) and
    plain (``images``, ``labels`` with label images, ``types.csv`` with image, instance, type and optionally those
    columns, or images.csv too). Either may lie in subfolders ``Train``, ``Val``, ``Test``.

    Parameters
    ----------
    path : path
        The dataset's root.
    mpp : float, optional
        Micrometers per pixel of all images. Without it: the CSV, then ``dataset.json``, then the image's metadata.

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
    try:
        root = root.resolve()
        format = recognized(root)
        # A folder of no format may be half a dataset, of which the last reader says what is missing.
        dataset: Dataset = (open_label_folders if format is None else format.reader().open)(root, mpp)
        marks = read_marks(root, read_json_object(root / "dataset.json"))
        marked = {image for image, found in marks.items() if found}
        entries = tuple(
            replace(entry, synthetic=entry.synthetic or entry.source.image in marked) for entry in dataset.entries
        )
        return replace(dataset, entries=entries, marks=marks)
    except OSError as error:
        raise HistomixError(f"{root} cannot be read ({error.strerror or error}); check that you may open it.") from None


def open_tissue(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open images that carry one class each; the layout is recognized.

    Layouts: a CSV with the columns image (a path relative to the CSV, with or without suffix) and class, optionally
    patient, slide, split, mpp and synthetic; or one folder per class with its images (PNG, TIFF, JPEG), directly in the
    root or in subfolders ``Train``, ``Val``, ``Test``. A CSV with a class column decides alone, and folders it does not
    speak of are not read. One without it may stand beside class folders, for the other columns.

    Image names are ``class/stem`` in class folders, and the CSV's own path without suffix. Where two splits have an
    image of one name, the training split's keeps it and the others' begin with their split's folder.

    Parameters
    ----------
    path : path
        The dataset's root, or the CSV itself. In a root the CSV is ``images.csv``, or else the only CSV there.
    mpp : float, optional
        Micrometers per pixel of all images. Without it: the CSV, then ``dataset.json``, then the image's metadata.

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
        raise HistomixError(f"{given} {what}; choose the folder that holds the class folders, or a CSV.")
    try:
        return class_folders.open_table(given, mpp) if is_table else class_folders.open(given.resolve(), mpp)
    except OSError as error:
        raise HistomixError(
            f"{given} cannot be read ({error.strerror or error}); check that you may open it."
        ) from None


def open_any(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open labeled nuclei in any format, or images that carry one class each, whatever a folder holds.

    Parameters
    ----------
    path : path
        As for ``open_dataset`` or `open_tissue`.
    mpp : float, optional
        Micrometers per pixel of all images, where nothing else says it.

    Returns
    -------
    Dataset

    Raises
    ------
    HistomixError
        If the folder holds neither, or what it holds is broken.
    """
    given = Path(path).expanduser()
    if not given.is_dir():
        # A CSV, or nothing that can be opened.
        return open_tissue(given, mpp)
    try:
        return open_dataset(given, mpp)
    except UnknownLayoutError as no_nuclei:
        try:
            return open_tissue(given, mpp)
        except UnknownLayoutError:
            raise HistomixError(
                f"{given} holds neither labeled nuclei nor images with a class each; {NUCLEI_LAYOUTS}; "
                f"or {class_folders.LAYOUTS.removeprefix('expected ')}."
            ) from no_nuclei


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


HOMES = ("home", "users")
"""Folders that people's own folders lie in."""
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
    personal = passed & set(HOMES) or Path.home().name.casefold() in passed - {shared.name.casefold()}
    return "" if personal else way.as_posix()


def dataset_at(way: object, folder: Path) -> Path | None:
    """The folder that ``way_to`` led to from ``folder``; None where no way was told, or there is nothing any more."""
    if way == BUNDLED:
        return sample_folder()
    if (
        not isinstance(way, str)
        or not way
        or "\0" in way
        or PurePosixPath(way).is_absolute()
        or Path(way).is_absolute()
    ):
        return None
    found = Path(os.path.normpath(Path(folder).resolve() / PurePosixPath(way)))
    return found if found.is_dir() else None
