"""Images cut into tiles of one size, for formats that hold nothing else, and the table that puts them together."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.datasets.entries import checked_mpp
from napari_histomix.datasets.formats.reading import read_bytes
from napari_histomix.datasets.plain import whole_number
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
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for image, one, synthetic in pieces:
            place = (one.row, one.col, one.height, one.width, one.mpp)
            writer.writerow((one.fold, one.index, image, *place, "yes" if synthetic else "no"))


def read_tiles(path: Path) -> dict[str, list[Piece]]:
    """The tiles of each image, in the order of the table.

    Raises
    ------
    HistomixError
        If the table cannot be read, or the tiles of an image do not cover it exactly once.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(path, _LIMIT).decode("utf-8-sig"), newline=""))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error):
        raise HistomixError(f"{path.name} in {path.parent} cannot be read; save it as a CSV in UTF-8.") from None
    missing = [name for name in _COLUMNS[:-2] if name not in (reader.fieldnames or ())]
    if missing:
        raise HistomixError(f"{path.name} in {path.parent} has no column {' and '.join(missing)}; add it.")
    found: dict[str, list[Piece]] = {}
    for line, row in enumerate(rows, start=2):
        numbers = [whole_number(row[name] or "") for name in ("index", "row", "col", "height", "width")]
        whole = [number for number in numbers if number is not None and 0 <= number < 2**31]
        if len(whole) < len(numbers) or not row["image"] or not row["fold"]:
            raise HistomixError(f"{path.name} in {path.parent}, line {line}: a cell is empty or no whole number.")
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
