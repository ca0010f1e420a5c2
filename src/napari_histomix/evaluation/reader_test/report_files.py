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
from napari_histomix.datasets.writing import check_place, complete_or_absent
from napari_histomix.evaluation.crops import GENUINE
from napari_histomix.evaluation.figures import Estimate, markdown_table
from napari_histomix.evaluation.reader_test.folder import ReaderTest
from napari_histomix.evaluation.reader_test.reading import ANSWER_WORDS, read_answers
from napari_histomix.evaluation.reader_test.report import (
    ALL,
    UNKNOWN,
    MethodFigures,
    PairFigures,
    ReaderFigures,
    Report,
    make_report,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHART = "report.png"
ANSWER_COLUMNS = (
    *("reader", "crop", "answer", "words", "ms", "given", "times"),
    *("truth", "method", "class", "cluster", "facts"),
)

ACCURACY, AREA, KAPPA, CHANCE = "#3d7eff", "#8e44ad", "#1e8449", "0.6"
SHADES = ("#2c7fb8", "#a6cee3", "#fdc58a", "#e6772e")
"""Of the four answers, from surely real to surely synthetic; they differ in lightness as well."""


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
    check_place(out)
    answers, truths = read_answers(test), test.truth(truth)
    report = make_report(test, truths, answers)
    rows: list[Sequence[Any]] = []
    for reader, given in answers.items():
        for answer in given.values():
            crop = truths[answer.crop]
            words, kind = ANSWER_WORDS[answer.answer], "synthetic" if crop.synthetic else GENUINE
            facts = json.dumps(dict(crop.facts), ensure_ascii=False, sort_keys=True)
            own = reader, answer.crop, answer.answer, words, answer.ms, answer.given, answer.times
            rows.append((*own, kind, crop.method, crop.kind, crop.cluster, facts))
    with complete_or_absent(out) as folder:
        content = {**asdict(report), "fleiss_kappa": asdict(report.fleiss)}
        del content["fleiss"]
        (folder / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_csv(folder / "readers.csv", ReaderFigures, report.readers)
        _write_csv(folder / "methods.csv", MethodFigures, report.methods)
        _write_csv(folder / "agreement.csv", PairFigures, report.pairs)
        write_table(folder / "answers.csv", ANSWER_COLUMNS, rows)
        report_figure(report).savefig(folder / CHART, dpi=150)
    return report


def _write_csv(path: Path, kind: type[Any], rows: Sequence[Any]) -> None:
    """Records as lines; an estimate takes three columns, and counts a column for each answer."""
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
    return [UNKNOWN if value is None else round(value, 6) if isinstance(value, float) else value for value in cells]


def report_lines(report: Report) -> list[str]:
    """A report for a terminal, as tables in Markdown."""
    readers = [["reader", "answers", "accuracy", "sensitivity", "specificity", "AUC", "s"]]
    for reader in report.readers:
        estimates = (reader.accuracy, reader.sensitivity, reader.specificity, reader.auc)
        readers.append([reader.reader, f"{reader.answers}", *map(_cell, estimates), _seconds(reader.median_s)])
    methods = [["reader", "method", "answers", "called synthetic", "AUC", "s"]]
    for row in report.methods:
        shown = _cell(row.called_synthetic), _cell(row.auc)
        methods.append([row.reader, row.method, f"{row.answers}", *shown, _seconds(row.median_s)])
    lines = [*markdown_table(readers), "", *markdown_table(methods), ""]
    if report.pairs:
        pairs = [["readers", "crops", "agreement", "Cohen's kappa"]]
        for pair in report.pairs:
            agreed = UNKNOWN if pair.agreement is None else f"{pair.agreement:.2f}"
            pairs.append([f"{pair.reader}, {pair.other}", f"{pair.crops}", agreed, _cell(pair.kappa)])
        lines += [*markdown_table(pairs), ""]
    if report.fleiss.count:
        lines += [f"Fleiss' kappa on {report.fleiss.count} crops: {_cell(report.fleiss)}", ""]
    return [*lines, *report.notes]


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return UNKNOWN
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f} [{UNKNOWN}]"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


# The picture.


def report_figure(report: Report) -> Figure:
    """Accuracy and AUC of readers, how often each method's crops got which answer, and kappa of each two readers."""
    together = ALL if any(reader.reader == ALL for reader in report.readers) else report.readers[0].reader
    methods = [method for method in report.methods if method.reader == together]
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
    notes = " ".join(["Bars: 95 % intervals; s: median seconds.", *report.notes, "Not for diagnosis."])
    figure.supxlabel("\n".join(wrap(notes, 130)), fontsize=7, color="0.35")
    return figure


def _draw_readers(axes: Axes, report: Report) -> None:
    for row, reader in enumerate(report.readers):
        marks = (reader.accuracy, -0.16, ACCURACY, "o"), (reader.auc, 0.16, AREA, "D")
        for estimate, offset, color, marker in marks:
            _point(axes, estimate, row + offset, color, marker)
            axes.text(1.03, row + offset, _cell(estimate), va="center", fontsize=8, color=color)
    axes.axvline(0.5, color=CHANCE, linewidth=1, linestyle="--", zorder=0)
    names = [
        f"{_short(reader.reader)}\n{reader.answers} answers, {_seconds(reader.median_s)} s" for reader in report.readers
    ]
    _finish(axes, names, 0, "Readers: accuracy (●) and AUC (◆); at the dashed line they guess")


def _draw_methods(axes: Axes, methods: list[MethodFigures], reader: str) -> None:
    for row, method in enumerate(methods):
        left = 0.0
        for count, color, word in zip(method.counts, SHADES, ANSWER_WORDS.values(), strict=True):
            width = count / max(method.answers, 1)
            label = word if row == 0 else None
            axes.barh(row, width, 0.62, left=left, color=color, edgecolor="white", linewidth=0.8, label=label)
            if width >= 0.06:
                axes.text(left + width / 2, row, f"{count}", ha="center", va="center", fontsize=8)
            left += width
        offset = 0.16 if method.auc.value is not None else 0.0
        axes.text(1.03, row - offset, f"called synthetic {_cell(method.called_synthetic)}", va="center", fontsize=8)
        if offset:
            axes.text(1.03, row + offset, f"AUC {_cell(method.auc)}", va="center", fontsize=8, color=AREA)
    names = [f"{_short(method.method)}\n{method.crops} crops" for method in methods]
    _finish(axes, names, 0, f"Answers by method ({reader})")
    axes.legend(ncols=4, fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.12), borderpad=0)


