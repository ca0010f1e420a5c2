"""Methods that make something at once: a donor laid on a nucleus, two images blended, a new image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from scipy import ndimage

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.methods import register
from napari_histomix.methods.base import Ingredients, Method, Needs, Plan, Work, _Nothing
from napari_histomix.methods.record import Record
from napari_histomix.records import KEEP, Change, Event, Job, LabeledImage, SourceRef, drain
from napari_histomix.settings import Option, Seed, plain

REACH = 12
"""Half a side of what is copied."""


@dataclass(frozen=True)
class ToySettings:
    count: Annotated[int, Option("How many.", low=1)] = 4
    seed: Seed = 0


@dataclass(frozen=True)
class Pair:
    """What is made of what: images, and instances in them."""

    id: int
    image: str
    other: str
    instance: int = 0
    donor: int = 0


def center(image: LabeledImage, number: int) -> tuple[int, int]:
    rows, cols = np.nonzero(image.instances == number)
    return round(float(rows.mean())), round(float(cols.mean()))


def inner(image: LabeledImage, numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Nuclei that what is copied covers as a whole, and around which there is room for it, with their centers."""
    height, width = image.instances.shape
    boxes = ndimage.find_objects(image.instances)
    inside = {}
    for number in numbers:
        box = boxes[number - 1]
        rows, cols = (at + side.start for at, side in zip(np.nonzero(image.instances[box] == number), box, strict=True))
        row, col = round(float(rows.mean())), round(float(cols.mean()))
        small = max(abs(rows - row).max(), abs(cols - col).max()) <= REACH
        if small and REACH < row < height - REACH - 1 and REACH < col < width - REACH - 1:
            inside[number] = row, col
    return inside


class _Toy(Method[ToySettings, Pair]):
    settings = ToySettings

    def make(self, work: Work, items: Sequence[Pair], settings: ToySettings) -> Job[None]:
        for done, item in enumerate(items):
            yield Event("Making", done, len(items), made=(self.change(work, item, settings),))

    def change(self, work: Work, item: Pair, settings: ToySettings) -> Change:
        raise NotImplementedError

    def facts(self, settings: ToySettings, **sources: LabeledImage) -> dict[str, Any]:
        about = {role: image_facts(image) for role, image in sources.items()}
        return {"method": self.title, "settings": plain(settings), "sources": about}


class Lay(_Toy):
    """The first nucleus of the first class, with what is around it, in the place of a nucleus of another class."""

    name, title, makes, needs = "lay", "Lay", "nuclei of the first class in the place of others.", Needs(instances=True)

    def plan(self, work: Work, settings: ToySettings) -> Job[Plan[Pair]]:
        yield Event("Choosing", 0, 1)
        rare = work.dataset.classes[0].number
        images = [work.dataset.read(entry) for entry in work.dataset.training]
        giver, donor = next(
            (image.source.image, number)
            for image in images
            for number in inner(image, [each for each, kind in image.types.items() if kind == rare])
        )
        pairs, near = [], 2 * REACH + 2
        for image in images:
            taken: list[tuple[int, int]] = []
            others = inner(image, [each for each, kind in image.types.items() if kind != rare])
            for number, place in others.items():
                if all(max(abs(place[0] - row), abs(place[1] - col)) > near for row, col in taken):
                    taken.append(place)
                    pairs.append((image.source.image, number))
        spread = [pairs[at] for at in sorted(range(len(pairs)), key=lambda at: at * 7 % len(pairs))][: settings.count]
        return Plan(
            [Pair(number, image, giver, at, donor) for number, (image, at) in enumerate(spread)], settings.count
        )

    def change(self, work: Work, item: Pair, settings: ToySettings) -> Change:
        target, giver = work.dataset.read(item.image), work.dataset.read(item.other)
        (row, col), (top, left) = center(target, item.instance), center(giver, item.donor)
        here = slice(row - REACH, row + REACH + 1), slice(col - REACH, col + REACH + 1)
        there = slice(top - REACH, top + REACH + 1), slice(left - REACH, left + REACH + 1)
        free = np.isin(target.instances[here], (0, item.instance))
        nucleus = (giver.instances[there] == item.donor) & free
        gone = (target.instances[here] == item.instance) & ~nucleus
        ring = (ndimage.binary_dilation(nucleus) | gone) & free & ~nucleus
        origin = np.where(nucleus, 1, np.where(ring, 2, 0)).astype(np.uint8)
        gray = np.random.default_rng([settings.seed, item.id]).integers(0, 256, 3)
        pixels = np.where(nucleus[..., None], giver.pixels[there], gray).astype(np.uint8)
        new, number = max(target.types) + 1 + item.id, work.first + item.id
        rare = giver.types[item.donor]
        return Change(
            number,
            item.image,
            item.image,
            row - REACH,
            col - REACH,
            pixels,
            origin,
            np.where(nucleus, new, KEEP).astype(np.int32),
            {new: rare},
            (item.instance,),
            None,
            self.name,
            settings.seed,
            (
                SourceRef("target", item.image, item.instance, target.types[item.instance], row, col, 1),
                SourceRef("donor", item.other, item.donor, rare, top, left, int(nucleus.sum())),
            ),
            50.0,
            {**self.facts(settings, target=target, donor=giver), "shift": [top - row, left - col], "item": item.id},
        )

    def recall(self, record: Record, ingredients: Ingredients) -> Pair:
        target, donor = record.source("target"), record.source("donor")
        number = int(record.provenance["item"])
        return Pair(number, record.image, donor["image"], int(target["item"]), int(donor["item"]))

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        if painted:
            return {"model": "gray", "sampler": "none"}
        down, right = record.provenance["shift"]
        donor = record.source("donor")
        return {"image": donor["image"], "x": col + right, "y": row + down, "donor_instance": donor["item"]}


