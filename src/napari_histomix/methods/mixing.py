"""USegMix's plans: which segments change places, how donors lie, and how much of an image becomes new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.replacement import Swap, lay_swap, pose_of
from napari_histomix.datasets import Dataset
from napari_histomix.methods.base import Plan
from napari_histomix.methods.deriving import fresh_name
from napari_histomix.methods.segment_fits import SegmentFits, seam_room
from napari_histomix.methods.segment_stage import read_image
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.sampling import DonorChoice, draw_order
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.settings import Option, PaintingSettings, Presets, Seed

NO_DONOR = "no segment of its class may take its place (setting: {})"
ALONE = "a class needs two segments, and this one has {} (setting: border)"
PAINTED = "too much would be painted along the seam (setting: painted)"
OUT_OF_RANGE = "its new-area ratio cannot be brought into the range (setting: new area)"
TOO_LARGE = "the segment alone is more than the new area may be (setting: new area)"
SHARPER = 0.1
"""By how much less freely donors are drawn along seams, where they are tried on and refused, than by the median."""
GIVEN_UP = 8
"""Segments of an image without a donor along seams, from the first on, after which it is left."""
TOUCHED = 0.25
"""Share of a segment that earlier replacements may have covered before it is no longer one to replace."""


@dataclass(frozen=True, kw_only=True)
class USegMixSettings(PaintingSettings):
    """How synthetic tissue images are made."""

    presets: ClassVar[Presets] = {
        "paper": {
            "new_area": (0.3, 1.0),
            "outline": "segment",
            "fill": "diffusion",
            "temperature": 1.0,
            "area_ratio": (0.0, 1_000_000.0),
            "own_patient": False,
            "stain_matching": False,
            "sampler": "paper",
        }
    }
    per_class: Annotated[
        int, Option("Synthetic images of each class.", label="Images of each class", low=1, high=100_000)
    ] = 10
    new_area: Annotated[
        tuple[float, float], Option("Range of the share of an image that is no longer its own.", low=0, high=1)
    ] = (0.1, 0.3)
    outline: Annotated[
        str,
        Option(
            "Where a donor ends: at a seam in what both images share, its own surroundings around it; or at its "
            "segment's outline, and what it leaves open of the target is painted, as the paper does.",
            label="A donor ends at",
            choices={"seam": "A seam in what both images share", "segment": "Its segment's outline (paper)"},
        ),
    ] = "seam"
    fill: Annotated[
        str,
        Option(
            "What fills what a donor leaves open at its segment's outline: real tissue of the target's and the donors' "
            "images, joined by the network, or the network alone, as in the paper.",
            label="Gaps are filled with",
            choices={"exemplars": "Real tissue of the same images", "diffusion": "What the network paints (paper)"},
        ),
    ] = "exemplars"
    painted: Annotated[
        float,
        Option("Largest share of an image that is painted along seams; more is refused.", low=0, high=1, advanced=True),
    ] = 0.05
    tries: Annotated[
        int,
        Option(
            "Donors that are drawn and looked at for a segment; of those that fit best at a look, one is taken.",
            low=1,
            advanced=True,
        ),
    ] = 64
    mismatch: Annotated[
        float,
        Option(
            "How much the tissue around a donor may differ from that around its target: 0 not at all, 1 by a third of "
            "it being lumen, or by two thirds of a tenth of optical density, on the whole.",
            low=0,
            advanced=True,
        ),
    ] = 0.45
    unlike: Annotated[
        float,
        Option(
            "How much a donor may differ from its target in what the eye sees first, on the same scale.",
            low=0,
            advanced=True,
        ),
    ] = 0.3
    seam: Annotated[
        float, Option("How much both images may differ along a seam; 1 is white beside black.", low=0, advanced=True)
    ] = 0.16
    visible: Annotated[
        float,
        Option(
            "How much both images differ where a seam is seen, on the same scale: it is painted there; 0: all of it.",
            low=0,
            advanced=True,
        ),
    ] = 0.15
    temperature: Annotated[
        float | None,
        Option(
            "How freely donors are drawn: lower keeps to the most similar segments; 1 is the paper's form.",
            low=0.001,
            automatic="the median distance between segments, a tenth of it along seams",
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
            "Let a donor come from the target's own patient, or own image where patients are not known; along seams "
            "only where no other fits.",
            advanced=True,
        ),
    ] = True
    stain_matching: Annotated[bool, Option("Match each donor's stain to the target's.", advanced=True)] = True
    seed: Seed = 0


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """A replacement: numbers of the two segments in the pool, how likely the donor was, and how it lies there.

    ``fit`` says how well it fits, where that was asked: ``cover``, ``mismatch``, ``unlike`` and ``seam``.
    """

    target: int
    donor: int
    probability: float
    swap: Swap
    fit: Mapping[str, float] = field(default_factory=dict)


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


def plan_mixes(
    dataset: Dataset,
    pool: SegmentPool,
    members: Mapping[str, NDArray[np.intp]],
    settings: USegMixSettings,
    taken: Iterable[str] = (),
) -> Job[Plan[MixPlan]]:
    """Draw targets and donors for every class; a long job. Pixels are read for seams only.

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
    fits = segment_fits(dataset, pool, settings) if settings.outline == "seam" else None
    # Numbered among the classes that have a segment: one that only another split has must not change the draw.
    present = [kind for kind in sorted(members) if len(members[kind])]
    for kind, numbers in sorted(members.items()):
        if len(numbers) < 2:
            refusals[f"{kind}: {ALONE.format(len(numbers))}"] += settings.per_class
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
        hopeless: set[int] = set()
        # Every image of the class has its turn before one has a second. Along seams an image without a plan has none
        # later; else three rounds are enough.
        for turn in count() if fits else range(3 * max(settings.per_class, len(images))):
            if made == settings.per_class or len(hopeless) == len(images):
                break
            image = int(images[turn % len(images)])
            if image in hopeless:
                continue
            yield Event("Choosing donors", len(plans), total)
            seed = int(rng.integers(2**62))
            rng_here, here = np.random.default_rng(seed), numbers[choice.images == image]
            propose = _by_outline(pool, choice, rng_here)
            if fits:
                propose = _by_seam(pool, choice, rng_here, fits, high)
            exchanges, why = _exchanges(pool, here, settings, rng_here, propose)
            refusals.update({f"{kind}: {reason}": count for reason, count in why.items()})
            if not exchanges:
                if fits:
                    # What was tried on once would be tried on again.
                    hopeless.add(image)
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
    sharper = 1.0 if settings.outline == "segment" else SHARPER
    return DonorChoice(pool, members, kind, settings.temperature, settings.area_ratio, settings.own_patient, sharper)


