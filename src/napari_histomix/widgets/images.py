"""Images read in the background, the last few of them kept."""

from __future__ import annotations

from collections import OrderedDict

from qtpy.QtCore import QObject, Signal

from napari_histomix.datasets import Dataset
from napari_histomix.records import LabeledImage
from napari_histomix.widgets.jobs import JobRunner, single

BUDGET = 512 * 2**20
"""Bytes of pixels and labels that are kept."""


class ImageReader(QObject):
    """Reads a dataset's images one after the other in a background thread; the one asked for last comes first."""

    loaded = Signal(str)
    """Name of an image that ``get`` has now."""
    failed = Signal(str, str)
    """Name of an image that cannot be read, and one sentence."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._dataset: Dataset | None = None
        self._kept: OrderedDict[str, LabeledImage] = OrderedDict()
        self._waiting: list[str] = []
        self._reading: tuple[Dataset, str] | None = None
        self._runner = JobRunner(self)
        self._runner.finished.connect(self._on_read)
        self._runner.failed.connect(self._on_failed)
        self._runner.cancelled.connect(self._next)

    def set_dataset(self, dataset: Dataset | None) -> None:
        """Read from another dataset from now on; forgets everything."""
        self._dataset = dataset
        self._kept.clear()
        self._waiting.clear()
        self._runner.cancel()

    def get(self, name: str) -> LabeledImage | None:
        """An image that is here already."""
        image = self._kept.get(name)
        if image is not None:
            self._kept.move_to_end(name)
        return image

    @property
    def busy(self) -> bool:
        """Whether images are being read."""
        return self._runner.running

    def request(self, name: str) -> None:
        """Have an image read; ``loaded`` or ``failed`` follows, at the next turn where it is here already."""
        if name in self._kept:
            self.loaded.emit(name)
            return
        if name in self._waiting:
            self._waiting.remove(name)
        if self._reading is None or self._reading[1] != name:
            self._waiting.append(name)
        self._next()

    def put(self, image: LabeledImage) -> None:
        """Keep an image that was read elsewhere."""
        self._kept[image.source.image] = image
        self._kept.move_to_end(image.source.image)
        size = sum(one.pixels.nbytes + one.instances.nbytes for one in self._kept.values())
        while size > BUDGET and len(self._kept) > 2:
            _, old = self._kept.popitem(last=False)
            size -= old.pixels.nbytes + old.instances.nbytes

    def _next(self) -> None:
        if self._runner.running:
            return
        self._reading = None
        if not self._waiting or self._dataset is None:
            return
        dataset, name = self._dataset, self._waiting.pop()
        self._reading = dataset, name
        self._runner.start(single(lambda: dataset.read(name), f"Reading {name}"), f"reading {name}")

    def _on_read(self, image: LabeledImage) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and reading[0] is self._dataset:
            self.put(image)
            self.loaded.emit(reading[1])
        self._next()

    def _on_failed(self, sentence: str) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and reading[0] is self._dataset:
            self.failed.emit(reading[1], sentence)
        self._next()
