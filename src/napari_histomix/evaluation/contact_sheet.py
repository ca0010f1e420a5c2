"""Fills for the eye: windows in rows; the truth, the hole and every fill in columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_histomix.evaluation.blend_windows import HoleKind
from napari_histomix.evaluation.blending import BlendReport
from napari_histomix.records import HistomixError

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
