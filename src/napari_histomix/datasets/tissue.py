"""Open images that carry one class each: folders of patches ``class_name/*.png``, or a CSV that names the classes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import (
    IMAGE_SUFFIXES,
    Entry,
    Problem,
    Row,
    UnknownLayoutError,
    checked_mpp,
    described_split,
    files_by_stem,
    natural_key,
    read_json_object,
    split_name,
    tcga_origin,
)
from napari_histomix.datasets.listing import SPLIT_FOLDERS, TABLE, dataset_name, subfolder
from napari_histomix.datasets.opening import NUCLEI_LAYOUTS, open_dataset
from napari_histomix.datasets.pixels import read_mpp
from napari_histomix.datasets.plain import _Draft
from napari_histomix.records import HistomixError, Source

_LAYOUTS = (
    "expected one folder per class with its images in it (these folders may lie in Train, Val and Test), "
    f"or {TABLE} with the columns image and class"
)


def open_tissue(path: Path | str, mpp: float | None = None) -> Dataset:
    """Open images that carry one class each; the layout is recognized.

    Read are listings, JSON and CSV files, and image headers where nothing else says the scale.

    Layouts: a CSV with the columns image (a path relative to the CSV, with or without suffix) and class, optionally
    patient, slide, split and mpp; or one folder per class with its images (PNG, TIFF, JPEG), directly in the root or in
    subfolders ``Train``, ``Val``, ``Test``. A CSV with a class column decides alone, and folders it does not speak of
    are not read. One without it may stand beside class folders, for the other columns.

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
        return _open(given.parent.resolve() if is_table else given.resolve(), given if is_table else None, mpp)
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
                f"or {_LAYOUTS.removeprefix('expected ')}."
            ) from no_nuclei


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
    table = _Table(path) if path else None
    if table and given:
        table.check_columns("image", "class")
    if table and {"image", "class"} <= table.columns:
        found = _listed(table, root, described, problems)
    else:
        # A stray CSV about something else says nothing about images; images.csv must.
        if table and table.path.name.casefold() == TABLE and "image" not in table.columns:
            table.check_columns("image", "class")
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
        entries.append(Entry(_source(name, image, one, root), one.path, None, _scale(one, root, mpp), kind=kind))
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


class _Table:
    """A CSV about images; comma or semicolon, UTF-8. ``rows`` are line numbers and cells, empty rows left aside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            raise HistomixError(f"{path.name} in {path.parent} cannot be read; save it as a CSV in UTF-8.") from None
        header = text.partition("\n")[0]
        delimiter = ";" if ";" in header and "," not in header else ","
        # Not line by line: a class may have a line break in its quoted name.
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        self.rows: list[tuple[int, dict[str, str]]] = []
        try:
            reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
            for cells in reader:
                row = {key: (value or "").strip() for key, value in cells.items() if isinstance(key, str)}
                if any(row.values()):
                    self.rows.append((reader.line_num, row))
        except csv.Error as error:
            raise HistomixError(f"{path.name} in {path.parent} is not a valid CSV ({error}); save it again.") from None
        self.columns = set(reader.fieldnames)

    def check_columns(self, *needed: str) -> None:
        """Refuse a table that lacks one of these columns."""
        missing = " and ".join(name for name in needed if name not in self.columns)
        if missing:
            raise HistomixError(f"{self.path.name} in {self.path.parent} has no column {missing}; add it.")


class _TissueDraft(_Draft):
    """What the rows read so far say about one image, its class included."""

    def add(self, row: Mapping[str, str]) -> str:
        kind = row.get("class", "")
        known = self.said.setdefault("class", kind) if kind else ""
        if known.casefold() != kind.casefold():
            return f"the class is {known} above and {kind} here; keep one."
        return super().add({column: row.get(column, "") for column in ("patient", "slide", "split", "mpp")})


def _read_rows(
    table: _Table, root: Path, problems: list[Problem]
) -> tuple[dict[str, tuple[Path, _TissueDraft]], set[Path]]:
    """What a table says by image name, and the files it says something wrong about."""
    drafts: dict[str, tuple[Path, _TissueDraft]] = {}
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
            known, draft = drafts.setdefault(image, (path, _TissueDraft()))
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


def _listed(table: _Table, root: Path, described: Mapping[str, Any], problems: list[Problem]) -> dict[str, _Found]:
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
    root: Path, table: _Table | None, described: Mapping[str, Any], problems: list[Problem]
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
                raise HistomixError(f"{path} holds images but nothing gives them a class; {_LAYOUTS}.")
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


def _add_rows(found: dict[str, _Found], table: _Table, root: Path, problems: list[Problem]) -> None:
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


def _explain(root: Path, table: _Table | None) -> HistomixError:
    """Why a folder without class folders cannot be opened."""
    if table:
        missing = [name for name in ("image", "class") if name not in table.columns]
        return HistomixError(f"{table.path.name} in {root} has no column {' and '.join(missing)}; add it.")
    if len(_tables(root)) > 1:
        return HistomixError(
            f"{root} has {len(_tables(root))} CSV files; name the one with the columns image and class {TABLE}."
        )
    if _has_images(root):
        return UnknownLayoutError(f"{root} holds images but nothing gives them a class; {_LAYOUTS}.")
    for path in _subfolders(root):
        if any(map(_has_images, _subfolders(path))):
            return HistomixError(f"{root} holds no class folders but its folder {path.name} does; choose that one.")
    return UnknownLayoutError(f"{root} holds no images; {_LAYOUTS}.")
