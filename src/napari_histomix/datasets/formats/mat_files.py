"""Label files of HoVer-Net and Lizard, in MATLAB's format of the versions 5 to 7, which scipy writes as well.

scipy's reader trusts the sizes in a file: a damaged one can end the process, and a small one fill the memory. Here
every size is checked before it is used, and what is not asked for stays compressed. Source: "MAT-File Format", The
MathWorks, chapter 1, level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.entries import Labels, named_classes
from napari_histomix.datasets.pixels import as_ids
from napari_histomix.datasets.text_files import MAX_PIXELS, check_size, naming, read_bytes
from napari_histomix.records import HistomixError, instance_ids

_MAX_FILE = 2**30
_HEADER = 128
_HEAD = 4096
"""Bytes of a variable within which its name ends."""
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = range(6, 16)
"""Classes of arrays that hold numbers; those below are cells, structures, objects, text and sparse arrays."""
_COMPLEX = 0x08
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


_Column = NDArray[np.int32] | None
"""A row or column of whole numbers; None where there is none, or an empty one."""

LIZARD = named_classes("Neutrophil", "Epithelial", "Lymphocyte", "Plasma", "Eosinophil", "Connective tissue")
"""The classes of Lizard (Graham et al., 2021), whose files number them."""


def read_mat(path: Path) -> Labels:
    """Read the labels of one image.

    Where the file lists ids (``inst_uid`` of HoVer-Net, ``id`` of Lizard), the i-th of them has the i-th type
    (``inst_type``, ``class``). Without such a list the i-th type is that of the i-th id in ascending order. An instance
    whose type these do not say has the most frequent one of ``type_map`` within it, background left aside; without that
    map it is unclassified.
    """
    content = read_arrays(path, ("inst_map", "inst_type", "inst_uid"))
    if "inst_map" not in content:
        raise HistomixError(f"{path.name} has no inst_map; export the labels in the HoVer-Net layout.")
    grid = content["inst_map"]
    if grid.ndim != 2:
        raise HistomixError(f"{path.name}: inst_map has the shape {grid.shape}; it must be one plane of ids.")
    check_size(grid.shape, path.name)
    instances = as_ids(grid, path.name)
    ids = instance_ids(instances)
    if not ids:
        return Labels(instances, {}, sized=True)
    listed, numbers = _records(path, content)
    listed_ids = ids if listed is None else listed.tolist()
    fitting = numbers is not None and numbers.size == len(listed_ids)
    notes: list[str] = []
    types: dict[int, int] = {}
    if numbers is not None and fitting:
        for instance, number in zip(listed_ids, numbers.tolist(), strict=True):
            if types.setdefault(instance, number) != number:
                raise HistomixError(f"{path.name} gives two types to the instance {instance}; export the labels again.")
    if without := sorted(set(ids) - types.keys()):
        # The map of types is as large as that of ids, and seldom needed.
        type_map = read_arrays(path, ("type_map",)).get("type_map")
        if type_map is not None and type_map.shape == instances.shape:
            majority = _majority(instances, as_ids(type_map, f"{path.name}, type_map"))
            types |= {instance: majority.get(instance, 0) for instance in without}
        elif numbers is not None and not fitting:
            notes = [
                f"{path.name} lists {numbers.size:,} types for {len(listed_ids):,} nuclei, so they are not used; "
                "export the labels again."
            ]
    return Labels(instances, types, notes=tuple(notes), sized=True)


def read_mat_types(path: Path) -> tuple[set[int], bool]:
    """The class numbers that occur in a label file, and whether they are Lizard's.

    Cheaper than `read_mat` where types are listed.
    """
    content = read_arrays(path, ("inst_type",))
    _, numbers = _records(path, content)
    if numbers is None:
        return set(read_mat(path).types.values()), False
    kinds = set(np.unique(numbers).tolist()) - {0}
    return kinds, "class" in content and kinds <= {known.number for known in LIZARD}


def _records(path: Path, content: dict[str, NDArray[Any]]) -> tuple[_Column, _Column]:
    """The ids that the file lists and the types that it lists; what Lizard's files hold is added to the content."""
    if "inst_type" not in content:
        content |= read_arrays(path, ("id", "class"))
    listed, numbers = content.get("inst_uid", content.get("id")), content.get("inst_type", content.get("class"))
    return _column(listed, f"{path.name}, list of ids"), _column(numbers, f"{path.name}, list of types")


def _column(array: NDArray[Any] | None, name: str) -> _Column:
    return None if array is None or not array.size else as_ids(array.ravel(), name)


