"""Masks as polygons and as run lengths, and back.

Polygons run exactly along pixel borders, and hold the pixels whose centers lie in them. Coordinates are x, y in pixels;
the pixel in the upper left corner spans 0 to 1 in both, its center lies at 0.5, 0.5. Run lengths are COCO's, which
pycocotools and most tools for instance masks read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_histomix.datasets.entries import COVERED, EMPTY, OUTSIDE, Labels, Loss
from napari_histomix.records import HistomixError

Ring = NDArray[np.float64]
"""Corners of a closed line, (n, 2) x and y; the first is not repeated at the end."""

MAX_POINTS = 1_000_000
"""Corners of one polygon, all of its rings together."""

FARTHEST = 2.0**31
"""No coordinate may lie farther from the origin: far beyond any slide, and exact enough in double precision."""

_MAX_WORK = 2**29
"""Pixels and row crossings that are looked at for all polygons of one image: seconds, whatever a file says."""
_PER_RING, _PER_POINT = 1000, 20
"""How many pixels take as long as a ring and as one of its points."""
_MAX_CROSSINGS = 2**25
_BAND = 2**22
"""Pixels that are filled at a time, so that a large polygon needs little more memory than its mask."""

_RIGHT, _DOWN, _LEFT, _UP = range(4)
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outlines(mask: NDArray[np.bool_]) -> list[tuple[Ring, list[Ring]]]:
    """The outlines of a mask along the borders of its pixels, from which `rasterize` gives back exactly the mask.

    No ring touches itself, so the rings of a part are a valid polygon by the rules of GeoJSON and of Simple Features
    (OGC 06-103r4); a hole may touch the exterior, or another hole, in single points.
    """
    parts, count = ndimage.label(mask)
    polygons = []
    for number, window in enumerate(ndimage.find_objects(parts, count), start=1):
        corner = (window[1].start, window[0].start)
        rings = [np.array(ring, np.float64) + corner for ring in _trace(parts[window] == number)]
        # The upper left corner of the first pixel is on the exterior, from which tracing begins.
        polygons.append((rings[0], rings[1:]))
    return polygons


def _trace(part: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The rings of one part, the exterior first, the mask on the right of each step."""
    padded = np.pad(part, 1)
    inside = padded[1:-1, 1:-1]
    ways: dict[tuple[int, int], list[int]] = {}
    for way, outside, (x, y) in (
        (_RIGHT, padded[:-2, 1:-1], (0, 0)),
        (_DOWN, padded[1:-1, 2:], (1, 0)),
        (_LEFT, padded[2:, 1:-1], (1, 1)),
        (_UP, padded[1:-1, :-2], (0, 1)),
    ):
        rows, cols = np.nonzero(inside & ~outside)
        for place in zip((cols + x).tolist(), (rows + y).tolist(), strict=True):
            ways.setdefault(place, []).append(way)
    rings = []
    while ways:
        start = next(iter(ways))
        # The upper left corner of a run of pixels, so a corner of the ring.
        place, way, ring = start, ways[start][0], [start]
        while True:
            ways[place].remove(way)
            if not ways[place]:
                del ways[place]
            place = (place[0] + _STEPS[way][0], place[1] + _STEPS[way][1])
            if place == start:
                break
            # Two pixels that touch in this corner alone: a left turn goes on along the other one, by which what
            # lies between them is a hole of its own, and the ring does not touch itself.
            here = ways[place]
            turned = here[0] if len(here) == 1 else (way - 1) % 4
            if turned != way:
                ring.append(place)
            way = turned
        rings.append(ring)
    return rings


class _Edges(NamedTuple):
    """The edges of a polygon within an image: those that cross the middle line of a row of pixels."""

    top: NDArray[np.float64]  # (n, 2) x, y of the upper end
    bottom: NDArray[np.float64]
    sign: NDArray[np.int64]  # 1 where the ring runs down, -1 where it runs up
    first: NDArray[np.int64]  # rows of pixels whose middle line is crossed, from first up to below last
    last: NDArray[np.int64]
    window: tuple[int, int, int, int]  # rows from, below; columns from, below

    @property
    def crossings(self) -> int:
        return int((self.last - self.first).sum())


