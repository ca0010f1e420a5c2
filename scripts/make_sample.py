"""Derive the bundled sample from BRCA-M2C: five crops whose typed points grow into nucleus masks.

BRCA-M2C (TopoXLab, 2022, BSD-3-Clause) gives one typed point per nucleus, ``row column class``, in breast tumor
images at 20× (0.5 µm/px) from TCGA. The sample wants masks, so each point is grown into one:

1. Nuclei are dark in the red channel, where hematoxylin absorbs and eosin hardly does; its optical density is smoothed.
2. Each point has the pixels nearer to it than to any other point, up to a radius that depends on its class. Of these,
   foreground is what exceeds Otsu's threshold around the point, weighed with that of the image.
3. A watershed on the density's gradient, from the points and a background marker, finds the outline.
4. The outline is opened and smoothed; what is too small, too thin, not convex or hardly darker than its surroundings
   is no mask. Points without a mask are counted and listed, never given an invented one.

Run from the repository::

    python scripts/make_sample.py --source ../shared/data/brca-m2c

It writes ``src/napari_histomix/datasets/sample`` (all but its NOTICE). The same source and library versions give the
same bytes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, measure, morphology, segmentation

from napari_histomix.datasets import read_pixels, write_dataset_json, write_hovernet, write_type_info
from napari_histomix.records import NucleusClass

MPP = 0.5
SIZE = 320
CLASSES = (
    NucleusClass(1, "lymphocyte", (0, 200, 80)),
    NucleusClass(2, "tumor", (255, 200, 0)),
    NucleusClass(3, "stromal", (0, 170, 255)),
)
RADIUS = {1: 13, 2: 20, 3: 18}
"""How far from its point a nucleus of a class may reach, in pixels."""

MIN_AREA = {1: 45, 2: 55, 3: 50}
"""Least area of a nucleus of a class, in square pixels; what is smaller is a part of one."""

WINDOW = 26
"""Half side of the window around a point whose Otsu threshold counts, in pixels."""

MIN_CONTRAST = 0.12
"""Least mean optical density of a mask above that of a band around it."""

MIN_VISIBLE = 30
"""A nucleus that the crop's border leaves fewer pixels of is left out."""


@dataclass(frozen=True)
class Crop:
    """A square of a source image: name, and upper left corner in pixels."""

    image: str
    row: int
    col: int


CROPS = (
    Crop("TCGA-A8-A09A-01Z-00-DX1_14001_36001_1000_1000_0.93", 128, 128),
    Crop("TCGA-A8-A07U-01Z-00-DX1_26500_78501_1001_1000_0.93", 96, 128),
    Crop("TCGA-A7-A13G-01Z-00-DX1_9501_8501_1000_1000_0.9824", 128, 160),
    Crop("TCGA-S3-AA17-01Z-00-DX1_31501_41001_1000_1000_1.0108", 128, 160),
    Crop("TCGA-A7-A3RF-01Z-00-DX1_64000_16001_1001_1000_0.9872000000000001", 64, 0),
)
"""Chosen by eye among windows in focus with few lymphocytes, few points without a mask, and five patients."""


