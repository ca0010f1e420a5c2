"""COCO's files in a folder: which JSON files they are, what split each is for, and which image file they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from napari_histomix.datasets.entries import is_split_folder, named_split, split_name
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    Listing,
    folder_split,
    folders_below,
    subfolders,
    telling,
    visible_files,
)
from napari_histomix.datasets.names import composed, stated_path

Record = Mapping[str, Any]
"""An image or an annotation as a file says it."""
_JSON = frozenset({".json"})
_SMALL = 2**20
"""Bytes of a JSON file that is read whole to see what it is; of a larger one the beginning tells."""
_LOOKED_AT = 20
"""Files of a folder that are looked into before it is taken for one of another format."""
_DEEPEST = 2
"""How many folders deep they lie, as in ``batch 1/annotations``."""
_FIRST_KEY = re.compile(
    rb'^(\xef\xbb\xbf)?\s*\{\s*"(info|images|annotations|categories|licenses|type|version|description)"\s*:'
)
_LIST = re.compile(rb'"(images|annotations)"\s*:\s*\[')
_INSTANCES = re.compile(r"instances[-_ ]+(.+)", re.IGNORECASE)
_PLAIN_WORDS = re.compile(
    r"(instances?|annotations?|coco|labels?|results?|default|all|export|data|dataset|json|segmentation|masks|nuclei|objects"
    r"|[0-9]+)?"
)
"""Words in the name of a JSON file that say nothing of a split."""
_MOST_ALIKE = 100
"""Images of one name that are compared; of more, none is the one that is meant."""
_FOLDERS_COMPARED = 3
_OTHER_SUFFIXES = IMAGE_SUFFIXES | {"", ".bmp", ".gif", ".webp", ".jp2", ".svs", ".ndpi", ".mrxs", ".scn"}
"""What an image may have been before it was saved as what lies there."""


def is_coco(path: Path) -> bool:
    """Whether a JSON file is COCO's by what is in it: lists of images, and of annotations or categories."""
    with path.open("rb") as stream:
        content = stream.read(_SMALL + 1)
    if len(content) <= _SMALL:
        try:
            keys = json.loads(content)
            return isinstance(keys, dict) and "images" in keys and ("annotations" in keys or "categories" in keys)
        except (ValueError, RecursionError):
            # It may be COCO's, and damaged: reading it says so.
            return bool(_FIRST_KEY.search(content))
    return bool(_FIRST_KEY.search(content) and _LIST.search(content))


@dataclass(frozen=True, slots=True)
class Subset:
    """One of COCO's files: where it lies, and the name of the split that it or its folder states, as it is written."""

    path: Path
    name: str = ""

    @property
    def split(self) -> str:
        return split_name(self.name)


def subsets_in(root: Path, *, looking: bool = False) -> list[Subset]:
    """COCO's files, those for training first; ``looking`` into a folder, the first few files of each one in it will do.

    They lie in the root, in ``annotations``, in folders for splits, or in folders of other names if all of these have
    some. A file without a word on its split may say so by the folder it lies in; a name that is no known split's is one
    as well where there are several files.
    """
    paths: list[tuple[Path, list[str]]] = []
    for folder, names in folders_below(root):
        if len(names) > _DEEPEST:
            break
        files = sorted(visible_files(folder, _JSON))
        # COCO's own folder has captions and key points beside the instances.
        files = [path for path in files if path.name.casefold().startswith("instances_")] or files
        paths += [(path, telling(names)) for path in (files[:_LOOKED_AT] if looking else files) if is_coco(path)]
    others = {composed(path.name) for path in subfolders(root) if not is_split_folder(path.name)}
    if any(name not in {names[0] for _, names in paths if names} for name in telling(sorted(others))):
        paths = [(path, names) for path, names in paths if not names or names[0] not in others]
    subsets = [Subset(path, _stated(path, names, len(paths) == 1)) for path, names in paths]
    return sorted(subsets, key=lambda subset: subset.split not in ("train", ""))


