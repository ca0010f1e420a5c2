"""``histomix doctor``: what is wrong with a dataset, what to do about it, and a clean copy."""

from __future__ import annotations

from typing import Any

from napari_histomix.cli.common import DATASET, WRITABLE, Commands, Options, UsageError, add_output, follow
from napari_histomix.cli.data import headlines
from napari_histomix.datasets.dataset import Dataset
from napari_histomix.records import HistomixError

_SHOWN = 20
"""Sentences of one check that are printed."""


def add_commands(commands: Commands) -> None:
    """Add ``doctor``."""
    summary = "Report everything that may be wrong with a dataset, with remedies; write a clean copy."
    doctor = commands.add("doctor", run_doctor, summary, *DATASET)
    fix = "new folder for a copy: upright images, one spelling of names and splits, nuclei as they are read"
    add_output(doctor, "--fix", metavar="OUT", help=fix)
    same = "format of the copy (the one it is read as, where that is written)"
    doctor.add_argument("--to", choices=WRITABLE, metavar="NAME", help=same)


def run_doctor(options: Options) -> dict[str, Any]:
    """Examine a dataset, and write the copy if one is asked for."""
    from napari_histomix.datasets.dataset_writer import check_format, convert
    from napari_histomix.datasets.doctor import checks_of, examine

    if options.to is not None and options.fix is None:
        raise UsageError("--to is the format of the copy that --fix asks for; name both.")
    dataset = options.open_data(quiet=True)
    format = options.to or _format(dataset)
    if options.fix is not None:
        check_format(format, dataset.classes, dataset.kinds)
    found = follow(examine(dataset))
    checks = checks_of(dataset)
    options.say(*headlines(dataset, found.survey))
    for name, check in checks.items():
        sentences = found.findings[name]
        options.say(*([] if sentences else [f"  ok    {check.title}: {check.fine}"]))
        options.say(*(f"  look  {check.title}: {sentence}" for sentence in sentences[:_SHOWN]))
        if sentences[_SHOWN:]:
            options.say(f"        … and {len(sentences) - _SHOWN:,} more.")
        options.say(*([f"        → {check.remedy}"] if sentences else []))
    result: dict[str, Any] = {
        "name": dataset.name,
        "format": dataset.format,
        "images": len(dataset.entries),
        "checks": {name: {"findings": said, "remedy": checks[name].remedy} for name, said in found.findings.items()},
    }
    if options.fix is not None:
        scaled = {entry.source.image for entry in dataset.entries if entry.mpp is not None}
        if not scaled & found.survey.counts.keys():
            raise HistomixError(
                "No image can be read and has a scale, so there is nothing to copy; do what the report says first."
            )
        done = follow(convert(dataset, options.fix, format))
        options.say(*(f"Left out: {sentence}" for sentence in done.skipped.values()))
        options.say(f"Written: {options.fix} ({done.images:,} images)")
        return result | {"out": str(options.fix), "skipped": dict(done.skipped)}
    if failed := found.failed:
        count = len(failed)
        titles = ", ".join(checks[name].title for name in failed)
        result["error"] = f"{count} of {len(checks)} checks found something to look at: {titles}."
    return result


def _format(dataset: Dataset) -> str:
    """The format of a copy that nobody has named: as it is read, else QuPath's, which loses nothing."""
    if not dataset.has_nuclei:
        return "class-folders"
    return dataset.format if dataset.format in WRITABLE else "qupath"
