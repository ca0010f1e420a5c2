"""CutMix: a box of one image in another (Yun et al., arXiv 1905.04899), for nuclei and for images with a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from napari_histomix.compositing.composing import window_around
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.compositing.planning import CROSSES_EDGE
from napari_histomix.compositing.stain import UNMATCHED
from napari_histomix.datasets import Dataset, Entry
from napari_histomix.methods.base import Ingredients, Needs, Plan, Work
from napari_histomix.methods.deriving import Derivation, Derived, Deriving, fitted, mixed_shares, partner_pixel
from napari_histomix.methods.pasting import SYNTHETIC_DONOR, DonorSettings, Pasting, Site, in_place, inside
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, Change, Event, HistomixError, Job, LabeledImage, Location
from napari_histomix.sampling import item_seed, nucleus_locations
from napari_histomix.scales import resampled, same_scale
from napari_histomix.settings import Option

CUT = 0.5
"""Share of a nucleus below which what the edge of a box leaves of it counts as nothing."""

TRIES = 20
"""Places that are tried for each nucleus wanted."""


@dataclass(frozen=True, kw_only=True)
class CutMixSettings(DonorSettings):
    """What is cut out."""

    rare: Annotated[
        tuple[str, ...],
        Option(
            "Classes of nuclei to grow.",
            kind="classes",
            automatic="donors of the study's candidates, or else the class with the fewest nuclei",
        ),
    ] = ()
    margin: Annotated[float, Option("What comes along on each side of a nucleus.", low=0.0, high=50.0, unit="µm")] = 2.0
    alpha: Annotated[
        float,
        Option("Of Beta(α, α), which the target's share of the area is drawn from.", label="α", low=0.01, high=100.0),
    ] = 1.0


class _Classes(Deriving[CutMixSettings]):
    """A box of an image of another class at the same place; the class is shared by area."""

    name, title, makes, settings = "cutmix", "CutMix", "", CutMixSettings
    needs = Needs(kinds=True)

    def mixes(self, target: Entry, other: Entry) -> bool:
        return other.kind != target.kind

    def derive(
        self, target: LabeledImage, partner: LabeledImage | None, rng: np.random.Generator, settings: CutMixSettings
    ) -> Derived:
        assert partner is not None
        shape = target.pixels.shape[:2]
        other, facts = fitted(partner, target, rng)
        side = np.sqrt(1 - rng.beta(settings.alpha, settings.alpha))
        sizes = [max(1, round(side * size)) for size in shape]
        row, col = (int(rng.integers(size - own + 1)) for size, own in zip(shape, sizes, strict=True))
        box = slice(row, row + sizes[0]), slice(col, col + sizes[1])
        pixels, origin = target.pixels.copy(), np.zeros(shape, np.uint8)
        pixels[box], origin[box] = other[box], DONOR
        shares = mixed_shares(target.kind, partner.kind, 1 - sizes[0] * sizes[1] / (shape[0] * shape[1]))
        return Derived(pixels, origin, class_shares=shares, facts={"partner": facts, "box": [row, col, *sizes]})


class CutMix(Pasting[CutMixSettings]):
    """The whole box of a rare nucleus at a random place; of images with a class alone, a box of another class."""

    name, title = "cutmix", "CutMix"
    makes = "boxes of one image in another, each around a rare nucleus where nuclei are labeled."
    citation = "Yun et al., CutMix, ICCV 2019, arXiv 1905.04899"
    needs, settings = Needs(), CutMixSettings
    _classes = _Classes()

    def sites(self, work: Work, settings: CutMixSettings, images: ImageCache) -> Job[Iterable[Site]]:
        """Donors by rank of the study's candidates, or drawn from all rare nuclei; each at a random place."""
        numbered: Iterable[tuple[int, Location]]
        if not settings.rare and (candidates := self.kept_candidates(work)):
            numbered = [(candidate.rank, candidate.donor) for candidate in candidates]
        else:
            donors = yield from _donors(work.dataset, settings.rare, images)
            numbered = _drawn(donors, settings, 1 + max(self.used_ranks(work), default=-1))
        return self.at_random(numbered, work, settings, images)

    def lay(self, site: Site, target: IndexedImage, giver: IndexedImage, settings: CutMixSettings) -> Change | str:
        """Everything in the donor's box comes along; a nucleus that the box cuts in half on either side goes."""
        margin = round(settings.margin / giver.image.mpp)
        box = window_around([giver.boxes[site.donor.instance]], margin, giver.image.instances.shape)
        pixels, instances = giver.image.pixels[box], giver.image.instances[box]
        scales = giver.image.mpp, target.image.mpp
        factor = 1.0 if same_scale(*scales) else scales[0] / scales[1]
        own = instances.shape
        if factor != 1:
            pixels = resampled(pixels, factor)
            sizes = zip(pixels.shape[:2], own, strict=True)
            rows, cols = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in sizes)
            instances = instances[rows[:, None], cols[None]]
        row = round(site.target.row - (site.donor.row - box[0].start) * factor)
        col = round(site.target.col - (site.donor.col - box[1].start) * factor)
        window = slice(row, row + instances.shape[0]), slice(col, col + instances.shape[1])
        if not inside(window, target.image.instances.shape):
            return CROSSES_EDGE
        labels = np.zeros(instances.shape, np.int32)
        added: dict[int, int] = {}
        present = [int(instance) for instance in np.unique(instances) if instance]
        if giver.image.synthetic & set(present):
            return SYNTHETIC_DONOR
        for instance in sorted(present, key=lambda instance: (instance != site.donor.instance, instance)):
            area = np.count_nonzero(giver.image.instances[giver.boxes[instance]] == instance)
            if np.count_nonzero(giver.image.instances[box] == instance) >= CUT * area:
                number = site.instance + len(added)
                labels[instances == instance] = number
                added[number] = giver.image.types[instance]
        facts = {
            "crop": [box[0].start, box[1].start, *own],
            "scale": factor,
            "quarter_turns": 0,
            "mirrored": False,
            "shift": [row, col],
            "stain": UNMATCHED,
        }
        origin = np.full(labels.shape, DONOR, np.uint8)
        return in_place(site, target, (row, col), pixels, origin, labels, added, facts, visible=CUT)

    # Images with a class alone: the same contract, kept by the other half.

    def plan(self, work: Work, settings: CutMixSettings) -> Job[Plan[Any]]:
        """Boxes of nuclei where there are any, of images otherwise."""
        if work.dataset.has_nuclei:
            return (yield from super().plan(work, settings))
        return (yield from self._classes.plan(work, settings))

    def make(self, work: Work, items: Sequence[Any], settings: CutMixSettings) -> Job[None]:
        if isinstance(items[0], Derivation):
            yield from self._classes.make(work, items, settings)
        else:
            yield from super().make(work, items, settings)

    def recall(self, record: Record, ingredients: Ingredients) -> Any:
        if record.in_place:
            return super().recall(record, ingredients)
        return self._classes.recall(record, ingredients)

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """The pixel's own place in its image."""
        return super().trace(record, row, col, painted) if record.in_place else partner_pixel(record, row, col)


