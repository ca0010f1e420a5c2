"""The class of every instance beside label images, which cannot say it: ``types.csv`` and ``type_info.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_histomix.datasets.dataset_writer import write_csv
from napari_histomix.datasets.hovernet import write_type_info
from napari_histomix.datasets.plain import TABLE
from napari_histomix.records import LabeledImage, NucleusClass


class TypeTable:
    """Collects the classes of the instances of all images, and writes them at the end."""

    def __init__(self, folder: Path, classes: Sequence[NucleusClass]) -> None:
        self.folder, self.classes = folder, classes
        self._names = {one.number: one.name for one in classes}
        self._rows: list[tuple[str, int, str]] = []

    def add(self, image: LabeledImage) -> None:
        """Take in the instances that occur in an image."""
        ids = np.unique(image.instances)
        self._rows += [(image.source.image, one, self._names[image.types[one]]) for one in ids[ids > 0].tolist()]

    def write(self) -> None:
        """Write both files."""
        write_csv(self.folder / TABLE, ("image", "instance", "type"), self._rows)
        write_type_info(self.folder, self.classes)
