"""One file of outlines for each image: where it lies, the classes that it names, and its nuclei drawn.

What QuPath's GeoJSON, ASAP's XML and HALO's XML share.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import UNCLASSIFIED, UNCLASSIFIED_COLOR, Entry, Labels, Loss, Row, named_classes
from napari_histomix.datasets.formats.folder_pairs import is_labels_name
from napari_histomix.datasets.formats.polygons import Canvas, Ring
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    Listing,
    files_by_stem,
    sections_below,
    sections_of,
    subfolder,
    subfolders,
    visible_files,
)
from napari_histomix.datasets.names import composed
from napari_histomix.datasets.text_files import begins_with, naming
from napari_histomix.records import HistomixError, NucleusClass

HEAD = 2**16
"""Bytes at the beginning of a file by which its format is told."""

IMAGE_FOLDERS = ("images", "tissue images", "image", "imgs", "img", "tiles", "patches")
"""What the folder of the images may be called, in lower case."""

_NO_CLASS = frozenset({"", "none", "null", "nan"})
_GZIP, _OME = ".gz", ".ome"
_EMPTY = re.compile(rb"\A\s*\[\s*\]\s*\Z")
"""A list without objects, of an image without nuclei."""

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One nucleus as a file draws it: its polygons, each an outline and holes that are not closed."""

    polygons: tuple[tuple[Ring, ...], ...]
    name: str = ""  # of its class; empty for none
    color: Color | None = None  # of its class
    synthetic: bool = False  # whether the file says so of it

    @property
    def rings(self) -> tuple[Ring, ...]:
        """Outlines and holes of all polygons."""
        return tuple(ring for polygon in self.polygons for ring in polygon)


