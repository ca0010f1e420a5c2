"""The bytes of a Zarr chunk as numbers, inflated only if they are as many as the metadata say.

Sources: https://zarr-specs.readthedocs.io, "Zarr v2", "Zarr core specification 3.1" and "Sharding codec"; the header of
a Blosc chunk in README_CHUNK_FORMAT.rst of c-blosc; that of a Zstandard frame in RFC 8878.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPRESSORS = frozenset({"blosc", "gzip", "zlib", "zstd"})
_CHECKSUM = 4
"""Bytes of a CRC32C behind what it is of; sizes and values are checked, it is not."""
_DTYPE_2 = re.compile(r"[<>|][iuf][1248]")
_DTYPE_3 = re.compile(r"u?int(8|16|32|64)|float(32|64)")
_MISSING = 2**64 - 1
_NO_NUMBERS = "does not hold plain numbers"


class NotReadError(Exception):
    """Metadata that may be right and are still not read; says why."""


@dataclass(frozen=True)
class Encoding:
    """How the numbers of a chunk became bytes.

    Parameters
    ----------
    shape : tuple of int
        Of the chunk.
    dtype : dtype
        With its byte order.
    order : tuple of int
        The axes as they are stored, the one that runs slowest first.
    compressor : str
        One of `COMPRESSORS`; empty for none.
    checksum : bool
        Whether a checksum follows.
    inner : Encoding, optional
        Of the parts of a chunk that consists of parts (a shard) and an index of where they are.
    index_first, index_checksum : bool
        Whether the index comes before the parts, and a checksum behind it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    compressor: str = ""
    checksum: bool = False
    inner: Encoding | None = None
    index_first: bool = False
    index_checksum: bool = False

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def parts(self) -> int:
        """Parts that are inflated one by one."""
        return math.prod(grid(self.shape, self.inner.shape)) * self.inner.parts if self.inner else 1

    def decode(self, content: bytes, fill: float) -> NDArray[Any]:
        """The numbers of a chunk; ``fill`` is the value of what is not there.

        Raises
        ------
        Exception
            Anything, if the bytes are damaged.
        """
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
        places = list(np.ndindex(*grid(whole.shape, inner.shape)))
        length = 16 * len(places) + _CHECKSUM * self.index_checksum
        index = content[:length] if self.index_first else content[-length:]
        for place, (start, size) in zip(
            places, np.frombuffer(index, "<u8", 2 * len(places)).reshape(-1, 2).tolist(), strict=True
        ):
            if start == size == _MISSING:
                continue
            if start + size > len(content):
                raise ValueError("a part lies beyond the end of its chunk")
            window = tuple(slice(one * step, (one + 1) * step) for one, step in zip(place, inner.shape, strict=True))
            whole[window] = inner.decode(content[start : start + size], fill)
        return whole.transpose(np.argsort(self.order))


def grid(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """How many chunks there are along each axis."""
    return tuple(-(-length // step) for length, step in zip(shape, chunks, strict=True))


def lengths(said: Any) -> tuple[int, ...]:
    """A shape as metadata say it.

    Raises
    ------
    ValueError
        If it is none, or has an axis without an extent.
    """
    if not isinstance(said, list) or not all(type(one) is int and 0 < one < 2**31 for one in said):
        raise ValueError("no lengths")
    return tuple(said)


def version_2(said: Mapping[str, Any]) -> Encoding:
    """The encoding that the metadata of an array of version 2 say.

    Raises
    ------
    NotReadError
        If it is one that is not read: objects, among them pickles, records, text, and filters, which would be looked up
        by their names.
    Exception
        If the metadata are damaged.
    """
    if not _DTYPE_2.fullmatch(str(said["dtype"])) or said.get("filters"):
        raise NotReadError(_NO_NUMBERS)
    shape = lengths(said["chunks"])
    axes = tuple(range(len(shape)))
    return Encoding(
        shape,
        np.dtype(said["dtype"]),
        axes[::-1] if said.get("order") == "F" else axes,
        _compressor(said["compressor"]["id"]) if said.get("compressor") else "",
    )


def version_3(shape: tuple[int, ...], data_type: Any, codecs: Any) -> Encoding:
    """The encoding that the metadata of an array of version 3 say.

    Parameters
    ----------
    shape : tuple of int
        Of the chunks.
    data_type, codecs
        As in the metadata.

    Raises
    ------
    NotReadError
        If it is one that is not read.
    Exception
        If the metadata are damaged.
    """
    if not _DTYPE_3.fullmatch(str(data_type)):
        raise NotReadError(_NO_NUMBERS)
    steps = [(one["name"], one.get("configuration", {})) for one in codecs]
    order = tuple(range(len(shape)))
    if steps[0][0] == "transpose":
        order = tuple(steps.pop(0)[1]["order"])
        if sorted(order) != list(range(len(shape))):
            raise ValueError("no order of the axes")
    serializer, settings = steps.pop(0)
    dtype = np.dtype(str(data_type))
    if serializer == "sharding_indexed" and not steps:
        inner = version_3(lengths(settings["chunk_shape"]), data_type, settings["codecs"])
        index = [one["name"] for one in settings["index_codecs"]]
        stored = [shape[axis] for axis in order]
        if inner.inner or index not in (["bytes"], ["bytes", "crc32c"]):
            raise NotReadError("is in shards of a kind that is not read")
        if any(length % step for length, step in zip(stored, inner.shape, strict=True)):
            raise ValueError("parts that do not fill their shard")
        return Encoding(
            shape,
            dtype,
            order,
            inner=inner,
            index_first=settings.get("index_location", "end") == "start",
            index_checksum=len(index) == 2,
        )
    if serializer != "bytes":
        raise NotReadError(f"is encoded as {serializer!r:.30}, which is not read")
    if settings.get("endian") == "big":
        dtype = dtype.newbyteorder(">")
    checksum = bool(steps) and steps[-1][0] == "crc32c"
    if len(steps) > 1 + checksum:
        raise NotReadError("is compressed several times over")
    return Encoding(shape, dtype, order, _compressor(steps[0][0]) if len(steps) > checksum else "", checksum)


def _compressor(name: Any) -> str:
    if name not in COMPRESSORS:
        raise NotReadError(f"is compressed with {name!r:.30}, and only {', '.join(sorted(COMPRESSORS))} are read")
    return str(name)


def _inflated(content: bytes, compressor: str, size: int) -> bytes:
    """What the bytes inflate to, at most one byte more than ``size``."""
    if not compressor:
        return content
    if compressor in ("gzip", "zlib"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, size + 1)
    from numcodecs import blosc, zstd

    stated = _blosc_size(content) if compressor == "blosc" else _zstd_size(content)
    if stated != size:
        raise ValueError("a chunk does not state the size that the metadata say")
    inflated: bytes = (blosc if compressor == "blosc" else zstd).decompress(content)
    return inflated


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
    length = (single, 2, 4, 8)[flags >> 6]
    place = 6 - single + dictionary
    if length == 0:
        return None
    return int.from_bytes(content[place : place + length], "little") + (256 if length == 2 else 0)
