"""The reader test's dock in a real viewer, opened through the manifest: make, answer, pause, come back, report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dock_pages import open_page
from qtpy.QtCore import Qt
from reader_samples import make_changes, make_reader_study

from napari_histomix.datasets import load_sample
from napari_histomix.evaluation.reader_test.folder import CROPS, TEST, TRUTH, ReaderTest
from napari_histomix.evaluation.reader_test.reading import read_answers
from napari_histomix.widgets.camera import camera_of

pytestmark = pytest.mark.gui


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: Any) -> Path:
    """A study of the sample with four approved nuclei of many. Never write into it."""
    folder, dataset = tmp_path_factory.mktemp("reader") / "study", load_sample()
    make_reader_study(folder, dataset, make_changes(dataset), approved=4)
    return folder


@pytest.fixture
def open_dock(make_napari_viewer: Any, study_folder: Path, tmp_path: Path, qtbot: Any) -> Callable[..., Any]:
    """Open the dock through the manifest, beside an open study."""
    from napari_histomix.widgets.session import session_of

    made = 0

    def opened(study: bool = True) -> Any:
        nonlocal made
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1500, 1000)
        made += 1
        session_of(viewer).home = tmp_path / f"home {made}"
        if study:
            folder = shutil.copytree(study_folder, session_of(viewer).home / "study")
            steps = open_page(viewer, "project/data")
            steps.open_study(folder)
            qtbot.waitUntil(lambda: steps.session.image != "", timeout=60_000)
            qtbot.waitUntil(lambda: not steps.book.busy, timeout=60_000)
        panel = open_page(viewer, "results/test")
        panel.dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")[0]
        panel.real_viewer = viewer
        return panel

    return opened


@pytest.fixture
def with_test(open_dock: Any, qtbot: Any) -> Callable[[], Any]:
    """The dock with a test made by clicks."""

    def opened() -> Any:
        panel = open_dock()
        making = panel.making
        qtbot.waitUntil(lambda: making.offer is not None, timeout=30_000)
        making.what.setCurrentIndex(1)
        making.form.fields["per_kind"].value = 4
        making.bar.run_button.click()
        qtbot.waitUntil(lambda: panel.test is not None, timeout=60_000)
        return panel

    return opened


def begin(panel: Any, reader: str) -> None:
    panel.reader.setText(reader)
    panel.start_button.click()


def over_the_canvas(panel: Any, key: str) -> None:
    panel.real_viewer.window._qt_viewer._key_map_handler.press_key(key)


def test_a_test_is_made_answered_by_keys_left_taken_up_again_and_reported(with_test, open_dock, qtbot) -> None:
    panel = with_test()
    folder, page = panel.test.folder, panel.page
    assert sorted(path.name for path in folder.iterdir()) == sorted([CROPS, TEST, TRUTH, "answers"])
    assert len(panel.test) == 8 and "4 real and 4 synthetic" in panel.note.text()
    # Whoever runs the test may keep the truth elsewhere: answering needs none of it.
    truth = (folder / TRUTH).rename(folder.parent / "kept")
    assert not panel.start_button.isEnabled()
    begin(panel, "Ann")
    reading = page.reading
    assert page.isVisible() and not panel.start.isVisible() and reading.running
    seen = [reading.current]
    assert np.array_equal(page.crop.pixels, panel.test.crops[seen[0]])
    assert page.crop.mark == panel.test.asked[seen[0]].mark
    # Keys in the dock, over the canvas, and a click.
    qtbot.keyClick(page, Qt.Key.Key_1)
    seen.append(reading.current)
    over_the_canvas(panel, "3")
    seen.append(reading.current)
    qtbot.mouseClick(page.buttons[4], Qt.MouseButton.LeftButton)
    assert reading.answered == 3 and len(set(seen)) == 3 and page.counter.text() == "4 of 8"
    # One step back.
    qtbot.keyClick(page, Qt.Key.Key_U)
    assert reading.current == seen[2] and not page.back_button.isEnabled()
    over_the_canvas(panel, "2")
    # While paused, nothing is to be seen and nothing can be answered.
    qtbot.keyClick(page, Qt.Key.Key_P)
    assert page.crop.pixels is None and "Paused" in page.cover.text() and not reading.running
    qtbot.keyClick(page, Qt.Key.Key_1)
    over_the_canvas(panel, "4")
    assert reading.answered == 3 and not page.buttons[1].isEnabled()
    page.pause_button.click()
    assert page.crop.pixels is not None and reading.running
    left_at = reading.current
    # The dock is closed in the middle of it.
    panel.dock.hide()
    qtbot.waitUntil(lambda: not reading.running)
    over_the_canvas(panel, "1")
    assert reading.answered == 3
    panel.real_viewer.close()

    panel = open_dock(study=False)
    qtbot.wait(50)
    panel.open_test(folder)
    qtbot.waitUntil(lambda: panel.test is not None, timeout=30_000)
    begin(panel, "ann")
    page = panel.page
    assert page.reading.reader == "Ann" and page.reading.answered == 3 and page.reading.current == left_at
    while not page.reading.finished:
        qtbot.keyClick(page, Qt.Key.Key_4)
    assert "Thank you, Ann" in page.cover.text() and page.crop.pixels is None
    page.stop_button.click()
    assert panel.start.isVisible() and "all crops are answered" in panel.note.text()
    # No score before somebody asks for it, and none without the truth.
    assert not panel.report_window.isVisible()
    panel.report_button.click()
    qtbot.waitUntil(lambda: panel.report_note.text() != "", timeout=30_000)
    assert panel.report_note.kind == "error" and "put back" in panel.report_note.text()
    truth.rename(folder / TRUTH)
    panel.report_button.click()
    qtbot.waitUntil(panel.report_window.isVisible, timeout=30_000)
    assert panel.report_note.kind == "good" and panel.report_window.picture.pixels is not None
    report = folder.with_name(f"{folder.name} report")
    assert (report / "report.png").is_file() and (report / "readers.csv").is_file()
    given = read_answers(ReaderTest.open(folder))["Ann"]
    assert [given[crop].answer for crop in seen] == [1, 3, 2] and given[seen[2]].times == 2
    assert panel.minimumSizeHint().width() <= 440


def test_nothing_in_the_window_tells_the_truth(with_test, qtbot) -> None:
    panel = with_test()
    viewer, page = panel.real_viewer, panel.page
    layers = list(viewer.layers)
    shown = [layer for layer in layers if layer.visible]
    assert shown
    texts: dict[bool, set[tuple[Any, ...]]] = {True: set(), False: set()}
    truths = panel.test.truth()
    begin(panel, "Ann")
    assert [one.name for one in viewer.layers if one.visible] == ["crop", "crop marks"]
    assert viewer.layers.selection.active is page.crop.image, "the status bar tells of nothing else"
    # A job that ends now may add a layer, or show one.
    late = viewer.add_image(np.zeros((8, 8)))
    assert not late.visible
    while not page.reading.finished:
        crop = page.reading.current
        image, marks = page.crop.image, page.crop.marks
        camera = camera_of(viewer)
        state = (
            page.kind.text(),
            page.question.text(),
            page.cover.text(),
            *(repr((one.name, one.metadata, tuple(one.scale), tuple(one.translate))) for one in (image, marks)),
            len(marks.data),
            page.crop.pixels.shape,
            round(camera.zoom, 6),
            tuple(np.round(camera.center, 6)),
        )
        told = texts[truths[crop].synthetic]
        told.add((*state, *(one.toolTip() for one in page.buttons.values())))
        np.testing.assert_array_equal(image.data, panel.test.crops[crop])
        assert image.interpolation2d == "cubic"
        # No arrowhead covers a pixel of the crop.
        corners = np.concatenate(marks.data)
        side = len(image.data)
        assert ((corners < -0.5) | (corners > side - 0.5)).any(axis=1).all()
        over_the_canvas(panel, "2")
    assert texts[True] == texts[False] and len(texts[True]) == 1
    page.stop_button.click()
    qtbot.waitUntil(lambda: not panel.book.busy)
    assert [layer for layer in layers if layer.visible] == shown and late.visible
    assert not {"crop", "crop marks"} & {layer.name for layer in viewer.layers}


def test_what_is_wrong_is_said_in_the_dock(with_test, open_dock, qtbot, tmp_path) -> None:
    panel = open_dock(study=False)
    assert not panel.answering.isVisible() and not panel.reporting.isVisible()
    panel.open_test(tmp_path)
    qtbot.waitUntil(lambda: "is not a reader test" in panel.note.text(), timeout=30_000)
    other = with_test()
    panel.open_test(other.test.folder)
    qtbot.waitUntil(lambda: panel.test is not None, timeout=30_000)
    begin(other, "Ann")
    begin(panel, "Ann")
    assert "open in another window" in panel.note.text() and panel.start.isVisible()
    begin(panel, "Bob")
    assert panel.page.reading.answered == 0
    panel.page.stop_button.click()
    panel.report_button.click()
    qtbot.waitUntil(lambda: panel.report_note.kind == "error", timeout=30_000)
    assert "has this test open" in panel.report_note.text()


def test_only_what_is_approved_is_shown_unless_all_is_asked_for(open_dock, qtbot) -> None:
    panel = open_dock()
    making = panel.making
    qtbot.waitUntil(lambda: making.offer is not None, timeout=30_000)
    assert making.what.currentIndex() == 0 and making.what.currentText() == "4 approved nuclei"
    assert making.offer.counts == {"nuclei": (4, len(panel.session.table))}
    approved = sorted(panel.session.study.decisions("change"))
    panel.session.decide("change", approved, None)
    qtbot.waitUntil(lambda: making.what.itemText(0) == "0 approved nuclei", timeout=30_000)
    assert not making.bar.run_button.isEnabled()
    making.what.setCurrentIndex(1)
    assert making.bar.run_button.isEnabled()
