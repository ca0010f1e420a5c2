"""How rare-like surroundings are: principal components and a Gaussian of the rare nuclei's surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from napari_histomix.records import HistomixError

Features = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The density of rare surroundings, N(μ, Σ) in a few principal components (NucleiMix, algorithm 1, line 7).

    Made by ``fit``. The covariance is full with Ledoit–Wolf shrinkage from ten rare nuclei a component on; below, it
    is diagonal and each variance is drawn toward that of all surroundings as if by as many pseudo-observations as
    there are components, so that even a single rare nucleus gives a density.
    """

    scaler: StandardScaler
    pca: PCA
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    rare_log_likelihoods: NDArray[np.float64]

    @classmethod
    def fit(cls, rare: Features, pooled: Features, components: int = 16, pca_on_rare: bool = False) -> ContextModel:
        """Fit to rare (N, d) and all (M, d) surroundings.

        Parameters
        ----------
        rare, pooled : (N, d) and (M, d) float
        components : int
            Principal components kept, at most as many as the data has.
        pca_on_rare : bool
            Fit the components to the rare surroundings only, as the published code does.

        Raises
        ------
        HistomixError
            Without a rare nucleus, or with fewer than two surroundings in all.
        """
        if len(rare) == 0:
            raise HistomixError("There is no rare nucleus to learn from; choose a class that occurs in the images.")
        basis = rare if pca_on_rare and len(rare) > 1 else pooled
        if len(basis) < 2:
            raise HistomixError("There are too few nuclei and places to compare; add images.")
        scaler = StandardScaler().fit(basis)
        count = min(components, basis.shape[1], len(basis) - 1)
        pca = PCA(count, svd_solver="full").fit(scaler.transform(basis))
        own = pca.transform(scaler.transform(rare)).astype(np.float64)
        mean = own.mean(axis=0)
        if len(own) >= 10 * count:
            covariance, _ = ledoit_wolf(own)
        else:
            everything = pca.transform(scaler.transform(pooled)).var(axis=0)
            covariance = np.diag((len(own) * own.var(axis=0) + count * everything) / (len(own) + count))
        covariance = covariance + 1e-9 * np.trace(covariance) * np.eye(count) + 1e-12 * np.eye(count)
        scores = np.atleast_1d(multivariate_normal(mean, covariance).logpdf(own))
        return cls(scaler, pca, mean, covariance, np.sort(scores))

    @property
    def dimension(self) -> int:
        """Principal components kept."""
        return len(self.mean)

    def transform(self, features: Features) -> NDArray[np.float64]:
        """(N, d) features as (N, p) principal components."""
        if len(features) == 0:
            return np.empty((0, self.dimension))
        return np.asarray(self.pca.transform(self.scaler.transform(features)), np.float64)

    def score_samples(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-likelihood (N,) of principal components (N, p) under the rare surroundings."""
        if len(components) == 0:
            return np.empty(0)
        return np.atleast_1d(multivariate_normal(self.mean, self.covariance).logpdf(components))

    def percentile(self, log_likelihoods: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share (0–100) of the rare nuclei's own surroundings that score below each value (N,)."""
        below = np.searchsorted(self.rare_log_likelihoods, log_likelihoods, side="right")
        return 100.0 * below / len(self.rare_log_likelihoods)