def _donors(dataset: Dataset, rare: tuple[str, ...], images: ImageCache) -> Job[list[Location]]:
    """Rare nuclei of the training split that are real and not cut by the edge of their image."""
    numbers = {dataset.class_number(name) for name in rare}
    nuclei: list[Location] = []
    counts: Counter[int] = Counter()
    classified = {each.number for each in dataset.classes} - {dataset.unclassified.number}
    entries = [entry for entry in dataset.training if entry.labels is not None]
    for done, entry in enumerate(entries):
        yield Event("Reading labels", done, len(entries))
        source = images.get(entry.source.image)
        if source is None:
            continue
        shape = source.image.instances.shape
        for nucleus in nucleus_locations(source.image, numbers or classified, ()):
            counts[nucleus.type] += 1
            box = source.boxes[nucleus.instance]
            if all(axis.start > 0 and axis.stop < size for axis, size in zip(box, shape, strict=True)):
                nuclei.append(nucleus)
    if not numbers and counts:
        numbers = {min(counts, key=lambda number: (counts[number], number))}
    donors = [nucleus for nucleus in nuclei if nucleus.type in numbers]
    if not donors:
        names = " or ".join(dataset.class_name(number) for number in sorted(numbers)) or "any class"
        raise HistomixError(f"No training image has a nucleus of {names} that is whole; choose a class that occurs.")
    return donors


def _drawn(donors: list[Location], settings: CutMixSettings, first: int) -> Iterator[tuple[int, Location]]:
    """Numbers from ``first``, each with a random donor."""
    for number in range(first, first + TRIES * settings.count):
        yield number, donors[np.random.default_rng([item_seed(settings.seed, number), 2]).integers(len(donors))]


METHOD = CutMix()
