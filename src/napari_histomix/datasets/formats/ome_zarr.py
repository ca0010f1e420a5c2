"""OME-Zarr: images with their nuclei as labels, a folder ``NAME.zarr`` each (https://ngff.openmicroscopy.org).

Single images are read, and those that bioformats2raw or a plate keep in one folder; folders for splits may hold them.
Versions 0.4 and 0.5 are read and 0.4 is written, which ome-zarr-py and napari-ome-zarr read as well as programs that
know no newer one. ``labels/nuclei`` holds the instances; the ``properties`` of its ``image-label`` say their classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import Entry, Labels, Row, named_classes
from napari_histomix.datasets.formats.plain import classes_of, listed_types
from napari_histomix.datasets.formats.zarr_arrays import below, open_array, read_group, write_array, write_group
from napari_histomix.datasets.listing import Listing, sections_of, subfolders
from napari_histomix.datasets.names import composed
from napari_histomix.datasets.pixels import as_ids, square_mpp
from napari_histomix.datasets.text_files import check_size, readable
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, smallest_ids
from napari_histomix.records import HistomixError, LabeledImage, instance_ids

_METADATA = (".zgroup", ".zarray", "zarr.json")
_SERIES = "bioformats2raw.layout"
"""By which bioformats2raw says that a group holds images by their numbers."""
_MOST = 10_000
"""Images in one folder, wells of a plate, and fields of a well."""
_VERSION = "0.4"
_LABELS = "nuclei"
_CLASS_KEYS = ("class", "type", "classification", "cell_type", "category")
_MICROMETERS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))


def recognizes(root: Path) -> bool:
    """Whether the folder is a Zarr group by its name, or it or its folders for splits hold some."""
    return bool(_stores(root))


def _stores(root: Path) -> list[tuple[Path, str, str]]:
    """Folders that may hold images, with a name for these and their split."""
    stores = [
        (path, split)
        for folder, split in sections_of(root)
        for path in subfolders(folder)
        if path.suffix.casefold() == ".zarr"
    ]
    if not stores and root.suffix.casefold() == ".zarr":
        stores = [(root, "")]
    return [
        (path, composed(path.stem.removesuffix(".ome")), split)
        for path, split in stores
        if any((path / name).is_file() for name in _METADATA)
    ]


def _images_in(store: Path, name: str, listing: Listing) -> Iterator[tuple[str, Path]]:
    """The images of a store with their names: itself, the series of bioformats2raw, or the fields of a plate."""
    root = listing.root
    metadata = _metadata(store, root)
    plate = metadata.get("plate")
    if isinstance(plate, dict):
        for path in _paths(plate, "wells", store):
            well = f"{name}-{path.replace('/', '-')}"
            with listing.leaving_out(well):
                folder = below(store, path)
                described = _metadata(folder, root).get("well")
                for place in _paths(described if isinstance(described, dict) else {}, "images", folder):
                    yield f"{well}-{place}", below(folder, place)
    elif "multiscales" not in metadata and _SERIES in metadata:
        series = sorted((path for path in subfolders(store) if path.name.isdecimal()), key=lambda path: int(path.name))
        yield from ((name if len(series) == 1 else f"{name}-{path.name}", path) for path in series)
    else:
        yield name, store


def _paths(metadata: Mapping[str, Any], key: str, folder: Path) -> list[str]:
    """The paths that a plate or a well lists."""
    items = metadata.get(key)
    paths = [item.get("path") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    if not paths or len(paths) > _MOST or not all(isinstance(path, str) for path in paths):
        raise HistomixError(f"the metadata of {folder.name} list no {key}, or too many; export it again.")
    return [str(path) for path in paths]


class _Group(NamedTuple):
    """A multiscale image or label image: its full resolution, its scale, and what its metadata say besides."""

    array: Path
    axes: tuple[str, ...]  # names of the array's axes
    mpp: float | None  # None where nothing says it
    label: Mapping[str, Any]  # what ``image-label`` holds


def open(root: Path, mpp: float | None) -> Dataset:
    """List the images that have labels: ``nuclei``, or the only ones they have.

    Without a class in the ``properties`` of any label image, all nuclei are of one class "nucleus".
    """
    root = root.resolve()
    listing = Listing(root, mpp)
    kinds: dict[str, dict[int, str]] = {}
    colors: dict[str, tuple[int, int, int]] = {}
    taken: set[tuple[str, str]] = set()
    for store, name, split in _stores(root):
        images: list[tuple[str, Path]] = []
        with listing.leaving_out(name):
            images += islice(_images_in(store, name, listing), _MOST)
        for image, folder in images:
            if (split, image) in taken:
                listing.report(image, f"{store.name} is the second image of that name; rename one.")
                continue
            taken.add((split, image))
            with listing.leaving_out(f"{split}-{image}" if image in listing.said else image):
                said = Row(split=split, mpp=_group(folder, root).mpp)
                labels = _labels_of(folder, root)
                kinds_here = _kinds(_group(labels, root).label, labels.name, colors)
                kinds[listing.add(image, (folder, labels), said, split)] = kinds_here
    classes = listing.classes
    names = {kind for kinds_here in kinds.values() for kind in kinds_here.values()}
    types: dict[str, dict[int, int]] | None = None
    if names or len(classes) > 1:
        classes = classes or tuple(
            replace(known, color=colors.get(known.name.casefold(), known.color)) for known in classes_of(names, root)
        )
        types = listed_types(listing, kinds, classes)
    classes = classes or named_classes("nucleus")
    return listing.dataset(classes, _Files(root, types, classes[0].number))


def _metadata(folder: Path, root: Path) -> Mapping[str, Any]:
    """What OME-Zarr says in a group's attributes, which version 0.5 keeps under a key of its own."""
    attributes = read_group(folder, root)
    if attributes is None:
        raise HistomixError(f"{_name(folder, root)} is no Zarr group with OME-Zarr's metadata; export it as OME-Zarr.")
    inner = attributes.get("ome", attributes)
    return inner if isinstance(inner, dict) else {}