def as_ring(points: Any) -> Ring:
    """Turn what a file says into corners."""
    try:
        ring = np.asarray(points)
    except (TypeError, ValueError, OverflowError, RecursionError):
        ring = np.zeros((), object)
    if ring.size == 0 and ring.dtype.kind == "f":
        return np.zeros((0, 2))
    if ring.ndim != 2 or ring.shape[1] != 2 or ring.dtype.kind not in "iuf":
        raise HistomixError("a polygon must be a list of points, [[x, y], …]; export it again.")
    if len(ring) > MAX_POINTS:
        raise HistomixError(f"a polygon has {len(ring)} points and at most {MAX_POINTS} are read; simplify it.")
    ring = ring.astype(np.float64)
    if not (np.abs(ring) <= FARTHEST).all():
        raise HistomixError("a polygon has a point at infinity, or so far out that no image reaches it; mend it.")
    return ring


def _edges(rings: Sequence[Any], shape: tuple[int, int]) -> _Edges:
    """The edges of all rings that matter in an image."""
    closed = [ring for ring in map(as_ring, rings) if len(ring) >= 3]
    if sum(map(len, closed)) > MAX_POINTS:
        raise HistomixError(f"a polygon has more than {MAX_POINTS} points; simplify it.")
    if not closed:
        none = np.zeros(0, np.int64)
        return _Edges(np.zeros((0, 2)), np.zeros((0, 2)), none, none, none, (0, 0, 0, 0))
    start = np.concatenate(closed)
    corners = np.ceil([start.min(axis=0) - 0.5, start.max(axis=0) - 0.5])
    (left, above), (right, below) = np.clip(corners, 0, (shape[1], shape[0])).astype(int).tolist()
    window = (above, below, left, right) if left < right and above < below else (0, 0, 0, 0)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in closed])
    falls = (end[:, 1] >= start[:, 1])[:, None]
    top, bottom = np.where(falls, start, end), np.where(falls, end, start)
    # A middle line at r + 0.5 is crossed by an edge whose upper end is on or above it and its lower end below it.
    first = np.clip(np.ceil(top[:, 1] - 0.5), window[0], window[1]).astype(np.int64)
    last = np.clip(np.ceil(bottom[:, 1] - 0.5), window[0], window[1]).astype(np.int64)
    crosses = first < last
    sign = np.where(falls[:, 0], 1, -1)
    return _Edges(top[crosses], bottom[crosses], sign[crosses], first[crosses], last[crosses], window)


def _fill(edges: _Edges) -> NDArray[np.bool_]:
    """The pixels of the edges' window whose centers have an odd number of crossings to their left.

    Where there are none, those that the rings wind around: a ring that is walked twice holds what it holds once.
    """
    mask = _crossed(edges, np.bitwise_xor, 1)
    if mask.size and not mask.any():
        mask = _crossed(edges, np.add, edges.sign)
    return mask


def _crossed(edges: _Edges, count: np.ufunc, value: NDArray[np.int64] | int) -> NDArray[np.bool_]:
    """The pixels of the edges' window for whose centers the values of all crossings to their left do not cancel."""
    if edges.crossings > _MAX_CROSSINGS:
        raise HistomixError("a polygon runs up and down too often to be drawn; simplify it.")
    above, below, left, right = edges.window
    height, width = below - above, right - left
    mask = np.zeros((height, width), np.bool_)
    step = max(1, _BAND // max(1, width))
    for row in range(above, below, step):
        stop = min(row + step, below)
        first, last = np.maximum(edges.first, row), np.minimum(edges.last, stop)
        here = np.flatnonzero(first < last)
        counts = (last - first)[here]
        each = np.repeat(here, counts)
        # The rows that each edge crosses, one after another.
        rows = np.arange(each.size) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first[here], counts)
        top, bottom = edges.top[each], edges.bottom[each]
        share = (rows + 0.5 - top[:, 1]) / (bottom[:, 1] - top[:, 1])
        crossed = top[:, 0] + share * (bottom[:, 0] - top[:, 0])
        cols = np.clip(np.ceil(crossed - 0.5), left, right).astype(np.int64) - left
        # One column more, for what is crossed to the right of the window.
        changes = np.zeros((stop - row, width + 1), np.uint8 if isinstance(value, int) else np.int32)
        count.at(changes, (rows - row, cols), value if isinstance(value, int) else value[each])
        mask[row - above : stop - above] = count.accumulate(changes[:, :width], axis=1) != 0
    return mask


