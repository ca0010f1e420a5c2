"""Figures of filled holes and of readers, with intervals that know which of them come from one image or patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, rankdata

from napari_histomix.compositing.donors import Mask
from napari_histomix.stains import optical_density

DRAWS = 2000

# Filled holes.

FIGURES: Mapping[str, str] = {
    "rmse": "RMSE",
    "psnr": "PSNR",
    "seam": "seam",
    "laplacian": "Laplacian",
    "color": "color (OD)",
    "log_seam": "abs log seam",
    "log_laplacian": "abs log Lapl.",
}
"""Figures of one window, with their headings."""

FLOOR = 1e-3
"""Least gradient (gray values) and variance of ratios, so that bare glass gives a number too."""

ROUNDING = 1 / np.sqrt(12)
"""RMSE that rounding to 8 bits makes by itself; PSNR (at most 58.9 dB) counts no less."""


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


def window_figures(truth: NDArray[np.uint8], filled: NDArray[np.uint8], hole: Mask) -> dict[str, float]:
    """Figures of one filled window (S, S, 3), by the keys of ``FIGURES``.

    ``rmse``: root mean square error inside the hole, 8-bit units; ``psnr``: the same in dB. ``seam``: mean absolute
    gradient across the hole's borders over the truth's; below 1 is blur, above 1 a seam. ``laplacian``: variance of the
    Laplacian inside the hole over the truth's; below 1 is blur, above 1 noise. ``color``: difference of the mean
    optical densities (base 10) inside the hole, averaged over red, green and blue. ``log_seam``, ``log_laplacian``:
    absolute natural logarithms of the ratios; 0 is best.
    """
    before, after = truth.astype(float), filled.astype(float)
    rmse = float(np.sqrt(((before - after) ** 2)[hole].mean()))
    seam = max(_seam(after, hole), FLOOR) / max(_seam(before, hole), FLOOR)
    laplacian = max(_laplacian(after, hole), FLOOR) / max(_laplacian(before, hole), FLOOR)
    densities = [optical_density(pixels[hole]).mean(axis=0, dtype=float) for pixels in (truth, filled)]
    return {
        "rmse": rmse,
        "psnr": float(20 * np.log10(255 / max(rmse, ROUNDING))),
        "seam": seam,
        "laplacian": laplacian,
        "color": float(np.abs(densities[0] - densities[1]).mean()),
        "log_seam": abs(float(np.log(seam))),
        "log_laplacian": abs(float(np.log(laplacian))),
    }


def _seam(pixels: NDArray[np.float64], hole: Mask) -> float:
    """Mean absolute difference between neighbors of which one lies in the hole."""
    total, count = 0.0, 0
    for axis in (0, 1):
        across = np.diff(hole.astype(np.int8), axis=axis) != 0
        total += float(np.abs(np.diff(pixels, axis=axis))[across].mean(axis=1).sum())
        count += int(across.sum())
    return total / max(count, 1)


def _laplacian(pixels: NDArray[np.float64], hole: Mask) -> float:
    channels = [cv2.Laplacian(np.ascontiguousarray(pixels[..., c]), cv2.CV_64F)[hole] for c in range(3)]
    return float(np.stack(channels).var(axis=1).mean())


def window_spread(samples: Sequence[NDArray[np.uint8]], hole: Mask) -> float:
    """Standard deviation between several fills (S, S, 3) of one hole, averaged over its pixels; 8-bit units."""
    return float(np.stack(samples).astype(float)[:, hole].std(axis=0).mean())


def bootstrap_median(values: Sequence[float], images: Sequence[str], seed: int = 0) -> Interval:
    """Median of windows' values, with a 95 % percentile interval that resamples whole images.

    Windows of one image share staining and tissue; resampling windows would make intervals too narrow.
    """
    all_values = np.asarray(values, float)
    names, belongs = np.unique(np.asarray(images), return_inverse=True)
    order = np.argsort(all_values, kind="stable")
    ranked, cluster = all_values[order], belongs[order]
    drawn = np.random.default_rng(seed).integers(len(names), size=(DRAWS, len(names)))
    times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
    # Each value counts as often as its image was drawn: the median is where half of the counts is reached.
    reached = np.cumsum(times[:, cluster], axis=1)
    total = reached[:, -1:]
    lower, upper = (np.argmax(reached > (total - part) // 2, axis=1) for part in (1, 0))
    low, high = np.quantile((ranked[lower] + ranked[upper]) / 2, [0.025, 0.975])
    return Interval(float(np.median(all_values)), float(low), float(high))


# Readers.

LEAST = 5
"""Answers of either kind, or crops answered by all concerned, below which no AUC and no kappa is given."""
FEWEST = 10
"""Clusters below which no interval is made from them: it would come out too narrow, and look surer than it is."""
UNDEFINED = 0.05
"""Share of bootstrap draws without a value from which on there is no interval."""

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval, and how many answers or crops it rests on; None where there is no saying."""

    value: float | None
    low: float | None
    high: float | None
    count: int


