"""Contact sheets: pictures side by side, enlarged, as one PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_histomix.datasets.writing import check_place
from napari_histomix.records import HistomixError

GAP, TITLE, HEADING = 6, 24, 34


def sheet_of(sections: Mapping[str, Mapping[str, Sequence[NDArray[np.uint8]]]], zoom: int) -> NDArray[np.uint8]:
    """Draw pictures, one section below the other, enlarged; (H, W, 3) uint8.

    Parameters
    ----------
    sections : mapping
        By heading, the columns of a section: by title, pictures (S, S, 3) of one size.
    zoom : int
        How many times larger a picture is shown.
    """
    drawn = [_section(heading, columns, zoom) for heading, columns in sections.items()]
    sheet = Image.new("RGB", (max(section.width for section in drawn), sum(part.height for part in drawn)), "white")
    top = 0
    for section in drawn:
        sheet.paste(section, (0, top))
        top += section.height
    return np.asarray(sheet)


def _section(heading: str, columns: Mapping[str, Sequence[NDArray[np.uint8]]], zoom: int) -> Image.Image:
    rows = max(map(len, columns.values()))
    side = next(len(picture) for pictures in columns.values() for picture in pictures) * zoom
    step = side + GAP
    section = Image.new("RGB", (GAP + step * len(columns), HEADING + TITLE + step * rows), "white")
    draw = ImageDraw.Draw(section)
    draw.text((GAP, 8), heading, "black", _font(18))
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
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def check_sheet(path: Path) -> None:
    """See, before any work, that a sheet can be written. Raises HistomixError where it cannot."""
    if path.suffix.casefold() != ".png":
        raise HistomixError(f"{path} must end in .png.")
    check_place(path, "file")


def write_sheet(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write a sheet as a new PNG file: all of it, or no file; raises HistomixError where it cannot."""
    check_sheet(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise HistomixError(f"{path} could not be written ({reason}); choose another place.") from None
    finally:
        part.unlink(missing_ok=True)
