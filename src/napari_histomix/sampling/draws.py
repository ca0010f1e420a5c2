"""Drawing in proportion to likelihoods, in log space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp


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
