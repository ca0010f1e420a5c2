"""Draw the pictures of the USegMix page: mixes beside their targets, none of them chosen, and anchor segments.

    python scripts/tissue_sheet.py DATASET STUDY OUT.jpg [--count 24] [--other STUDY] [--segments OUT.jpg]

STUDY holds mixes of DATASET (``histomix synthesize DATASET --method usegmix --study STUDY``). Each is shown as its
target, with what changed outlined, and as it is. ``--other`` puts the mixes of another study, of the same number, after
them. ``--segments`` draws the segments of the pool's first eight images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets import open_any
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study

SIDE = 300
BLUE, GREEN = (0, 90, 255), (0, 150, 0)
COLUMNS = 8
"""Pictures side by side."""


def outlined(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], color: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) with the outline of a mask (H, W) drawn in."""
    drawn = pixels.copy()
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, color, max(1, len(pixels) // 200))
    return drawn


def write(pictures: list[NDArray[np.uint8]], columns: int, path: Path) -> None:
    """Lay pictures out in rows, and write them."""
    small = [cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in pictures]
    small += [np.full_like(small[0], 255)] * (-len(small) % columns)
    rows = [np.hstack(small[start : start + columns]) for start in range(0, len(small), columns)]
    Image.fromarray(np.vstack(rows)).save(path, quality=76)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the USegMix page.")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--other", type=Path, help="a study made otherwise")
    parser.add_argument("--segments", type=Path, help="where to draw the pool's segments")
    options = parser.parse_args()
    dataset, study = open_any(options.dataset), Study.open(options.study)
    others = list(Study.open(options.other).changes()) if options.other else []
    pictures = []
    for number, change in enumerate(list(study.changes())[: options.count]):
        pictures += [outlined(dataset.read(change.image).pixels, change.origin != 0, BLUE), change.pixels]
        if options.other:
            blank = np.full_like(change.pixels, 255)
            pictures.append(others[number].pixels if number < len(others) else blank)
    write(pictures, 9 if options.other else COLUMNS, options.out)
    if options.segments:
        pool, drawn = SegmentPool(study.folder), []
        for number, image in enumerate(pool.images[:8]):
            pixels = dataset.read(image.source.image).pixels
            for member in np.flatnonzero(pool.rows["image"] == number):
                pixels = outlined(pixels, pool.segment(int(member)).in_image(pixels.shape), GREEN)
            drawn.append(pixels)
        write(drawn, 4, options.segments)


if __name__ == "__main__":
    main()
