"""NucleiMix: rare nuclei placed where they would plausibly lie (Wang & Kwak, arXiv 2410.16671).

``find_candidates`` is lines 1–11 of the paper's algorithm 1 (where, and which donor), ``NucleiMix`` lines 12–16 (copy
and replace, copy and paste, progressive inpainting). Where the paper is silent or its form does not work on real data,
docs/nucleimix.md says what is done instead.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix import sampling
from napari_histomix.compositing import placing
from napari_histomix.compositing.donors import DonorCrop, Mask, rare_and_major, survey_nuclei
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.planning import plan_placement
from napari_histomix.datasets import Dataset, Problem
from napari_histomix.features import open_encoder
from napari_histomix.features.context import context_features
from napari_histomix.generation.unlabeled import UnlabeledNuclei, load_segmenter
from napari_histomix.methods.base import Ingredients, Method, Needs, Placing, Plan, Stage, Store, Work
from napari_histomix.methods.painting import PaintItem, WindowedPlan, paint_changes, windowed
from napari_histomix.methods.record import Record, making_facts, painter, painter_facts
from napari_histomix.records import Candidate, Change, Event, HistomixError, Job, Location
from napari_histomix.settings import Encoder, Option, PaintingSettings, Seed, plain

if TYPE_CHECKING:
    from napari_histomix.diffusion.models import AnyModel

FEW_EFFECTIVE = 50
WORTH = 500
HOLDS_NUCLEUS = "a nucleus without a label lies at the free place"
HELD = 0.1
"""Share of the pixels that would change, from which a nucleus without a label counts as lying there."""
RECIPE = ("model_sha256", "model_mpp", "model_windows", "prompt", "sampler_settings", "device", "threads")
"""What changes that are painted together, when they are made again, have in common."""


KeptOnly = Annotated[
    bool,
    Option("Use only candidates that somebody kept; otherwise all that nobody dropped.", label="Kept candidates only"),
]


CheckFreePlaces = Annotated[
    bool,
    Option(
        "Refuse free places where the bundled segmenter finds a nucleus that has no label, if it is installed.",
        advanced=True,
    ),
]


@dataclass(frozen=True)
class CandidateSettings:
    """Where rare nuclei would fit."""

    rare: Annotated[tuple[str, ...], Option("Classes to grow.", label="Rare classes", kind="classes")]
    major: Annotated[
        tuple[str, ...],
        Option("Classes that may be replaced.", label="Major classes", kind="classes", automatic="all others"),
    ] = ()
    encoder: Encoder = "texture"
    components: Annotated[
        int, Option("Principal components that surroundings are compared by.", low=1, high=4096, advanced=True)
    ] = 16
    temperature: Annotated[
        float | None,
        Option(
            "Divides the log-likelihoods before the draw: higher for more variety; 1 is the paper's form.",
            low=0.01,
            automatic=f"1, or what makes the draw worth {WORTH} places, or a tenth of all",
            advanced=True,
        ),
    ] = None
    donor_temperature: Annotated[
        float | None,
        Option(
            "Divides the distances of the donor draw: higher for more variety; 1 is the paper's form.",
            low=0.0,
            automatic="the median distance",
            advanced=True,
        ),
    ] = None
    background_share: Annotated[
        float, Option("Background locations considered for every nucleus.", low=0.0, high=100.0, advanced=True)
    ] = 1.0
    area_ratio: Annotated[
        tuple[float, float],
        Option("Area of a donor over that of the nucleus it replaces.", low=0.0, high=100.0, advanced=True),
    ] = (0.4, 1.1)
    pca_on_rare: Annotated[
        bool,
        Option(
            "Fit the components to the surroundings of rare nuclei only, as the published code does.",
            label="Components of rare surroundings",
            advanced=True,
        ),
    ] = False
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class NucleiMixSettings(PaintingSettings):
    """How synthetic nuclei are made."""

    count: Annotated[
        int, Option("How many new nuclei to make.", label="New nuclei", low=1, high=1_000_000, flags=("-k",))
    ] = 20
    uses: Annotated[int, Option("Placements of one donor at most.", label="Uses of a donor", low=1)] = 10
    per_image: Annotated[
        int | None,
        Option("New nuclei in one image at most.", label="New nuclei per image", low=1, automatic="as many as fit"),
    ] = None
    kept_only: KeptOnly = False
    stain_matching: Annotated[
        bool, Option("Match the stain of each donor to the surroundings of its target.", advanced=True)
    ] = True
    symmetries: Annotated[bool, Option("Turn and mirror donors at random, without loss.", advanced=True)] = True
    check_free_places: CheckFreePlaces = True
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """Candidate locations in the order they were drawn, with what a person should know of the draw.

    ``settings`` hold the classes and the temperature of the donor draw that were used, ``temperature`` is that of the
    draw of locations, and ``effective_sample_size`` says how many equally likely locations it was worth. ``considered``
    counts locations by kind, ``unfit_donors`` rare nuclei that cannot be donors, by reason.
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
    def warnings(self) -> tuple[str, ...]:
        """Sentences a person should read before going on."""
        if self.effective_sample_size < FEW_EFFECTIVE < len(self.candidates):
            return (
                f"The draw is worth only {self.effective_sample_size:.0f} equally likely locations; "
                "raise the temperature for more variety.",
            )
        return ()

    @property
    def facts(self) -> dict[str, Any]:
        """How the candidates were found, as a study keeps it."""
        return {
            "candidate_settings": plain(self.settings),
            "encoder": self.encoder,
            "temperature": self.temperature,
            "effective_sample_size": self.effective_sample_size,
            "warnings": list(self.warnings),
        }


