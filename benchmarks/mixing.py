"""How long a mix of tissue takes, along seams and in the paper's form, and what it is made of.

    python benchmarks/mixing.py DATASET STUDY [--images 4] [--outline seam segment]

STUDY has the segment pool of DATASET (``histomix pool build``). Prints a table: for each form the seconds of planning,
pasting and painting an image, its new and its painted share, and donors refused for each replacement that was made.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from napari_histomix.datasets import open_any
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.methods.mixing import USegMixSettings, plan_mixes
from napari_histomix.methods.usegmix import compose, make_mix
from napari_histomix.records import INPAINTED, drain
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.weights import bundled

NEW_AREA = (0.29, 0.31)
"""About the same in both forms, so that they can be compared."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--images", type=int, default=4, help="synthetic images of each class")
    parser.add_argument("--outline", nargs="+", default=["seam", "segment"], choices=["seam", "segment"])
    parser.add_argument("--new-area", nargs=2, type=float, default=NEW_AREA)
    options = parser.parse_args()
    dataset, pool, model = open_any(options.dataset), SegmentPool(options.study), load_model(bundled())
    members = {kind: np.flatnonzero(pool.image_kinds == place) for place, kind in enumerate(pool.kinds)}
    print("| outline | images | planning, s | pasting, s | painting, s | new | painted | refusals each |")
    print("|---|---|---|---|---|---|---|---|")
    for outline in options.outline:
        settings = USegMixSettings(
            per_class=options.images, outline=outline, new_area=tuple(options.new_area), device="cpu"
        )
        start = time.perf_counter()
        plan = drain(plan_mixes(dataset, pool, members, settings))
        planning = time.perf_counter() - start
        pasting = painting = new = painted = 0.0
        # Libraries are loaded at the first use of a network.
        for item in plan.items[:1]:
            drain(make_mix(dataset, pool, item, settings, model))
        for item in plan.items:
            start = time.perf_counter()
            names = {item.image, *(pool.image(exchange.donor).source.image for exchange in item.exchanges)}
            images = {name: dataset.read(name) for name in names}
            compose(images[item.image], pool, item.exchanges, images, settings.stain_matching)
            pasted = time.perf_counter()
            change = drain(make_mix(dataset, pool, item, settings, model))
            pasting += pasted - start
            # Making pastes once more.
            painting += time.perf_counter() - pasted - (pasted - start)
            new += change.new_area
            painted += float((change.origin == INPAINTED).mean())
        count = max(1, len(plan.items))
        made = max(1, sum(len(item.exchanges) for item in plan.items))
        cells = [f"{value / count:.2f}" for value in (planning, pasting, painting)]
        shares = f"{new / count:.0%} | {painted / count:.1%} | {plan.refusals.total() / made:.1f}"
        print(f"| {outline} | {len(plan.items)} | {' | '.join(cells)} | {shares} |")


if __name__ == "__main__":
    main()
