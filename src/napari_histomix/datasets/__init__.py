"""Readers and writers of labeled H&E images, and the bundled sample."""

from napari_histomix.datasets.dataset import Dataset, Survey, survey, synthetic_notes
from napari_histomix.datasets.entries import Entry
from napari_histomix.datasets.formats.hovernet import write_hovernet
from napari_histomix.datasets.opening import (
    SAMPLE_MAJORS,
    SAMPLE_RARE,
    load_sample,
    open_any,
    open_dataset,
    open_tissue,
    sample_folder,
)
from napari_histomix.datasets.pixels import read_mpp, read_pixels
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, write_dataset_json, write_type_info
from napari_histomix.records import Problem

__all__ = [
    "SAMPLE_MAJORS",
    "SAMPLE_RARE",
    "SYNTHETIC_NOTICE",
    "Dataset",
    "Entry",
    "Problem",
    "Survey",
    "load_sample",
    "open_any",
    "open_dataset",
    "open_tissue",
    "read_mpp",
    "read_pixels",
    "sample_folder",
    "survey",
    "synthetic_notes",
    "write_dataset_json",
    "write_hovernet",
    "write_type_info",
]
