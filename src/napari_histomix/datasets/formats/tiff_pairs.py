"""Pairs of an image and its label image, as StarDist and Cellpose train on them.

StarDist's examples have the folders ``images`` and ``masks`` with files of one name; Cellpose has ``NAME.tif`` and
``NAME_masks.tif`` in one folder (https://cellpose.readthedocs.io/en/latest/train.html). Neither knows classes:
``types.csv`` beside them says them, and without it all nuclei are of one.
"""

from __future__ import annotations

from pathlib import Path

from napari_histomix.datasets.formats.folder_pairs import places
from napari_histomix.datasets.formats.plain import TypedWriter, are_pairs
from napari_histomix.datasets.formats.plain import open as open
from napari_histomix.datasets.writing import smallest_ids, write_tiff, write_tiff_image
from napari_histomix.records import LabeledImage


def recognizes(root: Path) -> bool:
    """Whether the folder, or one for a split in it, has ``images`` and ``masks``, or ``NAME`` and ``NAME_masks``."""
    parts = places(root)
    return bool(parts) and are_pairs(parts)


class Writer(TypedWriter):
    """Writes ``images/NAME.tif`` and ``masks/NAME.tif``, the classes beside them, and ``dataset.json``.

    Ids are uint16, or int32 where there are larger ones.
    """

    parts = ("images", "masks")

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        file = f"{image.source.image}.tif"
        write_tiff_image(self.folder / "images" / file, image, synthetic)
        write_tiff(self.folder / "masks" / file, smallest_ids(image.instances))
        self.list_types(image)
