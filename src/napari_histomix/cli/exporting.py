"""Commands that write datasets: export a study, convert a dataset."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.following import follow, say
from napari_histomix.datasets.formats import CLASS_FOLDERS, FORMATS
from napari_histomix.records import HistomixError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histomix.study.export_plan import ExportPlan

WRITABLE = [known.name for known in FORMATS.values() if known.writes]
"""Formats that can be written, by name."""


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``export`` and ``convert``; ``command`` makes a command of a name, a function and a summary."""
    exporting = command("export", run_export, "Write the approved work of a study as a dataset.")
    exporting.add_argument("study", type=Path, help="study folder")
    exporting.add_argument(
        "--format",
        choices=WRITABLE,
        help=f"layout of the dataset (hovernet; for images with a class each {CLASS_FOLDERS})",
    )
    exporting.add_argument("--out", type=Path, required=True, help="new folder for the dataset")
    exporting.add_argument("--dry-run", action="store_true", help="show counts and size, and write nothing")
    exporting.add_argument(
        "--ignore-band", action="store_true", help="also write class maps with 255 over the inpainted pixels"
    )
    exporting.add_argument("--dataset", type=Path, metavar="FOLDER", help="where the images are now, if they moved")

    converting = command("convert", run_convert, "Write a dataset in another format, all splits of it.")
    converting.add_argument("dataset", type=Path, help="folder of labeled images, in any format")
    converting.add_argument("--mpp", type=float, help="µm per pixel, where the data does not say it")
    converting.add_argument("--to", required=True, choices=WRITABLE, help="the format to write")
    converting.add_argument("--out", type=Path, required=True, help="new folder for the dataset")


def run_convert(options: argparse.Namespace) -> dict[str, Any]:
    """Write a dataset in another format."""
    from napari_histomix.cli.opening import open_data
    from napari_histomix.datasets.dataset_writer import convert

    done = follow(convert(open_data(options), options.out, options.to))
    for sentence in done.skipped.values():
        say(options, f"Skipped: {sentence}")
    say(options, f"{done.images:,} images with {sum(done.nuclei.values()):,} nuclei. Written: {options.out}")
    return {"out": str(options.out), "format": options.to, **asdict(done)}


def run_export(options: argparse.Namespace) -> dict[str, Any]:
    """Write what is approved in a study, or show what would be written."""
    from napari_histomix.cli.opening import study_images
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.study import Study
    from napari_histomix.study.export import export_study, format_for
    from napari_histomix.study.export_plan import plan_export

    study = Study.open(options.study)
    dataset = study_images(study, options.dataset)
    format = format_for(dataset, options.format, options.ignore_band)
    how = {"format": format, "ignore_band": options.ignore_band}
    plan = follow(plan_export(dataset, study.changes(), options.out, study.decisions("change"), **how))
    _show(options, plan)
    if options.dry_run:
        follow(check_leaks(dataset))
    else:
        follow(export_study(study, dataset, options.out, **how))
    say(options, "Nothing was written: a dry run." if options.dry_run else f"Written: {options.out}")
    return {"out": str(options.out), "format": format, "dry_run": options.dry_run, **asdict(plan)}


def _show(options: argparse.Namespace, plan: ExportPlan) -> None:
    """Say what will be written; refuse it where there is no room."""
    from napari_histomix.study.export_plan import bytes_text

    width = max(map(len, plan.before), default=0)
    say(options, f"{plan.images:,} training images, {plan.synthetic_images:,} with synthetic pixels.")
    for name, before in plan.before.items():
        after = plan.after[name]
        change = f"  ({after - before:+,})" if after != before else ""
        say(options, f"  {name:<{width}}  {before:>8,} → {after:>8,} {plan.unit}{change}")
    for warning in (*plan.left_out, *plan.losses):
        say(options, f"Note: {warning}")
    say(options, f"{plan.files:,} files, about {bytes_text(plan.size)}; {bytes_text(plan.free)} are free.")
    if plan.refusal:
        raise HistomixError(plan.refusal)
