"""``histomix doctor``: what is wrong with a dataset, what to do about it, and a clean copy."""

from __future__ import annotations

from typing import Any

from napari_histomix.cli.common import DATASET, WRITABLE, Commands, Options, add_output, follow
from napari_histomix.cli.data import headlines
from napari_histomix.datasets.dataset import Dataset

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
    from napari_histomix.datasets.dataset_writer import convert
    from napari_histomix.datasets.doctor import CHECKS, examine

    dataset = options.open_data()
    found = follow(examine(dataset))
    options.say(*headlines(dataset, found.survey))
    for name, check in CHECKS.items():
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
        "checks": {name: {"findings": said, "remedy": CHECKS[name].remedy} for name, said in found.findings.items()},
    }
    if options.fix is not None:
        done = follow(convert(dataset, options.fix, options.to or _format(dataset)))
        options.say(*(f"Left out: {sentence}" for sentence in done.skipped.values()))
        options.say(f"Written: {options.fix} ({done.images:,} images)")
        return result | {"out": str(options.fix), "skipped": dict(done.skipped)}
    if failed := found.failed:
        count = len(failed)
        titles = ", ".join(CHECKS[name].title for name in failed)
        result["error"] = f"{count} of {len(CHECKS)} checks found something to look at: {titles}."
    return result


def _format(dataset: Dataset) -> str:
    """The format of a copy that nobody has named: as it is read, else QuPath's, which loses nothing."""
    if not dataset.has_nuclei:
        return "class-folders"
    return dataset.format if dataset.format in WRITABLE else "qupath"
