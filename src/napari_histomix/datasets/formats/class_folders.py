"""Images that carry one class each: folders of patches ``class_name/*.png``, or a CSV that names the classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    SPLIT_FOLDERS,
    TABLE,
    Entry,
    Problem,
    Row,
    RowDraft,
    UnknownLayoutError,
    checked_mpp,
    dataset_name,
    described_split,
    files_by_stem,
    is_synthetic,
    natural_key,
    read_json_object,
    split_name,
    subfolder,
    tcga_origin,
)
from napari_histomix.datasets.pixels import read_mpp
from napari_histomix.datasets.text_files import Table, read_bytes, read_table
from napari_histomix.datasets.writing import Names, safe_name, write_dataset_json, write_png
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, Source

LAYOUTS = (
    "expected one folder per class with its images in it (these folders may lie in Train, Val and Test), "
    f"or {TABLE} with the columns image and class"
)
RESERVED = ("origin", "ignore")
"""Folders beside those of the splits: no split may get their names."""

_MAX_IMAGE = 2**31
"""Bytes of an image file that is copied."""


def recognizes(root: Path) -> bool:
    """Whether a table gives images their classes, or they lie in a folder for each class."""
    path = _find_table(root)
    if path is not None:
        with suppress(HistomixError):
            if not read_table(path).missing("image", "class"):
                return True
    inside = _subfolders(root)
    splits = [path for path in inside if path.name.casefold() in SPLIT_FOLDERS]
    classes = [path for path in inside if path not in splits and path.name.casefold() != "images"]
    return any(map(_has_images, (*classes, *(path for split in splits for path in _subfolders(split)))))


def open(root: Path, mpp: float | None) -> Dataset:
    """List the images of a folder; see ``datasets.open_tissue``.

    Raises
    ------
    HistomixError
        If the folder is of no such layout, one of its JSON or CSV files is broken, or no image could be used.
    """
    return _open(root, None, mpp)


def open_table(path: Path, mpp: float | None) -> Dataset:
    """List the images that a table gives a class.

    Raises
    ------
    HistomixError
        As for `open`.
    """
    return _open(path.parent.resolve(), path, mpp)


@dataclass(frozen=True, slots=True)
class _Found:
    """An image while its dataset is being opened; ``described`` is what ``dataset.json`` says, the nearest first."""

    path: Path
    kind: str
    row: Row
    split: str = ""
    described: Mapping[str, Any] = field(default_factory=dict)


def _open(root: Path, given: Path | None, mpp: float | None) -> Dataset:
    described = read_json_object(root / "dataset.json")
    problems: list[Problem] = []
    path = given or _find_table(root)
    table = read_table(path) if path else None
    if table and given:
        table.require("image", "class")
    if table and {"image", "class"} <= table.columns:
        found = _listed(table, root, described, problems)
    else:
        # A stray CSV about something else says nothing about images; images.csv must.
        if table and table.path.name.casefold() == TABLE and "image" not in table.columns:
            table.require("image", "class")
        found = _in_folders(root, table, described, problems)
    if not found:
        reason = f"; the first: {problems[0].sentence}" if problems else "."
        raise HistomixError(f"{root} has no image that could be used{reason}")
    name = dataset_name(root, described)
    # Tumor and tumor are one class, as they are one folder on many disks; the first image's spelling counts.
    spelled: dict[str, str] = {}
    entries = []
    for image in sorted(found, key=_natural):
        one = found[image]
        kind = spelled.setdefault(one.kind.casefold(), one.kind)
        source, scale = _source(name, image, one, root), _scale(one, root, mpp)
        entries.append(Entry(source, one.path, None, scale, kind=kind, synthetic=is_synthetic(one.path, one.row)))
    kinds = tuple(sorted(spelled.values(), key=_natural))
    return Dataset(name, root, (), tuple(entries), tuple(problems), kinds=kinds)


def _natural(text: str) -> tuple[tuple[str | int, ...], str]:
    return natural_key(text), text


def _source(dataset: str, image: str, one: _Found, root: Path) -> Source:
    patient, slide = tcga_origin(one.path.stem)
    return Source(
        dataset=dataset,
        image=image,
        split=one.row.split or described_split(one.described, image, root) or one.split or "train",
        patient=one.row.patient or patient,
        slide=one.row.slide or slide,
    )


def _scale(one: _Found, root: Path, mpp: float | None) -> float | None:
    if mpp is not None:
        return mpp
    if one.row.mpp is not None:
        return one.row.mpp
    if one.described.get("mpp") is not None:
        return checked_mpp(one.described["mpp"], f"dataset.json in {root}")
    return read_mpp(one.path)


def _find_table(root: Path) -> Path | None:
    """``images.csv`` or the folder's only CSV; None where there is neither."""
    tables = _tables(root)
    named = [path for path in tables if path.name.casefold() == TABLE]
    return (named or tables)[0] if named or len(tables) == 1 else None


def _tables(root: Path) -> list[Path]:
    visible = (path for path in root.iterdir() if path.suffix.casefold() == ".csv" and not path.name.startswith("."))
    return sorted(path for path in visible if path.is_file())


