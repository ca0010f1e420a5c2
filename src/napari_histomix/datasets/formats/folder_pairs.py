"""Images and the label files that belong to them, in two folders or in one, whatever these are called.

Names of folders and files say what is an image and what its labels (``images`` and ``gt``, ``a.png`` and
``a_mask.png``); where they do not, a folder of images in color beside one of images with a single channel does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_histomix.datasets.entries import SPLITS, is_split_folder, named_split
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAT_SUFFIXES,
    Listing,
    sections_below,
    sections_of,
    subfolders,
    visible_files,
)
from napari_histomix.datasets.names import composed, paired
from napari_histomix.datasets.pixels import is_gray
from napari_histomix.records import Problem

_IMAGE_WORDS = ("images", "image", "imgs", "img", "tissue", "patches", "tiles", "raw", "inputs", "input", "originals")
_LABEL_WORDS = (
    *("labels", "label", "instances", "instance", "inst", "mat", "masks", "mask", "gt", "gts", "groundtruth", "ground"),
    *("truth", "annotations", "annotation", "segmentations", "segmentation", "segs", "seg"),
)
"""Words by which a folder or a file is one of labels, the likeliest first where there are several."""

_LAST_WORDS = frozenset({"binary", "cp", "semantic", "modify", "border"})
"""Words of labels that are taken where there are no others."""

_OTHER_WORDS = frozenset(
    ("class", "classes", "type", "types", "overlay", "overlays", "origin", "ignore", "distance", "weighted", "vague")
) | {"flows", "cellprob", "dp", "output", "outlines", "heatmap", "heatmaps", "contours", "edges"}
"""Words of folders and files beside images that are neither images nor instances."""

_BESIDE = frozenset({"cp", "map", "maps", "binary"})
"""Words that stand before or behind the one that says what a file is: ``a_cp_masks``, ``a_instance_map``."""

_LOOKED_AT = 3
"""Files of a folder whose channels are counted."""


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of images and of their labels, which may be the same, the folder of their tables, and their split."""

    folder: Path
    split: str
    images: tuple[Path, ...]
    labels: Path

    @property
    def suffixes(self) -> frozenset[str]:
        """Of the label files: MATLAB's where there are any."""
        return MAT_SUFFIXES if _has(self.labels, MAT_SUFFIXES) else LABEL_SUFFIXES

    def files(self, listing: Listing) -> tuple[dict[str, Path], dict[str, Path]]:
        """Images, and label files by the name of the image that they belong to; two files of one name are reported."""
        images: dict[str, Path] = {}
        if self.labels in self.images:
            images, labels = _sorted_out(self.labels, self.suffixes, listing.problems)
        else:
            for folder in self.images:
                for stem, path in listing.images(folder).items():
                    if images.setdefault(stem, path) != path:
                        listing.report(stem, f"{folder.name} holds the second image of that name; rename one.")
            labels = listing.labels(self.labels, self.suffixes)
        partners = _partners(images, labels)
        named = {image: labels[partner] for image, partner in partners.items()}
        for stem in sorted(labels.keys() - set(partners.values())):
            # Those of an image that has better ones are left aside.
            named.setdefault(_base(stem) if _is_label(stem) else stem, labels[stem])
        return images, named


def places(root: Path) -> list[Place]:
    """All places in a root, in its folders for splits, and in the splits of its folders for images."""
    found = [place for folder, split in sections_of(root) for place in _places_in(folder, split)]
    return sorted(found, key=lambda place: SPLITS.index(place.split) if place.split in SPLITS else -1)


