"""Images that carry one class each: folders of patches ``class_name/*.png``, or a CSV that names the classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import (
    TABLE,
    Entry,
    Row,
    UnknownLayoutError,
    is_split_folder,
    natural_order,
    read_json_object,
    split_name,
)
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    Listing,
    RowDraft,
    Section,
    files_by_stem,
    find_table,
    subfolder,
    subfolders,
    visible_files,
)
from napari_histomix.datasets.names import Lookup
from napari_histomix.datasets.text_files import Table, read_bytes, read_table
from napari_histomix.datasets.writing import ImageWriter, Names, safe_name, write_dataset_json, write_png
from napari_histomix.records import HistomixError, LabeledImage, Problem

LAYOUTS = (
    "expected one folder per class with its images in it (these folders may lie in Train, Val and Test), "
    f"or {TABLE} with the columns image and class"
)
_NO_SPLITS = ("origin", "ignore")
"""Folders that an export writes beside those of the splits."""
_MAX_IMAGE = 2**31
"""Bytes of an image file that is copied."""


def open(root: Path, mpp: float | None, given: Path | None = None) -> Dataset:
    """List the images of a folder, or those that a given table lists; see ``datasets.open_tissue``."""
    listing = Listing(root, mpp)
    path = given or find_table(root, TABLE)[0]
    table = read_table(path) if path else None
    # A stray CSV about something else says nothing about images; images.csv must, and so must the given one.
    if table and (given or (table.path.name.casefold() == TABLE and "image" not in table.columns)):
        table.require("image", "class")
    if table and {"image", "class"} <= table.columns:
        entries = _in_table(table, listing)
    else:
        entries = _in_folders(listing, table)
    # Tumor and tumor are one class, as they are one folder on many disks; the first image's spelling counts.
    spelled: dict[str, str] = {}
    entries.sort(key=lambda entry: natural_order(entry.source.image))
    entries = [replace(entry, kind=spelled.setdefault(entry.kind.casefold(), entry.kind)) for entry in entries]
    return listing.dataset_of(entries, kinds=tuple(sorted(spelled.values(), key=natural_order)))


def _read_rows(table: Table, listing: Listing) -> tuple[dict[str, tuple[Path, RowDraft]], set[Path]]:
    """What a table says by image name, and the files it says something wrong about."""
    drafts: dict[str, tuple[Path, RowDraft]] = {}
    failed: set[str] = set()
    spoiled: set[Path] = set()

    @cache
    def images_in(folder: Path) -> tuple[dict[str, Path], set[str]]:
        doubled: list[Problem] = []
        names = files_by_stem(folder, IMAGE_SUFFIXES, doubled) if folder.is_dir() else {}
        return names, {problem.image for problem in doubled}

    for line, row in table.rows:
        image = row["image"]
        if not image:
            where = table.path.name
            listing.problems.append(Problem(where, f"{where}, line {line}: no image is named; name one."))
            continue
        try:
            image, path = _find(image, listing.root, images_in)
        except HistomixError as error:
            sentence = str(error)
        else:
            known, draft = drafts.setdefault(image, (path, RowDraft(of_class=True)))
            if known == path:
                sentence = draft.add(row)
            else:
                sentence = f"{known.name} and {path.name} are two image files of one name; keep one of them."
            if sentence:
                spoiled |= {known, path}
        if sentence and image not in failed:
            failed.add(image)
            listing.report(image, f"{table.path.name}, line {line}: {sentence}")
    return {image: draft for image, draft in drafts.items() if image not in failed}, spoiled


def _find(written: str, root: Path, images_in: Callable[[Path], tuple[dict[str, Path], set[str]]]) -> tuple[str, Path]:
    """Image name (path without suffix) and file that a table means, within one folder.

    ``images_in`` gives the images of a folder by name, and the names that two of them have.
    """
    text = written.replace("\\", "/")
    relative = PurePosixPath(text)
    if relative.is_absolute() or ".." in relative.parts or re.match(r"[A-Za-z]:", text):
        raise HistomixError("its path leaves the folder of the CSV; keep the image in there and write a relative path.")
    path = root / relative
    with suppress(OSError):  # a name too long for the disk, or a folder that may not be entered
        is_file = path.is_file()
        if is_file and path.suffix.casefold() in IMAGE_SUFFIXES:
            return relative.with_suffix("").as_posix(), path
        names, doubled = images_in(path.parent)
        if relative.name in doubled:
            raise HistomixError("two image files have that name; write it with its suffix.")
        if relative.name in names:
            return relative.as_posix(), names[relative.name]
        if is_file:
            raise HistomixError("it is no PNG, TIFF or JPEG; save it as one of these.")
        folder = _folder_alike(root, relative.parts[:-1])
        names, _ = images_in(folder) if folder else ({}, set())
        stem = Lookup({path.name: stem for stem, path in names.items()} | {stem: stem for stem in names}).get(
            relative.name
        )
        if folder and stem is not None:
            return (PurePosixPath(*folder.relative_to(root).parts) / stem).as_posix(), names[stem]
    raise HistomixError("no image is there; mend its name or add the image.")


def _folder_alike(root: Path, parts: Sequence[str]) -> Path | None:
    """The folder of these names, in whatever letter case and Unicode form the disk has them."""
    folder: Path | None = root
    for part in parts:
        if folder is not None:
            folder = Lookup({path.name: path for path in subfolders(folder)}).get(part)
    return folder


def _in_table(table: Table, listing: Listing) -> list[Entry]:
    """The images, where a table gives the classes."""
    entries = []
    section = Section(listing.root, listing.described)
    for image, (path, draft) in _read_rows(table, listing)[0].items():
        if kind := draft.said.get("class", ""):
            entries.append(listing.entry(image, (path, None), section, draft.row(), kind))
        else:
            listing.report(image, f"{table.path.name} gives it no class; fill the cell.")
    return entries


def _in_folders(listing: Listing, table: Table | None) -> list[Entry]:
    """The images, where their folders give the classes."""
    root, inside = listing.root, _subfolders(listing.root)
    splits = [path for path in inside if is_split_folder(path.name)]
    if any(subfolder(folder, "images") and subfolder(folder, "labels") for folder in [root, *splits]):
        raise HistomixError(
            f"{root} is a dataset of labeled nuclei (Images and Labels); open it as one, or give its images a class "
            f"each in {TABLE} with the columns image and class."
        )
    split_sections = _split_sections(inside, splits)
    if split_sections:
        _report_stray(root, listing)
        for path in inside:
            if path not in split_sections and _has_images(path):
                listing.report(path.name, "this folder lies beside those of the splits; move it into one of them.")
    elif not any(map(_has_images, inside)):
        raise _explain(root, table)
    else:
        for path in inside:
            if (path in splits or path.name.casefold() == "images") and _has_images(path):
                raise HistomixError(f"{path} holds images but nothing gives them a class; {LAYOUTS}.")
    sections: dict[str, tuple[Path, Section]] = {}
    # The training split first: its names must not change when someone adds a test split.
    for folder in sorted(split_sections or [root], key=lambda path: split_name(path.name) != "train"):
        section = Section(root, listing.described)
        if split_sections:
            # What lies nearer to the images says it better.
            nearer = read_json_object(folder / "dataset.json")
            section = Section(root, listing.described | nearer, split_name(folder.name))
        for image, path in _sorted_images(folder, listing).items():
            sections[f"{folder.name}/{image}" if image in sections else image] = path, section
    rows: dict[Path, Row] = {}
    spoiled: set[Path] = set()
    if table and "image" in table.columns:
        drafts, spoiled = _read_rows(table, listing)
        rows = {path: draft.row() for path, draft in drafts.values()}
        known = {path for path, _ in sections.values()}
        for image in (image for image, (path, _) in drafts.items() if path not in known):
            listing.report(image, f"{table.path.name} lists it but it lies in no class folder; move it into one.")
    return [
        listing.entry(image, (path, None), section, rows.get(path, Row()), path.parent.name.strip())
        for image, (path, section) in sections.items()
        if path not in spoiled
    ]


def _split_sections(inside: list[Path], splits: list[Path]) -> list[Path]:
    """The folders of class folders for the splits, those of other names among them if they have classes of these."""
    kinds_of = {
        path: {kind.name.casefold() for kind in _subfolders(path) if _has_images(kind)}
        for path in inside
        if path.name.casefold() not in _NO_SPLITS
    }
    sections = [path for path in splits if kinds_of[path]]
    kinds: set[str] = set().union(*(kinds_of[path] for path in sections))
    if not sections and not any(map(_has_images, inside)):
        # Two folders of the same classes, of which neither is called as a split.
        every = [kind for group in kinds_of.values() for kind in group]
        kinds = {kind for kind in every if every.count(kind) > 1}
    return [path for path in inside if path in sections or kinds & kinds_of.get(path, set())]


def _sorted_images(folder: Path, listing: Listing) -> dict[str, Path]:
    """The images of a folder's class folders, by ``class/stem``; what cannot be one of them is a problem."""
    _report_stray(folder, listing)
    images: dict[str, Path] = {}
    for kind in _subfolders(folder):
        doubled: list[Problem] = []
        files = files_by_stem(kind, IMAGE_SUFFIXES, doubled)
        images |= {f"{kind.name}/{stem}": path for stem, path in files.items()}
        listing.problems += [Problem(f"{kind.name}/{item.image}", f"{kind.name}/{item.sentence}") for item in doubled]
        if not files and not doubled and any(map(_has_images, _subfolders(kind))):
            listing.report(kind.name, f"its images lie in folders within it; put them directly into {kind.name}.")
    return images


