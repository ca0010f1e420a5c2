"""What writers of datasets share: names that every disk takes, small files, and folders that are complete or absent."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count, takewhile
from pathlib import Path
from typing import IO, Any
from unicodedata import category, normalize

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_histomix.datasets.text_files import writable
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

SYNTHETIC_NOTICE = "SYNTHETIC, not for diagnosis"
"""Written into the ``Description`` of every synthetic image."""

_REFUSED = '/\\:<>|?*"'
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|$)", re.IGNORECASE)
"""What Windows keeps for devices, whatever follows the first dot."""
_LONGEST = 120


@contextmanager
def complete_or_absent(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which takes its place at the end; after a failure nothing is left."""
    partial: Path | None = None
    try:
        with writable(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
            # mkdtemp makes folders only their owner may enter; an export is an ordinary folder.
            partial.chmod(0o755)
            yield partial
            # Renaming onto an empty folder would replace it without a word.
            if out.exists():
                raise HistomixError(f"{out} already exists; name a new folder.")
            partial.rename(out)
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial)


def check_place(out: Path, kind: str = "folder") -> None:
    """Raise HistomixError if a new folder or file cannot be written there: before long work, not after it.

    What the disk thinks of it is tried out; nothing of that stays.
    """
    place = Path(out).absolute()
    if os.path.lexists(place):
        raise HistomixError(f"{out} already exists; name a new {kind}.")
    made: list[Path] = []
    try:
        with writable(out):
            missing = list(takewhile(lambda folder: not folder.exists(), place.parents))
            there = place.parents[len(missing)]
            if not there.is_dir():
                raise HistomixError(f"{there} is a file, not a folder; choose another place than {out}.")
            for folder in reversed(missing):
                folder.mkdir()
                made.append(folder)
            Path(tempfile.mkdtemp(prefix=f".{place.name}-", suffix=".partial", dir=place.parent)).rmdir()
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def write_png(
    path: Path | IO[bytes],
    pixels: NDArray[np.uint8],
    mpp: float | None = None,
    synthetic: bool = False,
    *,
    description: str = "",
) -> None:
    """Write a PNG file whose bytes depend on the arguments alone."""
    info = PngInfo()
    if synthetic or description:
        info.add_text("Description", SYNTHETIC_NOTICE if synthetic else description)
    density: dict[str, Any] = {} if mpp is None else {"dpi": (25400 / mpp, 25400 / mpp)}
    Image.fromarray(pixels).save(path, "PNG", pnginfo=info, **density)


def write_tiff(path: Path, array: NDArray[np.generic], **tags: Any) -> None:
    """Write RGB (H, W, 3) or ids (H, W) as a TIFF whose bytes depend on the arguments alone."""
    photometric = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(path, array, photometric=photometric, compression="zlib", metadata=None, software=False, **tags)


def write_tiff_image(path: Path, image: LabeledImage, synthetic: bool) -> None:
    """Write the pixels of an image as a TIFF that states its scale."""
    density = 10_000 / image.mpp
    description = SYNTHETIC_NOTICE if synthetic else None
    tags = {"resolution": (density, density), "resolutionunit": "CENTIMETER", "description": description}
    write_tiff(path, image.pixels, **tags)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 with plain line ends."""
    path.write_text(text, encoding="utf-8", newline="\n")


def smallest_ids(instances: NDArray[np.int32]) -> NDArray[np.uint16] | NDArray[np.int32]:
    """Ids in 16 bits where they fit."""
    return instances.astype(np.uint16) if instances.max(initial=0) <= np.iinfo(np.uint16).max else instances


def check_name(name: str) -> None:
    """Raise HistomixError if a name cannot be that of an image file, or would lead out of its folder."""
    if not name or name.startswith(".") or set(name) & {*_REFUSED, "\0"}:
        raise HistomixError(f"{name!r} cannot be the name of an image file; use letters, digits, - and _.")


def safe_name(text: str, otherwise: str = "image") -> str:
    """A name that every disk takes as one folder or file, and a CSV as it is; ``otherwise`` where nothing is left."""
    text = "".join(
        " " if character.isspace() else "-" if character in _REFUSED or category(character)[0] == "C" else character
        for character in normalize("NFC", text)
    )
    # Disks count bytes; no character is cut in two.
    text = text.encode()[:_LONGEST].decode(errors="ignore")
    # A leading dot hides a file; Windows drops dots and spaces at the end.
    text = text.strip(" .").lstrip(" .-") or otherwise
    return _DEVICE.sub(r"\1_", text)


class Names:
    """Gives out names of one folder, none of them twice, upper and lower case being equal on many disks."""

    def __init__(self, *taken: str) -> None:
        self.taken = {name.casefold() for name in taken}

    def unique(self, *wanted: str) -> str:
        """The first of these that is free, or the last with a number."""
        candidates = chain(wanted, (f"{wanted[-1]}-{number}" for number in count(2)))
        name = next(name for name in candidates if name.casefold() not in self.taken)
        self.taken.add(name.casefold())
        return name


def class_table(classes: Iterable[NucleusClass]) -> dict[str, list[Any]]:
    """Classes as ``{"1": ["name", [r, g, b]], …}``, by number: what ``entries.classes_of`` reads."""
    ordered = sorted(classes, key=lambda known: known.number)
    return {str(known.number): [known.name, list(known.color)] for known in ordered}


def write_type_info(folder: Path | str, classes: Iterable[NucleusClass]) -> None:
    """Write HoVer-Net's ``type_info.json``, background included, into a folder that is there."""
    info = {"0": ["background", [0, 0, 0]], **class_table(classes)}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in info.items())
    write_text(Path(folder) / "type_info.json", f"{{\n{lines}\n}}\n")


