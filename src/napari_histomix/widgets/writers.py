"""What napari saves with the package: nuclei of a Labels layer as others read them, images with the synthetic flag."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.entries import classes_of, numbered_classes, with_names
from napari_histomix.datasets.formats import format_of
from napari_histomix.datasets.formats.qupath import write_features
from napari_histomix.datasets.formats.tiff_pairs import smallest_ids, write_tiff
from napari_histomix.datasets.pixels import as_ids
from napari_histomix.datasets.text_files import whole_number
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, safe_name, write_png
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, Source
from napari_histomix.widgets.viewer_layers import about, labels_of_rows, micrometers, pixels_of

CLASS_FEATURES = ("class", "type", "classification")
"""Features of a Labels layer that say the class of each label; the first that is there counts."""

NUCLEUS = "nucleus"
"""Class of labels where no feature says one."""


def write_geojson(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer as QuPath's GeoJSON: detections in the colors of their classes."""
    image, classes, scaled = _labeled(data, meta)
    file = _named(path, ".geojson", ".json")
    write_features(file, image, classes, measured=scaled)
    return [str(file)]


def write_coco(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer as COCO's instances, for the image of the layer's name."""
    return _through("coco", "annotations/*.json", _named(path, ".json"), data, meta)


def write_mat(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer as HoVer-Net's ``.mat``: inst_map, type_map, inst_type and inst_centroid."""
    return _through("hovernet", "Labels/*.mat", _named(path, ".mat"), data, meta)


def write_pair(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write an RGB Image layer as PNG or TIFF, a Labels layer as a TIFF of ids, or both, with their scale.

    Ids have 16 bits, or 32 where there are larger ones. Labels beside an image are ``NAME_masks.tif``, as Cellpose has
    them; what is synthetic says so in its description.
    """
    # All are looked at before anything is written.
    arrays = [(kind, _SAVED[kind](data, meta), meta) for data, meta, kind in layers]
    named, written = _named(path, ".tif", ".tiff", ".png"), []
    masks = named.with_name(f"{named.stem}_masks.tif")
    if len(arrays) == 2 and masks.exists() and not named.exists():
        # A person was asked about the image alone; where that is replaced, its labels are.
        raise HistomixError(f"{masks.name} exists already, without {named.name}; choose another name.")
    for kind, array, meta in arrays:
        file = masks if kind == "labels" and len(arrays) == 2 else named
        if file.suffix.casefold() == ".png":
            write_png(file, array, _mpp(meta), is_synthetic(meta))
        else:
            write_tiff(file, array, **_tags(meta))
        written.append(str(file))
    return written


def _named(path: str, *suffixes: str) -> Path:
    """The file that a person named, with the first suffix where it has none of these."""
    if Path(path).suffix.casefold() in suffixes:
        return Path(path)
    file = Path(f"{path}{suffixes[0]}")
    if file.exists():
        # napari asked about the name as it was typed.
        raise HistomixError(f"{file.name} exists already; choose another name.")
    return file


def is_synthetic(meta: Mapping[str, Any]) -> bool:
    """Whether a layer's metadata say that it shows what no microscope saw."""
    return bool(_about(meta).get("synthetic"))


def _about(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    return about(SimpleNamespace(metadata=meta.get("metadata", {})))


def _mpp(meta: Mapping[str, Any]) -> float | None:
    return micrometers(SimpleNamespace(scale=meta.get("scale", ()), units=meta.get("units", ())))


def _tags(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Resolution and description of a TIFF."""
    mpp = _mpp(meta)
    density = {} if mpp is None else {"resolution": (10_000 / mpp, 10_000 / mpp), "resolutionunit": "CENTIMETER"}
    return density | ({"description": SYNTHETIC_NOTICE} if is_synthetic(meta) else {})


def _ids(data: Any, meta: Mapping[str, Any]) -> NDArray[np.int32]:
    labels = np.squeeze(np.asarray(data[0] if meta.get("multiscale") else data))
    if labels.ndim != 2:
        raise HistomixError(f"{meta['name']} holds more than one plane of labels; save one of them.")
    return as_ids(labels, meta["name"])


def _pixels(data: Any, meta: Mapping[str, Any]) -> NDArray[np.uint8]:
    if not meta.get("rgb"):
        raise HistomixError(f"{meta['name']} is no RGB image; save it with another writer.")
    planes = pixels_of(meta["name"], data[0] if meta.get("multiscale") else data)
    if len(planes) != 1:
        raise HistomixError(f"{meta['name']} holds {len(planes)} images; save one of them.")
    return planes[0][1]


_SAVED = {"image": _pixels, "labels": lambda data, meta: smallest_ids(_ids(data, meta))}


def _labeled(data: Any, meta: Mapping[str, Any]) -> tuple[LabeledImage, tuple[NucleusClass, ...], bool]:
    """The labels with their classes, on a white image; and whether their scale is known."""
    instances, mpp = _ids(data, meta), _mpp(meta)
    ids = [int(number) for number in np.unique(instances) if number]
    highest = max(ids, default=0)
    kinds = kinds_of(meta, highest)
    classes = _classes(meta, {kinds.get(number, NUCLEUS) for number in ids})
    numbers = {kind.name.casefold(): kind.number for kind in classes}
    types = {number: numbers[kinds.get(number, NUCLEUS).casefold()] for number in ids}
    pixels = np.full((*instances.shape, 3), 255, np.uint8)
    name = safe_name(str(_about(meta).get("image") or meta["name"]))
    # A layer says of its image as a whole that it is synthetic, unless its features say it of each label.
    flags = _feature(meta, ("synthetic",), highest)
    if flags is None:
        flags = dict.fromkeys(ids, is_synthetic(meta))
    synthetic = frozenset(number for number in ids if flags.get(number) == True)  # noqa: E712
    image = LabeledImage(pixels, instances, types, mpp or 1.0, Source("", name), synthetic=synthetic)
    return image, classes, mpp is not None


def _feature(meta: Mapping[str, Any], names: tuple[str, ...], highest: int) -> dict[int, Any] | None:
    """What the first of these features that is there says of each label, up to ``highest``; None where none is."""
    features = meta.get("features")
    for name in names:
        if features is not None and name in features:
            rows = zip(labels_of_rows(features, highest), features[name], strict=True)
            return {int(number): value for number, value in rows}
    return None


def kinds_of(meta: Mapping[str, Any], highest: int = 0) -> dict[int, str]:
    """The class of each label, up to ``highest``, by the layer's features as text; empty where no feature says one."""
    named = {kind.number: kind.name for kind in classes_in(meta)}
    kinds = {}
    for number, value in (_feature(meta, CLASS_FEATURES, highest) or {}).items():
        text = "" if value is None or value != value else str(value).strip()
        if text:
            whole = whole_number(text)
            kinds[number] = text if whole is None else named.get(whole, f"type {whole}")
    return kinds


def classes_in(meta: Mapping[str, Any]) -> tuple[NucleusClass, ...]:
    """The classes in the layer's own metadata."""
    classes = _about(meta).get("classes")
    return classes_of(classes, "the layer's metadata") if isinstance(classes, dict) else ()


def _classes(meta: Mapping[str, Any], kinds: set[str]) -> tuple[NucleusClass, ...]:
    """The classes of the layer's own metadata, and behind them those of its features that are not among them."""
    known = classes_in(meta)
    numbers = {int(match[1]) for kind in kinds if (match := re.fullmatch(r"type ([0-9]+)", kind))}
    if not known and 0 < len(numbers) == len(kinds):
        return numbered_classes(numbers)
    return with_names(known, kinds)


def _through(format: str, pattern: str, target: Path, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a whole dataset of one image beside the file, and keep its labels."""
    image, classes, _ = _labeled(data, meta)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as place:
        writer = format_of(format).writer()(Path(place), meta["name"], classes)
        writer.add(image, synthetic=is_synthetic(meta))
        writer.finish()
        (labels,) = Path(place).glob(pattern)
        labels.replace(target)
    return [str(target)]
