"""The dataset that a command names, and the one that a study was made of."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.following import say
from napari_histomix.cli.options import positive
from napari_histomix.datasets import Dataset, open_any
from napari_histomix.datasets.splits import read_splits, with_chosen_splits, with_splits

if TYPE_CHECKING:
    from napari_histomix.study import Study


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the dataset, its scale and its splits."""
    parser.add_argument(
        "dataset",
        type=Path,
        help="folder of labeled images in any format that 'convert' writes, HoVer-Net's among them; for tissue a "
        "folder for each class, or a CSV of images and classes",
    )
    parser.add_argument("--mpp", type=positive, help="µm per pixel, where the data does not say it")
    parser.add_argument(
        "--splits",
        type=Path,
        metavar="FILE",
        help="CSV with the columns image and split, as 'histomix split' writes",
    )


def open_data(options: argparse.Namespace) -> Dataset:
    """Open the dataset of ``options`` with the splits these name, and say what of it is left out."""
    dataset = open_any(options.dataset, options.mpp)
    for problem in dataset.problems:
        say(options, f"Skipped: {problem.sentence}")
    path = getattr(options, "splits", None)
    return dataset if path is None else with_splits(dataset, read_splits(path))


def with_study_splits(options: argparse.Namespace, dataset: Dataset) -> Dataset:
    """The dataset with the splits of the study that ``--study`` names, unless ``--splits`` names others."""
    from napari_histomix.study import Study
    from napari_histomix.study.store import FILE

    if options.splits is None and options.study and (options.study / FILE).is_file():
        return with_chosen_splits(dataset, Study.open(options.study).settings())
    return dataset


def named_splits(options: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    """Splits of ``--splits`` as a study keeps them in its settings; nothing where none were named."""
    if getattr(options, "splits", None) is None:
        return {}
    return {"splits": {entry.source.image: entry.source.split for entry in dataset.entries}}


def study_images(study: Study, given: Path | None = None) -> Dataset:
    """The dataset of a study with the splits that it keeps; ``given`` says where the images are now.

    Raises
    ------
    HistomixError
        If the images are not there, or are not those of the study.
    """
    # A study that cannot be written to is only told for this time.
    root = given if given is not None and study.read_only and given.is_dir() else study.locate(given)
    return with_chosen_splits(open_any(root, study.mpp), study.settings())
