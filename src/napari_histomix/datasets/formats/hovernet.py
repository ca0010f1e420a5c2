"""The HoVer-Net layout (CoNSeP, GLySAC): ``Images/*.png`` and ``Labels/*.mat``; Graham et al., 2019."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray

from napari_histomix.datasets.formats import hovernet_json
from napari_histomix.datasets.formats.folder_pairs import places
from napari_histomix.datasets.formats.plain import open as open
from napari_histomix.datasets.listing import MAT_SUFFIXES
from napari_histomix.datasets.writing import ImageWriter, check_name, write_png
from napari_histomix.records import LabeledImage, Source

_MAT_HEADER = b"MATLAB 5.0 MAT-file, written by napari-histomix"


def recognizes(root: Path) -> bool:
    """Whether images have MATLAB files, perhaps for each split, and HoVer-Net's own folder ``json`` is not there."""
    return any(part.suffixes == MAT_SUFFIXES for part in places(root)) and not hovernet_json.recognizes(root)


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
    pixels, instances, types, mpp
        The parts of a `LabeledImage`; more types than the map has ids are ignored.
    synthetic : bool
        Whether to write "SYNTHETIC, not for diagnosis" into the image's description.

    Raises
    ------
    HistomixError
        If the parts do not fit together, or ``name`` is not a plain file name.
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


class Writer(ImageWriter):
    """Writes one ``.mat`` file per image, ``type_info.json`` and ``dataset.json``."""

    has_type_info = True

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        name = image.source.image
        write_hovernet(self.folder, name, image.pixels, image.instances, image.types, image.mpp, synthetic=synthetic)