def no_donor(choice: DonorChoice, target: int) -> str:
    """Why no segment may replace a target, with the settings that forbid it."""
    if len(choice.members) < 2:
        return ALONE.format(len(choice.members))
    return NO_DONOR.format(" or ".join(choice.forbidding(target)) or "own patient and area ratio")


def segment_fits(dataset: Dataset, pool: SegmentPool, settings: USegMixSettings) -> SegmentFits:
    """What tries donors on the pixels of a pool's images, by the settings."""
    return SegmentFits(
        pool,
        lambda name: read_image(dataset, pool, name),
        tries=settings.tries,
        mismatch=settings.mismatch,
        unlike=settings.unlike,
        seam=settings.seam,
        visible=settings.visible,
        stain_matching=settings.stain_matching,
    )


def plan_one(
    pool: SegmentPool,
    target: int,
    donor: int,
    probability: float,
    seed: int,
    name: str = "",
    *,
    fits: SegmentFits | None = None,
) -> MixPlan | str:
    """The plan of a synthetic image with one replacement that a person chose; it is of its target image's class.

    With ``fits`` the donor is cut out along a seam, or the reason why it cannot be is returned.
    """
    own = pool.image(target)
    seed = int(np.random.default_rng([seed, target, donor]).integers(2**62))
    if fits is None:
        exchange = _laid(pool, target, donor, probability, np.random.default_rng(seed))
    else:
        found, refusals = fits.best(target, [donor], np.ones(own.shape, bool))
        if found is None:
            return next(iter(refusals))
        exchange = Exchange(target, donor, probability, found.swap, found.facts)
    return MixPlan(name, own.kind, own.source.image, seed, (exchange,))


