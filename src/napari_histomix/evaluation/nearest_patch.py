"""The training patch that a synthetic nucleus resembles most: a copy out of the training images stands out by it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import cdist

from napari_histomix.datasets import Dataset, Problem
from napari_histomix.features.context import context_patches
from napari_histomix.features.texture import texture_maps
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Location, Source, SourceRef
from napari_histomix.sampling import nucleus_locations

SPAN_UM = 28.0
"""Side of the patch around a nucleus, in µm: 112 pixels at 40×, the nucleus in the half of it that is the center."""
BLUR_UM = 1.0
"""Standard deviation of the blur, in µm, that takes compression and noise away, by which copies differ."""
MPP = 0.5
"""Scale at which patches are described: the blur leaves nothing that a finer one would show."""
WINDOW, TILE, MARGIN = 64, 1024, 48
"""Sides in pixels of what is seen around a place, and of an image's tiles, which see a margin beyond."""
HELD_OUT = 16
"""Held-out images, and nuclei of each, whose nearest training patches new images are measured against."""
BASELINE = 2000
"""Real nuclei, at most, whose own nearest patches a distance is measured against."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A real nucleus of the training split whose patch resembles the one asked about.

    ``distance`` is the root mean square difference of the texture features, each in its standard deviations over the
    training nuclei; 0 for equal pixels. ``percentile`` is the share (0–100) of the training nuclei that have another
    training nucleus at this distance or nearer: 0 means nearer than any two real nuclei are, as a copy is. Not a number
    where there are no two to compare.
    """

    image: str
    row: float
    col: float
    instance: int
    type: int
    distance: float
    percentile: float