def share(part: int, count: int) -> Estimate:
    """A share with its score interval (Wilson, J. Am. Stat. Assoc. 22, 1927), as of independent answers."""
    if count == 0:
        return Estimate(None, None, None, 0)
    low, high = binomtest(part, count).proportion_ci(method="wilson")
    return Estimate(part / count, float(low), float(high), count)


def auc(answers: ArrayLike, synthetic: ArrayLike, clusters: Sequence[str]) -> Estimate:
    """Area under the ROC curve of answers (higher: surer of synthetic), with an interval that knows of clusters.

    The share of all pairs of a synthetic and a real crop in which the synthetic one has the higher answer; ties count
    half. The variance is that of DeLong et al. (Biometrics 44, 1988), computed from midranks as Sun & Xu do (IEEE
    Signal Process. Lett. 21, 2014), its structural components summed over clusters as Obuchowski does (Biometrics 53,
    1997); with one crop a cluster it is DeLong's own. The interval is value ± 1.96 standard errors, cut at 0 and 1.

    There is no value with fewer than ``LEAST`` answers of either kind; no interval with fewer than ``FEWEST`` clusters,
    or where the variance is 0, as for a reader without any error, which must not look certain.
    """
    scores, truth = np.asarray(answers, float), np.asarray(synthetic, bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if min(positives, negatives) < LEAST:
        return Estimate(None, None, None, len(scores))
    ranks = rankdata(scores)
    above = (ranks[truth] - rankdata(scores[truth])) / negatives
    below = 1 - (ranks[~truth] - rankdata(scores[~truth])) / positives
    value = float(above.mean())
    names, belongs = np.unique(np.asarray(clusters), return_inverse=True)
    summed = [
        np.bincount(belongs[kind], weights=parts - value, minlength=len(names))
        for kind, parts in ((truth, above), (~truth, below))
    ]
    with_positives, with_negatives = len(np.unique(belongs[truth])), len(np.unique(belongs[~truth]))
    if len(names) < FEWEST or min(with_positives, with_negatives) < 2:
        return Estimate(value, None, None, len(scores))
    variance = (
        with_positives / (with_positives - 1) * float(summed[0] @ summed[0]) / positives**2
        + with_negatives / (with_negatives - 1) * float(summed[1] @ summed[1]) / negatives**2
        + 2 * len(names) / (len(names) - 1) * float(summed[0] @ summed[1]) / (positives * negatives)
    )
    if variance <= 0:
        return Estimate(value, None, None, len(scores))
    half = 1.959964 * float(np.sqrt(variance))
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), len(scores))


def paired_auc(
    scores: ArrayLike, synthetic: ArrayLike, clusters: ArrayLike, strata: ArrayLike, seed: int = 0
) -> Estimate:
    """Share of pairs of a synthetic and a real crop of one stratum in which the synthetic one has the higher score.

    Scores of different strata need not be comparable, as those of networks of different folds are not. Ties count half.
    The 95 % percentile interval is from resampling whole clusters, each pair counting as often as both of its clusters
    were drawn. ``scores``, ``synthetic``, ``clusters`` and ``strata`` are (N,).

    There is no value with fewer than ``LEAST`` crops of either kind or without a pair; no interval with fewer than
    ``FEWEST`` clusters, or where all draws agree.
    """
    values, truth, rows = np.asarray(scores, float), np.asarray(synthetic, bool), np.asarray(strata)
    names, belongs = np.unique(np.asarray(clusters), return_inverse=True)
    if min(np.count_nonzero(truth), np.count_nonzero(~truth)) < LEAST:
        return Estimate(None, None, None, len(values))
    won, pairs = np.zeros((2, len(names), len(names)))
    for stratum in np.unique(rows):
        here = rows == stratum
        made, real = np.flatnonzero(here & truth), np.flatnonzero(here & ~truth)
        difference = values[made][:, None] - values[real]
        place = belongs[made][:, None], belongs[real][None]
        np.add.at(won, place, (difference > 0) + (difference == 0) / 2)
        np.add.at(pairs, place, np.ones_like(difference))
    if not pairs.any():
        return Estimate(None, None, None, len(values))
    value = float(won.sum() / pairs.sum())
    if len(names) < FEWEST:
        return Estimate(value, None, None, len(values))
    shares = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), shares, size=DRAWS).astype(float)
    figures = _ratio(((drawn @ won) * drawn).sum(axis=1), ((drawn @ pairs) * drawn).sum(axis=1))
    figures = figures[np.isfinite(figures)]
    if len(figures) < (1 - UNDEFINED) * DRAWS or np.ptp(figures) == 0:
        return Estimate(value, None, None, len(values))
    low, high = np.quantile(figures, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(values))


