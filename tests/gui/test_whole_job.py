"""The main job with the mouse and the keys, from the sample to an exported dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dock_pages import open_page
from napari.layers import Image, Labels, Points
from qtpy.QtCore import Qt

from napari_histomix.compositing.composing import compose, crop
from napari_histomix.widgets.camera import camera_of
from napari_histomix.widgets.dock import HistoMixDock

pytestmark = pytest.mark.gui


def press(dock: Any, key: str) -> None:
    """A key over the canvas, as napari's key handling sees it."""
    assert dock.real_viewer.window._qt_viewer._key_map_handler.press_key(key)


@pytest.fixture
def look_at(qtbot: Any, settle: Any) -> Callable[[Any, str], None]:
    """Have an image on the screen: only that has layers."""

    def shown(dock: Any, image: str) -> None:
        if dock.session.image != image:
            dock.session.show(image)
            qtbot.waitUntil(lambda: dock.session.image == image, timeout=20_000)
        settle(dock)

    return shown


def check_synthetic(dock: Any, image: str) -> None:
    """The layers of an image are its target with exactly the changes that were not rejected."""
    session, book = dock.session, dock.data.book
    expected = compose(session.dataset.read(image), session.changes_of(image)).image
    np.testing.assert_array_equal(book.layer(image, "synthetic").data, expected.pixels)
    np.testing.assert_array_equal(book.layer(image, "synthetic nuclei").data, expected.instances)


def images_of(session: Any) -> list[str]:
    """Names of the images with changes, one for each change."""
    return [session.change(number).image for number in session.table.ids.tolist()]


