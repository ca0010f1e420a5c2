"""USegMix: tissue segments replaced by similar ones of their class (Wang & Kwak, arXiv 2502.16160).

``segment_stage`` is the paper's phase 1. Here is phase 2: ``plan_mixes`` draws a segment, a similar one and its place,
``make_mix`` pastes it and lets a diffusion model paint what lies between. Where the paper is silent or its form does
not work on real data, docs/usegmix.md says what is done instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.replacement import Pose, Swap, lay, lay_all, paste_all, pose_of
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.methods.base import Ingredients, Method, Needs, Plan, Work
from napari_histomix.methods.deriving import fresh_name
from napari_histomix.methods.record import Record, making_facts, mask_facts, painter, painter_facts
from napari_histomix.methods.segment_stage import SegmentPoolStage, read_image
from napari_histomix.records import INPAINTED, Change, Event, HistomixError, Job, LabeledImage, SourceRef, within
from napari_histomix.sampling import DonorChoice
from napari_histomix.segmentation.pool import SegmentPool, decided, drawable
from napari_histomix.settings import Option, PaintingSettings, Seed

if TYPE_CHECKING:
    from napari_histomix.diffusion.models import AnyModel

NO_DONOR = "no segment of its class may take its place"
OUT_OF_RANGE = "its new-area ratio cannot be brought into the range"
TOUCHED = 0.25
"""Share of a segment that earlier replacements may have covered before it is no longer one to replace."""


@dataclass(frozen=True, kw_only=True)
class USegMixSettings(PaintingSettings):
    """How synthetic tissue images are made."""

    per_class: Annotated[
        int, Option("Synthetic images of each class.", label="Images of each class", low=1, high=100_000)
    ] = 10
    new_area: Annotated[
        tuple[float, float], Option("Range of the share of an image that is no longer its own.", low=0, high=1)
    ] = (0.3, 1.0)
    temperature: Annotated[
        float | None,
        Option(
            "How freely donors are drawn: lower keeps to the most similar segments; 1 is the paper's form.",
            low=0.001,
            automatic="the median distance between segments",
            advanced=True,
        ),
    ] = None
    # What a donor leaves open is painted, and a painted place holds less than a real one. The paper has no such gate.
    area_ratio: Annotated[
        tuple[float, float],
        Option("Range of a donor's area over its target's, both in µm².", low=0, high=1_000_000, advanced=True),
    ] = (0.5, 2.0)
    own_patient: Annotated[
        bool,
        Option(
            "Let a donor come from the target's own patient, or own image where patients are not known.", advanced=True
        ),
    ] = False
    stain_matching: Annotated[bool, Option("Match each donor's stain to the target's.", advanced=True)] = True
    seed: Seed = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A replacement: numbers of the two segments in the pool, how likely the donor was, and how it lies."""

    target: int
    donor: int
    probability: float
    pose: Pose


@dataclass(frozen=True, eq=False)
class MixPlan:
    """A synthetic image before any pixel of it: its name and class, the name of its target image, and its replacements.

    ``temperature`` is that of the donor draw, None where a person chose; ``id`` is the place in the plan.
    """

    name: str
    kind: str
    image: str
    seed: int
    exchanges: tuple[Exchange, ...]
    temperature: float | None = None
    id: int = 0


