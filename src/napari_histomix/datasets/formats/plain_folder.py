"""Write the plain layout, which any program can read: images, label images, maps of classes and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from napari_histomix.datasets.formats.ignore_band import class_map
from napari_histomix.datasets.formats.image_writer import ImageWriter
from napari_histomix.datasets.formats.tiff_pairs import smallest_ids, write_tiff
from napari_histomix.datasets.formats.type_table import TypeTable
from napari_histomix.datasets.writing import write_png
from napari_histomix.records import LabeledImage, NucleusClass


class Writer(ImageWriter):
    """Writes ``images/NAME.png``, ``labels/NAME.png`` with the ids, ``class_maps/NAME.png``, and ``types.csv``.

    Ids that do not fit in 16 bits, the most that a PNG file holds, go into ``labels/NAME.tif``.
    """

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass]) -> None:
        super().__init__(folder, name, classes)
        self._table = TypeTable(folder, classes)
        for part in ("labels", "class_maps"):
            (folder / part).mkdir()

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        """Write the pixels, the ids and the classes of one image."""
        self.write_image(image, synthetic)
        name, ids = image.source.image, smallest_ids(image.instances)
        write_png(self.folder / "class_maps" / f"{name}.png", class_map(image))
        if ids.dtype == np.uint16:
            Image.fromarray(ids).save(self.folder / "labels" / f"{name}.png")
        else:
            write_tiff(self.folder / "labels" / f"{name}.tif", ids)
        self._table.add(image)

    def finish(self) -> None:
        """Write ``dataset.json``, ``types.csv`` and ``type_info.json``."""
        super().finish()
        self._table.write()
