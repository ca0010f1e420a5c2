"""Write HoVer-Net's layout: ``Images/*.png`` and ``Labels/*.mat`` (see ``datasets.hovernet``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_histomix.datasets.hovernet import write_hovernet, write_type_info
from napari_histomix.records import LabeledImage, NucleusClass


class Writer:
    """Writes one ``.mat`` file per image, and ``type_info.json``."""

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass]) -> None:
        self.folder, self.classes = folder, classes

    def add(self, image: LabeledImage, *, synthetic: bool) -> None:
        """Write one image."""
        name = image.source.image
        write_hovernet(self.folder, name, image.pixels, image.instances, image.types, image.mpp, synthetic=synthetic)

    def finish(self) -> None:
        """Write ``type_info.json``."""
        write_type_info(self.folder, self.classes)
