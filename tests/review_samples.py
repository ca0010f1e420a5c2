"""Studies with changes that no network had to make: nuclei in the bundled sample, and images of two classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.datasets import SAMPLE_MAJORS, SAMPLE_RARE, Dataset, load_sample, open_any
from napari_histomix.records import KEEP, Candidate, Change, Location, SourceRef
from napari_histomix.sampling import nucleus_locations
from napari_histomix.study import Study

SIDE = 21


def nucleus_change(
    candidate: Candidate,
    instance: int,
    row: int,
    col: int,
    pixels: NDArray[np.uint8],
    origin: NDArray[np.uint8],
    *,
    nucleus: NDArray[np.bool_] | None = None,
    method: str = "copypaste",
    seed: int | None = None,
    provenance: dict[str, Any] | None = None,
) -> Change:
    """A nucleus of the donor's class on a candidate location; the candidate's rank is its id."""
    target, donor, rank = candidate.target, candidate.donor, candidate.rank
    nucleus = origin == 1 if nucleus is None else nucleus
    return Change(
        rank,
        target.image,
        target.image,
        row,
        col,
        pixels,
        origin,
        np.where(nucleus, instance, KEEP).astype(np.int32),
        {instance: donor.type},
        (target.instance,) if target.instance else (),
        None,
        method,
        rank if seed is None else seed,
        (SourceRef.of("target", target), SourceRef.of("donor", donor)),
        candidate.percentile,
        provenance or {},
    )


def add_run(study: Study, changes: Sequence[Change], done: bool = True) -> int:
    """Write changes into a study as one run of their method."""
    run = study.begin_run(changes[0].method, {})
    study.add_changes(run.id, changes)
    if done:
        study.end_run(run.id)
    return run.id


def copied(dataset: Dataset, candidate: Candidate, instance: int, sampler: str) -> Change:
    """A round piece of the donor, a painted ring around it, in the middle of a square patch."""
    target, donor = (dataset.read(place.image) for place in (candidate.target, candidate.donor))
    rows, cols = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    radius = np.hypot(rows, cols)
    origin = np.select([radius < 6, radius < 9], [1, 2], 0).astype(np.uint8)
    (top, left), (source_top, source_left) = (
        (round(place.row) - SIDE // 2, round(place.col) - SIDE // 2) for place in (candidate.target, candidate.donor)
    )
    pixels = target.pixels[top : top + SIDE, left : left + SIDE].copy()
    piece = donor.pixels[source_top : source_top + SIDE, source_left : source_left + SIDE]
    pixels[origin == 1] = piece[origin == 1]
    pixels[origin == 2] = pixels[origin == 2] // 2 + piece[origin == 2] // 2
    facts = {"sampler": sampler, "model": "none", "quarter_turns": 0}
    return nucleus_change(candidate, instance, top, left, pixels, origin, provenance=facts)


def make_review_study(folder: Path, count: int = 12) -> Study:
    """Small nuclei replaced in all images in turn, made in two runs with different samplers."""
    dataset = load_sample()
    rare = dataset.class_number(SAMPLE_RARE)
    majors = tuple(dataset.class_number(name) for name in SAMPLE_MAJORS)
    donors: list[Location] = []
    targets: dict[str, list[Location]] = {}
    for entry in dataset.training:
        image = dataset.read(entry)
        height, width = image.instances.shape
        for place in nucleus_locations(image, (rare,), majors):
            if min(place.row, place.col, height - place.row, width - place.col) <= SIDE:
                continue
            pixels = np.argwhere(image.instances == place.instance)
            if np.abs(pixels - (round(place.row), round(place.col))).max() > SIDE // 2:
                continue
            here = targets.setdefault(place.image, [])
            if place.kind == "rare":
                donors.append(place)
            elif all(max(abs(other.row - place.row), abs(other.col - place.col)) > SIDE for other in here):
                here.append(place)
    in_turn = [place for round_ in zip(*targets.values(), strict=False) for place in round_]
    candidates = tuple(
        Candidate(rank, place, donors[(rank * rank) % len(donors)], -float(rank), 95.0 - 90 * rank / count)
        for rank, place in enumerate(in_turn[:count])
    )
    assert len(candidates) == count
    study = Study.create(folder, dataset.root, dataset.name)
    study.set_candidates(candidates, {"effective_sample_size": 42.0, "warnings": [], "method": "copypaste"})
    half = count // 2
    made = [copied(dataset, each, 1000 + each.rank, "fast" if each.rank < half else "paper") for each in candidates]
    for part in filter(None, (made[:half], made[half:])):
        add_run(study, part)
    return study


def make_class_images(root: Path, side: int = 96) -> Dataset:
    """Four images of two classes, of one size, cut out of the bundled sample."""
    sample = load_sample()
    root.mkdir(parents=True)
    with (root / "images.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "class", "patient", "mpp"])
        for number, kind in enumerate(("benign", "benign", "tumor", "tumor")):
            name = f"{kind}/{'abcd'[number]}.png"
            (root / name).parent.mkdir(exist_ok=True)
            Image.fromarray(sample.read(sample.entries[number]).pixels[:side, :side]).save(root / name)
            table.writerow([name, kind, f"P{number}", 0.5])
    return open_any(root)


def mixed(dataset: Dataset, number: int, image: str, other: str, share: float = 0.75) -> Change:
    """An image derived from another: its right part is that of a second image."""
    target, donor = dataset.read(image), dataset.read(other)
    pixels, origin = target.pixels.copy(), np.zeros(target.instances.shape, np.uint8)
    border = round(share * origin.shape[1])
    pixels[:, border:], origin[:, border:] = donor.pixels[:, border:], 1
    shares = {target.kind: share, donor.kind: 1 - share} if target.kind != donor.kind else {target.kind: 1.0}
    sources = SourceRef("target", image), SourceRef("donor", other)
    facts = {"sources": {"target": {}, "donor": {}}}
    name = f"{image} cutmix {number}"
    return Change(
        number, image, name, 0, 0, pixels, origin, None, {}, (), shares, "cutmix", number, sources, provenance=facts
    )


def make_class_study(folder: Path, count: int = 6) -> Study:
    """A study of images derived from images with a class each; the dataset lies beside it."""
    dataset = make_class_images(folder.parent / "patches")
    names = [entry.source.image for entry in dataset.entries]
    study = Study.create(folder, dataset.root, dataset.name)
    pairs = [(names[at % 4], names[(at + 1 + at // 4) % 4]) for at in range(count)]
    add_run(study, [mixed(dataset, number, *pair) for number, pair in enumerate(pairs)])
    return study
