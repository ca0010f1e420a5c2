"""NucleiMix: rare nuclei placed where they would plausibly lie (Wang & Kwak, arXiv 2410.16671).

``find_candidates`` is lines 1–11 of the paper's algorithm 1 (where, and whom), ``synthesize`` lines 12–16 (copy and
replace, copy and paste, progressive inpainting). Where the paper is silent or its form does not work on real data,
docs/nucleimix.md says what is done instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing import (
    DonorCrop,
    ImageCache,
    IndexedImage,
    contrast,
    cut_donor,
    donor_flaw,
    plan_placement,
)
from napari_histomix.compositing.donors import PALE, SLIVER
from napari_histomix.datasets import Dataset, Entry, Problem
from napari_histomix.diffusion.windows import WindowedPlan, finished_placement, painted, windowed
from napari_histomix.features import context_features, open_encoder
from napari_histomix.methods.provenance import making_facts, search_facts
from napari_histomix.records import Candidate, Event, HistomixError, Job, LabeledImage, Location, Placement
from napari_histomix.sampling import (
    ContextModel,
    DonorPool,
    background_locations,
    draw_order,
    effective_sample_size,
    nucleus_locations,
    sharpest_temperature,
)

if TYPE_CHECKING:
    from napari_histomix.diffusion.prompted import AnyModel

USED_UP = "its donor has been used as often as allowed"
CHANGED = "the labels are not those it was found in; find candidates again"
FEW_EFFECTIVE = 50
WORTH = 500


@dataclass(frozen=True)
class CandidateSettings:
    """Where rare nuclei would fit; the only home of these defaults.

    Parameters
    ----------
    rare, major : tuple of int
        Class numbers: to grow, and that may be replaced (empty: all others).
    encoder : str
        See ``features.open_encoder``.
    components : int
        Principal components of the surroundings.
    temperature : float, optional
        Divides the log-likelihoods before the draw. 1 is the paper's form; None: 1, or as much more as it takes for
        the draw to be worth ``WORTH`` locations or a tenth of all, whichever is less.
    donor_temperature : float, optional
        τ of the donor draw; None: the median distance. 1 is the paper's form.
    background_share : float
        Background locations for every nucleus.
    area_ratio : (low, high)
        Donor area / area of the nucleus it replaces.
    pca_on_rare : bool
        Fit the components to rare surroundings only, as the published code does.
    seed : int
    """

    rare: tuple[int, ...]
    major: tuple[int, ...] = ()
    encoder: str = "texture"
    components: int = 16
    temperature: float | None = None
    donor_temperature: float | None = None
    background_share: float = 1.0
    area_ratio: tuple[float, float] = (0.4, 1.1)
    pca_on_rare: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """Candidate locations in the order they were drawn, with what a person should know of the draw.

    ``settings`` with the classes and the temperature of the donor draw that were used; ``temperature`` is the one used;
    ``effective_sample_size``: how many equally likely locations the draw was worth. ``considered``: locations by kind.
    ``unfit_donors``: rare nuclei that cannot be donors, by reason.
    """

    candidates: tuple[Candidate, ...]
    settings: CandidateSettings
    encoder: str
    temperature: float
    effective_sample_size: float
    considered: Counter[str]
    unfit_donors: Counter[str]
    problems: tuple[Problem, ...]

    @property
    def search(self) -> dict[str, Any]:
        """How the candidates were found, for provenance."""
        return search_facts(asdict(self.settings), self.encoder, self.temperature)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences a person should read before going on."""
        found = []
        if self.effective_sample_size < FEW_EFFECTIVE < len(self.candidates):
            found.append(
                f"The draw is worth only {self.effective_sample_size:.0f} equally likely locations; "
                "raise the temperature for more variety."
            )
        return tuple(found)


@dataclass(frozen=True)
class SynthesisSettings:
    """How synthetic nuclei are made; the only home of these defaults.

    Parameters
    ----------
    count : int
        Synthetic nuclei wanted (the paper's k).
    seed : int
    sampler : str
        ``fast``, ``quality`` or ``paper``; see ``diffusion.samplers.PRESETS``.
    device : str
        auto, cpu, cuda or mps.
    batch : int
        Windows denoised together.
    stain_matching : bool
        Match each donor's stain to the target's surroundings.
    symmetries : bool
        Turn and mirror donors at random (lossless).
    uses : int
        How often one donor may be placed.
    """

    count: int = 20
    seed: int = 0
    sampler: str = "fast"
    device: str = "auto"
    batch: int = 16
    stain_matching: bool = True
    symmetries: bool = True
    uses: int = 10


@dataclass(frozen=True, eq=False)
class Synthesis:
    """Placements made, by rank; refused candidates by reason; and problems met on the way."""

    placements: tuple[Placement, ...]
    refusals: Counter[str]
    problems: tuple[Problem, ...] = ()


