"""A reader test in one picture: readers, answers by method, and agreement."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from napari_histomix.evaluation.reader_test.answers import ANSWER_WORDS
from napari_histomix.evaluation.reader_test.figures import Estimate
from napari_histomix.evaluation.reader_test.report import ALL, MethodFigures, Report
from napari_histomix.evaluation.reader_test.report_files import cell, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCURACY, AREA, KAPPA, CHANCE = "#3d7eff", "#8e44ad", "#1e8449", "0.6"
SHADES = ("#2c7fb8", "#a6cee3", "#fdc58a", "#e6772e")
"""Of the four answers, from surely real to surely synthetic; they differ in lightness as well."""
LONGEST = 24


def report_figure(report: Report) -> Figure:
    """Accuracy and AUC of each reader, how often each method's crops got which answer, and kappa of each two readers.

    Parameters
    ----------
    report : Report

    Returns
    -------
    matplotlib.figure.Figure
    """
    together = ALL if any(one.reader == ALL for one in report.readers) else report.readers[0].reader
    methods = [one for one in report.methods if one.reader == together]
    heights = [1.2 + 0.5 * len(report.readers), 1.3 + 0.5 * len(methods)]
    if report.pairs:
        heights.append(1.2 + 0.36 * (len(report.pairs) + (report.fleiss.count > 0)))
    figure = Figure(figsize=(8.5, 0.9 + sum(heights)), layout="constrained")
    facts = report.facts
    figure.suptitle(
        f"Reader test · {facts['dataset']} · {facts['real']} real and {facts['synthetic']} synthetic crops",
        fontsize=12,
        fontweight="bold",
    )
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_readers(axes[0], report)
    _draw_methods(axes[1], methods, together)
    if report.pairs:
        _draw_agreement(axes[2], report)
    notes = "\n".join(
        wrap(" ".join(["Bars: 95 % intervals; s: median seconds.", *report.notes, "Not for diagnosis."]), 130)
    )
    figure.supxlabel(notes, fontsize=7, color="0.35")
    return figure


def _draw_readers(axes: Axes, report: Report) -> None:
    for row, one in enumerate(report.readers):
        _point(axes, one.accuracy, row - 0.16, ACCURACY, "o")
        _point(axes, one.auc, row + 0.16, AREA, "D")
        figures = (cell(one.accuracy), cell(one.auc))
        for offset, text, color in zip((-0.16, 0.16), figures, (ACCURACY, AREA), strict=True):
            axes.text(1.03, row + offset, text, va="center", fontsize=8, color=color)
    axes.axvline(0.5, color=CHANCE, linewidth=1, linestyle="--", zorder=0)
    names = [f"{_short(one.reader)}\n{one.answers} answers, {seconds(one.median_s)} s" for one in report.readers]
    _rows(axes, names)
    axes.set_xlim(0, 1)
    axes.set_title("Readers: accuracy (●) and AUC (◆); at the dashed line they guess", loc="left", fontsize=9)


def _draw_methods(axes: Axes, methods: list[MethodFigures], reader: str) -> None:
    for row, one in enumerate(methods):
        left = 0.0
        for count, color, word in zip(one.counts, SHADES, ANSWER_WORDS.values(), strict=True):
            width = count / max(one.answers, 1)
            label = word if row == 0 else None
            axes.barh(row, width, 0.62, left=left, color=color, edgecolor="white", linewidth=0.8, label=label)
            if width >= 0.06:
                axes.text(left + width / 2, row, f"{count}", ha="center", va="center", fontsize=8)
            left += width
        offset = 0.16 if one.auc.value is not None else 0.0
        axes.text(1.03, row - offset, f"called synthetic {cell(one.called_synthetic)}", va="center", fontsize=8)
        if offset:
            axes.text(1.03, row + offset, f"AUC {cell(one.auc)}", va="center", fontsize=8, color=AREA)
    _rows(axes, [f"{_short(one.method)}\n{one.crops} crops" for one in methods])
    axes.set_xlim(0, 1)
    axes.set_title(f"Answers by method ({reader})", loc="left", fontsize=9)
    axes.legend(ncols=4, fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.12), borderpad=0)


def _draw_agreement(axes: Axes, report: Report) -> None:
    rows = [(f"{_short(one.reader, 12)}, {_short(one.other, 12)}", one.kappa) for one in report.pairs]
    if report.fleiss.count:
        rows.append(("all (Fleiss)", report.fleiss))
    for row, (_, kappa) in enumerate(rows):
        _point(axes, kappa, row, KAPPA, "s")
        axes.text(1.05, row, cell(kappa), va="center", fontsize=8, color=KAPPA)
    axes.axvline(0, color=CHANCE, linewidth=1, linestyle="--", zorder=0)
    _rows(axes, [name for name, _ in rows])
    axes.set_xlim(-1, 1)
    axes.set_title("Agreement beyond chance: kappa; 0 is chance, 1 always the same answer", loc="left", fontsize=9)


def _point(axes: Axes, one: Estimate, row: float, color: str, marker: str) -> None:
    if one.value is None:
        return
    if one.low is not None and one.high is not None:
        axes.plot([one.low, one.high], [row, row], color=color, linewidth=2, alpha=0.55, solid_capstyle="round")
    axes.plot([one.value], [row], marker=marker, color=color, markersize=6)


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _short(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
