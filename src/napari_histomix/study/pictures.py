"""The pixels of synthetic nuclei and images beside a study's database: PNG files in plain ZIP archives.

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

from napari_histomix.records import HistomixError

FOLDER = "pictures"
HEADER = 30
"""Bytes before the name in a ZIP archive's local header."""

Place = tuple[int, int, int, int]
"""Where two pictures lie in an archive: first byte and size of the pixels, then of the masks."""


def packed(pictures: Sequence[tuple[str, bytes, bytes]]) -> tuple[bytes, list[Place]]:
    """An archive of PNG files, two for each name: pixels and masks; and where they lie in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as pile:
        places = [
            (*_add(pile, f"{name}.png", pixels), *_add(pile, f"{name}-origin.png", masks))
            for name, pixels, masks in pictures
        ]
    return stream.getvalue(), places


def write_pack(folder: Path, pack: int, content: bytes) -> None:
    """Write an archive into a study's folder; one that the database does not speak of is replaced.

    Raises
    ------
    HistomixError
        If the disk is full or cannot be written; nothing is left then.
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
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise HistomixError(
            f"The pictures could not be written to {folder} ({error.strerror or error}); free space and try again."
        ) from None


def _add(pile: zipfile.ZipFile, name: str, content: bytes) -> tuple[int, int]:
    # Without a date: the same pictures make the same archive.
    info = zipfile.ZipInfo(name)
    pile.writestr(info, content)
    return info.header_offset + HEADER + len(name.encode()), len(content)


def _sync(folder: Path) -> None:
    """Bring a renaming to disk, where the system has a way."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def archive(folder: Path, pack: int) -> Path:
    """Path of an archive."""
    return folder / FOLDER / f"{pack:06}.zip"


def read_picture(folder: Path, pack: int, at: int, size: int) -> NDArray[np.uint8]:
    """A picture by its place in an archive.

    Raises
    ------
    HistomixError
        If the archive is missing or damaged.
    """
    path = archive(folder, pack)
    try:
        with path.open("rb") as stream:
            stream.seek(at)
            return decoded(stream.read(size))
    except (OSError, SyntaxError, ValueError, struct.error):  # what Pillow makes of damaged bytes
        raise HistomixError(f"{path} is missing or damaged; restore it from a backup.") from None


def encoded(array: NDArray[np.uint8]) -> bytes:
    """A picture as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def decoded(png: bytes) -> NDArray[np.uint8]:
    """The picture a PNG file holds."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.array(image, np.uint8)


def measure(png: bytes) -> tuple[int, int]:
    """Height and width of a PNG file."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return image.height, image.width
