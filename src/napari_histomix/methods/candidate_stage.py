"""Candidates: where rare nuclei would plausibly lie, and which donor for each; a person vets them before any is made.

Lines 1–11 of NucleiMix's algorithm 1 (Wang & Kwak, arXiv 2410.16671). Where the paper is silent or its form does not
work on real data, docs/nucleimix.md says what is done instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix import place_scores, sampling
from napari_histomix.compositing import placing
from napari_histomix.compositing.donors import rare_and_major, survey_nuclei
from napari_histomix.datasets import Dataset, Problem
from napari_histomix.features import open_encoder
from napari_histomix.methods.base import Stage, Store, Work
from napari_histomix.methods.candidate_places import WORTH, describe_places, gaussian_scores, ratio_scores
from napari_histomix.methods.learned_places import LEARNED, LearnedPlaces
from napari_histomix.records import Candidate, Event, HistomixError, Job
from napari_histomix.settings import Encoder, Option, Presets, Seed, plain

FEW_EFFECTIVE = 50
GUESS = 0.5
"""Area under the curve of a guess."""
DENSITIES = {"ratio": "Density ratio", "gaussian": "Gaussian (the paper)"}


@dataclass(frozen=True)
class CandidateSettings:
    """Where rare nuclei would fit."""

    presets: ClassVar[Presets] = {
        "paper": {
            "density": "gaussian",
            "neighborhood": False,
            "temperature": 1.0,
            "donor_temperature": 1.0,
            "beside_rare": 0,
            "balance": False,
            "area_ratio": (0.4, 1.1),
            "pca_on_rare": True,
        }
    }
    rare: Annotated[tuple[str, ...], Option("Classes to grow.", label="Rare classes", kind="classes")]
    major: Annotated[
        tuple[str, ...],
        Option("Classes that may be replaced.", label="Major classes", kind="classes", automatic="all others"),
    ] = ()
    encoder: Encoder = "texture"
    density: Annotated[
        str,
        Option(
            "How rare-like surroundings are: rare against other places, or the density of rare ones alone.",
            choices=DENSITIES,
            advanced=True,
        ),
    ] = "ratio"
    neighborhood: Annotated[
        bool,
        Option(
            "Surroundings are also the labeled nuclei: how many of which class, how near, how large.",
            label="Labeled nuclei around",
            advanced=True,
        ),
    ] = True
    components: Annotated[
        int,
        Option(
            "Principal components that donors, and surroundings under the Gaussian, are compared by.",
            low=1,
            high=4096,
            advanced=True,
        ),
    ] = 16
    temperature: Annotated[
        float | None,
        Option(
            "Divides the scores before the draw: higher for more variety; 1 is the paper's form.",
            low=0.01,
            automatic=f"1; with the Gaussian at least what makes the draw worth {WORTH} places, or a tenth of all",
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
    beside_rare: Annotated[
        int,
        Option(
            "Free places considered close to every rare nucleus besides, as tight as nuclei of the class are large; "
            "they get donors that fit there. 0: none, as in the paper.",
            label="Places beside rare nuclei",
            low=0,
            high=1000,
            advanced=True,
        ),
    ] = 60
    balance: Annotated[
        bool,
        Option(
            "Weight the draw of places so that its mean surroundings are those of rare nuclei.",
            label="Balanced draw",
            advanced=True,
        ),
    ] = True
    area_ratio: Annotated[
        tuple[float, float],
        Option("Area of a donor over that of the nucleus it replaces.", low=0.0, high=100.0, advanced=True),
    ] = (0.1, 1.1)
    pca_on_rare: Annotated[
        bool,
        Option(
            "Fit the components to the surroundings of rare nuclei only, as the published code does.",
            label="Components of rare surroundings",
            advanced=True,
        ),
    ] = False
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """Candidate locations in the order they were drawn, with what a person should know of the draw.

    ``settings`` hold the classes, the density and the temperature of the donor draw that were used, ``temperature`` is
    that of the draw of locations, and ``effective_sample_size`` says how many equally likely locations it was worth.
    ``considered`` counts locations by kind, ``unfit_donors`` rare nuclei that cannot be donors, by reason.
    ``told_apart`` is how well the scores tell rare places from others; None where too few nuclei can say, or the
    density is the Gaussian. ``few`` is how many rare nuclei there are where they are too few for the density that was
    asked for. ``learned`` is what it takes to describe, score and fill one more place.
    """

    candidates: tuple[Candidate, ...]
    settings: CandidateSettings
    encoder: str
    temperature: float
    effective_sample_size: float
    considered: Counter[str]
    unfit_donors: Counter[str]
    problems: tuple[Problem, ...]
    learned: LearnedPlaces
    told_apart: place_scores.Separability | None = None
    few: int | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences a person should read before going on."""
        sentences = []
        if self.few is not None:
            sentences.append(
                f"With fewer than {place_scores.FEWEST_RARE} rare nuclei (here {self.few}) it cannot be learned what "
                "tells their places from others, so the paper's Gaussian was used; add images."
            )
        if self.effective_sample_size < FEW_EFFECTIVE < len(self.candidates):
            sentences.append(
                f"The draw is worth only {self.effective_sample_size:.0f} different places; "
                "raise the temperature for more variety."
            )
        return tuple(sentences)

    @property
    def facts(self) -> dict[str, Any]:
        """How the candidates were found, as a study keeps it."""
        return {
            "candidate_settings": plain(self.settings),
            "encoder": self.encoder,
            "temperature": self.temperature,
            "effective_sample_size": self.effective_sample_size,
            "told_apart": self.told_apart._asdict() if self.told_apart else None,
            "warnings": list(self.warnings),
        }


