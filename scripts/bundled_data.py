"""Make the labeled datasets that the bundled generators and the bundled segmenter learn from.

Two folders in HoVer-Net's layout at 0.5 µm/px:

- ``brca-m2c``: BRCA-M2C's typed points (TopoXLab, 2022, BSD-3-Clause), grown into masks as ``make_sample.py`` grows
  them. Around points without a mask, 9 pixels are "ignore": networks must not learn that tissue is free of
  nuclei there. How many points got a mask is printed, and written into ``dataset.json``.
- ``dsb2018-he``: the stained images of the 2018 Data Science Bowl (CC0), whose masks people drew, without classes. They
  were taken at several magnifications: each image is scaled so that half of its nuclei are wider than 7 µm.

Run from the repository::

    python scripts/bundled_data.py OUT [--brca FOLDER] [--dsb FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from make_sample import CLASSES, MPP, grow_masks
from numpy.typing import NDArray

from napari_histomix.datasets import read_pixels, write_dataset_json, write_hovernet, write_type_info
from napari_histomix.records import NucleusClass

IGNORE = NucleusClass(4, "ignore", (128, 128, 128))
UNKNOWN_RADIUS = 9
"""Around a point without a mask, in pixels: what may be its nucleus."""
WIDTH = 7.0
"""Median diameter of nuclei that an image of unknown scale is taken to have, in µm."""


def with_unknown(masks: NDArray[np.int32], points: NDArray[np.int64]) -> tuple[NDArray[np.int32], dict[int, int], int]:
    """Masks with a disc to be ignored around every point without one; the types; how many points have a mask."""
    instances, types = masks.copy(), {}
    for number, (row, col, kind) in enumerate(points.tolist(), start=1):
        if (masks == number).any():
            types[number] = kind
            continue
        disc = cv2.circle(np.zeros(masks.shape, np.uint8), (col, row), UNKNOWN_RADIUS, 1, -1) > 0
        disc &= instances == 0
        if disc.any():
            instances[disc] = number
            types[number] = IGNORE.number
    return instances, types, sum(kind != IGNORE.number for kind in types.values())


def make_brca(source: Path, folder: Path) -> None:
    """Grow all points of BRCA-M2C."""
    images = sorted((source / "images").glob("*.png"))
    total = grown = 0
    for count, path in enumerate(images, start=1):
        pixels = read_pixels(path)
        points = np.loadtxt(source / "labels" / f"{path.stem}_gt_class_coords.txt", dtype=np.int64, ndmin=2)
        inside = np.all((points[:, :2] >= 0) & (points[:, :2] < pixels.shape[:2]), axis=1)
        points = points[inside]
        instances, types, masks = with_unknown(grow_masks(pixels, points), points)
        total, grown = total + len(points), grown + masks
        write_hovernet(folder, path.stem, pixels, instances, types, MPP)
        print(f"{count} of {len(images)}: {path.stem}: {masks} of {len(points)} points have a mask", flush=True)
    write_type_info(folder, [*CLASSES, IGNORE])
    write_dataset_json(
        folder,
        name="brca-m2c",
        mpp=MPP,
        license="BSD-3-Clause",
        derived_from="BRCA-M2C (TopoXLab, 2022), TCGA open-access pixels",
        points=total,
        masks=grown,
    )


def make_dsb(source: Path, folder: Path) -> None:
    """Scale the Bowl's stained images by the size of their nuclei."""
    for path in sorted((source / "images").glob("*.png")):
        pixels = read_pixels(path)
        instances = cv2.imread(str(source / "instances" / path.name), cv2.IMREAD_UNCHANGED).astype(np.int32)
        areas = np.bincount(instances.ravel())[1:]
        diameter = 2 * np.sqrt(np.median(areas[areas > 0]) / np.pi)
        factor = float(np.clip(WIDTH / diameter / MPP, 0.25, 2.0))
        size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
        smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        pixels = cv2.resize(pixels, size, interpolation=smooth)
        instances = cv2.resize(instances, size, interpolation=cv2.INTER_NEAREST)
        write_hovernet(folder, path.stem, pixels, instances, dict.fromkeys(np.unique(instances).tolist(), 0), MPP)
    write_type_info(folder, CLASSES)
    write_dataset_json(folder, name="dsb2018-he", mpp=MPP, license="CC0", derived_from="2018 Data Science Bowl")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the datasets that the bundled generators learn from.")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--brca", type=Path, default=Path("../shared/data/brca-m2c"), help="BRCA-M2C (%(default)s)")
    parser.add_argument("--dsb", type=Path, default=Path("../shared/data/dsb2018-he"), help="Bowl images (%(default)s)")
    arguments = parser.parse_args()
    make_dsb(arguments.dsb, arguments.out / "dsb2018-he")
    make_brca(arguments.brca, arguments.out / "brca-m2c")


if __name__ == "__main__":
    main()
