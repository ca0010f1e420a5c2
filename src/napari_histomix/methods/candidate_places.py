"""Possible places of rare nuclei: what surrounds them, as numbers, and how rare-like that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix import place_scores, sampling
from napari_histomix.compositing.donors import NucleusSurvey
from napari_histomix.datasets import Dataset
from napari_histomix.features import Encoder as PatchEncoder
from napari_histomix.features.context import context_features
from napari_histomix.features.neighborhood import neighborhood_features
from napari_histomix.records import Event, Job, Location

if TYPE_CHECKING:
    from napari_histomix.methods.candidate_stage import CandidateSettings

Chosen = NDArray[np.intp]
WORTH = 500
"""Equally likely places that a draw by the Gaussian is worth at least."""


@dataclass(frozen=True, eq=False)
class Places:
    """Rare nuclei, major nuclei and background locations of all training images, with their surroundings as numbers.

    ``patches`` (N, d) are the encoder's features, ``nuclei`` (N, k) those of the labeled nuclei around. ``groups`` are
    the patients, or the images of patients that are not known, that the places belong to. ``beside`` (N,) are the free
    places beside rare nuclei, which no score learns from; ``rooms`` (N,) is the largest area in µm² that has room
    there, infinite for other places; ``crowding`` (N,) is how many more there are than if all were drawn uniformly.
    """

    locations: list[Location]
    patches: NDArray[np.float32]
    nuclei: NDArray[np.float32]
    groups: list[str]
    beside: NDArray[np.bool_]
    rooms: NDArray[np.float64]
    crowding: NDArray[np.float64]

    @property
    def kinds(self) -> NDArray[np.str_]:
        return np.array([location.kind for location in self.locations])

    @property
    def images(self) -> list[str]:
        return [location.image for location in self.locations]

    def features(self, neighborhood: bool) -> NDArray[np.float32]:
        """Surroundings (N, …) as settings say."""
        return np.concatenate([self.patches, self.nuclei], axis=1) if neighborhood else self.patches


BESIDE_UM = 12.0
"""How far from a rare nucleus a place is beside it: twice the half width of what a detector of nuclei sees."""
ROOM = 3
"""Pixels that a free place has around a nucleus: layer 1 and the transition zone."""


def describe_places(
    dataset: Dataset, seen: NucleusSurvey, settings: CandidateSettings, encoder: PatchEncoder
) -> Job[Places]:
    """All nuclei that were seen, and background locations, with their surroundings (lines 1–6). A long job."""
    total = sum(map(len, seen.nuclei.values()))
    radii = np.array([sqrt(nucleus.area / np.pi) * seen.mpp[nucleus.image] for nucleus in seen.rare])
    radius = float(np.median(radii))
    density = settings.background_share * total / max(1.0, sum(seen.areas.values()))
    expected = total + round(settings.background_share * total)
    classes = [nucleus.number for nucleus in dataset.classes]
    every = [nucleus.number for nucleus in dataset.all_classes]
    locations: list[Location] = []
    groups: list[str] = []
    vectors: list[NDArray[np.float32]] = [np.empty((0, encoder.dim), np.float32)]
    around: list[NDArray[np.float32]] = []
    rooms: list[NDArray[np.float64]] = []
    crowding: list[NDArray[np.float64]] = []
    is_beside: list[NDArray[np.bool_]] = []
    for index, (name, nuclei) in enumerate(seen.nuclei.items()):
        image = dataset.read(name)
        clear = sampling.clearance(image)
        rng = np.random.default_rng([settings.seed, index])
        places = sampling.background_locations(
            image, round(density * seen.areas[name]), radius / image.mpp + ROOM, rng, clear
        )
        rng = np.random.default_rng([settings.seed, index, 1])
        rare = [nucleus for nucleus in nuclei if nucleus.kind == "rare"]
        wanted, reach = radii / image.mpp + ROOM, BESIDE_UM / image.mpp
        # Rare nuclei lie at the borders of lumina, too; in the middle of one a nucleus would float.
        room = np.where(sampling.tissue(image), sampling.clearance(image, on_tissue=False), 0)
        beside = sampling.locations_beside(image, rare, reach, settings.beside_rare, wanted, rng, room)
        known = set(places)
        beside = [place for place in beside if place not in known]
        here = nuclei + places + beside
        done = len(locations)
        locations += here
        groups += [f"patient {image.source.patient}" if image.source.patient else name] * len(here)
        is_beside.append(np.arange(len(here)) >= len(here) - len(beside))
        largest, crowd = np.full(len(here), np.inf), np.ones(len(here))
        if settings.beside_rare:
            # Of an area, so many pixels are drawn by chance, and so many more for each rare nucleus nearby.
            eligible = radius / image.mpp + ROOM
            chance = len(places) / max(int(np.count_nonzero(clear > eligible)), 1)
            own, free = (sampling.at_places(distance, places + beside) for distance in (room, clear))
            near = sampling.numbers_within(places + beside, rare, reach) * (wanted < own[:, None]).mean(axis=1)
            dense = chance * (free > eligible) + near * settings.beside_rare / (np.pi * reach**2)
            # Places too tight for most nuclei are few; the draw must not rest on them.
            crowd[len(nuclei) :] = np.maximum(dense / max(chance, 1e-6), 1)
            largest[len(nuclei) :] = np.pi * ((own - ROOM) * image.mpp) ** 2
        rooms.append(largest)
        crowding.append(crowd)
        # Nuclei of classes that are neither rare nor major lie around places, too.
        neighbors = sampling.nucleus_locations(image, (), every)
        around.append(neighborhood_features(here, neighbors, classes, image.instances.shape, image.mpp))
        centers = np.array([(location.row, location.col) for location in here]).reshape(-1, 2)
        for chunk in context_features(image, centers, encoder):
            vectors.append(chunk)
            done += len(chunk)
            yield Event("Comparing surroundings", min(done, expected), expected)
    return Places(
        locations,
        np.concatenate(vectors),
        np.concatenate(around),
        groups,
        np.concatenate(is_beside),
        np.concatenate(rooms),
        np.concatenate(crowding),
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of possible places, with what they are compared to and how well they tell rare places apart.

    ``own`` are those of the rare nuclei's own surroundings, in ascending order, before any calibration.
    """

    values: NDArray[np.float64]
    percentiles: NDArray[np.float64]
    temperature: float
    own: NDArray[np.float64]
    told_apart: place_scores.Separability | None = None
    ratios: Ratios | None = None