def search_facts(kept: Mapping[str, Any]) -> dict[str, Any]:
    """How the candidates of a study were found, for provenance; ``kept`` is what its ``settings`` hold."""
    used = {key: kept[key] for key in ("encoder", "temperature") if key in kept}
    return {**kept.get("candidate_settings", {}), **used}


def find_candidates(dataset: Dataset, settings: CandidateSettings) -> Job[CandidateSet]:
    """Draw candidate locations and a donor for each; a long job (see ``records.Job``).

    Only images of the training split are looked at, and only nuclei that are not synthetic. HistomixError is raised for
    a class that the dataset does not have, without a rare nucleus that can be a donor, or without any location.
    """
    rare, major = rare_and_major(dataset, settings.rare, settings.major)
    encoder = open_encoder(settings.encoder)
    seen = yield from survey_nuclei(dataset, rare, major)
    names = " or ".join(dataset.class_name(number) for number in rare)
    if not seen.rare:
        raise HistomixError(f"No training image has a nucleus of class {names}; choose a class that occurs.")
    flaws = seen.all_flaws()
    unfit = Counter(flaws.values())
    if len(seen.rare) == unfit.total():
        raise HistomixError(
            f"None of the {len(seen.rare)} nuclei of class {names} can be a donor: each touches another nucleus or the "
            "edge of its image; add images."
        )

    # Lines 1–6: surroundings of rare nuclei, major nuclei and background locations, as feature vectors.
    total = sum(map(len, seen.nuclei.values()))
    radius = float(np.median([sqrt(nucleus.area / np.pi) * seen.mpp[nucleus.image] for nucleus in seen.rare]))
    density = settings.background_share * total / max(1.0, sum(seen.areas.values()))
    expected = total + round(settings.background_share * total)
    locations: list[Location] = []
    vectors: list[NDArray[np.float32]] = [np.empty((0, encoder.dim), np.float32)]
    for index, (name, nuclei) in enumerate(seen.nuclei.items()):
        image = dataset.read(name)
        rng = np.random.default_rng([settings.seed, index])
        places = sampling.background_locations(image, round(density * seen.areas[name]), radius / image.mpp + 3, rng)
        here = nuclei + places
        done = len(locations)
        locations += here
        centers = np.array([(location.row, location.col) for location in here]).reshape(-1, 2)
        for chunk in context_features(image, centers, encoder):
            vectors.append(chunk)
            done += len(chunk)
            yield Event("Comparing surroundings", min(done, expected), expected)

    # Lines 7–8: the density of rare surroundings, and how likely each location's surroundings are under it.
    features = np.concatenate(vectors)
    kinds = np.array([location.kind for location in locations])
    model = sampling.ContextModel.fit(features[kinds == "rare"], features, settings.components, settings.pca_on_rare)
    components = model.transform(features)
    possible = np.flatnonzero(kinds != "rare")
    if len(possible) == 0:
        raise HistomixError("There is no nucleus to replace and no free place in any training image; add images.")
    likelihoods = model.score_samples(components[possible])
    percentiles = model.percentile(likelihoods)

    # Lines 9–11: draw locations, and a donor for each.
    worth = min(WORTH, 0.1 * len(possible))
    temperature = settings.temperature or sampling.sharpest_temperature(likelihoods, worth)
    logits = likelihoods / temperature
    rng = np.random.default_rng(settings.seed)
    givers = np.array(
        [i for i, location in enumerate(locations) if location.kind == "rare" and location not in flaws], dtype=int
    )
    micrometers = np.array([location.area * seen.mpp[location.image] ** 2 for location in locations])
    spread = rng.choice(possible, size=min(200, len(possible)), replace=False)
    distances = np.linalg.norm(components[spread][:, None] - components[givers][None], axis=2)
    spacing = settings.donor_temperature or max(float(np.median(distances)), 1e-9)
    draw, areas = sampling.DonorDraw(components[givers], spacing), micrometers[givers]
    everyone = np.ones(len(givers), bool)
    candidates: list[Candidate] = []
    for number, drawn in enumerate(sampling.draw_order(logits, rng)):
        target = locations[possible[drawn]]
        fits = everyone
        if target.kind == "major":
            fits = sampling.fitting(areas, micrometers[possible[drawn]], settings.area_ratio)
        donor = draw.draw(components[possible[drawn]], fits, rng)
        if donor is not None:
            scores = float(likelihoods[drawn]), float(percentiles[drawn])
            candidates.append(Candidate(len(candidates), target, locations[givers[donor[0]]], *scores))
        if number % 500 == 0:
            yield Event("Drawing donors", number, len(possible))
    yield Event("Drawing donors", len(possible), len(possible))
    rare_names, major_names = (tuple(map(dataset.class_name, numbers)) for numbers in (rare, major))
    return CandidateSet(
        tuple(candidates),
        replace(settings, rare=rare_names, major=major_names, donor_temperature=spacing),
        encoder.name,
        temperature,
        sampling.effective_sample_size(logits),
        Counter(kinds.tolist()),
        unfit,
        tuple(seen.problems),
    )


