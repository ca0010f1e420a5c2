"""Nuclei that a segmenter finds and nobody labeled: they are no free place for a new one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from napari_histomix.datasets import Dataset
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, drain, relayed

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel
    from napari_histomix.generation.segmenting import Segmentation

PHASE = "Looking for nuclei without a label"
PRESENCE = 0.6
"""Mean probability from which something counts as a nucleus that lacks a label."""
LEAST_UM2 = 10.0
"""Smaller things do not count."""
COVERED = 0.2
"""Share of a nucleus that labels may cover without being its own: outlines differ."""
WHOLE_UM2 = 500_000.0
"""An image that is larger, two megapixels at 0.5 µm/px, is looked at place by place."""
AROUND_UM = 24.0
"""What is seen around a place."""


def load_segmenter() -> GeneratorModel:
    """The bundled segmenter."""
    from napari_histomix.generation.models import load_generator

    return load_generator("", "segmenter")


def unlabeled_in(
    image: LabeledImage, model: GeneratorModel, device: str = "auto", window: tuple[slice, slice] | None = None
) -> Job[tuple[int, NDArray[np.bool_]]]:
    """Nuclei without a label; a long job (see ``records.Job``).

    Parameters
    ----------
    image : LabeledImage
    model : GeneratorModel
        Of the kind ``segmenter``.
    device : str
        auto, cpu, cuda or mps.
    window : (rows, cols), optional
        Slices of the part that is looked at; the whole image by default.

    Returns
    -------
    (count, mask)
        How many there are, and their pixels in the window, (h, w) bool.
    """
    from napari_histomix.generation.segmenting import segment

    where = window or (slice(None), slice(None))
    found: Segmentation = yield from segment(image.pixels[where], image.mpp, model, device)
    count = len(found.classes)
    areas = np.bincount(found.instances.ravel(), minlength=count + 1)
    covered = np.bincount(found.instances[image.instances[where] != 0], minlength=count + 1)
    lacks = covered <= COVERED * areas
    lacks &= areas * image.mpp**2 >= LEAST_UM2
    lacks &= np.array([0.0, *(found.presence[number] for number in range(1, count + 1))]) >= PRESENCE
    lacks[0] = False
    return int(lacks.sum()), lacks[found.instances]


@dataclass(eq=False)
class UnlabeledNuclei:
    """Pixels of nuclei without a label, by image; each image, or each place of a large one, is looked at once."""

    model: GeneratorModel
    device: str = "auto"
    _masks: dict[str, csr_array] = field(default_factory=dict)

    def within(self, image: LabeledImage, window: tuple[slice, slice]) -> NDArray[np.bool_]:
        """Those of a window (slices with bounds in the image), (h, w) bool."""
        name = image.source.image
        if image.instances.size * image.mpp**2 > WHOLE_UM2:
            reach = round(AROUND_UM / image.mpp)
            wide = tuple(
                slice(max(0, part.start - reach), min(length, part.stop + reach))
                for part, length in zip(window, image.instances.shape, strict=True)
            )
            mask = drain(unlabeled_in(image, self.model, self.device, (wide[0], wide[1])))[1]
            rows, cols = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(window, wide, strict=True))
            return mask[rows, cols]
        if name not in self._masks:
            # Few pixels of an image are such: a sparse map takes a hundredth of its memory.
            self._masks[name] = csr_array(drain(unlabeled_in(image, self.model, self.device))[1])
        return np.asarray(self._masks[name][window].toarray(), np.bool_)


@dataclass(frozen=True, slots=True)
class UnlabeledCount:
    """How many nuclei of a dataset lack a label, in how many images, out of how many that were looked at."""

    nuclei: int
    images: int
    seen: int

    @property
    def sentence(self) -> str:
        """What a person is told."""
        if not self.nuclei:
            return f"No nucleus seems to lack a label ({self.seen:,} training images)."
        nuclei = "1 nucleus seems" if self.nuclei == 1 else f"{self.nuclei:,} nuclei seem"
        return f"{nuclei} to lack a label, in {self.images:,} of {self.seen:,} training images."


def count_unlabeled(dataset: Dataset, model: GeneratorModel, device: str = "auto") -> Job[UnlabeledCount]:
    """Count nuclei without a label in the training images of a dataset; a long job (see ``records.Job``).

    Images that cannot be read are passed over.
    """
    entries = [entry for entry in dataset.real_training if entry.labels is not None]
    nuclei = images = seen = 0
    for number, entry in enumerate(entries):
        yield Event(PHASE, number, len(entries))
        try:
            image = dataset.read(entry)
        except HistomixError:
            continue

        count, _ = yield from relayed(unlabeled_in(image, model, device), partial(_as_step, number, len(entries)))
        nuclei, images, seen = nuclei + count, images + (count > 0), seen + 1
    return UnlabeledCount(nuclei, images, seen)


def _as_step(done: int, total: int, _event: Event) -> Event:
    # What is said of an image, such as that it is resampled, would be said of each.
    return Event(PHASE, done, total)
