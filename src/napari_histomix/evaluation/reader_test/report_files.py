"""The report of a reader test on disk, on a terminal, and in one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from napari_histomix.datasets.text_files import write_table
from napari_histomix.datasets.writing import complete_or_absent
from napari_histomix.evaluation.figures import Estimate
from napari_histomix.evaluation.reader_test.folder import ReaderTest, Truth
from napari_histomix.evaluation.reader_test.reading import ANSWER_WORDS, read_answers
from napari_histomix.evaluation.reader_test.report import (
    ALL,
    UNKNOWN,
    Answers,
    MethodFigures,
    PairFigures,
    ReaderFigures,
    Report,
    make_report,
)
from napari_histomix.evaluation.reader_test.specimens import GENUINE
from napari_histomix.records import HistomixError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHART = "report.png"


def write_report(test: ReaderTest, out: Path, truth: Path | None = None) -> Report:
    """Write the report of a reader test to a new folder, complete or absent.

    ``out`` gets report.png, report.json, readers.csv, methods.csv, agreement.csv, and answers.csv with the truth of
    every crop beside every answer.

    Parameters
    ----------
    test : ReaderTest
    out : Path
        A folder that is not there yet.
    truth : Path, optional
        Where the sealed truth is, if not in the test's folder.

    Raises
    ------
    HistomixError
        If nobody has answered, a reader has the test open, the truth is missing, ``out`` exists, or the disk refuses.
    """

    out = Path(out)
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")
    answers, truths = read_answers(test), test.truth(truth)
    report = make_report(test, truths, answers)
    with complete_or_absent(out) as folder:
        content = {**asdict(report), "fleiss_kappa": asdict(report.fleiss)}
        del content["fleiss"]
        (folder / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_csv(folder / "readers.csv", ReaderFigures, report.readers)
        _write_csv(folder / "methods.csv", MethodFigures, report.methods)
        _write_csv(folder / "agreement.csv", PairFigures, report.pairs)
        _write_answers(folder / "answers.csv", answers, truths)
        report_figure(report).savefig(folder / CHART, dpi=150)
    return report


def _write_csv(path: Path, kind: type[Any], rows: Sequence[Any]) -> None:
    """Records as lines; an estimate takes three columns."""
    header: list[str] = []
    for field in fields(kind):
        if "Estimate" in str(field.type):
            header += [field.name, f"{field.name}_low", f"{field.name}_high"]
        elif field.name == "counts":
            header += [word.replace(" ", "_") for word in ANSWER_WORDS.values()]
        else:
            header.append(field.name)
    write_table(path, header, map(_cells, rows))


def _cells(row: Any) -> list[Any]:
    cells: list[Any] = []
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Estimate):
            cells += [value.value, value.low, value.high]
        elif isinstance(value, tuple):
            cells += value
        else:
            cells.append(value)
    return [UNKNOWN if one is None else round(one, 6) if isinstance(one, float) else one for one in cells]


_ANSWER_COLUMNS = (
    "reader",
    "crop",
    "answer",
    "words",
    "ms",
    "given",
    "times",
    "truth",
    "method",
    "class",
    "cluster",
    "facts",
)


def _write_answers(path: Path, answers: Answers, truths: Sequence[Truth]) -> None:
    rows = []
    for reader, given in answers.items():
        for answer in given.values():
            truth = truths[answer.crop]
            words = ANSWER_WORDS[answer.answer]
            said = "synthetic" if truth.synthetic else GENUINE
            facts = json.dumps(dict(truth.facts), ensure_ascii=False, sort_keys=True)
            times = answer.ms, answer.given, answer.times
            about = truth.method, truth.kind, truth.cluster, facts
            rows.append((reader, answer.crop, answer.answer, words, *times, said, *about))
    write_table(path, _ANSWER_COLUMNS, rows)


def report_lines(report: Report) -> list[str]:
    """A report for a terminal, as tables in Markdown."""
    readers = [["reader", "answers", "accuracy", "sensitivity", "specificity", "AUC", "s"]]
    for one in report.readers:
        figures = (one.accuracy, one.sensitivity, one.specificity, one.auc)
        readers.append([one.reader, f"{one.answers}", *map(cell, figures), seconds(one.median_s)])
    methods = [["reader", "method", "answers", "called synthetic", "AUC", "s"]]
    for row in report.methods:
        shown = cell(row.called_synthetic), cell(row.auc)
        methods.append([row.reader, row.method, f"{row.answers}", *shown, seconds(row.median_s)])
    lines = [*_table(readers), "", *_table(methods), ""]
    if report.pairs:
        pairs = [["readers", "crops", "agreement", "Cohen's kappa"]]
        for pair in report.pairs:
            agreed = UNKNOWN if pair.agreement is None else f"{pair.agreement:.2f}"
            pairs.append([f"{pair.reader}, {pair.other}", f"{pair.crops}", agreed, cell(pair.kappa)])
        lines += [*_table(pairs), ""]
    if report.fleiss.count:
        lines += [f"Fleiss' kappa on {report.fleiss.count} crops: {cell(report.fleiss)}", ""]
    return [*lines, *report.notes]


def cell(one: Estimate) -> str:
    """An estimate in a table."""
    if one.value is None:
        return UNKNOWN
    if one.low is None or one.high is None:
        return f"{one.value:.2f} [{UNKNOWN}]"
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def seconds(value: float | None) -> str:
    """A time in a table."""
    return UNKNOWN if value is None else f"{value:.1f}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


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
