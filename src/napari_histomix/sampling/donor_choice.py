"""Which segments of a pool may replace which, and how likely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_histomix.sampling.segment_draw import SegmentDraw
from napari_histomix.segmentation.pool import SegmentPool


class DonorChoice:
    """Who may replace whom in one class, and how likely.

    Parameters
    ----------
    pool : SegmentPool
    members : (n,) int
        Segments of the class that may be drawn, in the order of the pool.
    kind : str
    temperature : float, optional
        See ``SegmentDraw``.
    area_ratio : (low, high)
        Donor area / target area that is let through, in µm².
    own_patient : bool
        Let a donor come from the target's own patient, or own image where patients are not known.

    Attributes
    ----------
    images : (n,) int
        For each member the index of its image in the pool; of an image that was divided again, its first.
    """

    def __init__(
        self,
        pool: SegmentPool,
        members: NDArray[np.intp],
        kind: str,
        temperature: float | None = None,
        area_ratio: tuple[float, float] = (0.0, float("inf")),
        own_patient: bool = False,
    ) -> None:
        self.pool, self.members, self.kind = pool, members, kind
        self.area_ratio, self.own_patient = area_ratio, own_patient
        self.pool_draw = SegmentDraw(pool.vectors(members, kind), temperature)
        names = [one.source.image for one in pool.images]
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        self._first = np.array([first[name] for name in names], np.intp)
        self.images = self._first[pool.rows["image"][members]]
        scales = np.array([one.mpp for one in pool.images])
        self.areas = pool.rows["area"][members] * scales[self.images] ** 2
        origins = [f"patient {one.source.patient}" if one.source.patient else one.source.image for one in pool.images]
        self._origins = np.unique(origins, return_inverse=True)[1]

    def allowed(self, target: int) -> NDArray[np.bool_]:
        """Which members (n,) may replace a segment: not itself, of a fitting size, of another patient."""
        image = int(self.pool.rows["image"][target])
        ratio = self.areas / (float(self.pool.rows["area"][target]) * self.pool.images[image].mpp ** 2)
        low, high = self.area_ratio
        found = (ratio >= low) & (ratio <= high) & (self.members != target)
        if not self.own_patient:
            found &= self._origins[self.images] != self._origins[image]
        return np.asarray(found)

    def likeliest(self, target: int, count: int = 10) -> list[tuple[int, float]]:
        """The likeliest donors for a segment, and their probabilities, falling."""
        chances = self.pool_draw.chances(self._vector(target), self.allowed(target))
        best = np.argsort(-chances, kind="stable")[:count]
        return [(int(self.members[one]), float(chances[one])) for one in best if chances[one] > 0]

    def draw(self, target: int, rng: np.random.Generator) -> tuple[int, float] | None:
        """A donor for a segment and its probability; None where no one may be."""
        drawn = self.pool_draw.draw(self._vector(target), self.allowed(target), rng)
        return None if drawn is None else (int(self.members[drawn[0]]), drawn[1])

    def _vector(self, target: int) -> NDArray[np.float32]:
        return np.asarray(self.pool.vectors(np.array([target], np.intp), self.kind)[0])