def find_candidates(dataset: Dataset, settings: CandidateSettings) -> Job[CandidateSet]:
    """Draw candidate locations and a donor for each; a long job (see ``records.Job``).

    Only images of the training split are looked at.

    Raises
    ------
    HistomixError
        Without a rare nucleus that can be a donor, or without any location to consider.
    """
    rare, major = _classes(dataset, settings)
    encoder = open_encoder(settings.encoder)
    entries, nuclei, areas, flaws, contrasts, problems = yield from _find_nuclei(dataset, rare, major)
    mpp = {entry.source.image: float(entry.mpp or 0) for entry in entries}
    rares = [one for found in nuclei.values() for one in found if one.kind == "rare"]
    flaws = _outliers(rares, contrasts) | flaws
    names = " or ".join(dataset.class_name(number) for number in rare)
    if not rares:
        raise HistomixError(f"No training image has a nucleus of class {names}; choose a class that occurs.")
    unfit = Counter(flaws.values())
    if len(rares) == unfit.total():
        raise HistomixError(
            f"None of the {len(rares)} nuclei of class {names} can be a donor: each touches another nucleus or the "
            "edge of its image; add images."
        )

    # Lines 1–6: surroundings of rare nuclei, major nuclei and background locations, as feature vectors.
    radius = float(np.median([sqrt(one.area / np.pi) * mpp[one.image] for one in rares]))
    density = settings.background_share * sum(map(len, nuclei.values())) / max(1.0, sum(areas.values()))
    total = sum(len(found) for found in nuclei.values())
    expected = total + round(settings.background_share * total)
    locations: list[Location] = []
    vectors: list[NDArray[np.float32]] = [np.empty((0, encoder.dim), np.float32)]
    for index, entry in enumerate(entries):
        image = dataset.read(entry)
        rng = np.random.default_rng([settings.seed, index])
        places = background_locations(image, round(density * areas[image.source.image]), radius / image.mpp + 3, rng)
        here = nuclei[image.source.image] + places
        done = len(locations)
        locations += here
        centers = np.array([(one.row, one.col) for one in here]).reshape(-1, 2)
        for chunk in context_features(image, centers, encoder):
            vectors.append(chunk)
            done += len(chunk)
            yield Event("Comparing surroundings", min(done, expected), expected)

    # Lines 7–8: the density of rare surroundings, and how likely each location's surroundings are under it.
    features = np.concatenate(vectors)
    kinds = np.array([one.kind for one in locations])
    model = ContextModel.fit(features[kinds == "rare"], features, settings.components, settings.pca_on_rare)
    components = model.transform(features)
    possible = np.flatnonzero(kinds != "rare")
    if len(possible) == 0:
        raise HistomixError("There is no nucleus to replace and no free place in any training image; add images.")
    likelihoods = model.score_samples(components[possible])
    percentiles = model.percentile(likelihoods)

    # Lines 9–11: draw locations, and a donor for each.
    worth = min(WORTH, 0.1 * len(possible))
    temperature = settings.temperature or sharpest_temperature(likelihoods, worth)
    logits = likelihoods / temperature
    rng = np.random.default_rng(settings.seed)
    givers = np.array([i for i, one in enumerate(locations) if one.kind == "rare" and one not in flaws], dtype=int)
    micrometers = np.array([one.area * mpp[one.image] ** 2 for one in locations])
    spread = rng.choice(possible, size=min(200, len(possible)), replace=False)
    distances = np.linalg.norm(components[spread][:, None] - components[givers][None], axis=2)
    spacing = settings.donor_temperature or max(float(np.median(distances)), 1e-9)
    pool = DonorPool(components[givers], micrometers[givers], spacing, settings.area_ratio)
    candidates: list[Candidate] = []
    for number, drawn in enumerate(draw_order(logits, rng)):
        target = locations[possible[drawn]]
        area = micrometers[possible[drawn]] if target.kind == "major" else None
        donor = pool.draw(components[possible[drawn]], area, rng)
        if donor is not None:
            values = float(likelihoods[drawn]), float(percentiles[drawn])
            candidates.append(Candidate(len(candidates), target, locations[givers[donor]], *values))
        if number % 500 == 0:
            yield Event("Drawing donors", number, len(possible))
    yield Event("Drawing donors", len(possible), len(possible))
    return CandidateSet(
        tuple(candidates),
        replace(settings, rare=rare, major=major, donor_temperature=spacing),
        encoder.name,
        temperature,
        effective_sample_size(logits),
        Counter(kinds.tolist()),
        unfit,
        tuple(problems),
    )


