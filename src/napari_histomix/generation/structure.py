"""Nuclei structure: an instance map as maps that a network can learn, and back (HoVer-Net; NuDiff, arXiv 2310.14197).

Flip, turn and rescale instance maps, never finished structure: the distance maps would have to change their signs and
change places, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import watershed

from napari_histomix.generation.layout import Layout
from napari_histomix.records import HistomixError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Mask = NDArray[np.bool_]

MIN_AREA = 5
"""Pixels that a decoded nucleus has at least, unless the caller says otherwise."""

FLAT = 1e-3
"""Difference of two values of a structure map that counts as none; half precision rounds by less."""


def structure_of(instances: I32) -> F32:
    """Nuclei structure of an instance map: what is nucleus, and where in its nucleus every pixel lies.

    Parameters
    ----------
    instances : (H, W) int32
        Instance map, 0 = background.

    Returns
    -------
    (3, H, W) float32
        Semantic (0 or 1), then horizontal and vertical distance from the nucleus's centroid, from −1 at its left or
        upper end to 1 at its right or lower end; 0 outside. The two halves of a nucleus are normalized apart, so that
        both ends are reached. A nucleus that the border cuts is measured by what is seen of it.

    Examples
    --------
    >>> instances = np.zeros((4, 7), np.int32)
    >>> instances[1:3, 1:6] = 9
    >>> structure_of(instances)[1, 1]
    array([ 0. , -1. , -0.5,  0. ,  0.5,  1. ,  0. ], dtype=float32)
    """
    structure = np.zeros((3, *instances.shape), np.float32)
    inside = np.flatnonzero(instances)
    if not len(inside):
        return structure
    _, nuclei = np.unique(instances.ravel()[inside], return_inverse=True)
    rows, cols = np.divmod(inside, instances.shape[1])
    maps = structure.reshape(3, -1)
    maps[0, inside] = 1
    maps[1, inside] = _distances(cols, nuclei)
    maps[2, inside] = _distances(rows, nuclei)
    return structure


def _distances(positions: NDArray[np.int64], nuclei: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distance along an axis of every pixel from the centroid of its nucleus, −1 to 1; 0 where it has no extent."""
    centroids = np.bincount(nuclei, positions) / np.bincount(nuclei)
    away = positions - centroids[nuclei]
    first, last = np.zeros_like(centroids), np.zeros_like(centroids)
    np.minimum.at(first, nuclei, away)
    np.maximum.at(last, nuclei, away)
    reach = np.where(away < 0, -first[nuclei], last[nuclei])
    return np.divide(away, reach, out=np.zeros_like(away), where=reach > 1e-6)


def class_maps(instances: I32, classes: Mapping[int, str], names: Sequence[str]) -> F32:
    """One-hot class of every pixel, (n, H, W) float32 in the order of ``names``.

    All zeros on background and on nuclei whose class is "" or not among ``names``.

    Parameters
    ----------
    instances : (H, W) int32
        Instance map, 0 = background.
    classes : mapping of int to str
        Class name of every instance id.
    names : sequence of str
        Classes that have a map.
    """
    maps = np.zeros((len(names), *instances.shape), np.float32)
    inside = np.flatnonzero(instances)
    if not len(inside) or not names:
        return maps
    ids, nuclei = np.unique(instances.ravel()[inside], return_inverse=True)
    order = {name: index for index, name in enumerate(names)}
    index = np.array([order.get(classes[number], -1) for number in ids.tolist()])[nuclei]
    maps.reshape(len(names), -1)[index[index >= 0], inside[index >= 0]] = 1
    return maps


def boundary_of(instances: I32) -> F32:
    """(H, W) float32: 1 on pixels of a nucleus with a 4-neighbor that is not of the same nucleus, otherwise 0.

    Beyond the border of the map there are no neighbors.
    """
    boundary = np.zeros(instances.shape, bool)
    differ = instances[1:] != instances[:-1]
    boundary[1:] |= differ
    boundary[:-1] |= differ
    differ = instances[:, 1:] != instances[:, :-1]
    boundary[:, 1:] |= differ
    boundary[:, :-1] |= differ
    return (boundary & (instances != 0)).astype(np.float32)


