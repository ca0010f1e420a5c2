"""How rare-like places are, by models that did not learn from them, and how well rare places are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Event, HistomixError, Job

FOLDS = 10
"""Folds of a cross-fit at most."""
FEWEST_RARE = 10
"""Rare nuclei below which a density ratio is not fitted, and nothing is said of how well places can be told apart."""
SPREAD = 0.5
"""Variance of the coefficients that is expected beforehand: the L2 penalty. AUCs on CoNSeP hardly depend on it."""

FARTHEST = 3.0
"""Standard deviations of rare nuclei from their mean beyond which a place's surroundings count as no farther."""

TYPICAL = 0.95
"""Share of rare nuclei whose weight in a balanced draw is the largest that any place has."""

Features = NDArray[np.floating]
Scores = NDArray[np.float64]
Fit = Callable[[Features, Features], Callable[[Features], Scores]]
"""From features of rare (n, d) and of other places (m, d) to what scores (N, d) features."""


@dataclass(frozen=True, eq=False)
class DensityRatio:
    """log p(x | rare) / p(x | other), linear in the features: a logistic regression of rare against other places.

    Made by ``fit``. Both kinds weigh the same in total, so that the log-odds are the log-ratio of the densities (Qin,
    Biometrika 85, 1998), and the total is the number of rare nuclei, so that the fewer there are, the nearer to 0 the
    coefficients stay.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    intercept: float

    @classmethod
    def fit(cls, rare: Features, others: Features) -> DensityRatio:
        """Fit to features of rare (n, d) and of other places (m, d); HistomixError without either."""
        from sklearn.linear_model import LogisticRegression

        if len(rare) == 0 or len(others) == 0:
            raise HistomixError("There are no rare nuclei, or no other places, to compare; add images.")
        features = np.concatenate([rare, others]).astype(np.float64)
        mean, scale = features.mean(axis=0), features.std(axis=0)
        # A feature that is the same everywhere tells nothing.
        scale[scale < 1e-9 * np.maximum(np.abs(mean), 1)] = 1.0
        truth = np.arange(len(features)) < len(rare)
        weights = np.where(truth, 1.0, len(rare) / len(others))
        model = LogisticRegression(C=SPREAD, max_iter=1000).fit((features - mean) / scale, truth, weights)
        return cls(mean, scale, model.coef_[0], float(model.intercept_[0]))

    def score_samples(self, features: Features) -> Scores:
        """Log-ratios (N,) of features (N, d)."""
        if len(features) == 0:
            return np.empty(0)
        return np.asarray((features - self.mean) / self.scale @ self.coefficients + self.intercept)


def fit_ratio(rare: Features, others: Features) -> Callable[[Features], Scores]:
    """A density ratio, as ``cross_fit`` takes it."""
    return DensityRatio.fit(rare, others).score_samples


def fold_numbers(rare: NDArray[np.bool_], groups: Sequence[str]) -> NDArray[np.intp]:
    """Folds (N,) of places, so that every fold's rest has rare nuclei; whole groups, patients or images, if it can be.

    Groups are dealt out by their number of rare nuclei, to at most ``FOLDS`` folds. Where all rare nuclei are of one
    group, places are dealt out instead: a place is never among those that its model learned from, but its neighbors
    are. HistomixError is raised with fewer than two rare nuclei.
    """
    if np.count_nonzero(rare) < 2:
        raise HistomixError("Fewer than two rare nuclei cannot be compared with one another; add images.")
    _, belongs = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(belongs, weights=rare)
    if np.count_nonzero(counts) < 2:
        belongs = np.arange(len(rare))
        counts = rare.astype(float)
    sizes = np.bincount(belongs)
    count = min(FOLDS, int(np.count_nonzero(counts)))
    held, total = np.zeros(count), np.zeros(count)
    folds = np.empty(len(counts), np.intp)
    for group in np.lexsort((np.arange(len(counts)), -sizes, -counts)):
        fold = np.lexsort((total, held))[0] if counts[group] else np.argmin(total)
        folds[group] = fold
        held[fold] += counts[group]
        total[fold] += sizes[group]
    return folds[belongs]


def cross_fit(
    features: Features,
    rare: NDArray[np.bool_],
    folds: NDArray[np.intp],
    fit: Fit,
    learned: NDArray[np.bool_] | None = None,
) -> Job[Scores]:
    """Scores (N,) of places by models that learned from the other folds only; a long job (see ``records.Job``).

    ``learned`` (N,) are the places that models may learn from; all if not given.
    """
    scores = np.empty(len(features))
    numbers = np.unique(folds)
    learned = np.ones(len(features), bool) if learned is None else learned
    for done, fold in enumerate(numbers):
        yield Event("Comparing places", done, len(numbers))
        held = folds == fold
        known = ~held & learned
        scores[held] = fit(features[rare & known], features[~rare & known])(features[held])
    yield Event("Comparing places", len(numbers), len(numbers))
    return scores


def calibrated(scores: Scores, rare: NDArray[np.bool_], learned: NDArray[np.bool_] | None = None) -> Scores:
    """Scores (N,) of left-out places as the log-ratios that these places show: isotonic regression.

    Zadrozny & Elkan, KDD 2002. A linear model goes on rising where it has seen nothing: without this, an odd corner of
    one image would attract most of the draw. Ratios are no further from 1 than so many rare nuclei can tell. Of places
    that are not ``learned`` from (N,), nothing is.
    """
    from sklearn.isotonic import IsotonicRegression

    learned = np.ones(len(scores), bool) if learned is None else learned
    count, others = int((rare & learned).sum()), int((~rare & learned).sum())
    weights = np.where(rare, 1.0, count / max(others, 1))[learned]
    regression = IsotonicRegression(out_of_bounds="clip").fit(scores[learned], rare[learned].astype(float), weights)
    share = np.clip(regression.predict(scores), 0.5 / count, 1 - 0.5 / count)
    return np.asarray(np.log(share) - np.log1p(-share))


def balanced(logits: Scores, features: Features, rare: Features) -> Scores:
    """Logits (N,) of a draw of places, changed as little as makes its mean surroundings those of rare nuclei.

    Entropy balancing (Hainmueller, Political Analysis 20, 2012): of all draws whose mean ``features`` (N, d) are those
    of ``rare`` places (n, d), the one that is nearest to the draw ∝ exp(logits) in relative entropy, which is that
    ∝ exp(logits + features · θ). A ridge on θ lets means differ by about what chance makes of so many rare nuclei.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    mean, scale = rare.mean(axis=0), rare.std(axis=0)
    varied = scale > 1e-6 * np.maximum(np.abs(mean), 1)

    def standard(values: Features) -> NDArray[np.float64]:
        apart = (values[:, varied] - mean[varied]) / scale[varied]
        return np.asarray(np.clip(apart, -FARTHEST, FARTHEST), np.float64)

    apart = standard(features)
    ridge = 1 / len(rare)

    def cost(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        tilted = logits + apart @ weights
        total = logsumexp(tilted)
        return float(total + ridge * weights @ weights / 2), np.exp(tilted - total) @ apart + ridge * weights

    found = minimize(cost, np.zeros(apart.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    # A place unlike every rare nucleus must not count more than what they themselves are like.
    most = np.quantile(standard(rare) @ found.x, TYPICAL)
    return np.asarray(logits + np.minimum(apart @ found.x, most))


class Separability(NamedTuple):
    """AUC with which a score tells rare places from others: of all pairs, and of pairs within an image.

    The latter is a mean over images, weighted by their rare nuclei; None where no image has both.
    """

    pooled: float
    within: float | None


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which of all pairs of a rare and another place the score orders rightly, by their images.

    ``wins`` (I, I): pairs of a rare place of the one image and another place of the other in which the rare one scores
    higher; ties count half. ``rare`` and ``others`` (I,) count places.
    """

    wins: NDArray[np.float64]
    rare: NDArray[np.float64]
    others: NDArray[np.float64]

    @classmethod
    def of(cls, scores: Scores, rare: NDArray[np.bool_], images: Sequence[str]) -> Pairs:
        """Of scores (N,) of places; images are in ascending order of their names."""
        names, belongs = np.unique(np.asarray(images), return_inverse=True)
        above, owner = scores[rare], belongs[rare]
        wins = np.zeros((len(names), len(names)))
        for image in range(len(names)):
            below = np.sort(scores[~rare & (belongs == image)])
            beaten = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
            wins[:, image] = np.bincount(owner, weights=beaten / 2, minlength=len(names))
        counts = [np.bincount(belongs[kind], minlength=len(names)).astype(float) for kind in (rare, ~rare)]
        return cls(wins, counts[0], counts[1])

    def pooled(self, times: NDArray[Any]) -> NDArray[np.float64]:
        """AUC of all pairs with every image counted so many ``times`` (…, I); NaN without a pair."""
        won = ((times @ self.wins) * times).sum(axis=-1)
        return _quotient(won, (times @ self.rare) * (times @ self.others))

    def within(self, times: NDArray[Any]) -> NDArray[np.float64]:
        """Mean AUC within images, weighted by their rare nuclei, counted ``times`` (…, I); NaN without a pair."""
        both = np.where(self.others > 0, self.rare, 0.0)
        auc = _quotient(np.diag(self.wins), np.maximum(self.rare * self.others, 1))
        return _quotient(times @ (both * auc), times @ both)

    def separability(self) -> Separability:
        once = np.ones(len(self.rare))
        within = float(self.within(once))
        return Separability(float(self.pooled(once)), within if np.isfinite(within) else None)


def _quotient(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / whole)
