"""Synthetic nuclei in the bundled sample, by the real planning and a fill that needs no network; simulated readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from sample_changes import nucleus_change, study_of

from napari_histomix.compositing.donors import cut_donor, donor_flaw
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.planning import plan_placement
from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.reader_test.folder import ReaderTest, Truth
from napari_histomix.evaluation.reader_test.reading import Reading
from napari_histomix.records import Candidate, Change
from napari_histomix.sampling import background_locations, nucleus_locations
from napari_histomix.study import Study


def make_changes(dataset: Dataset, kind: str = "tumor", each: int = 8, first: int = 0) -> list[Change]:
    """At most ``each`` nuclei of a class on free tissue of every training image, from donors of that image."""
    number = dataset.class_number(kind)
    made: list[Change] = []
    for entry in dataset.training:
        image = dataset.read(entry)
        rng = np.random.default_rng(len(made))
        indexed = IndexedImage(image)
        donors = [one for one in nucleus_locations(image, (number,), ()) if donor_flaw(indexed, one) is None]
        taken = np.zeros(image.instances.shape, bool)
        here = 0
        for place in background_locations(image, 400, 8, rng):
            if not donors or here == each:
                break
            rank = first + len(made)
            donor = donors[rank % len(donors)]
            candidate = Candidate(rank, place, donor, -1.0 - rank, 50.0)
            crop = cut_donor(indexed, donor)
            plan = plan_placement(
                indexed, candidate, crop, seed=rank, taken=taken, stain_matching=False, symmetries=True
            )
            if isinstance(plan, str):
                continue
            here += 1
            taken[plan.window] |= plan.changed
            pixels = image.pixels[plan.window].copy()
            pixels[plan.donor] = plan.donor_pixels[plan.donor]
            pixels = cv2.inpaint(pixels, plan.blended.astype(np.uint8), 3, cv2.INPAINT_TELEA)
            origin = np.where(plan.donor, 1, np.where(plan.blended, 2, 0)).astype(np.uint8)
            pixels[origin == 0] = 0
            made.append(
                nucleus_change(
                    candidate,
                    int(image.instances.max()) + here,
                    (plan.row, plan.col),
                    pixels,
                    origin,
                    plan.nucleus,
                    {"method": "NucleiMix", "sampler": "fast", "model": "none", "model_sha256": ""},
                    seed=rank,
                )
            )
    return made


def make_reader_study(folder: Path, dataset: Dataset, changes: Sequence[Change], approved: int) -> Study:
    """A study that holds these changes, the first of them approved."""
    study = study_of(folder, dataset, changes)
    study.decide("change", [change.id for change in changes[:approved]], "approve")
    return study


def read_all(test: ReaderTest, reader: str, answer: Callable[[int], int], seconds: float = 2.0) -> None:
    """Answer every crop of a test, each after ``seconds`` by a clock of its own."""
    now = [0.0]
    reading = Reading(test, reader, lambda: now[0])
    reading.resume()
    while reading.current is not None:
        now[0] += seconds
        reading.answer(answer(reading.current))
    reading.close()


def guessing(seed: int) -> Callable[[int], int]:
    rng = np.random.default_rng(seed)
    return lambda _crop: int(rng.integers(1, 5))


def knowing(truths: Sequence[Truth]) -> Callable[[int], int]:
    return lambda crop: 4 if truths[crop].synthetic else 1
