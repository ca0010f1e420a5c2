"""Why a folder is of no format that is read: what it holds instead, and what was nearest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from napari_histomix.datasets.entries import UnknownLayoutError
from napari_histomix.datasets.formats import FORMATS, Format, recognized
from napari_histomix.datasets.formats.folder_pairs import is_images_name, is_labels_name, places
from napari_histomix.datasets.formats.foreign import LABEL_SUFFIXES as FOREIGN_SUFFIXES
from napari_histomix.datasets.formats.foreign import refusal
from napari_histomix.datasets.listing import IMAGE_SUFFIXES, subfolder, subfolders, visible_files
from napari_histomix.records import HistomixError

NUCLEI_LAYOUTS = "read are " + "; ".join(
    known.title for known in FORMATS.values() if known.holds == "nuclei" and known.name != "plain"
)
NUCLEI_LAYOUTS += "; and the folders Images and Labels with a label image for each image, whatever they are called"

_BY_NAMES = ("plain", "tiff-pairs")
"""Formats of which a folder without any image may be by the names of its folders."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".tar.bz2", ".tar.xz")
_SLIDES = frozenset(
    (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".czi", ".vsi", ".lif", ".qptiff", ".dcm", ".isyntax")
)
_DEEPEST = 3
"""How many folders below one another are looked into."""
_MOST = 5_000
"""Files that are looked at."""


def is_half(root: Path) -> bool:
    """Whether a folder is half a dataset by the names of its folders, or by its own."""
    return _is_in_one(root) or (subfolder(root, "images") is None) != (subfolder(root, "labels") is None)


def why_unknown(root: Path, otherwise: str = "") -> HistomixError:
    """The error about a folder that is of no format, half a dataset or something else; it names all that are read."""
    if _is_in_one(root):
        return HistomixError(f"{root} is one half of a dataset; choose the folder it lies in, {root.parent}.")
    files = list(_files(root))
    if hint := _which_folder(root):
        # No list of formats: what is there is of a format, and the list would bury what to do.
        return UnknownLayoutError(f"{root} holds no labeled images: {hint}.")
    if hint := _nearest(root, files):
        return UnknownLayoutError(f"{root} holds no labeled images: {hint}; {NUCLEI_LAYOUTS}{otherwise}.")
    images, labels = subfolder(root, "images"), subfolder(root, "labels")
    others = [path for path in files if not _is_image(path)]
    if images is not None and labels is None and not others:
        return HistomixError(f"{root} has images but no folder Labels; put the label files there.")
    if labels is not None and images is None:
        return HistomixError(f"{root} has labels but no folder Images; put the images there.")
    held = _held(files)
    if not held:
        what = "holds no labeled images, nor any files"
    elif len(others) == len(files):
        what = f"holds no labeled images but {held}"
    elif not others:
        what = f"holds images but no labels ({held}): the tab Find nuclei or histomix segment-nuclei can make them"
    else:
        what = f"holds {held}, but no labels in a form that is read"
    return UnknownLayoutError(f"{root} {what}; {NUCLEI_LAYOUTS}{otherwise}.")


def _is_in_one(root: Path) -> bool:
    """Whether a folder is that of the images or of the labels in a dataset."""
    if not is_images_name(root.name) and not is_labels_name(root.name):
        return False
    return any(root in (*part.images, part.labels) for part in places(root.parent))


def deeper(root: Path) -> list[tuple[Path, Format]]:
    """The first folders in another one that are of a format, at most two, and this format."""
    found: list[tuple[Path, Format]] = []
    for inner in subfolders(root):
        format = recognized(inner) if len(found) < 2 and _has_more(inner) else None
        if format is not None and (format.name not in _BY_NAMES or any(map(_is_image, _files(inner)))):
            found.append((inner, format))
    return found


