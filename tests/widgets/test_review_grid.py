"""The grid of Review: many at once, by mouse and keys, as one act; thumbnails only of what is in sight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from app_model.types import KeyBinding
from napari.components import ViewerModel
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QImage
from review_samples import make_class_study, make_review_study
from test_review_queue import Light

from napari_histomix.datasets import sample_folder
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.widgets.gallery import GAP
from napari_histomix.widgets.loading import open_job, study_job
from napari_histomix.widgets.review.grid import BATCH, LOWEST
from napari_histomix.widgets.review.panel import ReviewPanel
from napari_histomix.widgets.session import Session

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def open_grid(qtbot: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Review of a study, at its grid."""
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)

    def opened(study: Study) -> ReviewPanel:
        session = Session(home=tmp_path)
        panel = ReviewPanel(ViewerModel(), session)
        qtbot.addWidget(panel)
        panel.resize(430, 900)
        panel.show()
        session.take_opened(drain(study_job(study.folder)))
        qtbot.waitUntil(lambda: panel.contents.shows and not panel.book.busy, timeout=20_000)
        qtbot.keyClick(panel, "0")
        assert panel.contents.grid.isVisible() and not panel.contents.views.isVisible()
        return panel

    return opened


@pytest.fixture
def panel(open_grid: Any, tmp_path: Any) -> ReviewPanel:
    return open_grid(make_review_study(tmp_path / "study"))


def click(qtbot: Any, panel: ReviewPanel, place: int, modifiers: Any = NONE) -> None:
    grid = panel.contents.grid
    qtbot.mouseClick(grid.viewport(), LEFT, modifiers, grid.tile(place).center())


def test_a_selection_is_decided_on_as_one_act(panel: ReviewPanel, qtbot: Any) -> None:
    folder, grid, buttons = panel.session.study.folder, panel.contents.grid, panel.contents.deciding.buttons
    ids = panel.queue.table.ids[panel.queue.shown].tolist()
    click(qtbot, panel, 1)
    click(qtbot, panel, 3, SHIFT)
    click(qtbot, panel, 6, CONTROL)
    assert buttons["approve"].text() == "Approve 4 (A, 1)" and panel.queue.id == ids[6]
    qtbot.keyClick(grid, "A")
    chosen = [ids[place] for place in (1, 2, 3, 6)]
    assert Study.open(folder).decisions("change") == dict.fromkeys(chosen, "approve")
    assert panel.queue.id == ids[7] and grid.rows.tolist() == [panel.queue.row]
    # A single one is decided on and left, as without the grid.
    qtbot.keyClick(grid, "R")
    assert panel.queue.id == ids[8] and Study.open(folder).decisions("change")[ids[7]] == "reject"
    qtbot.keyClick(grid, "Z")
    qtbot.keyClick(grid, "Z")
    assert Study.open(folder).decisions("change") == {}, "one undo for one act"
    assert panel.queue.table.ids[grid.rows].tolist() == chosen, "what came back is selected again"
    buttons["delete"].click()
    assert len(grid.numbers) == 8 and not set(chosen) & set(panel.queue.table.ids[grid.numbers].tolist())


def test_escape_leaves_the_grid_but_not_from_a_field(panel: ReviewPanel, qtbot: Any) -> None:
    parts = panel.contents
    parts.goal.goal.setFocus()
    qtbot.waitUntil(lambda: panel.isAncestorOf(panel.focusWidget()) and not parts.grid.hasFocus())
    qtbot.keyClick(parts.goal.goal, Qt.Key.Key_Escape)
    assert parts.grid.isVisible()
    click(qtbot, panel, 2)
    qtbot.keyClick(parts.grid, Qt.Key.Key_Escape)
    assert parts.views.isVisible() and not parts.grid.isVisible()


def test_the_grid_comes_into_sight_where_the_page_is_scrolled_down(panel: ReviewPanel, qtbot: Any) -> None:
    bar = panel.area.verticalScrollBar()
    qtbot.keyClick(panel, "0")
    panel.resize(430, 500)
    panel.contents.filters.toggle.click()
    qtbot.waitUntil(lambda: bar.maximum() > 500)
    bar.setValue(bar.maximum())
    qtbot.keyClick(panel, "0")
    grid = panel.contents.grid
    qtbot.waitUntil(lambda: grid.visibleRegion().boundingRect().height() == grid.height() >= LOWEST, timeout=2_000)


