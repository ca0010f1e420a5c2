"""What writers share that put each image into a file of its own and its labels into another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from napari_histomix.datasets.hovernet import class_table, write_dataset_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, check_name, write_png
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass


class ImageWriter(ABC):
    """Writes ``images/NAME.png`` and, with name, scale and classes, ``dataset.json``; labels are up to its heirs.

    Parameters
    ----------
    folder : Path
        There, and empty.
    name : str
        Of the dataset.
    classes : sequence of NucleusClass
    """

    def __init__(self, folder: Path, name: str, classes: Sequence[NucleusClass]) -> None:
        self.folder, self.name, self.classes = folder, name, tuple(classes)
        self.scales: set[float] = set()
        self.has_synthetic = False

    def add(self, image: LabeledImage, *, synthetic: bool) -> None:
        """Write one image and its labels.

        Raises
        ------
        HistomixError
            If its name is not a plain file name, or a nucleus is of none of the classes.
        """
        check_name(image.source.image)
        check_classes(image, self.classes)
        self.scales.add(image.mpp)
        self.has_synthetic |= synthetic
        self.write(image, synthetic)

    @abstractmethod
    def write(self, image: LabeledImage, synthetic: bool) -> None:
        """Write one image, whose name is a plain file name, and its labels."""

    def write_image(self, image: LabeledImage, synthetic: bool) -> None:
        """Write the pixels of one image."""
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        write_png(folder / f"{image.source.image}.png", image.pixels, image.mpp, synthetic)

    def finish(self) -> None:
        """Write ``dataset.json``; where the images differ in scale, only their own files say it."""
        write_dataset_json(
            self.folder,
            name=self.name,
            mpp=next(iter(self.scales)) if len(self.scales) == 1 else None,
            classes=class_table(self.classes),
            **({"notice": SYNTHETIC_NOTICE} if self.has_synthetic else {}),
        )


def check_classes(image: LabeledImage, classes: Sequence[NucleusClass]) -> None:
    """Raise HistomixError if a nucleus of an image is of none of the classes."""
    unknown = image.counts().keys() - {one.number for one in classes}
    if unknown:
        raise HistomixError(
            f"{image.source.image}: nuclei have the type {min(unknown)}, which is none of the classes; add it to them."
        )
