"""Write docs/gallery.md and its pictures: what each method makes of the bundled sample, before and after.

Usage: python scripts/gallery.py [METHOD...]      with names only their pictures are made; a minute or two for all
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import napari_histomix as hm
from napari_histomix.methods import method_names, method_of
from napari_histomix.records import DONOR, INPAINTED
from napari_histomix.settings import settings_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURES = DOCS / "screenshots" / "methods"
HEAD = """# Gallery of methods

What each method makes of the bundled sample: before, after, and where the pixels are from, blue from a donor and amber
painted, blended or blank. Of new images, the layout and what was painted on it. Page and pictures are made by
`scripts/gallery.py`; [methods](methods.md) has all settings.
"""

COUNT = 2
SAMPLE: dict[str, Any] = {"count": COUNT, "rare": ["lymphocyte"], "seed": 1}
"""Settings for the sample, of those that a method has."""

LAYOUTS: dict[str, Any] = {"layouts": COUNT, "side": 128}
"""Settings for methods that paint layouts."""

FEW_IMAGES: dict[str, Any] = {"per_class": 1, "unlike": 0.8, "mismatch": 0.9, "new_area": [0.05, 0.3]}
"""Settings for methods that mix whole images of tissue: the sample has only five."""

WINDOW, PANEL, GAP = 64, 256, 8
"""Sides in pixels of the window around a change in place and of a panel, and the width between panels."""

BLUE, AMBER = (0, 90, 255), (255, 160, 0)
CLASSES = ((230, 80, 90), (70, 130, 220), (240, 190, 60), (120, 190, 120))
"""Colors of the sample's classes in a layout."""

Pixels = NDArray[np.uint8]


def tissue(folder: Path) -> hm.Dataset:
    """The sample as images of one class."""
    (folder / "tumor").mkdir(parents=True)
    sample = hm.load_sample()
    for entry in sample.entries:
        Image.fromarray(sample.read(entry).pixels).save(folder / "tumor" / f"{entry.source.image}.png")
    (folder / "dataset.json").write_text(json.dumps({"name": "tissue", "mpp": 0.5}), encoding="utf-8")
    return hm.open_dataset(folder)


def made_by(name: str, folder: Path) -> hm.Made:
    """A few changes by a method."""
    method = method_of(name)
    classes = [method.settings, *([method.stage.settings] if method.stage is not None else [])]
    known = {setting.name for one in classes for setting in settings_of(one)}
    data = tissue(folder) if method.needs.kinds else hm.load_sample()
    wanted = SAMPLE | (LAYOUTS if "layouts" in known else {}) | (FEW_IMAGES if method.needs.kinds else {})
    return hm.augment(data, name, **{key: value for key, value in wanted.items() if key in known})


def origins(pixels: Pixels, origin: Pixels) -> Pixels:
    """The image in gray, donors in blue and painted pixels in amber."""
    gray = np.repeat(pixels.mean(2, keepdims=True), 3, axis=2)
    for value, color in ((DONOR, BLUE), (INPAINTED, AMBER)):
        gray[origin == value] = 0.4 * gray[origin == value] + 0.6 * np.array(color)
    return gray.astype(np.uint8)


def layout(change: hm.Change) -> Pixels:
    """The labels of a new image, each nucleus in the color of its class."""
    shown = np.full((*change.shape, 3), 255, np.uint8)
    for instance, number in change.added.items():
        shown[change.labels == instance] = CLASSES[(number - 1) % len(CLASSES)]
    return shown


def rows(made: hm.Made) -> Iterator[list[Pixels]]:
    """Panels of each change: before, after and origins; of a new image its labels and its pixels."""
    for change in made:
        if not change.image:
            yield [layout(change), change.pixels]
            continue
        before = made.dataset.read(change.image)
        after = hm.compose(before, [change])
        panels = [before.pixels, after.image.pixels, origins(after.image.pixels, after.origin)]
        if change.in_place:
            middle = (change.row + change.shape[0] // 2, change.col + change.shape[1] // 2)
            top, left = (
                min(max(at - WINDOW // 2, 0), size - WINDOW)
                for at, size in zip(middle, after.origin.shape, strict=True)
            )
            panels = [panel[top : top + WINDOW, left : left + WINDOW] for panel in panels]
        yield panels


def sheet(made: hm.Made) -> Image.Image:
    """One picture of some changes, a row each; of whole images only the first."""
    count = COUNT if made[0].in_place else 1
    lines = [
        [Image.fromarray(panel).resize((PANEL, PANEL), Image.Resampling.BICUBIC) for panel in panels]
        for panels in islice(rows(made), count)
    ]
    step = PANEL + GAP
    picture = Image.new("RGB", (step * len(lines[0]) - GAP, step * len(lines) - GAP), "white")
    for row, panels in enumerate(lines):
        for column, panel in enumerate(panels):
            picture.paste(panel, (column * step, row * step))
    return picture


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in method_names():
        method = method_of(name)
        said = f"{method.makes[0].upper()}{method.makes[1:]}"
        cited = f" {method.citation.rstrip('.')}." if method.citation else ""
        parts.append(f"## {method.title}\n\n{said}{cited}\n\n![{method.title}](screenshots/methods/{name}.jpg)\n")
    return "\n".join(parts)


def main(names: list[str]) -> None:
    """Make the pictures of some methods, or of all, and the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names or method_names():
        with tempfile.TemporaryDirectory() as folder:
            sheet(made_by(name, Path(folder))).save(PICTURES / f"{name}.jpg", quality=88)
        print(name, flush=True)
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
