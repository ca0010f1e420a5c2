"""Commands on reader tests: make one, report on one."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_histomix.cli.common import Commands, add_shared, follow, open_data, say


def add_commands(commands: Commands) -> None:
    """Add ``reader-test make`` and ``reader-test report``."""
    from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings

    default = ReaderTestSettings()
    actions = commands.group("reader-test", "Make a blinded real-or-synthetic test, or report on one.")
    make = actions.add("make", run_make, "Make a reader test out of what is approved in a study.")
    make.add_argument("dataset", type=Path, help="the study's images: of nuclei, or of tissue")
    add_shared(make, "--mpp", "--seed")
    studies = "studies of these images, of one method each"
    make.add_argument("--study", type=Path, nargs="+", required=True, metavar="FOLDER", help=studies)
    make.add_argument("--out", type=Path, required=True, help="new folder for the test")
    crops = "real and synthetic crops, each"
    make.add_argument("--per-kind", type=int, default=default.per_kind, metavar="N", help=crops)
    pasted = "also show donors pasted without blending, as a method of its own"
    make.add_argument("--copy-paste", action="store_true", help=pasted)
    make.add_argument("--all", action="store_true", help="also show what nobody has decided on")

    report = actions.add("report", run_report, "Show how readers did, and write it as PNG, CSV and JSON.")
    report.add_argument("test", type=Path, help="folder of a reader test")
    report.add_argument("--out", type=Path, required=True, help="new folder for the report")
    report.add_argument("--truth", type=Path, metavar="FILE", help="the sealed truth, if it was kept elsewhere")


def run_make(options: argparse.Namespace) -> dict[str, Any]:
    """Make a reader test."""
    from napari_histomix.datasets.splits import with_chosen_splits
    from napari_histomix.evaluation.reader_test.folder import make_reader_test
    from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
    from napari_histomix.study import Study

    settings = ReaderTestSettings(per_kind=options.per_kind, copy_paste=options.copy_paste, seed=options.seed)
    studies = [Study.open(folder) for folder in options.study]
    dataset = with_chosen_splits(open_data(options), studies[0].settings())
    made = follow(make_reader_test(dataset, studies, options.out, settings, undecided=options.all))
    say(options, f"{made.each} real and {made.each} synthetic crops. Written: {options.out}")
    say(options, "To answer it, open napari and the dock HistoMix: Reader test.")
    return {"out": str(options.out), "crops": len(made.test), "real": made.each, "synthetic": made.each}


def run_report(options: argparse.Namespace) -> dict[str, Any]:
    """Report on a reader test."""
    from napari_histomix.evaluation.reader_test.folder import ReaderTest
    from napari_histomix.evaluation.reader_test.report_files import report_lines, write_report

    report = write_report(ReaderTest.open(options.test), options.out, options.truth)
    say(options, *report_lines(report), f"Written: {options.out}")
    return {"out": str(options.out), **asdict(report)}
