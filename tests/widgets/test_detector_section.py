"""What a network can tell, tested from the Review step: figures, order, report; and what ends the test early."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLabel
from review_samples import make_class_study, make_review_study

from napari_histomix.evaluation.detector_report import figure_text
from napari_histomix.records import Event, HistomixError, drain
from napari_histomix.study import Study
from napari_histomix.widgets.eliding import Yielding
from napari_histomix.widgets.loading import study_job
from napari_histomix.widgets.review.detecting import GIVEN_UP, NOTHING_LEFT, DetectorSection
from napari_histomix.widgets.review.panel import ReviewPanel
from napari_histomix.widgets.session import Session


class Network:
    """Stands in for the detector's network: takes dark crops for synthetic; learns until it is let go or closed."""

    def __init__(self) -> None:
        self.go, self.began = threading.Event(), threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def __call__(self, learned: Any, synthetic: Any, weights: Any, tested: Any, **how: Any) -> Iterator[Event]:
        self.began.set()
        while not self.go.wait(0.002):
            yield Event("Learning to tell", 0, 1)
        if self.error is not None:
            raise self.error
        yield Event("Learning to tell", 1, 1)
        return -tested.mean(axis=(1, 2, 3))


@pytest.fixture(autouse=True)
def network(monkeypatch) -> Network:
    one = Network()
    monkeypatch.setattr("napari_histomix.evaluation.detector_network.learn_and_score", one)
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    return one


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "study"
    make_review_study(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "study")


@pytest.fixture
def open_panel(qtbot, tmp_path):
    def opened(folder: Path, height: int = 900) -> ReviewPanel:
        session = Session(home=tmp_path)
        panel = ReviewPanel(ViewerModel(), session)
        qtbot.addWidget(panel)
        panel.resize(420, height)
        panel.show()
        session.take_opened(drain(study_job(folder, lock=session.lock(folder))))
        panel.contents.detector.bring_up()
        return panel

    return opened


@pytest.fixture
def panel(open_panel, folder) -> ReviewPanel:
    return open_panel(folder)


def run_it(qtbot, section: DetectorSection) -> None:
    section.bar.run_button.click()
    assert section.runner.running and not section.form.isEnabled()
    qtbot.waitUntil(lambda: not section.runner.running, timeout=60_000)


def texts(section: DetectorSection) -> list[str]:
    return [label.text() for label in section.results.findChildren(QLabel)]


def test_who_is_led_to_the_test_sees_it_to_its_button(open_panel, folder, qtbot) -> None:
    button = open_panel(folder, height=640).contents.detector.bar.run_button
    qtbot.wait(50)
    assert button.visibleRegion().boundingRect().height() == button.height()


def test_figures_and_crops_are_shown_and_the_review_goes_by_the_scores(panel, folder, qtbot, tmp_path) -> None:
    section, filters = panel.contents.detector, panel.contents.filters
    filters.toggle.setChecked(True)
    assert not filters.detectable.isEnabled() and not section.results.isVisible()
    section.form.fields["hide"].value = ("nothing", "rim")
    run_it(qtbot, section)
    # Two samplers are two methods, each with its hard paste.
    own = {
        test.method: [result for result in test.results if result.variant == test.method]
        for test in section.report.tests
    }
    assert [len(results) for results in own.values()] == [2, 2]
    shown = texts(section)
    for results in own.values():
        assert all(figure_text(result.auc) in shown for result in results)
    assert {"nothing", "rim", "area alone", "Hard paste"} <= set(shown) and section.picture.isVisible()
    # What was tested is said in full, in as many lines as that takes.
    titles = [label for label in section.results.findChildren(QLabel) if "synthetic crops" in label.text()]
    assert len(titles) == 2 and not any(isinstance(title, Yielding) for title in titles)
    assert all(title.height() > 1.8 * title.fontMetrics().lineSpacing() for title in titles)
    assert any("12 of" in text or "fewer than ten" in text for text in shown)
    assert section.state.text().count("AUC") == 2 and section.note.kind == "good"
    scores = Study.open(folder).detectability()
    assert scores == {id: value for test in section.report.tests for id, value in test.percentiles.items()} and scores
    # The section was open already, and offers the filter now.
    assert filters.detectable.isEnabled()
    section.order_button.click()
    order = panel.queue.table.ids[panel.queue.shown].tolist()
    assert [scores.get(id, -1.0) for id in order] == sorted((scores.get(id, -1.0) for id in order), reverse=True)
    assert panel.queue.id == order[0]
    section.save(tmp_path / "reports")
    qtbot.waitUntil(section.folder_button.isVisible, timeout=20_000)
    assert {path.name for path in (tmp_path / "reports" / "detector test").iterdir()} == {
        "report.md",
        "report.json",
        "crops.png",
    }


