"""The pixels and masks of changes beside a study's database: PNG files in plain ZIP archives.

Each archive is written under another name and renamed when it is whole and on disk; only then does the database speak
of it. A picture is read from its place in the archive, without the archive's directory; any program that opens ZIP
files shows the same pictures.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.records import KEEP, Change, HistomixError

FOLDER = "pictures"
HEADER = 30
"""Bytes before the name in a ZIP archive's local header."""
GRAY_LABELS = 63
"""Labels that fit, beside the origin, into a gray picture of 8 bits."""

Place = tuple[int, int, int, int]
"""Where two pictures lie in an archive: first byte and size of the pixels, then of the masks."""


def packed_masks(change: Change) -> tuple[NDArray[np.uint8], list[int] | None]:
    """Origin and labels of a change as one picture, and the labels that its numbers stand for.

    The two lowest bits of the first channel are the origin; what is above, with the other two channels below it, counts
    in the list of labels from 1. Few labels make a gray picture, many a colored one.
    """
    if change.labels is None:
        return change.origin, None
    values, places = np.unique(change.labels, return_inverse=True)
    labels = [int(value) for value in values if value != KEEP]
    index = places.reshape(change.labels.shape).astype(np.int64) + (0 if KEEP in values else 1)
    if len(labels) <= GRAY_LABELS:
        return np.asarray(change.origin | (index << 2), np.uint8), labels
    channels = change.origin | (index >> 16 << 2), index >> 8 & 255, index & 255
    return np.stack(channels, axis=-1).astype(np.uint8), labels


def unpacked_masks(
    picture: NDArray[np.uint8], labels: Sequence[int] | None
) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
    """Origin (h, w) and labels (h, w), or None, of what ``packed_masks`` made."""
    if labels is None:
        return picture, None
    if picture.ndim == 2:
        first, index = picture, picture.astype(np.int64) >> 2
    else:
        first = picture[..., 0]
        high, middle, low = np.moveaxis(picture.astype(np.int64), -1, 0)
        index = high >> 2 << 16 | middle << 8 | low
    return np.asarray(first & 3, np.uint8), np.array([KEEP, *labels], np.int32)[index]


def packed(pictures: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]) -> tuple[bytes, list[Place]]:
    """An archive of PNG files, two for each name: pixels and masks; and where they lie in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as pile:
        places = [
            (*_add(pile, f"{name}.png", pixels), *_add(pile, f"{name}-origin.png", masks))
            for name, pixels, masks in pictures
        ]
    return stream.getvalue(), places


def _add(pile: zipfile.ZipFile, name: str, picture: NDArray[np.uint8]) -> tuple[int, int]:
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    # Without a date: the same pictures make the same archive.
    info = zipfile.ZipInfo(name)
    pile.writestr(info, png.getvalue())
    return info.header_offset + HEADER + len(name.encode()), info.file_size


def archive(folder: Path, pack: int) -> Path:
    """Path of an archive."""
    return folder / FOLDER / f"{pack:06}.zip"


def write_pack(folder: Path, pack: int, content: bytes) -> None:
    """Write an archive into a study's folder; one that the database does not speak of is replaced.

    Raises HistomixError if the disk is full or cannot be written; nothing is left then.
    """
    path = archive(folder, pack)
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(exist_ok=True)
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        # Bring the renaming to disk as well, where the system has a way.
        if os.name == "posix":
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise HistomixError(
            f"The pictures could not be written to {folder} ({error.strerror or error}); free space and try again."
        ) from None


def read_picture(folder: Path, pack: int, at: int, size: int) -> NDArray[np.uint8]:
    """A picture by its place in an archive; HistomixError if the archive is missing or damaged."""
    path = archive(folder, pack)
    try:
        with path.open("rb") as stream:
            stream.seek(at)
            with Image.open(io.BytesIO(stream.read(size)), formats=["PNG"]) as image:
                return np.array(image, np.uint8)
    except (OSError, SyntaxError, ValueError, struct.error):  # what Pillow makes of damaged bytes
        raise HistomixError(f"{path} is missing or damaged; restore it from a backup.") from None
