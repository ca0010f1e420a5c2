"""USegMix: tissue segments replaced by similar ones of their class (Wang & Kwak, arXiv 2502.16160).

``build_pool`` is the paper's phase 1 (superpixels and prompts → anchor segments → vectors), ``plan_mixes`` and
``make_mix`` are phase 2 (a segment, a similar one, its place, and a diffusion model for what lies between). Where the
paper is silent or its form does not work on real data, docs/usegmix.md says what is done instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.exchanging import Swap, paste_all
from napari_histomix.compositing.replacement import Pose, lay, pose_of
from napari_histomix.datasets import Dataset, Problem
from napari_histomix.datasets.pixels import image_facts, pixels_sha256
from napari_histomix.features import open_encoder
from napari_histomix.features.segments import segment_crops, segment_thumbnail
from napari_histomix.methods.provenance import making_facts, mask_facts
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, MixedImage, Segment, within
from napari_histomix.sampling.donor_choice import DonorChoice
from napari_histomix.segmentation import AnchorSettings, find_segments, open_prompter
from napari_histomix.segmentation.pool import THUMBNAIL, PoolImage, PoolWriter, SegmentPool

if TYPE_CHECKING:
    from napari_histomix.diffusion.prompted import AnyModel

NO_DONOR = "no segment of its class may take its place"
OUT_OF_RANGE = "its new-area ratio cannot be brought into the range"
TOUCHED = 0.25
"""Share of a segment that earlier replacements may have covered before it is no longer one to replace."""


@dataclass(frozen=True)
class PoolSettings:
    """How a segment pool is made; the only home of these defaults.

    Parameters
    ----------
    prompter : str
        ``region-tree`` or ``sam``.
    weights : str
        SAM's checkpoint.
    encoder : str
        See ``features.open_encoder``.
    components : int
        Principal components for each class, at most.
    anchors : AnchorSettings
    device : str
        auto, cpu, cuda or mps.
    """

    prompter: str = "region-tree"
    weights: str = ""
    encoder: str = "texture"
    components: int = 128
    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    device: str = "auto"


@dataclass(frozen=True)
class MixSettings:
    """How synthetic tissue images are made; the only home of these defaults.

    Parameters
    ----------
    per_class : int
        Synthetic images of each class.
    new_area : (low, high)
        Range of the share of an image that is not its own any more.
    temperature : float, optional
        τ of the donor draw; None: the median distance. 1 is the paper's form.
    area_ratio : (low, high)
        Donor area / target area that is let through, in µm²: what the donor does not cover is painted, and a painted
        place holds less than a real one. The paper has no such gate.
    own_patient : bool
        Let a donor come from the target's own patient, or own image where patients are not known.
    stain_matching : bool
        Match each donor's stain to the target.
    sampler : str
        ``fast``, ``quality`` or ``paper``.
    device : str
        auto, cpu, cuda or mps.
    seed : int
    """

    per_class: int = 10
    new_area: tuple[float, float] = (0.3, 1.0)
    temperature: float | None = None
    area_ratio: tuple[float, float] = (0.5, 2.0)
    own_patient: bool = False
    stain_matching: bool = True
    sampler: str = "fast"
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """One replacement: numbers of the two segments in the pool, how likely the donor was, and how it lies."""

    target: int
    donor: int
    probability: float
    pose: Pose


@dataclass(frozen=True, eq=False)
class MixPlan:
    """A synthetic image before any pixel of it: its name and class, the target image, and its replacements in order.

    ``temperature`` is that of the donor draw; None where a person chose.
    """

    name: str
    kind: str
    image: str
    seed: int
    exchanges: tuple[Exchange, ...]
    temperature: float | None = None


@dataclass(frozen=True, eq=False)
class MixPlans:
    """Plans by class, and how many images could not be planned, by reason."""

    plans: tuple[MixPlan, ...]
    refusals: Counter[str]


@dataclass(frozen=True, eq=False)
class PoolBuilt:
    """What a pool was made of: images and segments, and the images left out."""

    images: int
    segments: int
    problems: tuple[Problem, ...]


# Phase 1: segments and the pool.


def build_pool(dataset: Dataset, folder: Path, settings: PoolSettings | None = None) -> Job[PoolBuilt]:
    """Divide all training images into anchor segments and keep them as a pool in a study's folder; a long job.

    Raises
    ------
    HistomixError
        If no image has a segment, a scale is missing, or weights are unusable.
    """
    settings = settings or PoolSettings()
    real = [entry for entry in dataset.training if not entry.synthetic]
    entries = sorted(real, key=lambda entry: dataset.kinds.index(entry.kind))
    if not entries:
        raise HistomixError(f"{dataset.name} has no real training image; a pool is made of such images only.")
    prompter = open_prompter(settings.prompter, settings.weights or None, settings.device)
    encoder = open_encoder(settings.encoder, whole=True)
    problems = list(dataset.problems)
    with PoolWriter(folder, pool_signature(prompter.name, encoder.name, settings)) as writer:
        for done, entry in enumerate(entries):
            yield Event("Finding segments", done, len(entries))
            try:
                image = dataset.read(entry)
                finding = find_segments(image.pixels, prompter, settings.anchors)
                found = yield from within(finding, "Finding segments", done, len(entries))
            except HistomixError as error:
                problems.append(Problem(entry.source.image, str(error)))
                yield Event("Finding segments", done, len(entries), message=f"{entry.source.image}: {error}")
                continue
            add_segments(writer, image, found, encoder)
        if writer.count == 0:
            raise HistomixError(f"No training image of {dataset.name} has a segment: {problems[-1].sentence}")
        yield from writer.finish(encoder.dim, settings.components)
    return PoolBuilt(len(writer.images), writer.count, tuple(problems))


def pool_signature(prompter: str, encoder: str, settings: PoolSettings) -> dict[str, Any]:
    """What two pools must share to be compared: names of prompter and encoder, and the settings of anchors."""
    return {"prompter": prompter, "encoder": encoder, "components": settings.components} | {
        "anchors": asdict(settings.anchors)
    }


def add_segments(writer: PoolWriter, image: LabeledImage, segments: Sequence[Segment], encoder: Any) -> None:
    """Encode the segments of an image and write them to a pool."""
    crops = segment_crops(image.pixels, segments)
    thumbnails = [segment_thumbnail(image.pixels, one, THUMBNAIL) for one in segments]
    about = PoolImage(image.source, image.kind, image.pixels.shape[:2], image.mpp, pixels_sha256(image.pixels))
    writer.add(about, segments, encoder(crops), thumbnails)


def correct_pool(folder: Path, image: LabeledImage, segments: Sequence[Segment], encoder: str = "texture") -> Job[int]:
    """Add the segments of an image that a person drew or corrected to the pool of a study; a long job.

    What the pool holds of that image already stays; drop it with ``study.curation``.

    Parameters
    ----------
    encoder : str
        See ``features.open_encoder``; it must be the one that the pool was made with.

    Returns
    -------
    int
        Number of the first new segment.

    Raises
    ------
    HistomixError
        If the pool was made with another encoder, or the disk is full.
    """
    yield Event("Adding segments to the pool")
    pool = SegmentPool(folder)
    opened = open_encoder(encoder, whole=True)
    signature = {**pool.signature, "encoder": opened.name}
    with PoolWriter(folder, signature) as writer:
        add_segments(writer, image, segments, opened)
        yield from writer.finish(opened.dim, int(pool.signature["components"]))
    return len(pool)


# Phase 2: which segments change places.


def plan_mixes(
    pool: SegmentPool,
    members: Mapping[str, NDArray[np.intp]],
    settings: MixSettings,
    taken: Iterable[str] = (),
) -> Job[MixPlans]:
    """Draw targets and donors for every class; a long job. No pixel is read, only masks.

    Parameters
    ----------
    pool : SegmentPool
    members : mapping of str to (n,) int
        For each class the segments that may be drawn, such as all that nobody dropped.
    settings : MixSettings
    taken : iterable of str
        Names that synthetic images may not get.

    Raises
    ------
    HistomixError
        For settings that cannot be met.
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
    for kind, some in sorted(members.items()):
        if len(some) < 2:
            refusals[f"{kind}: a class needs two segments at least, of two patients or images"] += settings.per_class
            continue
        # A segment that a person gave another class is a donor there; its image stays an image of its own class.
        own = np.array(pool.kinds)[pool.image_kinds[some]] == kind
        if not own.any():
            refusals[f"{kind}: no image of this class has a segment"] += settings.per_class
            continue
        choice = donor_choice(pool, some, kind, settings)
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
            exchanges = _exchanges(pool, choice, some[choice.images == image], settings, np.random.default_rng(seed))
            if isinstance(exchanges, str):
                refusals[f"{kind}: {exchanges}"] += 1
                continue
            name, again = f"{pool.images[image].source.image} mix {made + 1}", 1
            while name in names:
                again += 1
                name = f"{pool.images[image].source.image} mix {made + 1}-{again}"
            names.add(name)
            source, temperature = pool.images[image].source, float(choice.pool_draw.temperature)
            plans.append(MixPlan(name, kind, source.image, seed, exchanges, temperature))
            made += 1
    return MixPlans(tuple(plans), refusals)


