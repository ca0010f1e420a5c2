"""What a person with large letters sees of the pages, and of what was pressed at the lower end of one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QFont
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel, QMainWindow
from review_samples import make_review_study

from napari_histomix.datasets import open_any, survey
from napari_histomix.records import NucleusClass, drain
from napari_histomix.widgets import docking
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.data_panel import ClassTable
from napari_histomix.widgets.dock import PageButton
from napari_histomix.widgets.docking import stand_below_title
from napari_histomix.widgets.eliding import fitting
from napari_histomix.widgets.export_panel import WRITTEN, ExportPanel
from napari_histomix.widgets.loading import Opened, study_job
from napari_histomix.widgets.make_panel import MakePanel
from napari_histomix.widgets.plan_panel import PlanPanel
from napari_histomix.widgets.review.panel import ReviewPanel
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.table_model import ArrayTableModel, Column, table_view
from napari_histomix.widgets.train_panel import TrainPanel


@pytest.fixture
def session(qtbot, tmp_path, dataset_folder, labeled_image):
    dataset = open_any(dataset_folder(tmp_path / "data", [labeled_image(6, name=name) for name in "ab"]))
    made = Session(home=tmp_path / "home")
    made.take_opened(Opened(dataset, drain(survey(dataset))))
    yield made
    made.release()


def test_the_buttons_of_the_pages_have_the_letters_that_a_person_chose_in_two_lines(qtbot, monkeypatch) -> None:
    window, button = QMainWindow(), PageButton(1, "Project")
    qtbot.addWidget(window)
    window.setCentralWidget(button)
    button.set_state("open", "a dataset")
    window.resize(300, 60)
    window.show()
    usual = button.height()
    monkeypatch.setattr("napari_histomix.widgets.dock.letter_points", lambda: 20)
    # What napari does where its letters become larger.
    window.setStyleSheet("QLabel { font-size: 20pt; }")
    QApplication.processEvents()
    assert button.fontInfo().pointSizeF() == pytest.approx(20, abs=1)
    assert usual < 2 * button.fontMetrics().lineSpacing() <= button.height()
    # In a narrow dock, what is written whole is worth more.
    button.set_state("done", "24 exported")
    button.setChecked(True)
    window.resize(110, 60)
    qtbot.waitUntil(lambda: button.fontMetrics().horizontalAdvance("✓ Results") < button.width())
    assert button.fontInfo().pointSizeF() < 19


def test_tables_have_the_letters_that_a_person_chose_and_rows_for_them(qtbot, monkeypatch) -> None:
    monkeypatch.setattr(docking, "get_settings", lambda: SimpleNamespace(appearance=SimpleNamespace(font_size=18)))
    model = ArrayTableModel()
    model.set_columns([Column("name", "Name", "", ["tumor"])])
    table = table_view(model)
    qtbot.addWidget(table)
    table.show()
    assert table.fontInfo().pointSizeF() == table.horizontalHeader().fontInfo().pointSizeF() == pytest.approx(18, abs=1)
    assert table.rowHeight(0) >= table.fontMetrics().lineSpacing()


def test_a_dock_keeps_clear_of_a_title_bar_that_is_higher_than_the_room_it_asks_for(qtbot) -> None:
    class Bar(QLabel):
        """As napari's, which asks for 20 pixels whatever its letters need."""

        def sizeHint(self) -> QSize:
            return QSize(15, 20)

    window, around, part = QMainWindow(), QDockWidget(), ui.box(ui.column(QLabel("first line")))
    qtbot.addWidget(window)
    around.setTitleBarWidget(bar := Bar("HistoMix"))
    around.setWidget(part)
    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, around)
    window.show()
    stand_below_title(part)
    first = part.layout().itemAt(0).widget()
    assert first.y() == 0
    bar.setMinimumHeight(38)
    qtbot.waitUntil(lambda: part.y() + first.y() == bar.geometry().bottom() + 1)
    bar.setMinimumHeight(20)
    bar.resize(bar.width(), 20)
    qtbot.waitUntil(lambda: first.y() == 0)


