"""NucleiMix: rare nuclei placed where they would plausibly lie (Wang & Kwak, arXiv 2410.16671).

``candidate_stage`` is lines 1–11 of the paper's algorithm 1 (where, and which donor), ``NucleiMix`` lines 12–16 (copy
and replace, copy and paste, progressive inpainting). Where the paper is silent or its form does not work on real data,
docs/nucleimix.md says what is done instead.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, nan
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from napari_histomix import place_scores, sampling
from napari_histomix.compositing import placing
from napari_histomix.compositing.donors import DonorCrop, Mask
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.looks import look_of_nucleus, look_of_plan
from napari_histomix.compositing.planning import plan_placement
from napari_histomix.generation.unlabeled import UnlabeledNuclei, load_segmenter
from napari_histomix.methods.base import Ingredients, Method, Needs, Placing, Plan, Work
from napari_histomix.methods.candidate_stage import CANDIDATES, candidate_facts, search_facts
from napari_histomix.methods.painting import PaintItem, WindowedPlan, paint_changes, windowed
from napari_histomix.methods.record import Record, making_facts, painter, painter_facts
from napari_histomix.records import Candidate, Change, Event, Job, Location
from napari_histomix.settings import Option, PaintingSettings, Presets, Seed

if TYPE_CHECKING:
    from napari_histomix.diffusion.models import AnyModel

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


@dataclass(frozen=True, kw_only=True)
class NucleiMixSettings(PaintingSettings):
    """How synthetic nuclei are made."""

    presets: ClassVar[Presets] = {
        "paper": {
            "stain_matching": False,
            "symmetries": False,
            "collar": 0.0,
            "fit_turn": False,
            "jpeg_grid": False,
            "spare": 1.0,
            "check_free_places": False,
            "sampler": "paper",
        }
    }
    count: Annotated[
        int, Option("How many new nuclei to make.", label="New nuclei", low=1, high=1_000_000, flags=("-k",))
    ] = 20
    uses: Annotated[int, Option("Placements of one donor at most.", label="Uses of a donor", low=1)] = 10
    per_image: Annotated[
        int | None,
        Option("New nuclei in one image at most.", label="Most per image", low=1, automatic="as many as fit"),
    ] = None
    kept_only: KeptOnly = False
    stain_matching: Annotated[
        bool, Option("Match the stain of each donor to the surroundings of its target.", advanced=True)
    ] = True
    symmetries: Annotated[bool, Option("Turn and mirror donors at random, without loss.", advanced=True)] = True
    collar: Annotated[
        float,
        Option(
            "Largest width of the tissue around a donor that comes along; it ends where both images are most alike. 0: "
            "one pixel, as in the paper.",
            low=0.0,
            high=5.0,
            unit="µm",
            advanced=True,
        ),
    ] = 2.0
    fit_turn: Annotated[
        bool,
        Option(
            "Of the turns of a donor, take the one that fits the surroundings of its target best, not one at random.",
            label="Turn that fits",
            advanced=True,
        ),
    ] = True
    jpeg_grid: Annotated[
        bool,
        Option(
            "Move donors by up to four pixels, so that what JPEG left in them lies on the grid of JPEG in the target.",
            label="Keep the grid of JPEG",
            advanced=True,
        ),
    ] = True
    spare: Annotated[
        float,
        Option(
            "Placements laid out for every new nucleus; those are made that together look around them as real ones of "
            "the class do. 1: the first by rank, as in the paper.",
            label="Placements to choose from",
            low=1.0,
            high=20.0,
            advanced=True,
        ),
    ] = 3.0
    check_free_places: CheckFreePlaces = True
    seed: Seed = 0


class NucleiMix(Method[NucleiMixSettings, PaintItem], Placing):
    """Real nuclei of a rare class, copied to candidate locations and blended in by a diffusion model."""

    name = "nucleimix"
    title = "NucleiMix"
    makes = "real nuclei of a rare class, copied to candidate locations and blended in by a diffusion model."
    citation = "Wang & Kwak, NucleiMix, arXiv 2410.16671"
    needs = Needs(instances=True)
    settings = NucleiMixSettings
    stage = CANDIDATES
    seconds = 0.5

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
        placements, refused = yield from placing.choose_placements(
            candidates,
            images,
            lay,
            before,
            count=ceil(settings.spare * settings.count),
            uses=settings.uses,
            per_image=settings.per_image,
        )
        donors = {(each.donor.image, each.donor.instance): each.donor for each in candidates}
        kept = work.decisions.get("candidate", {}).keys()
        placements = yield from _most_alike(
            placements, list(donors.values()), images, settings.count, settings.seed, kept
        )
        items = [_item(candidate, plan, instance, images, search) for candidate, plan, instance in placements]
        outcomes = refused | {item.id: "" for item in items}
        return Plan(items, settings.count, Counter(refused.values()), tuple(images.problems.values()), outcomes)

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


APPEARANCE: Mapping[str, bool | float] = MappingProxyType(
    {"stain_matching": True, "symmetries": True, "collar": 0.0, "jpeg_grid": False, "fit_turn": False}
)
"""How a donor is made to look at home, as ``plan_placement`` takes it; records of older versions lack some of these."""


def _lay_new(model: AnyModel, settings: NucleiMixSettings) -> placing.Lay[WindowedPlan]:
    """Lays donors as settings say, in windows of a model; every candidate has a seed of its own."""
    appearance: dict[str, Any] = {key: getattr(settings, key) for key in APPEARANCE}

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


Placement = tuple[Candidate, WindowedPlan, int]


def _most_alike(
    laid: list[Placement],
    donors: Sequence[Location],
    images: placing.SourceImages,
    count: int,
    seed: int,
    kept: Collection[int],
) -> Job[list[Placement]]:
    """So many of the placements that were laid, by rank, that look around them together as real donors do at home.

    What is laid is not what was drawn: even tissue takes a donor where varied tissue refuses it. So the draw is
    balanced once more (``place_scores.balanced``), by what surrounds each nucleus within some micrometers (``looks``).
    Of every class as many stay as are among the first that were laid: those themselves where there is nothing to choose
    from, or real nuclei are too few to say how they look. Of the first, all ``kept`` ranks stay.
    """
    wanted = Counter(candidate.donor.type for candidate, _, _ in laid[:count])
    rng = np.random.default_rng([seed, 2])
    chosen: list[Placement] = []
    for kind, number in sorted(wanted.items()):
        own = [placement for placement in laid if placement[0].donor.type == kind]
        real = [donor for donor in donors if donor.type == kind]
        if len(own) == number or len(real) < place_scores.FEWEST_RARE:
            chosen += own[:number]
            continue
        looks = []
        for done, (candidate, plan, _) in enumerate(own):
            yield Event("Comparing looks", done, len(own) + len(real))
            looks.append(look_of_plan(images.require(candidate.target.image), plan.plan))
        at_home = []
        for done, donor in enumerate(sorted(real, key=lambda each: (each.image, each.instance))):
            yield Event("Comparing looks", len(own) + done, len(own) + len(real))
            if (home := images.get(donor.image)) is not None and home.holds(donor):
                at_home.append(look_of_nucleus(home, donor))
        logits = place_scores.balanced(np.zeros(len(own)), np.array(looks), np.array(at_home))
        fixed = [index for index, (candidate, _, _) in enumerate(own[:number]) if candidate.rank in kept]
        drawn = [index for index in sampling.draw_order(logits, rng).tolist() if index not in fixed]
        chosen += [own[index] for index in (fixed + drawn)[:number]]
    return sorted(chosen, key=lambda placement: placement[0].rank)


def _item(
    candidate: Candidate, plan: WindowedPlan, instance: int, images: placing.SourceImages, search: Mapping[str, Any]
) -> PaintItem:
    facts = {"search": search, "sources": images.sources(candidate), **candidate_facts(candidate)}
    return PaintItem(candidate.rank, replace(plan, instance=instance), facts)


def _lay_again(records: Sequence[Record], ingredients: Ingredients) -> Job[dict[int, WindowedPlan | str]]:
    """Plans of recorded changes by id, or why there are none any more."""
    facts = {source["image"]: source for record in records for source in record.provenance["sources"].values()}
    images = placing.SourceImages(lambda name: ingredients.read(facts[name]))
    by_id = {record.id: record for record in records}

    def lay(target: IndexedImage, candidate: Candidate, donor: DonorCrop, taken: Mask) -> WindowedPlan | str:
        record = by_id[candidate.rank]
        appearance: dict[str, Any] = {key: record.provenance.get(key, old) for key, old in APPEARANCE.items()}
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
