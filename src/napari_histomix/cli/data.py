"""Commands that read and write datasets: inspect, split, convert, segment-nuclei, export, score."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_histomix.cli.common import DATASET, WRITABLE, Commands, Options, add_output, follow
from napari_histomix.datasets import Dataset, Survey, splits, survey, synthetic_notes
from napari_histomix.datasets.dataset import no_image, no_nucleus
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.records import HistomixError, Problem
from napari_histomix.study import Study


def add_commands(commands: Commands) -> None:
    """Add ``inspect``, ``split``, ``convert``, ``segment-nuclei``, ``export`` and ``score``."""
    summary = "Show classes, counts, µm/px, splits and problems of a dataset."
    inspecting = commands.add("inspect", run_inspect, summary, *DATASET, "--device")
    looked = "also look for nuclei that seem to lack a label, with the bundled segmenter"
    inspecting.add_argument("--unlabeled", action="store_true", help=looked)

    summary = "Propose training, validation and test images: no patient, slide or copy in two of them."
    split = commands.add("split", run_split, summary, *DATASET)
    add_output(split, "--out", "file", required=True, metavar="FILE", help="new CSV file, for --splits")
    split.add_argument("--val", type=_share, default=splits.SHARES["val"], help="share of the validation images")
    split.add_argument("--test", type=_share, default=splits.SHARES["test"], help="share of the test images")
    kept = "splits of the dataset that stay as they are, such as test"
    split.add_argument("--keep", nargs="+", default=[], metavar="SPLIT", help=kept)
    split.add_argument("--seed", type=int, default=0, help="the same seed gives the same splits")

    summary = "Write a dataset in another format, all splits of it."
    converting = commands.add("convert", run_convert, summary, "--mpp", "--split-parts", "--out")
    converting.add_argument("dataset", type=Path, help="folder of labeled images, in any format")
    converting.add_argument("--to", required=True, choices=WRITABLE, help="the format to write")

    summary = "Find the nuclei of images, and write them as a labeled dataset."
    finding = commands.add("segment-nuclei", run_segment, summary, "--mpp", "--device", "--out")
    finding.add_argument("images", type=Path, help="an image, a folder of images, or a dataset in any format")
    finding.add_argument("--format", choices=WRITABLE, default="hovernet", metavar="NAME", help=", ".join(WRITABLE))
    finding.add_argument("--model", default="", metavar="FOLDER", help="a segmenter of 'histomix train segmenter'")

    summary = "Write the approved work of a study as a dataset."
    exporting = commands.add("export", run_export, summary, "study", "--format", "--dataset", "--out")
    exporting.add_argument("--dry-run", action="store_true", help="show counts and size, and write nothing")
    band = "also write class maps with 255 over the inpainted pixels"
    exporting.add_argument("--ignore-band", action="store_true", help=band)

    summary = "Score predictions against the truth: Dice, AJI, PQ, F_c of nuclei; accuracy, F1, kappa of images."
    scoring = commands.add("score", run_score, summary, "--mpp", "--split-parts")
    scoring.add_argument("pred", type=Path, help="folder of predictions, in any format; label files alone will do")
    scoring.add_argument(
        "truth", type=Path, help="folder of the true labels, in any format; images have the same names"
    )
    grades = "classes of images from the lowest grade to the highest, for kappa"
    scoring.add_argument("--order", nargs="+", default=[], metavar="CLASS", help=grades)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError("must be at least 0 and less than 1")
    return value


def run_inspect(options: Options) -> dict[str, Any]:
    """Show what a dataset holds."""
    from napari_histomix.datasets.copies import find_copies

    dataset = options.open_data()
    surveyed = follow(survey(dataset))
    if not surveyed.counts:
        raise no_image(dataset, [problem.sentence for problem in surveyed.problems])
    copies = follow(find_copies(dataset))
    leaks = _shared(dataset) + [copy.sentence for copy in copies]
    by_split = Counter(entry.source.split or "train" for entry in dataset.entries)
    patients = {entry.source.patient for entry in dataset.entries if entry.source.patient}
    scales = sorted({entry.mpp for entry in dataset.entries if entry.mpp is not None})
    what, classes = _classes(dataset, surveyed)
    total = sum(row["count"] for row in classes)
    found = list(surveyed.problems)
    if empty := no_nucleus(dataset, surveyed):
        found.append(Problem("", empty))
    result: dict[str, Any] = {
        "name": dataset.name,
        "format": dataset.format,
        "images": len(dataset.entries),
        "classes": [{**{key: row[key] for key in row if key != "count"}, what: row["count"]} for row in classes],
        what: total,
        "synthetic": sum(row["synthetic"] for row in classes),
        "mpp": scales,
        "images_without_scale": len(dataset.missing_scale),
        "splits": dict(by_split),
        "patients": len(patients),
        "problems": [asdict(problem) for problem in found],
        "leaks": leaks,
    }
    width = max((len(row["name"]) for row in classes), default=0)
    first, *others = headlines(dataset, surveyed)
    lines = [first]
    largest = max([1, *(row["count"] for row in classes)])
    for row in classes:
        bar = "█" * round(40 * row["count"] / largest)
        number = f"{row['number']:>3}  " if "number" in row else ""
        synthetic = f" ({row['synthetic']:,} synthetic)" if row["synthetic"] else ""
        lines.append(f"  {number}{row['name']:<{width}}  {row['count']:>8,}  {bar}{synthetic}")
    scale = ", ".join(f"{value:g}" for value in scales) or "unknown: pass --mpp"
    counted = ", ".join(f"{name} {count}" for name, count in by_split.items())
    lines += [*others, f"µm/px: {scale}", f"splits: {counted}", f"patients: {len(patients) or 'not named'}"]
    lines += [f"synthetic: {note}" for note in synthetic_notes(dataset, surveyed)]
    if options.unlabeled:
        from napari_histomix.generation.unlabeled import count_unlabeled, load_segmenter

        lacking = follow(count_unlabeled(dataset, load_segmenter(), options.device))
        result["unlabeled"] = asdict(lacking)
        lines.append(f"unlabeled: {lacking.sentence}")
    problems = [f"problem: {problem.sentence}" for problem in found]
    problems += [f"leak: {leak}" for leak in leaks]
    options.say(*lines, *(problems or ["No problems found."]))
    return result


def headlines(dataset: Dataset, surveyed: Survey) -> list[str]:
    """Name and size of a dataset, and the format that it was read as."""
    total = surveyed.total.total()
    nuclei = f", {total:,} {'nucleus' if total == 1 else 'nuclei'}" if dataset.has_nuclei else ""
    images = f"{len(dataset.entries):,} image" + ("" if len(dataset.entries) == 1 else "s")
    format = [f"read as: {FORMATS[dataset.format].title}"] if dataset.format in FORMATS else []
    return [f"{dataset.name}: {images}{nuclei}", *format]


def _shared(dataset: Dataset) -> list[str]:
    return [f"The {leak.what} {leak.sentence} is in several splits." for leak in splits.shared(dataset)]


def _classes(dataset: Dataset, surveyed: Survey) -> tuple[str, list[dict[str, Any]]]:
    """What is counted (nuclei, or images of a class), and a row for each class: how many, and how many synthetic."""
    if dataset.has_nuclei:
        synthetic = surveyed.synthetic_total
        return "nuclei", [
            {"number": kind.number, "name": kind.name, "color": list(kind.color)}
            | {"count": surveyed.total[kind.number], "synthetic": synthetic[kind.number]}
            for kind in dataset.classes_in(surveyed)
        ]
    counts = Counter(entry.kind for entry in dataset.entries)
    made = Counter(entry.kind for entry in dataset.entries if entry.synthetic)
    rows = [{"name": kind, "count": counts[kind], "synthetic": made[kind]} for kind in dataset.kinds]
    return "images_of_it", rows


def run_split(options: Options) -> dict[str, Any]:
    """Propose splits, and write them."""
    from napari_histomix.datasets.copies import find_copies

    if options.val + options.test >= 1:
        raise HistomixError("The shares of validation and test leave nothing to train on; ask for less.")
    if options.seed < 0:
        raise HistomixError("A seed is 0 or more.")
    dataset = options.open_data()
    # Nuclei or images of each class, by image, and the classes' names.
    counts: Any = {entry.source.image: {entry.kind: 1} for entry in dataset.entries}
    names: dict[Any, str] = {}
    if dataset.has_nuclei:
        surveyed = follow(survey(dataset))
        options.say(*(f"Skipped: {problem.sentence}" for problem in surveyed.problems[len(dataset.problems) :]))
        counts, names = surveyed.counts, {kind.number: kind.name for kind in dataset.all_classes}
    copies = follow(find_copies(dataset, within=True))
    together = [copy.images for copy in copies]
    shares = {"train": 1 - options.val - options.test, "val": options.val, "test": options.test}
    proposed = splits.propose_splits(dataset, shares, options.seed, counts, together, options.keep)
    chosen = splits.with_splits(dataset, proposed)
    notes = [*splits.shortcomings(dataset, proposed, counts, names, together), *_shared(chosen)]
    splits.write_splits(options.out, chosen)
    images = Counter(proposed.values())
    classes: dict[str, dict[str, int]] = {}
    for split in sorted(images, key=splits.split_order):
        total = sum((Counter(counts[image]) for image in counts if proposed.get(image) == split), Counter[Any]())
        classes[split] = {names.get(kind, str(kind)): total[kind] for kind in sorted(total, key=str)}
    many = Counter(unit.what for unit in splits.units(dataset, together))
    options.say(f"{dataset.name}: " + ", ".join(f"{count:,} {what}s" for what, count in many.items()) + " to divide.")
    for split, counted in classes.items():
        by_class = ", ".join(f"{name} {count:,}" for name, count in counted.items())
        options.say(f"  {split:<6} {images[split]:>6,} images" + (f"; {by_class}" if by_class else ""))
    options.say(*(f"together: {copy.sentence}" for copy in copies), *(f"note: {note}" for note in notes))
    options.say(f"Written: {options.out}")
    return {
        "out": str(options.out),
        "images": dict(images),
        "classes": classes,
        "copies": [copy.sentence for copy in copies],
        "notes": notes,
    }


def run_convert(options: Options) -> dict[str, Any]:
    """Write a dataset in another format."""
    from napari_histomix.datasets.dataset_writer import convert

    dataset = options.open_data()
    done = follow(convert(dataset, options.out, options.to))
    options.say(*(f"Skipped: {sentence}" for sentence in done.skipped.values()))
    options.say(*(f"Note: {note}" for note in done.notes))
    nuclei = f" with {sum(done.nuclei.values()):,} nuclei" if dataset.has_nuclei else ""
    options.say(f"{done.images:,} images{nuclei}. Written: {options.out}")
    return {"out": str(options.out), "format": options.to, **asdict(done)}


def run_segment(options: Options) -> dict[str, Any]:
    """Find nuclei, and write them."""
    from napari_histomix.datasets.unlabeled import open_images
    from napari_histomix.generation.models import load_generator
    from napari_histomix.generation.segmenting import segment_images

    dataset = open_images(options.images, options.mpp)
    options.say(*(f"Skipped: {problem.sentence}" for problem in dataset.problems))
    model = load_generator(options.model, "segmenter")
    done = follow(segment_images(dataset, options.out, model, options.format, options.device))
    options.say(*(f"Skipped: {sentence}" for sentence in done.skipped.values()))
    counted = ", ".join(f"{name} {count:,}" for name, count in done.nuclei.items())
    total = sum(done.nuclei.values())
    options.say(f"{done.images:,} images, {total:,} nuclei ({counted}). Written: {options.out}")
    return {"out": str(options.out), "format": options.format, **model.facts, **asdict(done)}


def run_export(options: Options) -> dict[str, Any]:
    """Write what is approved in a study, or show what would be written."""
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.study.export import export_study, format_for
    from napari_histomix.study.export_plan import bytes_text, plan_export

    study = Study.open(options.study)
    dataset = options.images_of(study)
    format = format_for(dataset, options.format, options.ignore_band)
    how = {"format": format, "ignore_band": options.ignore_band}
    plan = follow(plan_export(dataset, study.changes(), options.out, study.decisions("change"), **how))
    width = max(map(len, plan.before), default=0)
    options.say(f"{plan.images:,} training images, {plan.synthetic_images:,} with synthetic pixels.")
    for name, before in plan.before.items():
        after = plan.after[name]
        change = f"  ({after - before:+,})" if after != before else ""
        options.say(f"  {name:<{width}}  {before:>8,} → {after:>8,} {plan.unit}{change}")
    options.say(*(f"Note: {warning}" for warning in (*plan.left_out, *plan.losses)))
    options.say(f"{plan.files:,} files, about {bytes_text(plan.size)}; {bytes_text(plan.free)} are free.")
    if plan.refusal:
        raise HistomixError(plan.refusal)
    if options.dry_run:
        follow(check_leaks(dataset))
    else:
        follow(export_study(study, dataset, options.out, **how))
    options.say("Nothing was written: a dry run." if options.dry_run else f"Written: {options.out}")
    return {"out": str(options.out), "format": format, "dry_run": options.dry_run, **asdict(plan)}


def run_score(options: Options) -> dict[str, Any]:
    """Score predictions against the truth."""
    from napari_histomix.evaluation.predictions import opened
    from napari_histomix.evaluation.scoring import score_datasets

    with opened(options.pred, options.truth, options.mpp, split_parts=options.split_parts) as sides:
        options.say(*(f"Skipped: {problem.sentence}" for dataset in sides for problem in dataset.problems))
        scores = follow(score_datasets(*sides, order=options.order))
    options.say(*scores.lines())
    return scores.values()
