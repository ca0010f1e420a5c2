"""What large holes in real images are filled with, beside what was there.

    python benchmarks/holes.py FOLDER --mpp 0.5 [--count 12] [--ways exemplars diffusion] [--sheet OUT.jpg] [--rows 6]

Cuts a hole of about 70 µm into each of ``count`` images, fills it, and prints how many nuclei a segmenter finds inside,
the Fréchet distance of textures (patches of 28 µm, eight principal components of the real ones), sharpness, and seconds
of the processor. ``layout`` is a third way: the image model paints a layout of the nuclei that the exemplars brought.
``--sheet`` draws the first ``rows``: hole, each way, truth.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.compositing.exemplars import quilt
from napari_histomix.datasets import read_pixels
from napari_histomix.diffusion.large_holes import fill_from_exemplars, fill_holes
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.samplers import PRESETS
from napari_histomix.evaluation.likeness import frechet_distance, standardized
from napari_histomix.features.texture import TextureEncoder
from napari_histomix.generation.image_model import paint_inside
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.segmenting import segment
from napari_histomix.records import drain
from napari_histomix.stains import optical_density
from napari_histomix.weights import bundled

ACROSS, PATCH, AROUND = 70.0, 28.0, 24.0
"""µm: a hole, a patch whose texture is compared, and what is seen around a hole."""
SIDE = 240
U8, Mask = NDArray[np.uint8], NDArray[np.bool_]


def blob(side: int, rng: np.random.Generator) -> Mask:
    """A smooth shape about two thirds as wide as ``side``."""
    field = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), side / 8)
    rows, cols = np.mgrid[:side, :side] / side - 0.5
    score = field / field.std() - 9 * np.hypot(rows, cols)
    _, parts = cv2.connectedComponents((score > np.quantile(score, 0.6)).astype(np.uint8))
    return (
        np.asarray(parts == parts[side // 2, side // 2]) if parts[side // 2, side // 2] else np.hypot(rows, cols) < 0.3
    )


def hole_in(pixels: U8, mpp: float, rng: np.random.Generator) -> Mask:
    """A hole where there is tissue, away from the border."""
    shape = blob(round(1.5 * ACROSS / mpp), rng)
    tissue = cv2.blur((optical_density(pixels).sum(axis=-1) > 0.3).astype(np.float32), shape.shape[::-1])
    high, wide = (length - len(shape) for length in pixels.shape[:2])
    corners = np.column_stack([rng.integers(0, high + 1, 20), rng.integers(0, wide + 1, 20)])
    row, col = max(corners.tolist(), key=lambda at: min(0.8, tissue[at[0] + len(shape) // 2, at[1] + len(shape) // 2]))
    hole = np.zeros(pixels.shape[:2], bool)
    hole[row : row + len(shape), col : col + len(shape)] = shape
    return hole


def around(hole: Mask, mpp: float) -> tuple[slice, slice]:
    """The hole's box with what is seen around it."""
    margin = round(AROUND / mpp)
    rows, cols = (slice(max(0, int(at.min()) - margin), int(at.max()) + margin) for at in np.nonzero(hole))
    return rows, cols


