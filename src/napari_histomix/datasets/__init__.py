"""Readers and writers of labeled H&E images, and the bundled sample."""

from napari_histomix.datasets.dataset import Dataset, Survey, survey
from napari_histomix.datasets.entries import Entry, Problem
from napari_histomix.datasets.hovernet import write_dataset_json, write_hovernet, write_type_info
from napari_histomix.datasets.opening import open_dataset
from napari_histomix.datasets.pixels import read_mpp, read_pixels
from napari_histomix.datasets.sample import SAMPLE_MAJORS, SAMPLE_RARE, load_sample, sample_folder
from napari_histomix.datasets.tissue import open_any, open_tissue
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE

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
    "write_dataset_json",
    "write_hovernet",
    "write_type_info",
]