def red_density(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Optical density of the red channel, (H, W)."""
    density: NDArray[np.float64] = -np.log((pixels[..., 0].astype(np.float64) + 1) / 256)
    return density


def around(row: int, col: int) -> tuple[slice, slice]:
    """The window around a point, cut at the upper and left border (slices cut the others)."""
    return slice(max(row - WINDOW, 0), row + WINDOW + 1), slice(max(col - WINDOW, 0), col + WINDOW + 1)


def grow_masks(pixels: NDArray[np.uint8], points: NDArray[np.int64]) -> NDArray[np.int32]:
    """Grow points into masks.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        RGB at 0.5 µm/px.
    points : (N, 3) int
        Row, column, class.

    Returns
    -------
    (H, W) int32
        0 = background, otherwise the point's index plus 1.
    """
    density = red_density(pixels)
    smooth = ndimage.gaussian_filter(density, 1.0)
    shape = smooth.shape
    places = np.clip(points[:, :2], 0, np.array(shape) - 1)
    seeds = np.zeros(shape, np.int32)
    seeds[places[:, 0], places[:, 1]] = np.arange(1, len(points) + 1)
    distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    owner = seeds[nearest[0], nearest[1]]
    reach = np.array([0, *(RADIUS[int(kind)] for kind in points[:, 2])])
    within = distance <= reach[owner]

    image_threshold = filters.threshold_otsu(smooth)
    foreground = np.zeros(shape, bool)
    for index, (row, col) in enumerate(places, start=1):
        window = around(row, col)
        local = filters.threshold_otsu(smooth[window])
        weight = 0.5 if local < image_threshold else 0.25
        threshold = weight * image_threshold + (1 - weight) * local
        mine = (owner[window] == index) & within[window]
        core = smooth[window][mine & (distance[window] <= 3)]
        # A pale nucleus is still darker at its point than its own threshold allows for.
        threshold = min(threshold, 0.9 * float(np.median(core)))
        foreground[window] |= mine & (smooth[window] > threshold)

    core_area = distance <= 2.5
    background = len(points) + 1
    markers = np.where(core_area, owner, 0)
    markers[~ndimage.binary_dilation(foreground | core_area, iterations=2)] = background
    gradient = ndimage.gaussian_gradient_magnitude(density, 1.2)
    # The second term keeps nuclei that touch apart: the valley between them is pale.
    landscape = gradient / np.percentile(gradient, 99) + 0.5 * (1 - np.clip(smooth / np.percentile(smooth, 99), 0, 1))
    regions = segmentation.watershed(landscape, markers)

    masks = np.zeros(shape, np.int32)
    for index, (row, col) in enumerate(places, start=1):
        window = around(row, col)
        mine = (regions[window] == index) & (owner[window] == index) & within[window]
        mask = shaped(mine & (foreground[window] | core_area[window])) & (masks[window] == 0)
        if is_nucleus(mask, smooth[window], MIN_AREA[int(points[index - 1, 2])]):
            masks[window][mask] = index
    return masks


def largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask; an empty mask stays empty."""
    labels, count = ndimage.label(mask)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count else mask


def shaped(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without spurs, fragments, holes and jags."""
    opened = morphology.opening(np.pad(mask, 4), morphology.disk(2))[4:-4, 4:-4]
    whole = ndimage.binary_fill_holes(largest(opened))
    smooth = ndimage.gaussian_filter(np.pad(whole, 6, mode="edge").astype(np.float64), 2.0)[6:-6, 6:-6]
    return largest(smooth > 0.5)


def is_nucleus(mask: NDArray[np.bool_], density: NDArray[np.float64], min_area: int) -> bool:
    """Whether a mask has a nucleus's size (at most 250 µm²) and shape and is darker than a band around it."""
    if not min_area <= np.count_nonzero(mask) <= 1000:
        return False
    region = measure.regionprops(mask.astype(np.uint8))[0]
    band = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask)
    contrast = density[mask].mean() - density[band].mean()
    return bool(region.solidity >= 0.9 and region.axis_minor_length >= 6 and contrast >= MIN_CONTRAST)


def make(source: Path, folder: Path) -> None:
    """Write the sample and print how many points of each crop got no mask."""
    for crop in CROPS:
        pixels = read_pixels(source / "images" / f"{crop.image}.png")
        points = np.loadtxt(source / "labels" / f"{crop.image}_gt_class_coords.txt", dtype=np.int64, ndmin=2)
        window = slice(crop.row, crop.row + SIZE), slice(crop.col, crop.col + SIZE)
        masks = grow_masks(pixels, points)
        inside = np.all(
            (points[:, :2] >= (crop.row, crop.col)) & (points[:, :2] < (crop.row + SIZE, crop.col + SIZE)), 1
        )
        lost = inside & ~np.isin(np.arange(1, len(points) + 1), masks)
        instances = masks[window]
        ids, areas = np.unique(instances, return_counts=True)
        cut = ids[(areas < MIN_VISIBLE) & (ids > 0)]
        instances = np.where(np.isin(instances, cut), 0, instances)
        instances, _, _ = segmentation.relabel_sequential(instances)
        kept = [int(i) for i in ids if i > 0 and i not in cut]
        types = {new: int(points[old - 1, 2]) for new, old in enumerate(kept, start=1)}
        name = f"{crop.image.split('_')[0]}_{crop.row}_{crop.col}"
        write_hovernet(folder, name, pixels[window], instances.astype(np.int32), types, MPP)
        counts = ", ".join(f"{list(types.values()).count(one.number)} {one.name}" for one in CLASSES)
        print(f"{name}: {counts}; {inside.sum()} points, {lost.sum()} without a mask, {len(cut)} cut off by the border")
        for row, col, kind in points[lost]:
            print(f"  no mask at row {row - crop.row}, column {col - crop.col} ({CLASSES[kind - 1].name})")
    write_type_info(folder, CLASSES)
    write_dataset_json(
        folder,
        name="HistoMix sample",
        mpp=MPP,
        organ="breast",
        stain="H&E",
        license="BSD-3-Clause, see NOTICE",
        derived_from="BRCA-M2C (TopoXLab, 2022), TCGA open-access pixels",
    )


def main() -> None:
    """Read the command line."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description="Derive the bundled sample from BRCA-M2C.")
    parser.add_argument(
        "--source",
        type=Path,
        default=Path("../shared/data/brca-m2c"),
        help="folder with BRCA-M2C's images and labels (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=root / "src" / "napari_histomix" / "datasets" / "sample",
        help="where to write (default: the package's sample folder)",
    )
    arguments = parser.parse_args()
    make(arguments.source, arguments.output)


if __name__ == "__main__":
    main()