def search_facts(kept: Mapping[str, Any]) -> dict[str, Any]:
    """How the candidates of a study were found, for provenance; ``kept`` is what its ``settings`` hold."""
    used = {key: kept[key] for key in ("encoder", "temperature") if key in kept}
    return {**kept.get("candidate_settings", {}), **used}


def candidate_facts(candidate: Candidate) -> dict[str, Any]:
    """What provenance says of a candidate itself."""
    by_hand = {} if candidate.placed_by is None else {"placed_by": candidate.placed_by}
    return {"log_likelihood": candidate.log_likelihood, **by_hand}


def told_apart_sentence(kept: Mapping[str, Any]) -> str:
    """How well places of the rare class can be told apart, as a study keeps it; empty where nothing measured it."""
    told = kept.get("told_apart")
    if told is None:
        learned = kept.get("candidate_settings", {}).get("density") == "ratio"
        if not learned:
            return ""
        return "All nuclei of this class are of one image or patient: too few to say whether places can be told apart."
    within = "" if told["within"] is None else f" (within an image {told['within']:.2f})"
    can = "can" if told["pooled"] > GUESS else "cannot"
    return f"Places of this class {can} be told apart here: {told['pooled']:.2f}{within}; a guess is {GUESS}."


def _balanced_draw(
    logits: NDArray[np.float64], features: NDArray[np.float32], rare: NDArray[np.float32]
) -> NDArray[np.float64]:
    """A draw balanced to rare nuclei, as far as it stays worth twice what it is warned of, or as much as before."""
    least = min(2 * FEW_EFFECTIVE, sampling.effective_sample_size(logits))
    change = place_scores.balanced(logits, features, rare) - logits
    shares = (1.0, 0.75, 0.5, 0.25)
    fitting = (logits + share * change for share in shares)
    return next((draw for draw in fitting if sampling.effective_sample_size(draw) >= least), logits)


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
        unread = f" Left out: {seen.problems[0].sentence}" if seen.problems else ""
        raise HistomixError(f"No training image has a nucleus of class {names}; choose a class that occurs.{unread}")
    flaws = seen.all_flaws()
    unfit = Counter(flaws.values())
    if len(seen.rare) == unfit.total():
        raise HistomixError(
            f"None of the {len(seen.rare)} nuclei of class {names} can be a donor: each touches another nucleus or the "
            "edge of its image; add images."
        )

    # Lines 1–6: surroundings of rare nuclei, major nuclei and background locations, as feature vectors.
    places = yield from describe_places(dataset, seen, settings, encoder)
    locations, kinds = places.locations, places.kinds
    features = places.features(settings.neighborhood)

    # Lines 7–8: the density of rare surroundings, and how rare-like each location's surroundings are.
    few = len(seen.rare) if settings.density == "ratio" and len(seen.rare) < place_scores.FEWEST_RARE else None
    used = replace(settings, density="gaussian") if few is not None else settings
    if len(seen.rare) < place_scores.FEWEST_RARE:
        # The mean of so few says little of where others lie.
        used = replace(used, balance=False)
    everywhere = features[~places.beside]
    model = sampling.ContextModel.fit(features[kinds == "rare"], everywhere, settings.components, settings.pca_on_rare)
    components = model.transform(features)
    possible = np.flatnonzero(kinds != "rare")
    if len(possible) == 0:
        raise HistomixError("There is no nucleus to replace and no free place in any training image; add images.")
    if used.density == "ratio":
        scores = yield from ratio_scores(features, places, possible)
    else:
        scores = gaussian_scores(components, model, possible)

    # Lines 9–11: draw locations, and a donor for each.
    temperature = settings.temperature or scores.temperature
    logits = scores.values / temperature - np.log(places.crowding[possible])
    if used.balance:
        logits = _balanced_draw(logits, features[possible], features[kinds == "rare"])
    rng = np.random.default_rng(settings.seed)
    givers = np.array(
        [i for i, location in enumerate(locations) if location.kind == "rare" and location not in flaws], dtype=int
    )
    micrometers = np.array([location.area * seen.mpp[location.image] ** 2 for location in locations])
    spread = rng.choice(possible, size=min(200, len(possible)), replace=False)
    distances = np.linalg.norm(components[spread][:, None] - components[givers][None], axis=2)
    spacing = settings.donor_temperature or max(float(np.median(distances)), 1e-9)
    draw, areas = sampling.DonorDraw(components[givers], spacing), micrometers[givers]
    candidates: list[Candidate] = []
    for number, drawn in enumerate(sampling.draw_order(logits, rng)):
        target = locations[possible[drawn]]
        fits = areas <= places.rooms[possible[drawn]]
        if target.kind == "major":
            fits = sampling.fitting(areas, micrometers[possible[drawn]], settings.area_ratio)
        donor = draw.draw(components[possible[drawn]], fits, rng)
        if donor is not None:
            own = float(scores.values[drawn]), float(scores.percentiles[drawn])
            candidates.append(Candidate(len(candidates), target, locations[givers[donor[0]]], *own))
        if number % 500 == 0:
            yield Event("Drawing donors", number, len(possible))
    yield Event("Drawing donors", len(possible), len(possible))
    rare_names, major_names = (tuple(map(dataset.class_name, numbers)) for numbers in (rare, major))
    return CandidateSet(
        tuple(candidates),
        replace(used, rare=rare_names, major=major_names, donor_temperature=spacing),
        encoder.name,
        temperature,
        sampling.effective_sample_size(logits),
        Counter(kinds.tolist()),
        unfit,
        tuple(seen.problems),
        LearnedPlaces.of(model, [locations[giver] for giver in givers], components[givers], areas, scores),
        scores.told_apart,
        few,
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
        work.store.set_candidates(found.candidates, found.facts | {LEARNED: found.learned.save(work.store.folder)})
        return found

    def usable(self, work: Work, kept_only: bool) -> list[Candidate]:
        """Those that somebody kept, by rank, then all others that nobody dropped, unless ``kept_only``.

        All images must be training images.
        """
        decisions, wanted = work.decisions.get("candidate", {}), {"keep"} if kept_only else {"keep", None}
        candidates = [
            candidate
            for candidate in work.store.candidates()
            if decisions.get(candidate.rank) in wanted and candidate.there(decisions)
        ]
        placing.check_candidates(work.dataset, candidates)
        return sorted(candidates, key=lambda candidate: (candidate.rank not in decisions, candidate.rank))


CANDIDATES = Candidates()
"""The stage of every method that takes its donors from candidates."""