CONDITION_MAPS = 6
"""Of ``condition_maps`` beside those of the classes."""


def condition_maps(layout: Layout, names: Sequence[str], ignore: Mask | None = None, present: bool = True) -> F32:
    """What an image network is told of a layout, pixel by pixel.

    Parameters
    ----------
    layout : Layout
    names : sequence of str
        The network's classes, n of them.
    ignore : (H, W) bool, optional
        Pixels of which nothing is known.
    present : bool
        False: no condition at all, which is not the same as a layout without nuclei.

    Returns
    -------
    (n + 6, H, W) float32
        Semantic, n classes, horizontal, vertical, boundary, ignore, present; all zeros where not ``present``.
    """
    maps = np.zeros((len(names) + CONDITION_MAPS, *layout.shape), np.float32)
    if not present:
        return maps
    semantic, horizontal, vertical = structure_of(layout.instances)
    maps[0] = semantic
    maps[1:-5] = class_maps(layout.instances, layout.classes, names)
    maps[-5], maps[-4] = horizontal, vertical
    maps[-3] = boundary_of(layout.instances)
    if ignore is not None:
        maps[-2] = ignore
    maps[-1] = 1
    return maps


def instances_of(
    semantic: F32, horizontal: F32, vertical: F32, *, threshold: float = 0.5, min_area: int = MIN_AREA
) -> I32:
    """Instance map of a nuclei structure, by marker watershed.

    Parameters
    ----------
    semantic, horizontal, vertical : (H, W) float32
        As of ``structure_of``, or as a network predicts them: blurred and noisy.
    threshold : float
        Value of ``semantic`` from which a pixel belongs to a nucleus.
    min_area : int
        Smaller nuclei are dropped, in pixels.

    Returns
    -------
    (H, W) int32
        Instance map with ids from 1; they are not those that an encoded map had.

    Raises
    ------
    HistomixError
        If the maps differ in shape.

    Notes
    -----
    Within a nucleus both distances grow along their own axis; from one nucleus to the next they fall from 1 to −1.
    So the energy max(−∂h/∂x, −∂v/∂y), with derivatives of a Gaussian, is negative inside and positive between
    touching nuclei. Markers are the connected areas of negative energy; watershed gives them the rest of the
    foreground. Since horizontal distances are equal within a column of a nucleus and vertical ones within a row, the
    median of the differences there measures the noise of the maps, and the Gaussian is as narrow as that noise and the
    size of the nuclei allow: wide ones, as the Sobel operator of 21 pixels that HoVer-Net and NuDiff use, merge and
    lose small nuclei. Maps without any noise are cut exactly where neighboring pixels cannot belong to one nucleus.

    What no decoder can bring back: an instance of several parts comes back as several instances, nuclei of less than
    ``min_area`` pixels are lost, and ids change.

    Examples
    --------
    >>> instances = np.zeros((12, 20), np.int32)
    >>> instances[2:9, 2:9] = 4
    >>> instances[3:10, 9:16] = 8
    >>> np.unique(instances_of(*structure_of(instances)), return_counts=True)
    (array([0, 1, 2], dtype=int32), array([142,  49,  49]))
    """
    if not semantic.shape == horizontal.shape == vertical.shape or semantic.ndim != 2:
        raise HistomixError(
            f"Structure maps must be (H, W), all of one shape, not {semantic.shape}, {horizontal.shape} "
            f"and {vertical.shape}."
        )
    semantic, horizontal, vertical = (
        np.ascontiguousarray(each, np.float32) for each in (semantic, horizontal, vertical)
    )
    nuclei = semantic >= threshold
    noise, growth = _noise_and_growth(nuclei, horizontal, vertical)
    if noise < FLAT and np.array_equal(semantic, nuclei):
        energy, inner = semantic, _linked(nuclei, horizontal, vertical)
    else:
        nuclei = _blurred(semantic, min(0.8, 5 * noise)) >= threshold
        energy = _energy(nuclei, horizontal, vertical, sigma=float(np.clip(0.9 * np.sqrt(noise / growth), 0.5, 2)))
        inner = _components(nuclei & (energy < 0))
    markers = _dropped(inner, min(3, min_area))
    rest = nuclei & (markers == 0)
    if rest.any():
        markers = watershed(energy, markers, mask=nuclei)
        # Pieces of foreground without a marker are nuclei, too, perhaps very small ones.
        pieces = _components(nuclei & (markers == 0))
        markers = np.where(pieces, pieces + np.int32(markers.max(initial=0)), markers)
    return _dropped(markers, min_area)