class Candidates(Stage):
    """Candidate locations with their donors, kept or dropped one by one before any nucleus is made."""

    name = "candidates"
    title = "Candidates"
    settings = CandidateSettings
    subjects = ("candidate",)
    page = "napari_histomix.widgets.candidates_panel:CandidatesPanel"
    kept_as = "candidate_settings"

    def ready(self, store: Store) -> bool:
        return store.has_candidates()

    def find(self, work: Work, settings: CandidateSettings) -> Job[CandidateSet]:
        found = yield from find_candidates(work.dataset, settings)
        work.store.set_candidates(found.candidates, found.facts)
        return found

    def usable(self, work: Work, kept_only: bool) -> list[Candidate]:
        """Those, by rank, that somebody kept, or else all that nobody dropped; all images must be training images."""
        decisions, wanted = work.decisions.get("candidate", {}), {"keep"} if kept_only else {"keep", None}
        candidates = [candidate for candidate in work.store.candidates() if decisions.get(candidate.rank) in wanted]
        placing.check_candidates(work.dataset, candidates)
        return candidates


CANDIDATES = Candidates()
"""The stage of every method that takes its donors from candidates."""


class NucleiMix(Method[NucleiMixSettings, PaintItem], Placing):
    """Real nuclei of a rare class, copied to candidate locations and blended in by a diffusion model."""

    name = "nucleimix"
    title = "NucleiMix"
    makes = "real nuclei of a rare class, copied to candidate locations and blended in by a diffusion model."
    citation = "Wang & Kwak, NucleiMix, arXiv 2410.16671"
    needs = Needs(instances=True)
    settings = NucleiMixSettings
    stage = CANDIDATES

    def plan(self, work: Work, settings: NucleiMixSettings) -> Job[Plan[PaintItem]]:
        """Lines 12–16, geometry: where each donor lies and which pixels may change.

        Fewer items than wanted where the candidates run out.
        """
        model = painter(settings, work.loaded)
        candidates = CANDIDATES.usable(work, settings.kept_only)
        images = placing.SourceImages(work.dataset.read)
        lay, before = _lay_new(model, settings), work.before()
        search = search_facts(work.store.settings())
        if settings.check_free_places:
            segmenter = load_segmenter()
            lay = _lay_where_free(lay, UnlabeledNuclei(segmenter, settings.device))
            search["segmenter_sha256"] = segmenter.sha256
        placements, refusals = yield from placing.choose_placements(
            candidates, images, lay, before, count=settings.count, uses=settings.uses, per_image=settings.per_image
        )
        items = [_item(candidate, plan, instance, images, search) for candidate, plan, instance in placements]
        return Plan(items, settings.count, refusals, tuple(images.problems.values()))

    def make(self, work: Work, items: Sequence[PaintItem], settings: NucleiMixSettings) -> Job[None]:
        """Lines 12–16, pixels: erase what is replaced, then blend the donor in."""
        from napari_histomix.diffusion.samplers import PRESETS

        model, preset = painter(settings, work.loaded), PRESETS[settings.sampler]
        stages = {"disc": preset.disc, "ring": preset.ring}
        how = making_facts(self.title, settings, stages, model)
        numbered = [replace(item, id=work.first + item.id, how={**how, **item.how}) for item in items]
        yield from paint_changes(
            numbered, model, stages, method=self.name, device=settings.device, batch=settings.batch
        )

    def place(self, work: Work, sites: Sequence[Candidate], settings: NucleiMixSettings) -> Job[list[Change | str]]:
        placing.check_candidates(work.dataset, sites)
        images = placing.SourceImages(work.dataset.read)
        laid = yield from placing.lay_donors(sites, images, _lay_new(painter(settings, work.loaded), settings))
        search = search_facts(work.store.settings())
        items: list[PaintItem] = []
        outcomes: dict[int, Change | str] = {}
        for site in sites:
            plan = laid[site.rank]
            if isinstance(plan, str):
                outcomes[site.rank] = plan
            else:
                items.append(_item(site, plan, images.new_id(site.target.image), images, search))
        for event in self.make(work, items, settings):
            outcomes |= {change.id - work.first: change for change in event.made}
            yield replace(event, made=())
        return [outcomes[site.rank] for site in sites]

    def remake(self, records: Sequence[Record], ingredients: Ingredients) -> Job[list[Change | str]]:
        """Lay donors as their records say, and paint together what was made in the same way."""
        from napari_histomix.diffusion.inpainter import BATCH
        from napari_histomix.diffusion.samplers import Sampler

        outcomes: dict[int, Change | str] = {}
        groups: dict[str, list[PaintItem]] = {}
        plans = yield from _lay_again(records, ingredients)
        for record in records:
            plan = plans[record.id]
            if isinstance(plan, str):
                outcomes[record.id] = f"nucleus {record.id} can no longer be laid there: {plan}"
            else:
                recipe = json.dumps([record.provenance.get(part) for part in RECIPE])
                groups.setdefault(recipe, []).append(PaintItem(record.id, plan, record.provenance))
        for group in groups.values():
            made = group[0].how
            stages = {stage: Sampler.parse(made["sampler_settings"][stage]) for stage in ("disc", "ring")}
            model, device = ingredients.model(made), ingredients.device(made)
            with ingredients.threads(made):
                for event in paint_changes(group, model, stages, method=self.name, device=device, batch=BATCH):
                    outcomes |= {change.id: change for change in event.made}
                    yield replace(event, made=())
        return [outcomes[record.id] for record in records]

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """The new nucleus, and its donor's pixel or the model that painted."""
        made, donor = record.provenance, record.source("donor")
        nucleus = {"instance": next(iter(record.added)), "class": donor["class"]}
        if painted:
            return nucleus | painter_facts(made)
        y, x = placing.place_in_donor(made, row, col)
        giver = {key: str(made["sources"]["donor"][key]) for key in ("image", "patient", "slide")}
        return {**nucleus, **giver, "x": x, "y": y, "donor_instance": donor["item"], "stain": made["stain"]}

    def sentence(self, records: Sequence[Record]) -> str:
        """How the nuclei were made, a sentence for each sampler."""
        samplers = sorted({str(record.provenance.get("sampler", "")) for record in records})
        how = f"{self.title}: {self.makes.rstrip('.')}"
        return " ".join(f"{how} (sampler {sampler})." if sampler else f"{how}." for sampler in samplers)


