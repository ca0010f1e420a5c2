"""What a trained model says of itself: ``histomix.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from napari_histomix.diffusion.model_files import read_card
from napari_histomix.diffusion.recipes import Kind, TrainingSettings
from napari_histomix.diffusion.training_images import Picture, fingerprints

WHAT = {
    "inpainter": "An inpainting network for H&E windows. Input: 7 channels (noisy RGB, known RGB with the hole at 0, "
    "mask). Output: v-prediction.",
    "autoencoder": "An autoencoder for H&E windows: a quarter of the pixels a side, four channels.",
    "latent": "An inpainting network on the latents of an autoencoder, with it, as a diffusers LDMPipeline folder. "
    "Input: known latents and mask beside the noisy ones. Output: v-prediction.",
}


def run_facts(
    kind: Kind,
    settings: TrainingSettings,
    learned: Sequence[Picture],
    checked: Sequence[Picture],
    start: Path | None,
    autoencoder: Path | None,
    device: str,
    processes: int,
) -> dict[str, Any]:
    """What the card says beyond name, scale and hash. Folder names only: paths may tell too much.

    Images that trained what the network starts from or is built on trained this one, too.
    """
    earlier = [read_card(path).get("training_pixels", []) for path in (start, autoencoder) if path]
    folders = sorted({one.folder for one in [*learned, *checked]})
    to_learn, to_check = (Counter(one.folder for one in some) for some in (learned, checked))
    return {
        "kind": kind,
        "training_images": {folder: to_learn[folder] for folder in folders},
        "validation_images": {folder: to_check[folder] for folder in folders},
        "validation_slides": sorted({one.slide for one in checked}),
        "started_from": start.name if start else None,
        "recipe": asdict(settings),
        "device": device,
        "processes": processes,
        "training_pixels": sorted({*fingerprints(learned), *chain.from_iterable(earlier)}),
    }


def readme_of(name: str, kind: Kind, mpp: tuple[float, float], card: Mapping[str, Any]) -> str:
    """The model card a person reads."""
    best, last = card["best"], card["history"][-1]
    rows = "\n".join(
        f"| {folder} | {count:,} | {card['validation_images'][folder]:,} |"
        for folder, count in card["training_images"].items()
    )
    curve = "\n".join(f"| {one['step']} | {one['minutes']} | {one['validation']:.4f} |" for one in card["history"])
    return (
        f"# {name}\n\n{WHAT[kind]} For napari-histomix. Research use; not for diagnosis.\n\n"
        f"Scale: {mpp[0]}–{mpp[1]} µm/px.\n\n"
        f"## Data\n\n| images | to learn from | to check on |\n|---|---|---|\n{rows}\n\n"
        "Whole slides are held out (`validation_slides` in `histomix.json`); `training_pixels` there lists the SHA-256 "
        "of every image learned from, also by what it started from. The images' licenses govern what "
        "these weights may be used for.\n\n"
        f"## Recipe\n\nStarted from: {card['started_from'] or 'random weights'}. {int(last['step'])} steps in "
        f"{last['minutes']} minutes on {card['device']}, {card['processes']} process(es). Settings are in "
        f"`histomix.json`.\n\n## Figures\n\nThese weights: step {int(best['step'])}, the lowest validation loss, "
        f"{best['validation']:.4f}.\n\n| step | minutes | validation loss |\n|---|---|---|\n{curve}\n"
    )
