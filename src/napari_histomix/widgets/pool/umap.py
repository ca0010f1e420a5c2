"""Another map of a segment pool: UMAP, where it is installed. Computed once, and kept beside the pool."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.segmentation.pool import POOL, Projection, SegmentPool

FITTED = 50_000
"""Segments the map is fitted to; all others are put where they belong on it."""
COMPONENTS = 30
CHUNK = 10_000


def available() -> bool:
    """Whether umap-learn is installed."""
    return find_spec("umap") is not None


def umap_file(pool: SegmentPool) -> Path:
    """Where the map of exactly this pool is kept."""
    made = json.dumps(dict(pool.signature), sort_keys=True) + repr([one.sha256 for one in pool.images])
    return pool.folder / POOL / f"umap-{len(pool)}-{hashlib.sha256(made.encode()).hexdigest()[:12]}.npy"


def umap_job(pool: SegmentPool) -> Callable[[], Job[NDArray[np.float32]]]:
    """Places (N, 2) of all segments, read from disk where they were computed before."""

    def job() -> Job[NDArray[np.float32]]:
        file = umap_file(pool)
        yield Event("Reading the map")
        try:
            found = np.load(file, allow_pickle=False)
            if found.shape == (len(pool), 2):
                return np.asarray(found, np.float32)
        except (OSError, ValueError):
            # Not there yet, or not whole: it is made anew.
            pass
        places = yield from _places(pool)
        partial = file.with_suffix(".partial")
        try:
            with partial.open("wb") as stream:
                np.save(stream, places)
            os.replace(partial, file)
        except OSError:
            # A map that cannot be kept is shown all the same.
            partial.unlink(missing_ok=True)
        return places

    return job


def _places(pool: SegmentPool) -> Job[NDArray[np.float32]]:
    if len(pool) < 4:
        raise HistomixError("A UMAP needs at least four segments; look at the PCA map.")
    yield Event("Principal components of all classes")
    # Vectors of two classes lie in two spaces; only the features under them can be compared over all classes.
    features = [part.features() for part in pool._parts]
    rng = np.random.default_rng(0)
    share = min(1.0, FITTED / len(pool))
    sample = np.concatenate(
        [one[np.sort(rng.choice(len(one), max(1, round(share * len(one))), replace=False))] for one in features]
    )
    projection = Projection.fit(sample, np.arange(len(sample)), COMPONENTS)
    width = projection.axes.shape[1]
    yield Event("Fitting the UMAP, which cannot be interrupted")
    import umap

    neighbors = min(15, len(sample) - 1)
    mapper = umap.UMAP(n_components=2, n_neighbors=neighbors, random_state=0, n_jobs=1)
    fitted = np.asarray(mapper.fit_transform(projection.transform(sample, width)), np.float32)
    if len(sample) == len(pool):
        return fitted
    found, done = [], 0
    for one in features:
        for start in range(0, len(one), CHUNK):
            yield Event("Placing segments on the map", done, len(pool))
            some = projection.transform(np.asarray(one[start : start + CHUNK]), width)
            found.append(np.asarray(mapper.transform(some), np.float32))
            done += len(some)
    return np.concatenate(found)