METHOD = NucleiMix()


def _lay_new(model: AnyModel, settings: NucleiMixSettings) -> placing.Lay[WindowedPlan]:
    """Lays donors as settings say, in windows of a model; every candidate has a seed of its own."""
    appearance = {"stain_matching": settings.stain_matching, "symmetries": settings.symmetries}

    def lay(target: IndexedImage, candidate: Candidate, donor: DonorCrop, taken: Mask) -> WindowedPlan | str:
        seed = sampling.item_seed(settings.seed, candidate.rank)
        plan = plan_placement(target, candidate, donor, seed=seed, taken=taken, **appearance)
        return plan if isinstance(plan, str) else windowed(plan, target.image, model)

    return lay


def _lay_where_free(lay: placing.Lay[WindowedPlan], unlabeled: UnlabeledNuclei) -> placing.Lay[WindowedPlan]:
    """Lays donors as before, but on no free place where a nucleus lies that nobody labeled."""

    def lay_where_free(target: IndexedImage, candidate: Candidate, donor: DonorCrop, taken: Mask) -> WindowedPlan | str:
        plan = lay(target, candidate, donor, taken)
        if isinstance(plan, str) or candidate.target.kind != "background":
            return plan
        inside = unlabeled.within(target.image, plan.window)[plan.changed]
        return HOLDS_NUCLEUS if inside.mean() > HELD else plan

    return lay_where_free