def words_of(name: str) -> frozenset[str]:
    """The words of a folder's or a file's name without digits and without those of splits, in lower case."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", composed(name))
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[ _.\-]+", apart.casefold())]
    return frozenset(word for word in words if word and not is_split_folder(word))


def is_images_name(name: str) -> bool:
    """Whether a folder is one of images by its name."""
    words = words_of(name)
    return bool(words & set(_IMAGE_WORDS)) and not _is_label(name) and not words & _OTHER_WORDS


def is_labels_name(name: str) -> bool:
    """Whether a folder is one of labels by its name."""
    return _is_label(name) and not words_of(name) & _OTHER_WORDS


def _is_label(name: str) -> bool:
    return bool(words_of(name) & set(_LABEL_WORDS))


def _likelihood(name: str) -> tuple[bool, int, int, str]:
    """By which the likeliest folder or file of labels or images comes first."""
    words = words_of(name)
    order = _LABEL_WORDS if _is_label(name) else _IMAGE_WORDS
    first = min((order.index(word) for word in words if word in order), default=len(order))
    return bool(words & _LAST_WORDS), first, len(words), name


def _places_in(folder: Path, split: str) -> Iterator[Place]:
    groups: dict[str, list[Path]] = {}
    for inner in subfolders(folder):
        if not is_split_folder(inner.name):
            groups.setdefault(named_split(inner.name), []).append(inner)
    pairs = [(said, *pair) for said, inside in groups.items() if (pair := _halves(folder, inside)) is not None]
    for said, images, labels in pairs:
        below = sections_below(images[0], labels, split or said)
        if not below or _has(images[0], IMAGE_SUFFIXES):
            yield Place(folder, split or said, images, labels)
        yield from (Place(folder, name, (path,), partner) for path, partner, name in below)
    if not pairs and _has(folder, IMAGE_SUFFIXES) and any(_sorted_out(folder, suffixes, [])[1] for suffixes in _KINDS):
        yield Place(folder, split, (folder,), folder)


_KINDS = (MAT_SUFFIXES, LABEL_SUFFIXES)


def _halves(folder: Path, inside: list[Path]) -> tuple[tuple[Path, ...], Path] | None:
    """Folders of images and of labels among those in a folder, which may hold the images itself."""
    inside = [_unwrapped(path) for path in inside if not words_of(path.name) & _OTHER_WORDS]
    images = sorted((path for path in inside if is_images_name(path.name)), key=lambda path: _likelihood(path.name))
    labels = sorted((path for path in inside if is_labels_name(path.name)), key=lambda path: _likelihood(path.name))
    labels = [path for path in labels if _has_labels(path) or path.name.casefold() in ("labels", "masks")]
    if not images and labels and _has(folder, IMAGE_SUFFIXES):
        images = [path for path in [folder] if any(_fit(path, other) for other in labels)]
    if not images:
        images = _only(path for path in inside if path not in labels and _is_color(path))
        images = [path for path in images if any(_fit(path, other) for other in labels or inside)]
    if not labels:
        labels = _only(path for path in inside if _holds_gray(path) and any(_fit(image, path) for image in images))
    if not images or not labels:
        return None
    first = re.sub(r"\d+$", "", images[0].name)
    alike = tuple(path for path in images if re.sub(r"\d+$", "", path.name) == first)
    # The likeliest of those that have labels for these images.
    return alike, next((path for path in labels if any(_fit(image, path) for image in alike)), labels[0])


def _only(paths: Iterable[Path]) -> list[Path]:
    """The path, if there is but one."""
    paths = list(paths)
    return paths if len(paths) == 1 else []


def _unwrapped(folder: Path) -> Path:
    """A folder, or the only one in it, as archives are unpacked: ``Labels/Labels``."""
    inside = subfolders(folder)
    alone = len(inside) == 1 and (is_labels_name(inside[0].name) or is_images_name(inside[0].name))
    return inside[0] if alone and not _has(folder, IMAGE_SUFFIXES | MAT_SUFFIXES) else folder


def _has(folder: Path, suffixes: frozenset[str]) -> bool:
    return next(visible_files(folder, suffixes), None) is not None


def _has_labels(folder: Path) -> bool:
    return any(_has(path, LABEL_SUFFIXES | MAT_SUFFIXES) for path in (folder, *subfolders(folder)))


def _first(folder: Path) -> list[Path]:
    folders = [folder, *(path for path in subfolders(folder) if is_split_folder(path.name))]
    return [path for inner in folders for path in sorted(visible_files(inner, IMAGE_SUFFIXES))[:_LOOKED_AT]]


def _is_color(folder: Path) -> bool:
    files = _first(folder)
    return bool(files) and not all(map(is_gray, files))


def _holds_gray(folder: Path) -> bool:
    files = [path for path in _first(folder) if path.suffix.casefold() in LABEL_SUFFIXES]
    return bool(files) and all(map(is_gray, files))


def _fit(images: Path, labels: Path) -> bool:
    """Whether at least half of the files in one of two folders have a partner in the other."""
    if images == labels:
        return False
    for one, other, _ in [(images, labels, ""), *sections_below(images, labels)]:
        names = {composed(path.stem): path for path in visible_files(one, IMAGE_SUFFIXES)}
        partners = {composed(path.stem): path for path in visible_files(other, LABEL_SUFFIXES | MAT_SUFFIXES)}
        if names and partners and 2 * len(_partners(names, partners)) >= min(len(names), len(partners)):
            return True
    return False


def _base(stem: str) -> str:
    """A file's name without the words that say what it is: ``a_img``, ``a_cp_masks``, ``mask_a``; ``image7`` is 7."""
    words = {*_IMAGE_WORDS, *_LABEL_WORDS, *_BESIDE}
    base = stem
    while (match := re.fullmatch(r"(.+?)[ _.\-]+([^\W\d_]+)", base)) and match[2].casefold() in words:
        base = match[1]
    match = re.fullmatch(r"([^\W\d_]+)(?:[ _.\-]+|(?=\d))(.+)", base)
    return match[2] if base == stem and match and match[1].casefold() in words else base


