"""PanNuke's arrays: images, and a map of instances for each of five classes; Gamper et al., 2019 and 2020.

``Fold 1/images/fold1/images.npy`` (N, 256, 256, 3), ``Fold 1/images/fold1/types.npy`` (N,) with the tissue's name, and
``Fold 1/masks/fold1/masks.npy`` (N, 256, 256, 6): instances of neoplastic, inflammatory, connective, dead and
epithelial cells, and the background last; or the three files in one folder. Values are numbers of any kind, in the
original 64-bit floating point. The scale is 0.25 µm per pixel. Kaggle's copy has ``Part 1/Images/images.npy`` and
``Part 1/Masks/masks.npy``, perhaps in a folder ``archive``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import Entry, Labels, Row, checked_mpp, is_split_folder, split_name
from napari_histomix.datasets.listing import Listing, subfolder, subfolders, visible_files
from napari_histomix.datasets.names import composed
from napari_histomix.datasets.pixels import as_ids
from napari_histomix.datasets.text_files import check_size, gone, read_table, readable, whole_number, write_table
from napari_histomix.datasets.writing import ImageWriter
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass

CLASSES = (
    NucleusClass(1, "neoplastic", (255, 0, 0)),
    NucleusClass(2, "inflammatory", (0, 255, 0)),
    NucleusClass(3, "connective", (0, 0, 255)),
    NucleusClass(4, "dead", (255, 255, 0)),
    NucleusClass(5, "epithelial", (255, 165, 0)),
)
"""In the order of the masks, in the colors that HoVer-Net gives them."""

SYNONYMS = {
    "neoplastic": ("tumor", "tumour", "malignant", "neoplastic epithelial", "malignant epithelial", "cancer"),
    "inflammatory": ("lymphocyte", "lymphocytes", "plasma", "plasma cell", "neutrophil", "eosinophil", "macrophage"),
    "connective": ("stromal", "stroma", "fibroblast", "spindle", "spindle-shaped", "endothelial", "muscle"),
    "dead": ("necrotic", "necrosis", "apoptotic"),
    "epithelial": ("non-neoplastic epithelial", "normal epithelial", "healthy epithelial", "benign epithelial"),
}
"""Names that are written as one of PanNuke's classes, besides its own; upper and lower case are equal."""

SIDE = 256
MPP = 0.25
TILES = "tiles.csv"

_COLUMNS = ("fold", "index", "image", "row", "col", "height", "width", "mpp", "synthetic")

_SAMPLED = 16
"""Tiles by which it is told whether colors in floating point reach to 1 or to 255."""

_MOST = 100_000
"""Tiles of one fold; PanNuke's have less than 3,000."""
_FOLD = re.compile(r"(?:fold|part)[ _-]*([0-9]{1,4})$", re.IGNORECASE)
_NAMELESS = "image"
"""How tiles are called that lie in no folder of a fold."""
_FOLDS = {"train": 1, "val": 2, "test": 3}


class _Fold(NamedTuple):
    name: str
    images: Path
    masks: Path
    size: int = 0  # how many tiles it has
    split: str = ""  # of the folder that it lies in


def recognizes(root: Path) -> bool:
    """Whether there are images.npy and masks.npy, in one folder or in those of PanNuke's folds."""
    return next(_folds(root), None) is not None


def _folds(root: Path) -> Iterator[_Fold]:
    """The folds of a root, or of the folder in it that an archive was unpacked to."""
    if folds := list(_folds_in(root)):
        yield from folds
        return
    for folder in subfolders(root):
        split = split_name(folder.name) if is_split_folder(folder.name) else ""
        for fold in _folds_in(folder):
            name = folder.name if fold.name == _NAMELESS else f"{folder.name}-{fold.name}"
            yield fold._replace(name=composed(name), split=split) if split else fold


def _folds_in(root: Path) -> Iterator[_Fold]:
    for folder in [root, *(path for path in subfolders(root) if _FOLD.match(path.name))]:
        images, masks = _array(folder, "images"), _array(folder, "masks")
        if images is not None and masks is not None:
            named = _FOLD.match(folder.name)
            yield _Fold(f"fold{int(named[1])}" if named else _NAMELESS, images, masks)


def _array(folder: Path, name: str) -> Path | None:
    """``NAME.npy`` in a folder, in its folder ``NAME``, or in the folder of a fold in there, in any case of letters."""
    places, inner = [folder], subfolder(folder, name)
    if inner is not None:
        places += [inner, *(path for path in subfolders(inner) if _FOLD.match(path.name))]
    files = (path for place in places for path in sorted(visible_files(place, frozenset({".npy"}))))
    return next((path for path in files if path.stem.casefold() == name), None)