def _item(
    candidate: Candidate, plan: WindowedPlan, instance: int, images: placing.SourceImages, search: Mapping[str, Any]
) -> PaintItem:
    facts = {"search": search, "sources": images.sources(candidate), "log_likelihood": candidate.log_likelihood}
    return PaintItem(candidate.rank, replace(plan, instance=instance), facts)


def _lay_again(records: Sequence[Record], ingredients: Ingredients) -> Job[dict[int, WindowedPlan | str]]:
    """Plans of recorded changes by id, or why there are none any more."""
    facts = {source["image"]: source for record in records for source in record.provenance["sources"].values()}
    images = placing.SourceImages(lambda name: ingredients.read(facts[name]))
    by_id = {record.id: record for record in records}

    def lay(target: IndexedImage, candidate: Candidate, donor: DonorCrop, taken: Mask) -> WindowedPlan | str:
        record = by_id[candidate.rank]
        appearance = {key: bool(record.provenance[key]) for key in ("stain_matching", "symmetries")}
        plan = plan_placement(target, candidate, donor, seed=record.seed, taken=taken, **appearance)
        return plan if isinstance(plan, str) else windowed(plan, target.image, ingredients.model(record.provenance))

    candidates = [
        Candidate(record.id, record.location("target"), record.location("donor"), nan, record.score)
        for record in records
    ]
    plans = yield from placing.lay_donors(candidates, images, lay)
    return {
        number: plan if isinstance(plan, str) else replace(plan, instance=next(iter(by_id[number].added)))
        for number, plan in plans.items()
    }
