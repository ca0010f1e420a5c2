"""Outlines in the XML of annotation tools: vertices, shapes by two corners, holes, and shapes that hold no area."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

import numpy as np

from napari_histomix.datasets.entries import NO_OUTLINE, Loss, unread
from napari_histomix.datasets.formats.polygons import Ring, as_ring
from napari_histomix.records import HistomixError

MOST_HOLES = 10_000
"""Negative regions of a layer that are read."""

_FEWEST_CORNERS, _MOST_CORNERS = 64, 1024
"""Corners of an ellipse, eight for each pixel of its longer half axis within these."""

_MOST_ELLIPSES = 20_000
"""Ellipses of a file, each of which takes far more memory than its two vertices."""

POINT, LINE, ARROW, RULER = unread("a point"), unread("a line"), unread("an arrow"), unread("a ruler")


def vertices(elements: Iterable[ElementTree.Element]) -> Ring:
    """The points that elements hold in ``X`` and ``Y``, with a decimal point or comma."""
    try:
        points = [[float(element.get(axis, "").replace(",", ".")) for axis in "XY"] for element in elements]
    except ValueError:
        raise HistomixError("a vertex has no numbers X and Y; export it again.") from None
    return as_ring(np.array(points, np.float64).reshape(-1, 2))


def box(corners: Ring) -> Ring:
    """The rectangle around points."""
    (left, above), (right, below) = corners.min(axis=0), corners.max(axis=0)
    return np.array([[left, above], [right, above], [right, below], [left, below]])


def check_ellipses(root: ElementTree.Element, kind: str) -> None:
    """Refuse a file with too many regions of the type that is an ellipse."""
    if sum(region.get("Type", "").strip().casefold() == kind for region in root.iter("Region")) > _MOST_ELLIPSES:
        raise HistomixError(f"at most {_MOST_ELLIPSES:,} ellipses are read; draw polygons.")


def ellipse(corners: Ring) -> Ring:
    """The ellipse that fills the rectangle around points."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    axes = (high - low) / 2
    count = int(np.clip(8 * axes.max(), _FEWEST_CORNERS, _MOST_CORNERS))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return low + axes + axes * np.column_stack([np.cos(angles), np.sin(angles)])


def too_few(ring: Ring) -> Loss:
    """Why an outline of fewer than three points is none."""
    return (NO_OUTLINE, POINT, LINE)[min(len(ring), 2)]


def is_hole(region: ElementTree.Element) -> bool:
    """Whether a region takes away from those that it lies in."""
    return region.get("NegativeROA", "").strip().casefold() in ("1", "true")


class Holes:
    """Negative regions, by the boxes around them."""

    def __init__(self, rings: list[Ring]) -> None:
        if len(rings) > MOST_HOLES:
            raise HistomixError(f"at most {MOST_HOLES} negative regions are read; draw nuclei without them.")
        self.rings = rings
        self._low = np.array([ring.min(axis=0) for ring in rings]).reshape(-1, 2)
        self._high = np.array([ring.max(axis=0) for ring in rings]).reshape(-1, 2)

    def within(self, ring: Ring) -> list[Ring]:
        """Those whose box lies in that of a ring."""
        inside = (self._low >= ring.min(axis=0)).all(axis=1) & (self._high <= ring.max(axis=0)).all(axis=1)
        return [self.rings[number] for number in np.flatnonzero(inside)]