class USegMix(Method[USegMixSettings, MixPlan]):
    """The method."""

    name = "usegmix"
    title = "USegMix"
    makes = (
        "tissue segments of real images exchanged for segments of other images of their class, their surroundings "
        "painted by a diffusion model."
    )
    citation = "Wang & Kwak, USegMix: unsupervised segment mix for pathology images, arXiv 2502.16160"
    needs = Needs(kinds=True)
    settings = USegMixSettings
    stage = SegmentPoolStage()

    def plan(self, work: Work, settings: USegMixSettings) -> Job[Plan[MixPlan]]:
        """Draw targets and donors for every class, of the segments that nobody has dropped."""
        pool = SegmentPool(work.store.folder)
        decision, kind = decided(pool, work.decisions)
        members = {name: drawable(pool, decision, kind, name) for name in work.dataset.kinds}
        taken = {entry.source.image for entry in work.dataset.entries} | {change.name for change in work.before()}
        return (yield from plan_mixes(pool, members, settings, taken))

    def make(self, work: Work, items: Sequence[MixPlan], settings: USegMixSettings) -> Job[None]:
        """Make one image after the other."""
        pool = SegmentPool(work.store.folder)
        model = painter(settings, work.loaded)
        for done, item in enumerate(items):
            phase = f"Blending {item.name}"
            making = make_mix(work.dataset, pool, item, settings, model)
            change = yield from within(making, phase, done, len(items))
            change = replace(change, id=work.first + item.id)
            yield Event(phase, done + 1, len(items), change.pixels, made=(change,))

    def remake(self, records: Sequence[Record], ingredients: Ingredients) -> Job[list[Change | str]]:
        """Lay the recorded masks of the donors again, and paint with the recorded sampler."""
        from napari_histomix.diffusion.samplers import Sampler

        # Segments have no type.
        places = [field.name for field in fields(SourceRef)]
        remade: list[Change | str] = []
        for record in records:
            made = record.provenance
            target = ingredients.read(made["sources"]["target"])
            donors = [ingredients.read(facts) for facts in made["donors"]]
            swaps = [Swap.of(facts) for facts in made["donors"]]
            pasted, origin, _ = paste_all(target, swaps, donors, bool(made["stain_matching"]))
            model, device = ingredients.model(made), ingredients.device(made)
            sampler = Sampler.parse(made["sampler_settings"]["large"])
            with ingredients.threads(made):
                painting = _painted(pasted, origin, target.mpp, model, sampler, record.seed, device=device)
                pixels = yield from within(painting, f"Blending {record.name}", len(remade), len(records))
            sources = tuple(SourceRef(*(source.get(key, 0) for key in places)) for source in record.sources)
            shares = record.class_shares or {target.kind: 1.0}
            change = _change(record.name, shares, target, pixels, origin, record.seed, sources, made)
            remade.append(replace(change, id=record.id))
        return remade

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """Which replacement a pixel belongs to; a donor's pixel with its place in the donor's image."""
        made = record.provenance
        swaps = [Swap.of(facts) for facts in made["donors"]]
        _, _, height, width = record.window
        laid, _ = lay_all(swaps, (height, width))
        number = next((index for index, part in enumerate(laid) if part.donor[row, col] or part.hole[row, col]), None)
        if number is None:
            raise HistomixError(
                f"No record of {record.name} covers ({col}, {row}), which its origin map marks; copy both again."
            )
        if painted:
            return {"replacement": number, **painter_facts(made)}
        donor, segment = made["donors"][number], swaps[number].donor
        back = cv2.invertAffineTransform(np.array(swaps[number].pose.matrix))
        x, y = (round(float(value), 2) for value in back @ (col, row, 1))
        return {
            "replacement": number,
            **{key: str(donor[key]) for key in ("image", "patient", "slide")},
            "x": segment.col + x,
            "y": segment.row + y,
            "segment": donor["segment"],
            "stain": donor["stain"],
        }


# Which segments change places.


