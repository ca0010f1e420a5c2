"""Which donor goes where: locations, how rare-like their surroundings are, and the weighted draw of donors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from napari_histomix.records import HistomixError, Kind, LabeledImage, Location
from napari_histomix.stains import optical_density

if TYPE_CHECKING:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    from napari_histomix.segmentation.pool import SegmentPool

TISSUE_DENSITY = 0.12
"""Green optical density (base 10) from which a place counts as tissue."""


def nucleus_boxes(instances: NDArray[np.int32]) -> dict[int, tuple[slice, slice]]:
    """Bounding box of every instance that occurs in an instance map (H, W), by id in ascending order."""
    if not instances.size:
        return {}
    # By runs of equal ids within a row: far fewer than pixels, and ids may be as large as 32 bits allow.
    width = instances.shape[1]
    flat = instances.ravel()
    starts = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=starts[1:])
    starts[::width] = True
    first = np.flatnonzero(starts)
    stop = np.append(first[1:], flat.size)
    kept = flat[first] != 0
    first, stop = first[kept], stop[kept]
    order = np.argsort(flat[first], kind="stable")
    first, stop = first[order], stop[order]
    ids, groups = np.unique(flat[first], return_index=True)
    if not len(ids):
        return {}
    rows, lefts, rights = first // width, first % width, (stop - 1) % width
    # Within an id, runs are still in the order of their rows.
    tops, bottoms = rows[groups], rows[np.append(groups[1:], len(rows)) - 1]
    lefts, rights = np.minimum.reduceat(lefts, groups), np.maximum.reduceat(rights, groups)
    return {
        instance: (slice(top, bottom + 1), slice(left, right + 1))
        for instance, top, bottom, left, right in zip(
            *(values.tolist() for values in (ids, tops, bottoms, lefts, rights)), strict=True
        )
    }


def nucleus_locations(image: LabeledImage, rare: Collection[int], major: Collection[int]) -> list[Location]:
    """Rare and major nuclei of an image by id, without synthetic ones; their centers are centroids, in pixels."""
    locations = []
    for instance, box in nucleus_boxes(image.instances).items():
        if instance in image.synthetic:
            continue
        number = image.types[instance]
        if number not in (*rare, *major):
            continue
        rows, cols = np.nonzero(image.instances[box] == instance)
        kind: Kind = "rare" if number in rare else "major"
        center = float(rows.mean() + box[0].start), float(cols.mean() + box[1].start)
        locations.append(Location(image.source.image, kind, *center, instance, number, len(rows)))
    return locations


def tissue(image: LabeledImage) -> NDArray[np.bool_]:
    """(H, W) bool: where there is tissue, not glass, lumen or mucus: green optical density, smoothed over 2 µm."""
    density = optical_density(image.pixels[..., 1])
    return cv2.GaussianBlur(density, (0, 0), 2.0 / image.mpp) > TISSUE_DENSITY


def clearance(image: LabeledImage, on_tissue: bool = True) -> NDArray[np.float32]:
    """(H, W): how far the nearest nucleus or edge of the image is, and glass if ``on_tissue``, in pixels; 0 in them."""
    free = (image.instances == 0).astype(np.uint8)
    if on_tissue:
        free &= tissue(image)
    # A frame of zeros makes the image's edge count as occupied.
    return np.asarray(cv2.distanceTransform(np.pad(free, 1), cv2.DIST_L2, 5)[1:-1, 1:-1])


def background_locations(
    image: LabeledImage,
    count: int,
    radius: float,
    rng: np.random.Generator,
    distance: NDArray[np.float32] | None = None,
) -> list[Location]:
    """Uniformly drawn places with nothing but tissue without a nucleus within ``radius`` pixels of their center.

    All there are where there are fewer than ``count``. ``distance`` is the image's ``clearance``, if it is known.
    """
    distance = clearance(image) if distance is None else distance
    places = np.flatnonzero(distance > radius)
    chosen = rng.choice(places, size=min(count, len(places)), replace=False)
    rows, cols = np.unravel_index(chosen, distance.shape)
    name = image.source.image
    return [Location(name, "background", float(row), float(col)) for row, col in zip(rows, cols, strict=True)]


def locations_beside(
    image: LabeledImage,
    nuclei: Sequence[Location],
    reach: float,
    count: int,
    radii: NDArray[np.float64],
    rng: np.random.Generator,
    distance: NDArray[np.float32],
) -> list[Location]:
    """Free places beside nuclei: for each, ``count`` drawn uniformly from the disc of ``reach`` pixels around it.

    Of these, such stay as have no less ``clearance`` (``distance``) than one of ``radii`` pixels, drawn at random:
    places are as tight as what they are meant for.
    """
    if not nuclei:
        return []
    centers = np.repeat([(nucleus.row, nucleus.col) for nucleus in nuclei], count, axis=0)
    away, angle = reach * np.sqrt(rng.random(len(centers))), 2 * np.pi * rng.random(len(centers))
    places = np.rint(centers + away[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)).astype(int)
    wanted = rng.choice(radii, size=len(places))
    inside = np.all((places >= 0) & (places < distance.shape), axis=1)
    places, wanted = places[inside], wanted[inside]
    places = np.unique(places[distance[tuple(places.T)] > wanted], axis=0)
    return [Location(image.source.image, "background", float(row), float(col)) for row, col in places]


def at_places(values: NDArray[np.float32], places: Sequence[Location]) -> NDArray[np.float32]:
    """Values (N,) that a map (H, W) has at background locations."""
    rows, cols = (np.array([getattr(place, axis) for place in places], int) for axis in ("row", "col"))
    return values[rows, cols]


def numbers_within(places: Sequence[Location], nuclei: Sequence[Location], reach: float) -> NDArray[np.intp]:
    """How many nuclei of an image lie within ``reach`` pixels of each place (N,)."""
    if not places or not nuclei:
        return np.zeros(len(places), np.intp)
    centers, others = (cKDTree([(each.row, each.col) for each in group]) for group in (places, nuclei))
    return np.array([len(near) for near in centers.query_ball_tree(others, reach)], np.intp)


Features = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The density of rare surroundings, N(μ, Σ) in a few principal components (NucleiMix, algorithm 1, line 7).

    Made by ``fit``. The covariance is full with Ledoit–Wolf shrinkage from ten rare nuclei a component on; below, it
    is diagonal and each variance is drawn toward that of all surroundings as if by as many pseudo-observations as
    there are components, so that even a single rare nucleus gives a density.
    """

    scaler: StandardScaler
    pca: PCA
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    rare_log_likelihoods: NDArray[np.float64]

    @classmethod
    def fit(cls, rare: Features, pooled: Features, components: int = 16, pca_on_rare: bool = False) -> ContextModel:
        """Fit to rare (N, d) and all (M, d) surroundings, with at most as many principal components as the data has.

        With ``pca_on_rare`` the components are fitted to the rare surroundings only, as the published code does.
        """
        # Here, since windows and command lines import this room before anything is fitted, and these take a second.
        from sklearn.covariance import ledoit_wolf
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        if len(rare) == 0:
            raise HistomixError("There is no rare nucleus to learn from; choose a class that occurs in the images.")
        basis = rare if pca_on_rare and len(rare) > 1 else pooled
        if len(basis) < 2:
            raise HistomixError("There are too few nuclei and places to compare; add images.")
        scaler = StandardScaler().fit(basis)
        count = min(components, basis.shape[1], len(basis) - 1)
        pca = PCA(count, svd_solver="full").fit(scaler.transform(basis))
        own = pca.transform(scaler.transform(rare)).astype(np.float64)
        mean = own.mean(axis=0)
        if len(own) >= 10 * count:
            covariance, _ = ledoit_wolf(own)
        else:
            everything = pca.transform(scaler.transform(pooled)).var(axis=0)
            covariance = np.diag((len(own) * own.var(axis=0) + count * everything) / (len(own) + count))
        covariance = covariance + 1e-9 * np.trace(covariance) * np.eye(count) + 1e-12 * np.eye(count)
        return cls(scaler, pca, mean, covariance, np.sort(_log_density(own, mean, covariance)))

    def transform(self, features: Features) -> NDArray[np.float64]:
        """(N, d) features as (N, p) principal components."""
        if len(features) == 0:
            return np.empty((0, len(self.mean)))
        return np.asarray(self.pca.transform(self.scaler.transform(features)), np.float64)

    def score_samples(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-likelihood (N,) of principal components (N, p) under the rare surroundings."""
        if len(components) == 0:
            return np.empty(0)
        return _log_density(components, self.mean, self.covariance)

    def percentile(self, log_likelihoods: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share (0–100) of the rare nuclei's own surroundings that score below each value (N,)."""
        below = np.searchsorted(self.rare_log_likelihoods, log_likelihoods, side="right")
        return 100.0 * below / len(self.rare_log_likelihoods)


def _log_density(
    components: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    from scipy.stats import multivariate_normal

    return np.atleast_1d(multivariate_normal(mean, covariance).logpdf(components))


PAIRS = 2000
"""Random pairs that the median distance is taken from."""


class DonorDraw:
    """Donors drawn by p(j | target) ∝ exp(−w_j · ‖f_target − f_j‖ / τ); w starts at 1 and grows by 1 at each use.

    NucleiMix, algorithm 1, line 11; USegMix, equation 1. Raw distances would leave nearly all mass on one donor, so by
    default τ is the median distance between donors; τ = 1 is the papers' form.

    Parameters
    ----------
    vectors : (N, p) float
        Of the donors; a memory map will do. Probabilities have the same type.
    temperature : float, optional
        τ.

    Attributes
    ----------
    weights : (N,) float
        w.

    Examples
    --------
    >>> draw = DonorDraw(np.array([[0.0], [1.0], [3.0]]), temperature=1.0)
    >>> draw.chances(np.array([0.0]), np.array([True, True, False])).round(2).tolist()
    [0.73, 0.27, 0.0]
    """

    def __init__(self, vectors: NDArray[Any], temperature: float | None = None) -> None:
        self.vectors = vectors
        self.weights = np.ones(len(vectors), vectors.dtype)
        # Expanded squares spare a copy of a million single-precision vectors; a few donors are compared exactly.
        self._squares = np.einsum("ij,ij->i", vectors, vectors) if vectors.dtype == np.float32 else None
        self.temperature = temperature or self._median_distance()

    def _median_distance(self) -> float:
        if len(self.vectors) < 2:
            return 1.0
        rng = np.random.default_rng(0)
        first, second = rng.integers(len(self.vectors), size=(2, PAIRS))
        apart = first != second
        distances = np.linalg.norm(self.vectors[first[apart]] - self.vectors[second[apart]], axis=1)
        return max(float(np.median(distances)), 1e-6)

    def distances(self, target: NDArray[Any]) -> NDArray[Any]:
        """Distances (N,) of all donors from a vector (p,)."""
        target = np.asarray(target, self.vectors.dtype)
        if self._squares is None:
            return np.asarray(np.linalg.norm(self.vectors - target, axis=1))
        return np.sqrt(np.maximum(self._squares - 2 * (self.vectors @ target) + target @ target, 0))

    def chances(self, target: NDArray[Any], allowed: NDArray[np.bool_]) -> NDArray[Any]:
        """Probabilities (N,) of all donors for a target (p,); 0 where not ``allowed`` (N,), all 0 where none is."""
        logits = self.distances(target)
        logits *= self.weights
        logits /= -self.temperature
        logits[~allowed] = -np.inf
        if not allowed.any():
            return np.zeros_like(logits)
        logits -= logits.max()
        np.exp(logits, out=logits)
        logits /= logits.sum(dtype=np.float64)
        return logits

    def pick(
        self, target: NDArray[Any], allowed: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[int, float] | None:
        """Index of a donor, which is not used yet, and its probability; None where nothing is allowed."""
        heights = np.cumsum(self.chances(target, allowed), dtype=np.float64)
        if len(heights) == 0 or heights[-1] <= 0:
            return None
        # Not np.searchsorted: it gives the interpreter up, but too briefly for a window that waits for it.
        chosen = int(np.count_nonzero(heights <= rng.random() * heights[-1]))
        return chosen, float((heights[chosen] - (heights[chosen - 1] if chosen else 0)) / heights[-1])

    def draw(
        self, target: NDArray[Any], allowed: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[int, float] | None:
        """As ``pick``, and the donor's weight grows by its use."""
        picked = self.pick(target, allowed, rng)
        if picked is not None:
            self.use(picked[0])
        return picked

    def use(self, index: int) -> None:
        """Count one use of a donor."""
        self.weights[index] += 1


def fitting(areas: NDArray[Any], area: float, area_ratio: tuple[float, float]) -> NDArray[np.bool_]:
    """Donors (N,) whose share of a target's area lies in the range, both ends included; areas are in µm²."""
    ratio = areas / area
    return np.asarray((ratio >= area_ratio[0]) & (ratio <= area_ratio[1]))


class DonorChoice:
    """Which segments of a class may replace a target, and with what probability.

    ``members`` (n,) are the segments of the class that may be drawn, in the order of the pool, and ``images`` (n,) the
    index of each one's image in the pool; of an image that was divided again, its first. ``area_ratio`` bounds donor
    area / target area, in µm²; ``own_patient`` lets a donor come from the target's own patient, or own image where
    patients are not known. Without a ``temperature``, that of the draw is ``sharper`` times the median distance.
    """

    def __init__(
        self,
        pool: SegmentPool,
        members: NDArray[np.intp],
        kind: str,
        temperature: float | None = None,
        area_ratio: tuple[float, float] = (0.0, float("inf")),
        own_patient: bool = False,
        sharper: float = 1.0,
    ) -> None:
        self.pool, self.members, self.kind = pool, members, kind
        self.area_ratio, self.own_patient = area_ratio, own_patient
        self.pool_draw = DonorDraw(pool.vectors(members, kind), temperature)
        if temperature is None:
            self.pool_draw.temperature *= sharper
        names = [image.source.image for image in pool.images]
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        self.images = np.array([first[name] for name in names], np.intp)[pool.rows["image"][members]]
        scales = np.array([image.mpp for image in pool.images])
        self.areas = pool.rows["area"][members] * scales[self.images] ** 2
        sources = [image.source for image in pool.images]
        origins = [f"patient {source.patient}" if source.patient else source.image for source in sources]
        self._origins = np.unique(origins, return_inverse=True)[1]

    def allowed(self, target: int, own_patient: bool | None = None) -> NDArray[np.bool_]:
        """Which members (n,) may replace a segment: not itself, of a fitting size, of another patient.

        ``own_patient`` is in place of what the choice was made with.
        """
        own_patient = self.own_patient if own_patient is None else own_patient
        image = int(self.pool.rows["image"][target])
        area = float(self.pool.rows["area"][target]) * self.pool.images[image].mpp ** 2
        allowed = fitting(self.areas, area, self.area_ratio) & (self.members != target)
        if not own_patient:
            allowed &= self._origins[self.images] != self._origins[image]
        return np.asarray(allowed)

    def forbidding(self, target: int) -> list[str]:
        """The settings that leave a segment without a donor: those that would leave it some, loosened alone."""
        others = self.members != target
        if not self.own_patient:
            others &= self._origins[self.images] != self._origins[int(self.pool.rows["image"][target])]
        loosened = {"own patient": self.allowed(target, own_patient=True), "area ratio": others}
        return [name for name, allowed in loosened.items() if allowed.any()]

    def likeliest(self, target: int, count: int = 10) -> list[tuple[int, float]]:
        """The likeliest donors for a segment with their probabilities, the likeliest first."""
        chances = self.pool_draw.chances(self._vector(target), self.allowed(target))
        best = np.argsort(-chances, kind="stable")[:count]
        return [(int(self.members[index]), float(chances[index])) for index in best if chances[index] > 0]

    def draw(self, target: int, rng: np.random.Generator) -> tuple[int, float] | None:
        """A donor for a segment and its probability; None where there is none."""
        drawn = self.pool_draw.draw(self._vector(target), self.allowed(target), rng)
        return None if drawn is None else (int(self.members[drawn[0]]), drawn[1])

    def draw_several(
        self, target: int, count: int, rng: np.random.Generator, own_patient: bool | None = None
    ) -> dict[int, float]:
        """Up to ``count`` different donors with the probability of each when it was drawn; none is used yet."""
        allowed, vector = self.allowed(target, own_patient), self._vector(target)
        drawn: dict[int, float] = {}
        while len(drawn) < count and (picked := self.pool_draw.pick(vector, allowed, rng)):
            place, chance = picked
            drawn[int(self.members[place])] = chance
            allowed[place] = False
        return drawn

    def use(self, donor: int) -> None:
        """Count one use of a donor."""
        self.pool_draw.use(int(np.flatnonzero(self.members == donor)[0]))

    def _vector(self, target: int) -> NDArray[np.float32]:
        return np.asarray(self.pool.vectors(np.array([target], np.intp), self.kind)[0])


def item_seed(seed: int, number: int) -> int:
    """The seed, from 0 to 2⁶³ − 1, of everything random in one item of a run."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def draw_order(logits: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices (N,) in the order of a draw without replacement with probabilities ∝ exp(logits).

    Sorting by logits + Gumbel noise gives exactly that order (Efraimidis & Spirakis 2006; the Gumbel-top-k trick).
    """
    return np.argsort(-(logits + rng.gumbel(size=len(logits))), kind="stable")


def effective_sample_size(logits: NDArray[np.float64]) -> float:
    """How many equally likely locations the distribution is worth: 1 / Σ p², with p ∝ exp(logits); 0 of none."""
    if len(logits) == 0:
        return 0.0
    return float(np.exp(2 * logsumexp(logits) - logsumexp(2 * logits)))


def sharpest_temperature(log_likelihoods: NDArray[np.float64], wanted: float) -> float:
    """The lowest temperature, from 1 (the likelihoods as they are) up, at which the draw is worth ``wanted`` locations.

    Log-likelihoods in many dimensions can be so peaked that a handful of locations holds all the mass; this flattens
    them just as far as needed. ``wanted`` must be below the number of locations; the effective sample size grows with
    the temperature.
    """
    low, high = 1.0, 1.0
    while effective_sample_size(log_likelihoods / high) < wanted and high < 1e6:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if effective_sample_size(log_likelihoods / middle) < wanted:
            low = middle
        else:
            high = middle
    return high