def test_every_control_says_what_it_does_and_all_fits(panel, qtbot) -> None:
    section = panel.contents.detector
    section.form.advanced.expand(animate=False)
    run_it(qtbot, section)
    for kind in (QAbstractButton, QAbstractSpinBox, QComboBox):
        for one in section.findChildren(kind):
            if one.isVisible():
                assert one.toolTip() or one.parent().toolTip() or one.parent().parent().toolTip(), one.text()
    assert panel.area.widget().minimumSizeHint().width() <= 390


def test_a_test_that_is_stopped_keeps_nothing(panel, folder, network, qtbot) -> None:
    section = panel.contents.detector
    network.go.clear()
    section.bar.run_button.click()
    qtbot.waitUntil(network.began.is_set, timeout=60_000)
    section.bar.cancel_button.click()
    qtbot.waitUntil(lambda: not section.runner.running, timeout=20_000)
    assert section.note.text() == "Stopped; nothing was kept."
    assert not section.results.isVisible() and Study.open(folder).detectability() == {}
    assert section.bar.run_button.isEnabled() and section.form.isEnabled()


def test_scores_of_what_was_taken_back_meanwhile_do_not_come_back(panel, folder, network, qtbot) -> None:
    section, session = panel.contents.detector, panel.session
    network.go.clear()
    section.bar.run_button.click()
    qtbot.waitUntil(network.began.is_set, timeout=60_000)
    session.discard_run(session.study.runs()[-1].id)
    # Whatever it comes to now: the ids may be those of other changes.
    network.go.set()
    qtbot.waitUntil(lambda: section.note.text() == GIVEN_UP, timeout=20_000)
    assert section.report is None and not section.results.isVisible() and Study.open(folder).detectability() == {}
    # Of what is left there is a test of its own.
    run_it(qtbot, section)
    assert section.results.isVisible() and set(Study.open(folder).detectability()) <= set(range(6))
    # Its figures do not stand beside another study.
    session.discard_run(session.study.runs()[-1].id)
    assert section.report is None and not section.results.isVisible() and section.state.text() == ""


def test_what_cannot_be_tested_is_said_in_a_sentence(panel, open_panel, network, qtbot, tmp_path) -> None:
    section = panel.contents.detector
    section.form.fields["hide"].value = ()
    run_it(qtbot, section)
    assert section.note.text().startswith("Say what is hidden") and section.note.kind == "error"
    section.form.fields["hide"].value = ("nothing",)
    network.error = HistomixError("The scores are no numbers; choose another seed.")
    run_it(qtbot, section)
    assert section.note.text() == "The scores are no numbers; choose another seed." and not section.results.isVisible()
    panel.contents.deciding.set_scope("shown")
    panel.decide("reject")
    assert section.why.text() == NOTHING_LEFT and not section.bar.run_button.isEnabled()
    panel.undo()
    assert section.why.text() == "" and section.bar.run_button.isEnabled()
    make_review_study(tmp_path / "few", 2)
    few = open_panel(tmp_path / "few").contents.detector
    run_it(qtbot, few)
    assert "too few to tell anything" in few.note.text() and few.note.kind == "error"


def test_a_study_that_another_window_writes_to_shows_figures_without_scores(panel, open_panel, folder, qtbot) -> None:
    other = open_panel(folder).contents.detector
    run_it(qtbot, other)
    assert other.results.isVisible() and other.note.text().startswith("The scores are not kept")
    assert Study.open(folder).detectability() == {}


def test_settings_are_those_of_what_the_study_holds(panel, open_panel, tmp_path) -> None:
    def shown(section: DetectorSection) -> set[str]:
        return {name for name, field in section.form.fields.items() if not field.native.isHidden()}

    nuclei = shown(panel.contents.detector)
    images = shown(open_panel(make_class_study(tmp_path / "class study").folder).contents.detector)
    assert nuclei - images == {"hide", "side", "epochs"}
    assert images - nuclei == {"tissue_side", "tissue_steps", "per_image"}


def test_nothing_is_built_before_the_section_is_opened(panel) -> None:
    again = ReviewPanel(ViewerModel(), panel.session)
    assert again.contents.detector.form is None
    again.contents.filters.test_button.click()
    assert again.contents.detector.is_open and again.contents.detector.form is not None
    again.close()
