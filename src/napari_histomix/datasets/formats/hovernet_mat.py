"""Write HoVer-Net's layout: ``Images/*.png`` and ``Labels/*.mat`` (see ``datasets.hovernet``)."""

from __future__ import annotations

from napari_histomix.datasets.formats.image_writer import ImageWriter
from napari_histomix.datasets.hovernet import write_hovernet, write_type_info
from napari_histomix.records import LabeledImage


class Writer(ImageWriter):
    """Writes one ``.mat`` file per image, ``type_info.json`` and ``dataset.json``."""

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        """Write the pixels and the labels of one image."""
        name = image.source.image
        write_hovernet(self.folder, name, image.pixels, image.instances, image.types, image.mpp, synthetic=synthetic)

    def finish(self) -> None:
        """Write the files about all images."""
        super().finish()
        write_type_info(self.folder, self.classes)
