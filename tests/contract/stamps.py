"""A whole method: it stamps colored discs on free places. docs/architecture.md shows this file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from napari_histomix.datasets.pixels import image_facts
from napari_histomix.methods.base import Ingredients, Method, Needs, Plan, Work
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, KEEP, REAL, Change, Event, Job, SourceRef
from napari_histomix.sampling import background_locations
from napari_histomix.settings import Option, Seed, plain


@dataclass(frozen=True)
class StampSettings:
    """How discs are stamped."""

    count: Annotated[int, Option("How many discs to stamp.", low=1, high=10_000, flags=("-k",))] = 5
    radius: Annotated[float, Option("Radius of a disc.", low=1.0, high=50.0, unit="px")] = 4.0
    color: Annotated[str, Option("Color of the discs.", choices={"green": "Green", "blue": "Blue"})] = "green"
    seed: Seed = 0


@dataclass(frozen=True)
class Stamp:
    """A disc before it is stamped: its number in the plan, its image and the upper left corner of its box."""

    id: int
    image: str
    row: int
    col: int


class Stamps(Method[StampSettings, Stamp]):
    """Discs on free places, image by image."""

    name, title, makes = "stamps", "Stamps", "colored discs on free places, as the first class."
    needs, settings = Needs(instances=True), StampSettings

    def plan(self, work: Work, settings: StampSettings) -> Job[Plan[Stamp]]:
        stamps, refusals, side = [], Counter(), int(settings.radius)
        taken = [(change.image, change.row, change.col) for change in work.before()]
        for number, entry in enumerate(work.dataset.training):
            yield Event("Choosing places", len(stamps), settings.count)
            rng, image = np.random.default_rng([settings.seed, number]), work.dataset.read(entry)
            for place in background_locations(image, settings.count, 1.5 * side + 2, rng):
                corner = (image.source.image, int(place.row) - side, int(place.col) - side)
                near = [
                    max(abs(a - b) for a, b in zip(corner[1:], box[1:], strict=True))
                    for box in taken
                    if box[0] == corner[0]
                ]
                if min(near, default=99) <= 2 * side + 1:
                    refusals["another disc is near"] += 1
                elif len(stamps) < settings.count:
                    stamps.append(Stamp(len(stamps), *corner))
                    taken.append(corner)
        return Plan(stamps, settings.count, refusals)

    def make(self, work: Work, items: Sequence[Stamp], settings: StampSettings) -> Job[None]:
        rows, cols = np.mgrid[-int(settings.radius) : settings.radius + 1, -int(settings.radius) : settings.radius + 1]
        disc = rows**2 + cols**2 <= settings.radius**2
        pixels = np.where(disc[..., None], (0, 200, 0) if settings.color == "green" else (0, 0, 200), 0).astype(
            np.uint8
        )
        for done, stamp in enumerate(items):
            image, new = work.dataset.read(stamp.image), 10_000 + work.first + stamp.id
            yield Event("Stamping", done, len(items), made=(Change(
                work.first + stamp.id, stamp.image, stamp.image, stamp.row, stamp.col, pixels,
                np.where(disc, DONOR, REAL).astype(np.uint8), np.where(disc, new, KEEP).astype(np.int32),
                {new: work.dataset.classes[0].number}, (), None, self.name, settings.seed,
                (SourceRef("target", stamp.image),), provenance={
                    "method": self.title, "settings": plain(settings), "place": [stamp.id, stamp.row, stamp.col],
                    "sources": {"target": image_facts(image)}},
            ),))  # fmt: skip

    def recall(self, record: Record, ingredients: Ingredients) -> Stamp:
        number, row, col = record.provenance["place"]
        return Stamp(number, record.image, row, col)


METHOD = Stamps()
