"""Round trips through a format by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.formats import format_of
from napari_histomix.records import LabeledImage


def same(one: LabeledImage, other: LabeledImage, *, ids: bool = True) -> None:
    """Assert that two images are the same, or the same but for the ids of their instances."""
    assert np.array_equal(one.pixels, other.pixels)
    assert one.mpp == pytest.approx(other.mpp, rel=1e-5)
    if ids:
        assert np.array_equal(one.instances, other.instances)
    pairs = np.unique(np.stack([one.instances.ravel(), other.instances.ravel()]), axis=1)
    assert np.array_equal(pairs[0] == 0, pairs[1] == 0)
    pairs = pairs[:, pairs[0] > 0]
    # As many pairs as instances on either side: each lies where the other does.
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
    assert all(one.types[a] == other.types[b] for a, b in pairs.T.tolist())


def written(dataset: Dataset, folder: Path, format: str, count: int = 2) -> Path:
    """The first images of a dataset in a format, the first of them marked as synthetic."""
    folder.mkdir()
    writer = format_of(format).writer()(folder, dataset.name, dataset.classes)
    for number, entry in enumerate(dataset.entries[:count]):
        writer.add(dataset.read(entry), synthetic=number == 0)
    writer.finish()
    return folder
