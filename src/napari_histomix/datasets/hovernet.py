"""The HoVer-Net layout (CoNSeP, GLySAC): ``Images/*.png`` and ``Labels/*.mat``; Graham et al., 2019."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from napari_histomix.datasets.formats.reading import check_size
from napari_histomix.datasets.mat_files import read_arrays
from napari_histomix.datasets.pixels import as_ids
from napari_histomix.datasets.writing import check_name, write_png
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, Source, instance_ids

_MAT_HEADER = b"MATLAB 5.0 MAT-file, written by napari-histomix"


def read_mat(path: Path) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Read the labels of one image.

    The i-th row of ``inst_type`` is the type of the i-th id in ascending order. Where its length does not fit the
    number of ids, the most frequent type of ``type_map`` within each instance counts, background left aside.

    Returns
    -------
    instances : (H, W) int32
    types : dict of int to int
        Class number per instance id. Instances whose type is 0 have none and are not in it.

    Raises
    ------
    HistomixError
        If the file cannot be read, has no instance map, or does not say the types.
    """
    content = read_arrays(path, ("inst_map", "inst_type"))
    if "inst_map" not in content:
        raise HistomixError(f"{path.name} has no inst_map; export the labels in the HoVer-Net layout.")
    grid = content["inst_map"]
    if grid.ndim != 2:
        raise HistomixError(f"{path.name}: inst_map has the shape {grid.shape}; it must be one plane of ids.")
    check_size(grid.shape, path.name)
    instances = as_ids(grid, path.name)
    ids = np.array(instance_ids(instances), np.int32)
    listed = content.get("inst_type")
    if ids.size == 0:
        return instances, {}
    if listed is not None and listed.size == ids.size:
        numbers = as_ids(listed.ravel(), f"{path.name}, inst_type")
    else:
        numbers = _by_type_map(path, instances, ids, listed)
    return instances, {int(i): int(n) for i, n in zip(ids, numbers, strict=True) if n > 0}


def _by_type_map(
    path: Path, instances: NDArray[np.int32], ids: NDArray[np.int32], listed: NDArray[Any] | None
) -> NDArray[np.int32]:
    """The type of each id by the map of types, which is as large as that of ids and seldom needed."""
    type_map = read_arrays(path, ("type_map",)).get("type_map")
    if type_map is None or type_map.shape != instances.shape:
        count = "no" if listed is None else listed.size
        raise HistomixError(
            f"{path.name}: {ids.size} instances but {count} types (inst_type), and no type_map of the same size; "
            "export the labels again."
        )
    return _majority(instances, as_ids(type_map, f"{path.name}, type_map"), ids)


def read_mat_types(path: Path) -> set[int]:
    """The class numbers that occur in a label file; cheaper than `read_mat` where ``inst_type`` is there.

    Raises
    ------
    HistomixError
        As for `read_mat`.
    """
    listed = read_arrays(path, ("inst_type",)).get("inst_type")
    if listed is None:
        return set(read_mat(path)[1].values())
    if listed.size == 0:
        return set()
    return set(np.unique(as_ids(listed.ravel(), f"{path.name}, inst_type")).tolist()) - {0}


def _majority(instances: NDArray[np.int32], type_map: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.int32]:
    inside = (instances > 0) & (type_map > 0)
    pairs, votes = np.unique(np.stack([instances[inside], type_map[inside]]), axis=1, return_counts=True)
    numbers = np.zeros(ids.size, np.int32)
    # In order of rising votes, so that the last one written is the most frequent; a tie goes to the lower number.
    for index in np.lexsort((-pairs[1], votes)):
        numbers[np.searchsorted(ids, pairs[0, index])] = pairs[1, index]
    return numbers


def write_hovernet(
    folder: Path | str,
    name: str,
    pixels: NDArray[np.uint8],
    instances: NDArray[np.int32],
    types: Mapping[int, int],
    mpp: float,
    *,
    synthetic: bool = False,
) -> None:
    """Write one labeled image as ``Images/<name>.png`` and ``Labels/<name>.mat``.

    The bytes depend on the arguments alone: no date is written. The PNG states its pixel density.

    Parameters
    ----------
    folder : path
        Root of the dataset; made if it is not there.
    name : str
        File name without suffix.
    pixels : (H, W, 3) uint8
        RGB.
    instances : (H, W) int32
        Instance map, 0 = background.
    types : mapping of int to int
        Class number of every instance; more ids than the map has are ignored.
    mpp : float
        Micrometers per pixel.
    synthetic : bool
        Whether to write "SYNTHETIC, not for diagnosis" into the image's description.

    Raises
    ------
    HistomixError
        If the parts do not fit together (see `LabeledImage`) or ``name`` is not a plain file name.
    """
    check_name(name)
    LabeledImage(pixels, instances, types, mpp, Source("", name))
    root = Path(folder)
    for part in ("Images", "Labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    write_png(root / "Images" / f"{name}.png", pixels, mpp, synthetic)
    (root / "Labels" / f"{name}.mat").write_bytes(_mat_bytes(instances, types))


def _mat_bytes(instances: NDArray[np.int32], types: Mapping[int, int]) -> bytes:
    ids, places, areas = np.unique(instances, return_inverse=True, return_counts=True)
    places = places.reshape(instances.shape)
    rows, cols = np.indices(instances.shape)
    centers = np.stack([np.bincount(places.ravel(), axis.ravel()) / areas for axis in (cols, rows)], axis=1)
    numbers = np.array([types[int(i)] if i else 0 for i in ids], dtype=np.int32)
    real = ids > 0
    buffer = io.BytesIO()
    content = {
        "inst_map": instances,
        "type_map": numbers[places],
        "inst_type": numbers[real].reshape(-1, 1),
        "inst_centroid": centers[real].reshape(-1, 2),
    }
    scipy.io.savemat(buffer, content, do_compression=True)
    # The first 116 bytes are free text in which scipy states the date and the platform; only they would differ.
    return _MAT_HEADER.ljust(116) + buffer.getvalue()[116:]


def class_table(classes: Iterable[NucleusClass]) -> dict[str, list[Any]]:
    """Classes as ``{"1": ["name", [r, g, b]], …}``, by number: what ``entries.classes_of`` reads."""
    return {str(one.number): [one.name, list(one.color)] for one in sorted(classes, key=lambda one: one.number)}


def write_type_info(folder: Path | str, classes: Iterable[NucleusClass]) -> None:
    """Write HoVer-Net's ``type_info.json``, background included, into a folder that is there."""
    info = {"0": ["background", [0, 0, 0]], **class_table(classes)}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in info.items())
    (Path(folder) / "type_info.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8", newline="\n")


def write_dataset_json(folder: Path | str, *, name: str, mpp: float | None = None, **more: Any) -> None:
    """Write ``dataset.json``: the dataset's name, µm per pixel if it is one for all images, and anything else given.

    Parameters
    ----------
    folder : path
        Root of the dataset, which is there.
    name : str
    mpp : float, optional
    **more
        Plain JSON values, such as ``license``, ``split`` or ``classes`` (see `class_table`).
    """
    content: dict[str, Any] = {"name": name}
    if mpp is not None:
        content["mpp"] = mpp
    content.update(more)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (Path(folder) / "dataset.json").write_text(text + "\n", encoding="utf-8", newline="\n")