def _majority(instances: NDArray[np.int32], type_map: NDArray[np.int32]) -> dict[int, int]:
    """The most frequent type within each instance that has any."""
    inside = (instances > 0) & (type_map > 0)
    pairs, votes = np.unique(np.stack([instances[inside], type_map[inside]]), axis=1, return_counts=True)
    # In order of rising votes, so that the last one written is the most frequent; a tie goes to the lower number.
    return dict(pairs[:, np.lexsort((-pairs[1], votes))].T.tolist())


def read_arrays(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Read some variables of a file."""
    content = read_bytes(path, _MAX_FILE)
    if content[124:128] in (b"\0\2IM", b"\2\0MI") or content[:8] == b"\x89HDF\r\n\x1a\n":
        raise HistomixError(f"{path.name} is a MATLAB 7.3 file; save it in version 7 (save -v7).")
    try:
        order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(content[124:128])
        if order is None:
            raise ValueError("it has no header of version 5 to 7")
        with naming(path.name):
            arrays = dict(variable.read(names) for variable in _variables(content, order))
    except (ValueError, struct.error, zlib.error) as error:
        raise HistomixError(
            f"{path.name} cannot be read as a MATLAB label file ({error}); it may be damaged, export it again."
        ) from None
    return {name: array for name, array in arrays.items() if array is not None}


class _Variable:
    """A variable as it lies in a file: its bytes, which may be compressed."""

    def __init__(self, content: memoryview, order: str, compressed: bool) -> None:
        self.content, self.order, self.compressed = content, order, compressed

    def first(self, size: int) -> bytes:
        """The first bytes, fewer where there are not so many."""
        if self.compressed:
            return zlib.decompressobj().decompress(self.content, size)
        return bytes(self.content[:size])

    def read(self, names: Collection[str]) -> tuple[str, NDArray[Any] | None]:
        """Its name and, if it is wanted, its numbers."""
        head = self.first(_HEAD)
        kind, place, _, _ = _element(head, 0, self.order)
        if kind != _MATRIX:
            raise ValueError("a variable is no array")
        if len(head) == place:
            # MATLAB writes an empty array so.
            return "", None
        _, start, size, place = _element(head, place, self.order)
        [flags] = struct.unpack_from(f"{self.order}I", head, start)
        if flags & 0xFF not in range(1, 16):
            # Functions and objects, whose names are written in another way.
            return "", None
        _, start, size, place = _element(head, place, self.order)
        shape = struct.unpack_from(f"{self.order}{min(size, _HEAD) // 4}i", head, start)
        _, start, size, place = _element(head, place, self.order)
        if start + size > len(head):
            raise ValueError("the name of a variable is too long")
        name = head[start : start + size].decode("latin-1")
        if name not in names:
            return name, None
        if flags & 0xFF not in _NUMBERS or flags >> 8 & _COMPLEX:
            raise HistomixError(f"{name} does not hold numbers; export the labels again.")
        if len(shape) < 2 or min(shape) < 0 or math.prod(shape) > MAX_PIXELS:
            raise HistomixError(
                f"{name} has {'×'.join(map(str, shape[:4]))} values and at most {MAX_PIXELS:,} are read; cut the image "
                "into smaller ones."
            )
        kind, start, size, _ = _element(head, place, self.order)
        if kind not in _TYPES:
            raise ValueError(f"{name} is stored in a way that is not known")
        dtype = np.dtype(self.order + _TYPES[kind])
        if size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has another size than it says")
        numbers = np.frombuffer(self.first(start + size), dtype, math.prod(shape), start)
        return name, numbers.reshape(shape, order="F")


def _variables(content: bytes, order: str) -> Iterator[_Variable]:
    place = _HEADER
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError("it holds something that is no variable")
        stop = place + 8 + size
        if stop > len(content):
            raise ValueError("it is cut off")
        compressed = kind == _COMPRESSED
        yield _Variable(memoryview(content)[place + 8 * compressed : stop], order, compressed)
        place = stop


def _element(content: bytes, place: int, order: str) -> tuple[int, int, int, int]:
    """Type, beginning and size of the data of an element, and the beginning of the next one."""
    kind, size = struct.unpack_from(f"{order}II", content, place)
    if kind >> 16:
        # Up to four bytes lie in the tag itself.
        if kind >> 16 > 4:
            raise ValueError("an element is longer than it can be")
        return kind & 0xFFFF, place + 4, kind >> 16, place + 8
    if kind == _MATRIX:
        return kind, place + 8, size, place + 8
    return kind, place + 8, size, place + 8 + size + -size % 8