def auc_of_counts(synthetic: Counts, real: Counts) -> Counts:
    """AUC of counts of each answer (…, A), in ascending order; NaN where a kind has none."""
    lower = np.cumsum(real, axis=-1) - real
    return _ratio((synthetic * (lower + real / 2)).sum(axis=-1), synthetic.sum(axis=-1) * real.sum(axis=-1))


def cohen_kappa(first: ArrayLike, second: ArrayLike, clusters: Sequence[str], seed: int = 0) -> Estimate:
    """Agreement of two readers beyond chance (Cohen, Educ. Psychol. Meas. 20, 1960), with a bootstrap interval.

    κ = (p₀ − pₑ) / (1 − pₑ): p₀ is the share of crops they agree on, pₑ what their own shares would give by chance.
    ``first`` and ``second`` (N,) say which crop each of them calls synthetic.
    """
    called = np.asarray(first, int), np.asarray(second, int)
    tables = np.zeros((len(called[0]), 2, 2))
    tables[np.arange(len(tables)), called[0], called[1]] = 1

    def kappa(sums: Counts) -> Counts:
        shares = _ratio(sums, sums.sum(axis=(-2, -1), keepdims=True))
        agreed = shares[..., 0, 0] + shares[..., 1, 1]
        chance = (shares.sum(axis=-1) * shares.sum(axis=-2)).sum(axis=-1)
        return _ratio(agreed - chance, 1 - chance)

    return clustered(tables, clusters, kappa, seed)


def fleiss_kappa(called: ArrayLike, clusters: Sequence[str], seed: int = 0) -> Estimate:
    """Agreement of several readers beyond chance (Fleiss, Psychol. Bull. 76, 1971), with a bootstrap interval.

    ``called`` (N, R) says which reader calls which crop synthetic.
    """
    votes = np.asarray(called, bool)
    readers = votes.shape[1]
    yes = votes.sum(axis=1).astype(float)
    agreed = (yes * (yes - 1) + (readers - yes) * (readers - yes - 1)) / (readers * (readers - 1))

    def kappa(sums: Counts) -> Counts:
        agreed, yes = _ratio(sums[..., 0], sums[..., 2]), _ratio(sums[..., 1], sums[..., 2])
        chance = yes**2 + (1 - yes) ** 2
        return _ratio(agreed - chance, 1 - chance)

    return clustered(np.stack([agreed, yes / readers, np.ones(len(votes))], axis=1), clusters, kappa, seed)


def _ratio(part: Counts, whole: Counts) -> Counts:
    """Quotients, NaN where nothing is divided by nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / whole)


def clustered(
    values: Counts,
    clusters: Sequence[str],
    figure: Callable[[Counts], Counts],
    seed: int,
    least: int = LEAST,
    fewest: int = FEWEST,
) -> Estimate:
    """A figure of sums over crops, with a 95 % percentile interval from resampling whole clusters.

    ``values`` (N, …) are what each crop adds to the sums; ``figure`` makes the figure of sums (…), or as many of a
    stack of sums (B, …), NaN where there is none. There is no value with fewer than ``least`` crops, and no interval
    with fewer than ``fewest`` clusters.
    """
    count = len(values)
    value = float(figure(values.sum(axis=0))) if count >= least else np.nan
    if not np.isfinite(value):
        return Estimate(None, None, None, count)
    names, belongs = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < fewest:
        return Estimate(value, None, None, count)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, belongs, values)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    figures = figure(np.tensordot(drawn.astype(float), sums, axes=1))
    figures = figures[np.isfinite(figures)]
    # Where every draw gives one value, the crops cannot tell how uncertain it is.
    if len(figures) < (1 - UNDEFINED) * DRAWS or np.ptp(figures) == 0:
        return Estimate(value, None, None, count)
    low, high = np.quantile(figures, [0.025, 0.975])
    return Estimate(value, float(low), float(high), count)


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose columns line up; the first row holds the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heading, *lines = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
    return [heading, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines]
