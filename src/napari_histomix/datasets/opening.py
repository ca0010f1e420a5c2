"""Open a folder of labeled H&E images: recognize its layout, list its images, find out their scale and classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_histomix.datasets import hovernet, plain
from napari_histomix.datasets.dataset import Dataset, LabelFiles
from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAT_SUFFIXES,
    Entry,
    Problem,
    Row,
    Section,
    UnknownLayoutError,
    about,
    checked_mpp,
    files_by_stem,
    natural_key,
    numbered_classes,
    read_json_object,
    read_type_info,
    split_name,
)
from napari_histomix.datasets.formats import recognized
from napari_histomix.datasets.listing import (
    SPLIT_FOLDERS,
    TABLE,
    dataset_name,
    entry_of,
    in_order,
    matched,
    nothing_left,
    read_rows,
    subfolder,
)
from napari_histomix.records import HistomixError, NucleusClass

NUCLEI_LAYOUTS = (
    "expected the folders Images and Labels with one .mat per image (HoVer-Net, CoNSeP), "
    "or images and labels with one label image per image and a types.csv"
)


def open_dataset(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open a folder of labeled images; its layout is recognized.

    Read are listings, JSON and CSV files, image headers where nothing else says the scale, and the types in
    ``.mat`` files where no ``type_info.json`` lists the classes.

    Layouts: HoVer-Net/CoNSeP (``Images``, ``Labels/*.mat``, ``type_info.json``, optionally ``images.csv`` with
    the columns image, patient, slide, split, mpp) and plain (``images``, ``labels`` with label images, ``types.csv``
    with image, instance, type and optionally those columns, or images.csv too). Either may lie in subfolders ``Train``,
    ``Val``, ``Test``.

    Parameters
    ----------
    path : path
        The dataset's root.
    mpp : float, optional
        Micrometers per pixel of all images. Without it: the CSV, then ``dataset.json``, then the image's metadata.

    Raises
    ------
    HistomixError
        If the folder is missing, of neither layout, or half a dataset, or one of its JSON or CSV files is broken.
    """
    root = Path(path).expanduser()
    if mpp is not None:
        checked_mpp(mpp, "The scale given")
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise HistomixError(f"{root} {what}; choose the folder that holds the images and the labels.")
    try:
        return _open(root.resolve(), mpp)
    except OSError as error:
        raise HistomixError(f"{root} cannot be read ({error.strerror or error}); check that you may open it.") from None


def _open(root: Path, mpp: float | None) -> Dataset:
    if (found := recognized(root)) is not None:
        return found.reader().open(root, mpp)
    return open_files(root, mpp)


def open_files(root: Path, mpp: float | None) -> Dataset:
    """Open HoVer-Net's layout or the plain one."""
    sections = _sections(root)
    problems: list[Problem] = []
    described = read_json_object(root / "dataset.json")
    parts = [_Part(section, root, described, mpp, problems) for section in sections]
    classes = _classes(root, parts, problems)
    entries: dict[str, Entry] = {}
    listed: dict[str, dict[int, int]] = {}
    for part in parts:
        for image, entry in part.entries().items():
            if image in entries:
                raise HistomixError(
                    f"{root} has two images named {image!r} in different splits; rename one, and its labels with it."
                )
            if part.is_plain:
                try:
                    listed[image] = plain.types_by_number(part.rows.get(image, Row()).types, classes)
                except HistomixError as error:
                    problems.append(Problem(image, about(image, error)))
                    continue
            entries[image] = entry
    if not entries:
        raise nothing_left(root, problems)
    ordered = in_order(list(entries.values()))
    return Dataset(dataset_name(root, described), root, classes, ordered, tuple(problems), LabelFiles(listed))


def _sections(root: Path) -> list[Section]:
    section = _section(root, "")
    if section:
        return [section]
    subfolders = [path for path in sorted(root.iterdir()) if path.name.casefold() in SPLIT_FOLDERS and path.is_dir()]
    sections = [found for path in subfolders if (found := _section(path, split_name(path.name)))]
    if sections:
        return sections
    if root.name.casefold() in ("images", "labels") and _section(root.parent, ""):
        raise HistomixError(f"{root} is one half of a dataset; choose the folder it lies in, {root.parent}.")
    files = [path.suffix.casefold() for path in root.iterdir() if path.is_file()]
    if any(suffix in IMAGE_SUFFIXES for suffix in files):
        raise UnknownLayoutError(f"{root} holds images but no labels folder; {NUCLEI_LAYOUTS}.")
    raise UnknownLayoutError(f"{root} holds no labeled images; {NUCLEI_LAYOUTS}.")


