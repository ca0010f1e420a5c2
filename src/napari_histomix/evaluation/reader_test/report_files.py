"""The report of a reader test on disk and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from napari_histomix.datasets.tables import write_table
from napari_histomix.datasets.writing import complete_or_absent
from napari_histomix.evaluation.reader_test.answers import ANSWER_WORDS, read_answers
from napari_histomix.evaluation.reader_test.figures import Estimate
from napari_histomix.evaluation.reader_test.folder import ReaderTest, Truth
from napari_histomix.evaluation.reader_test.report import (
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
    from napari_histomix.evaluation.reader_test.chart import report_figure

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
