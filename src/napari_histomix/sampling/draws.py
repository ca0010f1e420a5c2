"""Drawing in proportion to likelihoods, in log space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp


def item_seed(seed: int, number: int) -> int:
    """The seed, from 0 to 2⁶³ − 1, of everything random in one item of a run."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def draw_order(logits: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices (N,) in the order of a draw without replacement with probabilities ∝ exp(logits).

    Sorting by logits + Gumbel noise gives exactly that order (Efraimidis & Spirakis 2006; the Gumbel-top-k trick).
    """
    return np.argsort(-(logits + rng.gumbel(size=len(logits))), kind="stable")


def effective_sample_size(logits: NDArray[np.float64]) -> float:
    """How many equally likely locations the distribution is worth: 1 / Σ p², with p ∝ exp(logits); 0 of none."""
    if len(logits) == 0:
        return 0.0
    return float(np.exp(2 * logsumexp(logits) - logsumexp(2 * logits)))


def sharpest_temperature(log_likelihoods: NDArray[np.float64], wanted: float) -> float:
    """The lowest temperature, from 1 (the likelihoods as they are) up, at which the draw is worth ``wanted`` locations.

    Log-likelihoods in many dimensions can be so peaked that a handful of locations holds all the mass; this flattens
    them just as far as needed. ``wanted`` must be below the number of locations; the effective sample size grows with
    the temperature.
    """
    low, high = 1.0, 1.0
    while effective_sample_size(log_likelihoods / high) < wanted and high < 1e6:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if effective_sample_size(log_likelihoods / middle) < wanted:
            low = middle
        else:
            high = middle
    return high
