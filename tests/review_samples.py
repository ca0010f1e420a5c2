"""A study of the bundled sample with synthetic nuclei that no network had to make."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_histomix.datasets import SAMPLE_MAJORS, SAMPLE_RARE, Dataset, load_sample
from napari_histomix.methods.nucleimix import CandidateSet, CandidateSettings
from napari_histomix.records import Candidate, Location, Placement
from napari_histomix.sampling import nucleus_locations
from napari_histomix.study import Study

SIDE = 21


def copied(dataset: Dataset, one: Candidate, instance: int, sampler: str) -> Placement:
    """A round piece of the donor, a painted ring around it, in the middle of a square patch."""
    target, donor = (dataset.read(place.image) for place in (one.target, one.donor))
    rows, cols = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    radius = np.hypot(rows, cols)
    origin = np.select([radius < 6, radius < 9], [1, 2], 0).astype(np.uint8)
    (top, left), (source_top, source_left) = (
        (round(place.row) - SIDE // 2, round(place.col) - SIDE // 2) for place in (one.target, one.donor)
    )
    pixels = target.pixels[top : top + SIDE, left : left + SIDE].copy()
    piece = donor.pixels[source_top : source_top + SIDE, source_left : source_left + SIDE]
    pixels[origin == 1] = piece[origin == 1]
    pixels[origin == 2] = pixels[origin == 2] // 2 + piece[origin == 2] // 2
    facts = {"sampler": sampler, "model": "none", "quarter_turns": 0}
    return Placement(one, instance, top, left, pixels, origin, origin == 1, one.rank, facts)


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
            elif all(max(abs(one.row - place.row), abs(one.col - place.col)) > SIDE for one in here):
                here.append(place)
    in_turn = [place for round_ in zip(*targets.values(), strict=False) for place in round_]
    candidates = tuple(
        Candidate(rank, place, donors[(rank * rank) % len(donors)], -float(rank), 95.0 - 90 * rank / count)
        for rank, place in enumerate(in_turn[:count])
    )
    assert len(candidates) == count
    settings = CandidateSettings((rare,), majors)
    study = Study.create(folder, dataset.root, dataset.name)
    found = CandidateSet(candidates, settings, "texture", 1.0, 42.0, {}, {}, ())
    study.set_candidates(found)
    half = count // 2
    made = [copied(dataset, one, 1000 + one.rank, "fast" if one.rank < half else "paper") for one in candidates]
    study.add_placements(made[:half])
    study.add_placements(made[half:])
    return study
