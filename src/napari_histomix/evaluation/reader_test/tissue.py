"""Crops of synthetic tissue for a reader test, and for each one out of a real image of the same class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.reader_test.nuclei import made_by
from napari_histomix.evaluation.reader_test.specimens import (
    CROSSES_EDGE,
    GENUINE,
    NO_PARTNER,
    NOT_READ,
    SHOWN_ALREADY,
    Drawn,
    ReaderTestSettings,
    Specimen,
    Square,
    cluster_of,
    crop_side,
    drawn,
    shortage,
)
from napari_histomix.records import REAL, Change, Event, HistomixError, Job, LabeledImage
from napari_histomix.stains import is_tissue

LEAST_NEW = 0.2
"""Share of a synthetic crop that must not be its target's own pixels."""
LEAST_TISSUE = 0.5
"""Share of tissue in any crop."""
TRIES = 50
TOO_LITTLE = "no crop of it shows enough that is new"


def draw_tissue(dataset: Dataset, changes: Sequence[Change], settings: ReaderTestSettings) -> Job[Drawn]:
    """Draw crops of synthetic tissue, and as many of real images of the same class and scale; a long job.

    A crop lies anywhere on tissue; a synthetic one shows at least ``LEAST_NEW`` that is new. Every real image gives one
    crop at most, and none to a test that shows a synthetic image made from it. Images that gave donors to a synthetic
    image that is shown are taken only after the others.

    Parameters
    ----------
    dataset : Dataset
    changes : sequence of Change
        Derived images. Read one at a time.
    settings : ReaderTestSettings

    Raises
    ------
    HistomixError
        If not one pair can be shown.
    """
    rng = np.random.default_rng([settings.seed, 2])
    scales = {entry.source.image: entry.mpp for entry in dataset.training if entry.mpp is not None}
    side = crop_side(settings.tissue_um, float(np.median(list(scales.values())))) if scales else 0
    targets: set[str] = set()
    used: set[str] = set()
    given: Counter[str] = Counter()
    specimens: list[Specimen] = []
    refusals: Counter[str] = Counter()
    for index in rng.permutation(len(changes)):
        if len(specimens) == 2 * settings.per_kind:
            break
        yield Event("Choosing crops", len(specimens) // 2, settings.per_kind)
        change = changes[int(index)]
        if change.image not in scales:
            refusals[NOT_READ] += 1
            continue
        # Two synthetic images of one target show the same real tissue around what was replaced.
        if change.image in targets or change.image in used:
            refusals[SHOWN_ALREADY] += 1
            continue
        if min(change.origin.shape) < side:
            refusals[CROSSES_EDGE] += 1
            continue
        square = _square(change.image, change.pixels, side, rng, change.origin != REAL)
        if square is None:
            refusals[TOO_LITTLE] += 1
            continue
        donors = {source.image for source in change.sources if source.role == "donor"}
        partner = _partner(dataset, change, {*targets, *used}, given + Counter(donors), side, rng)
        if partner is None:
            refusals[NO_PARTNER] += 1
            continue
        image, real_square = partner
        targets.add(change.image)
        used.add(image.source.image)
        given.update(donors)
        facts = {
            "name": change.name,
            "seed": change.seed,
            "new_area": round(change.new_area, 4),
            "donors": sorted(donors),
        }
        cluster = cluster_of(dataset.entry(change.image).source)
        specimens.append(_specimen(change.pixels, square, kind_of(change), made_by(change), cluster, facts))
        specimens.append(_specimen(image.pixels, real_square, kind_of(change), GENUINE, cluster_of(image.source), {}))
    yield shortage(len(specimens) // 2, settings.per_kind, refusals)
    return drawn(specimens, refusals)


def kind_of(change: Change) -> str:
    """The class of an image that was made: that of its largest share."""
    shares = change.class_shares or {"": 1.0}
    return max(shares, key=shares.__getitem__)


def _square(
    name: str, pixels: NDArray[np.uint8], side: int, rng: np.random.Generator, new: NDArray[np.bool_] | None = None
) -> Square | None:
    """A crop on tissue, with enough that is new where ``new`` (H, W) says what is; None where none is found."""
    height, width = pixels.shape[:2]
    for _ in range(TRIES):
        square = Square(name, int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side)
        if is_tissue(pixels[square.window]).mean() >= LEAST_TISSUE and (
            new is None or new[square.window].mean() >= LEAST_NEW
        ):
            return square
    return None


def _partner(
    dataset: Dataset,
    change: Change,
    shown: set[str],
    donors: Counter[str],
    side: int,
    rng: np.random.Generator,
) -> tuple[LabeledImage, Square] | None:
    mpp = dataset.entry(change.image).mpp
    possible = [
        entry
        for entry in dataset.training
        if not entry.synthetic
        and entry.kind == kind_of(change)
        and entry.mpp == mpp
        and entry.source.image not in {*shown, change.image}
    ]
    order = [possible[index] for index in rng.permutation(len(possible))]
    for entry in sorted(order, key=lambda entry: donors[entry.source.image] > 0):
        try:
            image = dataset.read(entry)
        except HistomixError:
            # One image that cannot be read is one real crop less to choose from.
            continue
        if min(image.pixels.shape[:2]) >= side:
            square = _square(entry.source.image, image.pixels, side, rng)
            if square is not None:
                return image, square
    return None


def _specimen(
    pixels: NDArray[np.uint8], square: Square, kind: str, method: str, cluster: str, facts: Mapping[str, Any]
) -> Specimen:
    where = {"image": square.image, "row": square.row, "col": square.col, **facts}
    return Specimen(pixels[square.window].copy(), None, kind, method, cluster, where)
