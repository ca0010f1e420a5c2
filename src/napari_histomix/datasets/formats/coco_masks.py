"""A nucleus as COCO writes it: polygons or run lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.formats.polygons import Canvas, Ring, as_ring, outlines, rasterize
from napari_histomix.datasets.run_lengths import lengths_of, mask_text
from napari_histomix.records import HistomixError


@dataclass(frozen=True)
class Nucleus:
    """A nucleus as its file says it: the union of polygons, or run lengths of a whole image of that size."""

    kind: int
    rings: tuple[Ring, ...] = ()
    counts: str | list[Any] = ""
    size: tuple[int, int] = (0, 0)

    @classmethod
    def read(cls, outline: Any, kind: int) -> Nucleus:
        """Take over what ``segmentation`` says; run lengths are decoded when they are drawn.

        Raises
        ------
        HistomixError
            If it is of another form.
        """
        if isinstance(outline, dict):
            size, counts = outline.get("size"), outline.get("counts")
            if not isinstance(counts, str | list) or not isinstance(size, list) or len(size) != 2:
                raise HistomixError("run lengths must read {size: [height, width], counts: …}; export them again.")
            return cls(kind, counts=counts, size=(size[0], size[1]))
        if not isinstance(outline, list) or not all(isinstance(part, list) and len(part) % 2 == 0 for part in outline):
            raise HistomixError(
                "a segmentation must be run lengths or polygons, [[x1, y1, x2, y2, …], …]; export it again."
            )
        rings = (as_ring(list(zip(part[::2], part[1::2], strict=True))) for part in outline if len(part) >= 6)
        return cls(kind, tuple(rings))


def filled(nucleus: Nucleus, shape: tuple[int, int], canvas: Canvas) -> tuple[int, int, NDArray[np.bool_]]:
    """The upper left corner and the mask of a nucleus; the canvas counts the pixels that are looked at."""
    if nucleus.counts:
        return _decoded(nucleus, shape, canvas)
    parts = []
    for ring in nucleus.rings:
        cols, rows = np.clip(np.ceil(ring.max(axis=0)) - np.floor(ring.min(axis=0)), 0, (shape[1], shape[0]))
        canvas.spend(int(cols * rows) + len(ring))
        row, col, mask = rasterize([ring], shape)
        if mask.any():
            parts.append((row, col, mask))
    if len(parts) == 1:
        return parts[0]
    row = min((one[0] for one in parts), default=0)
    col = min((one[1] for one in parts), default=0)
    below = max((one[0] + one[2].shape[0] for one in parts), default=0)
    right = max((one[1] + one[2].shape[1] for one in parts), default=0)
    canvas.spend((below - row) * (right - col))
    whole = np.zeros((below - row, right - col), np.bool_)
    for above, left, mask in parts:
        whole[above - row : above - row + mask.shape[0], left - col : left - col + mask.shape[1]] |= mask
    return row, col, whole


def _decoded(nucleus: Nucleus, shape: tuple[int, int], canvas: Canvas) -> tuple[int, int, NDArray[np.bool_]]:
    """The columns of an image that run lengths fill."""
    counts, total = nucleus.counts, shape[0] * shape[1]
    if nucleus.size != shape:
        raise HistomixError(f"run lengths are for the size {nucleus.size!r:.60}, but the image's is {shape}.")
    # A run takes at most seven characters.
    if len(counts) > 7 * (total + 1):
        raise HistomixError("run lengths are more than the image's pixels; export them again.")
    canvas.spend(len(counts))
    try:
        found = lengths_of(counts) if isinstance(counts, str) else counts
        lengths = np.array(found)
    except (ValueError, OverflowError):
        lengths = np.zeros(0)
    fits = lengths.ndim == 1 and lengths.dtype.kind == "i" and lengths.min(initial=0) >= 0
    if not fits or lengths.max(initial=0) > total or lengths.sum() != total:
        raise HistomixError("run lengths are no whole numbers that add up to the image's pixels; export them again.")
    ends = np.cumsum(lengths)
    starts, stops = (ends - lengths)[1::2], ends[1::2]
    starts, stops = starts[starts < stops], stops[starts < stops]
    if starts.size == 0:
        return 0, 0, np.zeros((0, 0), np.bool_)
    left, right = int(starts[0]) // shape[0], -(int(-stops[-1]) // shape[0])
    canvas.spend((right - left) * shape[0])
    changes = np.zeros((right - left) * shape[0] + 1, np.int8)
    changes[starts - left * shape[0]] += 1
    changes[stops - left * shape[0]] -= 1
    mask = np.cumsum(changes[:-1], dtype=np.int8).astype(np.bool_)
    return 0, left, mask.reshape(right - left, shape[0]).T


def segmentation(
    mask: NDArray[np.bool_], row: int, col: int, shape: tuple[int, int]
) -> list[list[int]] | dict[str, Any]:
    """What COCO writes of a mask that lies at that row and column."""
    parts = outlines(mask)
    if len(parts) == 1 and not parts[0][1]:
        return [(parts[0][0] + (col, row)).astype(int).ravel().tolist()]
    whole = np.zeros(shape, np.bool_)
    whole[row : row + mask.shape[0], col : col + mask.shape[1]] = mask
    return mask_text(whole)
