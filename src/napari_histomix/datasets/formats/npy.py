"""NumPy's files: opened without unpickling, and without memory for what a header only claims; written bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from napari_histomix.records import HistomixError


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