class TrainingPatches:
    """The patches of all nuclei of the training split as texture features, to be asked for the nearest ones.

    Made by ``build``. Patches span 28 µm at any scale and are described by ``features.texture.texture_maps``;
    ``reach`` is half the side of a patch in pixels, by image.
    """

    def __init__(
        self,
        nuclei: Sequence[Location],
        vectors: NDArray[np.float32],
        reach: dict[str, float],
        problems: Sequence[Problem] = (),
    ) -> None:
        self.nuclei, self.problems, self._reach = tuple(nuclei), tuple(problems), reach
        self._numbers = {image: number for number, image in enumerate(reach)}
        self._images = np.array([self._numbers[nucleus.image] for nucleus in nuclei])
        self._centers = np.array([(nucleus.row, nucleus.col) for nucleus in nuclei], float).reshape(-1, 2)
        self._mean = vectors.mean(axis=0, dtype=np.float64)
        # A feature that does not vary tells nothing, and would divide by zero.
        self._spread = np.maximum(vectors.std(axis=0, dtype=np.float64), 1e-6)
        self._vectors = self._standardized(vectors)
        self._baseline = np.empty(0)

    def __len__(self) -> int:
        return len(self.nuclei)

    @property
    def baseline(self) -> NDArray[np.float64]:
        """Distances of real nuclei, at most 2000 of them, to the nearest other one, in order."""
        return self._baseline

    @classmethod
    def build(cls, dataset: Dataset, types: Collection[int] = ()) -> Job[TrainingPatches]:
        """Describe the patches of the training split; a long job (see ``records.Job``).

        ``types`` are class numbers to keep to, such as the rare ones; empty: all. HistomixError is raised if the
        training split has no such nucleus.
        """
        numbers = tuple(types) or tuple(nucleus_class.number for nucleus_class in dataset.classes)
        nuclei: list[Location] = []
        vectors: list[NDArray[np.float32]] = []
        reach: dict[str, float] = {}
        problems: list[Problem] = []
        for done, entry in enumerate(dataset.training):
            yield Event("Describing training patches", done, len(dataset.training))
            try:
                image = dataset.read(entry)
            except HistomixError as error:
                problems.append(Problem(entry.source.image, str(error)))
                continue
            own = nucleus_locations(image, numbers, ())
            reach[entry.source.image] = SPAN_UM / 2 / image.mpp
            for places, described in _of_image(image, [(nucleus.row, nucleus.col) for nucleus in own]):
                nuclei += [own[place] for place in places]
                vectors.append(described)
                yield Event("Describing training patches", done, len(dataset.training))
        if not nuclei:
            raise HistomixError(
                problems[-1].sentence if problems else f"No training image of {dataset.name} has such a nucleus."
            )
        patches = cls(nuclei, np.concatenate(vectors), reach, problems)
        yield from patches._measure()
        return patches

    def nearest(
        self,
        pixels: NDArray[np.uint8],
        mpp: float,
        at: tuple[float, float] | None = None,
        exclude: Iterable[Location | SourceRef] = (),
    ) -> Neighbor:
        """The first of ``several``; raises HistomixError if every training nucleus is excluded."""
        for neighbor in self.several(pixels, mpp, at, exclude, count=1):
            return neighbor
        raise HistomixError("There is no other training nucleus to compare with; add images.")

    def several(
        self,
        pixels: NDArray[np.uint8],
        mpp: float,
        at: tuple[float, float] | None = None,
        exclude: Iterable[Location | SourceRef] = (),
        count: int = 3,
    ) -> tuple[Neighbor, ...]:
        """The training nuclei whose patches resemble most what surrounds a place, the nearest first.

        ``pixels`` (h, w, 3) are an image, or a crop that holds 28 µm around the place ``at`` (row, col), which by
        default is the middle; beyond their borders they are mirrored. Nuclei whose patches overlap those of places to
        exclude, such as target and donor of a placement, do not count.
        """
        height, width = pixels.shape[:2]
        distances = self._all_distances(pixels, mpp, [at or ((height - 1) / 2, (width - 1) / 2)])[0]
        for location in exclude:
            distances[self._overlapping(location)] = np.inf
        order = np.argsort(distances, kind="stable")[:count]
        return tuple(self._neighbor(index, float(distances[index])) for index in order if distances[index] < np.inf)

    def distances(
        self, pixels: NDArray[np.uint8], mpp: float, places: Sequence[tuple[float, float]]
    ) -> NDArray[np.float64]:
        """How far the training nucleus is that resembles a place (row, col) most, for each place; see ``several``."""
        return self._all_distances(pixels, mpp, places).min(axis=1) if len(places) else np.empty(0)

    def held_out(self, dataset: Dataset) -> Job[NDArray[np.float64]]:
        """How far nuclei of held-out images are from their nearest training nucleus, of random ones; a long job.

        Empty where there are no held-out images that can be read.
        """
        rng, distances = np.random.default_rng(0), [np.empty(0)]
        held = [entry for entry in dataset.entries if entry.source.split in ("val", "test") and not entry.synthetic]
        numbers = tuple(known.number for known in dataset.classes)
        for done, index in enumerate(rng.permutation(len(held))[:HELD_OUT]):
            yield Event("Comparing held-out images", done, min(len(held), HELD_OUT))
            with suppress(HistomixError):
                image = dataset.read(held[index])
                own = nucleus_locations(image, numbers, ())
                chosen = [own[place] for place in rng.permutation(len(own))[:HELD_OUT]]
                if chosen:
                    places = [(nucleus.row, nucleus.col) for nucleus in chosen]
                    distances.append(self.distances(image.pixels, image.mpp, places))
        return np.concatenate(distances)

    def _all_distances(
        self, pixels: NDArray[np.uint8], mpp: float, places: Sequence[tuple[float, float]]
    ) -> NDArray[np.float64]:
        return self._distances(self._standardized(_around(pixels, mpp, places)))

    def _neighbor(self, index: int, distance: float) -> Neighbor:
        nucleus = self.nuclei[index]
        nearer = np.searchsorted(self._baseline, distance, side="right")
        percentile = 100.0 * float(nearer) / len(self._baseline) if len(self._baseline) else float("nan")
        return Neighbor(nucleus.image, nucleus.row, nucleus.col, nucleus.instance, nucleus.type, distance, percentile)

    def _measure(self) -> Job[None]:
        """How far real nuclei are from the nearest other one whose patch does not overlap theirs."""
        chosen = np.arange(len(self))
        if len(self) > BASELINE:
            chosen = np.sort(np.random.default_rng(0).choice(len(self), BASELINE, replace=False))
        nearest: list[float] = []
        for start in range(0, len(chosen), 64):
            yield Event("Comparing training patches", start, len(chosen))
            chunk = chosen[start : start + 64]
            for distances, index in zip(self._distances(self._vectors[chunk]), chunk, strict=True):
                distances[self._overlapping(self.nuclei[index])] = np.inf
                nearest.append(float(distances.min()))
        self._baseline = np.sort([value for value in nearest if value < np.inf])

    def _standardized(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray((vectors - self._mean) / self._spread, np.float64)

    def _distances(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cdist(vectors, self._vectors) / np.sqrt(self._vectors.shape[1]))

    def _overlapping(self, place: Location | SourceRef) -> NDArray[np.bool_]:
        """Which nuclei have patches that overlap the one around a place."""
        side = 2 * self._reach.get(place.image, 0.0)
        apart = np.abs(self._centers - (place.row, place.col)).max(axis=1)
        return (self._images == self._numbers.get(place.image)) & (apart < side)


def _around(pixels: NDArray[np.uint8], mpp: float, places: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """Describe what surrounds places (row, col) of an image or a crop, each in its own window; (N, dim)."""
    bare = LabeledImage(pixels, np.zeros(pixels.shape[:2], np.int32), {}, mpp, Source("", "patch"))
    windows = context_patches(bare, np.array(places, float).reshape(-1, 2), size=WINDOW, erase=0, mpp=MPP)
    side = max(1, round(WINDOW * MPP / mpp))
    middle = np.full((2, 1), (side // 2 + 0.5) * WINDOW / side - 0.5)
    return np.concatenate([_described(window, middle) for window in windows])


def _of_image(
    image: LabeledImage, places: Sequence[tuple[float, float]]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Describe what surrounds places of an image, a tile at a time: which places, and their (n, dim)."""
    shape = np.array(image.instances.shape)
    rows, cols = (int(side) for side in np.maximum(np.rint(shape * image.mpp / MPP), 1))
    smooth = cv2.INTER_AREA if image.mpp < MPP else cv2.INTER_CUBIC
    scaled = np.asarray(cv2.resize(image.pixels, (cols, rows), interpolation=smooth), np.uint8)
    at = (np.array(places, float).reshape(-1, 2) + 0.5) * ((rows, cols) / shape) - 0.5
    tiles = np.maximum(at, 0).astype(int) // TILE
    for tile in np.unique(tiles, axis=0):
        own = np.flatnonzero((tiles == tile).all(axis=1))
        (top, left), (bottom, right) = np.maximum(tile * TILE - MARGIN, 0), (tile + 1) * TILE + MARGIN
        yield own, _described(scaled[top:bottom, left:right], (at[own] - (top, left)).T)


def _described(pixels: NDArray[np.uint8], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Describe the patches around places (2, N) of pixels at ``MPP``; (N, dim)."""
    smooth = np.asarray(cv2.GaussianBlur(pixels, (0, 0), BLUR_UM / MPP), np.uint8)
    maps = texture_maps(smooth, round(SPAN_UM / MPP))
    return np.stack([map_coordinates(plane, at, order=1, mode="mirror") for plane in maps], axis=1)