def _has_more(folder: Path) -> bool:
    """Whether a folder holds more than images by its listing; what many thousands of images are is asked but once."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return any(not _is_image(path) or is_labels_name(path.stem) for path in visible)


def are_deeper(root: Path) -> bool:
    """Whether the folders in the root are datasets of nuclei, and no classes of images.

    By their names, one holds a folder of images and one of labels; or two, or all that have images, are of a format.
    """
    insides = ([path.name for path in subfolders(inner)] for inner in subfolders(root))
    if any(any(map(is_images_name, names)) and any(map(is_labels_name, names)) for names in insides):
        return True
    known = [path for path, _ in deeper(root)]
    others = (path for path in subfolders(root) if path not in known)
    return len(known) > 1 or (bool(known) and not any(map(_is_image, chain.from_iterable(map(_files, others)))))


def _is_image(path: Path) -> bool:
    return path.suffix.casefold() in IMAGE_SUFFIXES


def _files(root: Path) -> Iterator[Path]:
    """Visible files and Zarr folders in a root and in its folders, those of the root first."""
    level, count = [root], 0
    for _ in range(_DEEPEST):
        deeper: list[Path] = []
        for folder in level:
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    continue
                if path.is_dir() and path.suffix.casefold() != ".zarr":
                    deeper.append(path)
                    continue
                yield path
                count += 1
                if count >= _MOST:
                    return
        level = deeper


def _which_folder(root: Path) -> str:
    """Which folders in this one are datasets, and what to do; empty where none is."""
    if any(map(_has_mask_per_nucleus, subfolders(root))) or not (inner := deeper(root)):
        return ""
    names = " and ".join(folder.name for folder, _ in inner)
    if len(inner) == 1:
        return f"its folder {names} holds them ({inner[0][1].title}); choose that one"
    return f"its folders {names} hold them; choose one of them, or name them train, val and test if they are splits"


def _nearest(root: Path, files: list[Path]) -> str:
    """What the folder holds that is known and not read, and what to do; empty where nothing is."""
    if one_each := next((folder for folder in subfolders(root) if _has_mask_per_nucleus(folder)), None):
        return (
            f"{one_each.name} has a mask file for each nucleus, which is not read; write the masks of an image into "
            "one label image"
        )
    by_suffix: dict[str, list[Path]] = {}
    for path in files:
        by_suffix.setdefault(path.suffix.casefold(), []).append(path)
    if archives := [path for path in files if path.name.casefold().endswith(_ARCHIVES)]:
        what = "is an archive; unpack what it holds" if len(archives) == 1 else "are archives; unpack them"
        return f"{_names(archives)} {what}"
    if packed := by_suffix.get(".gz"):
        return f"{_names(packed)} {'is compressed; unpack it' if len(packed) == 1 else 'are compressed; unpack them'}"
    if slides := [path for suffix in sorted(_SLIDES & by_suffix.keys()) for path in by_suffix[suffix]]:
        return f"whole slides ({_names(slides)}) are not read; cut out images of at most some thousand pixels a side"
    arrays = by_suffix.get(".npy", [])
    if seg := [path for path in arrays if path.stem.endswith("_seg")]:
        return (
            f"Cellpose's _seg.npy ({_names(seg)}) are pickles, which are not opened; save the masks as PNG or TIFF in "
            "Cellpose"
        )
    if arrays:
        return (
            f"arrays ({_names(arrays)}) are read as PanNuke has them, images.npy with masks.npy; save others as images "
            "and label images"
        )
    for suffix in sorted(FOREIGN_SUFFIXES & by_suffix.keys()):
        for path in by_suffix[suffix]:
            if sentence := refusal(path):
                return sentence.removesuffix(".")
    return ""


def _has_mask_per_nucleus(folder: Path) -> bool:
    """Whether a folder is one image of the Data Science Bowl 2018: ``images`` with it, ``masks`` with many files."""
    images, masks = subfolder(folder, "images"), subfolder(folder, "masks")
    if images is None or masks is None:
        return False
    return (
        sum(1 for _ in visible_files(images, IMAGE_SUFFIXES))
        == 1
        < sum(1 for _ in visible_files(masks, IMAGE_SUFFIXES))
    )


def _names(paths: list[Path]) -> str:
    names = sorted(path.name for path in paths)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def _held(files: list[Path]) -> str:
    """How many files of what kind there are, in words."""
    images = sum(map(_is_image, files))
    others = Counter(
        path.suffix.casefold() or path.name for path in files if path.suffix.casefold() not in IMAGE_SUFFIXES
    )
    counts = [f"{images:,} image{'' if images == 1 else 's'}"] if images else []
    counts += [f"{count:,} {suffix} file{'' if count == 1 else 's'}" for suffix, count in others.most_common(3)]
    return ", ".join(counts)