def _draw_agreement(axes: Axes, report: Report) -> None:
    kappas = [(f"{_short(pair.reader, 12)}, {_short(pair.other, 12)}", pair.kappa) for pair in report.pairs]
    if report.fleiss.count:
        kappas.append(("all (Fleiss)", report.fleiss))
    for row, (_, kappa) in enumerate(kappas):
        _point(axes, kappa, row, KAPPA, "s")
        axes.text(1.05, row, _cell(kappa), va="center", fontsize=8, color=KAPPA)
    axes.axvline(0, color=CHANCE, linewidth=1, linestyle="--", zorder=0)
    names = [name for name, _ in kappas]
    _finish(axes, names, -1, "Agreement beyond chance: kappa; 0 is chance, 1 always the same answer")


def _point(axes: Axes, estimate: Estimate, row: float, color: str, marker: str) -> None:
    if estimate.value is None:
        return
    if estimate.low is not None and estimate.high is not None:
        ends = [estimate.low, estimate.high]
        axes.plot(ends, [row, row], color=color, linewidth=2, alpha=0.55, solid_capstyle="round")
    axes.plot([estimate.value], [row], marker=marker, color=color, markersize=6)


def _finish(axes: Axes, names: list[str], least: float, title: str) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(least, 1)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=9)


def _short(text: str, longest: int = 24) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