def _stated(path: Path, folders: Sequence[str], alone: bool) -> str:
    """The split that a file or its folders state; where it is none that is known, its name as it is written."""
    stem = composed(path.stem)
    instances = _INSTANCES.fullmatch(stem)
    words = instances[1] if instances else stem
    of_file = split_name(words) if is_split_folder(words) else named_split(words)
    of_folder = folder_split(folders)
    if of_file or of_folder:
        # Where they disagree, what is not for training must not become so.
        return of_folder if of_file in ("", "train") and of_folder else of_file
    if instances and not says_nothing(words):
        return words
    if alone:
        return ""
    if folders:
        return folders[-1]
    return "" if says_nothing(words) else words


def says_nothing(stem: str) -> bool:
    """Whether the name of a JSON file is one that programs give whatever is in it."""
    return all(_PLAIN_WORDS.fullmatch(word) for word in re.split(r"[\W_]+", stem.casefold()))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file and the names of the folders it lies in, on the way from the root."""

    path: Path
    folders: tuple[str, ...]

    @property
    def split(self) -> str:
        return folder_split(self.folders)

    def lies_in(self, subset: Subset) -> bool:
        """Whether one of its folders is that of a subset."""
        return any(
            _same(name, subset.name) or (is_split_folder(name) and split_name(name) == subset.split)
            for name in self.folders
        )


@dataclass(frozen=True, slots=True)
class Match:
    """An image file that a file may mean: how much of the path is the same, and what else speaks for it."""

    picture: Picture
    same: int
    score: tuple[int, ...]

    @property
    def is_named(self) -> bool:
        """Whether a folder that says something, as ``images`` does not, is the same."""
        return bool(telling(self.picture.folders[len(self.picture.folders) - self.same :]))


class Pictures:
    """All image files below a root, found by what a JSON file says of them, which is never made into a path."""

    def __init__(self, root: Path, subsets: Sequence[Subset]) -> None:
        self._by_stem: dict[str, list[Picture]] = {}
        self._unread: set[str] = set()
        for folder, names in folders_below(root):
            self._unread |= {
                _folded(path.stem) for path in visible_files(folder, _OTHER_SUFFIXES - IMAGE_SUFFIXES - {""})
            }
            for path in sorted(visible_files(folder, IMAGE_SUFFIXES)):
                self._by_stem.setdefault(_folded(path.stem), []).append(Picture(path, names))
        self._by_place: dict[tuple[str, ...], list[Picture]] = {}
        for stem, group in self._by_stem.items():
            for picture in group:
                for count in range(min(len(picture.folders), _FOLDERS_COMPARED) + 1):
                    place = (*map(_folded, picture.folders[len(picture.folders) - count :]), stem)
                    self._by_place.setdefault(place, []).append(picture)
        every = [picture for group in self._by_stem.values() for picture in group]
        self._subsets = subsets
        self._own = {subset.path for subset in subsets if any(picture.lies_in(subset) for picture in every)}

    def meant(self, text: str, subset: Subset) -> list[Match]:
        """The images that a subset means by a file name: one, none, or several between which nothing decides."""
        for stated in _readings(text):
            pictures = self._named(stated)
            if len(pictures) > _MOST_ALIKE:
                return [Match(picture, 0, ()) for picture in pictures]
            matches = [self._match(picture, stated, subset) for picture in pictures]
            matches = [match for match in matches if match.is_named or not self._is_foreign(match.picture, subset)]
            if matches:
                best = max(match.score for match in matches)
                return [match for match in matches if match.score == best]
        return []

    def why_not(self, text: str) -> str:
        """What a person can do about an image that is not there."""
        if any(_folded(stated.stem) in self._unread for stated in _readings(text)):
            return "lists it but it is no PNG, TIFF or JPEG; save it as one of these."
        return "lists it but no such image is there; add it."

    def _named(self, stated: PurePosixPath) -> list[Picture]:
        stems = [_folded(stated.name)]
        if stated.suffix and stated.suffix.casefold() in _OTHER_SUFFIXES:
            stems.append(_folded(stated.stem))
        # Of thousands of images of one name, those in folders of the names that are stated are all that matters.
        folders = [_folded(name) for name in stated.parent.parts[-_FOLDERS_COMPARED:]]
        for start in range(len(folders) + 1):
            pictures = [picture for stem in stems for picture in self._by_place.get((*folders[start:], stem), [])]
            if pictures:
                return pictures
        return []

    def _match(self, picture: Picture, stated: PurePosixPath, subset: Subset) -> Match:
        said = [part for part in stated.parent.parts if part not in ("..", ".", "/")]
        same = 0
        while same < min(len(said), len(picture.folders)) and _same(said[-1 - same], picture.folders[-1 - same]):
            same += 1
        name = composed(picture.path.name)
        own = bool(subset.name) and picture.lies_in(subset)
        alike = 2 if name == stated.name else int(_same(name, stated.name))
        in_images = any(part.casefold() == "images" for part in picture.folders)
        near = subset.path.parent == picture.path.parent
        return Match(picture, same, (same, own, alike, near, in_images))

    def _is_foreign(self, picture: Picture, subset: Subset) -> bool:
        """Whether an image lies in the folder of another subset, while this one has a folder as well."""
        if subset.path not in self._own or picture.lies_in(subset):
            return False
        others = (other for other in self._subsets if other.name and other.split != subset.split)
        return bool(picture.split) or any(picture.lies_in(other) for other in others)


def _readings(text: str) -> list[PurePosixPath]:
    """What a file name may mean: as it is written, as a path of another system, as an address on the web."""
    plain = PurePosixPath(composed(text).replace("\\", "/"))
    stated = stated_path(text)
    readings = dict.fromkeys([plain, stated, PurePosixPath(composed(unquote(str(stated))))])
    return [reading for reading in readings if reading.name]


def _folded(name: str) -> str:
    return composed(name).casefold()


def _same(name: str, other: str) -> bool:
    return _folded(name) == _folded(other)


def images_of(
    records_of: Mapping[Subset, Sequence[Record]], listing: Listing
) -> dict[Subset, dict[Picture, list[Record]]]:
    """The image files that each of COCO's files means, with what it says of each; what is in doubt is reported.

    An image that several files list is of the one that is not for training.
    """
    assigned: dict[Subset, dict[Picture, list[Record]]] = {subset: {} for subset in records_of}
    pictures = Pictures(listing.root, list(records_of))
    taken: dict[Path, Subset] = {}
    for subset in sorted(records_of, key=lambda subset: subset.split in ("train", "")):
        where, claims = subset.path.name, _claims(records_of[subset], pictures, subset, listing)
        doubled: dict[str, int] = {}
        for picture, records in claims.items():
            other = taken.setdefault(picture.path, subset)
            if other is subset:
                assigned[subset][picture] = records
            else:
                doubled[other.path.name] = doubled.get(other.path.name, 0) + 1
        for other_name, count in doubled.items():
            images = "1 of its images is" if count == 1 else f"{count:,} of its images are"
            listing.report(where, f"{images} in {other_name} too and read as that says; list each image once.")
        moved = [
            picture for picture in assigned[subset] if subset.split == "train" and picture.split not in ("", "train")
        ]
        if moved:
            images = "1 of its images lies" if len(moved) == 1 else f"{len(moved):,} of its images lie"
            listing.report(
                where, f"{images} in the folder of the split {moved[0].split}; nothing is learned from there."
            )
    return assigned


def _claims(
    records: Sequence[Record], pictures: Pictures, subset: Subset, listing: Listing
) -> dict[Picture, list[Record]]:
    """The image files that one of COCO's files means, each with the records that mean it."""
    matches: dict[Picture, list[tuple[Match, Record]]] = {}
    for record in records:
        meant = pictures.meant(record["file_name"], subset)
        if len(meant) == 1:
            matches.setdefault(meant[0].picture, []).append((meant[0], record))
        elif meant:
            listing.report(
                record["file_name"][:200],
                f"{subset.path.name} lists it and {len(meant)} images could be meant; write their folders in there.",
            )
        else:
            listing.report(record["file_name"][:200], f"{subset.path.name} {pictures.why_not(record['file_name'])}")
    claims: dict[Picture, list[Record]] = {}
    for picture, group in matches.items():
        closest = max(match.same for match, _ in group)
        meaning = [record for match, record in group if match.same == closest]
        for record in (record for match, record in group if match.same < closest):
            listing.report(record["file_name"][:200], f"{subset.path.name} {pictures.why_not(record['file_name'])}")
        if len({record["file_name"] for record in meaning}) == 1:
            claims[picture] = meaning
        else:
            names = " and ".join(record["file_name"][:100] for record in meaning[:2])
            listing.report(picture.path.name, f"{subset.path.name} lists {names}, which both mean it; rename one.")
    return claims