def _partners(images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, str]:
    """The label file's name of each image: the same, or the same without the words that say what they are."""
    partners = paired(images, labels)
    bases: dict[str, list[str]] = {}
    for stem in labels.keys() - set(partners.values()):
        bases.setdefault(_base(stem).casefold(), []).append(stem)
    left: dict[str, list[str]] = {}
    for stem in images.keys() - partners.keys():
        left.setdefault(_base(stem).casefold(), []).append(stem)
    for base, stems in left.items():
        if len(stems) == 1 and base in bases:
            partners[stems[0]] = min(bases[base], key=_likelihood)
    return partners


def _sorted_out(
    folder: Path, suffixes: frozenset[str], problems: list[Problem]
) -> tuple[dict[str, Path], dict[str, Path]]:
    """The images of a folder and their label files in it, both by name; what is neither is left aside."""
    files: dict[str, list[Path]] = {}
    for path in sorted(visible_files(folder, IMAGE_SUFFIXES)):
        files.setdefault(composed(path.stem), []).append(path)
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    bases = {stem.casefold() for stem in files} | {_base(stem).casefold() for stem in files if not _is_label(stem)}
    for stem, paths in files.items():
        gray = [
            path for path in paths if len(paths) == 2 and path.suffix.casefold() in LABEL_SUFFIXES and is_gray(path)
        ]
        if len(gray) == 1:
            # a.jpg with its labels in a.png
            labels[stem], images[stem] = gray[0], next(path for path in paths if path != gray[0])
        elif len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            problems.append(Problem(stem, f"{stem}: {names} are two image files of one name; keep one of them."))
        elif {before := _in_front(stem, _OTHER_WORDS).casefold(), _base(before)} & bases:
            continue
        elif _is_label(stem) and _base(stem) != stem:
            if paths[0].suffix.casefold() in LABEL_SUFFIXES:
                labels[stem] = paths[0]
        else:
            images[stem] = paths[0]
    if suffixes == MAT_SUFFIXES:
        labels = {composed(path.stem): path for path in sorted(visible_files(folder, suffixes))}
    return images, labels if _partners(images, labels) else {}


def _in_front(stem: str, words: frozenset[str]) -> str:
    """What stands in front of the first of these words in a name; empty if there is none."""
    parts = re.split(r"[ _.\-]+", stem)
    place = next((number for number, part in enumerate(parts) if part.casefold() in words), 0)
    return re.split(rf"[ _.\-]+{re.escape(parts[place])}", stem)[0] if place else ""