def write_dataset_json(folder: Path | str, *, name: str, mpp: float | None = None, **more: Any) -> None:
    """Write ``dataset.json``: the dataset's name, µm per pixel if it is one for all images, and anything else given.

    That is plain JSON values, such as ``license``, ``split`` or ``classes`` (see `class_table`).
    """
    content = {"name": name, **({} if mpp is None else {"mpp": mpp}), **more}
    write_text(Path(folder) / "dataset.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class ImageWriter:
    """Writes a dataset into a folder that is there and empty: images, ``dataset.json``, and what its heirs add.

    An image's file is ``original`` if it is unchanged; ``finish`` writes what comes after all images.
    """

    has_type_info = False
    """Whether ``type_info.json`` is written too."""
    parts: tuple[str, ...] = ()
    """Folders that images and labels are written into."""

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass], kinds: Sequence[str] = ()) -> None:
        self.folder, self.name, self.classes, self.kinds = folder, name, tuple(classes), tuple(kinds)
        self.scales: set[float] = set()
        self.has_synthetic = False
        for part in self.parts:
            (folder / part).mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        """Prepare what is written before the first image, and what is counted."""

    def add(self, image: LabeledImage, *, synthetic: bool, original: Path | None = None) -> str:
        """Write one image and its labels; returns its name, or its path in the folder, with ``/``."""
        check_name(image.source.image)
        check_classes(image, self.classes)
        self.scales.add(image.mpp)
        self.has_synthetic |= synthetic
        self.write(image, synthetic)
        return image.source.image

    def include(self, known: NucleusClass) -> None:
        """Take in a class that comes to light while images are written; the others keep their numbers."""
        self.classes = (*self.classes, known)

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        """Write one image, whose name is a plain file name, and its labels."""

    def write_image(self, image: LabeledImage, synthetic: bool) -> None:
        """Write the pixels of one image."""
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        write_png(folder / f"{image.source.image}.png", image.pixels, image.mpp, synthetic)

    def finish(self) -> None:
        """Write the files about all images."""
        self.describe(self.classes)
        if self.has_type_info:
            write_type_info(self.folder, self.classes)

    @property
    def mpp(self) -> float | None:
        """The scale of all images; where they differ in it, only their own files say it."""
        return next(iter(self.scales)) if len(self.scales) == 1 else None

    def describe(self, classes: Iterable[NucleusClass], **more: Any) -> None:
        """Write ``dataset.json``."""
        notice = {"notice": SYNTHETIC_NOTICE} if self.has_synthetic else {}
        write_dataset_json(self.folder, name=self.name, mpp=self.mpp, classes=class_table(classes), **more, **notice)


def check_classes(image: LabeledImage, classes: Sequence[NucleusClass]) -> None:
    """Raise HistomixError if a nucleus of an image is of none of the classes."""
    if unknown := image.counts().keys() - {known.number for known in classes}:
        raise HistomixError(
            f"{image.source.image}: nuclei have the type {min(unknown)}, which is none of the classes; add it to them."
        )


IGNORED = 255
"""The value of pixels that do not count: what PyTorch's losses are given as ``ignore_index``."""


def class_map(image: LabeledImage) -> NDArray[np.uint8]:
    """The class number of every pixel (H, W), 0 = background."""
    ids, places = np.unique(image.instances, return_inverse=True)
    numbers = np.array([image.types[instance] if instance else 0 for instance in ids.tolist()])
    if numbers.max(initial=0) >= IGNORED:
        raise HistomixError(
            f"{image.source.image}: a map of classes has room for the numbers 1 to {IGNORED - 1}, and one of its "
            f"classes is number {numbers.max()}; give the classes smaller numbers."
        )
    return numbers.astype(np.uint8)[places].reshape(image.instances.shape)


def write_ignore(folder: Path, name: str, band: NDArray[np.bool_], class_map: NDArray[np.uint8]) -> None:
    """Write ``ignore/NAME.png``: the map of classes, with 255 where the band is."""
    check_name(name)
    if band.shape != class_map.shape or band.dtype != np.bool_ or class_map.dtype != np.uint8:
        raise HistomixError(f"{name}: the ignore band must be (H, W) bool and of the size of the uint8 class map.")
    (folder / "ignore").mkdir(exist_ok=True)
    write_png(folder / "ignore" / f"{name}.png", np.where(band, np.uint8(IGNORED), class_map))