def test_ctrl_a_selects_all_also_where_the_grid_has_not_the_keys(panel: ReviewPanel, qtbot: Any) -> None:
    parts = panel.contents
    panel.setFocus()
    qtbot.keyClick(panel, Qt.Key.Key_A, CONTROL)
    assert len(parts.grid.rows) == 12
    click(qtbot, panel, 1)
    panel.viewer.keymap[KeyBinding.from_str("Ctrl+A")](panel.viewer)
    assert len(parts.grid.rows) == 12


def test_a_reason_is_given_to_all_that_is_selected_as_one_act(panel: ReviewPanel, qtbot: Any) -> None:
    grid, reasons = panel.contents.grid, panel.contents.details.reasons
    ids = panel.queue.table.ids[panel.queue.shown].tolist()
    given = panel.session.decisions["change reasons"]
    click(qtbot, panel, 2)
    reasons["stain"].click()
    click(qtbot, panel, 1)
    click(qtbot, panel, 3, SHIFT)
    reasons["seam"].click()
    assert given == {ids[1]: "seam", ids[2]: "seam, stain", ids[3]: "seam"} and len(grid.rows) == 3
    qtbot.keyClick(grid, "R")
    assert len(panel.session.decisions["change"]) == 3 and len(given) == 3
    qtbot.keyClick(grid, "Z")
    qtbot.keyClick(grid, "Z")
    assert given == {ids[2]: "stain"}, "one undo for one act"


def test_a_rubber_band_selects_what_it_touches(panel: ReviewPanel, qtbot: Any) -> None:
    grid = panel.contents.grid
    view, columns = grid.viewport(), grid.columns
    assert columns >= 3
    end = grid.tile(columns + 1).center()
    qtbot.mousePress(view, LEFT, pos=grid.tile(0).center())
    qtbot.mouseMove(view, pos=grid.tile(0).center() + QPoint(40, 40))
    qtbot.mouseMove(view, pos=end)
    qtbot.mouseRelease(view, LEFT, pos=end)
    assert grid.rows.tolist() == grid.numbers[[0, 1, columns, columns + 1]].tolist()
    # With Ctrl beside what is selected already.
    qtbot.mousePress(view, LEFT, CONTROL, grid.tile(2).center())
    qtbot.mouseMove(view, pos=grid.tile(columns + 2).center())
    qtbot.mouseRelease(view, LEFT, pos=grid.tile(columns + 2).center())
    assert grid.rows.tolist() == grid.numbers[[0, 1, 2, columns, columns + 1, columns + 2]].tolist()


def test_the_grid_follows_filter_and_order_and_opens_one(panel: ReviewPanel, qtbot: Any) -> None:
    grid, parts = panel.contents.grid, panel.contents
    parts.filters.order.setCurrentIndex(parts.filters.order.findData("worst"))
    scores = panel.queue.table.scores[grid.numbers]
    assert (np.diff(scores) >= 0).all() and len(scores) == 12
    click(qtbot, panel, 0)
    click(qtbot, panel, 5, SHIFT)
    parts.filters.high.setValue(40)
    qtbot.waitUntil(lambda: len(grid.numbers) < 12, timeout=2000)
    # What is not shown must not be decided on.
    assert grid.rows.tolist() == [panel.queue.row] and panel.queue.table.scores[panel.queue.row] <= 40
    qtbot.keyClick(grid, Qt.Key.Key_Home)
    qtbot.keyClick(grid, Qt.Key.Key_Right)
    assert panel.queue.at == 1, "the arrows move in the grid and take the review along"
    qtbot.keyClick(grid, Qt.Key.Key_Return)
    assert parts.views.isVisible() and not grid.isVisible() and panel.queue.at == 1
    assert parts.deciding.scope == "one"
    qtbot.keyClick(panel, "0")
    qtbot.mouseDClick(grid.viewport(), LEFT, NONE, grid.tile(3).center())
    assert parts.views.isVisible()


