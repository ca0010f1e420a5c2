"""What a generator test found: tables for people, values for programs, and a sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets.writing import complete_or_absent, write_png, write_text
from napari_histomix.evaluation.figures import Estimate, markdown_table
from napari_histomix.evaluation.generator_figures import EDGES, HELD, IMAGE, NONE, PIX2PIX, REAL, TRAINING
from napari_histomix.evaluation.generator_test import BAR, GeneratorReport
from napari_histomix.evaluation.sheets import sheet_of
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.structure import boundary_of
from napari_histomix.records import NucleusClass, instance_ids

ROWS = 6
"""Pairs of each origin that a sheet shows."""
LARGEST = 1400
"""Width in pixels of pictures side by side up to which they are shown twice as large."""


def verdicts(report: GeneratorReport) -> dict[str, bool]:
    """Which bars are met, in words; nothing is said of what could not be measured."""
    found: dict[str, bool] = {}
    networks = [name for name in (IMAGE, PIX2PIX, EDGES) if name in report.pairs]
    for name in networks:
        if (ratio := report.matches[name].ratio.value) is not None:
            found[f"{name}: labels match, at least {BAR:.0%} of the PQ of real images"] = ratio >= BAR
    for encoder, likeness in report.likeness.items():
        if IMAGE in likeness and PIX2PIX in likeness:
            better = likeness[IMAGE].frechet < likeness[PIX2PIX].frechet
            found[f"{IMAGE} nearer to real images than {PIX2PIX} ({encoder})"] = better
        for name in networks:
            half = 2 * likeness[name].frechet < likeness[NONE].frechet
            found[f"{name}: at most half as far from real images as {NONE} ({encoder})"] = half
    for name, nearest in report.nearest.items():
        if name in networks and (least := _low(nearest.nearer)) is not None:
            found[f"{name}: not nearer to training patches than held-out images are"] = least <= 0.5
    return found


def _low(estimate: Estimate) -> float | None:
    """The lower end of an interval, or the value where there is none."""
    return estimate.value if estimate.low is None else estimate.low


def report_lines(report: GeneratorReport) -> list[str]:
    """A report as Markdown: a table for each question, and which bars are met."""
    settings = report.settings
    size = f"{settings.count} pairs of {settings.side}² at {report.mpp:g} µm/px"
    held = f"{len(report.held)} held-out image{'s' if len(report.held) != 1 else ''}"
    models = ", ".join(
        f"{kind} {facts['model']} ({facts['model_sha256'][:12]})" for kind, facts in report.models.items()
    )
    return [
        f"{size}, {held}; {models}; image model: {settings.preset}; seed {settings.seed}.",
        "",
        "### Labels match pictures",
        "",
        *_match_table(report),
        "",
        "PQ between the label and what the segmenter finds in the picture, and its ratio to that of held-out real",
        "images, with 95 % intervals from resampling images; by where the layouts come from. s: seconds a picture.",
        "",
        "### Pictures are like real ones",
        "",
        *_likeness_tables(report),
        "Against held-out images. Features of patches of 56 µm, in standard deviations of real ones; color",
        "and contrast: differences of mean and spread of the optical density of whole pictures. Real training images",
        "beside them show what other tissue differs by.",
        "",
        *_nearest_lines(report),
        "### Layouts are like real ones",
        "",
        *_layout_table(report),
        "",
        "Kolmogorov–Smirnov distances from the layouts of held-out images, 0 is best.",
        "",
        "### Bars",
        "",
        *(f"- {'met' if met else '**not met**'}: {words}" for words, met in verdicts(report).items()),
        *([""] if report.notes else []),
        *(f"Note: {note}" for note in report.notes),
    ]


def _match_table(report: GeneratorReport) -> list[str]:
    origins = list(dict.fromkeys(report.origins))
    rows = [["pictures", "PQ", "ratio", *origins, "s"]]
    for name, match in report.matches.items():
        parts = [_cell(match.by_layouts.get(origin)) for origin in origins]
        seconds = report.pairs[name].seconds if name in report.pairs else 0
        ratio = "1" if name == REAL else _cell(match.ratio)
        rows.append([name, _cell(match.pq), ratio, *parts, f"{seconds:.2f}" if seconds else ""])
    ceiling = report.matches[REAL].pq.value
    share = f"{report.floor.value / ceiling:.2f}" if report.floor.value is not None and ceiling else ""
    return markdown_table([*rows, [f"{REAL}, labels of others", _cell(report.floor), share, *[""] * len(origins), ""]])


def _likeness_tables(report: GeneratorReport) -> list[str]:
    lines: list[str] = []
    for encoder, likeness in report.likeness.items():
        rows = [["pictures", f"Fréchet ({encoder})", "KID", "density", "coverage", "color (OD)", "contrast (OD)"]]
        for name, figures in likeness.items():
            shares = f"{figures.density:.2f}", f"{figures.coverage:.2f}"
            stains = (f"{value:.3f}" for value in report.stains[name])
            rows.append([name, f"{figures.frechet:.1f}", f"{figures.kid:.3f}", *shares, *stains])
        lines += [*markdown_table(rows), ""]
    return lines


def _nearest_lines(report: GeneratorReport) -> list[str]:
    if not report.nearest:
        return []
    rows = [["nuclei of", "median", "5th percentile", "nearer than held-out"]]
    for name, nearest in report.nearest.items():
        nearer = "" if name == REAL else _cell(nearest.nearer)
        rows.append([name, f"{nearest.median:.3f}", f"{nearest.lowest:.3f}", nearer])
    return [
        "### Nothing is repeated from training images",
        "",
        *markdown_table(rows),
        "",
        "Distances of nuclei to the nearest patch of 28 µm of a training image, and the share of pairs of a nucleus",
        "and one of held-out images in which it is the nearer: 0.5 where they are alike, more where images are",
        "repeated.",
        "",
    ]


def _layout_table(report: GeneratorReport) -> list[str]:
    columns = list(dict.fromkeys(name for distances in report.layouts.values() for name in distances))
    rows = [["layouts", *columns]]
    for origin, distances in sorted(report.layouts.items(), key=lambda item: item[0] != TRAINING):
        cells = [distances.get(name, np.nan) for name in columns]
        rows.append([origin, *(f"{value:.3f}" if np.isfinite(value) else "" for value in cells)])
    return markdown_table(rows)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return ""
    interval = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{interval}"


def report_values(report: GeneratorReport) -> dict[str, Any]:
    """A report as plain JSON values, without pictures."""
    return {
        "settings": asdict(report.settings) | {"encoders": list(report.settings.encoders)},
        "mpp": report.mpp,
        "models": {kind: dict(facts) for kind, facts in report.models.items()},
        "held_out": list(report.held),
        "matches": {
            name: asdict(match) | {"by_layouts": {origin: asdict(each) for origin, each in match.by_layouts.items()}}
            for name, match in report.matches.items()
        },
        "floor": asdict(report.floor),
        "seconds": {name: pairs.seconds for name, pairs in report.pairs.items()},
        "likeness": {
            encoder: {name: asdict(figures) for name, figures in likeness.items()}
            for encoder, likeness in report.likeness.items()
        },
        "stains": {name: {"mean": mean, "spread": spread} for name, (mean, spread) in report.stains.items()},
        "nearest": {name: asdict(nearest) for name, nearest in report.nearest.items()},
        "layouts": {
            origin: {name: value if np.isfinite(value) else None for name, value in distances.items()}
            for origin, distances in report.layouts.items()
        },
        "bars": verdicts(report),
        "notes": list(report.notes),
    }


def contact_sheet(report: GeneratorReport, classes: Sequence[NucleusClass]) -> NDArray[np.uint8]:
    """Draw the first pairs of every origin: label, each generator's picture, and the real one; (H, W, 3) uint8.

    Parameters
    ----------
    report : GeneratorReport
    classes : sequence of NucleusClass
        Whose colors the labels are drawn in.
    """
    colors = {known.name: known.color for known in classes}
    generators = [name for name in report.pairs if name != EDGES]
    sections: dict[str, Mapping[str, Sequence[NDArray[np.uint8]]]] = {}
    for origin in dict.fromkeys(report.origins):
        places = [place for place, each in enumerate(report.origins) if each == origin][:ROWS]
        layouts = report.pairs[NONE].layouts
        columns: dict[str, Sequence[NDArray[np.uint8]]]
        columns = {"label": [drawn(layouts[place], colors) for place in places]}
        columns |= {name: [report.pairs[name].pictures[place] for place in places] for name in generators}
        if origin == HELD:
            columns["real"] = [report.real.pictures[place] for place in places]
        sections[f"{origin}: {report.settings.side}² at {report.mpp:g} µm/px"] = columns
    if EDGES in report.pairs:
        edges = report.pairs[EDGES]
        columns = {"label": [drawn(layout, colors) for layout in edges.layouts[:ROWS]]}
        columns |= {EDGES: edges.pictures[:ROWS], "real": report.training.pictures[:ROWS]}
        sections[f"{EDGES}: replicas of training images"] = columns
    widest = max(map(len, sections.values())) * report.settings.side
    return sheet_of(sections, 2 if widest <= LARGEST else 1)


def write_report(
    report: GeneratorReport, values: Mapping[str, Any], out: Path, classes: Sequence[NucleusClass]
) -> None:
    """Write a new folder, complete or absent: report.md, report.json with ``values``, and pairs.png."""
    with complete_or_absent(out) as folder:
        write_text(folder / "report.md", "\n".join(report_lines(report)) + "\n")
        write_text(folder / "report.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        write_png(folder / "pairs.png", contact_sheet(report, classes), synthetic=True)


def drawn(layout: Layout, colors: Mapping[str, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """A layout in the colors of its classes, with white outlines between nuclei; (H, W, 3) uint8."""
    picture = np.full((*layout.shape, 3), 40, np.uint8)
    by_class: dict[str, list[int]] = {}
    for number in instance_ids(layout.instances):
        by_class.setdefault(layout.classes[number], []).append(number)
    for name, ids in by_class.items():
        picture[np.isin(layout.instances, ids)] = colors.get(name, (170, 170, 170))
    picture[boundary_of(layout.instances) > 0] = 255
    return picture