def test_from_the_sample_to_an_export(with_sample, settle, qtbot, tiny_model, heart, look_at) -> None:
    dock = with_sample(tiny_model)
    session, book, viewer = dock.session, dock.data.book, dock.real_viewer
    assert [one.state for one in dock.buttons.values()] == ["done", "open", "waiting", "waiting"]
    assert isinstance(book.layer(session.image, "image"), Image)
    assert isinstance(book.layer(session.image, "nuclei"), Labels)
    assert book.layer(session.image, "image").scale[0] == session.dataset.entry(session.image).mpp
    assert dock.data.classes.rare_boxes[session.rare[0]].isChecked()

    dock.open("make/plan")
    before = heart.ticks
    dock.plan.page.progress.run_button.click()
    assert not dock.plan.page.progress.run_button.isEnabled()
    assert dock.plan.page.progress.cancel_button.isEnabled()
    settle(dock)
    assert heart.ticks - before > 20
    assert dock.plan.page.progress.run_button.isEnabled()
    points = book.layer(session.image, "candidates")
    assert {"kind", "type", "log_likelihood", "percentile", "donor", "decision"} <= set(points.features.columns)
    assert "equally likely places" in dock.plan.page.draw.text()

    # A click in the table flies to the place, also in another image, and shows donor and target.
    elsewhere = next(one.rank for one in session.candidates.items if one.target.image != session.image)
    dock.plan.page.select([elsewhere])
    place = session.candidates.items[elsewhere].target
    qtbot.waitUntil(lambda: session.image == place.image, timeout=20_000)
    settle(dock)
    world = book.layer(place.image, "image").data_to_world((place.row, place.col))
    np.testing.assert_allclose(camera_of(viewer).center[-2:], world)
    side = dock.plan.page.target_view.pixels.shape[0]
    shown = crop(session.dataset.read(place.image).pixels, place.row, place.col, side)
    np.testing.assert_array_equal(dock.plan.page.target_view.pixels, shown)
    qtbot.waitUntil(lambda: dock.plan.page.donor_view.pixels is not None, timeout=20_000)
    shown = [layer for layer in viewer.layers if layer.visible and layer.metadata["histomix"]["image"] != place.image]
    assert shown == []

    # The best are shown, and a click on one over the tissue finds its row.
    points = book.layer(place.image, "candidates")
    dock.plan.page.extent.setCurrentIndex(1)
    settle(dock)
    assert (points.size > 0).all() and dock.plan.page.table.rowCount() == len(session.candidates.items)
    dock.plan.page.extent.setCurrentIndex(0)
    settle(dock)
    assert 0 < (points.size > 0).sum() <= 50 and dock.plan.page.table.rowCount() == 50
    some = int(np.flatnonzero(points.size)[0])
    assert book.dots.at(points.data_to_world(points.data[some])) == points.features["rank"].iloc[some]
    dock.plan.page.extent.setCurrentIndex(1)
    dock.plan.page.select([elsewhere])

    # Keep and drop by key and by button, several at once; undo and redo.
    press(dock, "K")
    assert session.decisions["candidate"] == {elsewhere: "keep"}
    dock.plan.page.select([1, 2, 3])
    dock.plan.page.drop_button.click()
    assert session.decided("drop") == len({1, 2, 3} - {elsewhere}) + (elsewhere in {1, 2, 3})
    press(dock, "U")
    assert session.decisions["candidate"] == {elsewhere: "keep"}
    press(dock, "Y")
    assert session.decided("drop") == len({1, 2, 3} - {elsewhere}) + (elsewhere in {1, 2, 3})
    dock.plan.page.undo_button.click()
    press(dock, "U")
    assert session.decisions["candidate"] == {}
    dock.plan.page.select([0])
    press(dock, "D")
    assert session.decisions["candidate"] == {0: "drop"}

    dock.open("make/making")
    dock.make.form.fields["count"].value = 4
    previews: list[tuple[int, ...]] = []
    dock.make.runner.progressed.connect(
        lambda event: previews.append(event.preview.shape) if event.preview is not None else None
    )
    before = heart.ticks
    dock.make.progress.run_button.click()
    settle(dock)
    assert heart.ticks - before > 20
    changes = [session.change(number) for number in session.table.ids.tolist()]
    assert len(changes) == 4, dock.make.note.text()
    dropped = session.candidates.items[0].target
    places = {(one.target.image, one.target.row, one.target.col) for one in changes}
    assert (dropped.image, dropped.row, dropped.col) not in places
    assert previews and all(shape[0] == shape[1] and shape[2] == 3 for shape in previews)
    images = {one.image for one in changes}
    # The synthetic image lies above the real one, and points above both, whichever came first.
    for image in images:
        look_at(dock, image)
        check_synthetic(dock, image)
        assert isinstance(book.layer(image, "changes"), Points)
        assert book.layer(image, "synthetic").scale[0] == session.dataset.entry(image).mpp
        names = [
            viewer.layers.index(book.layer(image, what)) for what in ("image", "synthetic", "candidates", "changes")
        ]
        assert names == sorted(names)

    # Review without the mouse.
    dock.open("review")
    settle(dock)
    first, second = dock.review.queue.table.ids[dock.review.queue.shown[:2]].tolist()
    assert dock.review.contents.counter.text() == "1 of 4 · 0 approved · 0 rejected"
    assert (dock.review.contents.views.before.pixels != dock.review.contents.views.after.pixels).any()
    press(dock, "A")
    assert dock.review.current.id == second
    press(dock, "R")
    assert dock.review.contents.counter.text() == "3 of 4 · 1 approved · 1 rejected"
    change = session.change(second)
    image, (instance,) = change.image, change.added
    look_at(dock, image)
    check_synthetic(dock, image)
    target = session.dataset.read(image)
    window, changed = change.window, change.origin > 0
    np.testing.assert_array_equal(book.layer(image, "synthetic").data[window][changed], target.pixels[window][changed])
    assert not (book.layer(image, "synthetic nuclei").data == instance).any()
    press(dock, "U")
    look_at(dock, image)
    check_synthetic(dock, image)
    assert (book.layer(image, "synthetic nuclei").data == instance).any()
    assert dock.review.current.id == second
    press(dock, "Left")
    assert dock.review.current.id == first
    press(dock, "Right")
    press(dock, "R")
    assert session.decisions["change"] == {first: "approve", second: "reject"}

    dock.open("results/export")
    assert "1 approved" in dock.export.summary.text()
    assert not dock.export.progress.run_button.isEnabled()
    settle(dock)
    assert dock.export.plan.synthetic == 1 and "files, about" in dock.export.figures.text()
    folder = dock.export._folder
    dock.export.progress.run_button.click()
    settle(dock)
    assert dock.export.note.kind == "good", dock.export.note.text()
    assert dock.export.chart.isVisibleTo(dock.export) and dock.export.chart.pixels is not None
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["changes"]) == 1
    assert len(list((folder / "Images").glob("*.png"))) == len(session.images)


def test_keys_work_in_the_panel_too(with_changes, qtbot) -> None:
    dock = with_changes()
    shortcuts = {one.key().toString(): one for one in dock.review.findChildren(_shortcut_class())}
    assert {*"AR1234UZYBVWOMXSTCHLNKPFDQEIGJ", "Ctrl+Z", "Ctrl+Shift+Z", "Left", "Right"} <= set(shortcuts)
    whole_window = {key for key, one in shortcuts.items() if one.context() == Qt.ShortcutContext.WindowShortcut}
    # Signs that need Shift on some keyboards, which napari cannot tell apart over the canvas.
    assert whole_window == {"?", "+"}
    # Held down, the arrows go on; a decision is made once.
    assert {key for key in ("A", "1", "Z", "Left", "Right") if shortcuts[key].autoRepeat()} == {"Left", "Right"}
    shortcuts["A"].activated.emit()
    assert dock.session.decided("approve") == 1
    shortcuts["B"].activated.emit()
    assert dock.review.contents.views.mode == "blink" and not dock.review.contents.views.before.isVisible()


