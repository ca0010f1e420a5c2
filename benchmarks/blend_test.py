"""How well holes are filled on real images: the ring test and the disc test.

Ring: layers 2 and 3 around a real nucleus with no neighbor near are hidden and filled from everything else. Disc: a
circle of the nucleus's size on free background is hidden whole. Figures are medians over items of: the root mean square
error inside the hole (8-bit units), the seam ratio (mean absolute gradient across the hole's borders over that of
the hidden truth) and the Laplacian-variance ratio inside the hole; 1 is best for both ratios. Windows are taken from
images that must not have trained the model.

    python benchmarks/blend_test.py DATASET --model FOLDER --sampler fast paper:12
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.compositing.contours import Mask, dilate, transition_zone
from napari_histomix.datasets import open_dataset
from napari_histomix.diffusion.inpainter import Window, fill_navier_stokes, inpaint
from napari_histomix.diffusion.models import load_model
from napari_histomix.diffusion.samplers import PRESETS, Sampler
from napari_histomix.records import drain
from napari_histomix.weights import bundled

SIDE = 64
FREE = 7
Filled = list[NDArray[np.uint8]]


def rings(dataset_folder: Path, count: int, seed: int) -> tuple[list[Window], list[Window]]:
    """Windows for the ring and the disc test, at most a few from each image."""
    dataset = open_dataset(dataset_folder)
    rng = np.random.default_rng(seed)
    ring_windows: list[Window] = []
    disc_windows: list[Window] = []
    for entry in dataset.training:
        image = dataset.read(entry)
        distance = ndimage.distance_transform_edt(image.instances == 0)
        found = 0
        ids = rng.permutation(np.unique(image.instances)[1:])
        for instance in ids:
            rows, cols = np.nonzero(image.instances == instance)
            top, left = (round(float(axis.mean())) - SIDE // 2 for axis in (rows, cols))
            box = slice(top, top + SIDE), slice(left, left + SIDE)
            inside = min(top, left) >= 0 and max(top, left) + SIDE <= min(image.instances.shape)
            if found == -(-count // len(dataset.training)) + 1 or not inside or len(rows) < 100:
                continue
            nucleus = image.instances[box] == instance
            if nucleus.sum() != len(rows) or max(np.ptp(rows), np.ptp(cols)) > 40:
                continue
            if np.any((image.instances[box] != 0) & dilate(nucleus, FREE) & ~nucleus):
                continue
            ring_windows.append(Window(image.pixels[box].copy(), transition_zone(nucleus), int(instance)))
            radius = int(np.sqrt(len(rows) / np.pi)) + 3
            places = np.argwhere(distance[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2] > radius + 3)
            if len(places):
                row, col = places[rng.integers(len(places))]
                ys, xs = np.ogrid[:SIDE, :SIDE]
                disc = np.hypot(ys - SIDE // 2, xs - SIDE // 2) <= radius
                pixels = image.pixels[row : row + SIDE, col : col + SIDE].copy()
                disc_windows.append(Window(pixels, disc, int(instance)))
            found += 1
    keep = rng.permutation(len(ring_windows))[:count]
    keep_discs = rng.permutation(len(disc_windows))[:count]
    return [ring_windows[i] for i in keep], [disc_windows[i] for i in keep_discs]


def figures(windows: list[Window], filled: Filled) -> tuple[float, float, float]:
    """Medians of RMSE, seam ratio and Laplacian-variance ratio."""
    errors, seams, sharpness = [], [], []
    for window, pixels in zip(windows, filled, strict=True):
        truth, result = window.pixels.astype(float), pixels.astype(float)
        errors.append(np.sqrt(((truth - result) ** 2)[window.hole].mean()))
        seams.append(_seam(result, window.hole) / _seam(truth, window.hole))
        sharpness.append(_laplacian(result, window.hole) / max(_laplacian(truth, window.hole), 1e-9))
    return float(np.median(errors)), float(np.median(seams)), float(np.median(sharpness))


def _seam(pixels: NDArray[np.float64], hole: Mask) -> float:
    """Mean absolute difference between neighbors of which one lies in the hole."""
    total, count = 0.0, 0
    for axis in (0, 1):
        across = np.diff(hole.astype(np.int8), axis=axis) != 0
        total += np.abs(np.diff(pixels, axis=axis))[across].mean(axis=1).sum()
        count += int(across.sum())
    return total / max(count, 1)


def _laplacian(pixels: NDArray[np.float64], hole: Mask) -> float:
    return float(np.stack([cv2.Laplacian(pixels[..., c], cv2.CV_64F)[hole] for c in range(3)]).var(axis=1).mean())


def _methods(names: list[str], model_folder: Path, device: str, stage: str) -> dict[str, tuple[int, Callable]]:
    """Classic fills, and each sampler given by a preset's name or as method:start:steps:visits[:unconditional]."""
    model = load_model(model_folder)
    methods: dict[str, tuple[int, Callable]] = {
        "navier-stokes": (0, lambda windows: [fill_navier_stokes(w.pixels, w.hole) for w in windows]),
        "telea": (
            0,
            lambda windows: [cv2.inpaint(w.pixels, w.hole.astype(np.uint8), 3, cv2.INPAINT_TELEA) for w in windows],
        ),
    }
    for name in names:
        if name in PRESETS:
            sampler = PRESETS[name].blend if stage == "ring" else PRESETS[name].erase
        else:
            method, start, steps, visits, *rest = name.split(":")
            sampler = Sampler(method, int(start), int(steps), int(visits), not rest)  # type: ignore[arg-type]
        methods[name] = (sampler.forwards, lambda windows, s=sampler: drain(inpaint(windows, model, s, device=device)))
    return methods


def main() -> None:
    """Print one table for rings and one for discs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", type=Path, default=bundled())
    parser.add_argument("--sampler", nargs="+", default=["fast"])
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--stage", choices=["ring", "disc", "both"], default="both")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write a picture of truth and fills, for the eye")
    options = parser.parse_args()
    both = dict(zip(("ring", "disc"), rings(options.dataset, options.count, options.seed), strict=True))
    for stage, windows in both.items():
        if options.stage not in (stage, "both"):
            continue
        print(f"\n{stage}: {len(windows)} windows of {SIDE}²\n")
        print("| fill | forwards | RMSE | seam | Laplacian | s/item |\n|---|---|---|---|---|---|")
        columns = [[w.pixels for w in windows], [np.where(w.hole[..., None], 255, w.pixels) for w in windows]]
        for name, (forwards, fill) in _methods(options.sampler, options.model, options.device, stage).items():
            began = time.perf_counter()
            filled = fill(windows)
            seconds = (time.perf_counter() - began) / len(windows)
            error, seam, laplacian = figures(windows, filled)
            row = f"| {name} | {forwards} | {error:.1f} | {seam:.2f} | {laplacian:.2f} | {seconds:.3f} |"
            print(row, flush=True)
            columns.append(filled)
        if options.sheet:
            sheet = np.concatenate([np.concatenate([c[i] for c in columns], 1) for i in range(min(12, len(windows)))])
            big = cv2.resize(sheet.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(options.sheet.with_stem(f"{options.sheet.stem}-{stage}")), big[..., ::-1])


if __name__ == "__main__":
    main()