def open(root: Path, mpp: float | None) -> Dataset:
    """List PanNuke's tiles, named ``fold1_00000``, or the images they were cut from, where ``tiles.csv`` says that."""
    listing = Listing(root, mpp)
    folds: dict[str, _Fold] = {}
    for fold in _folds(root):
        with listing.leaving_out(fold.name):
            size = len(_checked(fold)[0])
            if fold.name in folds:
                listing.report(fold.name, "two folders are of one fold; rename one.")
            else:
                folds[fold.name] = fold._replace(size=size)
    pieces = _pieces(listing, folds)
    for image, parts in pieces.items():
        fold = folds[parts[0].fold]
        listing.add(
            image, (fold.images, fold.masks), Row(split=fold.split, mpp=parts[0].mpp or MPP, index=parts[0].index)
        )
    described = {known.number: known for known in listing.classes}
    classes = tuple(described.get(known.number, known) for known in CLASSES)
    return listing.dataset(classes, _Files(folds, pieces))


def _pieces(listing: Listing, folds: Mapping[str, _Fold]) -> dict[str, Sequence[Piece]]:
    """The tiles of each image: those of the table, or one for each."""
    table = listing.root / TILES
    if not table.is_file():
        return {
            f"{name}_{index:05d}": (Piece(name, index, 0, 0, SIDE, SIDE),)
            for name, fold in folds.items()
            for index in range(fold.size)
        }
    pieces: dict[str, Sequence[Piece]] = {}
    for image, parts in read_tiles(table).items():
        missing = [tile for tile in parts if tile.fold not in folds or tile.index >= folds[tile.fold].size]
        if missing:
            tile = missing[0]
            listing.report(image, f"{TILES} lists tile {tile.index} of {tile.fold}, which is not there; add it.")
        else:
            pieces[image] = parts
    return pieces