def _noise_and_growth(nuclei: Mask, horizontal: F32, vertical: F32) -> tuple[float, float]:
    """Standard deviation of the noise of distance maps, and by how much distances grow from pixel to pixel."""
    beside, below = nuclei[:, 1:] & nuclei[:, :-1], nuclei[1:] & nuclei[:-1]
    across = np.concatenate([np.diff(vertical, axis=1)[beside], np.diff(horizontal, axis=0)[below]])
    if not len(across):
        return 0.0, 1.0
    along = np.concatenate([np.diff(horizontal, axis=1)[beside], np.diff(vertical, axis=0)[below]])
    # The median of |a − b| of two normal values is 0.6745 √2 times their standard deviation.
    return float(np.median(np.abs(across))) / 0.954, max(float(np.median(along)), 0.01)


def _linked(nuclei: Mask, horizontal: F32, vertical: F32) -> I32:
    """Connected pixels whose distances agree with their being in one nucleus, for maps without noise."""
    height, width = nuclei.shape
    # Pixels lie at the even positions, the links between them at the odd ones.
    grid = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    grid[::2, ::2] = nuclei
    for links, along, across in (
        (grid[::2, 1::2], horizontal, vertical),
        (grid[1::2, ::2].T, vertical.T, horizontal.T),
    ):
        inside = grid[::2, ::2] if along is horizontal else grid[::2, ::2].T
        fits = (np.diff(along, axis=1) > -FLAT) & (np.abs(np.diff(across, axis=1)) < FLAT)
        links[...] = fits & (inside[:, 1:] & inside[:, :-1]).astype(bool)
    return _components(grid)[::2, ::2]


def _components(mask: NDArray[np.uint8] | Mask) -> I32:
    """4-connected components, numbered from 1."""
    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1], np.int32)


def _energy(nuclei: Mask, horizontal: F32, vertical: F32, sigma: float) -> F32:
    """max(−∂h/∂x, −∂v/∂y) with derivatives of a Gaussian: negative in a nucleus, positive between two."""
    reach = int(np.ceil(3 * sigma))
    taps = np.arange(-reach, reach + 1)
    bell = np.exp(-(taps**2) / (2 * sigma**2))
    smooth, slope = bell / bell.sum(), taps * bell / (taps**2 * bell).sum()
    fall_right = cv2.sepFilter2D(-horizontal * nuclei, cv2.CV_32F, slope, smooth, borderType=cv2.BORDER_REPLICATE)
    fall_down = cv2.sepFilter2D(-vertical * nuclei, cv2.CV_32F, smooth, slope, borderType=cv2.BORDER_REPLICATE)
    return np.maximum(fall_right, fall_down)


def _blurred(image: F32, sigma: float) -> F32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32) if sigma > 0.2 else image


def _dropped(labels: NDArray[np.integer], min_area: int) -> I32:
    """Labels numbered from 1 without gaps, those of less than ``min_area`` pixels dropped."""
    areas = np.bincount(labels.ravel())
    kept = areas >= max(1, min_area)
    kept[:1] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]