def plan_mixes(
    pool: SegmentPool, members: Mapping[str, NDArray[np.intp]], settings: USegMixSettings, taken: Iterable[str] = ()
) -> Job[Plan[MixPlan]]:
    """Draw targets and donors for every class; a long job. No pixel is read, only masks.

    ``members`` (n,) are for each class the segments that may be drawn, such as all that nobody dropped; ``taken`` are
    names that synthetic images may not get.
    """
    low, high = settings.new_area
    if settings.per_class < 1 or not 0 <= low <= high <= 1 or high == 0:
        raise HistomixError("Ask for at least one image a class, and a new area between 0 and 1.")
    names = set(taken)
    plans: list[MixPlan] = []
    refusals: Counter[str] = Counter()
    total = settings.per_class * len(members)
    # Numbered among the classes that have a segment: one that only another split has must not change the draw.
    present = [kind for kind in sorted(members) if len(members[kind])]
    for kind, numbers in sorted(members.items()):
        if len(numbers) < 2:
            refusals[f"{kind}: a class needs two segments at least, of two patients or images"] += settings.per_class
            continue
        # A segment that a person gave another class is a donor there; its image stays an image of its own class.
        own = np.array(pool.kinds)[pool.image_kinds[numbers]] == kind
        if not own.any():
            refusals[f"{kind}: no image of this class has a segment"] += settings.per_class
            continue
        choice = donor_choice(pool, numbers, kind, settings)
        rng = np.random.default_rng([settings.seed, present.index(kind)])
        images = rng.permutation(np.unique(choice.images[own]))
        made = 0
        # Every image of the class has its turn before one has a second; three rounds without a plan are enough.
        for turn in range(3 * max(settings.per_class, len(images))):
            if made == settings.per_class:
                break
            yield Event("Choosing donors", len(plans), total)
            image = int(images[turn % len(images)])
            seed = int(rng.integers(2**62))
            exchanges = _exchanges(pool, choice, numbers[choice.images == image], settings, np.random.default_rng(seed))
            if isinstance(exchanges, str):
                refusals[f"{kind}: {exchanges}"] += 1
                continue
            made += 1
            target = pool.images[image].source.image
            name = fresh_name(names, f"{target} mix {made}")
            names.add(name)
            temperature = float(choice.pool_draw.temperature)
            plans.append(MixPlan(name, kind, target, seed, exchanges, temperature, len(plans)))
    return Plan(tuple(plans), total, refusals)


def donor_choice(pool: SegmentPool, members: NDArray[np.intp], kind: str, settings: USegMixSettings) -> DonorChoice:
    """Which of ``members`` may replace which in a class, by the settings."""
    return DonorChoice(pool, members, kind, settings.temperature, settings.area_ratio, settings.own_patient)


def plan_one(pool: SegmentPool, target: int, donor: int, probability: float, seed: int, name: str = "") -> MixPlan:
    """The plan of a synthetic image with one replacement that a person chose; it is of its target image's class."""
    own = pool.image(target)
    seed = int(np.random.default_rng([seed, target, donor]).integers(2**62))
    factor = pool.image(donor).mpp / own.mpp
    pose = pose_of(pool.segment(target), pool.segment(donor), np.random.default_rng(seed), factor)
    return MixPlan(name, own.kind, own.source.image, seed, (Exchange(target, donor, probability, pose),))


def _exchanges(
    pool: SegmentPool,
    choice: DonorChoice,
    targets: NDArray[np.intp],
    settings: USegMixSettings,
    rng: np.random.Generator,
) -> tuple[Exchange, ...] | str:
    """Replacements in one image until its new-area ratio lies in the range, or why that cannot be."""
    shape = pool.image(int(targets[0])).shape
    free = np.ones(shape, bool)
    low, high = settings.new_area
    # Where in the range an image ends is drawn too, or all would end just above its lower end.
    wanted = rng.uniform(low, high)
    exchanges: list[Exchange] = []
    donorless = 0
    for target in rng.permutation(targets):
        if 1 - free.mean() >= wanted:
            break
        segment = pool.segment(int(target))
        if np.count_nonzero(segment.mask & ~free[segment.window]) > TOUCHED * segment.area:
            continue
        drawn = choice.draw(int(target), rng)
        if drawn is None:
            donorless += 1
            continue
        donor, probability = drawn
        factor = pool.image(donor).mpp / pool.image(int(target)).mpp
        given = pool.segment(donor)
        pose = pose_of(segment, given, rng, factor)
        laid = lay(segment, given, pose, free)
        left = free & ~laid.donor & ~laid.hole
        if 1 - left.mean() > high:
            continue
        free = left
        exchanges.append(Exchange(int(target), donor, probability, pose))
    if 1 - free.mean() < low or not exchanges:
        return NO_DONOR if donorless and not exchanges else OUT_OF_RANGE
    return tuple(exchanges)


# The pixels.


