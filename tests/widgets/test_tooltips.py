"""Every control of the dock's pages, and of the docks beside it, says in a tooltip what it does."""

from __future__ import annotations

import shutil
from importlib import import_module

import pytest
from napari.components import ViewerModel
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QScrollBar,
    QSlider,
    QTabBar,
    QWidget,
)
from review_samples import make_review_study
from superqt import QCollapsible

from napari_histomix.datasets import sample_folder
from napari_histomix.methods import method_names
from napari_histomix.records import drain
from napari_histomix.widgets.loading import open_job, study_job
from napari_histomix.widgets.session import Session

CONTROLS = QAbstractButton, QComboBox, QAbstractSpinBox, QLineEdit, QSlider
PROJECT = (
    "data_panel:DataPanel",
    "open_layers_panel:OpenLayersPanel",
    "nuclei_panel:NucleiPanel",
    "preferences_panel:PreferencesPanel",
    "models_panel:ModelsPanel",
    "report_panel:ReportPanel",
)
REVIEW = (
    "review.panel:ReviewPanel",
    "export_panel:ExportPanel",
    "evidence_panel:EvidencePanel",
    "reader_test_panel:ReaderTestPanel",
)


def silent(page: QWidget) -> list[str]:
    """Controls of a page without a tooltip of their own, or of what they are a part of."""
    found = []
    for kind in CONTROLS:
        for control in page.findChildren(kind):
            around, parents = control, []
            while around is not None and around is not page:
                parents.append(around)
                around = around.parentWidget()
            # Parts that Qt makes itself: arrows of tabs, fields of spin boxes, bars of scroll areas, corners of tables.
            made = (
                any(isinstance(parent, QTabBar | QScrollBar) for parent in parents) or type(control) is QAbstractButton
            )
            if not made and not any(parent.toolTip() for parent in parents):
                said = getattr(control, "text", lambda: "")() or control.accessibleName() or control.objectName()
                found.append(f"{type(control).__name__} {said!r} in {type(control.parentWidget()).__name__}")
    return sorted(set(found))


def panel_at(place: str, session: Session, qtbot) -> QWidget:
    module, _, name = place.partition(":")
    panel = getattr(import_module(f"napari_histomix.widgets.{module}"), name)(ViewerModel(), session)
    qtbot.addWidget(panel)
    return panel


@pytest.fixture
def session(qtbot, tmp_path):
    session = Session(home=tmp_path / "home")
    yield session
    session.release()


@pytest.mark.parametrize("place", PROJECT)
def test_every_control_of_the_project_has_a_tooltip(place, session, qtbot) -> None:
    panel = panel_at(place, session, qtbot)
    if place.endswith("DataPanel"):
        session.take_opened(drain(open_job(sample_folder())))
    assert panel.findChildren(QAbstractButton)
    assert silent(panel) == []


def test_every_control_of_make_has_a_tooltip(searched, session, tmp_path, qtbot) -> None:
    from napari_histomix.widgets.dock import HistoMixDock

    shutil.copytree(searched, tmp_path / "all")
    session.take_opened(drain(study_job(tmp_path / "all" / "study", tmp_path / "all" / "data")))
    dock = HistoMixDock(ViewerModel(), session)
    qtbot.addWidget(dock)
    page, missing = dock.page, {}
    for method in method_names():
        session.choose_method(method)
        if (form := dock.make.form) is not None:
            missing[f"form of {method}"] = silent(form)
        if dock.plan.page is not None:
            missing[f"plan of {method}"] = silent(dock.plan.page)
    for name in ("segments", "pool", "mix", "generate", "train"):
        missing[name] = silent(page.tabs.open(name))
    missing["top"], missing["making"] = silent(page.chooser), silent(page.making)
    assert "\n".join(f"{name}: {control}" for name, controls in missing.items() for control in controls) == ""


@pytest.mark.parametrize("place", REVIEW)
def test_every_control_of_review_and_results_has_a_tooltip(place, session, qtbot, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    panel = panel_at(place, session, qtbot)
    panel.resize(430, 900)
    panel.show()
    session.take_opened(drain(study_job(make_review_study(tmp_path / "study").folder)))
    qtbot.waitUntil(lambda: session.image != "" and not panel.book.busy, timeout=20_000)
    for section in panel.findChildren(QCollapsible):
        section.expand(animate=False)
    if place.endswith("ReviewPanel"):
        panel.decide("approve")
    qtbot.wait(300)
    assert silent(panel) == []
