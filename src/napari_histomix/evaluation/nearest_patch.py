"""The training patch that a synthetic nucleus resembles most: a copy out of the training images stands out by it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from napari_histomix.compositing import compose
from napari_histomix.compositing.composing import nucleus_of
from napari_histomix.datasets import Dataset, Problem
from napari_histomix.features import PATCH_SIZE, TextureEncoder, context_patches
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage, Location, Source, SourceRef
from napari_histomix.sampling import nucleus_locations

SPAN_UM = 28.0
"""Side of the patch around a nucleus, in µm: 112 pixels at 40×, the nucleus in the half of it that is the center."""
BLUR_UM = 0.5
"""Standard deviation of the blur, in µm, that takes compression and noise away, by which copies differ."""
BASELINE = 2000
"""Real nuclei, at most, whose own nearest patches a distance is measured against."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A real nucleus of the training split whose patch resembles the one asked about.

    Parameters
    ----------
    image : str
    row, col : float
        Center of the nucleus in its image, in pixels.
    instance, type : int
    distance : float
        Root mean square difference of the texture features, each in its standard deviations over the training nuclei;
        0 for equal pixels.
    percentile : float
        Share (0–100) of the training nuclei that have another training nucleus at this distance or nearer: 0 means
        nearer than any two real nuclei are, as a copy is. Not a number where there are no two to compare.
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

    Made by ``build``. Patches span 28 µm at any scale and are described by ``features.TextureEncoder`` with their
    centers.

    Parameters
    ----------
    nuclei : sequence of Location
    vectors : (N, 59) float32
        Texture features of their patches.
    reach : mapping of str to float
        Half the side of a patch in pixels, for every image that has a nucleus.
    problems : sequence of Problem
        Images that could not be read.
    """

    def __init__(
        self,
        nuclei: Sequence[Location],
        vectors: NDArray[np.float32],
        reach: dict[str, float],
        problems: Sequence[Problem] = (),
    ) -> None:
        self.nuclei, self.problems, self._reach = tuple(nuclei), tuple(problems), reach
        self._images = np.array([one.image for one in nuclei])
        self._centers = np.array([(one.row, one.col) for one in nuclei], float).reshape(-1, 2)
        self._mean = vectors.mean(axis=0, dtype=np.float64)
        # A feature that does not vary tells nothing, and would divide by zero.
        self._spread = np.maximum(vectors.std(axis=0, dtype=np.float64), 1e-6)
        self._vectors = self._standardized(vectors)
        self._encoder = TextureEncoder(whole=True)
        self._baseline = np.empty(0)

    def __len__(self) -> int:
        """Number of nuclei."""
        return len(self.nuclei)

    @classmethod
    def build(cls, dataset: Dataset, types: Collection[int] = ()) -> Job[TrainingPatches]:
        """Describe the patches of the training split; a long job (see ``records.Job``).

        Parameters
        ----------
        dataset : Dataset
            Only images of its training split are read.
        types : collection of int
            Class numbers to keep to, such as the rare ones; empty: all.

        Raises
        ------
        HistomixError
            If the training split has no such nucleus.
        """
        numbers = tuple(types) or tuple(one.number for one in dataset.classes)
        encoder = TextureEncoder(whole=True)
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
            here = nucleus_locations(image, numbers, ())
            reach[entry.source.image] = SPAN_UM / 2 / image.mpp
            for start in range(0, len(here), 256):
                some = here[start : start + 256]
                vectors.append(encoder(_patches(image, [(one.row, one.col) for one in some])))
                nuclei += some
                yield Event("Describing training patches", done, len(dataset.training))
        if not nuclei:
            raise HistomixError(
                problems[-1].sentence if problems else f"No training image of {dataset.name} has such a nucleus."
            )
        found = cls(nuclei, np.concatenate(vectors), reach, problems)
        yield from found._measure()
        return found

    def nearest(
        self,
        pixels: NDArray[np.uint8],
        mpp: float,
        at: tuple[float, float] | None = None,
        exclude: Iterable[Location | SourceRef] = (),
    ) -> Neighbor:
        """The training nucleus whose patch resembles most what surrounds a place; as ``several``, the first.

        Raises
        ------
        HistomixError
            If every training nucleus is excluded.
        """
        found = self.several(pixels, mpp, at, exclude, count=1)
        if not found:
            raise HistomixError("There is no other training nucleus to compare with; add images.")
        return found[0]

    def several(
        self,
        pixels: NDArray[np.uint8],
        mpp: float,
        at: tuple[float, float] | None = None,
        exclude: Iterable[Location | SourceRef] = (),
        count: int = 3,
    ) -> tuple[Neighbor, ...]:
        """The training nuclei whose patches resemble most what surrounds a place, the nearest first.

        Parameters
        ----------
        pixels : (h, w, 3) uint8
            An image, or a crop that holds 28 µm around the place; beyond its borders it is mirrored.
        mpp : float
            Micrometers per pixel.
        at : (row, col), optional
            The place in ``pixels``; the middle by default.
        exclude : iterable of Location
            Places, such as target and donor of a placement: nuclei whose patches overlap theirs do not count.
        count : int
            How many at most.
        """
        height, width = pixels.shape[:2]
        place = at or ((height - 1) / 2, (width - 1) / 2)
        vector = self._standardized(self._encoder(_patches(_bare(pixels, mpp), [place])))
        distances = self._distances(vector)[0]
        for one in exclude:
            distances[self._overlapping(one)] = np.inf
        order = np.argsort(distances, kind="stable")[:count]
        found = (int(index) for index in order if distances[index] < np.inf)
        return tuple(self._neighbor(index, float(distances[index])) for index in found)

    def _neighbor(self, index: int, distance: float) -> Neighbor:
        one = self.nuclei[index]
        nearer = np.searchsorted(self._baseline, distance, side="right")
        percentile = 100.0 * float(nearer) / len(self._baseline) if len(self._baseline) else float("nan")
        return Neighbor(one.image, one.row, one.col, one.instance, one.type, distance, percentile)

    def _measure(self) -> Job[None]:
        """How far real nuclei are from the nearest other one whose patch does not overlap theirs."""
        chosen = np.arange(len(self))
        if len(self) > BASELINE:
            chosen = np.sort(np.random.default_rng(0).choice(len(self), BASELINE, replace=False))
        nearest: list[float] = []
        for start in range(0, len(chosen), 64):
            yield Event("Comparing training patches", start, len(chosen))
            some = chosen[start : start + 64]
            distances = self._distances(self._vectors[some])
            for line, index in zip(distances, some, strict=True):
                line[self._overlapping(self.nuclei[index])] = np.inf
                nearest.append(float(line.min()))
        self._baseline = np.sort([value for value in nearest if value < np.inf])

    def _standardized(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray((vectors - self._mean) / self._spread, np.float64)

    def _distances(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cdist(vectors, self._vectors) / np.sqrt(self._vectors.shape[1]))

    def _overlapping(self, place: Location | SourceRef) -> NDArray[np.bool_]:
        """Which nuclei have patches that overlap the one around a place."""
        side = 2 * self._reach.get(place.image, 0.0)
        apart = np.abs(self._centers - (place.row, place.col)).max(axis=1)
        return (self._images == place.image) & (apart < side)


def nearest_training_patches(
    dataset: Dataset, changes: Sequence[Change], count: int = 1, types: Collection[int] = (), *, own: bool = False
) -> Job[dict[int, tuple[Neighbor, ...]]]:
    """The training patches that resemble each synthetic nucleus most; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset : Dataset
    changes : sequence of Change
        In place, each with a nucleus. They are composed into their targets together.
    count : int
        Neighbors for each.
    types : collection of int
        Class numbers to keep to; empty: all.
    own : bool
        Report the donor and what lies around donor and target too; a donor is nearly always the nearest.

    Returns
    -------
    dict of int to tuple of Neighbor
        By id, the nearest first.

    Raises
    ------
    HistomixError
        If a target cannot be read, or the training split has no such nucleus.
    """
    patches = yield from TrainingPatches.build(dataset, types)
    by_image: dict[str, list[Change]] = {}
    for change in changes:
        by_image.setdefault(change.image, []).append(change)
    neighbors: dict[int, tuple[Neighbor, ...]] = {}
    for done, (name, own_changes) in enumerate(by_image.items()):
        yield Event("Comparing synthetic nuclei", done, len(by_image))
        image = compose(dataset.read(name), own_changes).image
        for change in own_changes:
            rows, cols = np.nonzero(nucleus_of(change))
            place = float(rows.mean() + change.row), float(cols.mean() + change.col)
            exclude = () if own else change.sources
            neighbors[change.id] = patches.several(image.pixels, image.mpp, place, exclude, count)
    return neighbors


def _patches(image: LabeledImage, centers: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    # Twice as fine as 40×, for the encoder halves what it is given: it sees a 40× image at its own scale.
    mpp = SPAN_UM / PATCH_SIZE
    patches = context_patches(image, np.array(centers, float).reshape(-1, 2), erase=0, mpp=mpp)
    for patch in patches:
        cv2.GaussianBlur(patch, (0, 0), BLUR_UM / mpp, dst=patch)
    return patches


def _bare(pixels: NDArray[np.uint8], mpp: float) -> LabeledImage:
    return LabeledImage(pixels, np.zeros(pixels.shape[:2], np.int32), {}, mpp, Source("", "patch"))
