"""Labeled nuclei around a place, described by numbers: how many of which class, how near, how large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_histomix.records import Location

RADII_UM = (14.0, 28.0, 56.0, 112.0)
"""Radii of the discs in which nuclei are counted: from the next neighbors to twice the span of a context patch."""
FAR_UM = 250.0
"""Distance that stands for every larger one, and for a class that an image does not have."""

_CHUNK = 1024
_GRID = 21


def neighborhood_names(classes: Sequence[str]) -> list[str]:
    """Names of the columns of ``neighborhood_features``."""
    kinds = ["all", *classes]
    around = [f"{what} within {radius:g} µm" for radius in RADII_UM for what in (*kinds, "area")]
    return around + [f"{rank} {kind}" for kind in kinds for rank in ("nearest", "third nearest")]


def neighborhood_features(
    places: Sequence[Location], nuclei: Sequence[Location], classes: Sequence[int], shape: tuple[int, int], mpp: float
) -> NDArray[np.float32]:
    """Describe places by the labeled nuclei around them; a nucleus at a place does not count as around it.

    In images hardly larger than the discs that all have the same number of nuclei of a class, the number around a place
    tells whether one of them is at the place itself; real images differ in their numbers.

    Parameters
    ----------
    places : sequence of Location
        Of one image: nuclei, which must be among ``nuclei``, or background locations.
    nuclei : sequence of Location
        All nuclei of the image that count.
    classes : sequence of int
        Numbers of the K classes that are told apart.
    shape : (int, int)
        Height and width of the image in pixels.
    mpp : float
        µm per pixel.

    Returns
    -------
    (N, 4 (K + 2) + 2 (K + 1)) float32
        For every radius of ``RADII_UM``: the logarithm of the density (nuclei per 1000 µm² of the disc that lies in the
        image) of all nuclei and of each class, and the mean logarithm of their areas in µm², drawn toward that of the
        image as if by one more nucleus. Then, of all nuclei and of each class, the logarithms of the distances in µm of
        the nearest and the third nearest. None of them depends on how the image is turned.

    Examples
    --------
    >>> here = [Location("a", "major", 20.0, 20.0, 1, 2, 64), Location("a", "rare", 20.0, 60.0, 2, 1, 64)]
    >>> row = neighborhood_features(here, here, (1, 2), (80, 80), 0.25)[0]
    >>> dict(zip(neighborhood_names(["rare", "common"]), np.exp(row).round(1).tolist()))["nearest rare"]
    10.0
    """
    width = len(classes) + 1
    if not places:
        return np.empty((0, len(RADII_UM) * (width + 1) + 2 * width), np.float32)
    radii = np.array(RADII_UM)
    column = {number: place for place, number in enumerate(classes, start=1)}
    own = np.array([column.get(place.type, 0) for place in places], np.intp)
    nucleus = np.array([place.kind != "background" for place in places], bool)
    kinds = np.array([column.get(each.type, 0) for each in nuclei], np.intp)
    centers, around = _positions(places) * mpp, _positions(nuclei) * mpp
    areas = np.log([max(each.area, 1) * mpp**2 for each in nuclei]) if nuclei else np.empty(0)
    typical = float(areas.mean()) if nuclei else 0.0

    # Counts and sums of log areas in rings between the radii, then summed from the center outward.
    counts = np.zeros((len(places), len(radii), width))
    sums = np.zeros((len(places), len(radii)))
    tree = cKDTree(around) if nuclei else None
    for start in range(0, len(places) if tree is not None else 0, _CHUNK):
        part = slice(start, start + _CHUNK)
        pairs = cKDTree(centers[part]).sparse_distance_matrix(tree, radii[-1], output_type="ndarray")
        # A nucleus is at no distance from itself.
        pairs = pairs[pairs["v"] > 0]
        cell = pairs["i"] * len(radii) + np.searchsorted(radii, pairs["v"])
        count = counts[part]
        count += np.bincount(cell * width + kinds[pairs["j"]], minlength=count.size).reshape(count.shape)
        total = sums[part]
        total += np.bincount(cell, areas[pairs["j"]], total.size).reshape(total.shape)
    counts, sums = counts.cumsum(axis=1), sums.cumsum(axis=1)
    number = counts.sum(axis=2)
    discs = _disc_areas(centers, radii, shape, mpp) / 1000
    by_kind = np.concatenate([number[..., None], counts[..., 1:]], axis=2)
    densities = np.log((by_kind + 0.5) / discs[..., None])
    sizes = (sums + typical) / (number + 1)
    columns = [np.concatenate([densities, sizes[..., None]], axis=2).reshape(len(places), -1)]
    for kind in range(width):
        members = around if kind == 0 else around[kinds == kind]
        itself = nucleus if kind == 0 else nucleus & (own == kind)
        columns.append(np.log(_distances(centers, members, itself)))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _positions(locations: Sequence[Location]) -> NDArray[np.float64]:
    """Positions (N, 2) in pixels from the image's corner; pixel centers lie at whole numbers and a half."""
    return np.array([(each.row, each.col) for each in locations], np.float64).reshape(-1, 2) + 0.5


def _distances(
    centers: NDArray[np.float64], members: NDArray[np.float64], itself: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Distances (N, 2) of the nearest and third nearest member, from 1 to ``FAR_UM``, each center itself left out."""
    distances = np.full((len(centers), 4), FAR_UM)
    if len(members):
        distances = np.minimum(cKDTree(members).query(centers, k=4)[0], FAR_UM)
    # The nearest member of a center that is one is the center itself, at a distance of 0.
    chosen = np.where(itself[:, None], distances[:, [1, 3]], distances[:, [0, 2]])
    return np.maximum(chosen, 1.0)


def _disc_areas(
    centers: NDArray[np.float64], radii: NDArray[np.float64], shape: tuple[int, int], mpp: float
) -> NDArray[np.float64]:
    """Areas (N, R) in µm² of the parts of discs that lie in the image, from a grid of points."""
    axis = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
    rows, cols = (each.ravel() for each in np.meshgrid(axis, axis, indexing="ij"))
    inside = rows**2 + cols**2 <= 1
    rows, cols = rows[inside], cols[inside]
    height, width = np.array(shape) * mpp
    shares = np.ones((len(centers), len(radii)))
    for number, radius in enumerate(radii):
        # Most discs lie wholly in the image.
        cut = np.flatnonzero((np.minimum(centers, (height, width) - centers) < radius).any(axis=1))
        row, col = centers[cut, :1] + rows * radius, centers[cut, 1:] + cols * radius
        shares[cut, number] = ((row >= 0) & (row < height) & (col >= 0) & (col < width)).mean(axis=1)
    return np.asarray(np.maximum(shares, 1 / len(rows)) * np.pi * radii**2)