def _shortcut_class() -> Any:
    from qtpy.QtGui import QShortcut

    return QShortcut


def test_keys_win_over_the_selected_layer_and_are_given_back(with_changes) -> None:
    dock = with_changes()
    viewer, session = dock.real_viewer, dock.session
    layer = dock.data.book.layer(session.image, "changes")
    viewer.layers.selection.active = layer
    before = layer.selected_data
    press(dock, "A")
    assert session.decided("approve") == 1
    assert layer.selected_data == before
    dock.open("project/data")
    press(dock, "A")
    assert session.decided("approve") == 1
    assert len(layer.selected_data) == len(layer.data)


def test_a_study_brings_everything_back(with_changes, open_dock, settle, qtbot, look_at) -> None:
    dock = with_changes()
    press(dock, "A")
    press(dock, "R")
    folder, image = dock.session.study_folder, dock.session.image
    numbers = dock.session.table.ids.tolist()
    decisions = dict(dock.session.decisions["change"])
    # As long as one window holds the study, another can only look at it.
    dock.session.study.let_go()
    again = open_dock()
    again.data.open_study(folder)
    qtbot.waitUntil(lambda: again.session.image != "", timeout=60_000)
    settle(again)
    session = again.session
    assert session.table.ids.tolist() == numbers
    assert session.decisions["change"] == decisions
    assert (session.rare, session.major) == (dock.session.rare, dock.session.major)
    assert len(session.candidates.items) == len(dock.session.candidates.items)
    for image in images_of(session):
        look_at(again, image)
        check_synthetic(again, image)
    again.open("review")
    press(again, "U")
    assert session.decided("reject") == 0
    assert image
    assert len(dock.session.decisions["change"]) == 2


def test_synthetic_layers_come_with_their_image(with_study, look_at) -> None:
    dock = with_study("made")
    session, book = dock.session, dock.data.book
    targets = list(dict.fromkeys(images_of(session)))
    assert len(targets) > 1
    made = [name for name in targets if book.layer(name, "synthetic")]
    assert len(made) <= 1
    other = next(name for name in targets if name not in made)
    look_at(dock, other)
    check_synthetic(dock, other)
    assert book.layer(other, "synthetic").visible
    assert len(book.layer(other, "changes").data) == 2 * len(session.changes_of(other))


def test_images_one_after_the_other_share_layers(with_study, look_at) -> None:
    dock = with_study("made")
    session, book, viewer = dock.session, dock.data.book, dock.real_viewer
    targets = set(images_of(session))
    names = [*session.images, *session.images[:2]]
    assert len(session.images) > 3 and len(targets) > 1
    most = 0
    for name in names:
        look_at(dock, name)
        most = max(most, len(viewer.layers))
        assert {one.name for one in viewer.layers if one.visible} >= {name, f"{name} nuclei"}
        assert not book.layer(name, "candidates").visible, "they are seen on their own page"
        assert all(one.metadata["histomix"]["image"] == name for one in viewer.layers if one.visible)
        target = session.dataset.read(name)
        np.testing.assert_array_equal(book.layer(name, "image").data, target.pixels)
        np.testing.assert_array_equal(book.layer(name, "nuclei").data, target.instances)
        here = [one for one in session.candidates.items if one.target.image == name]
        assert len(book.layer(name, "candidates").data) == len(here)
        if name in targets:
            check_synthetic(dock, name)
            assert book.layer(name, "synthetic").visible
            assert len(book.layer(name, "changes").data) == 2 * len(session.changes_of(name))
        else:
            assert book.layer(name, "synthetic") is None
    assert most <= 6


def test_open_sample_from_the_file_menu(make_napari_viewer, qtbot, settle, tmp_path) -> None:
    from napari_histomix.widgets.session import session_of

    viewer = make_napari_viewer(show=True)
    session_of(viewer).home = tmp_path
    viewer.open_sample("napari-histomix", "sample")
    dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")[1]
    session = session_of(viewer)
    qtbot.waitUntil(lambda: session.image != "", timeout=60_000)
    settle(dock)
    shown = [session.image, f"{session.image} nuclei", f"{session.image} candidates"]
    assert [layer.name for layer in viewer.layers] == shown
    assert len(viewer.layers[2].data) == 0  # there for the search to fill
    assert viewer.layers.selection.active is viewer.layers[0]


@pytest.mark.parametrize("page", ["make/making", "review", "results/export"])
def test_every_page_says_what_comes_first_and_leads_there(make_napari_viewer, qtbot, page) -> None:
    viewer = make_napari_viewer(show=True)
    panel = open_page(viewer, page)
    dock = panel.window().findChild(HistoMixDock)
    qtbot.waitUntil(panel.isVisible, timeout=5000)
    assert panel.empty.isVisible() and "first" in panel.empty.text()
    panel.empty.lead.click()
    assert dock.current != page.split("/")[0]
