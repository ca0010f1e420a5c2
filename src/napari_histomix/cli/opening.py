"""The dataset that a command names."""

from __future__ import annotations

import argparse
from typing import Any

from napari_histomix.cli.following import say
from napari_histomix.datasets import Dataset, open_dataset
from napari_histomix.datasets.splits import D, read_splits, with_splits


def open_data(options: argparse.Namespace) -> Dataset:
    """Open the dataset of ``options`` with the splits these name, and say what of it is left out."""
    dataset = open_dataset(options.dataset, options.mpp)
    for problem in dataset.problems:
        say(options, f"Skipped: {problem.sentence}")
    return with_named_splits(options, dataset)


def with_named_splits(options: argparse.Namespace, dataset: D) -> D:
    """The dataset with the splits of ``--splits``, or its own where there is no such option or nothing is named."""
    path = getattr(options, "splits", None)
    return dataset if path is None else with_splits(dataset, read_splits(path))


def named_splits(options: argparse.Namespace, dataset: Any) -> dict[str, Any]:
    """Splits of ``--splits`` as a study keeps them in its settings; nothing where none were named."""
    if getattr(options, "splits", None) is None:
        return {}
    return {"splits": {entry.source.image: entry.source.split for entry in dataset.entries}}