def synthesize(
    dataset: Dataset,
    candidates: Sequence[Candidate],
    settings: SynthesisSettings,
    model: AnyModel | None = None,
    existing: Iterable[Placement] = (),
    search: Mapping[str, Any] | None = None,
) -> Job[Synthesis]:
    """Place donors on candidate locations until ``settings.count`` are placed; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset : Dataset
    candidates : sequence of Candidate
        Tried by rank; those that the invariants forbid are refused, with the reason counted.
    settings : SynthesisSettings
    model : InpaintingModel or PromptedModel, optional
        The bundled one by default.
    existing : iterable of Placement
        Placed before: their candidates and their pixels are not used again.
    search : mapping, optional
        How the candidates were found (``CandidateSet.search``), for provenance.

    Returns
    -------
    Synthesis
        Fewer placements than wanted where the candidates run out.

    Raises
    ------
    HistomixError
        For settings that cannot be met, a candidate outside the training split, or unusable weights.
    """
    from napari_histomix.diffusion.model_files import load_model
    from napari_histomix.diffusion.samplers import PRESETS
    from napari_histomix.weights import bundled

    if settings.sampler not in PRESETS:
        raise HistomixError(f"'{settings.sampler}' is not a sampler; choose one of {', '.join(PRESETS)}.")
    if settings.count < 1 or settings.uses < 1:
        raise HistomixError("The number of synthetic nuclei, and the uses of a donor, must be at least 1.")
    training = {entry.source.image for entry in dataset.training}
    if outside := {place.image for one in candidates for place in (one.donor, one.target)} - training:
        raise HistomixError(f"The image {min(outside)} is not in the training split; find candidates again.")
    if len({one.rank for one in candidates}) < len(candidates):
        raise HistomixError("Two candidates have the same rank; find candidates again.")
    model = model or load_model(bundled())
    preset = PRESETS[settings.sampler]
    stages = {"disc": preset.disc, "ring": preset.ring}
    how = making_facts("NucleiMix", settings.sampler, stages, model, settings.device) | {"search": dict(search or {})}

    # Lines 12–16, geometry: where each donor lies and which pixels may change.
    plans, refusals, problems, sources = yield from _plan(dataset, candidates, settings, model, tuple(existing))

    # Lines 12–16, pixels: erase what is replaced, then blend the donor in.
    blended = yield from painted(plans, model, preset.disc, preset.ring, device=settings.device, batch=settings.batch)
    placements = []
    for plan, pixels in zip(plans, blended, strict=True):
        one = plan.plan.candidate
        own = {"target": sources[one.target.image], "donor": sources[one.donor.image]}
        placements.append(finished_placement(plan, pixels, {**how, "sources": own}))
    return Synthesis(tuple(placements), refusals, tuple(problems))