@dataclass(slots=True)
class Drawing:
    """What a file draws: nuclei, and how many objects of it are none that can be drawn, by the reason."""

    shapes: list[Shape] = field(default_factory=list)
    lost: Counter[Loss] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SideFiles:
    """A format of such files.

    Parameters
    ----------
    suffixes : mapping of str to bool
        What its files are called, and whether any file of that suffix is one; ``.gz`` may follow.
    mark : pattern
        What the beginning of a file holds.
    folders : tuple of str
        What the folder of the files may be called, in lower case.
    read : function
        Reads a file.
    """

    suffixes: Mapping[str, bool]
    mark: re.Pattern[bytes]
    folders: tuple[str, ...]
    read: Callable[[Path], Drawing]

    def begins(self, *paths: Path) -> bool:
        """Whether any of these files is of the format."""
        return begins_with(paths, self.mark, HEAD) or begins_with(filter(self.sure, paths), _EMPTY, HEAD)

    def files(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """The files of a folder that could be of the format, with their names without suffixes."""
        for path in sorted(visible_files(folder, frozenset({*self.suffixes, _GZIP}))):
            if stem := self.stem(path):
                yield stem, path

    def stem(self, path: Path) -> str:
        """The name of a file without its suffixes; empty where it has others."""
        name = PurePath(composed(path.name))
        name = PurePath(name.stem) if name.suffix.casefold() == _GZIP else name
        return name.stem if name.suffix.casefold() in self.suffixes else ""

    def sure(self, path: Path) -> bool:
        """Whether a file is one of the format by its name alone."""
        return any(self.suffixes.get(suffix.casefold(), False) for suffix in path.suffixes[-2:])


def class_name(text: object) -> str:
    """The name of a class as it is shown; empty where it says that there is none."""
    name = composed(str(text).strip()) if isinstance(text, str) else ""
    return "" if name.casefold() in _NO_CLASS else name


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder of images and the one of their files, which may be the same."""

    images: Path
    labels: Path
    folder: str = ""  # of the split
    split: str = ""


def recognizes(root: Path, kind: SideFiles) -> bool:
    """Whether there are files of a format beside images."""
    return bool(_places(root, kind))


def _places(root: Path, kind: SideFiles) -> list[_Place]:
    """Where a format's files lie: in the root, in the folders of splits, or in those of ``images`` and ``labels``."""
    places = []
    for folder, split in sections_of(root):
        labels, name = _labels(folder, kind), folder.name if split else ""
        if labels is not None:
            places.append(_Place(_images(folder, labels, kind), labels, name, split))
            continue
        images = subfolder(folder, *IMAGE_FOLDERS)
        if images is None:
            continue
        for other in (path for path in subfolders(folder) if path != images):
            for path, files, said in sections_below(images, other, split):
                if kind.begins(*(file for _, file in kind.files(files))):
                    places.append(_Place(path, files, path.name, said))
    return places


def _labels(folder: Path, kind: SideFiles) -> Path | None:
    """The folder of a format's files: one that is called so, the folder itself, or one whose files have its images."""
    named = [path for name in kind.folders if (path := subfolder(folder, name)) is not None]
    for candidate in (*named, folder):
        if kind.begins(*(path for _, path in kind.files(candidate))):
            # Label images, or other files with ids, say more than outlines do.
            return None if subfolder(folder, "labels") not in (None, candidate) else candidate
    taken = {*named, *(path for path, _ in sections_of(folder)), subfolder(folder, *IMAGE_FOLDERS)}
    others = [path for path in subfolders(folder) if path not in taken]
    fitting = [path for path in others if kind.begins(*(file for _, file in kind.files(path)))]
    if any(is_labels_name(path.name) for path in subfolders(folder) if path not in fitting):
        return None
    # A folder that has the images of its files is a dataset of its own.
    fitting = [path for path in fitting if not _shared(path, path, kind)]
    return next((path for path in fitting if _shared(_images(folder, path, kind), path, kind)), None)


def _images(folder: Path, labels: Path, kind: SideFiles) -> Path:
    """The folder of the images: one that is called so, else the folder itself or another one that has them."""
    if (named := subfolder(folder, *IMAGE_FOLDERS)) is not None:
        return named
    others = (path for path in subfolders(folder) if path != labels)
    return next((place for place in (folder, *others) if _shared(place, labels, kind)), folder)


def _shared(images: Path, labels: Path, kind: SideFiles) -> bool:
    """Whether a folder has an image of the name of a file."""
    stems = {stem.casefold() for stem, _ in kind.files(labels)}
    stems |= {PurePath(stem).stem for stem in stems}
    return bool(stems & _by_stem(files_by_stem(images, IMAGE_SUFFIXES, [])).keys())


def _by_stem(images: Iterable[str]) -> dict[str, str]:
    """Images by what a file of theirs may be called, in lower case; QuPath leaves out all of ``.ome.tif``."""
    names = {image.casefold(): image for image in images}
    return {name.removesuffix(_OME): image for name, image in names.items()} | names


def open_side_files(root: Path, mpp: float | None, kind: SideFiles) -> Dataset:
    """List images with a file of the same name each, ``a.geojson`` or ``a.png.geojson``.

    They lie in one folder, or in ``images`` and one beside it, or either of this in folders for splits. Where
    ``dataset.json`` does not list the classes, each file is read once for them, and they are numbered in alphabetical
    order.
    """
    listing = Listing(root, mpp)
    for place in _places(root, kind) or [_Place(root, root)]:
        images = listing.images(place.images)
        labels = _label_files(listing, place.labels, kind, images)
        for image, files in listing.pairs(images, labels).items():
            listing.add(image, files, Row(split=place.split), place.folder)
    classes = listing.classes or _classes(listing, kind)
    return listing.dataset(classes, _Files(class_numbers(classes), kind))


def _label_files(listing: Listing, folder: Path, kind: SideFiles, images: dict[str, Path]) -> dict[str, Path]:
    """The files of a format by image; two for one image are reported, and the image is left out."""
    folded = _by_stem(images)
    candidates: dict[str, list[Path]] = {}
    for stem, path in kind.files(folder):
        shorter = PurePath(stem).stem
        if stem.casefold() not in folded and PurePath(stem).suffix:
            is_image = PurePath(stem).suffix.casefold() in IMAGE_SUFFIXES
            stem = shorter if is_image or shorter.casefold() in folded else stem
        image = stem if stem in images else folded.get(stem.casefold(), stem)
        candidates.setdefault(image, []).append(path)
    chosen = {}
    for image, paths in candidates.items():
        if len(paths) > 1 or not kind.sure(paths[0]):
            # Beside an image there may be a file of settings that has its name.
            marked = [path for path in paths if kind.begins(path)]
            paths = marked or [path for path in paths if kind.sure(path)] or (paths if image in images else [])
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            listing.report(image, f"{names} are two label files of one image; keep one of them.")
            images.pop(image, None)
        elif paths:
            chosen[image] = paths[0]
    return chosen


def _classes(listing: Listing, kind: SideFiles) -> tuple[NucleusClass, ...]:
    """The classes that the files name, in the colors that they give them."""
    names: dict[str, str] = {}
    colors: dict[str, Color] = {}
    for image, (_, path) in list(listing.files.items()):
        with listing.leaving_out(image):
            for shape in kind.read(path).shapes:
                name = shape.name or UNCLASSIFIED
                names.setdefault(name.casefold(), name)
                if shape.color is not None:
                    colors.setdefault(name.casefold(), shape.color)
    colors.setdefault(UNCLASSIFIED, UNCLASSIFIED_COLOR)
    ordered = sorted(names, key=lambda key: (key == UNCLASSIFIED, key))
    named = zip(ordered, named_classes(*(names[key] for key in ordered)), strict=True)
    return tuple(replace(known, color=colors.get(key, known.color)) for key, known in named)


def class_numbers(classes: Iterable[NucleusClass]) -> dict[str, int]:
    """Class numbers by name in lower case."""
    return {(known.name.strip() or UNCLASSIFIED).casefold(): known.number for known in classes}


@dataclass(frozen=True)
class _Files(ImageFiles):
    numbers: Mapping[str, int]  # of the classes, by name in lower case
    kind: SideFiles

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        with naming(entry.label_file.name):
            return draw(self.kind.read(entry.label_file), shape, self.numbers)


def draw(drawing: Drawing, shape: tuple[int, int], numbers: Mapping[str, int]) -> Labels:
    """Draw the objects of a file into an instance map, in their order."""
    canvas, synthetic = Canvas(shape), set()
    canvas.lost.update(drawing.lost)
    for item in drawing.shapes:
        key = item.name.casefold()
        if key not in numbers and item.name and key != UNCLASSIFIED:
            raise HistomixError(
                f"an object is of the class {item.name!r}, which the dataset does not list; add it there."
            )
        number = canvas.draw(item.rings, numbers.get(key or UNCLASSIFIED, 0))
        if item.synthetic and number:
            synthetic.add(number)
    return canvas.labels(synthetic, drawing.notes)