def _checked(fold: _Fold) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both arrays of a fold."""
    images, masks = open_npy(fold.images, 4), open_npy(fold.masks, 4)
    count, rows, cols, channels = images.shape
    if (rows, cols, channels) != (SIDE, SIDE, 3) or count > _MOST:
        raise HistomixError(f"{fold.images.name} has the shape {images.shape}; PanNuke's images are (N, 256, 256, 3).")
    if masks.shape != (count, rows, cols, len(CLASSES) + 1):
        raise HistomixError(
            f"{fold.masks.name} has the shape {masks.shape} and {fold.images.name} {images.shape}; "
            "PanNuke's masks are (N, 256, 256, 6), as many as images."
        )
    return images, masks


@dataclass(frozen=True)
class _Files(ImageFiles):
    """Arrays of tiles, by fold, and the tiles of each image."""

    folds: Mapping[str, _Fold] = field(repr=False)
    pieces: Mapping[str, Sequence[Piece]] = field(repr=False)

    def pixels(self, entry: Entry) -> NDArray[np.uint8]:
        pieces = self.pieces[entry.source.image]
        size = size_of(pieces)
        check_size(size, entry.source.image)
        result = np.zeros((*size, 3), np.uint8)
        for piece, tile in self._tiles(pieces, 0):
            if tile.dtype != np.uint8:
                if not (np.isfinite(tile).all() and tile.min() >= 0 and tile.max() <= 255):
                    name = entry.image.name
                    raise HistomixError(f"{name} holds values that are no colors from 0 to 255; save it again.")
                tile = np.rint(tile * (255.0 if self._is_to_one(piece, tile) else 1.0))
            result[piece.window] = tile
        return result

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        # Where the maps of two classes overlap, a pixel is that of the first class. Ids keep their order and are
        # numbered from 1; one id in the maps of two classes is two nuclei.
        pieces = self.pieces[entry.source.image]
        # Eight numbers per id, one for each class and room to spare.
        pairs = np.zeros(shape, np.int64)
        for piece, tile in self._tiles(pieces, 1):
            maps = as_ids(tile[..., : len(CLASSES)], entry.label_file.name)
            kinds = (maps > 0).argmax(axis=2)
            ids = np.take_along_axis(maps, kinds[..., None], axis=2)[..., 0].astype(np.int64)
            pairs[piece.window] = ids * 8 + kinds
        values, places = np.unique(pairs, return_inverse=True)
        first = 0 if values[0] == 0 else 1
        types = {number: int(pair % 8) + 1 for number, pair in enumerate(values.tolist(), start=first) if pair}
        return Labels((places.reshape(shape) + first).astype(np.int32), types)

    def _is_to_one(self, piece: Piece, tile: NDArray[Any]) -> bool:
        """Whether the colors of a tile's fold reach from 0 to 1: in floating point, and nowhere beyond."""
        if tile.dtype.kind != "f" or tile.max() > 1:
            return False
        tiles = _checked(self.folds[piece.fold])[0]
        return not any(np.any(tiles[index] > 1) for index in range(0, len(tiles), -(-len(tiles) // _SAMPLED)))

    def _tiles(self, pieces: Sequence[Piece], which: int) -> Iterator[tuple[Piece, NDArray[Any]]]:
        """Each tile of an image or of its masks, without what is mirrored."""
        arrays: dict[str, NDArray[Any]] = {}
        for piece in pieces:
            if piece.fold not in arrays:
                arrays[piece.fold] = _checked(self.folds[piece.fold])[which]
            tiles = arrays[piece.fold]
            if piece.index >= len(tiles) or piece.height > SIDE or piece.width > SIDE:
                raise HistomixError(f"{TILES} does not fit the arrays; write the dataset again.")
            yield piece, np.array(tiles[piece.index][: piece.height, : piece.width])


class Writer(ImageWriter):
    """Writes PanNuke's folds: images of the training split as ``Fold 1``, of validation as 2, of test as 3.

    Images are cut into tiles of 256² pixels without overlap and mirrored beyond their borders; ``tiles.csv`` says which
    tile is which part of which image. Colors are written as 8-bit and ids as 32-bit whole numbers. Whoever reads tile
    by tile sees nuclei cut at their borders, slivers among them. Pixels are not scaled to PanNuke's 0.25 µm;
    ``dataset.json`` and ``tiles.csv`` say their scale.

    Classes become PanNuke's by name (`SYNONYMS`), and several may become one.
    """

    def start(self) -> None:
        self._kinds = {known.number: pannuke_class(known.name) for known in self.classes}
        self._numbers: dict[str, int] = {}
        self._folds: dict[str, tuple[GrowingNpy, GrowingNpy]] = {}
        self._tiles: list[tuple[Any, ...]] = []

    def include(self, known: NucleusClass) -> None:
        self._kinds[known.number] = pannuke_class(known.name)
        super().include(known)

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        fold, images, masks = self._fold(image.source.split or "train")
        ids = np.unique(image.instances)
        first = 0 if ids[0] == 0 else 1
        numbered = (np.searchsorted(ids, image.instances) + first).astype(np.int32)
        channels = np.zeros(len(ids) + first, np.int64)
        channels[1:] = [self._kinds[image.types[instance]] - 1 for instance in ids.tolist() if instance]
        rows, cols = numbered.shape
        for row, col, pixels, tile, unmirrored in cut(image.pixels, numbered, SIDE):
            maps = np.zeros((SIDE, SIDE, len(CLASSES) + 1), np.int32)
            np.put_along_axis(maps, channels[unmirrored][..., None], tile[..., None], axis=2)
            maps[..., -1] = tile == 0
            place = (row, col, min(SIDE, rows - row), min(SIDE, cols - col))
            flag = "yes" if synthetic else "no"
            self._tiles.append((fold, images.count, image.source.image, *place, image.mpp, flag))
            images.append(pixels)
            masks.append(maps)

    def _fold(self, split: str) -> tuple[str, GrowingNpy, GrowingNpy]:
        """Name and arrays of the fold of a split."""
        if split not in self._folds:
            number = _FOLDS.get(split) or max(*_FOLDS.values(), *self._numbers.values()) + 1
            folder, name = self.folder / f"Fold {number}", f"fold{number}"
            images = GrowingNpy(folder / "images" / name / "images.npy", (SIDE, SIDE, 3), np.uint8)
            masks = GrowingNpy(folder / "masks" / name / "masks.npy", (SIDE, SIDE, len(CLASSES) + 1), np.int32)
            self._numbers[split], self._folds[split] = number, (images, masks)
        return f"fold{self._numbers[split]}", *self._folds[split]

    def finish(self) -> None:
        for images, masks in self._folds.values():
            images.write_header()
            masks.write_header()
            # The tissue, which a dataset here does not say.
            np.save(images.path.with_name("types.npy"), np.full(images.count, "Unknown"), allow_pickle=False)
        write_table(self.folder / TILES, _COLUMNS, self._tiles)
        colors = {self._kinds[known.number]: known.color for known in reversed(self.classes)}
        written_as = {known.name: CLASSES[self._kinds[known.number] - 1].name for known in self.classes}
        classes = [replace(known, color=colors.get(known.number, known.color)) for known in CLASSES]
        self.describe(classes, written_as=written_as)


def pannuke_class(name: str) -> int:
    """The number of PanNuke's class that a name stands for."""
    for known in CLASSES:
        if name.strip().casefold() in (known.name, *SYNONYMS[known.name]):
            return known.number
    raise HistomixError(
        f"The class {name!r} is none of PanNuke's ({', '.join(known.name for known in CLASSES)}); "
        "rename it in type_info.json, or choose another format."
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """A tile of an image: its place in a fold, its upper left corner, and what of it is not mirrored."""

    fold: str
    index: int
    row: int
    col: int
    height: int
    width: int
    mpp: float | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of it in its image."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


def cut(
    pixels: NDArray[np.uint8], instances: NDArray[np.int32], side: int
) -> Iterator[tuple[int, int, NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]]:
    """Cut an image into square tiles without overlap, mirroring it beyond its right and lower border.

    A nucleus in several tiles has one id in all of them. A mirrored nucleus has an id of its own, unless it is joined
    at the border to the one it mirrors.
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
                for part in sorted(set(range(1, count + 1)) - set(parts[real].tolist())):
                    tile[parts == part] = following
                    following += 1
            yield row, col, pixels[row : row + side, col : col + side], tile, original


def read_tiles(path: Path) -> dict[str, list[Piece]]:
    """The tiles of each image, in the order of the table."""
    table = read_table(path, *_COLUMNS[:-2])
    tiles: dict[str, list[Piece]] = {}
    for line, row in table.rows:
        numbers = [whole_number(row[name]) for name in ("index", "row", "col", "height", "width")]
        whole = [number for number in numbers if number is not None and 0 <= number < 2**31]
        if len(whole) < len(numbers) or not row["image"] or not row["fold"]:
            raise HistomixError(f"{table.where}, line {line}: a cell is empty or no whole number.")
        mpp = checked_mpp(row["mpp"], f"{path.name}, line {line},") if row.get("mpp") else None
        index, top, left, height, width = whole
        tiles.setdefault(row["image"], []).append(Piece(row["fold"], index, top, left, height, width, mpp))
    for image, pieces in tiles.items():
        height, width = size_of(pieces)
        corners = {(piece.row, piece.col) for piece in pieces}
        if sum(piece.height * piece.width for piece in pieces) != height * width or len(corners) < len(pieces):
            raise HistomixError(f"{path.name} in {path.parent}: the tiles of {image} do not cover it exactly once.")
    return tiles


def size_of(pieces: Iterable[Piece]) -> tuple[int, int]:
    """Height and width of the image that tiles are put together to."""
    windows = [piece.window for piece in pieces]
    return max(rows.stop for rows, _ in windows), max(cols.stop for _, cols in windows)


def open_npy(path: Path, ndim: int) -> NDArray[Any]:
    """Open a ``.npy`` file of numbers, never of objects; its values stay on disk until they are asked for."""
    with readable(path.name):
        if not path.exists():
            raise gone(path.name)
        with path.open("rb") as stream:
            try:
                version = npy.read_magic(stream)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, fortran, dtype = read(stream)
            except OSError:
                raise
            except Exception as error:  # a damaged header makes numpy raise anything from SyntaxError to TypeError
                name = type(error).__name__
                raise HistomixError(f"{path.name} is no NumPy file ({name}); save it again.") from None
            start = stream.tell()
        if dtype.kind not in "biuf":
            raise HistomixError(f"{path.name} holds values of the type {dtype}, which are not read; save numbers.")
        if len(shape) != ndim or not all(isinstance(size, int) and 0 < size < 2**31 for size in shape):
            raise HistomixError(f"{path.name} has the shape {shape}; it needs {ndim} dimensions, none of them empty.")
        if path.stat().st_size < start + dtype.itemsize * math.prod(shape):
            raise HistomixError(f"{path.name} is cut short; copy it again.")
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


class GrowingNpy:
    """A ``.npy`` file to which arrays of one shape are appended."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.path, self.shape, self.dtype, self.count = path, shape, np.dtype(dtype), 0
        path.parent.mkdir(parents=True)
        self.write_header("wb")

    def append(self, array: NDArray[Any]) -> None:
        with self.path.open("ab") as stream:
            stream.write(np.ascontiguousarray(array, self.dtype).tobytes())
        self.count += 1

    def write_header(self, mode: str = "r+b") -> None:
        """Say how many there are. NumPy leaves room in a header for its first dimension to grow."""
        descr, shape = npy.dtype_to_descr(self.dtype), (self.count, *self.shape)
        with self.path.open(mode) as stream:
            npy.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
