"""What methods share that derive a whole image from a real one: targets, partners, names, and the record of it."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.indexed_image import ImageCache
from napari_histomix.compositing.placing import IMAGE_FULL
from napari_histomix.datasets import Entry
from napari_histomix.methods.base import Ingredients, Method, Plan, Work, whole_images
from napari_histomix.methods.pasting import CountSettings, DonorSettings
from napari_histomix.methods.record import Record, plain_facts
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage, SourceRef
from napari_histomix.sampling import item_seed
from napari_histomix.scales import resampled, same_scale

NO_PARTNER = "no image is left that it may be mixed with"


S = TypeVar("S", bound=CountSettings)


@dataclass(frozen=True)
class Derivation:
    """An image before any pixel of it.

    ``image`` is the name of the real image that it is derived from, ``name`` its own, ``partner`` that of the image
    that it is mixed with, if any; everything random in it follows from the seed.
    """

    id: int
    image: str
    name: str
    seed: int
    partner: str = ""


@dataclass(frozen=True, eq=False)
class Derived:
    """The content of a derived image; see ``Change``."""

    pixels: NDArray[np.uint8]
    origin: NDArray[np.uint8]
    labels: NDArray[np.int32] | None = None
    removed: tuple[int, ...] = ()
    class_shares: Mapping[str, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Deriving(Method[S, Derivation], Generic[S]):
    """A method whose changes are whole images, each derived from a real one of the training split."""

    def mixes(self, target: Entry, other: Entry) -> bool:
        """Whether another image may be mixed into a target; asked where the settings are ``DonorSettings``."""
        return True

    @abstractmethod
    def derive(
        self, target: LabeledImage, partner: LabeledImage | None, rng: np.random.Generator, settings: S
    ) -> Derived:
        """Make an image."""

    def plan(self, work: Work, settings: S) -> Job[Plan[Derivation]]:
        """Every image once in random order, then all again, until as many as wanted are derived."""
        images = ImageCache(work.dataset.read)
        own = [change for change in work.before() if change.method == self.name and not change.in_place]
        made = Counter(change.image for change in own)
        names = {entry.source.image for entry in work.dataset.entries}
        rng = np.random.default_rng([settings.seed, work.first])
        pool = whole_images(work.dataset, self.needs.kinds)
        others, uses = pool, Counter(change.donor.image for change in own if change.donor)
        refusals: Counter[str] = Counter()
        items: list[Derivation] = []

        def partner_of(target: Entry) -> str | None:
            """Name of the image that a target is mixed with; empty if nothing is mixed, None where no image is left."""
            if not isinstance(settings, DonorSettings):
                return ""
            fitting = [entry.source.image for entry in others if self.mixes(target, entry)]
            for index in rng.permutation(len(fitting)):
                name = fitting[index]
                if uses[name] < settings.uses and images.get(name) is not None:
                    uses[name] += 1
                    return name
            return None

        while pool and len(items) < settings.count:
            again = []
            for index in rng.permutation(len(pool)):
                entry = pool[index]
                name = entry.source.image
                if len(items) == settings.count:
                    break
                yield Event("Choosing images", len(items), settings.count)
                if settings.per_image is not None and made[name] >= settings.per_image:
                    refusals[IMAGE_FULL] += 1
                    continue
                if images.get(name) is None:
                    continue
                partner = partner_of(entry)
                if partner is None:
                    refusals[NO_PARTNER] += 1
                    continue
                number = work.first + len(items)
                fresh = fresh_name(names, f"{name} {self.name} {number + 1}")
                items.append(Derivation(len(items), name, fresh, item_seed(settings.seed, number), partner))
                made[name] += 1
                again.append(entry)
            pool = again
        if not items and images.problems:
            raise HistomixError(next(iter(images.problems.values())).sentence)
        return Plan(items, settings.count, refusals, tuple(images.problems.values()))

    def make(self, work: Work, items: Sequence[Derivation], settings: S) -> Job[None]:
        """Derive each image; those of one target follow each other."""
        images = ImageCache(work.dataset.read)
        for done, item in enumerate(sorted(items, key=lambda item: (item.image, item.id))):
            target = images.require(item.image).image
            partner = images.require(item.partner).image if item.partner else None
            derived = self.derive(target, partner, np.random.default_rng(item.seed), settings)
            sources = {"target": images.facts[item.image]}
            refs = [SourceRef("target", item.image)]
            if item.partner:
                sources["donor"] = images.facts[item.partner]
                refs.append(SourceRef("donor", item.partner))
            change = Change(
                work.first + item.id, item.image, item.name, 0, 0, derived.pixels, derived.origin, derived.labels, {},
                derived.removed, derived.class_shares, self.name, item.seed, tuple(refs),
                provenance={**plain_facts(self.title, settings, sources), **derived.facts},
            )  # fmt: skip
            yield Event("Deriving images", done, len(items), preview=derived.pixels, made=(change,))

    def recall(self, record: Record, ingredients: Ingredients) -> Derivation:
        partner = next((source["image"] for source in record.sources if source["role"] == "donor"), "")
        return Derivation(record.id, record.image, record.name, record.seed, partner)


def mixed_shares(target: str, partner: str, share: float) -> dict[str, float]:
    """Class shares of an image of which ``share`` is its target's; a class without a share is not named."""
    shares = {target: 1.0} if target == partner else {target: share, partner: 1 - share}
    return {kind: value for kind, value in shares.items() if value > 0}


def fresh_name(names: Container[str], name: str) -> str:
    """A name that no image has: the one wanted, or with a number behind it."""
    fresh, again = name, 1
    while fresh in names:
        again += 1
        fresh = f"{name}-{again}"
    return fresh


def fitted(
    partner: LabeledImage, target: LabeledImage, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """A partner's pixels at the scale and of the size (H, W) of a target, and how they came there.

    A larger partner is cropped at a random place; a smaller one is continued by its mirror image.
    """
    pixels, factor, shape = partner.pixels, partner.mpp / target.mpp, target.pixels.shape[:2]
    if not same_scale(partner.mpp, target.mpp):
        pixels = resampled(pixels, factor)
    corner = [int(rng.integers(max(0, have - want) + 1)) for have, want in zip(pixels.shape[:2], shape, strict=True)]
    facts = {"size": list(partner.pixels.shape[:2]), "scaled": list(pixels.shape[:2]), "corner": corner}
    rows, cols = (
        _mirrored(have, start, want) for have, start, want in zip(pixels.shape[:2], corner, shape, strict=True)
    )
    return pixels[rows[:, None], cols[None]], facts


def partner_pixel(record: Record, row: int, col: int) -> dict[str, Any]:
    """Where a pixel of a partner lay, by what ``fitted`` wrote down."""
    made = record.provenance["partner"]
    place = []
    for size, scaled, start, at in zip(made["size"], made["scaled"], made["corner"], (row, col), strict=True):
        inner = int(_mirrored(scaled, start, at + 1)[at])
        # Pixels are named by their centers.
        place.append(inner if size == scaled else round((inner + 0.5) * size / scaled - 0.5, 2))
    return {"image": record.source("donor")["image"], "x": place[1], "y": place[0]}


def _mirrored(size: int, start: int, count: int) -> NDArray[np.intp]:
    """Indices of ``count`` pixels of a row of ``size``, from ``start``; beyond its end it runs back, and on again."""
    places = np.arange(start, start + count) % (2 * size)
    return np.where(places < size, places, 2 * size - 1 - places)
