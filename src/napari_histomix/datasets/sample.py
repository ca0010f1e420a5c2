"""The bundled sample: five breast tumor images from five patients, in which lymphocytes are rare."""

from __future__ import annotations

from pathlib import Path

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.opening import open_dataset

SAMPLE_RARE = "lymphocyte"
"""The class to grow in the sample."""

SAMPLE_MAJORS = ("tumor", "stromal")
"""The classes a new lymphocyte may replace in the sample."""


def sample_folder() -> Path:
    """The folder of the bundled sample, in the HoVer-Net layout."""
    return Path(__file__).resolve().parent / "sample"


def load_sample() -> Dataset:
    """Open the bundled sample: 0.5 µm/px, classes lymphocyte (rare), tumor and stromal; see its NOTICE."""
    return open_dataset(sample_folder())