def donor_choice(pool: SegmentPool, members: NDArray[np.intp], kind: str, settings: MixSettings) -> DonorChoice:
    """Who of ``members`` may replace whom in a class, by the settings."""
    return DonorChoice(pool, members, kind, settings.temperature, settings.area_ratio, settings.own_patient)


def plan_one(pool: SegmentPool, target: int, donor: int, probability: float, seed: int, name: str = "") -> MixPlan:
    """The plan of a synthetic image with one replacement that a person chose; it is of its target image's class.

    Parameters
    ----------
    pool : SegmentPool
    target, donor : int
        Numbers in the pool.
    probability : float
        Of the donor in the draw.
    seed : int
        The same one lays the donor the same way.
    name : str
    """
    own = pool.image(target)
    seed = int(np.random.default_rng([seed, target, donor]).integers(2**62))
    factor = pool.image(donor).mpp / own.mpp
    pose = pose_of(pool.segment(target), pool.segment(donor), np.random.default_rng(seed), factor)
    return MixPlan(name, own.kind, own.source.image, seed, (Exchange(target, donor, probability, pose),))


def _exchanges(
    pool: SegmentPool, choice: DonorChoice, targets: NDArray[np.intp], settings: MixSettings, rng: np.random.Generator
) -> tuple[Exchange, ...] | str:
    """Replacements in one image until its new-area ratio lies in the range, or why that cannot be."""
    shape = pool.image(int(targets[0])).shape
    free = np.ones(shape, bool)
    low, high = settings.new_area
    # Where in the range an image ends is drawn too, or all would end just above its lower end.
    wanted = rng.uniform(low, high)
    found: list[Exchange] = []
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
        found.append(Exchange(int(target), donor, probability, pose))
    if 1 - free.mean() < low or not found:
        return NO_DONOR if donorless and not found else OUT_OF_RANGE
    return tuple(found)