class _ClassDraft(RowDraft):
    """What the rows read so far say about one image, its class included."""

    def add(self, row: Mapping[str, str]) -> str:
        kind = row.get("class", "")
        known = self.said.setdefault("class", kind) if kind else ""
        if known.casefold() != kind.casefold():
            return f"the class is {known} above and {kind} here; keep one."
        return super().add({column: row[column] for column in row if column not in ("instance", "type")})


def _read_rows(
    table: Table, root: Path, problems: list[Problem]
) -> tuple[dict[str, tuple[Path, _ClassDraft]], set[Path]]:
    """What a table says by image name, and the files it says something wrong about."""
    drafts: dict[str, tuple[Path, _ClassDraft]] = {}
    failed: set[str] = set()
    spoiled: set[Path] = set()
    finder = _Finder(root)
    for line, row in table.rows:
        image = row["image"]
        if not image:
            problems.append(Problem(table.path.name, f"{table.path.name}, line {line}: no image is named; name one."))
            continue
        try:
            image, path = finder.find(image)
        except HistomixError as error:
            sentence = str(error)
        else:
            known, draft = drafts.setdefault(image, (path, _ClassDraft()))
            if known == path:
                sentence = draft.add(row)
            else:
                sentence = f"{known.name} and {path.name} are two image files of one name; keep one of them."
            if sentence:
                spoiled |= {known, path}
        if sentence and image not in failed:
            failed.add(image)
            problems.append(Problem(image, f"{image}: {table.path.name}, line {line}: {sentence}"))
    return {image: draft for image, draft in drafts.items() if image not in failed}, spoiled


class _Finder:
    """Finds the files that a table names, within one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listings: dict[Path, tuple[dict[str, Path], set[str]]] = {}

    def find(self, written: str) -> tuple[str, Path]:
        """Image name (path without suffix) and file.

        Raises
        ------
        HistomixError
            With the reason alone, if the path leaves the folder or there is no one image there.
        """
        text = written.replace("\\", "/")
        relative = PurePosixPath(text)
        if relative.is_absolute() or ".." in relative.parts or re.match(r"[A-Za-z]:", text):
            raise HistomixError(
                "its path leaves the folder of the CSV; keep the image in there and write a relative path."
            )
        path = self.root / relative
        try:
            is_file = path.is_file()
            if is_file and path.suffix.casefold() in IMAGE_SUFFIXES:
                return relative.with_suffix("").as_posix(), path
            names, doubled = self._listing(path.parent)
        except OSError:  # a name too long for the disk, or a folder that may not be entered
            raise HistomixError("no image is there; mend its name or add the image.") from None
        if relative.name in doubled:
            raise HistomixError("two image files have that name; write it with its suffix.")
        if relative.name in names:
            return relative.as_posix(), names[relative.name]
        if is_file:
            raise HistomixError("it is no PNG, TIFF or JPEG; save it as one of these.")
        raise HistomixError("no image is there; mend its name or add the image.")

    def _listing(self, folder: Path) -> tuple[dict[str, Path], set[str]]:
        if folder not in self.listings:
            doubled: list[Problem] = []
            names = files_by_stem(folder, IMAGE_SUFFIXES, doubled) if folder.is_dir() else {}
            self.listings[folder] = names, {problem.image for problem in doubled}
        return self.listings[folder]


def _listed(table: Table, root: Path, described: Mapping[str, Any], problems: list[Problem]) -> dict[str, _Found]:
    """Images by name, where a table gives the classes."""
    found: dict[str, _Found] = {}
    for image, (path, draft) in _read_rows(table, root, problems)[0].items():
        kind = draft.said.get("class", "")
        if kind:
            found[image] = _Found(path, kind, draft.row(), described=described)
        else:
            problems.append(Problem(image, f"{image}: {table.path.name} gives it no class; fill the cell."))
    return found


def _in_folders(
    root: Path, table: Table | None, described: Mapping[str, Any], problems: list[Problem]
) -> dict[str, _Found]:
    """Images by name, where their folders give the classes."""
    inside = _subfolders(root)
    splits = [path for path in inside if path.name.casefold() in SPLIT_FOLDERS]
    if any(subfolder(folder, "images") and subfolder(folder, "labels") for folder in [root, *splits]):
        raise HistomixError(
            f"{root} is a dataset of labeled nuclei (Images and Labels); open it as one, or give its images a class "
            f"each in {TABLE} with the columns image and class."
        )
    sections = [path for path in splits if any(map(_has_images, _subfolders(path)))]
    if sections:
        problems.extend(_stray(root))
        for path in inside:
            if path not in sections and _has_images(path):
                sentence = f"{path.name}: this folder lies beside those of the splits; move it into one of them."
                problems.append(Problem(path.name, sentence))
    elif not any(map(_has_images, inside)):
        raise _explain(root, table)
    else:
        for path in inside:
            if (path in splits or path.name.casefold() == "images") and _has_images(path):
                raise HistomixError(f"{path} holds images but nothing gives them a class; {LAYOUTS}.")
    found: dict[str, _Found] = {}
    # The training split first: its names must not change when someone adds a test split.
    for folder in sorted(sections or [root], key=lambda path: split_name(path.name) != "train"):
        split = split_name(folder.name) if sections else ""
        # What lies nearer to the images says it better.
        said = {**described, **read_json_object(folder / "dataset.json")} if sections else described
        for image, path in _sorted_images(folder, problems).items():
            name = f"{folder.name}/{image}" if image in found else image
            found[name] = _Found(path, path.parent.name.strip(), Row(), split, said)
    if table and "image" in table.columns:
        _add_rows(found, table, root, problems)
    return found


def _add_rows(found: dict[str, _Found], table: Table, root: Path, problems: list[Problem]) -> None:
    """Take in what a table without classes says; an image it is wrong about is left out."""
    names = {one.path: image for image, one in found.items()}
    drafts, spoiled = _read_rows(table, root, problems)
    for image, (path, draft) in drafts.items():
        if path in names:
            found[names[path]] = replace(found[names[path]], row=draft.row())
        else:
            sentence = f"{image}: {table.path.name} lists it but it lies in no class folder; move it into one."
            problems.append(Problem(image, sentence))
    for path in spoiled & names.keys():
        del found[names[path]]


def _sorted_images(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """The images of a folder's class folders, by ``class/stem``; what cannot be one of them is a problem."""
    problems.extend(_stray(folder))
    images: dict[str, Path] = {}
    for one in _subfolders(folder):
        doubled: list[Problem] = []
        found = files_by_stem(one, IMAGE_SUFFIXES, doubled)
        images |= {f"{one.name}/{stem}": path for stem, path in found.items()}
        problems.extend(Problem(f"{one.name}/{each.image}", f"{one.name}/{each.sentence}") for each in doubled)
        if not found and not doubled and any(map(_has_images, _subfolders(one))):
            sentence = f"{one.name}: its images lie in folders within it; put them directly into {one.name}."
            problems.append(Problem(one.name, sentence))
    return images


