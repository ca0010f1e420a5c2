"""The command that proposes splits."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_histomix.cli.following import follow, say
from napari_histomix.records import HistomixError


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``split``; ``command`` makes a command of a name, a function and a summary."""
    from napari_histomix.datasets.split_proposal import SHARES

    split = command(
        "split", run_split, "Propose training, validation and test images: no patient, slide or copy in two of them."
    )
    split.add_argument("dataset", type=Path, help="folder of labeled images, or of tissue images with a class each")
    split.add_argument("--out", type=Path, required=True, metavar="FILE", help="new CSV file, for --splits")
    split.add_argument("--val", type=_share, default=SHARES["val"], help="share of the validation images")
    split.add_argument("--test", type=_share, default=SHARES["test"], help="share of the test images")
    split.add_argument(
        "--keep",
        nargs="+",
        default=[],
        metavar="SPLIT",
        help="splits of the dataset that stay as they are, such as test",
    )
    split.add_argument("--seed", type=int, default=0, help="the same seed gives the same splits")
    split.add_argument("--mpp", type=float, help="µm per pixel, where the data does not say it")


def run_split(options: argparse.Namespace) -> dict[str, Any]:
    """Propose splits, and write them."""
    from napari_histomix.datasets.copies import find_copies
    from napari_histomix.datasets.split_proposal import propose_splits, shortcomings
    from napari_histomix.datasets.splits import shared, split_order, units, with_splits, write_splits

    if options.val + options.test >= 1:
        raise HistomixError("The shares of validation and test leave nothing to train on; ask for less.")
    if options.seed < 0:
        raise HistomixError("A seed is 0 or more.")
    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new file.")
    dataset, counts, names = _open(options)
    copies = follow(find_copies(dataset, within=True))
    together = [one.images for one in copies]
    shares = {"train": 1 - options.val - options.test, "val": options.val, "test": options.test}
    splits = propose_splits(dataset, shares, options.seed, counts, together, options.keep)
    notes = list(shortcomings(dataset, splits, counts, names, together))
    chosen = with_splits(dataset, splits)
    notes += [f"The {one.what} {one.sentence} is in several splits." for one in shared(chosen)]
    write_splits(options.out, chosen)
    images = Counter(splits.values())
    nuclei = {split: _nuclei(counts, names, splits, split) for split in sorted(images, key=split_order)}
    many = Counter(one.what for one in units(dataset, together))
    say(options, f"{dataset.name}: " + ", ".join(f"{count:,} {what}s" for what, count in many.items()) + " to divide.")
    for split, found in nuclei.items():
        classes = ", ".join(f"{name} {count:,}" for name, count in found.items())
        say(options, f"  {split:<6} {images[split]:>6,} images" + (f"; {classes}" if classes else ""))
    say(options, *(f"together: {one.sentence}" for one in copies), *(f"note: {one}" for one in notes))
    say(options, f"Written: {options.out}")
    return {
        "out": str(options.out),
        "images": dict(images),
        "classes": nuclei,
        "copies": [one.sentence for one in copies],
        "notes": notes,
    }


def _open(options: argparse.Namespace) -> tuple[Any, Mapping[str, Mapping[Any, int]], Mapping[Any, str]]:
    """A dataset of nuclei or of tissue, its nuclei or images by class, and the classes' names."""
    from napari_histomix.datasets import open_any, survey

    dataset = open_any(options.dataset, options.mpp)
    if not dataset.has_nuclei:
        return dataset, {entry.source.image: {entry.kind: 1} for entry in dataset.entries}, {}
    found = follow(survey(dataset))
    for problem in found.problems:
        say(options, f"Skipped: {problem.sentence}")
    return dataset, found.counts, {one.number: one.name for one in dataset.classes}


def _nuclei(
    counts: Mapping[str, Mapping[Any, int]], names: Mapping[Any, str], splits: Mapping[str, str], split: str
) -> dict[str, int]:
    total: Counter[Any] = Counter()
    for image, own in counts.items():
        if splits.get(image) == split:
            total.update(own)
    return {names.get(kind, str(kind)): total[kind] for kind in sorted(total, key=str)}


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError("must be at least 0 and less than 1")
    return value
