"""How long it takes to divide an image into tissue segments, and to fill a large hole.

    python benchmarks/segments.py [IMAGE]

Prints a table for one image, 1000² by default (made up), with the region tree, and for a hole of half a 512² tile with
the bundled network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from napari_histomix.datasets import read_pixels
from napari_histomix.diffusion.large_holes import fill_holes
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.samplers import PRESETS
from napari_histomix.records import drain
from napari_histomix.segmentation import RegionTree, RegionTreePrompter, find_segments
from napari_histomix.segmentation.anchors import random_points
from napari_histomix.segmentation.region_tree import superpixels
from napari_histomix.weights import bundled

REPEATS = 5


def made_up(side: int = 1000) -> np.ndarray:
    """Blobs of tissue, glands and lumen."""
    rng = np.random.default_rng(0)
    coarse, fine = (cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), sigma) for sigma in (40, 3))
    pixels = np.where((coarse > 0.01)[..., None], (130, 85, 160), (225, 165, 205)).astype(float)
    pixels[coarse > 0.03] = (244, 240, 246)
    return np.clip(pixels + 150 * fine[..., None], 0, 255).astype(np.uint8)


def timed(function) -> float:
    """Median seconds of some calls, after one that is not counted."""
    function()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path)
    options = parser.parse_args()
    pixels = read_pixels(options.image) if options.image else made_up()
    regions = superpixels(pixels)
    points, _ = random_points(regions, 15, np.random.default_rng(0))
    tree = RegionTree.grow(pixels)
    print(f"{pixels.shape[1]}×{pixels.shape[0]} pixels, {len(points)} points, torch {torch.__version__}\n")
    print("| what | seconds |\n|---|---|")
    print(f"| superpixels | {timed(lambda: superpixels(pixels)):.2f} |")
    print(f"| region tree | {timed(lambda: RegionTree.grow(pixels)):.2f} |")
    print(f"| its answers to all points | {timed(lambda: tree.best(points)):.3f} |")
    whole = timed(lambda: drain(find_segments(pixels, RegionTreePrompter())))
    print(f"| all of it, to anchor segments | {whole:.2f} |")
    tile = cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_AREA)
    rows, cols = np.mgrid[:512, :512]
    hole = np.hypot(rows - 256, cols - 256) < 204
    model = load_model(bundled())
    start = time.perf_counter()
    drain(fill_holes(tile, hole, 0.5, model, PRESETS["fast"].large, 0, device="cpu"))
    print(f"| a hole of {hole.mean():.0%} of a 512² tile, `fast` | {time.perf_counter() - start:.0f} |")


if __name__ == "__main__":
    main()
