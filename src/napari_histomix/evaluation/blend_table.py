"""A blend test for people, as tables, and for programs, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_histomix.evaluation.blend_figures import FIGURES, Interval
from napari_histomix.evaluation.blend_windows import HiddenWindow, HoleKind
from napari_histomix.evaluation.blending import SAMPLES, BlendReport, Fill
from napari_histomix.records import HistomixError

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


ZOOM = 3
ROWS = 8
"""Windows of each kind that are shown."""

GAP, TITLE, HEADING = 6, 24, 34
HOLE_COLOR = (0, 220, 120)
"""Green is no stain's color, so a hole is seen on tissue and on glass."""


def contact_sheet(report: BlendReport) -> NDArray[np.uint8]:
    """Draw the first windows of a report, one kind of hole below the other, three times enlarged: (H, W, 3) uint8."""
    sections = [_section(report, kind) for kind in report.fills]
    width = max(section.width for section in sections)
    sheet = Image.new("RGB", (width, sum(section.height for section in sections)), "white")
    top = 0
    for section in sections:
        sheet.paste(section, (0, top))
        top += section.height
    return np.asarray(sheet)


def _section(report: BlendReport, kind: HoleKind) -> Image.Image:
    windows, fills = report.windows[kind][:ROWS], report.fills[kind]
    hidden = [np.where(window.hole[..., None], np.array(HOLE_COLOR, np.uint8), window.pixels) for window in windows]
    columns: dict[str, Sequence[NDArray[np.uint8]]] = {"truth": [window.pixels for window in windows], "hole": hidden}
    columns |= {fill.name: fill.pixels[: len(windows)] for fill in fills}
    side = len(windows[0].hole) * ZOOM
    step = side + GAP
    section = Image.new("RGB", (GAP + step * len(columns), HEADING + TITLE + step * len(windows)), "white")
    draw = ImageDraw.Draw(section)
    draw.text((GAP, 8), f"{kind} holes", "black", _font(18))
    for column, (title, pictures) in enumerate(columns.items()):
        left = GAP + step * column
        size = 14
        while size > 6 and draw.textlength(title, _font(size)) > side:
            size -= 1
        draw.text((left, HEADING), title, "black", _font(size))
        for row, pixels in enumerate(pictures):
            large = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            section.paste(large, (left, HEADING + TITLE + step * row))
    return section


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def check_sheet(path: Path) -> None:
    """See, before any work, that a sheet can be written. Raises HistomixError where it cannot."""
    if path.suffix.casefold() != ".png":
        raise HistomixError(f"{path} must end in .png.")
    if path.exists():
        raise HistomixError(f"{path} already exists; name a new file.")
    if not path.parent.is_dir():
        raise HistomixError(f"{path.parent} is no folder; make it, or choose another place.")


def write_sheet(path: Path, report: BlendReport) -> None:
    """Write the contact sheet as a new PNG file: all of it, or no file.

    Raises
    ------
    HistomixError
        If the file is there already or cannot be written.
    """
    check_sheet(path)
    part = path.with_name(f".{path.name}.part")
    try:
        Image.fromarray(contact_sheet(report)).save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise HistomixError(f"{path} could not be written ({reason}); choose another place.") from None
    finally:
        part.unlink(missing_ok=True)
