"""What a detector test found: tables for people, values for programs, and a sheet of what gives itself away most."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.writing import complete_or_absent, write_png, write_text
from napari_histomix.evaluation.detector import DetectorReport, MethodTest, Result
from napari_histomix.evaluation.detector_windows import HIDDEN, NUCLEI, TISSUE
from napari_histomix.evaluation.figures import Estimate, markdown_table
from napari_histomix.evaluation.sheets import sheet_of
from napari_histomix.settings import plain

ROWS = 8
"""Crops of each kind that a sheet shows."""
ZOOM, TISSUE_ZOOM = 4, 2
"""How many times larger nuclei are shown, and tissue."""


def report_lines(report: DetectorReport) -> list[str]:
    """A report as Markdown: a table for each method of each study."""
    lines: list[str] = []
    for test in report.tests:
        lines += [title_of(test), "", *markdown_table([_HEADINGS, *_rows(test)]), ""]
    lines.append(
        "AUC: how often a synthetic crop has a higher score than a real one of its fold and class; 0.5 is what cannot "
        "be told apart. In brackets 95 % intervals from resampling patients or images."
    )
    return [*lines, "", *report.notes] if report.notes else lines


_HEADINGS = ("what", "hidden", "AUC", "within an image", "on free tissue", "in place of a nucleus")


def title_of(test: MethodTest) -> str:
    """What was tested, in a line."""
    real, synthetic, groups = test.counts
    side = test.crops.crops[0].pixels.shape[0]
    return (
        f"{test.method}, {test.crops.subject} ({test.study.name}): {synthetic} synthetic crops ({test.donors} donors) "
        f"and {real} real ones of {side}², {groups} patients or images"
    )


def _rows(test: MethodTest) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for result in test.results:
        targets = [result.by_target.get(name) for name in _HEADINGS[4:]]
        figures = (figure_text(estimate) for estimate in (result.auc, result.same_image, *targets))
        rows.append((result.variant, result.hide, *figures))
    return rows


def figure_text(estimate: Estimate | None) -> str:
    """A figure and its interval, such as "0.74 [0.69, 0.79]"; empty where it is not known."""
    if estimate is None or estimate.value is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def report_values(report: DetectorReport) -> dict[str, Any]:
    """A report as plain JSON values, the score of every crop among them."""
    return {
        "settings": plain(report.settings),
        "tests": [_values(test) for test in report.tests],
        "notes": list(report.notes),
    }


def _values(test: MethodTest) -> dict[str, Any]:
    real, synthetic, groups = test.counts
    return {
        "study": str(test.study),
        "method": test.method,
        "subject": test.crops.subject,
        "real": real,
        "synthetic": synthetic,
        "groups": groups,
        "refusals": dict(test.crops.refusals),
        "donors": test.donors,
        "crops": [
            {"image": crop.image, "group": crop.group, "class": crop.kind, "change": crop.change, "fold": int(fold)}
            for crop, fold in zip(test.crops.crops, test.folds, strict=True)
        ],
        "results": [_result_values(result) for result in test.results],
        "percentiles": {str(change): round(value, 2) for change, value in test.percentiles.items()},
    }


def _result_values(result: Result) -> dict[str, Any]:
    return {
        "variant": result.variant,
        "hidden": result.hide,
        "auc": asdict(result.auc),
        "within_an_image": asdict(result.same_image),
        "by_target": {name: asdict(estimate) for name, estimate in result.by_target.items()},
        "scores": [round(float(score), 4) for score in result.scores],
    }


def contact_sheet(report: DetectorReport, rows: int = ROWS) -> NDArray[np.uint8]:
    """Draw, for each method, what gives itself away most, in so many ``rows`` at most; (H, W, 3) uint8.

    The synthetic crops with the highest out-of-fold scores, the same changes without blending, of tissue also what was
    there before, and the real crops with the highest scores.
    """
    sections: dict[str, Mapping[str, Sequence[NDArray[np.uint8]]]] = {}
    for test in report.tests:
        crops, scores = test.crops.crops, test.own.scores
        order = np.argsort(-scores, kind="stable").tolist()
        made = [crops[at] for at in order if crops[at].synthetic][:rows]
        real = [crops[at].pixels for at in order if not crops[at].synthetic][:rows]
        columns = {"synthetic": [crop.pixels for crop in made]}
        if pasted := [crop.pasted for crop in made if crop.pasted is not None]:
            columns["without blending"] = pasted
        if test.crops.subject == TISSUE:
            # The target's own comes before the donor's, which may be of the same image.
            before = {(crop.pair, crop.image): crop.pixels for crop in reversed(crops) if not crop.synthetic}
            columns["the target before"] = [before[crop.pair, crop.image] for crop in made]
        sections[f"{test.method}: {HIDDEN[test.own.hide].lower()} ({test.study.name})"] = columns | {
            "real, most like synthetic": real
        }
    nuclei = all(test.crops.subject == NUCLEI for test in report.tests)
    return sheet_of(sections, ZOOM if nuclei else TISSUE_ZOOM)


def write_report(report: DetectorReport, values: Mapping[str, Any], out: Path) -> None:
    """Write a new folder, complete or absent: report.md, report.json with ``values``, and crops.png."""
    with complete_or_absent(out) as folder:
        write_text(folder / "report.md", "\n".join(report_lines(report)) + "\n")
        write_text(folder / "report.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        write_png(folder / "crops.png", contact_sheet(report), synthetic=True)
