"""The dataset that a command names."""

from __future__ import annotations

import argparse

from napari_histomix.cli.following import say
from napari_histomix.datasets import Dataset, open_dataset


def open_data(options: argparse.Namespace) -> Dataset:
    """Open the dataset of ``options``, and say what of it is left out."""
    dataset = open_dataset(options.dataset, options.mpp)
    for problem in dataset.problems:
        say(options, f"Skipped: {problem.sentence}")
    return dataset
