"""Which segments of a pool are selected: shared by the gallery, the map and the panel; and how classes are colored."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QObject, Signal

from napari_histomix.widgets.elements import BAD, GOOD

CLASS_COLORS = ("#4c9aff", "#f5a623", "#a97fe0", "#2fc1c9", "#e377c2", "#c9b92f", "#b07d62", "#8fa3b8")
"""Apart from the colors of decisions, and to be told from each other on light and dark."""
DECISION_FRAMES = ("", GOOD, BAD)
"""By the codes of ``Curation.decision``."""


def class_colors(count: int) -> NDArray[np.uint8]:
    """A color for each of so many classes, (count, 3) RGB."""
    found = [[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in CLASS_COLORS[:count]]
    for index in range(len(found), count):
        # Golden-angle steps of hue: no two neighbors look alike, however many there are.
        found.append([round(255 * part) for part in colorsys.hsv_to_rgb(index * 0.618 % 1, 0.55, 0.85)])
    return np.array(found, np.uint8).reshape(count, 3)


class PoolSelection(QObject):
    """Selected segments as a mask over the whole pool, so that selecting a million takes no time; one is current.

    Attributes
    ----------
    mask : (N,) bool
    current : int
        The segment clicked or reached last; -1 for none.
    """

    changed = Signal()
    current_changed = Signal(int)
    """Number of the current segment; -1 for none."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.mask = np.zeros(0, bool)
        self.current = -1

    @property
    def count(self) -> int:
        """How many are selected."""
        return int(np.count_nonzero(self.mask))

    def numbers(self) -> NDArray[np.intp]:
        """Which are selected."""
        return np.flatnonzero(self.mask)

    def reset(self, size: int) -> None:
        """Begin with a pool of so many segments, none selected."""
        self.mask = np.zeros(size, bool)
        self._now(-1)

    def select(self, numbers: ArrayLike, current: int | None = None, *, add: bool = False) -> None:
        """Select segments, in place of those that were or beside them; ``current`` becomes the current one."""
        if not add:
            self.mask[:] = False
        self.mask[np.asarray(numbers, np.intp)] = True
        self._now(self.current if current is None else current)

    def toggle(self, number: int) -> None:
        """Select a segment, or no longer; it becomes the current one."""
        self.mask[number] = not self.mask[number]
        self._now(number)

    def restrict(self, numbers: NDArray[np.intp]) -> None:
        """Let go of all but these: what is not shown must not be decided on by accident."""
        shown = np.zeros(len(self.mask), bool)
        shown[numbers] = True
        self.mask &= shown
        self._now(self.current if self.current >= 0 and shown[self.current] else -1)

    def _now(self, current: int) -> None:
        before, self.current = self.current, current
        self.changed.emit()
        if current != before:
            self.current_changed.emit(current)
