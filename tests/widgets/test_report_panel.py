"""The dock of reports: all of it is shown before it is saved, and what is open is not named in it."""

from __future__ import annotations

import logging
import zipfile

import pytest
from napari.components import ViewerModel

from napari_histomix.datasets import load_sample
from napari_histomix.logs import begin
from napari_histomix.widgets.report_panel import ReportPanel
from napari_histomix.widgets.session import Session


@pytest.fixture
def panel(qtbot, tmp_path) -> ReportPanel:
    made = ReportPanel(ViewerModel(), Session(home=tmp_path))
    qtbot.addWidget(made)
    made.show()
    return made


def gathered(panel: ReportPanel, qtbot) -> None:
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: bool(panel.files) and not panel.runner.running, timeout=60_000)


def test_what_is_shown_is_what_is_saved_and_the_open_images_are_not_named(panel, qtbot, tmp_path):
    panel.session.dataset = dataset = load_sample()
    name = dataset.entries[0].source.image
    begin("window")
    logging.getLogger("napari_histomix.tests").error("the image %s has 12 nuclei", name)
    assert not panel.save_button.isEnabled()
    gathered(panel, qtbot)
    shown = {}
    for place in range(panel.file.count()):
        panel.file.setCurrentIndex(place)
        shown[panel.file.currentText()] = panel.text.toPlainText()
    assert {"README.txt", "system.json", "settings.json", "histomix.log"} == shown.keys()
    assert name not in "".join(shown.values()) and "has 12 nuclei" in shown["histomix.log"]
    assert '"binding"' in shown["system.json"]
    panel.save(tmp_path / "report.zip")
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        saved = {each: archive.read(each).decode() for each in archive.namelist()}
    assert saved == shown and "Saved as" in panel.note.text()
    panel.save(tmp_path / "report.zip")
    assert "exists already" in panel.note.text()


def test_a_dialog_that_is_left_saves_nothing(panel, qtbot, monkeypatch, tmp_path):
    gathered(panel, qtbot)
    monkeypatch.setattr("napari_histomix.widgets.report_panel.QFileDialog.getSaveFileName", lambda *_: ("", ""))
    panel.save_button.click()
    assert not panel.note.text() and not list(tmp_path.glob("*.zip"))
