"""The leakage guard's other half: the same tissue in two images, whatever they are called.

Three searches, from one pass over the images: equal pixels, in any of the eight orientations; the same tissue turned,
mirrored, recompressed, resized or restained; and parts of one image that lie in another, as overlapping tiles do. The
first compares hashes. The others match local features (SIFT: Lowe, IJCV 60, 2004; square-rooted: Arandjelović &
Zisserman, CVPR 2012) that fall into one bucket of a hash of random hyperplanes (Charikar, STOC 2002), so that the
time grows with the number of images and not of pairs, and believe a match only where the pixels correlate.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.dataset import Dataset
from napari_histomix.datasets.entries import Entry
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import Groups, check_splits, split_of
from napari_histomix.records import Event, HistomixError, Job

CORRELATION = 0.35
"""Of the details of two images where they overlap: from here on they show the same tissue (docs/leakage.md)."""
POINTS = 1000
"""Local features kept of an image, at most."""
ALL_POINTS = 1_000_000
"""Local features kept of a dataset, at most; they take 130 bytes each."""
ALIKE = 0.95
"""Cosine of two square-rooted SIFT descriptors of one place; the most similar ones of unrelated images stay below."""
VOTES = 3
"""Places that two images must have in common before their pixels are compared."""
OVERLAP = 24
"""Smallest side, in pixels of half resolution, of an overlap that is compared."""
LARGEST = 2048
"""Longer side, in pixels, at which an image is compared, at most."""
WHOLE = 0.95
"""Share of an image from which an overlap counts as all of it."""
BLANK = 2.0
"""Standard deviation of gray values below which an image shows nothing that could leak."""

_BITS, _TABLES, _BUCKET = 24, 12, 12
_CELLS = 8
# A SIFT descriptor is 4 × 4 cells of 8 directions, turned to the place's main direction: mirroring the image reverses
# the order of the rows of cells and the sense of the directions.
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, (8 - np.arange(8)) % 8].ravel()


@dataclass(frozen=True, slots=True)
class Copies:
    """Two images that show the same tissue."""

    images: tuple[str, str]
    splits: tuple[str, str]
    shares: tuple[float, float] = (1.0, 1.0)  # of each image, that lies in the other
    same_pixels: bool = False  # whether all pixels are equal, turned or mirrored perhaps
    turned: bool = False  # whether one of two images of equal pixels is

    @property
    def sentence(self) -> str:
        """What they have in common, for a person."""
        first, second = (f"{image} ({split})" for image, split in zip(self.images, self.splits, strict=True))
        if self.same_pixels:
            return f"{first} and {second} are one image{', turned or mirrored' if self.turned else ''}."
        if min(self.shares) >= WHOLE:
            return f"{first} and {second} show the same tissue in other pixels."
        if max(self.shares) >= WHOLE:
            part, whole = (first, second) if self.shares[0] >= WHOLE else (second, first)
            return f"{part} is a part of {whole}."
        return f"{self.shares[0]:.0%} of {first} lies in {second}."


def check_leaks(dataset: Dataset) -> Job[None]:
    """Refuse a dataset whose training split shares a patient, a slide or tissue with another; a long job.

    Nothing is read where all images are of one split.
    """
    check_splits(dataset)
    copies = yield from find_copies(dataset)
    if leaks := [pair for pair in copies if "train" in pair.splits]:
        shown = " ".join(pair.sentence for pair in leaks[:5]) + (f" And {len(leaks) - 5} more." if leaks[5:] else "")
        raise HistomixError(
            f"The training split shares tissue with another split; move these images to one split: {shown}"
        )


def find_copies(dataset: Dataset, *, within: bool = False) -> Job[tuple[Copies, ...]]:
    """Look for images that show the same tissue; a long job (see ``records.Job``).

    Images that cannot be read, or show nothing, are passed over. Only images of different splits are compared, unless
    ``within`` is true. Whoever has a copy is in one of the results at least; of three copies of one image two pairs are
    enough, so not every pair is there.
    """
    entries = dataset.entries
    splits = [split_of(entry.source) for entry in entries]
    if len(set(splits)) < 2 and not within:
        return ()
    points = int(np.clip(ALL_POINTS // max(1, len(entries)), 20, POINTS))
    prints: dict[int, _Print] = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        waiting = [threads.submit(_fingerprint, dataset, entry, points) for entry in entries]
        try:
            for done, future in enumerate(waiting):
                yield Event("Looking for copies", done, len(entries))
                if (fingerprint := future.result()) is not None:
                    prints[done] = fingerprint
        finally:
            threads.shutdown(cancel_futures=True)
    groups = Groups(len(entries))
    copies: list[Copies] = []

    def wanted(first: int, second: int) -> bool:
        return (within or splits[first] != splits[second]) and groups.of(first) != groups.of(second)

    def add(first: int, second: int, shares: tuple[float, float], same: bool = False, turned: bool = False) -> None:
        groups.join(first, second)
        names = entries[first].source.image, entries[second].source.image
        copies.append(Copies(names, (splits[first], splits[second]), shares, same, turned))

    for first, second in _equal(prints, splits):
        if wanted(first, second):
            add(first, second, (1.0, 1.0), True, prints[first].exact != prints[second].exact)
    pairs = yield from _pairs(prints)
    for done, (first, second, mirrored) in enumerate(pairs):
        yield Event("Comparing similar images", done, len(pairs))
        if wanted(first, second):
            images = tuple(_gray(dataset.files.pixels(entries[index])) for index in (first, second))
            if shares := _overlap(images, (prints[first], prints[second]), mirrored):
                add(first, second, shares)
    yield Event("Comparing similar images", len(pairs), len(pairs))
    return tuple(sorted(copies, key=lambda pair: pair.images))


@dataclass(frozen=True, slots=True, eq=False)
class _Print:
    """What an image is recognized by: hashes of its pixels, and local features with their places (x, y)."""

    exact: str
    canonical: str
    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]


def _fingerprint(dataset: Dataset, entry: Entry, points: int) -> _Print | None:
    """None for an image that cannot be read or shows nothing."""
    try:
        pixels = dataset.files.pixels(entry)
    except HistomixError:
        return None
    gray = _gray(pixels)
    if float(gray.std()) < BLANK:
        return None
    turns = [np.rot90(side, turn) for side in (pixels, pixels[:, ::-1]) for turn in range(4)]
    hashes = [pixels_sha256(turned) for turned in turns]
    return _Print(hashes[0], min(hashes), *_features(gray, points))


def _gray(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At half resolution, for what survives compression lies there; a very large image coarser, to save memory."""
    factor = max(2.0, max(pixels.shape) / LARGEST)
    rows, cols = (max(1, int(size / factor)) for size in pixels.shape[:2])
    small = cv2.resize(np.ascontiguousarray(pixels), (cols, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _features(gray: NDArray[np.uint8], count: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The largest local features, spread evenly, so that each part of an image has some of them."""
    keys, descriptors = cv2.SIFT_create().detectAndCompute(gray, None)  # type: ignore[attr-defined]
    if descriptors is None:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8)
    places = np.array([key.pt for key in keys], np.float32)
    sizes = np.array([key.size for key in keys])
    cells = (places / gray.shape[::-1] * _CELLS).astype(int) @ (_CELLS, 1)
    order = np.lexsort((-sizes, cells))
    turn = np.arange(len(order)) - np.searchsorted(cells[order], cells[order])
    order = order[np.lexsort((-sizes[order], turn))][:count]
    kept = descriptors[order]
    roots = np.sqrt(kept / np.maximum(kept.sum(axis=1, keepdims=True), 1e-9))
    return places[order], np.minimum(np.rint(512 * roots), 255).astype(np.uint8)


def _equal(prints: Mapping[int, _Print], splits: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Images of equal pixels in whatever orientation, each with the first one of every split."""
    members: dict[str, list[int]] = {}
    for index, fingerprint in prints.items():
        members.setdefault(fingerprint.canonical, []).append(index)
    for same in members.values():
        first = {splits[index]: index for index in reversed(same)}
        for index in same:
            yield from ((min(index, other), max(index, other)) for other in first.values() if other != index)


def _pairs(prints: Mapping[int, _Print]) -> Job[list[tuple[int, int, bool]]]:
    """Pairs of images with enough places in common, and whether one is mirrored; those with the most come first."""
    descriptors = [fingerprint.descriptors for fingerprint in prints.values()]
    owners = np.repeat(np.array(list(prints), np.intp), list(map(len, descriptors)))
    if not len(owners):
        return []
    features = np.concatenate(descriptors)
    mean = features.mean(axis=0, dtype=np.float32)
    rng = np.random.default_rng(0)
    in_tables: list[NDArray[np.int64]] = []
    for table in range(_TABLES):
        yield Event("Comparing local features", table, _TABLES)
        planes = rng.standard_normal((128, _BITS)).astype(np.float32)
        keys = np.concatenate([_keys(features, mean, planes), _keys(features[:, _MIRROR], mean, planes)])
        in_tables.append(_matches(keys, owners))
    matches, mirrored = np.divmod(np.unique(np.concatenate(in_tables)), 2)
    first, second = np.divmod(matches, len(owners))
    cosines = np.concatenate([np.empty(0), *_cosines(features, first, second, mirrored)])
    alike = cosines > ALIKE
    pairs = np.stack([owners[first[alike]], owners[second[alike]], mirrored[alike]], axis=1)
    unique, votes = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-votes, kind="stable")
    return [(int(first), int(second), bool(flag)) for first, second, flag in unique[order[votes[order] >= VOTES]]]


def _keys(features: NDArray[np.uint8], mean: NDArray[np.float32], planes: NDArray[np.float32]) -> NDArray[np.int64]:
    """On which side of each plane a feature lies, as one number."""
    chunks = (features[start : start + 65536] for start in range(0, len(features), 65536))
    return np.concatenate([((chunk - mean) @ planes > 0) @ (1 << np.arange(_BITS)) for chunk in chunks])


def _matches(keys: NDArray[np.int64], owners: NDArray[np.intp]) -> NDArray[np.int64]:
    """Features of two images that share a bucket, as numbers: 2 · (earlier image's · count + other's) + mirrored.

    The first half of ``keys`` are the features as they are, the second half the same ones mirrored.
    """
    count = len(owners)
    order = np.argsort(keys, kind="stable")
    numbers = [np.empty(0, np.int64)]
    for step in range(1, _BUCKET):
        same = keys[order[:-step]] == keys[order[step:]]
        first, second = order[:-step][same], order[step:][same]
        mirrored = (first >= count) != (second >= count)
        # Two mirrored features match where the features themselves do.
        both = (first >= count) & (second >= count)
        first, second = first % count, second % count
        first, second = np.where(owners[first] < owners[second], [first, second], [second, first])
        kept = ~both & (owners[first] != owners[second])
        numbers.append(2 * (first[kept] * count + second[kept]) + mirrored[kept])
    return np.concatenate(numbers)


def _cosines(
    features: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64], mirrored: NDArray[np.int64]
) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(first), 65536):
        part = slice(start, start + 65536)
        left, right = features[first[part]].astype(np.float32), features[second[part]]
        right = np.where(mirrored[part, None] == 1, right[:, _MIRROR], right).astype(np.float32)
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        yield np.einsum("ij,ij->i", left, right) / np.maximum(lengths, 1e-9)


