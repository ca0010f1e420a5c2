"""Zarr groups and arrays in folders: versions 2 and 3 are read, within limits; the zarr library writes version 2.

To read, that library inflates whatever a chunk holds, follows links, and hands chunks to codecs that the metadata name.
Here every size is known before anything is inflated, only numbers are read, and only from within one folder.

Sources: https://zarr-specs.readthedocs.io, "Zarr v2", "Zarr core specification 3.1" and "Sharding codec"; the header of
a Blosc chunk in README_CHUNK_FORMAT.rst of c-blosc; that of a Zstandard frame in RFC 8878.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.text_files import read_bytes, read_json
from napari_histomix.records import HistomixError

_LIMITS = (2**30, 2**28, 2**31, 2**16)
"""Bytes of an array, of a chunk, and of all chunks together, which may reach beyond the array; number of chunks."""
_MAX_AXES = 5
_PART = re.compile(r"[\w.+ -]+")
_CHUNK = 1024
"""Side of the chunks that are written."""

_COMPRESSORS = frozenset({"blosc", "gzip", "zlib", "zstd"})
_CHECKSUM = 4
"""Bytes of a CRC32C behind what it is of; sizes and values are checked, it is not."""
_DTYPE_2 = re.compile(r"[<>|][iuf][1248]")
_DTYPE_3 = re.compile(r"u?int(8|16|32|64)|float(32|64)")
_MISSING = 2**64 - 1
_NO_NUMBERS = "does not hold plain numbers"


class _NotReadError(Exception):
    """Metadata that may be right and are still not read; says why."""


@dataclass(frozen=True)
class Encoding:
    """How the numbers of a chunk became bytes. A shard consists of parts and an index of where they are."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]  # the axes as they are stored, the one that runs slowest first
    compressor: str = ""  # empty for none
    checksum: bool = False  # whether one follows
    inner: Encoding | None = None  # of the parts of a shard
    index_first: bool = False
    index_checksum: bool = False

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def parts(self) -> int:
        """Parts that are inflated one by one."""
        return math.prod(_grid(self.shape, self.inner.shape)) * self.inner.parts if self.inner else 1

    def decode(self, content: bytes, fill: float) -> NDArray[Any]:
        """The numbers of a chunk; ``fill`` is the value of what is not there."""
        if self.checksum:
            content = content[:-_CHECKSUM]
        if self.inner is not None:
            return self._from_parts(content, self.inner, fill)
        content = _inflated(content, self.compressor, self.size)
        if len(content) != self.size:
            raise ValueError("a chunk has another size than the metadata say")
        stored = np.frombuffer(content, self.dtype).reshape([self.shape[axis] for axis in self.order])
        return stored.transpose(np.argsort(self.order))

    def _from_parts(self, content: bytes, inner: Encoding, fill: float) -> NDArray[Any]:
        whole = np.full([self.shape[axis] for axis in self.order], fill, inner.dtype)
        places = list(np.ndindex(*_grid(whole.shape, inner.shape)))
        length = 16 * len(places) + _CHECKSUM * self.index_checksum
        content_of_index = content[:length] if self.index_first else content[-length:]
        index = np.frombuffer(content_of_index, "<u8", 2 * len(places)).reshape(-1, 2).tolist()
        for place, (start, size) in zip(places, index, strict=True):
            if start == size == _MISSING:
                continue
            if start + size > len(content):
                raise ValueError("a part lies beyond the end of its chunk")
            window = tuple(slice(n * step, (n + 1) * step) for n, step in zip(place, inner.shape, strict=True))
            whole[window] = inner.decode(content[start : start + size], fill)
        return whole.transpose(np.argsort(self.order))


