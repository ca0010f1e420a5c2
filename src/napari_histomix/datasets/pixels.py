"""Read an image file into RGB pixels, a label image into ids, and find the scale its metadata states."""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets.text_files import check_size, gone
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError, LabeledImage

PLAUSIBLE_MPP = (0.05, 5.0)
"""Resolutions outside this range are those of printers and screens (72 dpi is 353 µm/px), not of microscopes."""

_MAX_BYTES = 2**30
"""Memory of one image as its file stores it, or of one of its strips or tiles."""
_MAX_PAGES = 64
"""Pages of a TIFF that are looked at; a pyramid has fewer."""
_REDUCED, _MASK = 1, 4
"""Bits of a TIFF page's subfile type."""
_BAND = 2**20
"""Pixels that are converted at a time, so that a large image needs little more memory than itself."""
_CAMERA_BITS = (8, 10, 12, 14)
"""Bits of cameras whose values are stored in 16: taken for the full range, the brightest slide would be dark."""
_TIFF = frozenset({".tif", ".tiff"})
_ORIENTATION = 274
_PNG, _PNG_METADATA = b"\x89PNG\r\n\x1a\n", (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""How a PNG begins, and its chunks that may say how it is to be turned."""
_MIRRORED = {number: (number in (3, 4, 7, 8), number in (2, 3, 6, 7)) for number in range(1, 9)}
"""By EXIF orientation whether rows and columns run backwards, after those from 5 on have changed places."""
_MICROMETERS = dict.fromkeys(("µm", "μm", "um", "micron", "microns"), 1.0)
_MICROMETERS |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L"})


def pixels_sha256(pixels: NDArray[np.uint8]) -> str:
    """Hexadecimal SHA-256 of an image's shape and pixels (H, W, 3) uint8 RGB: the same in whatever file they lie."""
    return _sha256(np.ascontiguousarray(pixels, np.uint8))


def labels_sha256(instances: NDArray[np.int32]) -> str:
    """Hexadecimal SHA-256 of an instance map's shape and ids (H, W) int32: the same in whatever file they lie."""
    return _sha256(np.ascontiguousarray(instances, "<i4"))


def _sha256(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{'x'.join(map(str, array.shape))}:".encode())
    digest.update(array.data)
    return digest.hexdigest()


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Read an H&E image as RGB, turned upright where its metadata say how the camera was held.

    16-bit color is taken as full range and divided by 257 (65535 becomes 255), rounded. Floating point is taken as 0 to
    1, or as 0 to 255 where it is larger. An opaque alpha channel is
    dropped; where alpha is less than opaque, the color is composited on white, the color of an empty slide.

    Files are PNG, JPEG or TIFF; of a pyramid, the full resolution is read, as (H, W, 3) uint8.

    Raises
    ------
    HistomixError
        If the file cannot be read, is not color, holds no colors, or is too large.
    """
    array = _read_array(path, "an image")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 2)):
        raise HistomixError(f"{path.name} is a grayscale image; an H&E image needs color (RGB).")
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise HistomixError(f"{path.name} has the shape {array.shape}; save it as one RGB image.")
    if array.size == 0:
        raise HistomixError(f"{path.name} has no pixels; save the image again.")
    if array.dtype == np.uint16:
        used = int(array[..., :3].max()).bit_length()
        if 0 < used <= _CAMERA_BITS[-1]:
            bits = next(bits for bits in _CAMERA_BITS if used <= bits)
            raise HistomixError(
                f"{path.name} is stored in 16 bits but uses only the values of {bits}; save it with 8 bits per channel."
            )
        array = _banded(array, _divided, array.shape[2])
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 255):  # NaN is in no range
            raise HistomixError(f"{path.name} holds values that are no colors from 0 to 1 or to 255; save it again.")
        array = _banded(array * (255.0 if high <= 1 else 1.0), _rounded, array.shape[2])
    if array.dtype != np.uint8:
        raise HistomixError(f"{path.name} holds {array.dtype} values; save it with 8 or 16 bits per channel.")
    if array.shape[2] == 4:
        opaque = (array[..., 3] == 255).all()
        array = array[..., :3] if opaque else _banded(array, _on_white, 3)
    return np.ascontiguousarray(upright(array, orientation_of(path)))


def read_label_image(path: Path) -> NDArray[np.int32]:
    """Read a label image: one channel of whole numbers of any type, 0 = background, as its file stores it.

    Of an image with a color table the indices count. Three equal channels are one.
    """
    array = _read_array(path, "a label image", indexed=True)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
        array = array[..., :-1] if (array[..., -1] == opaque).all() else array
    if array.ndim == 3 and (array == array[..., :1]).all():
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] in (3, 4):
        raise HistomixError(
            f"{path.name} marks nuclei by colors, which are no ids: two nuclei of one color could not be told apart; "
            "save one channel of instance ids."
        )
    if array.ndim != 2:
        raise HistomixError(f"{path.name} is no label image (shape {array.shape}); save one channel of instance ids.")
    return as_ids(array, path.name)


def is_gray(path: Path) -> bool:
    """Whether an image file has a single channel or a color table, as label images have, by its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix.casefold() in _TIFF:
                with tifffile.TiffFile(path, _multifile=False) as tiff:
                    return tiff.pages.first.samplesperpixel == 1
            with _opened(path) as image:
                return image.mode in _GRAY_MODES | {"P"}
    except Exception:  # decoders raise anything on a broken header; reading that file says why in a sentence
        return False


def orientation_of(path: Path) -> int:
    """How an image file says that it is to be turned, from 1 (not at all) to 8, as EXIF numbers it."""
    try:
        if _is_bare_png(path):
            return 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(path) as image:
                number = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # decoders raise anything on a broken header; read_pixels reports that file in a sentence
        return 1
    return number if number in range(1, 9) else 1


def _is_bare_png(path: Path) -> bool:
    """Whether a file is a PNG without a word beside its pixels: Pillow decodes all of them to look for EXIF data."""
    with path.open("rb") as stream:
        if stream.read(8) != _PNG:
            return False
        while len(head := stream.read(8)) == 8:
            if head[4:] in _PNG_METADATA:
                return False
            stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return True


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image or a map (H, W, …) as it is stored, turned as its EXIF orientation (1 to 8) asks for."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    rows, cols = _MIRRORED[orientation]
    return array[:: -1 if rows else 1, :: -1 if cols else 1]


def as_ids(array: NDArray[Any], name: str) -> NDArray[np.int32]:
    """Turn a map of whole numbers, floating point allowed, into int32 ids."""
    if array.size == 0:
        raise HistomixError(f"{name}: the instance map has no pixels; export the labels again.")
    ids = np.empty(array.shape, np.int32)
    step = max(1, _BAND // max(1, array[0].size))
    for start in range(0, len(array), step):
        band = array[start : start + step]
        # NaN is in no range.
        within = band.min() >= 0 and band.max() <= np.iinfo(np.int32).max
        if within:
            ids[start : start + step] = band
        if not within or (band.dtype.kind == "f" and not np.array_equal(band, ids[start : start + step])):
            raise HistomixError(f"{name}: ids must be whole numbers from 0 to 2147483647; export the labels again.")
    return ids


def read_mpp(path: Path) -> float | None:
    """µm per pixel by the image's own metadata.

    TIFF: OME ``PhysicalSizeX``, the ``MPP`` of a scanner's description, ImageJ's unit, or the resolution tags. PNG and
    JPEG: the pixel density. Densities count only if they are those of a microscope (see `PLAUSIBLE_MPP`) and the
    same in both directions within 1 %.

    None if the metadata does not say, or the file cannot be read (reading its pixels says why).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _tiff_mpp(path) if path.suffix.casefold() in _TIFF else _density_mpp(path)
    except Exception:  # decoders raise anything on a broken header; read_pixels reports that file in a sentence
        return None


def _read_array(path: Path, what: str, *, indexed: bool = False) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            # Decoders warn about harmless tags; what matters raises, or shows in the shape.
            warnings.simplefilter("ignore")
            if path.suffix.casefold() in _TIFF:
                return _read_tiff(path, indexed)
            return _read_with_pillow(path, indexed)
    except HistomixError:
        raise
    except FileNotFoundError:
        raise gone(path.name) from None
    except Image.DecompressionBombError:
        raise HistomixError(f"{path.name} has more pixels than are read; cut it into smaller images.") from None
    except Exception as error:  # a broken file makes the decoders raise anything from SyntaxError to struct.error
        text = " ".join(str(error).split()) or type(error).__name__
        reason = text.rstrip(".") if len(text) <= 90 else text[:89] + "…"
        raise HistomixError(
            f"{path.name} cannot be read as {what} ({reason}); it may be damaged, copy or export it again."
        ) from None


def _read_tiff(path: Path, indexed: bool) -> NDArray[Any]:
    # Only pages are looked at, not what tifffile calls series: for those, other files that this one names would be
    # opened, and memory be taken for as many planes as its metadata claim.
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        page = tiff.pages.first
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and not indexed:
            raise HistomixError(f"{path.name} is a TIFF with a color table; save it as plain RGB or as plain ids.")
        if page.axes not in ("YX", "YXS", "SYX") or _is_stack(tiff):
            raise HistomixError(
                f"{path.name} holds more than one image (axes {page.axes}); save one two-dimensional image."
            )
        check_size((page.imagelength, page.imagewidth), path.name)
        if page.nbytes > _MAX_BYTES:
            raise HistomixError(f"{path.name} has {page.nbytes >> 20} MB of pixels; cut it into smaller images.")
        if _decodable(page):
            _check_segments(page)
            array = page.asarray()
            return np.moveaxis(array, 0, -1) if page.axes == "SYX" else array
    # tifffile leaves LZW, JPEG and others to imagecodecs, which is not required; Pillow decodes them by itself, and
    # never more than the image's own size.
    return _read_with_pillow(path, indexed)


def _is_stack(tiff: tifffile.TiffFile) -> bool:
    """Whether there are more images of the first one's size; the smaller ones of a pyramid are not."""
    first = tiff.pages.first
    # ImageJ writes the planes of a large stack one after another and describes only the first.
    if int((tiff.imagej_metadata or {}).get("images", 1)) > 1:
        return True
    for index in range(1, _MAX_PAGES):
        try:
            # One by one: their number is known only after all were visited, which never ends where they form a circle.
            page = tiff.pages[index]
        except IndexError:
            return False
        alike = (page.shape, page.dtype) == (first.shape, first.dtype)
        if alike and isinstance(page, tifffile.TiffPage) and page.subfiletype & (_REDUCED | _MASK) == 0:
            return True
    return True


def _decodable(page: tifffile.TiffPage) -> bool:
    try:
        tifffile.TIFF.UNPREDICTORS[page.predictor]
    except (KeyError, ValueError, ImportError):
        return False
    # JPEG and YCbCr need color conversion as well, which Pillow does.
    return page.compression in (1, 8, 32773, 32946) and page.photometric != tifffile.PHOTOMETRIC.YCBCR


def _check_segments(page: tifffile.TiffPage) -> None:
    """Inflate the strips or tiles without keeping anything: none may hold more than a strip or tile of its image."""
    rows, cols = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    size = rows * cols * page.samplesperpixel * (page.dtype.itemsize if page.dtype else 1)
    if size > _MAX_BYTES:
        raise ValueError("a strip or tile is larger than any image")
    if page.compression not in (8, 32946):
        return
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        page.parent.filehandle.seek(offset)
        data, inflater, inflated = page.parent.filehandle.read(count), zlib.decompressobj(), 0
        # Counted piece by piece, and no further than just above the limit.
        while data and inflated <= size:
            inflated += len(inflater.decompress(data, 2**16))
            data = inflater.unconsumed_tail
        if inflated > size:
            raise ValueError("a strip or tile holds more than its share of the image")


def _read_with_pillow(path: Path, indexed: bool) -> NDArray[Any]:
    with _opened(path) as image:
        check_size((image.height, image.width), path.name)
        if image.format == "PNG" and _is_16_bit_color(path):
            # Pillow would drop the lower bytes without a word.
            array = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
            if array is None:
                raise ValueError("the PNG data is incomplete")
            return array[..., [2, 1, 0, 3][: array.shape[2]]]
        turn = orientation_of(path) if image.format == "TIFF" else 1
        image.load()
        if image.mode not in {"P", "RGB", "RGBA"} | _GRAY_MODES:
            raise HistomixError(f"{path.name} is stored as {image.mode}; save it as RGB.")
        if image.mode == "P" and not indexed:
            array = np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
        else:
            array = np.asarray(image)
        # Pillow turns TIFF files while it loads them, and no others; here all are turned in one place.
        return upright(array, {6: 8, 8: 6}.get(turn, turn))


def _opened(path: Path) -> Image.Image:
    # Pillow goes by the first bytes, not the suffix, and knows formats that run other programs, as PostScript does.
    return Image.open(path, formats=("PNG", "JPEG", "TIFF"))


def _is_16_bit_color(path: Path) -> bool:
    # Bit depth and color type of a PNG are the bytes 24 and 25 of the file (header chunk); 2 is RGB, 6 RGBA.
    with path.open("rb") as file:
        head = file.read(26)
    return len(head) == 26 and head[24] == 16 and head[25] in (2, 6)


def _banded(
    array: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[np.uint8]], channels: int
) -> NDArray[np.uint8]:
    """Convert (H, W, …) to (H, W, channels) some pixels at a time."""
    flat = np.ascontiguousarray(array).reshape(-1, array.shape[2])
    result = np.empty((len(flat), channels), np.uint8)
    for start in range(0, len(flat), _BAND):
        result[start : start + _BAND] = convert(flat[start : start + _BAND])
    return result.reshape(*array.shape[:2], channels)


def _divided(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _rounded(pixels: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.rint(pixels).astype(np.uint8)


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    color, alpha = pixels[:, :3], pixels[:, 3:].astype(np.uint32)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def square_mpp(x: float, y: float) -> float | None:
    """One µm/px of two, to six digits; None if the pixels are not square or the value is not a microscope's."""
    low, high = PLAUSIBLE_MPP
    if not (math.isfinite(x) and math.isfinite(y) and low <= x <= high and abs(x - y) <= 0.01 * x):
        return None
    return float(f"{x:.6g}")


def _density_mpp(path: Path) -> float | None:
    with _opened(path) as image:
        density = image.info.get("dpi")
    if density is None or min(density) <= 0:
        return None
    return square_mpp(*(25400 / float(value) for value in density))


def _tiff_mpp(path: Path) -> float | None:
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        page = tiff.pages.first
        if tiff.is_ome and tiff.ome_metadata:
            return _ome_mpp(tiff.ome_metadata)
        if scanner := re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description):
            return square_mpp(float(scanner[1]), float(scanner[1]))
        if "XResolution" not in page.tags or "YResolution" not in page.tags:
            return None
        per_unit = [x / y for x, y in (page.tags["XResolution"].value, page.tags["YResolution"].value)]
        unit = _MICROMETERS.get(str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ"))
        if unit is None and "ResolutionUnit" in page.tags:
            unit = {2: 25400.0, 3: 10000.0}.get(int(page.tags["ResolutionUnit"].value))
    if unit is None or min(per_unit) <= 0:
        return None
    return square_mpp(unit / per_unit[0], unit / per_unit[1])


def _ome_mpp(text: str) -> float | None:
    if "<!" in text.replace("<!--", ""):
        # A document type of its own, by which a small text can grow without end.
        return None
    pixels = ElementTree.fromstring(text).find(".//{*}Pixels")
    if pixels is None:
        return None
    sizes = []
    for axis in "XY":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if size is None or unit not in _MICROMETERS:
            return None
        sizes.append(float(size) * _MICROMETERS[unit])
    return square_mpp(*sizes)


def is_flagged(path: Path) -> bool:
    """Whether a PNG or TIFF file says in its description that it holds synthetic pixels."""
    if path.suffix.casefold() not in {".png"} | _TIFF:
        return False
    try:
        with Image.open(path, formats=["PNG", "TIFF"]) as image:
            tags = getattr(image, "tag_v2", {})
            texts = (image.info.get("Description", ""), tags.get(270, ""))
    except Exception:  # decoders raise anything on a broken header
        return False
    return any(SYNTHETIC_NOTICE in str(text) for text in texts)


def image_facts(image: LabeledImage) -> dict[str, Any]:
    """Name, patient, slide, µm/px and the SHA-256 of the pixels of an image, and of its instance map if it has one."""
    source = image.source
    facts: dict[str, Any] = {"image": source.image, "patient": source.patient, "slide": source.slide, "mpp": image.mpp}
    hashes = {"pixels_sha256": pixels_sha256(image.pixels)}
    if not image.kind or image.types:
        hashes["labels_sha256"] = labels_sha256(image.instances)
    return facts | hashes