def _classes(dataset: Dataset, settings: CandidateSettings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rare and major class numbers, checked; all other classes are major where none is named."""
    rare = tuple(dict.fromkeys(dataset.class_number(number) for number in settings.rare))
    if not rare:
        raise HistomixError("Choose at least one rare class.")
    major = tuple(dict.fromkeys(dataset.class_number(number) for number in settings.major))
    if both := set(rare) & set(major):
        raise HistomixError(f"Class {dataset.class_name(min(both))} cannot be both rare and major.")
    return rare, major or tuple(one.number for one in dataset.classes if one.number not in rare)


def _find_nuclei(dataset: Dataset, rare: tuple[int, ...], major: tuple[int, ...]) -> Job[tuple]:
    """Readable training entries; by image nuclei and areas in µm²; rare nuclei's flaws and contrasts; problems."""
    entries: list[Entry] = []
    nuclei, areas, problems = {}, {}, list(dataset.problems)
    flaws: dict[Location, str] = {}
    contrasts: dict[Location, float] = {}
    if dataset.training and all(entry.mpp is None for entry in dataset.training):
        raise HistomixError(
            "Nothing says how many µm one pixel of these images is; pass --mpp, "
            'or put {"mpp": 0.25} in dataset.json beside the data.'
        )
    for number, entry in enumerate(dataset.training):
        yield Event("Reading labels", number, len(dataset.training))
        try:
            image = dataset.read(entry)
        except HistomixError as error:
            problems.append(Problem(entry.source.image, str(error)))
            yield Event("Reading labels", number, len(dataset.training), message=f"Skipped: {error}")
            continue
        entries.append(entry)
        found = nucleus_locations(image, rare, major)
        nuclei[entry.source.image] = found
        source = IndexedImage(image)
        for one in (one for one in found if one.kind == "rare"):
            if (found_contrast := contrast(source, one)) is not None:
                contrasts[one] = found_contrast
            if flaw := donor_flaw(source, one):
                flaws[one] = flaw
        areas[entry.source.image] = image.instances.size * image.mpp**2
    if not entries:
        raise HistomixError(problems[-1].sentence if problems else f"{dataset.name} has no training image.")
    return entries, nuclei, areas, flaws, contrasts, problems


def _outliers(rares: list[Location], contrasts: dict[Location, float]) -> dict[Location, str]:
    """Rare nuclei far smaller or far paler than the median of their class, with the flaw that makes them."""
    flaws: dict[Location, str] = {}
    for number in {one.type for one in rares}:
        own = [one for one in rares if one.type == number]
        seen = {one: contrasts[one] for one in own if one in contrasts}
        area = float(np.median([one.area for one in own]))
        typical = float(np.median(list(seen.values()))) if seen else 0.0
        flaws |= {one: PALE for one, value in seen.items() if value < 0.65 * max(typical, 0.0)}
        flaws |= {one: SLIVER for one in own if one.area < 0.3 * area}
    return flaws


def _plan(
    dataset: Dataset,
    candidates: Sequence[Candidate],
    settings: SynthesisSettings,
    model: AnyModel,
    existing: tuple[Placement, ...],
) -> Job[tuple[list[WindowedPlan], Counter[str], list[Problem], dict[str, dict[str, Any]]]]:
    """Plans for the first ``count`` candidates, by rank, that nothing forbids; facts of the images they came from.

    Only candidates of one image can stand in each other's way, so each round takes more candidates than are still
    needed, goes through them image by image, and cuts the surplus off by rank: the outcome is that of trying them one
    after the other.
    """
    placed = {one.candidate.rank for one in existing}
    waiting = sorted((one for one in candidates if one.rank not in placed), key=lambda one: one.rank)
    accepted: list[WindowedPlan] = []
    uses = Counter((one.candidate.donor.image, one.candidate.donor.instance) for one in existing)
    refusals: Counter[str] = Counter()
    cache = ImageCache(dataset)
    donors: dict[tuple[str, int], DonorCrop] = {}
    free_id: dict[str, int] = {}
    while waiting and len(accepted) < settings.count:
        size = 2 * (settings.count - len(accepted)) + 16
        tried, waiting = waiting[:size], waiting[size:]
        outcomes: dict[int, WindowedPlan | str] = {}
        images: dict[str, list[Candidate]] = {}
        missing: dict[str, list[Location]] = {}
        for one in tried:
            images.setdefault(one.target.image, []).append(one)
            if (one.donor.image, one.donor.instance) not in donors:
                missing.setdefault(one.donor.image, []).append(one.donor)
        for name, locations in missing.items():
            source = cache.get(name)
            if source is not None:
                present = [one for one in locations if source.holds(one)]
                donors.update({(name, one.instance): cut_donor(source, one) for one in present})
        for number, (name, group) in enumerate(images.items()):
            yield Event("Planning placements", number, len(images))
            target = cache.get(name)
            if target is None:
                continue
            before = [one.plan for one in accepted if one.plan.candidate.target.image == name]
            taken = np.zeros(target.image.instances.shape, bool)
            for plan in before:
                taken[plan.window] |= plan.changed
            for placement in (one for one in existing if one.candidate.target.image == name):
                taken[placement.window] |= placement.origin != 0
            if name not in free_id:
                free_id[name] = _next_instance(target.image, existing)
            for candidate in group:
                donor = donors.get((candidate.donor.image, candidate.donor.instance))
                if donor is None and candidate.donor.image in cache.problems:
                    continue
                if donor is None or not target.holds(candidate.target):
                    outcomes[candidate.rank] = CHANGED
                    continue
                seed = int(np.random.SeedSequence([settings.seed, candidate.rank]).generate_state(1, np.uint64)[0] >> 1)
                planned = plan_placement(
                    target,
                    candidate,
                    donor,
                    seed=seed,
                    taken=taken,
                    stain_matching=settings.stain_matching,
                    symmetries=settings.symmetries,
                )
                outcome = planned if isinstance(planned, str) else windowed(planned, target.image, model)
                outcomes[candidate.rank] = outcome
                if not isinstance(outcome, str):
                    taken[outcome.plan.window] |= outcome.plan.changed
        for candidate in tried:
            result = outcomes.get(candidate.rank)
            if result is None or len(accepted) == settings.count:
                continue
            giver = candidate.donor.image, candidate.donor.instance
            if isinstance(result, str):
                refusals[result] += 1
            elif uses[giver] >= settings.uses:
                refusals[USED_UP] += 1
            else:
                uses[giver] += 1
                accepted.append(replace(result, instance=free_id[candidate.target.image]))
                free_id[candidate.target.image] += 1
    return accepted, refusals, list(cache.problems.values()), cache.facts


def _next_instance(image: LabeledImage, existing: Iterable[Placement]) -> int:
    """The first free instance id of an image."""
    used = [one.instance for one in existing if one.candidate.target.image == image.source.image]
    return max(int(image.instances.max()), *used, 0) + 1