def patches(pixels: U8, hole: Mask, mpp: float, rng: np.random.Generator) -> list[U8]:
    """Up to six patches that lie in a hole."""
    side = round(PATCH / mpp)
    inside = cv2.blur(hole.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    places = np.argwhere(inside > 0.95)
    chosen = places[rng.permutation(len(places))[:6]] - side // 2
    return [
        cv2.resize(pixels[r : r + side, c : c + side], (224, 224), interpolation=cv2.INTER_CUBIC) for r, c in chosen
    ]


def main() -> None:
    """Read the command line, fill, measure."""
    parser = argparse.ArgumentParser(description="What large holes in real images are filled with.")
    parser.add_argument("folder", type=Path, help="PNG images")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--ways", nargs="+", default=["exemplars", "diffusion"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--rows", type=int, default=6)
    options = parser.parse_args()
    files, rng = sorted(options.folder.glob("*.png")), np.random.default_rng(options.seed)
    painter, preset = load_model(bundled()), PRESETS["fast"]
    finder, drawer = load_generator("", "segmenter"), load_generator("", "image")

    def filled(way: str, pixels: U8, hole: Mask, mpp: float, seed: int) -> U8:
        if way == "diffusion":
            return drain(fill_holes(pixels, hole, mpp, painter, preset.large, seed, device="cpu"))
        if way == "exemplars":
            return drain(fill_from_exemplars(pixels, hole, mpp, painter, preset.seam, seed, device="cpu"))
        pieces = drain(quilt(pixels, hole, mpp, seed=seed)).pixels
        found = drain(segment(pieces, mpp, finder, "cpu"))
        # The stain that it is told of is that of an image without a hole.
        return drain(
            paint_inside(pieces, Layout(found.instances, found.classes, mpp), hole, drawer, seed, device="cpu")
        )

    counts, crops, sharp = defaultdict(list), defaultdict(list), defaultdict(list)
    seconds, area, sheet = defaultdict(float), 0.0, []
    for number in rng.permutation(len(files))[: options.count].tolist():
        pixels, mpp = read_pixels(files[number]), options.mpp
        hole = hole_in(pixels, mpp, rng)
        area += hole.sum() / 1e6
        window, results = around(hole, mpp), {"truth": pixels}
        for way in options.ways:
            start = time.process_time()
            results[way] = filled(way, np.where(hole[..., None], np.uint8(0), pixels), hole, mpp, number)
            seconds[way] += time.process_time() - start
        where = int(rng.integers(2**31))
        for way, result in results.items():
            seen, inside = result[window], hole[window]
            found = drain(segment(seen, mpp, finder, "cpu")).instances
            ids = np.unique(found[inside])
            centers = [np.argwhere(found == one).mean(axis=0).astype(int) for one in ids[ids > 0]]
            counts[way].append(sum(bool(inside[tuple(center)]) for center in centers))
            crops[way] += patches(result, hole, mpp, np.random.default_rng(where))
            gray = cv2.GaussianBlur(seen.mean(axis=-1).astype(np.float32), (0, 0), 0.7)
            sharp[way].append(float(np.abs(cv2.Laplacian(gray, cv2.CV_32F))[inside].mean()))
        crops["real elsewhere"] += patches(pixels, hole_in(pixels, mpp, rng) & ~hole, mpp, rng)
        if len(sheet) < options.rows:
            blank = np.where(hole[..., None], np.uint8(235), pixels)
            sheet.append([one[window] for one in (blank, *(results[way] for way in options.ways), pixels)])
    encoder = TextureEncoder(whole=True)
    features = {way: encoder(np.stack(found)).astype(float) for way, found in crops.items()}
    real = features["truth"]
    axes = np.linalg.svd(standardized(real, real), full_matrices=False)[2][:8].T
    truth = np.array(counts["truth"], float)
    print(f"{len(truth)} holes, {area:.2f} megapixels, {truth.sum():.0f} nuclei\n")
    print("| way | nuclei | off by | Fréchet | sharpness | seconds a megapixel |\n|---|---|---|---|---|---|")
    for way in (*options.ways, "real elsewhere"):
        distance = frechet_distance(*(standardized(features[one], real) @ axes for one in (way, "truth")))
        if way not in counts:
            print(f"| {way} | | | {distance:.1f} | | |")
            continue
        found, ratio = np.array(counts[way], float), np.mean(sharp[way]) / np.mean(sharp["truth"])
        share, off = found.sum() / truth.sum(), np.abs(found - truth).sum() / truth.sum()
        print(f"| {way} | {share:.0%} | {off:.0%} | {distance:.1f} | {ratio:.2f} | {seconds[way] / area:.0f} |")
    if options.sheet:
        small = [[cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in row] for row in sheet]
        half = (len(small) + 1) // 2
        small = [a + b for a, b in zip(small[:half], small[half:], strict=False)]
        Image.fromarray(np.vstack([np.hstack(row) for row in small])).save(options.sheet, quality=80)


if __name__ == "__main__":
    main()
