"""How long it takes to plan a placement of NucleiMix: geometry, stain matching, checks of appearance.

    python benchmarks/planning.py [DATASET --rare NAME] [--count 100]

The bundled sample by default. Candidates are found first and not counted. Prints a Markdown table with the time that
reading the images takes apart; candidates as they were drawn, and only those that replace a nucleus.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from napari_histomix.compositing import ImageCache, cut_donor, plan_placement
from napari_histomix.datasets import SAMPLE_RARE, Dataset, load_sample, open_dataset
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.models import InpaintingModel
from napari_histomix.methods.candidate_stage import CandidateSettings, find_candidates
from napari_histomix.methods.painting import windowed
from napari_histomix.records import Candidate, drain
from napari_histomix.weights import bundled


def plan(dataset: Dataset, candidates: Iterable[Candidate], count: int, model: InpaintingModel) -> str:
    """Plan candidates one after the other until ``count`` are placed; what it took, as columns of a table."""
    cache, donors, taken = ImageCache(dataset.read), {}, {}
    placed = tried = 0
    reading, began = 0.0, time.perf_counter()
    for candidate in candidates:
        start = time.perf_counter()
        target, source = cache.get(candidate.target.image), cache.get(candidate.donor.image)
        reading += time.perf_counter() - start
        if target is None or source is None:
            continue
        giver = candidate.donor.image, candidate.donor.instance
        if giver not in donors:
            donors[giver] = cut_donor(source, candidate.donor)
        changed = taken.setdefault(candidate.target.image, np.zeros(target.image.instances.shape, bool))
        choices = {"seed": candidate.rank, "taken": changed, "stain_matching": True, "symmetries": True}
        plan = plan_placement(target, candidate, donors[giver], **choices)
        fitted = plan if isinstance(plan, str) else windowed(plan, target.image, model)
        tried += 1
        if not isinstance(fitted, str):
            changed[fitted.plan.window] |= fitted.plan.changed
            placed += 1
        if placed == count:
            break
    own = time.perf_counter() - began - reading
    if not placed:
        raise SystemExit("No candidate can be placed.")
    return f"{placed} | {tried} | {own / placed:.4f} s | {own / tried:.4f} s | {reading / placed:.4f} s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--rare", default=SAMPLE_RARE, help="class to grow")
    parser.add_argument("--count", type=int, default=100, help="placements planned")
    options = parser.parse_args()
    dataset = open_dataset(options.dataset) if options.dataset else load_sample()
    settings = CandidateSettings(rare=(options.rare,))
    candidates = drain(find_candidates(dataset, settings)).candidates
    model = load_model(bundled())
    groups = {
        "as drawn": candidates,
        "replacements": [candidate for candidate in candidates if candidate.target.kind == "major"],
    }
    print(f"{dataset.name}, {len(candidates):,} candidates\n")
    print("| candidates | placed | tried | planning, a placement | planning, a candidate | reading, a placement |")
    print("|---|---|---|---|---|---|")
    for name, group in groups.items():
        print(f"| {name} | {plan(dataset, group, options.count, model)} |", flush=True)


if __name__ == "__main__":
    main()