def _report_stray(folder: Path, listing: Listing) -> None:
    """Report images that lie beside class folders instead of in them."""
    for stem in files_by_stem(folder, IMAGE_SUFFIXES, []):
        listing.report(stem, f"it lies in {folder.name} but in no class folder; move it into one.")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(subfolders(folder), key=lambda path: natural_order(path.name))


def _has_images(folder: Path) -> bool:
    return next(visible_files(folder, IMAGE_SUFFIXES), None) is not None


def _explain(root: Path, table: Table | None) -> HistomixError:
    """Why a folder without class folders cannot be opened."""
    if table:
        table.require("image", "class")
    _, tables = find_table(root, TABLE)
    if tables > 1:
        return HistomixError(f"{root} has {tables} CSV files; name the one with the columns image and class {TABLE}.")
    if _has_images(root):
        return UnknownLayoutError(f"{root} holds images but nothing gives them a class; {LAYOUTS}.")
    for path in _subfolders(root):
        if any(map(_has_images, _subfolders(path))):
            return HistomixError(f"{root} holds no class folders but its folder {path.name} does; choose that one.")
    return UnknownLayoutError(f"{root} holds no images; {LAYOUTS}.")


class Writer(ImageWriter):
    """Writes one folder per class into one per split: unchanged images as copies of their files, others as PNG files.

    A training loop that takes folders for classes is given the folder of a split, and meets no image of another one and
    no origin map. Characters that a disk may refuse are replaced in the names of folders and files, and no name is
    given out twice.
    """

    def start(self) -> None:
        # Folders beside those of the splits: no split may get their names.
        names, self._splits = Names(), Names("origin", "ignore")
        self._folders = {kind: names.unique(safe_name(kind, "class")) for kind in self.kinds}
        self._split_folders: dict[str, str] = {}
        self._names: dict[str, Names] = {}

    def add(self, image: LabeledImage, *, synthetic: bool, original: Path | None = None) -> str:
        self.scales.add(image.mpp)
        name, kind = image.source.image, image.kind
        if kind not in self._folders:
            known = ", ".join(self._folders)
            raise HistomixError(f"{name} is of the class {kind!r}, which {self.name} does not have; it has {known}.")
        split = image.source.split
        if split not in self._split_folders:
            self._split_folders[split] = self._splits.unique(safe_name(split, "train"))
        folder = f"{self._split_folders[split]}/{self._folders[kind]}"
        names = self._names.setdefault(folder, Names())
        if synthetic and original is None:
            stem = names.unique(f"synthetic-{safe_name(name).removeprefix('synthetic-')}")
        else:
            stem = names.unique(safe_name(name.rpartition("/")[2]), safe_name(name))
        file = f"{folder}/{stem}{'.png' if original is None else original.suffix}"
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if original is None:
            write_png(path, image.pixels, image.mpp, synthetic)
        else:
            path.write_bytes(read_bytes(original, _MAX_IMAGE))
        return file

    def finish(self) -> None:
        write_dataset_json(self.folder, name=self.name, mpp=self.mpp)
