"""How long the bundled generators and the segmenter take, and the papers' recipe on the same weights.

    python benchmarks/generators.py [--device cpu] [--side 256] [--times 3] [--paper 8]

Layouts and tissue are windows of the bundled sample, mirrored where they are too small. Medians of several times, each
in turn, after one that is not counted. The papers' recipe, 1,000 ancestral steps of each network, is timed over a few
steps and multiplied. Ratios within one run are what compares.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from napari_histomix.datasets import load_sample
from napari_histomix.generation import structure_model
from napari_histomix.generation.image_model import paint, paint_inside
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import LayoutSettings, Recombiner
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.pix2pix import render
from napari_histomix.generation.presets import PRESETS, PaintSettings
from napari_histomix.generation.segmenting import segment
from napari_histomix.records import LabeledImage, drain, instance_ids

MPP = 0.5
SHARES = {"lymphocyte": 0.3, "tumor": 0.5, "stromal": 0.2}
PAPER_STEPS = 1000


def large(image: LabeledImage, side: int) -> LabeledImage:
    """An image mirrored until it has at least ``side`` pixels along both axes, its instance map with it."""
    rows, cols = (max(0, side - length) for length in image.instances.shape)
    pixels = np.pad(image.pixels, ((0, rows), (0, cols), (0, 0)), mode="symmetric")
    return replace(image, pixels=pixels, instances=np.pad(image.instances, ((0, rows), (0, cols)), mode="symmetric"))


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Time everything in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=256, help="of pairs, in pixels at 0.5 µm/px")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--paper", type=int, default=8, help="steps of the papers' recipe that are timed")
    options = parser.parse_args()
    side, device = options.side, options.device

    sample = load_sample()
    images = [large(sample.read(entry), side) for entry in sample.training]
    recombiner = Recombiner(images, sample.all_classes)
    layout = recombiner.layout(LayoutSettings(side=side), 1)
    drawer, painter, renderer, finder = (
        load_generator("", kind) for kind in ("structure", "image", "pix2pix", "segmenter")
    )
    whole = large(images[0], 1000)
    nucleus = np.zeros((side, side), bool)
    nucleus[side // 2 - 10 : side // 2 + 10, side // 2 - 8 : side // 2 + 8] = True
    around = Layout.of(images[0], sample.all_classes)
    number = max(instance_ids(around.instances)) + 1
    window = (slice(0, side), slice(0, side))
    edited = np.where(nucleus, number, around.instances[window]).astype(np.int32)
    kept = set(instance_ids(edited))
    classes = {name: kind for name, kind in around.classes.items() if name in kept} | {number: "lymphocyte"}
    asked = Layout(edited, classes, around.mpp)
    tissue = np.ascontiguousarray(images[0].pixels[window])

    def painted(settings: PaintSettings) -> Callable[[], object]:
        return lambda: drain(paint([layout], painter, [1], settings, device=device))

    def drawn(steps: int, guidance: float, ancestral: bool = False) -> Callable[[], object]:
        choice = {"steps": steps, "guidance": guidance, "ancestral": ancestral, "shares": SHARES}
        return lambda: drain(structure_model.sample(1, side, drawer, [1], device=device, **choice))

    paper = replace(PRESETS["paper"], steps=options.paper)
    works = {
        "layout, recombined": lambda: recombiner.layout(LayoutSettings(side=side), 1),
        "layout, drawn": drawn(8, 1.0),
        **{f"image model, {name}": painted(PRESETS[name]) for name in PRESETS if name != "paper"},
        "pix2pix": lambda: drain(render([layout], renderer, device=device)),
        "a nucleus in real tissue, fast": lambda: drain(
            paint_inside(tissue, asked, nucleus, painter, 1, PRESETS["fast"], device=device)
        ),
        "segmenter, 1,000²": lambda: drain(segment(whole.pixels, MPP, finder, device)),
        "paper, layout": drawn(options.paper, 0.0, ancestral=True),
        "paper, image": painted(paper),
    }
    for work in works.values():
        seconds(work)
    took = {name: [] for name in works}
    for _ in range(options.times):
        for name, work in works.items():
            took[name].append(seconds(work))
    median = {name: float(np.median(each)) for name, each in took.items()}
    for name in ("paper, layout", "paper, image"):
        median[name] *= PAPER_STEPS / options.paper
    print(f"{side}² at {MPP} µm/px, {torch.get_num_threads()} threads\n\n| what | time |\n|---|---|")
    for name, each in median.items():
        print(f"| {name} | {each:,.2f} s |")
    recipe = median["paper, layout"] + median["paper, image"]
    for name in PRESETS:
        if name != "paper":
            for source in ("recombined", "drawn"):
                pair = median[f"layout, {source}"] + median[f"image model, {name}"]
                print(f"| a pair, {source}, {name} | {pair:,.2f} s; the papers' recipe takes {recipe / pair:,.0f}× |")
    print(f"| peak memory | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB | |")


if __name__ == "__main__":
    main()
