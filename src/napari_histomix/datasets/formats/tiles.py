"""Images cut into tiles of one size, for formats that hold nothing else, and the table that puts them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.datasets.entries import checked_mpp
from napari_histomix.datasets.tables import read_table, whole_number, write_table
from napari_histomix.records import HistomixError

TILES = "tiles.csv"

_COLUMNS = ("fold", "index", "image", "row", "col", "height", "width", "mpp", "synthetic")
_LIMIT = 2**26


@dataclass(frozen=True, slots=True)
class Piece:
    """A tile of an image.

    Parameters
    ----------
    fold : str
        Name of the fold it lies in.
    index : int
        Its place in the fold.
    row, col : int
        Upper left corner in the image.
    height, width : int
        What of it is the image; the rest is mirrored.
    mpp : float, optional
    """

    fold: str
    index: int
    row: int
    col: int
    height: int
    width: int
    mpp: float | None = None


def cut(
    pixels: NDArray[np.uint8], instances: NDArray[np.int32], side: int
) -> Iterator[tuple[int, int, NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]]:
    """Cut an image into square tiles without overlap, mirroring it beyond its right and lower border.

    A nucleus in several tiles has one id in all of them. A mirrored nucleus has an id of its own, unless it is joined
    at the border to the one it mirrors.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    instances : (H, W) int32
    side : int

    Yields
    ------
    row, col : int
        Upper left corner.
    pixels : (side, side, 3) uint8
    instances : (side, side) int32
    originals : (side, side) int32
        The same, mirrored nuclei with the ids of those they mirror.
    """
    rows, cols = instances.shape
    beyond = ((0, -rows % side), (0, -cols % side))
    pixels, instances = np.pad(pixels, (*beyond, (0, 0)), "symmetric"), np.pad(instances, beyond, "symmetric")
    following = int(instances.max(initial=0)) + 1
    for row in range(0, rows, side):
        for col in range(0, cols, side):
            original = instances[row : row + side, col : col + side]
            tile = original.copy()
            real = np.zeros(tile.shape, np.bool_)
            real[: rows - row, : cols - col] = True
            for number in np.unique(tile[~real & (tile > 0)]).tolist():
                parts, count = ndimage.label(tile == number)
                for part in range(1, count + 1):
                    if not real[parts == part].any():
                        tile[parts == part] = following
                        following += 1
            yield row, col, pixels[row : row + side, col : col + side], tile, original


def write_tiles(path: Path, pieces: Iterable[tuple[str, Piece, bool]]) -> None:
    """Write the table of tiles, each with the name of its image and whether that is synthetic."""
    rows = []
    for image, tile, synthetic in pieces:
        place = (tile.row, tile.col, tile.height, tile.width, tile.mpp)
        rows.append((tile.fold, tile.index, image, *place, "yes" if synthetic else "no"))
    write_table(path, _COLUMNS, rows)


def read_tiles(path: Path) -> dict[str, list[Piece]]:
    """The tiles of each image, in the order of the table.

    Raises
    ------
    HistomixError
        If the table cannot be read, or the tiles of an image do not cover it exactly once.
    """
    table = read_table(path, *_COLUMNS[:-2])
    found: dict[str, list[Piece]] = {}
    for line, row in table.rows:
        numbers = [whole_number(row[name]) for name in ("index", "row", "col", "height", "width")]
        whole = [number for number in numbers if number is not None and 0 <= number < 2**31]
        if len(whole) < len(numbers) or not row["image"] or not row["fold"]:
            raise HistomixError(f"{table.where}, line {line}: a cell is empty or no whole number.")
        mpp = checked_mpp(row["mpp"], f"{path.name}, line {line},") if row.get("mpp") else None
        index, top, left, height, width = whole
        found.setdefault(row["image"], []).append(Piece(row["fold"], index, top, left, height, width, mpp))
    for image, pieces in found.items():
        height, width = size_of(pieces)
        corners = {(one.row, one.col) for one in pieces}
        if sum(one.height * one.width for one in pieces) != height * width or len(corners) < len(pieces):
            raise HistomixError(f"{path.name} in {path.parent}: the tiles of {image} do not cover it exactly once.")
    return found


def size_of(pieces: Iterable[Piece]) -> tuple[int, int]:
    """Height and width of the image that tiles are put together to."""
    ends = [(one.row + one.height, one.col + one.width) for one in pieces]
    return max(end[0] for end in ends), max(end[1] for end in ends)


def open_npy(path: Path, ndim: int, kinds: str = "biuf") -> NDArray[Any]:
    """Open a ``.npy`` file; its values stay on disk until they are asked for.

    Parameters
    ----------
    path : Path
    ndim : int
        Dimensions it must have.
    kinds : str
        Kinds of values that are read, as in ``numpy.dtype.kind``; never objects, which would be unpickled.

    Returns
    -------
    ndarray
        Read-only, a memory map.

    Raises
    ------
    HistomixError
        If the file is missing or damaged, has other dimensions or other values, or is shorter than its header says.
    """
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = _header(stream, path.name)
            start = stream.tell()
        if dtype.kind not in kinds or dtype.hasobject or dtype.itemsize > 16:
            raise HistomixError(f"{path.name} holds values of the type {dtype}, which are not read; save numbers.")
        if len(shape) != ndim or not all(isinstance(size, int) and 0 < size < 2**31 for size in shape):
            raise HistomixError(f"{path.name} has the shape {shape}; it needs {ndim} dimensions, none of them empty.")
        size = dtype.itemsize
        for one in shape:
            size *= one
        if path.stat().st_size < start + size:
            raise HistomixError(f"{path.name} is cut short; copy it again.")
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    except FileNotFoundError:
        raise HistomixError(f"{path.name} is no longer there; put it back or open the dataset again.") from None
    except OSError as error:
        raise HistomixError(
            f"{path.name} cannot be read ({error.strerror or error}); check that you may open it."
        ) from None


def _header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    except OSError:
        raise
    except Exception as error:  # a damaged header makes numpy raise anything from SyntaxError to TypeError
        raise HistomixError(f"{name} is no NumPy file ({type(error).__name__}); save it again.") from None
    return found


class GrowingNpy:
    """A ``.npy`` file to which arrays of one shape are appended.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        Of each array.
    dtype : dtype
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.path, self.shape, self.dtype, self.count = path, shape, np.dtype(dtype), 0
        with path.open("wb") as stream:
            self._write_header(stream)

    def append(self, array: NDArray[Any]) -> None:
        """Write one more array."""
        with self.path.open("ab") as stream:
            stream.write(np.ascontiguousarray(array, self.dtype).tobytes())
        self.count += 1

    def finish(self) -> None:
        """Say how many there are. NumPy leaves room in a header for its first dimension to grow."""
        with self.path.open("r+b") as stream:
            self._write_header(stream)

    def _write_header(self, stream: BinaryIO) -> None:
        descr = npy.dtype_to_descr(self.dtype)
        shape = (self.count, *self.shape)
        npy.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
