"""The most typical part of a labeled dataset, to learn from few labels: as NuDiff chooses it (arXiv 2310.14197).

Tiles of 256² pixels, half a tile apart, are described by an encoder and grouped by k-means; from each group those
nearest to its center are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.features import open_encoder
from napari_histomix.features.context import PATCH_SIZE
from napari_histomix.generation.layout import Layout
from napari_histomix.records import Event, HistomixError, Job

if TYPE_CHECKING:
    from napari_histomix.training.labeled_windows import LabeledPicture
    from napari_histomix.training.settings import LabeledSettings

TILE = 256
"""Side of a tile in pixels."""
GROUPS = 6
CHUNK = 64
"""Tiles that are described at once."""


def typical_tiles(pictures: Sequence[LabeledPicture], settings: LabeledSettings) -> Job[list[LabeledPicture]]:
    """The share of labeled tiles that ``settings.share`` asks for, the most typical ones; a long job.

    Parameters
    ----------
    pictures : sequence of LabeledPicture
    settings : LabeledSettings
        Its ``share`` in percent, ``tile_encoder`` and ``seed``. At 100 % the pictures are returned as they are.

    Returns
    -------
    list of LabeledPicture
        Each a tile. A smaller share is a part of every larger one.

    Raises
    ------
    HistomixError
        If the encoder cannot be opened, or fewer than two tiles would be left.
    """
    if settings.share >= 100 or not pictures:
        return list(pictures)
    tiles = [tile for picture in pictures for tile in _tiles(picture)]
    encoder = open_encoder(settings.tile_encoder, whole=True)
    vectors = []
    for first in range(0, len(tiles), CHUNK):
        yield Event("Choosing tiles", first, len(tiles))
        patches = [_patch(tile.scaled) for tile in tiles[first : first + CHUNK]]
        vectors.append(encoder(np.stack(patches)))
    chosen = nearest_to_centers(np.concatenate(vectors), settings.share / 100, settings.seed)
    if len(chosen) < 2:
        raise HistomixError(
            f"{settings.share:g} % of {len(tiles)} tiles are too few to learn from; take a larger share."
        )
    yield Event("Choosing tiles", message=f"{len(chosen):,} of {len(tiles):,} tiles are learned from.")
    return [tiles[index] for index in chosen]


def nearest_to_centers(vectors: NDArray[Any], share: float, seed: int = 0) -> list[int]:
    """Rows nearest to the centers of six groups, the same share of each group and at least one.

    Parameters
    ----------
    vectors : (N, D) float
        Each feature is brought to unit spread first.
    share : float
        From 0 to 1.
    seed : int
        Of k-means.

    Returns
    -------
    list of int
        In rising order.

    Examples
    --------
    >>> nearest_to_centers(np.array([[0.0], [1.0], [2.0], [50.0], [50.5], [51.5]]).repeat(2, axis=1), 0.1)
    [0, 1, 2, 3, 4, 5]
    """
    from sklearn.cluster import KMeans

    scaled = np.asarray(vectors, np.float64)
    scaled = (scaled - scaled.mean(axis=0)) / np.maximum(scaled.std(axis=0), 1e-9)
    groups = KMeans(min(GROUPS, len(scaled)), n_init=10, random_state=seed).fit(scaled)
    distances = np.linalg.norm(scaled - groups.cluster_centers_[groups.labels_], axis=1)
    chosen: list[int] = []
    for group in range(groups.n_clusters):
        rows = np.flatnonzero(groups.labels_ == group)
        nearest = rows[np.argsort(distances[rows], kind="stable")]
        chosen += nearest[: max(round(share * len(rows)), 1)].tolist()
    return sorted(chosen)


def _tiles(picture: LabeledPicture) -> Iterator[LabeledPicture]:
    """Tiles of a picture, the last ones at its edges; of a small picture the picture itself."""
    starts = [sorted({*range(0, max(side - TILE, 0) + 1, TILE // 2), max(side - TILE, 0)}) for side in picture.size]
    for row, col in product(*starts):
        window = slice(row, row + TILE), slice(col, col + TILE)
        instances = picture.layout.instances[window]
        classes = {number: picture.layout.classes[number] for number in np.unique(instances).tolist() if number}
        layout = Layout(instances, classes, picture.layout.mpp, picture.layout.source)
        name = f"{picture.name}, {row} {col}"
        scaled, ignored = picture.scaled[window], picture.ignored[window]
        yield replace(picture, name=name, layout=layout, scaled=scaled, ignored=ignored)


def _patch(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    smaller = min(pixels.shape[:2]) >= PATCH_SIZE
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return cv2.resize(pixels, (PATCH_SIZE, PATCH_SIZE), interpolation=interpolation).astype(np.uint8)