def test_thumbnails_show_the_change_in_its_image(panel: ReviewPanel, qtbot: Any) -> None:
    grid = panel.contents.grid
    qtbot.waitUntil(lambda: len(grid.thumbnails) == 12, timeout=20_000)
    change = panel.queue.current
    shown = grid.thumbnails.get(panel.queue.row).toImage().convertToFormat(QImage.Format.Format_RGB888)
    assert max(shown.width(), shown.height()) == grid.thumbnails.side
    # Its middle has the color of the copied nucleus.
    middle = shown.pixelColor(shown.width() // 2, shown.height() // 2)
    height, width = change.shape
    expected = change.pixels[height // 2 - 1 : height // 2 + 2, width // 2 - 1 : width // 2 + 2].mean((0, 1))
    np.testing.assert_allclose([middle.red(), middle.green(), middle.blue()], expected, atol=40)


def test_images_of_their_own_are_thumbnails_too(open_grid: Any, tmp_path: Any, qtbot: Any) -> None:
    panel = open_grid(make_class_study(tmp_path / "study"))
    grid = panel.contents.grid
    qtbot.waitUntil(lambda: len(grid.thumbnails) == 6, timeout=20_000)
    qtbot.keyClick(grid, Qt.Key.Key_A, CONTROL)
    qtbot.keyClick(grid, "1")
    assert len(panel.session.approved) == 6


def test_of_ten_thousand_only_those_in_sight_are_made(panel: ReviewPanel, qtbot: Any, monkeypatch: Any) -> None:
    grid, queue = panel.contents.grid, panel.queue
    asked: list[int] = []

    def job(_dataset: Any, changes: Any, side: int, _images: Any) -> Any:
        yield from ()
        asked.extend(row for row, _ in changes)
        return {row: QImage(side, side, QImage.Format.Format_RGB888) for row, _ in changes}

    monkeypatch.setattr("napari_histomix.widgets.review.grid.thumbnails_job", job)
    some = [panel.session.change_at(row) for row in range(12)]
    monkeypatch.setattr(panel.session, "change_at", lambda row: some[row % 12])
    queue.set_changes(Light([("image", ("donor", 1), 50.0, row) for row in range(10_000)]).table, str, {})
    grid.set_rows()
    grid.refresh()
    in_sight = (grid.viewport().height() // grid.cell + 2) * grid.columns
    qtbot.waitUntil(lambda: len(grid.thumbnails) >= in_sight - grid.columns, timeout=10_000)
    qtbot.wait(100)
    assert len(asked) <= in_sight + BATCH and grid.verticalScrollBar().maximum() > 10_000 / grid.columns * 2 * GAP
    qtbot.keyClick(grid, Qt.Key.Key_End)
    last = int(grid.numbers[-1])
    qtbot.waitUntil(lambda: grid.thumbnails.get(last) is not None, timeout=10_000)
    assert len(asked) <= 2 * (in_sight + BATCH)


def test_other_data_leave_nothing_selected(panel: ReviewPanel, qtbot: Any) -> None:
    grid, seen = panel.contents.grid, []
    grid.selection.changed.connect(lambda: seen.append(grid.rows.tolist()))
    click(qtbot, panel, 3)
    assert seen.pop() == [int(grid.numbers[3])]
    panel.session.take_opened(drain(open_job(sample_folder())))
    assert seen and not any(seen) and len(grid.numbers) == 0


@pytest.mark.parametrize("height", [560, 640])
def test_the_way_to_the_export_is_in_sight_below_the_grid(panel: ReviewPanel, height: int, qtbot: Any) -> None:
    panel.resize(420, height)
    qtbot.keyClick(panel.contents.grid, "A", CONTROL)
    qtbot.keyClick(panel.contents.grid, "A")
    export, area = panel.contents.export, panel.area.viewport()
    assert export.isVisible()
    qtbot.waitUntil(lambda: export.mapTo(area, QPoint(0, export.height())).y() <= area.height(), timeout=2_000)
    assert panel.contents.grid.height() >= LOWEST