def _overlap(
    images: Sequence[NDArray[np.uint8]], prints: tuple[_Print, _Print], mirrored: bool
) -> tuple[float, float] | None:
    """Shares of two gray images that show the same; None where they differ."""
    first, second = images
    points, descriptors = prints[1].points, prints[1].descriptors
    if mirrored:
        second, descriptors = second[:, ::-1], descriptors[:, _MIRROR]
        points = np.array((second.shape[1] - 1, 0)) + points * (-1, 1)
    matrix = _similarity(prints[0].points, prints[0].descriptors, points.astype(np.float32), descriptors)
    if matrix is None:
        return None
    size = first.shape[::-1]
    detail, moved = _detail(first), cv2.warpAffine(_detail(second), matrix, size)
    valid = cv2.warpAffine(np.ones(second.shape, np.uint8), matrix, size) > 0
    lines, columns = (np.flatnonzero(valid.any(axis=axis)) for axis in (1, 0))
    if len(lines) < OVERLAP or len(columns) < OVERLAP:
        return None
    values = detail[valid], moved[valid]
    if not all(side.std() for side in values) or np.corrcoef(*values)[0, 1] < CORRELATION:
        return None
    area = second.size * abs(float(np.linalg.det(matrix[:, :2])))
    common = float(np.count_nonzero(valid))
    return min(1.0, common / first.size), min(1.0, common / area)


