"""Make the labeled datasets that the bundled generators and the bundled segmenter learn from.

Three folders in HoVer-Net's layout at 0.5 µm/px:

- ``brca-m2c``: BRCA-M2C's typed points (TopoXLab, 2022, BSD-3-Clause), grown into masks as ``make_sample.py`` grows
  them. Around points without a mask, 9 pixels are "ignore": networks must not learn that tissue is free of
  nuclei there. How many points got a mask is printed, and written into ``dataset.json``. Generators learn from it.
- ``brca-m2c-discs``: the same images. A point without a mask is a disc of the median size of its class: mostly pale
  nuclei, which a segmenter that never saw them would not find. The segmenter learns from it. Its images are hard links
  to those of the first.
- ``dsb2018-he``: the stained images of the 2018 Data Science Bowl (CC0), whose masks people drew, without classes. They
  were taken at several magnifications: each image is scaled so that half of its nuclei are wider than 7 µm.

Run from the repository::

    python scripts/bundled_data.py OUT [--brca FOLDER] [--dsb FOLDER] [--pack]

``--pack`` keeps images and labels as lossless WebP, 59 MB in all, to be carried to another machine;
``train_bundled.py`` makes the same files of them there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from make_sample import CLASSES, MPP, grow_masks
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets import read_pixels, write_dataset_json, write_hovernet, write_type_info
from napari_histomix.records import NucleusClass

IGNORE = NucleusClass(4, "ignore", (128, 128, 128))
UNKNOWN_RADIUS = 9
"""Around a point without a mask, in pixels: what may be its nucleus."""
WIDTH = 7.0
"""Median diameter of nuclei that an image of unknown scale is taken to have, in µm."""


def with_discs(
    masks: NDArray[np.int32], points: NDArray[np.int64], radii: Mapping[int, float]
) -> tuple[NDArray[np.int32], dict[int, int], int]:
    """Masks with a disc around every point (row, column, class) without one; the types; how many points have a mask.

    A disc is a nucleus with the radius of its class in ``radii``; without it, ``UNKNOWN_RADIUS`` pixels to be ignored.
    """
    masked = set(np.unique(masks).tolist())
    instances, types = masks.copy(), {}
    nearest = np.full(masks.shape, np.inf)
    rows, cols = np.indices(masks.shape)
    for number, (row, col, kind) in enumerate(points.tolist(), start=1):
        types[number] = kind if number in masked or kind in radii else IGNORE.number
        if number not in masked:
            away = np.hypot(rows - row, cols - col)
            disc = (away <= radii.get(kind, UNKNOWN_RADIUS)) & (away < nearest) & (masks == 0)
            nearest[disc], instances[disc] = away[disc], number
    left = set(np.unique(instances).tolist())
    return instances, {number: kind for number, kind in types.items() if number in left}, len(masked - {0})


def make_brca(source: Path, out: Path) -> None:
    """Grow all points of BRCA-M2C, into both folders."""
    images = sorted((source / "images").glob("*.png"))
    grown = []
    areas: dict[int, list[int]] = {}
    for count, path in enumerate(images, start=1):
        pixels = read_pixels(path)
        points = np.loadtxt(source / "labels" / f"{path.stem}_gt_class_coords.txt", dtype=np.int64, ndmin=2)
        points = points[np.all((points[:, :2] >= 0) & (points[:, :2] < pixels.shape[:2]), axis=1)]
        masks = grow_masks(pixels, points)
        for number, area in zip(
            *(part.tolist() for part in np.unique(masks[masks > 0], return_counts=True)), strict=True
        ):
            areas.setdefault(int(points[number - 1, 2]), []).append(area)
        grown.append((path.stem, pixels, points, masks))
        print(
            f"{count} of {len(images)}: {path.stem}: {len(np.unique(masks)) - 1} of {len(points)} points have a mask",
            flush=True,
        )
    radii = {kind: float(np.sqrt(np.median(sizes) / np.pi)) for kind, sizes in areas.items()}
    for name, discs, classes in (("brca-m2c", {}, [*CLASSES, IGNORE]), ("brca-m2c-discs", radii, CLASSES)):
        total = masked = 0
        for stem, pixels, points, masks in grown:
            instances, types, found = with_discs(masks, points, discs)
            total, masked = total + len(points), masked + found
            write_hovernet(out / name, stem, pixels, instances, types, MPP)
            if name != "brca-m2c":
                image = out / name / "Images" / f"{stem}.png"
                image.unlink()
                image.hardlink_to(out / "brca-m2c" / "Images" / image.name)
        write_type_info(out / name, classes)
        write_dataset_json(
            out / name,
            name=name,
            mpp=MPP,
            license="BSD-3-Clause",
            derived_from="BRCA-M2C (TopoXLab, 2022), TCGA open-access pixels",
            points=total,
            masks=masked,
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


def pack(out: Path) -> None:
    """Put lossless WebP files in place of images and labels; an image that two folders share is kept in one of them.

    Of labels, red and green are the lower and the higher byte of an id, and blue is its class.
    """
    images: dict[int, Path] = {}
    for path in sorted(out.glob("*/Images/*.png")):
        if path.stat().st_ino not in images:
            images[path.stat().st_ino] = path
            _save_webp(read_pixels(path), path)
    for path in sorted(out.glob("*/Labels/*.mat")):
        found = scipy.io.loadmat(path)
        ids, kinds = found["inst_map"], found["type_map"]
        if ids.max() >= 1 << 16 or kinds.max() >= 1 << 8:
            raise SystemExit(f"{path} has too many nuclei or classes to be packed.")
        _save_webp(np.stack([ids % 256, ids // 256, kinds], axis=-1).astype(np.uint8), path)
    for path in [*out.glob("*/Images/*.png"), *out.glob("*/Labels/*.mat")]:
        path.unlink()


def _save_webp(pixels: NDArray[np.uint8], beside: Path) -> None:
    Image.fromarray(pixels).save(beside.with_suffix(".webp"), lossless=True, quality=60, method=4)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the datasets that the bundled generators learn from.")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--brca", type=Path, default=Path("../shared/data/brca-m2c"), help="BRCA-M2C (%(default)s)")
    parser.add_argument("--dsb", type=Path, default=Path("../shared/data/dsb2018-he"), help="Bowl images (%(default)s)")
    parser.add_argument("--pack", action="store_true", help="keep images and labels as lossless WebP")
    arguments = parser.parse_args()
    make_dsb(arguments.dsb, arguments.out / "dsb2018-he")
    make_brca(arguments.brca, arguments.out)
    if arguments.pack:
        pack(arguments.out)


if __name__ == "__main__":
    main()