def _grid(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """How many chunks there are along each axis."""
    return tuple(-(-length // step) for length, step in zip(shape, chunks, strict=True))


def _lengths(value: Any) -> tuple[int, ...]:
    """A shape as metadata say it."""
    if not isinstance(value, list) or not all(type(length) is int and 0 < length < 2**31 for length in value):
        raise ValueError("no lengths")
    return tuple(value)


def _version_2(folder: Path, root: Path, metadata: Mapping[str, Any]) -> ZarrArray:
    if not _DTYPE_2.fullmatch(str(metadata["dtype"])) or metadata.get("filters"):
        raise _NotReadError(_NO_NUMBERS)
    shape = _lengths(metadata["chunks"])
    axes = tuple(range(len(shape)))
    order = axes[::-1] if metadata.get("order") == "F" else axes
    compressor = _compressor(metadata["compressor"]["id"]) if metadata.get("compressor") else ""
    encoding = Encoding(shape, np.dtype(metadata["dtype"]), order, compressor)
    separator, fill = metadata.get("dimension_separator", "."), _number(metadata.get("fill_value"))
    return ZarrArray(folder, root, _lengths(metadata["shape"]), encoding, "", separator, fill)


def _version_3(folder: Path, root: Path, metadata: Mapping[str, Any]) -> ZarrArray:
    chunks, keys = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if metadata["node_type"] != "array" or chunks["name"] != "regular" or keys["name"] not in ("default", "v2"):
        raise _NotReadError("is stored in a way that is not read")
    old = keys["name"] == "v2"
    separator = keys.get("configuration", {}).get("separator", "." if old else "/")
    chunk_shape = _lengths(chunks["configuration"]["chunk_shape"])
    encoding = _encoding(chunk_shape, metadata["data_type"], metadata["codecs"])
    prefix, fill = "" if old else f"c{separator}", _number(metadata["fill_value"])
    return ZarrArray(folder, root, _lengths(metadata["shape"]), encoding, prefix, separator, fill)


def _encoding(shape: tuple[int, ...], data_type: Any, codecs: Any) -> Encoding:
    """The encoding that the metadata of an array of version 3 say."""
    if not _DTYPE_3.fullmatch(str(data_type)):
        raise _NotReadError(_NO_NUMBERS)
    steps = [(codec["name"], codec.get("configuration", {})) for codec in codecs]
    order = tuple(range(len(shape)))
    if steps[0][0] == "transpose":
        order = tuple(steps.pop(0)[1]["order"])
        if sorted(order) != list(range(len(shape))):
            raise ValueError("no order of the axes")
    serializer, settings = steps.pop(0)
    dtype = np.dtype(str(data_type))
    if serializer == "sharding_indexed" and not steps:
        inner = _encoding(_lengths(settings["chunk_shape"]), data_type, settings["codecs"])
        index = [codec["name"] for codec in settings["index_codecs"]]
        stored = [shape[axis] for axis in order]
        if inner.inner or index not in (["bytes"], ["bytes", "crc32c"]):
            raise _NotReadError("is in shards of a kind that is not read")
        if any(length % step for length, step in zip(stored, inner.shape, strict=True)):
            raise ValueError("parts that do not fill their shard")
        first = settings.get("index_location", "end") == "start"
        return Encoding(shape, dtype, order, inner=inner, index_first=first, index_checksum=len(index) == 2)
    if serializer != "bytes":
        raise _NotReadError(f"is encoded as {serializer!r:.30}, which is not read")
    if settings.get("endian") == "big":
        dtype = dtype.newbyteorder(">")
    checksum = bool(steps) and steps[-1][0] == "crc32c"
    if len(steps) > 1 + checksum:
        raise _NotReadError("is compressed several times over")
    return Encoding(shape, dtype, order, _compressor(steps[0][0]) if len(steps) > checksum else "", checksum)


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def _compressor(name: Any) -> str:
    if name not in _COMPRESSORS:
        raise _NotReadError(f"is compressed with {name!r:.30}, and only {', '.join(sorted(_COMPRESSORS))} are read")
    return str(name)


def _inflated(content: bytes, compressor: str, size: int) -> bytes:
    """What the bytes inflate to, at most one byte more than ``size``."""
    if not compressor:
        return content
    if compressor in ("gzip", "zlib"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, size + 1)
    from numcodecs import blosc, zstd

    codec, stated = (blosc, _blosc_size(content)) if compressor == "blosc" else (zstd, _zstd_size(content))
    if stated != size:
        raise ValueError("a chunk does not state the size that the metadata say")
    return bytes(codec.decompress(content))


def _blosc_size(content: bytes) -> int:
    if len(content) < 16 or int.from_bytes(content[12:16], "little") != len(content):
        raise ValueError("a chunk is cut off")
    return int.from_bytes(content[4:8], "little")


def _zstd_size(content: bytes) -> int | None:
    """Size of a single frame; None if it does not state it."""
    if content[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("a chunk is no Zstandard frame")
    flags = content[4]
    single, dictionary = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
    length, place = (single, 2, 4, 8)[flags >> 6], 6 - single + dictionary
    size = int.from_bytes(content[place : place + length], "little") + (256 if length == 2 else 0)
    return size if length else None


@dataclass(frozen=True)
class ZarrArray:
    """An array whose metadata fit together and within limits; its chunks are still unread."""

    folder: Path
    root: Path  # the folder that is not left
    shape: tuple[int, ...]
    encoding: Encoding
    prefix: str  # what the name of a chunk's file begins with
    separator: str  # what is between its numbers
    fill: float  # the value of what is not there

    def read(self) -> NDArray[Any]:
        """Read all chunks."""
        encoding = self.encoding
        whole = np.full(self.shape, self.fill, encoding.dtype.newbyteorder("="))
        for place in np.ndindex(*_grid(self.shape, encoding.shape)):
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
            except Exception as error:  # decoders raise anything from zlib.error to RuntimeError on damaged data
                reason = str(error) or type(error).__name__
                raise HistomixError(f"{path.relative_to(self.root)} is damaged ({reason}); export it again.") from None
            window = tuple(
                slice(n * step, min((n + 1) * step, length))
                for n, step, length in zip(place, encoding.shape, self.shape, strict=True)
            )
            whole[window] = chunk[tuple(slice(0, part.stop - part.start) for part in window)]
        return whole


def inside(path: Path, root: Path) -> Path:
    """The path with its links followed, which must not lead out of the root."""
    try:
        resolved = path.resolve()
    except (OSError, ValueError, RuntimeError):
        raise HistomixError(f"{path} cannot be followed; put there what its links mean.") from None
    if not resolved.is_relative_to(root):
        raise HistomixError(f"{path} leads out of {root}, which is not followed; put there what it means.")
    return resolved


def below(folder: Path, written: Any) -> Path:
    """A folder by a path in metadata, which can only lead down."""
    parts = written.split("/") if isinstance(written, str) and len(written) < 200 else [""]
    if not all(_PART.fullmatch(part) and part.strip(". ") for part in parts):
        raise HistomixError(f"{folder.name}: the path {written!r:.40} in its metadata leads to no part of it; mend it.")
    return folder.joinpath(*parts)


def read_group(folder: Path, root: Path) -> dict[str, Any] | None:
    """The attributes of a group; None where there is no group."""
    if (path := inside(folder / "zarr.json", root)).is_file():
        content = _object(path)
        attributes = content.get("attributes", {})
        return attributes if content.get("node_type") == "group" and isinstance(attributes, dict) else None
    if not inside(folder / ".zgroup", root).is_file():
        return None
    path = inside(folder / ".zattrs", root)
    return _object(path) if path.is_file() else {}


def open_array(folder: Path, root: Path) -> ZarrArray:
    """Read the metadata of an array."""
    name = folder.relative_to(root)
    try:
        if (path := inside(folder / "zarr.json", root)).is_file():
            array = _version_3(folder, root, _object(path))
        else:
            array = _version_2(folder, root, _object(inside(folder / ".zarray", root)))
        _check(array)
    except _NotReadError as error:
        raise HistomixError(f"{name} {error}; save it as numbers, compressed with gzip or blosc.") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise HistomixError(f"{name}: the metadata of the array are damaged; export it again.") from None
    return array


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path, not_a_number=True)
    if not isinstance(content, dict):
        raise HistomixError(f"{path.name} in {path.parent} must hold a JSON object; export it again.")
    return content


def _check(array: ZarrArray) -> None:
    """Refuse what would take too much memory or time, before any chunk is looked at."""
    encoding, dtype = array.encoding, array.encoding.dtype
    if array.separator not in (".", "/"):
        raise ValueError("no separator")
    if not 2 <= len(array.shape) == len(encoding.shape) <= _MAX_AXES:
        raise ValueError("the array and its chunks differ in their axes")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= array.fill <= np.iinfo(dtype).max:
        raise ValueError("the fill value does not fit")
    number = math.prod(_grid(array.shape, encoding.shape))
    sizes = math.prod(array.shape) * dtype.itemsize, encoding.size, number * encoding.size, number * encoding.parts
    if any(size > limit for size, limit in zip(sizes, _LIMITS, strict=True)):
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
    zarr.create_array(
        folder,
        data=array.astype(array.dtype.newbyteorder("<"), copy=False),
        chunks=chunks,
        compressors=Zlib(6),
        fill_value=0,
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
