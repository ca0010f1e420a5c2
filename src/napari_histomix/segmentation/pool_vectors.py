"""From features to the vectors of a pool: principal components for each class, and a map over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

SAMPLE = 20_000
"""Segments that principal components are fitted to, at most."""
CHUNK = 10_000


@dataclass(frozen=True, eq=False)
class Projection:
    """Standardized features onto principal components: ((f − mean) / spread) @ axes.

    Parameters
    ----------
    mean, spread : (dim,) float32
    axes : (dim, p) float32
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32], members: NDArray[np.intp], components: int) -> Projection:
        """Fit to some rows of features (N, dim); fewer components where there are too few segments for them."""
        rng = np.random.default_rng(0)
        sample = members if len(members) <= SAMPLE else np.sort(rng.choice(members, SAMPLE, replace=False))
        seen = np.asarray(features[sample], np.float64)
        mean, spread = seen.mean(axis=0), seen.std(axis=0)
        spread[spread < 1e-6] = 1.0
        count = min(components, len(seen) - 1, seen.shape[1])
        axes = np.zeros((seen.shape[1], 0))
        if count > 0:
            axes = PCA(count, random_state=0).fit((seen - mean) / spread).components_.T
        return cls(mean.astype(np.float32), spread.astype(np.float32), axes.astype(np.float32))

    def transform(self, features: NDArray[np.float32], width: int) -> NDArray[np.float32]:
        """Vectors (n, width) of features (n, dim), zeros after the components there are."""
        found = np.zeros((len(features), width), np.float32)
        found[:, : self.axes.shape[1]] = ((features - self.mean) / self.spread) @ self.axes
        return found

    def write(self, features: NDArray[np.float32], members: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        """Transform some rows into the same rows of ``vectors`` (N, width), in chunks."""
        for start in range(0, len(members), CHUNK):
            some = members[start : start + CHUNK]
            vectors[some] = self.transform(features[some], vectors.shape[1])

    def save(self, path: Path, kind: str) -> None:
        """Write to an ``.npz`` file."""
        np.savez(path, kind=np.array(kind), mean=self.mean, spread=self.spread, axes=self.axes)

    @classmethod
    def load(cls, path: Path) -> tuple[str, Projection]:
        """Class and projection of an ``.npz`` file."""
        with np.load(path, allow_pickle=False) as file:
            return str(file["kind"]), cls(file["mean"], file["spread"], file["axes"])


def map_of(features: NDArray[np.float32], projection: Projection) -> NDArray[np.float32]:
    """Places (N, 2) of features (N, dim) on the map, in chunks."""
    places = np.empty((len(features), 2), np.float32)
    for start in range(0, len(features), CHUNK):
        places[start : start + CHUNK] = projection.transform(np.asarray(features[start : start + CHUNK]), 2)
    return places