def compose(
    target: LabeledImage,
    pool: SegmentPool,
    exchanges: Sequence[Exchange],
    donors: Mapping[str, LabeledImage],
    stain_matching: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, Any]]]:
    """The target with its donors pasted in, not yet blended: as ``paste_all``, with the provenance of each replacement.

    ``donors`` are the donors' images by name.
    """
    swaps = [Swap(pool.segment(swap.target), pool.segment(swap.donor), swap.pose) for swap in exchanges]
    given = [donors[pool.image(swap.donor).source.image] for swap in exchanges]
    pixels, origin, stains = paste_all(target, swaps, given, stain_matching)
    facts = [
        {
            **image_facts(image),
            "segment": exchange.donor,
            "replaced_segment": exchange.target,
            "probability": round(exchange.probability, 6),
            "pose": exchange.pose.facts(),
            "stain": stain,
            "segment_mask": mask_facts(swap.donor),
            "replaced_mask": mask_facts(swap.target),
        }
        for exchange, swap, image, stain in zip(exchanges, swaps, given, stains, strict=True)
    ]
    return pixels, origin, facts


def make_mix(
    dataset: Dataset, pool: SegmentPool, plan: MixPlan, settings: USegMixSettings, model: AnyModel
) -> Job[Change]:
    """Carry one plan out: paste the donors, let the diffusion model paint what lies between; a long job.

    HistomixError is raised if an image is not the one that the pool was made of, or is of another split.
    """
    from napari_histomix.diffusion.samplers import PRESETS

    sampler = PRESETS[settings.sampler].large
    how = making_facts(USegMix.title, settings, {"large": sampler}, model)
    needed = {plan.image, *(pool.image(exchange.donor).source.image for exchange in plan.exchanges)}
    images = {name: read_image(dataset, pool, name) for name in sorted(needed)}
    target = images[plan.image]
    pasted, origin, facts = compose(target, pool, plan.exchanges, images, settings.stain_matching)
    where = {"device": settings.device, "batch": settings.batch}
    pixels = yield from _painted(pasted, origin, target.mpp, model, sampler, plan.seed, **where)
    provenance = {
        **how,
        "sources": {"target": image_facts(target)},
        "donors": facts,
        "new_area": round(float(np.count_nonzero(origin) / origin.size), 4),
        "signature": dict(pool.signature),
        "temperature": plan.temperature,
        "stain_matching": settings.stain_matching,
    }
    sources = SourceRef("target", plan.image), *(_donor(pool, exchange.donor) for exchange in plan.exchanges)
    return _change(plan.name, {plan.kind: 1.0}, target, pixels, origin, plan.seed, sources, provenance)


def _painted(pasted: NDArray[np.uint8], origin: NDArray[np.uint8], *how: Any, **where: Any) -> Job[NDArray[np.uint8]]:
    """Pixels (H, W, 3) with what the origin map marks as inpainted filled in; the rest is as of ``fill_holes``."""
    from napari_histomix.diffusion.large_holes import fill_holes

    hole = origin == INPAINTED
    if not hole.any():
        return pasted
    return (yield from fill_holes(pasted, hole, *how, **where))


def _donor(pool: SegmentPool, number: int) -> SourceRef:
    """A segment of a pool as a source: its number, the center of its bounding box and its area."""
    row = pool.rows[number]
    center = float(row["row"] + row["height"] / 2), float(row["col"] + row["width"] / 2)
    return SourceRef("donor", pool.image(number).source.image, number, 0, *center, int(row["area"]))


def _change(
    name: str,
    class_shares: Mapping[str, float],
    target: LabeledImage,
    pixels: NDArray[np.uint8],
    origin: NDArray[np.uint8],
    seed: int,
    sources: tuple[SourceRef, ...],
    provenance: Mapping[str, Any],
) -> Change:
    """A derived image; nuclei that a replacement touches are labeled no longer, the others stay."""
    touched = np.unique(target.instances[origin != 0])
    removed = tuple(touched[touched != 0].tolist())
    return Change(
        *(0, target.source.image, name, 0, 0, pixels, origin, None, {}, removed, class_shares, USegMix.name, seed),
        sources=sources,
        provenance=provenance,
    )


METHOD = USegMix()