def _detail(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What varies over a few micrometers: noise is gone, and where there is glass, as it is alike in any two images."""
    fine, coarse = (cv2.GaussianBlur(gray.astype(np.float32), (0, 0), sigma) for sigma in (1.5, 6.0))
    return np.asarray(fine - coarse, np.float32)


def _similarity(
    points: NDArray[np.float32],
    descriptors: NDArray[np.uint8],
    others: NDArray[np.float32],
    other_descriptors: NDArray[np.uint8],
) -> NDArray[np.float64] | None:
    """The (2, 3) map of the other image's places onto the first's that most matches agree on, or None."""
    roots = (part.astype(np.float32) for part in (descriptors, other_descriptors))
    left, right = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in roots)
    cosines = left @ right.T
    best = cosines.argmax(axis=1)
    mutual = cosines.argmax(axis=0)[best] == np.arange(len(best))
    kept = np.flatnonzero(mutual & (cosines.max(axis=1) > ALIKE))
    if len(kept) < VOTES:
        return None
    matrix, agreed = cv2.estimateAffinePartial2D(
        others[best[kept]], points[kept], method=cv2.RANSAC, ransacReprojThreshold=2.0
    )
    if matrix is None or int(agreed.sum()) < VOTES:
        return None
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return np.asarray(matrix, np.float64) if 0.2 < scale < 5 else None
