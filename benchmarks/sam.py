"""Anchor prompts with our SAM prompter, with SamPredictor point by point, and with SamAutomaticMaskGenerator.

    python benchmarks/sam.py [IMAGE] [--weights FILE] [--threads 2] [--loop 20] [--no-grid] [--bfloat16]

SAM vit_b on a processor. Without --weights its weights are random: the cost is the same, and so is the question whether
the chosen masks agree, but the masks mean nothing. Ratios within one run are what compares.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry

from napari_histomix.segmentation.sam import SamPrompter, SamProposals
from napari_histomix.segmentation.sam_network import PointDecoder

POINTS, ANCHORS, GRID = 450, 30, 21


def synthetic(side: int = 1024) -> NDArray[np.uint8]:
    """Violet nuclei and pale lumens on pink tissue."""
    rng = np.random.default_rng(0)
    image = np.full((side, side, 3), (222, 165, 205), np.uint8)
    for center, radius in zip(rng.uniform(0, side, (600, 2)), rng.uniform(6, 14, 600), strict=True):
        color = (105, 65, 140) if radius < 13 else (240, 235, 240)
        cv2.circle(image, (int(center[0]), int(center[1])), int(radius), color, -1)
    grain = cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 1.0)[..., None] * 12
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def ours(prompter: SamPrompter, image: NDArray[np.uint8], points: NDArray[np.float64]) -> SamProposals:
    """Run our prompter and 30 of its masks, and print where the time goes."""
    inside: list[float] = []
    plain = PointDecoder.__call__

    def timed(*given: object) -> object:
        began = time.perf_counter()
        answer = plain(*given)  # type: ignore[arg-type]
        inside.append(time.perf_counter() - began)
        return answer

    began = time.perf_counter()
    marks: dict[str, float] = {}
    with mock.patch.object(PointDecoder, "__call__", timed):
        job = prompter(image, points)
        while True:
            try:
                phase = next(job).phase
                marks.setdefault(phase, time.perf_counter())
            except StopIteration as end:
                proposals: SamProposals = end.value
                break
    proposals.overlaps(np.arange(POINTS // ANCHORS), np.arange(POINTS // ANCHORS))
    proposals.masks(np.arange(0, len(points), len(points) // ANCHORS)[:ANCHORS])
    total = time.perf_counter() - began
    encoder, decoder = marks["Asking SAM"] - marks["Encoding the image"], sum(inside)
    rest = total - encoder - decoder
    print(f"  encoder {encoder:7.2f} s")
    print(f"  decoder {decoder:7.2f} s ({1000 * decoder / len(points):.1f} ms a point)")
    print(f"  rest    {rest:7.2f} s ({100 * rest / total:.1f} % of the whole)")
    print(f"  whole   {total:7.2f} s", flush=True)
    prompter.seconds = (total, total - encoder)  # type: ignore[attr-defined]
    return proposals


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("--weights", type=Path, help="a vit_b checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loop", type=int, default=20, help="points that are really asked one by one")
    parser.add_argument("--no-grid", action="store_true", help="leave the automatic mask generator out")
    parser.add_argument("--bfloat16", action="store_true", help="also say what bfloat16 would do")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = np.array(Image.open(options.image).convert("RGB")) if options.image else synthetic()
    points = np.random.default_rng(0).uniform(0, 1, (POINTS, 2)) * image.shape[:2]
    print(f"{image.shape[1]}×{image.shape[0]} pixels, {POINTS} points, {options.threads} threads")
    print(f"{platform.machine()}, torch {torch.__version__}")

    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or Path(folder) / "random.pth"
        torch.manual_seed(0)
        theirs = sam_model_registry["vit_b"]().eval()
        if options.weights is None:
            torch.save(theirs.state_dict(), weights)
        else:
            theirs.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        prompter = SamPrompter(weights, device="cpu")
        print(f"(a) {prompter.name}, one encoding, {POINTS} points, {ANCHORS} masks")
        proposals = ours(prompter, image, points)
        whole, prompts = prompter.seconds  # type: ignore[attr-defined]
        if options.bfloat16:
            few = SamPrompter(weights, "cpu", dtype=torch.bfloat16)
            print(f"(a) {few.name}, which is not chosen on a processor")
            some = np.arange(0, POINTS, 15)
            answers = ours(few, image, points).masks(some)
            agree = [overlap(*pair) for pair in zip(answers, proposals.masks(some), strict=True)]
            print(f"  masks agree with float32 at IoU {np.mean(agree):.4f}, least {np.min(agree):.4f}", flush=True)

    print("(b) SamPredictor, point by point")
    predictor = SamPredictor(theirs)
    began = time.perf_counter()
    predictor.set_image(image)
    encoding = time.perf_counter() - began
    # Not the first: it makes what the later ones find ready.
    predictor.predict(points[:1, ::-1], np.ones(1))
    asked = np.linspace(0, POINTS - 1, min(options.loop, POINTS)).astype(int)
    spent, agree, apart = 0.0, [], 0.0
    for number, mask in zip(asked, proposals.masks(asked), strict=True):
        began = time.perf_counter()
        masks, qualities, _ = predictor.predict(points[number : number + 1, ::-1], np.ones(1))
        spent += time.perf_counter() - began
        agree.append(overlap(masks[qualities.argmax()], mask))
        apart = max(apart, abs(float(qualities.max()) - proposals.scores[number]))
    loop = spent / len(asked) * POINTS
    print(f"  encoder {encoding:7.2f} s")
    print(f"  points  {loop:7.2f} s ({1000 * loop / POINTS:.1f} ms a point, from {len(asked)} points)")
    print(f"  whole   {encoding + loop:7.2f} s: {(encoding + loop) / whole:.1f} times ours")
    print(f"  after the encoding {loop / prompts:.1f} times ours")
    print(
        f"  masks agree at IoU {np.mean(agree):.5f}, least {np.min(agree):.5f}; qualities within {apart:.1e}",
        flush=True,
    )

    if not options.no_grid:
        print(f"(c) SamAutomaticMaskGenerator, {GRID}×{GRID} points")
        began = time.perf_counter()
        SamAutomaticMaskGenerator(theirs, points_per_side=GRID).generate(image)
        spent = time.perf_counter() - began
        print(f"  whole   {spent:7.2f} s: {spent / whole:.1f} times ours")


if __name__ == "__main__":
    main()