def _laid(pool: SegmentPool, target: int, donor: int, probability: float, rng: np.random.Generator) -> Exchange:
    """A donor's segment in its target's place, as the paper lays it."""
    factor = pool.image(donor).mpp / pool.image(target).mpp
    segment, given = pool.segment(target), pool.segment(donor)
    return Exchange(target, donor, probability, Swap(segment, given, pose_of(segment, given, rng, factor)))


Proposal = Callable[[int, NDArray[np.bool_], Counter[str]], Exchange | None]
"""A replacement of a segment, within the pixels that may still change, or None; reasons are counted."""


def _by_outline(pool: SegmentPool, choice: DonorChoice, rng: np.random.Generator) -> Proposal:
    """The paper's: the first donor that is drawn."""

    def propose(target: int, free: NDArray[np.bool_], refusals: Counter[str]) -> Exchange | None:
        segment = pool.segment(target)
        if np.count_nonzero(segment.mask & ~free[segment.window]) > TOUCHED * segment.area:
            return None
        drawn = choice.draw(target, rng)
        if drawn is None:
            refusals[no_donor(choice, target)] += 1
            return None
        return _laid(pool, target, *drawn, rng)

    return propose


def _by_seam(
    pool: SegmentPool, choice: DonorChoice, rng: np.random.Generator, fits: SegmentFits, most: float
) -> Proposal:
    """Of several donors that are drawn, the one that fits best."""
    about = pool.image

    def propose(target: int, free: NDArray[np.bool_], refusals: Counter[str]) -> Exchange | None:
        segment = pool.segment(target)
        core, band, window = seam_room(segment, free.shape, about(target).mpp)
        if ((core | band) & ~free[window]).any():
            return None
        if 1 - free.mean() + segment.area / free.size > most:
            refusals[TOO_LARGE] += 1
            return None
        any_drawn = False
        # Another patient's tissue first; the own fits best, and brings least that is new.
        for own in (False, True) if choice.own_patient else (False,):
            drawn = choice.draw_several(target, fits.tries, rng, own)
            any_drawn |= bool(drawn)
            found, why = fits.best(target, list(drawn), free)
            refusals.update(why)
            if found is not None:
                choice.use(found.donor)
                return Exchange(target, found.donor, drawn[found.donor], found.swap, found.facts)
        if not any_drawn:
            refusals[no_donor(choice, target)] += 1
        return None

    return propose


def _exchanges(
    pool: SegmentPool, targets: NDArray[np.intp], settings: USegMixSettings, rng: np.random.Generator, propose: Proposal
) -> tuple[tuple[Exchange, ...], Counter[str]]:
    """Replacements in one image until its new-area ratio lies in the range, none where that cannot be; refusals."""
    about = pool.image(int(targets[0]))
    free, painted = np.ones(about.shape, bool), 0
    low, high = settings.new_area
    # Where in the range an image ends is drawn too, or all would end just above its lower end.
    wanted = rng.uniform(low, high)
    along_seams = settings.outline == "seam"
    exchanges: list[Exchange] = []
    refusals: Counter[str] = Counter()
    # Larger ones more often first: fewer replacements make as much new, with less of a seam.
    order = draw_order(np.log(pool.rows["area"][targets]), rng) if along_seams else rng.permutation(len(targets))
    for tried, target in enumerate(map(int, targets[order])):
        if 1 - free.mean() >= wanted or (along_seams and not exchanges and tried == GIVEN_UP):
            break
        exchange = propose(target, free, refusals)
        if exchange is None:
            continue
        laid = lay_swap(exchange.swap, free)
        left, more = free & ~laid.donor & ~laid.hole, int(np.count_nonzero(laid.hole))
        if exchange.swap.cut and painted + more > settings.painted * free.size:
            refusals[PAINTED] += 1
        elif 1 - left.mean() <= high:
            free, painted = left, painted + more
            exchanges.append(exchange)
    if exchanges and 1 - free.mean() >= low:
        return tuple(exchanges), refusals
    if exchanges or not refusals:
        refusals[OUT_OF_RANGE] += 1
    return (), refusals
