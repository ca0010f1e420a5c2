"""The weighted draw of a replacement from a segment pool (USegMix, equation 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAIRS = 2000
"""Random pairs that the median distance is taken from."""


class SegmentDraw:
    """Replacements drawn by p(j | target) ∝ exp(−w_j · ‖f_target − f_j‖ / τ); w starts at 1 and grows by 1 at each use.

    Raw distances would leave nearly all mass on one segment, so τ is by default the median distance between segments;
    τ = 1 is the paper's form.

    Parameters
    ----------
    vectors : (N, p) float32
        Of one class; a memory map will do.
    temperature : float, optional
        τ.
    """

    def __init__(self, vectors: NDArray[np.float32], temperature: float | None = None) -> None:
        self.vectors = vectors
        self.weights = np.ones(len(vectors), np.float32)
        self._squares = np.einsum("ij,ij->i", vectors, vectors)
        self.temperature = temperature or self._median_distance()

    def _median_distance(self) -> float:
        if len(self.vectors) < 2:
            return 1.0
        rng = np.random.default_rng(0)
        first, second = rng.integers(len(self.vectors), size=(2, PAIRS))
        apart = first != second
        found = np.linalg.norm(self.vectors[first[apart]] - self.vectors[second[apart]], axis=1)
        return max(float(np.median(found)), 1e-6)

    def distances(self, target: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distances (N,) of all segments from a vector (p,)."""
        target = np.asarray(target, np.float32)
        return np.sqrt(np.maximum(self._squares - 2 * (self.vectors @ target) + target @ target, 0))

    def chances(self, target: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Probabilities (N,) of all segments for a target (p,); 0 where not ``allowed`` (N,), all 0 where none is."""
        logits = self.distances(target)
        logits *= self.weights
        logits /= -self.temperature
        logits[~allowed] = -np.inf
        if not allowed.any():
            return np.zeros(len(logits), np.float32)
        logits -= logits.max()
        np.exp(logits, out=logits)
        logits /= logits.sum(dtype=np.float64)
        return logits

    def draw(
        self, target: NDArray[np.float32], allowed: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[int, float] | None:
        """Index of a replacement and its probability, its weight grown; None where nothing is allowed."""
        heights = np.cumsum(self.chances(target, allowed), dtype=np.float64)
        if len(heights) == 0 or heights[-1] <= 0:
            return None
        chosen = int(np.searchsorted(heights, rng.random() * heights[-1], side="right"))
        chance = float((heights[chosen] - (heights[chosen - 1] if chosen else 0)) / heights[-1])
        self.use(chosen)
        return chosen, chance

    def use(self, index: int) -> None:
        """Count one use of a segment."""
        self.weights[index] += 1