def _stray(folder: Path) -> list[Problem]:
    """Images that lie beside class folders instead of in them."""
    sentence = f"it lies in {folder.name} but in no class folder; move it into one."
    return [Problem(stem, f"{stem}: {sentence}") for stem in files_by_stem(folder, IMAGE_SUFFIXES, [])]


def _subfolders(folder: Path) -> list[Path]:
    visible = (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    return sorted(visible, key=lambda path: _natural(path.name))


def _has_images(folder: Path) -> bool:
    return any(
        path.suffix.casefold() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        for path in folder.iterdir()
    )


def _explain(root: Path, table: Table | None) -> HistomixError:
    """Why a folder without class folders cannot be opened."""
    if table:
        missing = table.missing("image", "class")
        return HistomixError(f"{table.where} has no column {' and '.join(missing)}; add it.")
    if len(_tables(root)) > 1:
        return HistomixError(
            f"{root} has {len(_tables(root))} CSV files; name the one with the columns image and class {TABLE}."
        )
    if _has_images(root):
        return UnknownLayoutError(f"{root} holds images but nothing gives them a class; {LAYOUTS}.")
    for path in _subfolders(root):
        if any(map(_has_images, _subfolders(path))):
            return HistomixError(f"{root} holds no class folders but its folder {path.name} does; choose that one.")
    return UnknownLayoutError(f"{root} holds no images; {LAYOUTS}.")


class Writer:
    """Writes one folder per class into one per split: unchanged images as copies of their files, others as PNG files.

    A training loop that takes folders for classes is given the folder of a split, and meets no image of another one and
    no origin map. Characters that a disk may refuse are replaced in the names of folders and files, and no name is
    given out twice.

    Parameters
    ----------
    folder : Path
        There, and empty.
    name : str
        Of the dataset.
    classes : sequence of NucleusClass
        Of nuclei, of which these folders say nothing.
    kinds : sequence of str
        Classes of images as a whole.
    """

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass], kinds: Sequence[str] = ()) -> None:
        self.folder, self.name = folder, name
        names, self._splits = Names(), Names(*RESERVED)
        self._folders = {kind: names.unique(safe_name(kind, "class")) for kind in kinds}
        self._split_folders: dict[str, str] = {}
        self._names: dict[str, Names] = {}

    def add(self, image: LabeledImage, *, synthetic: bool, original: Path | None = None) -> str:
        """Write one image; returns its path in the folder, with ``/``.

        Parameters
        ----------
        image : LabeledImage
        synthetic : bool
        original : Path, optional
            The file of an image whose pixels are unchanged; it is copied as it is.

        Raises
        ------
        HistomixError
            If the image is of none of the classes, or its file cannot be read.
        """
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
        content = None if original is None else read_bytes(original, _MAX_IMAGE)
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            write_png(path, image.pixels, image.mpp, synthetic)
        else:
            path.write_bytes(content)
        return file

    def finish(self) -> None:
        """Write ``dataset.json``."""
        write_dataset_json(self.folder, name=self.name)