@dataclass(frozen=True, eq=False)
class Ratios:
    """The density ratios of a cross-fit, linear in the features, and what left-out places show of their scores.

    ``folds`` is the number, by image, of the model that did not learn from it (of the first place there, where places
    were dealt out); ``calibration`` (2, m) are scores in ascending order and their calibrated values.
    """

    models: tuple[place_scores.DensityRatio, ...]
    folds: Mapping[str, int]
    calibration: NDArray[np.float64]


def gaussian_scores(components: NDArray[np.float64], model: sampling.ContextModel, possible: Chosen) -> Scores:
    """How likely surroundings are under the Gaussian of rare ones (lines 7 and 8)."""
    values = model.score_samples(components[possible])
    temperature = sampling.sharpest_temperature(values, min(WORTH, 0.1 * len(possible)))
    return Scores(values, model.percentile(values), temperature, model.rare_log_likelihoods)


def ratio_scores(features: NDArray[np.float32], places: Places, possible: Chosen) -> Job[Scores]:
    """How much more frequent surroundings are around rare nuclei than elsewhere, as other images tell.

    Places ∝ p(x | rare) are places as they come ∝ p(x | rare) / p(x | other): the temperature of their draw is 1.
    """
    rare = places.kinds == "rare"
    folds = place_scores.fold_numbers(rare, places.groups)
    learned = ~places.beside
    models: list[place_scores.DensityRatio] = []

    def fit(own: place_scores.Features, others: place_scores.Features) -> Callable[[place_scores.Features], Any]:
        models.append(place_scores.DensityRatio.fit(own, others))
        return models[-1].score_samples

    scores = yield from place_scores.cross_fit(features, rare, folds, fit, learned)
    told = None
    if len({group for group, one in zip(places.groups, rare, strict=True) if one}) > 1:
        images = [name for name, one in zip(places.images, learned, strict=True) if one]
        told = place_scores.Pairs.of(scores[learned], rare[learned], images).separability()
    own = np.sort(scores[rare])
    values = place_scores.calibrated(scores, rare, learned)
    number = {fold: place for place, fold in enumerate(np.unique(folds).tolist())}
    by_image = {name: number[fold] for name, fold in zip(reversed(places.images), folds[::-1].tolist(), strict=True)}
    ratios = Ratios(tuple(models), by_image, _steps(scores, values))
    percentiles = 100.0 * np.searchsorted(own, scores[possible], side="right") / len(own)
    return Scores(values[possible], percentiles, 1.0, own, told, ratios)


def _steps(scores: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores and their calibrated values (2, m), where these begin to be others: between two, they are on a line."""
    order = np.argsort(scores, kind="stable")
    scores, values = scores[order], values[order]
    change = np.diff(values) != 0
    kept = np.concatenate([[True], change]) | np.concatenate([change, [True]])
    return np.stack([scores[kept], values[kept]])
