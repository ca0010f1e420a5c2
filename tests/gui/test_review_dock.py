"""The Review dock in a real window, with real key presses and mouse drags, over the canvas and in the dock."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Points
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QShortcut
from qtpy.QtWidgets import QLabel, QPushButton
from review_samples import make_class_study, make_review_study

from napari_histomix import jobs, load_sample
from napari_histomix.compositing.composing import compose
from napari_histomix.methods.edge_pix2pix import EdgePix2PixSettings
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.widgets.camera import camera_of
from napari_histomix.widgets.layer_making import RING_WIDTH, center

pytestmark = pytest.mark.gui


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: Any) -> Path:
    """A study with twelve synthetic nuclei."""
    return make_review_study(tmp_path_factory.mktemp("twelve") / "study").folder


@pytest.fixture
def review(twelve: Path, open_dock: Any, settle: Any, qtbot: Any) -> Any:
    """The dock with twelve synthetic nuclei under review; the window has the keyboard."""
    dock = open_dock()
    window = dock.real_viewer.window._qt_window
    window.resize(1500, 1000)
    folder = dock.session.home / "study"
    shutil.copytree(twelve, folder)
    dock.data.open_study(folder)
    qtbot.waitUntil(lambda: dock.session.image != "", timeout=60_000)
    dock.open("review")
    settle(dock)
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow, timeout=5000)
    dock.folder = folder
    return dock


@pytest.fixture
def type_keys(qtbot: Any) -> Callable[..., None]:
    """Press keys over the canvas, one after the other."""

    def pressed(dock: Any, *keys: Any) -> None:
        canvas = dock.real_viewer.window._qt_viewer.canvas.native
        for key in keys:
            code, modifier = key if isinstance(key, tuple) else (key, Qt.KeyboardModifier.NoModifier)
            canvas.setFocus()
            qtbot.keyClick(canvas, code, modifier)
            qtbot.wait(30)

    return pressed


CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
LEFT, RIGHT = Qt.Key.Key_Left, Qt.Key.Key_Right


def check_layers(dock: Any, image: str, qtbot: Any, settle: Any) -> None:
    """The synthetic layers of an image, once it is on the screen, hold exactly what was not taken out."""
    session, book = dock.session, dock.data.book
    if session.image != image:
        session.show(image)
        qtbot.waitUntil(lambda: session.image == image, timeout=20_000)
    settle(dock)
    expected = compose(session.dataset.read(image), session.changes_of(image)).image
    np.testing.assert_array_equal(book.layer(image, "synthetic").data, expected.pixels)
    np.testing.assert_array_equal(book.layer(image, "synthetic nuclei").data, expected.instances)


def test_everything_over_the_canvas_with_keys_alone(review, type_keys, qtbot, settle) -> None:
    panel, parts = review.review, review.review.contents
    ids = panel.queue.table.ids[panel.queue.shown].tolist()
    image = panel.current.image
    type_keys(review, "1", "S", "T", "2", "4", "3")
    decided = {ids[0]: "approve", ids[1]: "reject", ids[2]: "delete"}
    assert Study.open(review.folder).decisions("change") == decided
    assert Study.open(review.folder).decisions("change reasons") == {ids[1]: "seam, stain"}
    check_layers(review, image, qtbot, settle)
    settle(review)
    # The ring of a deleted nucleus is not to be seen.
    rings = review.data.book.layer(image, "changes")
    hidden = rings.features["number"].to_numpy()[rings.border_color[:, 3] == 0]
    assert hidden.tolist() == [ids[2]] * 2, "and its halo neither"
    type_keys(review, "Z", ("Z", CONTROL), "U", "U")
    assert Study.open(review.folder).decisions("change") == {ids[0]: "approve"}
    type_keys(review, "Y", "Y", ("Z", CONTROL | SHIFT), "Y")
    assert Study.open(review.folder).decisions("change") == decided
    check_layers(review, image, qtbot, settle)

    type_keys(review, Qt.Key.Key_Home)
    assert panel.queue.id == ids[0]
    type_keys(review, RIGHT, RIGHT, LEFT)
    assert panel.queue.id == ids[1]
    type_keys(review, "J")
    assert panel.queue.id == ids[3]
    type_keys(review, "W", (LEFT, SHIFT), (LEFT, SHIFT))
    assert parts.views.mode == "swipe" and parts.views.divider == pytest.approx(0.4)
    type_keys(review, "B")
    assert parts.views.mode == "blink"
    type_keys(review, "V", "+", "=", "-", "O", "M")
    assert (parts.views.mode, parts.views.factor) == ("side", 6)
    assert parts.views.origin.isChecked() and parts.views.smooth.isChecked()
    image = review.session.image
    type_keys(review, "X")
    settle(review)
    assert not review.data.book.layer(image, "synthetic").visible
    type_keys(review, "X")
    settle(review)
    assert review.data.book.layer(image, "synthetic").visible

    type_keys(review, "?")
    assert panel.sheet.isVisible()
    type_keys(review, Qt.Key.Key_F1)
    assert not panel.sheet.isVisible()

    # A note: the keys are letters until Enter gives them back.
    type_keys(review, "N")
    qtbot.keyClicks(parts.details.note, "1 of 4: Aschoff?")
    qtbot.keyClick(parts.details.note, Qt.Key.Key_Return)
    assert Study.open(review.folder).decisions("change note") == {ids[3]: "1 of 4: Aschoff?"}
    qtbot.waitUntil(panel.hasFocus, timeout=2000)
    qtbot.keyClick(panel, "A")
    assert Study.open(review.folder).decisions("change")[ids[3]] == "approve"


def test_everything_in_the_dock_with_keys_alone(review, qtbot) -> None:
    panel, parts = review.review, review.review.contents
    panel.setFocus()
    qtbot.keyClick(panel, "F")
    assert parts.filters.is_open and parts.filters.decision.hasFocus()
    qtbot.keyClick(parts.filters.decision, Qt.Key.Key_Down)
    assert parts.filters.decision.currentData() == "undecided"
    qtbot.keyClick(parts.filters.decision, Qt.Key.Key_Tab)
    assert parts.filters.kind.hasFocus()
    # A number that is typed is no decision.
    parts.filters.low.setFocus()
    parts.filters.low.selectAll()
    qtbot.keyClicks(parts.filters.low, "41")
    qtbot.waitUntil(lambda: len(panel.queue) < 12, timeout=2000)
    assert not review.session.decisions["change"]
    count = len(panel.queue)
    qtbot.keyClick(parts.filters.low, Qt.Key.Key_Escape)
    qtbot.waitUntil(panel.hasFocus, timeout=2000)
    qtbot.keyClick(panel, "G")
    assert parts.deciding.buttons["reject"].text() == f"Reject {count} (R, 2)"
    qtbot.keyClick(panel, "2")
    assert list(Study.open(review.folder).decisions("change").values()) == ["reject"] * count
    assert len(panel.queue) == 0
    qtbot.keyClick(panel, "Z", CONTROL)
    assert Study.open(review.folder).decisions("change") == {} and len(panel.queue) == count
    qtbot.keyClick(panel, "Z", CONTROL | SHIFT)
    assert len(Study.open(review.folder).decisions("change")) == count
    qtbot.keyClick(panel, "D")
    qtbot.keyClick(panel, "Q")
    assert parts.donors.is_open and parts.summary.is_open
    qtbot.keyClick(panel, "I")
    qtbot.keyClick(panel, Qt.Key.Key_Escape)
    qtbot.keyClick(panel, Qt.Key.Key_Escape)
    assert parts.deciding.scope == "one"
    qtbot.keyClick(panel, "?")
    assert panel.sheet.isVisible()
    qtbot.keyClick(panel, Qt.Key.Key_Escape)
    assert not panel.sheet.isVisible()


def test_the_keys_are_given_back(review, type_keys, qtbot) -> None:
    viewer, image = review.real_viewer, review.session.image
    labels = review.data.book.layer(image, "nuclei")
    viewer.layers.selection.active = labels
    before = labels.data.copy()
    type_keys(review, "1", "2", ("Z", CONTROL))
    assert len(review.session.decisions["change"]) == 1 and str(labels.mode) == "pan_zoom"
    review.open("project/data")
    type_keys(review, "1", "A", "R")
    assert len(review.session.decisions["change"]) == 1 and str(labels.mode) == "erase"
    # napari's own undo works on its layer again.
    labels.data_setitem(np.nonzero(before == 0), 0, refresh=False)
    labels.data_setitem((np.array([0]), np.array([0])), 77)
    assert labels.data[0, 0] == 77
    type_keys(review, ("Z", CONTROL))
    assert labels.data[0, 0] == 0 and len(review.session.decisions["change"]) == 1
    alive = [one.key().toString() for one in review.review.findChildren(QShortcut) if one.parent().isVisible()]
    assert alive == []


def test_a_whole_image_at_once(review, type_keys, settle, qtbot) -> None:
    panel, session, viewer = review.review, review.session, review.real_viewer
    image = panel.current.image
    near = camera_of(viewer).zoom
    type_keys(review, "I")
    settle(review)
    layer = review.data.book.layer(image, "image")
    low, high = (corner[-2:] for corner in layer.extent.world)
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (low + high) / 2)
    assert camera_of(viewer).zoom < near
    height, width = viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size
    shown = np.array([height, width]) / camera_of(viewer).zoom
    assert (shown >= high - low).all()
    rings = review.data.book.layer(image, "changes")
    assert isinstance(rings, Points)
    thick = rings.features["number"].to_numpy()[~rings.features["halo"] & (rings.border_width > 2 * RING_WIDTH)]
    assert thick.tolist() == [panel.queue.id]
    # Where a person goes in the image, they stay, from nucleus to nucleus.
    camera_of(viewer).zoom *= 2
    zoom = camera_of(viewer).zoom
    type_keys(review, RIGHT)
    assert camera_of(viewer).zoom == zoom
    here = [change.id for change in session.changes_of(image)]
    type_keys(review, "1")
    assert session.decisions["change"] == dict.fromkeys(here, "approve")
    settle(review)
    assert session.image != image and session.image == panel.current.image
    type_keys(review, "Z", "E")
    settle(review)
    assert session.decisions["change"] == {} and session.image == image
    world = review.data.book.layer(image, "image").data_to_world(center(panel.current))
    np.testing.assert_allclose(camera_of(viewer).center[-2:], world)


def test_the_divider_is_dragged_with_the_mouse(review, qtbot) -> None:
    parts = review.review.contents
    qtbot.mouseClick(parts.views.modes["swipe"], Qt.MouseButton.LeftButton)
    view = parts.views.after
    qtbot.waitUntil(lambda: view.width() > 300, timeout=2000)
    qtbot.mousePress(view, Qt.MouseButton.LeftButton, pos=QPoint(20, 50))
    qtbot.mouseMove(view, QPoint(view.width() // 4, 60))
    qtbot.mouseRelease(view, Qt.MouseButton.LeftButton, pos=QPoint(view.width() // 4, 60))
    assert parts.views.divider == pytest.approx(0.25, abs=0.02)


def test_nothing_is_cut_off_at_the_usual_width(review, settle, qtbot) -> None:
    panel, parts = review.review, review.review.contents
    for section in (parts.filters, parts.list, parts.donors, parts.compare, parts.summary):
        section.toggle.setChecked(True)
    parts.filters.order.setCurrentIndex(parts.filters.order.findData("random"))
    panel.decide("approve")
    parts.deciding.set_scope("shown")
    qtbot.wait(300)
    assert panel.width() <= 440
    assert panel.area.widget().minimumSizeHint().width() <= panel.area.viewport().width()
    for button in panel.findChildren(QPushButton):
        if button.isVisible():
            assert button.fontMetrics().horizontalAdvance(button.text()) <= button.width(), button.text()
    for label in panel.findChildren(QLabel):
        if label.isVisible() and not label.wordWrap():
            assert label.fontMetrics().horizontalAdvance(label.text()) <= label.width() + 1, label.text()
    parts.deciding.set_scope("one")
    panel.toggle_keys()
    qtbot.wait(50)
    assert panel.sheet.widget().minimumSizeHint().width() <= panel.sheet.viewport().width()


def test_images_with_a_class_under_review(open_dock, settle, qtbot, tmp_path, type_keys) -> None:
    dock = open_dock()
    window = dock.real_viewer.window._qt_window
    window.resize(1500, 1000)
    folder = make_class_study(tmp_path / "study").folder
    dock.data.open_study(folder)
    qtbot.waitUntil(lambda: dock.session.image != "", timeout=60_000)
    dock.open("review")
    settle(dock)
    session, panel, book = dock.session, dock.review, dock.data.book
    assert session.image == panel.current.name
    layer = book.layer(session.image, "synthetic")
    assert layer.visible and layer.metadata["histomix"]["synthetic"] is True
    np.testing.assert_array_equal(layer.data, panel.current.pixels)
    type_keys(dock, "1", "S", "2")
    assert Study.open(folder).decisions("change") == {0: "approve", 1: "reject"}
    settle(dock)
    assert session.image == panel.current.name and book.layer(session.image, "synthetic") is layer
    np.testing.assert_array_equal(layer.data, panel.current.pixels)
    type_keys(dock, "X")
    settle(dock)
    assert not book.layer(session.image, "synthetic").visible and book.layer(session.image, "image").visible


def test_new_images_are_reviewed_with_their_nuclei_beside_where_the_labels_are_from(
    open_dock: Any, settle: Any, qtbot: Any, tmp_path: Path, type_keys: Any, small_pix2pix_folder: Path
) -> None:
    data = load_sample()
    study = Study.create(tmp_path / "study", data.root, data.name)
    settings = EdgePix2PixSettings(count=2, side=96, model=str(small_pix2pix_folder), device="cpu")
    drain(jobs.run("edge-pix2pix", data, settings, study))
    dock = open_dock()
    dock.data.open_study(study.folder)
    qtbot.waitUntil(lambda: dock.session.image != "", timeout=60_000)
    dock.open("review")
    settle(dock)
    session, panel, book = dock.session, dock.review, dock.data.book
    change = panel.current
    assert session.image == change.name and change.image == "" and panel.contents.shows
    painted, nuclei = (book.layer(change.name, what) for what in ("synthetic", "synthetic nuclei"))
    np.testing.assert_array_equal(painted.data, change.pixels)
    np.testing.assert_array_equal(nuclei.data, change.labels)
    assert painted.scale.tolist() == pytest.approx([change.provenance["mpp"]] * 2)
    panel.contents.donors.open()
    qtbot.waitUntil(lambda: panel.contents.donors.donor.caption == f"Labels of: {change.sources[0].image}")
    type_keys(dock, "1", "2")
    assert Study.open(study.folder).decisions("change") == {0: "approve", 1: "reject"}


def test_while_a_layer_is_painted_keys_are_naparis(review, type_keys) -> None:
    viewer, session = review.real_viewer, review.session
    labels = review.data.book.layer(session.image, "nuclei")
    type_keys(review, "1")
    viewer.layers.selection.active = labels
    labels.mode = "paint"
    labels.data_setitem((np.array([0]), np.array([0])), 77)
    type_keys(review, ("Z", CONTROL), "A", "R")
    assert labels.data[0, 0] != 77, "the stroke is taken back"
    assert len(session.decisions["change"]) == 1, "and no decision is made or taken back"
    badge = review.review.badge
    assert badge.isVisible() and labels.name in badge.words and "napari" in badge.words
    labels.mode = "pan_zoom"
    type_keys(review, ("Z", CONTROL))
    assert badge.words == "⌨ Keys: Review"
    assert not session.decisions["change"]


def test_nothing_is_decided_that_there_is_no_room_to_see(review, type_keys, qtbot) -> None:
    review.setMaximumHeight(190)
    qtbot.waitUntil(lambda: review.review.height() < 240)
    type_keys(review, "A")
    assert not review.session.decisions["change"] and "higher" in review.review.contents.note.text()
    review.setMaximumHeight(2000)
    qtbot.waitUntil(lambda: review.review.height() > 240)
    type_keys(review, "A")
    assert len(review.session.decisions["change"]) == 1
