"""Splits in the Data step of a real window: proposed, changed by hand, found again when the study is opened."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox

from napari_histomix.widgets.splits_box import SPLIT

pytestmark = pytest.mark.gui


def test_splits_are_proposed_changed_and_found_again(with_study, open_dock, qtbot, settle):
    dock = with_study("searched")
    box, session = dock.data.splits, dock.session
    dock.open("project/data")
    box.toggle.click()
    qtbot.waitUntil(lambda: box.table.isVisible() and box.propose_button.height() > 10)
    assert box.model.rowCount() == 5
    assert all(box.splits_of[row] == ["train"] for row in range(5))

    with qtbot.waitSignal(session.splits_changed, timeout=60_000):
        qtbot.mouseClick(box.propose_button, Qt.MouseButton.LeftButton)
    assert {split for row in range(5) for split in box.splits_of[row]} == {"train", "val", "test"}
    assert "find them again" in box.warning.text()
    qtbot.waitUntil(lambda: not box.proposer.running)
    box.bar.run_button.click()
    qtbot.waitUntil(lambda: box.copies is not None, timeout=60_000)
    assert "No two images" in box.copies_note.text()

    # By mouse, in the table: a click on the split opens the list.
    at = next(row for row in range(5) if box.splits_of[row] == ["test"])
    index = box.model.index(at, SPLIT)
    box.table.scrollTo(index)
    place = box.table.visualRect(index).center()
    qtbot.mouseClick(box.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    editor = box.table.viewport().findChild(QComboBox)
    assert editor is not None
    with qtbot.waitSignal(session.splits_changed):
        editor.setCurrentText("val")
        editor.activated.emit(editor.currentIndex())
    assert box.splits_of[at] == ["val"]
    chosen = dict(session.splits)
    assert "test" not in chosen.values()
    study = session.study.folder

    again = open_dock()
    again.data.open_study(study)
    qtbot.waitUntil(lambda: again.session.image != "", timeout=60_000)
    settle(again)
    assert again.session.splits == chosen
    assert {one.source.image: one.source.split for one in again.session.dataset.entries} == chosen
    assert again.data.splits.splits_of[at] == ["val"]
    assert "val" in again.data.summary.text()
    # The first window still holds the study: here it can only be looked at.
    assert not again.data.splits.propose_button.isEnabled()
