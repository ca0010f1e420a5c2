"""Synthetic nuclei that no network made: real outlines, filled with noise; and a study of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from review_samples import add_run, nucleus_change
from scipy import ndimage

from napari_histomix.datasets import Dataset, load_sample
from napari_histomix.records import Candidate, Change, LabeledImage, Location
from napari_histomix.study import Study

MARGIN = 40


def locate(image: LabeledImage, number: int) -> Location:
    """Where a nucleus is."""
    rows, cols = np.nonzero(image.instances == number)
    center = float(rows.mean()), float(cols.mean())
    return Location(image.source.image, "major", *center, number, image.types[number], len(rows))


def placed(image: LabeledImage, rank: int, donor: Location) -> Change:
    """A nucleus of the donor's class in the place of another, in noise, with a ring that counts as inpainted."""
    rows, cols = image.instances.shape
    inner = (locate(image, number) for number, kind in image.types.items() if kind != donor.type)
    where = next(
        one for one in inner if MARGIN < one.row < rows - MARGIN and MARGIN < one.col < cols - MARGIN and one.area > 60
    )
    at = np.nonzero(image.instances == where.instance)
    window = slice(at[0].min() - 4, at[0].max() + 5), slice(at[1].min() - 4, at[1].max() + 5)
    here = image.instances[window]
    nucleus = here == where.instance
    ring = ndimage.binary_dilation(nucleus, iterations=3) & (here == 0)
    origin = np.where(nucleus, 1, np.where(ring, 2, 0)).astype(np.uint8)
    pixels = np.random.default_rng(rank).integers(0, 256, (*here.shape, 3), dtype=np.uint8)
    candidate = Candidate(rank, where, donor, -1.5, 50.0)
    made = {"sampler": "fast", "model": "small", "model_sha256": "0" * 64}
    corner = int(window[0].start), int(window[1].start)
    number = max(image.types) + 1
    about = {"nucleus": nucleus, "method": "nucleimix", "seed": 7, "provenance": made}
    return nucleus_change(candidate, number, *corner, pixels, origin, **about)


def placed_sample() -> tuple[Dataset, tuple[Change, ...]]:
    """The bundled sample, and a lymphocyte in each of its first four images."""
    dataset = load_sample()
    rare = dataset.class_number("lymphocyte")
    images = [dataset.read(entry) for entry in dataset.training[:4]]
    giver = next(image for image in images if rare in image.types.values())
    donor = locate(giver, next(number for number, kind in giver.types.items() if kind == rare))
    return dataset, tuple(placed(image, rank, donor) for rank, image in enumerate(images))


def placed_study(folder: Path) -> Study:
    """A study of the sample: two changes are approved, one is rejected, one is undecided."""
    dataset, changes = placed_sample()
    study = Study.create(folder, dataset.root, dataset.name)
    run = add_run(study, changes)
    study.set_plan(run, 7, {"no room": 3})
    study.reviewer = "Ann"
    study.decide("change", [0, 2], "approve")
    study.decide("change", [1], "reject")
    return study
