"""What tests of formats share: real images, and whether an image came back as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.datasets.dataset import Dataset
from napari_histomix.records import LabeledImage, NucleusClass, Source

CLASSES = (NucleusClass(1, "Tumor", (255, 0, 0)), NucleusClass(3, "immune cell", (1, 2, 3)))


def small(name: str = "a", *, shape: tuple[int, int] = (20, 24), mpp: float = 0.25) -> LabeledImage:
    """Three nuclei: a block, one with a hole, and one in two parts."""
    instances = np.zeros(shape, np.int32)
    instances[2:6, 2:7] = 1
    instances[8:15, 3:11] = 2
    instances[10:12, 5:8] = 0
    instances[2:5, 14:18] = 3
    instances[7:9, 19:22] = 3
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    return LabeledImage(pixels, instances, {1: 1, 2: 3, 3: 1}, mpp, Source("small", name))


def real_sample() -> tuple[Dataset, LabeledImage]:
    dataset = load_sample()
    return dataset, dataset.read(dataset.entries[0])


def real_consep(shared: Path) -> tuple[Dataset, LabeledImage]:
    dataset = open_dataset(shared / "data" / "consep-train")
    return dataset, dataset.read("train_3")


def written(
    writer: Callable[..., object],
    folder: Path,
    images: Sequence[LabeledImage],
    classes: Sequence[NucleusClass] = CLASSES,
    *,
    synthetic: bool = False,
) -> Path:
    """A folder as a writer leaves it."""
    folder.mkdir(exist_ok=True)
    one = writer(folder, "written", classes)
    for image in images:
        one.add(image, synthetic=synthetic)
    one.finish()
    return folder


def assert_same(found: LabeledImage, wanted: LabeledImage) -> None:
    """Pixels, masks, classes and scale; ids as well, if those of ``wanted`` have no gaps."""
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    assert found.mpp == wanted.mpp
    ids = np.unique(wanted.instances)
    numbered = np.searchsorted(ids, wanted.instances) + (1 if ids[0] else 0)
    np.testing.assert_array_equal(found.instances, numbered)
    kinds = {int(number): wanted.types[int(i)] for i, number in zip(ids, np.unique(numbered), strict=True) if i}
    assert dict(found.types) == kinds