# Phase 2: the pixels.


def compose(
    target: LabeledImage,
    pool: SegmentPool,
    exchanges: Sequence[Exchange],
    donors: Mapping[str, LabeledImage],
    stain_matching: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, Any]]]:
    """The target with its donors pasted in, not yet blended.

    Parameters
    ----------
    target : LabeledImage
    pool : SegmentPool
    exchanges : sequence of Exchange
    donors : mapping of str to LabeledImage
        The donors' images by name.
    stain_matching : bool

    Returns
    -------
    pixels : (H, W, 3) uint8
    origin : (H, W) uint8
        0 real, 1 donor, 2 what is to be painted.
    facts : list of dict
        Provenance of every replacement.
    """
    swaps = [Swap(pool.segment(one.target), pool.segment(one.donor), one.pose) for one in exchanges]
    given = [donors[pool.image(one.donor).source.image] for one in exchanges]
    pixels, origin, stains = paste_all(target, swaps, given, stain_matching)
    facts = [
        {
            **image_facts(image),
            "segment": one.donor,
            "replaced_segment": one.target,
            "probability": round(one.probability, 6),
            "pose": one.pose.facts(),
            "stain": stain,
            "segment_mask": mask_facts(swap.donor),
            "replaced_mask": mask_facts(swap.target),
        }
        for one, swap, image, stain in zip(exchanges, swaps, given, stains, strict=True)
    ]
    return pixels, origin, facts


def make_mix(
    dataset: Dataset,
    pool: SegmentPool,
    plan: MixPlan,
    settings: MixSettings,
    model: AnyModel | None = None,
) -> Job[MixedImage]:
    """Carry one plan out: paste the donors, let the diffusion model paint what lies between; a long job.

    Parameters
    ----------
    dataset : Dataset
        Of which the pool was made; only its training images are read.
    pool : SegmentPool
    plan : MixPlan
    settings : MixSettings
    model : InpaintingModel or PromptedModel, optional
        The bundled one by default.

    Raises
    ------
    HistomixError
        If an image is not the one that the pool was made of, is of another split, or weights are unusable.
    """
    from napari_histomix.diffusion.large_holes import fill_holes
    from napari_histomix.diffusion.model_files import load_model
    from napari_histomix.diffusion.samplers import PRESETS
    from napari_histomix.weights import bundled

    if settings.sampler not in PRESETS:
        raise HistomixError(f"'{settings.sampler}' is not a sampler; choose one of {', '.join(PRESETS)}.")
    model = model or load_model(bundled())
    sampler = PRESETS[settings.sampler].large
    how = making_facts("USegMix", settings.sampler, {"large": sampler}, model, settings.device)
    needed = {plan.image, *(pool.image(one.donor).source.image for one in plan.exchanges)}
    images = {name: read_image(dataset, pool, name) for name in sorted(needed)}
    target = images[plan.image]
    pasted, origin, facts = compose(target, pool, plan.exchanges, images, settings.stain_matching)
    hole = origin > 1
    phase = f"Blending {plan.name}"
    pixels = pasted
    if hole.any():
        pixels = yield from fill_holes(
            pasted, hole, target.mpp, model, sampler, plan.seed, device=settings.device, phase=phase
        )
    provenance = {
        **how,
        "sources": {"target": image_facts(target)},
        "donors": facts,
        "new_area": round(float(np.count_nonzero(origin) / origin.size), 4),
        "signature": dict(pool.signature),
        "temperature": plan.temperature,
        "stain_matching": settings.stain_matching,
    }
    return MixedImage(plan.name, plan.kind, plan.image, pixels, origin, plan.seed, provenance)


def read_image(dataset: Dataset, pool: SegmentPool, name: str) -> LabeledImage:
    """A training image that the pool was made of.

    Raises
    ------
    HistomixError
        If it is of another split by now, is not the same any more, or cannot be read.
    """
    if all(name != entry.source.image for entry in dataset.training):
        raise HistomixError(f"The image {name} is not in the training split of {dataset.name}; build the pool again.")
    image = dataset.read(name)
    if all(one.sha256 != pixels_sha256(image.pixels) for one in pool.images if one.source.image == name):
        raise HistomixError(f"The image {name} is not the one that the pool was made of; build the pool again.")
    return image
