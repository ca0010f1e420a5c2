"""Anchor segments: what most prompts of a superpixel agree on (USegMix, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from napari_histomix.records import Event, HistomixError, Job, Segment
from napari_histomix.segmentation.region_tree import superpixels

if TYPE_CHECKING:
    from napari_histomix.segmentation import Prompter, Proposals

FRAGMENT = 0.05
"""Pieces of a segment smaller than this share of it are not part of it."""


@dataclass(frozen=True)
class AnchorSettings:
    """How anchor segments are found; the only home of these defaults, which are the paper's where it names them.

    Parameters
    ----------
    superpixels : int
        SLIC superpixels an image.
    points : int
        Random prompts in each superpixel.
    compactness, sigma : float
        SLIC's, see ``superpixels``.
    tissue : float
        Least share of tissue in a superpixel that is prompted.
    extent : (low, high)
        Least and largest share of the image that a mask may have.
    spread : float
        Largest distance between identity vectors of one cluster, as a share of the image's diagonal.
    duplicate : float
        Intersection over union from which two anchors count as one.
    seed : int
    """

    superpixels: int = 30
    points: int = 15
    compactness: float = 10.0
    sigma: float = 1.0
    tissue: float = 0.5
    extent: tuple[float, float] = (0.002, 0.6)
    spread: float = 0.05
    duplicate: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class _Anchor:
    point: int
    vote_share: float
    stability: float


def find_segments(
    pixels: NDArray[np.uint8],
    prompter: Prompter,
    settings: AnchorSettings | None = None,
    points: NDArray[np.float64] | None = None,
) -> Job[tuple[Segment, ...]]:
    """Divide an image into anchor segments; a long job (see ``records.Job``).

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    prompter : Prompter
    settings : AnchorSettings, optional
    points : (N, 2) float, optional
        Row and column of prompts to use in place of random ones; each then stands for itself.

    Returns
    -------
    tuple of Segment
        Numbered from 1; where two overlap, the smaller lies on top.

    Raises
    ------
    HistomixError
        If there is no tissue, or nothing stands out in it.
    """
    settings = settings or AnchorSettings()
    if points is None:
        yield Event("Superpixels")
        regions = superpixels(pixels, settings.superpixels, settings.compactness, settings.sigma, settings.tissue)
        if not regions.any():
            raise HistomixError("This image shows no tissue, so it has no anchor segments.")
        points, owners = random_points(regions, settings.points, np.random.default_rng(settings.seed))
    else:
        points = np.asarray(points, float).reshape(-1, 2)
        points = points[((points >= 0) & (points < pixels.shape[:2])).all(axis=1)]
        if not len(points):
            raise HistomixError("No point lies in this image; place some, or let it choose them.")
        owners = np.arange(len(points))
    proposals = yield from prompter(pixels, points)
    yield Event("Choosing anchors")
    anchors = _anchors(proposals, owners, pixels.shape, settings)
    if not anchors:
        raise HistomixError("Nothing stands out in this image, so it has no anchor segments.")
    masks = proposals.masks(np.array([anchor.point for anchor in anchors], np.intp))
    order = np.argsort([-np.count_nonzero(mask) for mask in masks], kind="stable")
    labels = np.zeros(pixels.shape[:2], np.int32)
    for place in order:
        labels[masks[place]] = place + 1
    least = settings.extent[0] * labels.size
    segments: list[Segment] = []
    for part in segments_of(labels):
        anchor, mask = anchors[part.number - 1], without_crumbs(part.mask)
        if np.count_nonzero(mask) >= least:
            # Without its crumbs it may have become smaller than its box.
            (rest,) = segments_of(mask.astype(np.uint8))
            corner = part.row + rest.row, part.col + rest.col
            segments.append(Segment(len(segments) + 1, *corner, rest.mask, anchor.vote_share, anchor.stability))
    return tuple(segments)


def random_points(
    regions: NDArray[np.int32], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """``count`` uniformly drawn pixels (row, column) of every region of a map from 1 on, and the region of each."""
    flat = regions.ravel()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat)
    first = np.cumsum(counts) - counts
    present = np.flatnonzero(counts[1:]) + 1
    places = [order[first[region] + rng.integers(counts[region], size=count)] for region in present]
    rows, cols = np.unravel_index(np.concatenate(places), regions.shape)
    return np.stack([rows, cols], axis=1).astype(float), np.repeat(present, count)


def segments_of(labels: NDArray[np.integer]) -> tuple[Segment, ...]:
    """The segments of a label map (H, W), as a person drew or corrected it; numbers are its labels, 0 is none."""
    boxes = find_objects(np.asarray(labels))
    return tuple(
        Segment(number, box[0].start, box[1].start, labels[box] == number)
        for number, box in enumerate(boxes, start=1)
        if box is not None
    )


def segment_map(segments: Sequence[Segment], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """The label map (H, W) of segments, 0 where there is none."""
    labels = np.zeros(shape[:2], np.int32)
    for segment in segments:
        labels[segment.window][segment.mask] = segment.number
    return labels


def _anchors(
    proposals: Proposals, owners: NDArray[np.intp], shape: tuple[int, ...], settings: AnchorSettings
) -> list[_Anchor]:
    """The most frequent mask of the largest cluster of every superpixel, without duplicates."""
    from scipy.cluster.hierarchy import fcluster, linkage

    pixels, diagonal = shape[0] * shape[1], float(np.hypot(shape[0], shape[1]))
    share = proposals.identities[:, 2] ** 2 / pixels
    usable = (share >= settings.extent[0]) & (share <= settings.extent[1])
    candidates = []
    for owner in np.unique(owners):
        prompted = owners == owner
        members = np.flatnonzero(prompted & usable)
        if len(members) == 0:
            continue
        if len(members) > 1:
            tree = linkage(proposals.identities[members], method="complete")
            clusters = fcluster(tree, settings.spread * diagonal, criterion="distance")
            members = members[clusters == np.bincount(clusters).argmax()]
        agreement = proposals.overlaps(members, members).mean(axis=1)
        chosen = int(agreement.argmax())
        vote_share = float(len(members) / np.count_nonzero(prompted))
        candidates.append(_Anchor(int(members[chosen]), vote_share, float(agreement[chosen])))
    candidates.sort(key=lambda anchor: (-anchor.vote_share, -anchor.stability))
    anchors: list[_Anchor] = []
    for anchor in candidates:
        others = np.array([other.point for other in anchors], np.intp)
        if not anchors or proposals.overlaps(np.array([anchor.point]), others).max() < settings.duplicate:
            anchors.append(anchor)
    return anchors


def without_crumbs(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without its pieces that are smaller than ``FRAGMENT`` of it."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count <= 2:
        return mask
    return np.isin(labels, np.flatnonzero(areas >= FRAGMENT * areas.sum()) + 1)
