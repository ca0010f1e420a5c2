"""Reports on simulated readers of real crops: those who guess, those who know, and too few answers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reader_samples import guessing, knowing, make_changes, read_all

from napari_histomix.datasets import load_sample
from napari_histomix.evaluation.crops import COPY_PASTE, GENUINE
from napari_histomix.evaluation.reader_test.folder import TRUTH, ReaderTest, write_test
from napari_histomix.evaluation.reader_test.nuclei import draw_nuclei
from napari_histomix.evaluation.reader_test.reading import Given, Reading, read_answers
from napari_histomix.evaluation.reader_test.report import ALL, make_report
from napari_histomix.evaluation.reader_test.report_files import report_lines, write_report
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.records import HistomixError, drain


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A test that nobody has answered. Never write into it."""
    dataset, settings = load_sample(), ReaderTestSettings(per_kind=20, copy_paste=True)
    drawn = drain(draw_nuclei(dataset, make_changes(dataset), settings))
    return write_test(tmp_path_factory.mktemp("reader") / "test", dataset.name, drawn, settings)


@pytest.fixture
def test(made, tmp_path) -> ReaderTest:
    return ReaderTest.open(shutil.copytree(made, tmp_path / "test"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_reader_who_guesses_is_at_one_half_and_one_who_knows_at_one(test):
    truths = test.truth()
    read_all(test, "oracle", knowing(truths))
    answers = {
        f"guess {number:02}": {crop: Given(crop, guess(crop), 2000, "") for crop in range(len(test))}
        for number, guess in enumerate(map(guessing, range(40)))
    } | read_answers(test)
    *guessers, oracle = (make_report(test, truths, {reader: given}).readers[0] for reader, given in answers.items())
    assert abs(np.mean([one.auc.value for one in guessers]) - 0.5) < 0.05
    assert abs(np.mean([one.accuracy.value for one in guessers]) - 0.5) < 0.05
    assert oracle.auc.value == oracle.accuracy.value == oracle.sensitivity.value == oracle.specificity.value == 1
    assert oracle.auc.low is None and oracle.accuracy.low > 0.8
    assert oracle.finished and oracle.median_s == oracle.median_real_s == 2.0
    some = make_report(test, truths, dict(list(answers.items())[:6]))
    assert abs(some.fleiss.value) < 0.15 and some.fleiss.count == len(test) and len(some.pairs) == 15
    everyone = some.readers[-1]
    assert everyone.accuracy.value == pytest.approx(np.mean([one.accuracy.value for one in some.readers[:-1]]))
    assert everyone.auc.value == pytest.approx(np.mean([one.auc.value for one in some.readers[:-1]]))


def test_methods_are_told_apart(test):
    """A reader who sees seams: nothing but copy-paste is called synthetic."""
    truths = test.truth()
    for reader in ("Ann", "Bob"):
        read_all(test, reader, lambda crop: 4 if truths[crop].method == COPY_PASTE else 2)
    report = make_report(test, truths, read_answers(test))
    called = {(one.reader, one.method): one.called_synthetic.value for one in report.methods}
    for reader in ("Ann", "Bob", ALL):
        assert called[reader, COPY_PASTE] == 1 and called[reader, "NucleiMix, fast"] == called[reader, GENUINE] == 0
    areas = {one.method: one.auc.value for one in report.methods if one.reader == "Ann"}
    assert areas[COPY_PASTE] == 1.0 and areas["NucleiMix, fast"] == 0.5 and areas[GENUINE] is None
    pair = report.pairs[0]
    assert (pair.reader, pair.other, pair.agreement, pair.kappa.value) == ("Ann", "Bob", 1.0, 1.0)
    everyone = report.readers[-1]
    pasted = sum(one.method == COPY_PASTE for one in truths)
    assert everyone.reader == ALL and everyone.sensitivity.value == pytest.approx(2 * pasted / len(truths))


def test_few_answers_give_few_numbers(test, tmp_path):
    reading = Reading(test, "Ann")
    reading.resume()
    for _ in range(3):
        reading.answer(4)
    reading.close()
    Reading(test, "Bob").close()
    report = write_report(test, tmp_path / "out")
    (ann,) = report.readers
    assert ann.auc.value is None and ann.answers == 3 and not ann.finished and ann.accuracy.count == 3
    assert not report.pairs and report.fleiss.value is None
    assert any("Ann has answered 3 of" in note for note in report.notes)
    (row,) = table(tmp_path / "out" / "readers.csv")
    assert row["auc"] == row["auc_low"] == "n/a" and float(row["accuracy_low"]) <= float(row["accuracy"])
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["readers"][0]["auc"]["value"] is None
    assert "n/a" in "\n".join(report_lines(report))


def test_a_report_is_written_whole_with_all_that_was_answered(test, tmp_path):
    truths = test.truth()
    for number, reader in enumerate(("Ann", "Bob", "Cid")):
        read_all(test, reader, guessing(number), seconds=1.0 + number)
    out = tmp_path / "report"
    report = write_report(test, out)
    names = {"report.png", "report.json", "readers.csv", "methods.csv", "agreement.csv", "answers.csv"}
    assert {path.name for path in out.iterdir()} == names
    with Image.open(out / "report.png") as picture:
        assert picture.width > 800 and picture.height > 800
    rows = table(out / "answers.csv")
    assert len(rows) == 3 * len(test)
    for row in rows:
        truth = truths[int(row["crop"])]
        assert row["truth"] == ("synthetic" if truth.synthetic else "real") and row["method"] == truth.method
        assert int(row["ms"]) == 1000 * (1 + ("Ann", "Bob", "Cid").index(row["reader"]))
    assert [row["reader"] for row in table(out / "readers.csv")] == ["Ann", "Bob", "Cid", ALL]
    assert [float(row["median_s"]) for row in table(out / "readers.csv")] == [1, 2, 3, 2]
    assert len(table(out / "agreement.csv")) == 3
    content = json.loads((out / "report.json").read_text("utf-8"))
    assert content["fleiss_kappa"]["value"] == pytest.approx(report.fleiss.value)
    assert content["facts"]["synthetic"] == sum(one.synthetic for one in truths)
    with pytest.raises(HistomixError, match="already exists"):
        write_report(test, out)


def test_no_report_without_answers_without_the_truth_or_while_somebody_reads(test, tmp_path, monkeypatch):
    out = tmp_path / "report"
    with pytest.raises(HistomixError, match="Nobody has answered"):
        write_report(test, out)
    read_all(test, "Ann", guessing(0))
    reading = Reading(test, "Bob")
    with pytest.raises(HistomixError, match="bob has this test open"):
        write_report(test, out)
    reading.close()
    kept = (test.folder / TRUTH).rename(tmp_path / "kept apart")
    with pytest.raises(HistomixError, match="put back the file"):
        write_report(test, out)
    write_report(test, tmp_path / "with truth", kept)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", refuse)
    with pytest.raises(HistomixError, match="No space left"):
        write_report(test, out, kept)
    assert not out.exists() and not list(tmp_path.glob(".report*"))