def _name(folder: Path, root: Path) -> str:
    """A folder as messages name it."""
    return root.name if folder == root else str(folder.relative_to(root))


def _group(folder: Path, root: Path) -> _Group:
    metadata = _metadata(folder, root)
    try:
        image = metadata["multiscales"][0]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
        level = image["datasets"][0]
        steps = [*level.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]
        scales = [step["scale"] for step in steps if step.get("type") == "scale"]
        names = tuple(str(axis["name"]).casefold() for axis in axes)
        mpp = _mpp(axes, names, scales)
        label = metadata.get("image-label", {})
        path = level["path"]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise HistomixError(
            f"{_name(folder, root)} does not describe its image as OME-Zarr 0.4 or 0.5 do (multiscales, axes, "
            "datasets); export it again."
        ) from None
    return _Group(below(folder, path), names, mpp, label if isinstance(label, dict) else {})


def _mpp(axes: Sequence[Mapping[str, Any]], names: Sequence[str], scales: Sequence[Sequence[float]]) -> float | None:
    """µm per pixel; None where a unit or a scale is missing, or the pixels are not square."""
    sizes = []
    for name in "xy":
        place = names.index(name)
        unit = _MICROMETERS.get(str(axes[place].get("unit")))
        if unit is None or not scales:
            return None
        sizes.append(unit * float(np.prod([float(scale[place]) for scale in scales])))
    return square_mpp(*sizes)


def _labels_of(folder: Path, root: Path) -> Path:
    there = read_group(folder / "labels", root) is not None
    names = _metadata(folder / "labels", root).get("labels") if there else None
    if not isinstance(names, list) or not names:
        raise HistomixError(f"{_name(folder, root)} has no labels; add a label image to it.")
    if len(names) > 1 and _LABELS not in names:
        raise HistomixError(
            f"{_name(folder, root)} has {len(names)} label images; name the one with the nuclei {_LABELS!r}."
        )
    return below(folder / "labels", _LABELS if _LABELS in names else names[0])


def _kinds(label: Mapping[str, Any], name: str, colors: dict[str, tuple[int, int, int]]) -> dict[int, str]:
    """The class of each instance as it is written; adds the color of the first instance of a class."""
    kinds: dict[int, str] = {}
    try:
        for item in label.get("properties") or []:
            value = next((item[key] for key in _CLASS_KEYS if item.get(key) is not None), None)
            if isinstance(value, str | int) and str(value).strip():
                kinds[index(item["label-value"])] = str(value).strip()
        for item in label.get("colors") or []:
            if isinstance(item["label-value"], int) and (kind := kinds.get(item["label-value"])) is not None:
                red, green, blue = (min(255, max(0, index(part))) for part in item.get("rgba", [])[:3])
                colors.setdefault(kind.casefold(), (red, green, blue))
    except (AttributeError, LookupError, TypeError, ValueError):
        raise HistomixError(f"the image-label metadata of {name} are damaged; export the labels again.") from None
    return kinds


