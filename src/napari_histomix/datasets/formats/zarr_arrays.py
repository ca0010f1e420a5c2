"""Zarr groups and arrays in folders: versions 2 and 3 are read, within limits; the zarr library writes version 2.

To read, that library inflates whatever a chunk holds, follows links, and hands chunks to codecs that the metadata name.
Here every size is known before anything is inflated, only numbers are read, and only from within one folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.formats.reading import read_bytes, read_json
from napari_histomix.datasets.formats.zarr_chunks import Encoding, NotReadError, grid, lengths, version_2, version_3
from napari_histomix.records import HistomixError

_MAX_BYTES = 2**30
"""Memory of one array."""
_MAX_CHUNK = 2**28
_MAX_INFLATED = 2**31
"""Bytes of all chunks together: they may reach beyond the array."""
_MAX_CHUNKS = 2**16
_MAX_AXES = 5
_PART = re.compile(r"[\w.+ -]+")
_CHUNK = 1024
"""Side of the chunks that are written."""


@dataclass(frozen=True)
class ZarrArray:
    """An array whose metadata fit together and within limits; its chunks are still unread.

    Parameters
    ----------
    folder, root : Path
        Of the array, and the one that is not left.
    shape : tuple of int
    encoding : Encoding
        Of each chunk.
    prefix, separator : str
        What the name of a chunk's file begins with, and what is between its numbers.
    fill : int or float
        Value of missing chunks.
    """

    folder: Path
    root: Path
    shape: tuple[int, ...]
    encoding: Encoding
    prefix: str
    separator: str
    fill: float

    def read(self) -> NDArray[Any]:
        """Read all chunks.

        Raises
        ------
        HistomixError
            If a chunk is damaged, of another size than the metadata say, or lies outside the root.
        OSError
            If the disk refuses.
        """
        encoding = self.encoding
        whole = np.full(self.shape, self.fill, encoding.dtype.newbyteorder("="))
        for place in np.ndindex(*grid(self.shape, encoding.shape)):
            path = self.folder / (self.prefix + self.separator.join(map(str, place)))
            try:
                # Before links are looked at, which takes longer: most chunks may be missing.
                path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            path = inside(path, self.root)
            content = read_bytes(path, 2 * encoding.size + 2**20)
            try:
                chunk = encoding.decode(content, self.fill)
            except HistomixError:
                raise
            except Exception as error:  # decoders raise anything from zlib.error to RuntimeError on damaged data
                reason = str(error) or type(error).__name__
                raise HistomixError(f"{path.relative_to(self.root)} is damaged ({reason}); export it again.") from None
            window = tuple(
                slice(one * step, min((one + 1) * step, length))
                for one, step, length in zip(place, encoding.shape, self.shape, strict=True)
            )
            whole[window] = chunk[tuple(slice(0, one.stop - one.start) for one in window)]
        return whole


def inside(path: Path, root: Path) -> Path:
    """The path with its links followed, which must not lead out of the root.

    Raises
    ------
    HistomixError
    """
    try:
        found = path.resolve()
    except (OSError, ValueError, RuntimeError):
        raise HistomixError(f"{path} cannot be followed; put there what its links mean.") from None
    if not found.is_relative_to(root):
        raise HistomixError(f"{path} leads out of {root}, which is not followed; put there what it means.")
    return found


def below(folder: Path, written: Any) -> Path:
    """A folder by a path in metadata, which can only lead down.

    Raises
    ------
    HistomixError
        If it is no such path.
    """
    parts = written.split("/") if isinstance(written, str) and len(written) < 200 else [""]
    if not all(_PART.fullmatch(part) and part.strip(". ") for part in parts):
        raise HistomixError(f"{folder.name}: the path {written!r:.40} in its metadata leads to no part of it; mend it.")
    return folder.joinpath(*parts)


def read_group(folder: Path, root: Path) -> tuple[int, dict[str, Any]] | None:
    """The version of a group and its attributes; None where there is no group.

    Raises
    ------
    HistomixError
        If the metadata are no JSON, or lie outside the root.
    """
    if (path := inside(folder / "zarr.json", root)).is_file():
        content = _object(path)
        attributes = content.get("attributes", {})
        return (3, attributes) if content.get("node_type") == "group" and isinstance(attributes, dict) else None
    if not inside(folder / ".zgroup", root).is_file():
        return None
    path = inside(folder / ".zattrs", root)
    return 2, _object(path) if path.is_file() else {}


def open_array(folder: Path, root: Path) -> ZarrArray:
    """Read the metadata of an array.

    Raises
    ------
    HistomixError
        If there is none, it holds no numbers, is too large, or is encoded in a way that is not read.
    """
    name = folder.relative_to(root)
    try:
        if (path := inside(folder / "zarr.json", root)).is_file():
            array = _of_version_3(folder, root, _object(path))
        else:
            said = _object(inside(folder / ".zarray", root))
            prefix, separator = "", _separator(said.get("dimension_separator", "."))
            fill = _number(said.get("fill_value"))
            array = ZarrArray(folder, root, lengths(said["shape"]), version_2(said), prefix, separator, fill)
        _check(array)
    except NotReadError as error:
        raise HistomixError(f"{name} {error}; save it as numbers, compressed with gzip or blosc.") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise HistomixError(f"{name}: the metadata of the array are damaged; export it again.") from None
    return array


def _of_version_3(folder: Path, root: Path, said: Mapping[str, Any]) -> ZarrArray:
    chunks, keys = said["chunk_grid"], said["chunk_key_encoding"]
    if said["node_type"] != "array" or chunks["name"] != "regular" or keys["name"] not in ("default", "v2"):
        raise NotReadError("is stored in a way that is not read")
    old = keys["name"] == "v2"
    separator = _separator(keys.get("configuration", {}).get("separator", "." if old else "/"))
    encoding = version_3(lengths(chunks["configuration"]["chunk_shape"]), said["data_type"], said["codecs"])
    prefix = "" if old else f"c{separator}"
    return ZarrArray(folder, root, lengths(said["shape"]), encoding, prefix, separator, _number(said["fill_value"]))


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path, not_a_number=True)
    if not isinstance(content, dict):
        raise HistomixError(f"{path.name} in {path.parent} must hold a JSON object; export it again.")
    return content


def _separator(said: Any) -> str:
    if said not in (".", "/"):
        raise ValueError("no separator")
    return str(said)


def _number(said: Any) -> float:
    return said if isinstance(said, int | float) else 0


def _check(array: ZarrArray) -> None:
    """Refuse what would take too much memory or time, before any chunk is looked at."""
    encoding, dtype = array.encoding, array.encoding.dtype
    if not 2 <= len(array.shape) == len(encoding.shape) <= _MAX_AXES:
        raise ValueError("the array and its chunks differ in their axes")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= array.fill <= np.iinfo(dtype).max:
        raise ValueError("the fill value does not fit")
    number = math.prod(grid(array.shape, encoding.shape))
    size = math.prod(array.shape) * dtype.itemsize
    inflated = number * encoding.size
    if (
        size > _MAX_BYTES
        or encoding.size > _MAX_CHUNK
        or inflated > _MAX_INFLATED
        or number * encoding.parts > _MAX_CHUNKS
    ):
        raise HistomixError(
            f"{array.folder.relative_to(array.root)}: an array of {'×'.join(map(str, array.shape))} in {number:,} "
            "chunks is too large to be read; cut the image into smaller ones."
        )


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write a group of version 2 into a folder that is not there yet."""
    import zarr

    zarr.create_group(folder, zarr_format=2, attributes=dict(attributes))


def write_array(folder: Path, array: NDArray[Any]) -> None:
    """Write an array of version 2 into a folder that is not there yet; any program that reads Zarr inflates zlib.

    Chunks are planes of the last two axes, cut into squares.
    """
    import zarr
    from numcodecs import Zlib

    chunks = (*(1,) * (array.ndim - 2), *(min(_CHUNK, side) for side in array.shape[-2:]))
    written = zarr.create_array(
        folder,
        shape=array.shape,
        dtype=array.dtype.newbyteorder("<"),
        chunks=chunks,
        compressors=Zlib(6),
        fill_value=0,
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    written[...] = array
