"""A placement as a study keeps it: light in memory, its pixels read when somebody looks at them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Candidate, Placement

Patch = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
"""Pixels, origin and nucleus of a placement."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many objects that all stay without Python looking through them again and again for garbage."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


class StoredPlacement(Placement):
    """A placement whose pixels, masks and provenance are on disk.

    Parameters
    ----------
    candidate, instance, row, col, seed
        As of ``Placement``.
    shape : (h, w)
        Of the patch.
    patch : callable
        Reads its pixels, origin and nucleus.
    facts : callable
        Reads its provenance.
    """

    __slots__ = ("_facts", "_patch", "_shape")
    _facts: Callable[[int], Mapping[str, Any]]
    _patch: Callable[[int], Patch]
    _shape: tuple[int, int]

    def __init__(
        self,
        candidate: Candidate,
        instance: int,
        row: int,
        col: int,
        seed: int,
        shape: tuple[int, int],
        patch: Callable[[int], Patch],
        facts: Callable[[int], Mapping[str, Any]],
    ) -> None:
        put = object.__setattr__
        put(self, "candidate", candidate)
        put(self, "instance", instance)
        put(self, "row", row)
        put(self, "col", col)
        put(self, "seed", seed)
        put(self, "_shape", shape)
        put(self, "_patch", patch)
        put(self, "_facts", facts)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the patch."""
        return self._shape

    def moved(self, row: int, col: int) -> StoredPlacement:
        """The same patch with its upper left corner elsewhere."""
        return StoredPlacement(
            self.candidate, self.instance, row, col, self.seed, self._shape, self._patch, self._facts
        )

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Patch (h, w, 3)."""
        return self._patch(self.candidate.rank)[0]

    @property
    def origin(self) -> NDArray[np.uint8]:
        """Origin map (h, w)."""
        return self._patch(self.candidate.rank)[1]

    @property
    def nucleus(self) -> NDArray[np.bool_]:
        """Mask (h, w)."""
        return self._patch(self.candidate.rank)[2]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How it was made."""
        return self._facts(self.candidate.rank)
