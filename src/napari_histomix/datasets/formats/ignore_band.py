"""Maps of class numbers, with the pixels that a training loss should pass over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.writing import check_name, write_png
from napari_histomix.records import HistomixError, LabeledImage

IGNORED = 255
"""The value of pixels that do not count: what PyTorch's losses are given as ``ignore_index``."""


def class_map(image: LabeledImage) -> NDArray[np.uint8]:
    """The class number of every pixel (H, W), 0 = background.

    Raises
    ------
    HistomixError
        If a class number is above 254: 255 means that a pixel is ignored.
    """
    ids, places = np.unique(image.instances, return_inverse=True)
    numbers = np.array([image.types[one] if one else 0 for one in ids.tolist()])
    if numbers.max(initial=0) >= IGNORED:
        raise HistomixError(
            f"{image.source.image}: a map of classes has room for the numbers 1 to {IGNORED - 1}, and one of its "
            f"classes is number {numbers.max()}; give the classes smaller numbers."
        )
    return numbers.astype(np.uint8)[places].reshape(image.instances.shape)


def write_ignore(folder: Path, name: str, band: NDArray[np.bool_], class_map: NDArray[np.uint8]) -> None:
    """Write ``ignore/NAME.png``: the map of classes, with 255 where the band is.

    Parameters
    ----------
    folder : Path
        Root of the dataset, which is there.
    name : str
        The image's file name without suffix.
    band : (H, W) bool
        Pixels to pass over, such as those that a model inpainted.
    class_map : (H, W) uint8
        See `class_map`.

    Raises
    ------
    HistomixError
        If band and map differ in shape, or ``name`` is not a plain file name.
    """
    check_name(name)
    if band.shape != class_map.shape or band.dtype != np.bool_ or class_map.dtype != np.uint8:
        raise HistomixError(f"{name}: the ignore band must be (H, W) bool and of the size of the uint8 class map.")
    (folder / "ignore").mkdir(exist_ok=True)
    write_png(folder / "ignore" / f"{name}.png", np.where(band, np.uint8(IGNORED), class_map))
