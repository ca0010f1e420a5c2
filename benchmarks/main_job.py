"""How long the main job takes: candidates, fast and paper placements, and the memory all of it needs.

    python benchmarks/main_job.py DATASET --rare NAME

Prints a Markdown table. Run it on an otherwise idle machine; ratios within one run are what compares.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from napari_histomix.datasets import Dataset, open_dataset
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.models import InpaintingModel
from napari_histomix.jobs import run
from napari_histomix.methods.candidate_stage import CandidateSet, CandidateSettings, find_candidates
from napari_histomix.methods.nucleimix import NucleiMixSettings
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.weights import bundled


def synthesize(dataset: Dataset, found: CandidateSet, model: InpaintingModel, **settings: Any) -> tuple[float, float]:
    """Seconds of planning, and of making and keeping a nucleus, over replacements alone: each needs both stages."""
    majors = [candidate for candidate in found.candidates if candidate.target.kind == "major"]
    with tempfile.TemporaryDirectory() as folder:
        study = Study.create(Path(folder) / "study", dataset.root, dataset.name)
        study.set_candidates(majors, found.facts)
        began = time.perf_counter()
        planned = None
        job = run("nucleimix", dataset, NucleiMixSettings(**settings), study, loaded=model)
        while True:
            try:
                event = next(job)
            except StopIteration as end:
                made = len(end.value.ids)
                break
            if planned is None and event.phase.startswith(("Erasing", "Blending")):
                planned = time.perf_counter()
        finished = time.perf_counter()
    return ((planned or finished) - began) / made, (finished - (planned or finished)) / made


def memory() -> float:
    """Peak resident memory of this process in GB."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rare", required=True)
    parser.add_argument("--fast", type=int, default=64, help="fast placements")
    parser.add_argument("--paper", type=int, default=3, help="placements with the paper's sampler")
    options = parser.parse_args()
    dataset = open_dataset(options.dataset)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {dataset.name}\n")
    print("| what | result |\n|---|---|")

    began = time.perf_counter()
    found = drain(find_candidates(dataset, CandidateSettings(rare=(options.rare,))))
    seconds = time.perf_counter() - began
    print(f"| candidates, {found.considered.total():,} locations | {seconds:.0f} s |")
    print(f"| peak memory so far | {memory():.2f} GB |", flush=True)

    model = load_model(bundled())
    synthesize(dataset, found, model, count=2)
    planning, fast = synthesize(dataset, found, model, sampler="fast", count=options.fast, batch=16)
    print(f"| planning | {planning:.3f} s a placement |")
    print(f"| fast, both stages, {options.fast} placements, batches of 16 | {fast:.2f} s a placement |", flush=True)
    _, paper = synthesize(dataset, found, model, sampler="paper", count=options.paper, batch=1)
    print(f"| paper, both stages, {options.paper} placements, one at a time | {paper:.1f} s a placement |")
    print(f"| paper / fast | {paper / fast:.0f} |")
    print(f"| peak memory | {memory():.2f} GB |")


if __name__ == "__main__":
    main()