def _section(folder: Path, split: str) -> Section | None:
    images, labels = subfolder(folder, "images"), subfolder(folder, "labels")
    if images is None and labels is None:
        return None
    if labels is None:
        raise HistomixError(f"{folder} has images but no folder Labels; put the label files there.")
    if images is None:
        raise HistomixError(f"{folder} has labels but no folder Images; put the images there.")
    return Section(folder, images, labels, split)


class _Part:
    """A section while it is being opened: its files and what the small files beside them say."""

    def __init__(
        self, section: Section, root: Path, described: Mapping[str, Any], mpp: float | None, problems: list[Problem]
    ) -> None:
        self.section, self.mpp, self.problems = section, mpp, problems
        self.described = dict(described)
        if section.folder != root:
            # What lies nearer to the images says it better.
            self.described |= read_json_object(section.folder / "dataset.json")
        self.dataset_name = dataset_name(root, described)
        before = len(problems)
        self.images = files_by_stem(section.images_folder, IMAGE_SUFFIXES, problems)
        self.labels = files_by_stem(section.labels_folder, MAT_SUFFIXES, problems, "label")
        self.is_plain = not self.labels
        if self.is_plain:
            self.labels = files_by_stem(section.labels_folder, LABEL_SUFFIXES, problems, "label")
        reported = {problem.image for problem in problems[before:]}
        self._match(reported)
        self.rows = self._rows()

    def _match(self, reported: set[str]) -> None:
        images, labels, folder = self.images, self.labels, self.section.folder
        if not images and not labels and not reported:
            raise HistomixError(f"{folder} has no images (PNG, TIFF or JPEG) and no labels in its folders; add them.")
        if not images and not reported:
            raise HistomixError(f"{self.section.images_folder} has no images (PNG, TIFF or JPEG); put them there.")
        if not labels and not reported:
            raise HistomixError(f"{self.section.labels_folder} has no label files (.mat, PNG or TIFF); put them there.")
        if images and labels and not images.keys() & labels.keys():
            raise HistomixError(
                f"no label file in {folder} has the name of an image (such as {min(images)!r}); name them alike."
            )
        matched(images, labels, self.problems)

    def _rows(self) -> dict[str, Row]:
        folder = self.section.folder
        if self.is_plain:
            table = plain.find_table(folder)
        else:
            table = folder / TABLE
            if not table.is_file():
                return {}
        rows = read_rows(table, self.images, self.problems, with_types=self.is_plain)
        beside = folder / TABLE
        if self.is_plain and beside.is_file() and beside != table:
            said = read_rows(beside, self.images, self.problems)
            rows = {image: _joined(rows.get(image, Row()), said.get(image, Row())) for image in rows | said}
        return rows

    def entries(self) -> dict[str, Entry]:
        """Entries by image name, for images that have labels and no problem."""
        return {
            image: entry_of(
                image,
                (self.images[image], self.labels[image]),
                self.dataset_name,
                self.rows.get(image, Row()),
                self.described,
                self.section.folder,
                self.mpp,
                split=self.section.split,
            )
            for image in self.images
            if image in self.labels
        }


def _joined(row: Row, other: Row) -> Row:
    """What two tables say about one image; where both do, the first."""
    mpp = other.mpp if row.mpp is None else row.mpp
    return Row(
        row.patient or other.patient, row.slide or other.slide, row.split or other.split, mpp, row.types or other.types
    )


def _classes(root: Path, parts: list[_Part], problems: list[Problem]) -> tuple[NucleusClass, ...]:
    folders = [root, *(part.section.folder for part in parts)]
    found = {classes for folder in folders if (classes := read_type_info(folder / "type_info.json"))}
    if len(found) > 1:
        raise HistomixError(f"the type_info.json files in {root} differ; keep one, in that folder.")
    if found:
        return found.pop()
    tables = [part for part in parts if part.is_plain]
    if tables:
        kinds = {kind for part in tables for row in part.rows.values() for kind in row.types.values()}
        return plain.classes_of(kinds, plain.find_table(tables[0].section.folder))
    numbers: set[int] = set()
    for part in parts:
        for image in sorted(part.images.keys() & part.labels.keys(), key=natural_key):
            try:
                numbers |= hovernet.read_mat_types(part.labels[image])
            except HistomixError as error:
                problems.append(Problem(image, about(image, error)))
                del part.images[image]
    return numbered_classes(numbers)
