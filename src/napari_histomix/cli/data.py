"""Commands that look at a dataset: inspect, split."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_histomix.cli.following import follow, say
from napari_histomix.cli.opening import add_dataset, open_data
from napari_histomix.datasets import Dataset, Survey
from napari_histomix.records import HistomixError


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``inspect`` and ``split``; ``command`` makes a command of a name, a function and a summary."""
    inspect = command("inspect", run_inspect, "Show classes, counts, µm/px, splits and problems of a dataset.")
    add_dataset(inspect)

    from napari_histomix.datasets.split_proposal import SHARES

    split = command(
        "split", run_split, "Propose training, validation and test images: no patient, slide or copy in two of them."
    )
    add_dataset(split)
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


def run_inspect(options: argparse.Namespace) -> dict[str, Any]:
    """Show what a dataset holds."""
    from napari_histomix.datasets import survey
    from napari_histomix.datasets.copies import find_copies
    from napari_histomix.datasets.splits import shared

    dataset = open_data(options)
    surveyed = follow(survey(dataset))
    copies = follow(find_copies(dataset))
    leaks = [f"The {leak.what} {leak.sentence} is in several splits." for leak in shared(dataset)]
    leaks += [copy.sentence for copy in copies]
    if not surveyed.counts:
        raise HistomixError(surveyed.problems[0].sentence)
    splits = Counter(entry.source.split or "train" for entry in dataset.entries)
    patients = {entry.source.patient for entry in dataset.entries if entry.source.patient}
    scales = sorted({entry.mpp for entry in dataset.entries if entry.mpp is not None})
    what, classes = _classes(dataset, surveyed)
    total = sum(row["count"] for row in classes)
    result = {
        "name": dataset.name,
        "images": len(dataset.entries),
        "classes": [{**{key: row[key] for key in row if key != "count"}, what: row["count"]} for row in classes],
        what: total,
        "mpp": scales,
        "images_without_scale": len(dataset.missing_scale),
        "splits": dict(splits),
        "patients": len(patients),
        "problems": [asdict(problem) for problem in surveyed.problems],
        "leaks": leaks,
    }
    width = max(len(row["name"]) for row in classes)
    lines = [f"{dataset.name}: {len(dataset.entries)} images" + (f", {total:,} nuclei" if what == "nuclei" else "")]
    largest = max([1, *(row["count"] for row in classes)])
    for row in classes:
        bar = "█" * round(40 * row["count"] / largest)
        number = f"{row['number']:>3}  " if "number" in row else ""
        lines.append(f"  {number}{row['name']:<{width}}  {row['count']:>8,}  {bar}")
    scale = ", ".join(f"{value:g}" for value in scales) or "unknown: pass --mpp"
    lines.append(f"µm/px: {scale}")
    lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in splits.items()))
    lines.append(f"patients: {len(patients) or 'not named'}")
    problems = [f"problem: {problem.sentence}" for problem in surveyed.problems] + [f"leak: {leak}" for leak in leaks]
    lines += problems or ["No problems found."]
    say(options, *lines)
    return result


def _classes(dataset: Dataset, surveyed: Survey) -> tuple[str, list[dict[str, Any]]]:
    """What is counted (nuclei, or images of a class), and a row for each class."""
    if dataset.has_nuclei:
        return "nuclei", [
            {"number": kind.number, "name": kind.name, "color": list(kind.color), "count": surveyed.total[kind.number]}
            for kind in dataset.classes
        ]
    counts = Counter(entry.kind for entry in dataset.entries)
    return "images_of_it", [{"name": kind, "count": counts[kind]} for kind in dataset.kinds]


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
    dataset, counts, names = _counted(options)
    copies = follow(find_copies(dataset, within=True))
    together = [copy.images for copy in copies]
    shares = {"train": 1 - options.val - options.test, "val": options.val, "test": options.test}
    splits = propose_splits(dataset, shares, options.seed, counts, together, options.keep)
    notes = list(shortcomings(dataset, splits, counts, names, together))
    chosen = with_splits(dataset, splits)
    notes += [f"The {leak.what} {leak.sentence} is in several splits." for leak in shared(chosen)]
    write_splits(options.out, chosen)
    images = Counter(splits.values())
    nuclei = {split: _nuclei(counts, names, splits, split) for split in sorted(images, key=split_order)}
    many = Counter(unit.what for unit in units(dataset, together))
    say(options, f"{dataset.name}: " + ", ".join(f"{count:,} {what}s" for what, count in many.items()) + " to divide.")
    for split, counted in nuclei.items():
        classes = ", ".join(f"{name} {count:,}" for name, count in counted.items())
        say(options, f"  {split:<6} {images[split]:>6,} images" + (f"; {classes}" if classes else ""))
    say(options, *(f"together: {copy.sentence}" for copy in copies), *(f"note: {note}" for note in notes))
    say(options, f"Written: {options.out}")
    return {
        "out": str(options.out),
        "images": dict(images),
        "classes": nuclei,
        "copies": [copy.sentence for copy in copies],
        "notes": notes,
    }


def _counted(options: argparse.Namespace) -> tuple[Dataset, Mapping[str, Mapping[Any, int]], Mapping[Any, str]]:
    """A dataset of nuclei or of tissue, its nuclei or images by class, and the classes' names."""
    from napari_histomix.datasets import survey

    dataset = open_data(options)
    if not dataset.has_nuclei:
        return dataset, {entry.source.image: {entry.kind: 1} for entry in dataset.entries}, {}
    surveyed = follow(survey(dataset))
    for problem in surveyed.problems[len(dataset.problems) :]:
        say(options, f"Skipped: {problem.sentence}")
    return dataset, surveyed.counts, {kind.number: kind.name for kind in dataset.classes}


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
