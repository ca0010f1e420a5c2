"""A whole method: it stamps colored discs on free places. docs/architecture.md shows this file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from napari_histomix.datasets.image_facts import image_facts
from napari_histomix.methods.base import Ingredients, Method, Needs, Plan, Work
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, KEEP, REAL, Change, Event, Job, SourceRef
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
    """A disc before it is stamped."""

    id: int
    image: str
    row: int
    col: int


class Stamps(Method[StampSettings, Stamp]):
    """Discs on free places, by the order in which places are drawn."""

    name, title, makes = "stamps", "Stamps", "colored discs on free places, as the first class."
    needs, settings = Needs(instances=True), StampSettings

    def plan(self, work: Work, settings: StampSettings) -> Job[Plan[Stamp]]:
        rng, stamps, refusals = np.random.default_rng(settings.seed), [], Counter()
        side = int(settings.radius)
        taken = {change.image: [] for change in work.before()}
        for change in work.before():
            taken[change.image].append((change.row + side, change.col + side))
        images = {entry.source.image: work.dataset.read(entry) for entry in work.dataset.training}
        for _ in range(50 * settings.count):
            if len(stamps) == settings.count:
                break
            yield Event("Choosing places", len(stamps), settings.count)
            name = sorted(images)[rng.integers(len(images))]
            height, width = images[name].instances.shape
            row, col = (int(rng.integers(side + 1, size - side - 1)) for size in (height, width))
            there = images[name].instances[row - side - 1 : row + side + 2, col - side - 1 : col + side + 2]
            others = taken.setdefault(name, [])
            if there.any() or any(max(abs(row - r), abs(col - c)) <= 2 * side + 2 for r, c in others):
                refusals["the place is not free"] += 1
                continue
            others.append((row, col))
            stamps.append(Stamp(len(stamps), name, row, col))
        return Plan(stamps, settings.count, refusals)

    def make(self, work: Work, items: Sequence[Stamp], settings: StampSettings) -> Job[None]:
        side = int(settings.radius)
        rows, cols = np.mgrid[-side : side + 1, -side : side + 1]
        disc = rows**2 + cols**2 <= settings.radius**2
        color = {"green": (0, 200, 0), "blue": (0, 0, 200)}[settings.color]
        for done, stamp in enumerate(items):
            image, new, kind = work.dataset.read(stamp.image), 10_000 + work.first + stamp.id, work.dataset.classes[0]
            yield Event("Stamping", done, len(items), made=(Change(
                work.first + stamp.id, stamp.image, stamp.image, stamp.row - side, stamp.col - side,
                np.where(disc[..., None], color, 0).astype(np.uint8), np.where(disc, DONOR, REAL).astype(np.uint8),
                np.where(disc, new, KEEP).astype(np.int32), {new: kind.number}, (), None, self.name, settings.seed,
                (SourceRef("target", stamp.image, row=stamp.row, col=stamp.col),),
                provenance={"settings": plain(settings), "place": [stamp.id, stamp.row, stamp.col],
                            "sources": {"target": image_facts(image)}},
            ),))  # fmt: skip

    def recall(self, record: Record, ingredients: Ingredients) -> Stamp:
        number, row, col = record.provenance["place"]
        return Stamp(number, record.image, row, col)


METHOD = Stamps()
