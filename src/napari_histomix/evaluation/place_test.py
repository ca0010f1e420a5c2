"""The place test: how well the score of candidate places tells those of rare nuclei from others, on held-out images.

The center of every place is erased and no nucleus counts as lying around itself, so that the surroundings alone are
told apart. Folds are of whole patients, or of images where patients are not known; what scores a fold learned from the
others only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from napari_histomix.compositing.donors import rare_and_major, survey_nuclei
from napari_histomix.datasets import Dataset, Problem
from napari_histomix.datasets.writing import complete_or_absent, write_text
from napari_histomix.evaluation.figures import DRAWS, FEWEST, UNDEFINED, Estimate, markdown_table
from napari_histomix.features import open_encoder
from napari_histomix.methods.candidate_places import describe_places
from napari_histomix.methods.candidate_stage import DENSITIES, CandidateSettings
from napari_histomix.place_scores import FEWEST_RARE, Fit, Pairs, cross_fit, fit_ratio, fold_numbers
from napari_histomix.records import HistomixError, Job
from napari_histomix.sampling import ContextModel
from napari_histomix.settings import plain

CHART = "report.png"


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """AUC of a score: of all pairs of a rare and another place, and of pairs within an image.

    ``surroundings`` name what the score sees: the encoder, and whether the labeled nuclei around, too.
    """

    surroundings: str
    density: str
    pooled: Estimate
    within: Estimate


@dataclass(frozen=True, eq=False)
class PlaceReport:
    """What a place test found. ``groups`` counts patients, or images where they are not known."""

    dataset: str
    rare: tuple[str, ...]
    settings: CandidateSettings
    rows: tuple[PlaceRow, ...]
    rare_places: int
    other_places: int
    images: int
    images_with_rare: int
    groups: int
    problems: tuple[Problem, ...]


def place_test(dataset: Dataset, settings: CandidateSettings) -> Job[PlaceReport]:
    """Cross-validate every density on every kind of surroundings; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset : Dataset
        Its training images are looked at.
    settings : CandidateSettings
        Classes, encoder, background locations, components and seed; ``density`` and ``neighborhood`` are taken in all
        ways.

    Raises
    ------
    HistomixError
        If there are fewer than ten rare nuclei, or all are of one patient or image, or there is no other place.
    """
    rare, major = rare_and_major(dataset, settings.rare, settings.major)
    encoder = open_encoder(settings.encoder)
    seen = yield from survey_nuclei(dataset, rare, major)
    names = tuple(map(dataset.class_name, rare))
    if len(seen.rare) < FEWEST_RARE:
        raise HistomixError(
            f"A place test takes {FEWEST_RARE} nuclei of class {' or '.join(names)}, and the training images have "
            f"{len(seen.rare)}; add images."
        )
    # Places beside rare nuclei are no fair sample of other places.
    places = yield from describe_places(dataset, seen, replace(settings, beside_rare=0), encoder)
    is_rare = places.kinds == "rare"
    groups, images = np.array(places.groups), np.array(places.images)
    if is_rare.all():
        raise HistomixError("There is no place without a rare nucleus to compare with; add images.")
    if len(set(groups[is_rare])) < 2:
        raise HistomixError("All rare nuclei are of one patient or image, so none can be held out; add images.")
    folds = fold_numbers(is_rare, places.groups)

    def fit_gaussian(own: NDArray[Any], others: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
        model = ContextModel.fit(own, np.concatenate([own, others]), settings.components, settings.pca_on_rare)
        return lambda features: model.score_samples(model.transform(features))

    fits: dict[str, Fit] = {"gaussian": fit_gaussian, "ratio": fit_ratio}
    rows = []
    for neighborhood in (False, True):
        features = places.features(neighborhood)
        surroundings = encoder.name + (" and labeled nuclei" if neighborhood else "")
        for density, fit in fits.items():
            scores = yield from cross_fit(features, is_rare, folds, fit)
            pairs = Pairs.of(scores, is_rare, places.images)
            pooled, within = _estimates(pairs, images, groups, is_rare, settings.seed)
            rows.append(PlaceRow(surroundings, density, pooled, within))
    return PlaceReport(
        dataset.name,
        names,
        settings,
        tuple(rows),
        int(is_rare.sum()),
        int((~is_rare).sum()),
        len(np.unique(images)),
        len(np.unique(images[is_rare])),
        len(np.unique(groups)),
        tuple(seen.problems),
    )


def _estimates(
    pairs: Pairs, images: NDArray[Any], groups: NDArray[Any], rare: NDArray[np.bool_], seed: int
) -> tuple[Estimate, Estimate]:
    """Pooled AUC and AUC within images, with 95 % percentile intervals from resampling whole groups of images.

    There is no interval with fewer than ``FEWEST`` groups that have rare nuclei. Models of several folds share most of
    what they learned from, which resampling does not know: with shuffled labels of ten or twelve small images, 70 to
    85 % of the intervals included 0.5.
    """
    _, first = np.unique(images, return_index=True)
    names, belongs = np.unique(groups[first], return_inverse=True)
    rng, once = np.random.default_rng(seed), np.ones(len(first))
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)[:, belongs].astype(float)
    enough = len(np.unique(groups[rare])) >= FEWEST
    estimates = []
    for figure in (pairs.pooled, pairs.within):
        value, figures = float(figure(once)), figure(drawn)
        figures = figures[np.isfinite(figures)]
        low = high = None
        if enough and len(figures) >= (1 - UNDEFINED) * DRAWS and np.ptp(figures) > 0:
            low, high = map(float, np.quantile(figures, [0.025, 0.975]))
        estimates.append(Estimate(value if np.isfinite(value) else None, low, high, int(rare.sum())))
    return estimates[0], estimates[1]


def report_lines(report: PlaceReport) -> list[str]:
    """A report as Markdown."""
    rows = [["surroundings", "density", "all images", "within an image"]]
    rows += [[row.surroundings, DENSITIES[row.density], cell(row.pooled), cell(row.within)] for row in report.rows]
    return [
        f"{report.rare_places:,} places of {' or '.join(report.rare)} in {report.images_with_rare} images, "
        f"{report.other_places:,} others in {report.images}; seed {report.settings.seed}.",
        "",
        *markdown_table(rows),
        "",
        "AUC of rare against other places on images, of patients where they are known, that the score did not learn",
        "from; 0.5 is chance. Of all pairs, and of pairs within an image, a mean weighted by rare nuclei. 95 %",
        "intervals from resampling images, or patients; they do not know that other images would teach another score.",
        f"With fewer than {FEWEST} of these that have rare nuclei there is none.",
        *(f"Skipped: {problem.sentence}" for problem in report.problems),
    ]


def cell(estimate: Estimate) -> str:
    """An estimate with its interval, as text."""
    if estimate.value is None:
        return "–"
    interval = "" if estimate.low is None else f" ({estimate.low:.2f} to {estimate.high:.2f})"
    return f"{estimate.value:.2f}{interval}"


def report_values(report: PlaceReport) -> dict[str, Any]:
    """A report as values for programs."""
    return {
        "dataset": report.dataset,
        "rare": list(report.rare),
        "settings": plain(report.settings),
        "rare_places": report.rare_places,
        "other_places": report.other_places,
        "images": report.images,
        "images_with_rare": report.images_with_rare,
        "groups": report.groups,
        "rows": [asdict(row) for row in report.rows],
        "problems": [problem.sentence for problem in report.problems],
    }


def report_figure(report: PlaceReport) -> Figure:
    """AUC of each score with its interval, over all images and within an image."""
    figure = Figure(figsize=(8.5, 1.6 + 0.6 * len(report.rows)), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(report.rows):
        for estimate, offset, color, marker in (
            (row.pooled, -0.14, "#0072b2", "o"),
            (row.within, 0.14, "#d55e00", "D"),
        ):
            if estimate.value is None:
                continue
            axes.plot(estimate.value, at + offset, marker, color=color)
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [at + offset] * 2, color=color)
    axes.axvline(0.5, color="0.6", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(report.rows)), [f"{row.surroundings}\n{DENSITIES[row.density]}" for row in report.rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("AUC over all images (●) and within an image (◆); at the dashed line it is chance")
    axes.set_title(f"Where {' or '.join(report.rare)} lies · {report.dataset}", fontsize=12, fontweight="bold")
    return figure


def write_report(report: PlaceReport, out: Path) -> None:
    """Write a new folder, complete or absent: report.md, report.json and the figure."""
    with complete_or_absent(out) as folder:
        report_figure(report).savefig(folder / CHART, dpi=110)
        write_text(folder / "report.md", "\n".join(report_lines(report)) + "\n")
        write_text(folder / "report.json", json.dumps(report_values(report), indent=1, ensure_ascii=False) + "\n")
