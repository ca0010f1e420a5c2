"""The pool of donors and its weighted draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax


class DonorPool:
    """Donors drawn by p(i | target) ∝ exp(−w_i · D(target, i) / τ); w starts at 1 and grows by 1 at each use.

    NucleiMix, algorithm 1, line 11. Raw distances would leave nearly all mass on one donor, so τ is by default the
    median distance between the targets and the donors; τ = 1 is the paper's form.

    Parameters
    ----------
    features : (N, p) float
        Principal components of the donors' surroundings.
    areas : (N,) float
        In µm².
    temperature : float
        τ.
    area_ratio : (low, high)
        Donor area / target area that is let through when a nucleus is replaced.
    """

    def __init__(
        self,
        features: NDArray[np.float64],
        areas: NDArray[np.float64],
        temperature: float,
        area_ratio: tuple[float, float],
    ) -> None:
        self.features, self.areas = features, areas
        self.temperature, self.area_ratio = temperature, area_ratio
        self.weights = np.ones(len(features))

    def draw(self, target: NDArray[np.float64], area: float | None, rng: np.random.Generator) -> int | None:
        """Index of a donor for a target (p,) of ``area`` µm² (None: background), or None where no donor's size fits."""
        fitting = np.arange(len(self.features))
        if area is not None:
            ratio = self.areas / area
            fitting = np.flatnonzero((ratio >= self.area_ratio[0]) & (ratio <= self.area_ratio[1]))
        if len(fitting) == 0:
            return None
        distances = np.linalg.norm(self.features[fitting] - target, axis=1)
        chances = softmax(-self.weights[fitting] * distances / self.temperature)
        chosen = int(fitting[rng.choice(len(fitting), p=chances)])
        self.weights[chosen] += 1
        return chosen
