"""How well tissue segments agree with things drawn by hand, beside simple ways to divide an image.

    python benchmarks/segmentation.py CONSEP [--drawn FILE] [--images NAME …] [--each]

CONSEP is the folder of CoNSeP's training images. Prints a table: for each way covering of all things and of whole ones
(those that the image's border does not cut off), and precision, recall and F of boundaries within 4 µm, as means over
images, and the median number of segments of an image; then the mean best overlap (IoU) of each kind of thing. Every way
but the region tree divides the whole image, bare glass too. ``--each`` adds covering, F and the number of segments of
every image.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.filters import sobel
from skimage.segmentation import felzenszwalb, watershed

from napari_histomix.datasets import read_pixels
from napari_histomix.evaluation.segment_figures import best_overlaps, boundary_agreement, covering, read_outlines
from napari_histomix.records import HistomixError, drain
from napari_histomix.segmentation import RegionTreePrompter, find_segments, segment_map
from napari_histomix.segmentation.region_tree import superpixels, working_copy

DRAWN = Path(__file__).resolve().parents[1] / "tests" / "segmentation" / "drawn_segments.json"
MPP = 0.25
"""CoNSeP's, µm per pixel."""
TOLERANCE = 4.0
"""µm that boundaries may lie apart."""
MARKERS = 25
"""The watershed's, about as many as the region tree finds segments."""
SCALE, LEAST = 100, 0.005
"""Felzenszwalb's, that gives about as many: scale, and least size as a share of the image."""
SMOOTH = 3.0
"""Gaussian's standard deviation before felzenszwalb and watershed, in pixels of the working copy."""


def region_tree(pixels: np.ndarray) -> np.ndarray:
    """Anchor segments, also those at the border."""
    try:
        return segment_map(drain(find_segments(pixels, RegionTreePrompter())), pixels.shape)
    except HistomixError:
        # Nothing stands out: there is no segment.
        return np.zeros(pixels.shape[:2], np.int32)


def slic(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Superpixels; 30 as those in which prompts are drawn."""
    return lambda pixels: superpixels(pixels, count, tissue=0.0)


def graph_based(pixels: np.ndarray) -> np.ndarray:
    """Felzenszwalb & Huttenlocher, "Efficient graph-based image segmentation", IJCV 59 (2004)."""
    small = working_copy(pixels)
    return _enlarged(felzenszwalb(small, SCALE, SMOOTH, round(LEAST * small.shape[0] * small.shape[1])), pixels)


def flooded(pixels: np.ndarray) -> np.ndarray:
    """Watershed of the gradient's magnitude, from markers on a grid."""
    gray = cv2.GaussianBlur(cv2.cvtColor(working_copy(pixels), cv2.COLOR_RGB2GRAY), (0, 0), SMOOTH)
    return _enlarged(watershed(sobel(gray.astype(float)), markers=MARKERS) - 1, pixels)


def _enlarged(labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A map of the working copy, from 0 on, as one of the image, from 1 on."""
    return cv2.resize(labels.astype(np.int32) + 1, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _at_border(thing: np.ndarray) -> bool:
    return bool(thing[[0, -1]].any() or thing[:, [0, -1]].any())


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "region tree": region_tree,
    "SLIC, 30": slic(30),
    "SLIC, 20": slic(20),
    "Felzenszwalb": graph_based,
    "watershed": flooded,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("consep", type=Path)
    parser.add_argument("--drawn", type=Path, default=DRAWN, help="outlines (JSON)")
    parser.add_argument("--images", nargs="+", help="names of images; all that were drawn unless given")
    parser.add_argument("--each", action="store_true", help="print every image, too")
    options = parser.parse_args()
    drawn = read_outlines(options.drawn)
    names = options.images or list(drawn)
    things = sum(len(drawn[name]) for name in names)
    figures: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    overlaps: dict[str, dict[str, list[float]]] = {way: defaultdict(list) for way in WAYS}
    for name in names:
        pixels = read_pixels(options.consep / "Images" / f"{name}.png")
        truth = np.array([outline.mask(pixels.shape) for outline in drawn[name]])
        whole = truth[[not _at_border(thing) for thing in truth]]
        for way, divide in WAYS.items():
            segments = divide(pixels)
            agreement = boundary_agreement(truth, segments, TOLERANCE / MPP)
            covered = covering(truth, segments), covering(whole, segments)
            figures[way].append((*covered, *agreement, len(np.unique(segments[segments > 0]))))
            for outline, overlap in zip(drawn[name], best_overlaps(truth, segments), strict=True):
                overlaps[way][outline.what].append(overlap)
    print(f"{len(names)} images, {things} things\n")
    headings = "way", "covering", "of whole things", "precision", "recall", "boundary F", "segments"
    print(f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    for way, rows in figures.items():
        means = " | ".join(f"{value:.2f}" for value in np.nanmean(rows, axis=0)[:5])
        print(f"| {way} | {means} | {np.median([row[-1] for row in rows]):.0f} |")
    kinds = {kind: len(values) for kind, values in overlaps["region tree"].items()}
    print(f"\n| way | {' | '.join(f'{kind} ({count})' for kind, count in kinds.items())} |")
    print("|---" * (1 + len(kinds)) + "|")
    for way, found in overlaps.items():
        print(f"| {way} | {' | '.join(f'{np.mean(found[kind]):.2f}' for kind in kinds)} |")
    if options.each:
        print(f"\n| image | {' | '.join(WAYS)} |\n{'|---' * (1 + len(WAYS))}|")
        for place, name in enumerate(names):
            cells = (figures[way][place] for way in WAYS)
            print(f"| {name} | {' | '.join(f'{row[0]:.2f}, {row[4]:.2f}, {row[-1]}' for row in cells)} |")


if __name__ == "__main__":
    main()