@pytest.mark.parametrize("made", [ui.button, ui.check])
def test_a_button_or_box_with_too_little_room_leaves_out_its_key_first(qtbot, made) -> None:
    button = made("Whole image (I)", "What it does.")
    qtbot.addWidget(button)
    metrics = button.fontMetrics()
    wide = metrics.horizontalAdvance(button.text())
    assert fitting(button.text(), metrics, wide) == "Whole image (I)"
    assert fitting(button.text(), metrics, wide - 1) == "Whole image"
    assert "…" in fitting(button.text(), metrics, wide // 2) and button.text() == "Whole image (I)"
    # What is drawn is the shorter text.
    button.resize(wide - 1, 28)
    drawn = button.grab().toImage()
    button.setText("Whole image")
    assert drawn == button.grab().toImage()


def test_a_class_of_a_long_name_leaves_the_numbers_and_boxes_in_sight(qtbot) -> None:
    table = ClassTable()
    qtbot.addWidget(table)
    name = "non-neoplastic epithelium with intraepithelial lymphocytes"
    table.set_classes([NucleusClass(1, name, (255, 0, 0)), NucleusClass(2, "other", (0, 0, 255))], {1: 1234, 2: 5})
    assert table.minimumSizeHint().width() <= 330
    table.resize(340, 80)
    table.show()
    QApplication.processEvents()
    assert table.rare_boxes[1].geometry().right() <= 340 and table.major_boxes[1].geometry().right() <= 340
    assert any(label.toolTip() == name for label in table.findChildren(ui.Yielding))


def test_a_narrow_review_gives_texts_the_lines_that_they_need(qtbot, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    session = Session(home=tmp_path)
    panel = ReviewPanel(ViewerModel(), session)
    qtbot.addWidget(panel)
    panel.setFont(QFont(panel.font().family(), 26))
    panel.resize(320, 900)
    panel.show()
    session.take_opened(drain(study_job(make_review_study(tmp_path / "study").folder)))
    qtbot.waitUntil(lambda: panel.contents.shows and not panel.book.busy, timeout=20_000)
    details = panel.contents.details
    details.provenance.setText("where it comes from and who decided on it " * 6)
    lines = details.provenance
    qtbot.waitUntil(lambda: lines.height() >= lines.heightForWidth(lines.width()) > 3 * lines.fontMetrics().height())
    assert details.reviewer.height() >= details.reviewer.minimumSizeHint().height()
    session.release()


def test_a_narrow_export_page_gives_texts_the_lines_that_they_need(qtbot, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    session = Session(home=tmp_path)
    panel = ExportPanel(ViewerModel(), session)
    area = ui.scrolled(panel)
    qtbot.addWidget(area)
    area.setStyleSheet("QLabel, QPushButton, QComboBox, QCheckBox { font-size: 26pt }")
    area.resize(380, 700)
    area.show()
    session.take_opened(drain(study_job(make_review_study(tmp_path / "study").folder)))
    session.decide("change", session.table.ids.tolist()[:2], "approve")
    qtbot.waitUntil(lambda: panel.plan is not None, timeout=20_000)
    note = next(note for note in panel.contents.findChildren(ui.Note) if note.text() == WRITTEN)
    qtbot.waitUntil(lambda: note.height() >= note.heightForWidth(note.width()) > 3 * note.fontMetrics().height())
    session.release()


def test_a_refusal_comes_into_sight_on_a_page_that_scrolls(session, qtbot) -> None:
    panel = MakePanel(ViewerModel(), session)
    area = ui.scrolled(panel)
    qtbot.addWidget(area)
    area.resize(340, 300)
    area.show()
    QApplication.processEvents()
    area.ensureWidgetVisible(panel.progress.run_button)
    panel.runner.failed.emit("Choose at least one rare class.")
    qtbot.waitUntil(lambda: not panel.note.visibleRegion().isEmpty())


def test_candidates_say_on_the_page_what_has_to_be_chosen_before_they_are_found(session, qtbot) -> None:
    plan = PlanPanel(ViewerModel(), session)
    qtbot.addWidget(plan)
    session.choose_classes((), (1, 2))
    progress = plan.page.progress
    assert not progress.run_button.isEnabled() and not progress.status.isHidden()
    assert "rare classes" in progress.status.text()
    session.choose_classes((1,), (2,))
    assert progress.run_button.isEnabled() and progress.status.isHidden()


def test_what_a_network_is_for_is_never_cut_whichever_was_chosen_before(qtbot, session, monkeypatch) -> None:
    for room in ("session", "train_panel"):
        monkeypatch.setattr(f"napari_histomix.widgets.{room}.load_networks_ahead", lambda: None)
    panel = TrainPanel(ViewerModel(), session)
    qtbot.addWidget(panel)
    panel.setStyleSheet("QLabel, QComboBox, QPushButton, QCheckBox, QAbstractSpinBox { font-size: 18pt; }")
    panel.resize(480, 570)
    panel.show()
    for kind in (0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 2, 3, 0, 2, 4, 6, 0, 6, 2, 5, 3, 1, 4):
        panel.form.network.setCurrentIndex(kind)
        qtbot.wait(50)
        what = panel.form.what
        assert what.height() >= what.heightForWidth(what.width())