class Blend(_Toy):
    """Each image half over the next one of another class: soft classes."""

    name, title, makes, needs = "blend", "Blend", "halves of two images each.", Needs(kinds=True)

    def plan(self, work: Work, settings: ToySettings) -> Job[Plan[Pair]]:
        yield Event("Choosing", 0, 1)
        pairs = [
            (one.source.image, other.source.image)
            for one in work.dataset.real_training
            for other in work.dataset.real_training
            if one.kind != other.kind
        ]
        return Plan([Pair(number, *pair) for number, pair in enumerate(pairs[: settings.count])], settings.count)

    def change(self, work: Work, item: Pair, settings: ToySettings) -> Change:
        target, giver = work.dataset.read(item.image), work.dataset.read(item.other)
        origin = np.zeros(target.instances.shape, np.uint8)
        origin[:, -origin.shape[1] // 4 :] = 1
        number = work.first + item.id
        return Change(
            number,
            item.image,
            f"{item.image} blend {number}",
            0,
            0,
            np.where(origin[..., None] == 1, giver.pixels, 0).astype(np.uint8),
            origin,
            None,
            {},
            (),
            {giver.kind: 0.25, target.kind: 0.75},
            self.name,
            settings.seed,
            (SourceRef("target", item.image), SourceRef("donor", item.other)),
            provenance={**self.facts(settings, target=target, donor=giver), "item": item.id},
        )

    def recall(self, record: Record, ingredients: Ingredients) -> Pair:
        return Pair(int(record.provenance["item"]), record.image, record.source("donor")["image"])


class Fresh(_Toy):
    """New images: the labels of a real one in flat colors."""

    name, title, makes, needs = "fresh", "Fresh", "flat images with the labels of real ones.", Needs()

    def plan(self, work: Work, settings: ToySettings) -> Job[Plan[Pair]]:
        yield Event("Choosing", 0, 1)
        names = [entry.source.image for entry in work.dataset.real_training][: settings.count]
        return Plan([Pair(number, "", name) for number, name in enumerate(names)], settings.count)

    def change(self, work: Work, item: Pair, settings: ToySettings) -> Change:
        real = work.dataset.read(item.other)
        color = np.random.default_rng([settings.seed, item.id]).integers(0, 256, (2, 3))
        pixels = color[(real.instances > 0).astype(int)].astype(np.uint8)
        number = work.first + item.id
        return Change(
            number,
            "",
            f"fresh {number}",
            0,
            0,
            pixels,
            np.full(real.instances.shape, 2, np.uint8),
            real.instances if real.types else None,
            real.types,
            (),
            {real.kind: 1.0} if real.kind else None,
            self.name,
            settings.seed,
            (SourceRef("labels", item.other),),
            provenance={**self.facts(settings, labels=real), "item": item.id, "mpp": real.mpp},
        )

    def recall(self, record: Record, ingredients: Ingredients) -> Pair:
        return Pair(int(record.provenance["item"]), "", record.source("labels")["image"])


LAY, BLEND, FRESH = Lay(), Blend(), Fresh()
for _method in (LAY, BLEND, FRESH):
    register(_method)


def changes_of(method: Method[Any, Any], dataset: Dataset, count: int = 4, first: int = 0) -> tuple[Change, ...]:
    """What a method makes of a dataset."""
    work, settings = Work(dataset, _Nothing(), first), ToySettings(count)
    plan = drain(method.plan(work, settings))
    return tuple(change for event in method.make(work, plan.items, settings) for change in event.made)
