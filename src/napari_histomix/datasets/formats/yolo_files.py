"""YOLO's files in a folder: where images and labels lie, the split of each image, and the names of the classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from napari_histomix.datasets.entries import SPLITS, is_split_folder, named_split, split_name
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAT_SUFFIXES,
    folder_split,
    folders_below,
    subfolder,
    subfolders,
    telling,
    visible_files,
)
from napari_histomix.datasets.names import composed, stated_path
from napari_histomix.datasets.text_files import begins_with, decoded, read_bytes
from napari_histomix.records import HistomixError

TXT = frozenset({".txt"})
NO_LABELS = ("classes", "train", "val", "valid", "test", "readme")
"""Text files without suffix, in lower case, that lie among labels in some programs and are none."""
_YAML = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_YAML_SUFFIXES = frozenset({".yaml", ".yml"})
_NAME_LISTS = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")
"""Files with the name of a class on each line, as Label Studio, labelImg, Darknet and CVAT write them."""
_MAX_YAML = 2**16
"""Bytes: room for thousands of names, and read in a second or two whatever they are."""
_MAX_LIST = 2**26
_DEEPEST = 2
"""How many folders deep ``images`` lies, as in ``batch 1/images``."""
_LINE = re.compile(rb"^(\xef\xbb\xbf)?\s*[0-9]+([ \t]+-?[0-9.,eE+-]+){4,}\s*$", re.MULTILINE)
_OF_SUBSET = re.compile(r"obj_(.+)_data", re.IGNORECASE)
"""Folders of CVAT's and Datumaro's subsets."""


@dataclass(frozen=True, slots=True)
class Section:
    """A folder of images and that of their labels, which may be the same.

    ``folders`` are the names on the way from the root that say something, ``split`` is what they say: a known split,
    or a name that is none, or nothing.
    """

    images: Path
    labels: Path | None
    folders: tuple[str, ...]
    split: str


def sections_in(root: Path) -> list[Section]:
    """Folders of images with a folder of text files each, those for training first; empty if they are of no YOLO.

    Where text files lie in some of these folders, images without such a folder are in the list as well.
    """
    found: list[tuple[Path, Path | None, tuple[str, ...]]] = []
    for folder, names in folders_below(root):
        if len(names) > _DEEPEST:
            break
        if folder.name.casefold() != "images":
            continue
        if (labels := subfolder(folder.parent, "labels")) is None:
            found += [(folder, None, names)] if is_split_folder(folder.parent.name) else []
        else:
            found += [(images, _beside(labels, below), (*names, *below)) for images, below in folders_below(folder)]
    if not any(labels and _has_texts(labels) for _, labels, _ in found):
        found = [(folder, folder, names) for folder, names in folders_below(root) if len(names) <= _DEEPEST]
        found = [(folder, labels, names) for folder, labels, names in found if _lie_together(folder)]
    if any(labels and _has_label_images(labels) for images, labels, _ in found if labels != images):
        return []
    others = {composed(path.name) for path in subfolders(root) if not is_split_folder(path.name)}
    if any(name not in {names[0] for _, _, names in found if names} for name in telling(sorted(others))):
        # A folder of folders of all kinds.
        found = [part for part in found if not part[2] or part[2][0] not in others or not telling(part[2][:1])]
    if not any(labels and (_has_texts(labels) or labels == images) for images, labels, _ in found):
        return []
    alone = len(found) == 1
    sections = []
    for images, labels, names in found:
        said = telling([_OF_SUBSET.sub(r"\1", name) for name in names])
        # A folder around all of it is only that.
        counted = said if not alone or images.name.casefold() != "images" else []
        split = folder_split(said) or (counted[0] if counted else "")
        sections.append(Section(images, labels, tuple(said), split))
    return sorted(sections, key=lambda section: split_name(section.split) not in ("train", ""))


def _beside(labels: Path, below: Sequence[str]) -> Path | None:
    """The folder of these names in that of the labels; one for a split may be spelled in another way."""
    folder: Path | None = labels
    for name in below:
        if folder is None:
            return None
        alike = (path for path in subfolders(folder) if is_split_folder(path.name) and is_split_folder(name))
        same_split = next((path for path in alike if split_name(path.name) == split_name(name)), None)
        folder = subfolder(folder, name.casefold()) or same_split
    return folder


def _has_texts(labels: Path) -> bool:
    return any(path.stem.casefold() != "classes" for path in visible_files(labels, TXT))


def _has_label_images(labels: Path) -> bool:
    return next(visible_files(labels, LABEL_SUFFIXES | MAT_SUFFIXES), None) is not None


def _lie_together(folder: Path) -> bool:
    """Whether images and their labels lie in one folder."""
    stems = {composed(path.stem) for path in visible_files(folder, IMAGE_SUFFIXES)}
    texts = [path for path in visible_files(folder, TXT) if composed(path.stem) in stems]
    return begins_with(texts, _LINE)


class Splits:
    """What ``data.yaml`` and lists of images say of the split of each image; only names are compared, none is opened.

    Lists decide alone. Folders of ``data.yaml`` speak for images whose own folders are called as no split.
    """

    def __init__(self, root: Path, said: Mapping[str, Any], images: Iterable[Path]) -> None:
        self._root = root
        self._by_place = {self._place(path): path for path in images}
        by_stem: dict[str, list[Path]] = {}
        for path in self._by_place.values():
            by_stem.setdefault(_plain(path.stem), []).append(path)
        self._by_stem = {stem: paths[0] for stem, paths in by_stem.items() if len(paths) == 1}
        texts = {self._place(path): path for path in self._text_files()}
        self._listed: dict[str, set[Path]] = {}
        self._in_folders: dict[str, set[Path]] = {}
        for split, place in _stated_places(said):
            # A path of another machine: its last parts count, as many as lie here.
            ends = [place[start:] for start in range(len(place))] or [()]
            if place and place[-1].endswith(".txt"):
                files = [texts[end] for end in (self._without_suffix(end) for end in ends) if end in texts]
                self._listed.setdefault(split, set()).update(self._images_in(files[0]) if files else ())
            else:
                inside = [{path for at, path in self._by_place.items() if at[: len(end)] == end} for end in ends]
                self._in_folders.setdefault(split, set()).update(next(filter(None, inside), ()))
        for path in texts.values():
            if split := named_split(path.stem):
                self._listed.setdefault(split, set()).update(self._images_in(path))
        for groups in (self._listed, self._in_folders):
            for split in ("val", "test"):
                # Ultralytics asks for images for validation, so that those for training are named again.
                if groups.get(split) == groups.get("train"):
                    groups.pop(split, None)

    def of(self, path: Path, of_folder: str) -> str:
        """The split of an image in a folder of such a split, or such a name, or of none."""
        if listed := self._first(self._listed, path):
            return listed
        known, stated = split_name(of_folder), {split for split, paths in self._in_folders.items() if path in paths}
        # What is not for training by its own folder must not become so.
        if known in SPLITS and (not stated or known in stated or stated == {"train"}):
            return known
        return self._first(self._in_folders, path) or of_folder

    @staticmethod
    def _first(groups: Mapping[str, set[Path]], path: Path) -> str:
        return next((split for split in ("test", "val", "train") if path in groups.get(split, ())), "")

    def _place(self, path: Path) -> tuple[str, ...]:
        return tuple(map(_plain, path.relative_to(self._root).with_suffix("").parts))

    @staticmethod
    def _without_suffix(parts: tuple[str, ...]) -> tuple[str, ...]:
        return (*parts[:-1], parts[-1].rpartition(".")[0]) if parts else ()

    def _text_files(self) -> Iterator[Path]:
        for folder in (self._root, *subfolders(self._root)):
            if folder.name.casefold() != "labels":
                yield from (path for path in sorted(visible_files(folder, TXT)) if path.stem.casefold() != "classes")

    def _images_in(self, path: Path) -> set[Path]:
        """The images that a list names, one a line."""
        images = set()
        for line in decoded(read_bytes(path, _MAX_LIST)).splitlines():
            place = self._without_suffix(_parts(line)) if line.strip() else ()
            ends = (place[start:] for start in range(len(place)))
            image = next((self._by_place[end] for end in ends if end in self._by_place), None)
            if image is None and place:
                image = self._by_stem.get(place[-1])
            if image is not None:
                images.add(image)
        return images


def _stated_places(said: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The splits of a ``data.yaml``, each with the parts of a path it names."""
    for key, value in said.items():
        if isinstance(key, str) and is_split_folder(key):
            for text in value if isinstance(value, list) else [value]:
                # A path that only leaves the folder says nothing of what is in it.
                if isinstance(text, str) and text.strip() and (_parts(text) or ".." not in text):
                    yield split_name(key), _parts(text)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(_plain(part) for part in stated_path(text).parts if part not in (".", "..", "/"))