@dataclass(frozen=True)
class _Files(ImageFiles):
    """Arrays within a root; ``types`` per image, or None where all nuclei are of one class."""

    root: Path
    types: Mapping[str, Mapping[int, int]] | None
    untyped: int

    def pixels(self, entry: Entry) -> NDArray[np.uint8]:
        array = self._read(entry.image, "cyx")
        if array.shape[0] != 3 or array.dtype != np.uint8:
            raise HistomixError(
                f"{entry.source.image}: the image has {array.shape[0]} channels of {array.dtype}; save it as RGB "
                "with 8 bits per channel."
            )
        return np.ascontiguousarray(np.moveaxis(array, 0, -1))

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        instances = as_ids(self._read(entry.label_file, "yx"), entry.source.image)
        if self.types is None:
            return Labels(instances, dict.fromkeys(np.unique(instances).tolist(), self.untyped))
        return Labels(instances, self.types[entry.source.image])

    def _read(self, folder: Path, wanted: str) -> NDArray[Any]:
        """The full resolution of a group, with these axes in this order."""
        name = _name(folder, self.root)
        with readable(name):
            group = _group(folder, self.root)
            array = open_array(group.array, self.root)
            sizes = dict(zip(group.axes, array.shape, strict=False))
            if len(sizes) != len(array.shape) or len(group.axes) != len(array.shape):
                raise HistomixError(f"{name}: the axes in its metadata are not those of its array; export it again.")
            if not set(wanted) <= sizes.keys() or any(sizes[axis] > 1 for axis in sizes.keys() - set(wanted)):
                raise HistomixError(
                    f"{name} has the axes {', '.join(f'{axis} ({size})' for axis, size in sizes.items())}; "
                    f"save it with {', '.join(wanted)} alone."
                )
            check_size((sizes["y"], sizes["x"]), name)
            content = array.read()
        order = [group.axes.index(axis) for axis in wanted]
        single = tuple(place for place in range(content.ndim) if place not in order)
        return np.squeeze(content.transpose([*single, *order]), tuple(range(len(single))))


class Writer(ImageWriter):
    """Writes ``NAME.zarr`` for each image, and ``dataset.json``."""

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        folder = self.folder / f"{image.source.image}.zarr"
        window = {"start": 0, "end": 255, "min": 0, "max": 255}
        channels = [{"label": label, "color": color, "active": True, "window": window} for label, color in _CHANNELS]
        metadata = self._multiscales(image, "cyx") | {
            "omero": {"channels": channels, "rdefs": {"model": "color"}},
            "histomix": {"synthetic": synthetic} | ({"notice": SYNTHETIC_NOTICE} if synthetic else {}),
        }
        write_group(folder, metadata)
        write_array(folder / "0", np.moveaxis(image.pixels, -1, 0))
        write_group(folder / "labels", {"labels": [_LABELS]})
        by_number = {known.number: known for known in self.classes}
        classes = {instance: by_number[image.types[instance]] for instance in instance_ids(image.instances)}
        label = {
            "version": _VERSION,
            "colors": [{"label-value": key, "rgba": [*known.color, 255]} for key, known in classes.items()],
            "properties": [{"label-value": key, "class": known.name} for key, known in classes.items()],
            "source": {"image": "../../"},
        }
        write_group(folder / "labels" / _LABELS, self._multiscales(image, "yx") | {"image-label": label})
        write_array(folder / "labels" / _LABELS / "0", smallest_ids(image.instances))

    @staticmethod
    def _multiscales(image: LabeledImage, axes: str) -> dict[str, Any]:
        space = {"type": "space", "unit": "micrometer"}
        described = [{"name": axis} | ({"type": "channel"} if axis == "c" else space) for axis in axes]
        scale = [1.0 if axis == "c" else image.mpp for axis in axes]
        level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        name = image.source.image
        return {"multiscales": [{"version": _VERSION, "name": name, "axes": described, "datasets": [level]}]}
