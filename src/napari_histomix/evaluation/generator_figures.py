"""Figures of a generator test: matching labels, likeness, nearest training patches, and distributions of layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_histomix.evaluation.figures import Counts, Estimate, auc, clustered
from napari_histomix.evaluation.generator_windows import nucleus_places
from napari_histomix.evaluation.likeness import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    picture_features,
    standardized,
)
from napari_histomix.evaluation.metrics import Overlaps
from napari_histomix.evaluation.nearest_patch import SPAN_UM, TrainingPatches
from napari_histomix.features import Encoder
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import layout_statistics
from napari_histomix.records import Event, Job

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel

U8 = NDArray[np.uint8]

REAL, IMAGE, PIX2PIX, EDGES, NONE = "real images", "image model", "pix2pix", "pix2pix with edges", "none"
HELD, RECOMBINED, DRAWN = "held-out maps", "recombined", "structure model"
TRAINING = "real training images"

FEWEST_IMAGES = 4
"""Images below which there is no interval; below ten it is too narrow, which a note says."""
NUCLEI = 4
"""Nuclei of a picture whose nearest training patches are looked for."""


class Pairs(NamedTuple):
    """Pictures (S, S, 3) of a generator with their layouts, and the seconds that it took for each."""

    layouts: Sequence[Layout]
    pictures: Sequence[U8]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Match:
    """How well labels match what a segmenter finds: mean PQ, and its ratio to that of real images.

    ``by_layouts`` has the ratio by where the layouts come from.
    """

    pq: Estimate
    ratio: Estimate
    by_layouts: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far features of pictures are from those of held-out real ones; see ``likeness``."""

    frechet: float
    kid: float
    density: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Nearest:
    """Distances of nuclei to their nearest training patch: median and 5th percentile.

    ``nearer`` is the share of pairs of such a nucleus and one of held-out images in which it is nearer to a training
    patch; 0.5 where they are alike.
    """

    median: float
    lowest: float
    nearer: Estimate


def outside(instances: NDArray[np.int32], ignored: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Without the nuclei that lie mostly where nobody knows which there are."""
    ids, areas = np.unique(instances, return_counts=True)
    inside = np.bincount(np.searchsorted(ids, instances[ignored]), minlength=len(ids))
    return np.where(np.isin(instances, ids[2 * inside > areas]), np.int32(0), instances)


class Scores(NamedTuple):
    """PQ of pairs, NaN without any nucleus, and the names of the images that their layouts come from."""

    pq: NDArray[np.float64]
    images: list[str]

    @classmethod
    def of(cls, layouts: Sequence[Layout], found: Sequence[NDArray[np.int32]]) -> Scores:
        scores = [Overlaps.of(instances, layout.instances).pq for instances, layout in zip(found, layouts, strict=True)]
        # A layout that comes from no image is independent of all others.
        return cls(np.array(scores), [layout.source or f" {number}" for number, layout in enumerate(layouts)])

    def at(self, places: Sequence[int]) -> Scores:
        return Scores(self.pq[list(places)], [self.images[place] for place in places])

    def known(self) -> Scores:
        return self.at(np.flatnonzero(np.isfinite(self.pq)).tolist())


def mean_score(scores: Scores, seed: int) -> Estimate:
    """Mean PQ, with an interval that resamples images."""
    known = scores.known()
    values = np.stack([known.pq, np.ones(len(known.pq))], axis=1)
    return clustered(values, known.images, _quotient, seed, 1, FEWEST_IMAGES)


def score_ratio(scores: Scores, ceiling: Scores, seed: int) -> Estimate:
    """Mean over mean, with an interval that resamples the images of both sides together."""
    parts = [scores.known(), ceiling.known()]
    values = np.zeros((sum(len(part.pq) for part in parts), 4))
    values[: len(parts[0].pq), 0], values[: len(parts[0].pq), 1] = parts[0].pq, 1
    values[len(parts[0].pq) :, 2], values[len(parts[0].pq) :, 3] = parts[1].pq, 1
    names = [*parts[0].images, *parts[1].images]

    def ratio(sums: Counts) -> Counts:
        return _quotient(np.stack([_quotient(sums[..., :2]), _quotient(sums[..., 2:])], axis=-1))

    return clustered(values, names, ratio, seed, 1, FEWEST_IMAGES)


def _quotient(sums: Counts) -> Counts:
    """The first of two sums by the second; NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan))


def likeness_of(
    pictures: Mapping[str, Sequence[U8]], real: Sequence[U8], mpp: float, encoder: Encoder
) -> Job[dict[str, Likeness]]:
    """How like held-out real pictures those of each name are; ``TRAINING`` must be among them. A long job."""
    phase = f"Comparing pictures: {encoder.name.partition('@')[0]}"
    features = {}
    for number, (name, shown) in enumerate({REAL: real, **pictures}.items()):
        yield Event(phase, number, len(pictures) + 1)
        features[name] = picture_features(shown, mpp, encoder)
    all_real = np.concatenate([features[REAL], features[TRAINING]])
    reference = standardized(features.pop(REAL), all_real)
    likeness = {}
    for name, raw in features.items():
        own = standardized(raw, all_real)
        distances = frechet_distance(own, reference), kernel_distance(own, reference)
        likeness[name] = Likeness(*distances, *density_coverage(own, reference))
    return likeness


def nearest_of(patches: TrainingPatches, real: Pairs, pairs: Mapping[str, Pairs], seed: int) -> Job[dict[str, Nearest]]:
    """How near the nuclei of held-out images and of pairs are to training patches. A long job."""
    distances: dict[str, NDArray[np.float64]] = {}
    images: dict[str, list[str]] = {}
    for name, made in {REAL: real, **pairs}.items():
        rng, parts, images[name] = np.random.default_rng([seed, 4]), [], []
        for number, (layout, pixels) in enumerate(zip(made.layouts, made.pictures, strict=True)):
            yield Event(f"Looking for training patches: {name}", number, len(made.pictures))
            places = nucleus_places(layout, NUCLEI, SPAN_UM, rng)
            parts.append(patches.distances(pixels, layout.mpp, places))
            images[name] += [layout.source or f" {number}"] * len(places)
        distances[name] = np.concatenate(parts)
    nearest = {}
    for name, own in distances.items():
        both = np.concatenate([own, distances[REAL]])
        if not len(own):
            # All layouts are empty.
            continue
        generated = np.arange(len(both)) < len(own)
        nearer = auc(-both, generated, [*images[name], *images[REAL]])
        nearest[name] = Nearest(float(np.median(own)), float(np.quantile(own, 0.05)), nearer)
    return nearest


def layout_distances(
    layouts: Mapping[str, Sequence[Layout]], structure: GeneratorModel | None
) -> dict[str, dict[str, float]]:
    """KS distances from the held-out layouts; where a structure model is there, in its classes."""
    if structure is not None:
        from napari_histomix.generation.models import class_of

        known = structure.classes
        layouts = {
            origin: [
                replace(each, classes={number: class_of(name, known) for number, name in each.classes.items()})
                for each in own
            ]
            for origin, own in layouts.items()
        }
    statistics = {origin: layout_statistics(own) for origin, own in layouts.items()}
    return {origin: own.ks_distances(statistics[HELD]) for origin, own in statistics.items() if origin != HELD}
