"""Open a folder of labeled H&E images: recognize its layout, list its images, find out their scale and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    about,
    checked_mpp,
    described_split,
    files_by_stem,
    natural_key,
    numbered_classes,
    read_json_object,
    read_type_info,
    split_name,
    tcga_origin,
)
from napari_histomix.datasets.formats import recognized
from napari_histomix.datasets.pixels import read_mpp
from napari_histomix.records import HistomixError, NucleusClass, Source

_LAYOUTS = (
    "expected the folders Images and Labels with one .mat per image (HoVer-Net, CoNSeP), "
    "or images and labels with one label image per image and a types.csv"
)
SPLIT_FOLDERS = ("train", "training", "test", "testing", "val", "valid", "validation")


def open_dataset(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open a folder of labeled images; its layout is recognized.

    Read are listings, JSON and CSV files, image headers where nothing else says the scale, and the types in
    ``.mat`` files where no ``type_info.json`` lists the classes.

    Layouts: HoVer-Net/CoNSeP (``Images``, ``Labels/*.mat``, ``type_info.json``, optionally ``images.csv`` with
    the columns image, patient, slide, split, mpp) and plain (``images``, ``labels`` with label images, ``types.csv``
    with image, instance, type and optionally those columns). Either may lie in subfolders ``Train``, ``Val``, ``Test``.

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
        reason = f"; the first: {problems[0].sentence}" if problems else "."
        raise HistomixError(f"{root} has no image that could be used{reason}")
    ordered = tuple(entries[image] for image in sorted(entries, key=lambda image: (natural_key(image), image)))
    return Dataset(dataset_name(root, described), root, classes, ordered, tuple(problems), LabelFiles(listed))


def dataset_name(root: Path, described: Mapping[str, Any]) -> str:
    """Name by what ``dataset.json`` says, else the folder's."""
    name = described.get("name", "")
    return name.strip() if isinstance(name, str) and name.strip() else root.name


def subfolder(folder: Path, name: str) -> Path | None:
    """A subfolder by name, upper or lower case; the exact spelling first where both are there."""
    found = [path for path in folder.iterdir() if path.name.casefold() == name and path.is_dir()]
    return min(found, key=lambda path: path.name != name.capitalize(), default=None)


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
        raise HistomixError(f"{root} holds images but no labels folder; {_LAYOUTS}.")
    raise HistomixError(f"{root} holds no labeled images; {_LAYOUTS}.")


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
        for image in sorted(images.keys() - labels.keys() - reported, key=natural_key):
            self.problems.append(Problem(image, f"{image}: there is no label file of that name; it is left out."))
        for image in sorted(labels.keys() - images.keys() - reported, key=natural_key):
            self.problems.append(Problem(image, f"{image}: there are labels but no image of that name; add the image."))

    def _rows(self) -> dict[str, Row]:
        folder = self.section.folder
        if self.is_plain:
            table = plain.find_table(folder)
        else:
            table = folder / "images.csv"
            if not table.is_file():
                return {}
        found: list[Problem] = []
        written = plain.read_table(table, found, with_types=self.is_plain)
        # The table may write "a.png" or "a". It is only ever compared with the listing, never made into a path.
        stems = {path.name: stem for stem, path in self.images.items()} | {stem: stem for stem in self.images}
        for problem in found:
            image = stems.get(problem.image, problem.image)
            self.images.pop(image, None)
            self.problems.append(replace(problem, image=image))
        rows: dict[str, Row] = {}
        for name, row in written.items():
            if name not in stems:
                self.problems.append(
                    Problem(name, f"{name}: {table.name} lists it but no such image is there; add it.")
                )
            elif stems[name] in rows:
                self.images.pop(stems[name], None)
                self.problems.append(Problem(name, f"{name}: {table.name} writes it with and without suffix; use one."))
            else:
                rows[stems[name]] = row
        return rows

    def entries(self) -> dict[str, Entry]:
        """Entries by image name, for images that have labels and no problem."""
        return {image: self._entry(image) for image in self.images if image in self.labels}

    def _entry(self, image: str) -> Entry:
        row = self.rows.get(image, Row())
        patient, slide = tcga_origin(image)
        source = Source(
            dataset=self.dataset_name,
            image=image,
            split=row.split
            or described_split(self.described, image, self.section.folder)
            or self.section.split
            or "train",
            patient=row.patient or patient,
            slide=row.slide or slide,
        )
        return Entry(source, self.images[image], self.labels[image], self._scale(image, row))

    def _scale(self, image: str, row: Row) -> float | None:
        if self.mpp is not None:
            return self.mpp
        if row.mpp is not None:
            return row.mpp
        if self.described.get("mpp") is not None:
            return checked_mpp(self.described["mpp"], f"dataset.json in {self.section.folder}")
        return read_mpp(self.images[image])


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
