"""Commands that write datasets: export a study, convert a dataset."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.following import follow, say
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.datasets.splits import D, with_splits
from napari_histomix.records import HistomixError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histomix.study import Study
    from napari_histomix.study.export_plan import ExportPlan

WRITABLE = [one.name for one in FORMATS.values() if one.writes and one.holds == "nuclei"]
"""Formats of labeled images that can be written, by name."""

TISSUE_FORMAT = "class-folders"
"""The one format of a study of tissue: ``datasets.class_folders``."""


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``export`` and ``convert``; ``command`` makes a command of a name, a function and a summary."""
    exporting = command("export", run_export, "Write the approved work of a study as a dataset.")
    exporting.add_argument("study", type=Path, help="study folder")
    exporting.add_argument(
        "--format",
        choices=[*WRITABLE, TISSUE_FORMAT],
        help=f"layout of the dataset (hovernet; of a study of tissue {TISSUE_FORMAT}, which has no other)",
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
    from napari_histomix.study import Study

    study = Study.open(options.study)
    if study.mix_names() and not study.candidates():
        return _export_tissue(options, study)
    if options.format == TISSUE_FORMAT:
        raise HistomixError(f"{options.study} is a study of nuclei; {TISSUE_FORMAT} is for tissue, choose another.")
    return _export_nuclei(options, study)


def _export_nuclei(options: argparse.Namespace, study: Study) -> dict[str, Any]:
    from napari_histomix.datasets import open_dataset
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.datasets.splits import with_chosen_splits
    from napari_histomix.study.export import export
    from napari_histomix.study.export_plan import plan_export
    from napari_histomix.study.manifest import nuclei_facts, reviews_of

    dataset = with_chosen_splits(open_dataset(_images_of(study, options.dataset), study.mpp), study.settings())
    placements, decisions = study.placements(), study.decisions("placement")
    how = {"format": options.format or "hovernet", "ignore_band": options.ignore_band}
    plan = follow(plan_export(dataset, placements, options.out, decisions, **how))
    _show(options, plan, "nuclei")
    if options.dry_run:
        follow(check_leaks(dataset))
    else:
        facts, reviews = nuclei_facts(study), reviews_of(study)
        follow(export(dataset, placements, options.out, decisions, facts=facts, reviews=reviews, **how))
    return _result(options, plan, how["format"])


def _export_tissue(options: argparse.Namespace, study: Study) -> dict[str, Any]:
    from napari_histomix.datasets import open_tissue
    from napari_histomix.datasets.class_folders import export_tissue
    from napari_histomix.datasets.splits import with_chosen_splits
    from napari_histomix.segmentation.pool import SegmentPool
    from napari_histomix.study.export_plan import plan_tissue
    from napari_histomix.study.manifest import tissue_facts
    from napari_histomix.study.mixes import Mixes

    if options.format not in (None, TISSUE_FORMAT):
        raise HistomixError(
            f"{options.study} is a study of tissue, whose images have a class each and no nuclei; "
            f"only the format {TISSUE_FORMAT} holds them."
        )
    if options.ignore_band:
        raise HistomixError("Tissue images have no class maps to write an ignore band into; leave --ignore-band out.")
    dataset = with_chosen_splits(open_tissue(_images_of(study, options.dataset), study.mpp), study.settings())
    approved = [number for number, decision in study.decisions("mix").items() if decision == "approve"]
    mixes = Mixes(study, sorted(approved))
    plan = follow(plan_tissue(dataset, mixes, options.out))
    _show(options, plan, "images")
    if not options.dry_run:
        pool = SegmentPool(study.folder)
        follow(export_tissue(dataset, mixes, options.out, tissue_facts(study, pool.signature)))
    return _result(options, plan, TISSUE_FORMAT)


def _images_of(study: Study, given: Path | None) -> Path:
    """Where a study's images are; a study that cannot be written to only hears it for this time."""
    if given is not None and study.read_only and given.is_dir():
        return given
    return study.locate(given)


def _as_split(study: Study, dataset: D) -> D:
    """The dataset with the splits that the study keeps, if a person chose any."""
    splits = study.settings().get("splits")
    return with_splits(dataset, splits) if splits else dataset


def _show(options: argparse.Namespace, plan: ExportPlan, what: str) -> None:
    """Say what will be written; refuse it where there is no room."""
    from napari_histomix.study.export_plan import bytes_text

    width = max(map(len, plan.before), default=0)
    say(options, f"{plan.images:,} training images, {plan.synthetic_images:,} with synthetic pixels.")
    for name, before in plan.before.items():
        after = plan.after[name]
        change = f"  ({after - before:+,})" if after != before else ""
        say(options, f"  {name:<{width}}  {before:>8,} → {after:>8,} {what}{change}")
    for warning in (*plan.left_out, *plan.losses):
        say(options, f"Note: {warning}")
    say(options, f"{plan.files:,} files, about {bytes_text(plan.size)}; {bytes_text(plan.free)} are free.")
    if plan.refusal:
        raise HistomixError(plan.refusal)


def _result(options: argparse.Namespace, plan: ExportPlan, format: str) -> dict[str, Any]:
    say(options, "Nothing was written: a dry run." if options.dry_run else f"Written: {options.out}")
    return {"out": str(options.out), "format": format, "dry_run": options.dry_run, **asdict(plan)}
