"""How near synthetic nuclei come to real ones: a copy out of the training images, or many alike, stand out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from napari_histomix.compositing.composing import compose, crop
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.text_files import write_table
from napari_histomix.datasets.writing import check_place, complete_or_absent, write_text
from napari_histomix.evaluation.crops import center_of
from napari_histomix.evaluation.nearest_patch import SPAN_UM, Neighbor, TrainingPatches
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage
from napari_histomix.study import Study

CHART = "neighbors.png"
PAIRS, SIDE = 6, 96
"""Pairs of crops in the figure, and their sides in pixels."""
STRIKING = 1.0
"""Percentile below which a likeness is pointed out: few real nuclei are as much alike."""
TAKEN_OUT = ("reject", "delete")
COLUMNS = ("number", "image", "class", "nearest_image", "nearest_id", "nearest_class", "distance", "percentile")


@dataclass(frozen=True, eq=False)
class Pair:
    """A synthetic nucleus and the real one that it resembles most."""

    change: Change
    kind: str
    neighbor: Neighbor
    neighbor_kind: str

    def cells(self) -> tuple[Any, ...]:
        """Values of ``COLUMNS``."""
        near = self.neighbor
        found = near.image, near.instance, self.neighbor_kind, round(near.distance, 4), round(near.percentile, 2)
        return (self.change.id + 1, self.change.image, self.kind, *found)


@dataclass(frozen=True, eq=False)
class NeighborReport:
    """The nearest real nucleus of every synthetic one, the nearest pair first."""

    dataset: str
    pairs: tuple[Pair, ...]
    real: NDArray[np.float64]
    """Distances of real training nuclei to the nearest other one."""
    held_out: NDArray[np.float64]
    """Distances of nuclei of held-out images to the nearest training nucleus; may be empty."""
    crops: tuple[tuple[NDArray[np.uint8], NDArray[np.uint8]], ...]
    """Of the first pairs, the synthetic and the real one, (S, S, 3) uint8 each, 28 µm wide."""

    @property
    def striking(self) -> int:
        """How many are as near to a real nucleus as hardly two real ones are."""
        return sum(pair.neighbor.percentile < STRIKING for pair in self.pairs)


def neighbor_test(dataset: Dataset, study: Study) -> Job[NeighborReport]:
    """Find the real nucleus that each synthetic one resembles most; a long job (see ``records.Job``).

    Nuclei in real images count that nobody rejected; their own targets and donors are left out of the search. What is
    compared are patches of 28 µm (see `nearest_patch.TrainingPatches`).

    Raises
    ------
    HistomixError
        If the study holds no such nucleus, or the training images have none to compare with.
    """
    decisions = study.decisions("change")
    by_image: dict[str, list[Change]] = {}
    for change in study.changes():
        if change.in_place and change.added and decisions.get(change.id) not in TAKEN_OUT:
            by_image.setdefault(change.image, []).append(change)
    if not by_image:
        raise HistomixError("The study holds no synthetic nucleus in a real image that is not rejected; make some.")
    patches = yield from TrainingPatches.build(dataset)
    held_out = yield from patches.held_out(dataset)
    pairs: list[Pair] = []
    for done, (name, changes) in enumerate(by_image.items()):
        yield Event("Comparing synthetic nuclei", done, len(by_image))
        target = dataset.read(name)
        pixels = compose(target, changes).image.pixels
        for change in changes:
            own = [source for source in (change.target, change.donor) if source is not None]
            near = patches.nearest(pixels, target.mpp, center_of(change), own)
            kind = dataset.class_name(next(iter(change.added.values())))
            pairs.append(Pair(change, kind, near, dataset.class_name(near.type)))
    pairs.sort(key=lambda pair: pair.neighbor.distance)
    crops = []
    for done, pair in enumerate(pairs[:PAIRS]):
        yield Event("Cutting the nearest pairs", done, min(PAIRS, len(pairs)))
        target = dataset.read(pair.change.image)
        made = compose(target, by_image[pair.change.image]).image
        real, near = dataset.read(pair.neighbor.image), pair.neighbor
        crops.append((_patch(made, *center_of(pair.change)), _patch(real, near.row, near.col)))
    return NeighborReport(dataset.name, tuple(pairs), patches.baseline, held_out, tuple(crops))


def _patch(image: LabeledImage, row: float, col: float) -> NDArray[np.uint8]:
    return crop(image.pixels, row, col, max(8, round(SPAN_UM / image.mpp)))


def neighbor_figure(report: NeighborReport) -> Figure:
    """Distances of synthetic nuclei beside those of real ones, and the nearest pairs."""
    figure = Figure(figsize=(8.5, 6.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1)
    above, below = parts
    axes = above.subplots()
    groups: list[tuple[str, Sequence[float] | NDArray[np.float64], str, str]] = [
        ("synthetic to real", [pair.neighbor.distance for pair in report.pairs], "#d55e00", "-"),
        ("real to another real", report.real, "#0072b2", "--"),
        ("held-out to real", report.held_out, "#555555", ":"),
    ]
    highest = max((float(np.max(values)) for _, values, *_ in groups if len(values)), default=1.0)
    for label, values, color, style in groups:
        if len(values):
            about = f"{label} ({len(values):,})"
            axes.hist(
                values, np.linspace(0, highest, 40), density=True, histtype="step", color=color, ls=style, label=about
            )
    axes.set_xlabel("distance to the nearest training nucleus; 0 is a copy")
    axes.set_yticks([])
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"Nearest real nuclei · {report.dataset}", fontsize=12, fontweight="bold")
    places = below.subplots(2, PAIRS, squeeze=False)
    for column, (upper, lower) in enumerate(places.T):
        for place in (upper, lower):
            place.axis("off")
        if column < len(report.crops):
            made, real = report.crops[column]
            pair = report.pairs[column]
            upper.imshow(made)
            upper.set_title(f"synthetic #{pair.change.id + 1}", fontsize=8)
            lower.imshow(real)
            lower.set_title(f"real, {pair.neighbor.distance:.2f}", fontsize=8)
    return figure


def sentence_of(report: NeighborReport) -> str:
    """What the report comes to."""
    count, striking = len(report.pairs), report.striking
    resemble = "resembles" if striking == 1 else "resemble"
    likeness = f"{striking:,} of them {resemble} a real one strikingly" if striking else "none resembles one strikingly"
    nuclei = "nucleus" if count == 1 else "nuclei"
    return (
        f"{count:,} synthetic {nuclei} compared with {report.dataset}'s training nuclei: {likeness} (nearer than "
        f"{100 - STRIKING:.0f} % of the real ones are to another)."
    )


def report_values(report: NeighborReport) -> dict[str, Any]:
    """What the report comes to, in figures."""
    return {
        "dataset": report.dataset,
        "synthetic": len(report.pairs),
        "striking": report.striking,
        "median_distance": float(np.median([pair.neighbor.distance for pair in report.pairs])),
        "median_distance_real": float(np.median(report.real)) if len(report.real) else None,
        "median_distance_held_out": float(np.median(report.held_out)) if len(report.held_out) else None,
    }


def write_neighbors(report: NeighborReport, out: Path) -> None:
    """Write a new folder, complete or absent: neighbors.csv, neighbors.json and the figure."""
    check_place(out)
    with complete_or_absent(out) as folder:
        write_table(folder / "neighbors.csv", COLUMNS, [pair.cells() for pair in report.pairs])
        write_text(folder / "neighbors.json", json.dumps(report_values(report), indent=1) + "\n")
        neighbor_figure(report).savefig(folder / CHART, dpi=110)
