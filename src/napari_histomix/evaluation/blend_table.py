"""A blend test for people, as tables, and for programs, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from napari_histomix.evaluation.blend_figures import FIGURES, Interval
from napari_histomix.evaluation.blend_windows import HiddenWindow
from napari_histomix.evaluation.blending import SAMPLES, BlendReport, Fill

_DIGITS = {"psnr": 1, "color": 3, "log_seam": 3, "log_laplacian": 3, "spread": 1}


def report_lines(report: BlendReport) -> list[str]:
    """A report as Markdown: a heading, a table and its key for each kind of hole."""
    lines: list[str] = []
    for kind, fills in report.fills.items():
        windows = report.windows[kind]
        images = len({window.image for window in windows})
        share = _share(windows)
        lines += [
            f"## {kind}: {len(windows)} windows of {len(windows[0].hole)}² from {images} images, {share:.0%} hidden",
            "",
            *_table(fills),
            "",
        ]
    memory = (
        "peak MB: allocated on the GPU by this fill"
        if report.device == "cuda"
        else "peak MB: high-water mark of the whole process so far"
    )
    lines.append("Medians, with 95 % intervals from resampling images. RMSE in 8-bit units and PSNR in dB inside the")
    lines.append(
        "hole; seam and Laplacian as ratios to the truth, 1 is best; color: shift of the mean optical density;"
    )
    lines.append(f"s: seconds a window on {report.device}; {memory}; spread of {SAMPLES} fills in 8-bit units.")
    return lines


def _share(windows: Sequence[HiddenWindow]) -> float:
    return sum(float(window.hole.mean()) for window in windows) / len(windows)


def _table(fills: Sequence[Fill]) -> list[str]:
    headings = dict(FIGURES)
    if any("spread" in fill.figures for fill in fills):
        headings["spread"] = "spread"
    rows = [["fill", "forwards", "backwards", *headings.values(), "s", "peak MB"]]
    for fill in fills:
        cells = [_cell(fill.figures.get(key), _DIGITS.get(key, 2)) for key in headings]
        memory = "" if fill.peak_mb is None else f"{fill.peak_mb:.0f}"
        rows.append([fill.name, str(fill.forwards), str(fill.backwards), *cells, f"{fill.seconds:.3f}", memory])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _cell(value: Interval | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value.median:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def report_values(report: BlendReport) -> dict[str, Any]:
    """A report as plain JSON values, without pixels."""
    return {
        "device": report.device,
        "notes": list(report.notes),
        "holes": {
            kind: {
                "windows": len(report.windows[kind]),
                "side": len(report.windows[kind][0].hole),
                "hidden": _share(report.windows[kind]),
                "images": sorted({window.image for window in report.windows[kind]}),
                "fills": [_fill_values(fill) for fill in fills],
            }
            for kind, fills in report.fills.items()
        },
    }


def _fill_values(fill: Fill) -> dict[str, Any]:
    return {
        "name": fill.name,
        "forwards": fill.forwards,
        "backwards": fill.backwards,
        "seconds": fill.seconds,
        "peak_mb": fill.peak_mb,
        "figures": {key: asdict(value) for key, value in fill.figures.items()},
    }