def rasterize(rings: Sequence[Any], shape: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """The pixels of an image whose centers lie in a polygon, by the even-odd rule over all of its rings.

    So holes are holes whatever their orientation, and where a ring crosses itself, what it winds around twice is
    outside; unless nothing would be left of the polygon, as of a ring that is walked twice. A center on an edge belongs
    to what is to the right of it or below. Rings of fewer than three points hold nothing.
    """
    edges = _edges(rings, shape)
    return edges.window[0], edges.window[2], _fill(edges)


class Canvas:
    """An instance map into which nuclei are drawn one after another.

    Where two overlap, the pixels stay with the earlier one, as in the readers of MoNuSeg. A nucleus that lies wholly
    within others is drawn over them, since it would be lost otherwise; unless one of those would be lost by that, as
    with a copy. It is then left out, as is one without a pixel, and counted with the reason.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.instances = np.zeros(shape, np.int32)
        self.types: dict[int, int] = {}
        self.lost: Counter[Loss] = Counter()
        self._areas: dict[int, int] = {}
        self._work = 0

    def spend(self, work: int) -> None:
        """Count pixels that are about to be looked at."""
        self._work += work
        if self._work > _MAX_WORK:
            raise HistomixError("the polygons cover the image too many times over; remove the large ones.")

    def labels(self, synthetic: Iterable[int] = (), notes: tuple[str, ...] = ()) -> Labels:
        """What was drawn, and what was lost on the way."""
        return Labels(self.instances, self.types, frozenset(synthetic), self.lost, notes)

    def draw(self, rings: Sequence[Any], kind: int, instance: int | None = None) -> int:
        """Draw a nucleus by its outlines; returns its id, 0 where it is lost."""
        self.spend(_PER_RING * len(rings))
        edges = _edges(rings, self.instances.shape)
        above, below, left, right = edges.window
        self.spend((below - above) * (right - left) + edges.crossings + _PER_POINT * sum(map(len, rings)))
        if outside(rings, self.instances.shape):
            self.lost[OUTSIDE] += 1
            return 0
        return self.add(above, left, _fill(edges), kind, instance)

    def add(self, row: int, col: int, mask: NDArray[np.bool_], kind: int, instance: int | None = None) -> int:
        """Draw a nucleus by its mask; returns its id, 0 where it is lost."""
        below = self.instances[row : row + mask.shape[0], col : col + mask.shape[1]]
        drawn = mask & (below == 0)
        if not drawn.any():
            ids, counts = np.unique(below[mask], return_counts=True)
            lost = dict(zip(ids.tolist(), counts.tolist(), strict=True))
            if not lost or any(self._areas[other] <= count for other, count in lost.items()):
                self.lost[COVERED if lost else EMPTY] += 1
                return 0
            for other, count in lost.items():
                self._areas[other] -= count
            drawn = mask
        number = len(self.types) + 1 if instance is None else instance
        below[drawn] = number
        self.types[number] = kind
        self._areas[number] = int(np.count_nonzero(drawn))
        return number


def outside(rings: Sequence[Any], shape: tuple[int, ...]) -> bool:
    """Whether no point of the rings' boxes lies in an image of that shape."""
    corners = [ring for ring in map(as_ring, rings) if len(ring)]
    if not corners:
        return False
    low, high = np.min([ring.min(axis=0) for ring in corners], axis=0), np.max([r.max(axis=0) for r in corners], axis=0)
    return bool((high <= 0).any() or (low >= (shape[1], shape[0])).any())


def paint(
    shape: tuple[int, int], polygons: Iterable[tuple[Sequence[Any], int]], ids: Iterable[int] | None = None
) -> Labels:
    """Draw polygons into an instance map, in their order; see `Canvas` for those that overlap."""
    canvas = Canvas(shape)
    for (rings, number), instance in zip(polygons, repeat(None) if ids is None else ids, strict=False):
        canvas.draw(rings, number, instance)
    return canvas.labels()


def shapes_of(instances: NDArray[np.int32]) -> Iterator[tuple[int, list[tuple[Ring, list[Ring]]]]]:
    """Every nucleus of an instance map with its outlines in the image's coordinates (see `outlines`), by id."""
    for number, (rows, cols), mask in masks_of(instances):
        corner = (cols, rows)
        yield number, [(ring + corner, [hole + corner for hole in holes]) for ring, holes in outlines(mask)]


def masks_of(instances: NDArray[np.int32]) -> Iterator[tuple[int, tuple[int, int], NDArray[np.bool_]]]:
    """Every nucleus of an instance map by id: its number, the upper left corner (row, col) of its box, its mask."""
    ids, places = np.unique(instances, return_inverse=True)
    # Numbered without gaps: find_objects takes memory for every number below the highest.
    offset = 0 if ids[0] == 0 else 1
    windows = ndimage.find_objects(places.reshape(instances.shape) + offset)
    for number, window in zip(ids[ids > 0].tolist(), windows, strict=True):
        yield number, (window[0].start, window[1].start), instances[window] == number


def one_ring(parts: Sequence[tuple[Ring, list[Ring]]]) -> Ring:
    """All rings of a nucleus as a single one, for formats that hold nothing else.

    The rings are joined by lines that run there and back again along pixel borders, so they hold no area and cross no
    pixel's center: by the even-odd rule the pixels are the same.
    """
    first, *others = [ring for exterior, holes in parts for ring in (exterior, *holes)]
    if not others:
        return first
    joined = [first, first[:1]]
    for ring in others:
        corner = np.array([[ring[0, 0], first[0, 1]]])
        joined += [corner, ring, ring[:1], corner, first[:1]]
    return np.concatenate(joined[:-1])


LARGEST_MASK = 2**28
"""Pixels of a mask that is read; a few characters could ask for more memory than there is."""

_MOST_BITS = 40
"""Bits of one run length: without an end, each character would take longer than the one before it."""


def mask_text(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (h, w) as ``{"size": [h, w], "counts": "…"}``, plain JSON values.

    The counts are the lengths of runs of 0 and 1 in turn, column by column, from the third on as the difference to the
    one before the last, in groups of five bits (COCO API, ``rleToString``).
    """
    flat = np.concatenate([[False], np.asarray(mask, bool).ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    # A mask that ends in 1 would get an empty run of 0 at its end.
    if len(lengths) > 1 and lengths[-1] == 0:
        lengths.pop()
    text = []
    for place, length in enumerate(lengths):
        value = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + (bits | 32 if more else bits)))
    return {"size": list(mask.shape), "counts": "".join(text)}


def mask_of(text: Any) -> NDArray[np.bool_]:
    """The mask (h, w) of what ``mask_text`` writes."""
    try:
        height, width = (int(side) for side in text["size"])
        lengths = lengths_of(str(text["counts"]))
    except (KeyError, TypeError, ValueError):
        raise HistomixError("A mask is not written as COCO's run lengths; write it again.") from None
    if min(height, width, *lengths) < 0 or height * width > LARGEST_MASK or sum(lengths) != height * width:
        raise HistomixError("The run lengths of a mask do not fill its size; write it again.")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape((height, width), order="F")


def lengths_of(text: str) -> list[int]:
    """The run lengths of the text in ``counts``, of 0 and 1 in turn."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no run length")
        value |= (bits & 31) << shift
        shift += 5
        if shift > _MOST_BITS:
            raise ValueError("a run is longer than any mask")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the last run length is cut off")
    return lengths