def _plain(name: str) -> str:
    return composed(name).casefold()


def read_yaml(root: Path) -> tuple[str, dict[str, Any]]:
    """The name and the content of the file that describes a dataset; empty without one."""
    files = sorted(visible_files(root, _YAML_SUFFIXES))
    named = [path for name in _YAML for path in files if path.name.casefold() == name]
    path = next(iter(named), files[0] if len(files) == 1 else None)
    if path is None:
        return "", {}
    where = f"{path.name} in {root}"
    content = read_bytes(path, 2**20)
    if len(content) > _MAX_YAML:
        raise HistomixError(f"{where} is larger than {_MAX_YAML >> 10} KB; it should only name the classes.")
    try:
        # All scalars as text, and no merge keys, by which a small file can grow without end.
        said = yaml.load(decoded(content), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise HistomixError(f"{where} is not valid YAML; mend it.") from None
    return path.name, said if isinstance(said, dict) else {}


def class_names(
    root: Path, described: tuple[str, Mapping[str, Any]], sections: Sequence[Section]
) -> tuple[str, dict[int, str]]:
    """The names of the classes by YOLO's numbers, and the file that says them; empty where nothing does."""
    file, said = described
    if "names" not in said and (listed := _listed_names(root, sections)):
        return listed
    names = said.get("names")
    if not file:
        return "", {}
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and isinstance(key, str) and key.isdecimal() and len(key) < 9
        for key, name in names.items()
    ):
        raise HistomixError(f"{file} in {root} must name the classes: names: {{0: tumor, 1: stroma}}; mend it.")
    return file, {int(key): name for key, name in sorted(names.items(), key=lambda item: int(item[0]))}


def _listed_names(root: Path, sections: Sequence[Section]) -> tuple[str, dict[int, str]] | None:
    """The names that a text file lists, one a line; an empty line is a class without a name."""
    folders = [root, *(folder for section in sections for folder in (section.labels, section.images.parent) if folder)]
    folders += [section.labels.parent for section in sections if section.labels]
    for wanted in _NAME_LISTS:
        lists = {}
        for folder in dict.fromkeys(folder for folder in folders if folder.is_relative_to(root)):
            for path in (
                path for path in sorted(folder.iterdir()) if path.name.casefold() == wanted and path.is_file()
            ):
                lists[path] = [line.strip() for line in decoded(read_bytes(path, _MAX_YAML)).rstrip().splitlines()]
        if len({tuple(names) for names in lists.values()}) > 1:
            first, second = list(lists)[:2]
            raise HistomixError(
                f"{first.relative_to(root)} and {second.relative_to(root)} name different classes; add a data.yaml "
                "with the names of all."
            )
        for path, names in lists.items():
            if any(names):
                return path.name, {number: name or f"class {number}" for number, name in enumerate(names)}
    return None
