"""The Generate dock in a real viewer, opened through the manifest: from layouts and brushes to an exported dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dock_pages import open_page
from generate_samples import image_model_folder
from napari.layers import Image
from qtpy.QtCore import QPoint, Qt
from scipy.io import loadmat

from napari_histomix.compositing.donors import dilate
from napari_histomix.widgets.generate.layout_layers import layout_of
from napari_histomix.widgets.viewer_layers import about, micrometers

pytestmark = pytest.mark.gui


def open_generate(viewer: Any) -> Any:
    """The Generate dock beside a canvas that is large enough to draw in."""
    viewer.window._qt_window.resize(1400, 1000)
    panel = open_page(viewer, "make/generate")
    return panel


def canvas_of(viewer: Any) -> Any:
    return viewer.window._qt_viewer.canvas.native


def on_canvas(viewer: Any, row: float, col: float) -> QPoint:
    """Where a pixel of an image of 0.5 µm/px is on the canvas."""
    camera, canvas = getattr(viewer, "scene", viewer).camera, canvas_of(viewer)
    x = canvas.width() / 2 + (0.5 * col - camera.center[2]) * camera.zoom
    y = canvas.height() / 2 + (0.5 * row - camera.center[1]) * camera.zoom
    return QPoint(round(x), round(y))


def brush(qtbot: Any, viewer: Any, *places: tuple[float, float]) -> None:
    """A stroke with the mouse."""
    first, *others = (on_canvas(viewer, *place) for place in places)
    qtbot.mousePress(canvas_of(viewer), Qt.MouseButton.LeftButton, pos=first)
    for point in others:
        qtbot.mouseMove(canvas_of(viewer), point)
    qtbot.mouseRelease(canvas_of(viewer), Qt.MouseButton.LeftButton, pos=others[-1])


def middle(mask: np.ndarray) -> tuple[int, int]:
    """The pixel that lies deepest in a mask."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)
    row, col = np.unravel_index(depth.argmax(), depth.shape)
    return int(row) - 1, int(col) - 1


def draw_where_free(qtbot: Any, viewer: Any, box: Any, kind: str) -> int:
    """Add a nucleus of a class where there is most room; its label."""
    box.kind.setCurrentIndex(box.kind.findData(kind))
    box.add_button.click()
    # Without a place of its own on the screen, the canvas takes no strokes.
    qtbot.wait(100)
    layer = box.layer
    row, col = middle(layer.data == 0)
    brush(qtbot, viewer, (row, col), (row + 1, col + 1))
    qtbot.waitUntil(box.delete_button.isEnabled)
    return int(box.selected)


def as_hovernet_reads(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, instance and type map, read and stacked as HoVer-Net's ``dataset.py`` and its loader do."""
    picture = cv2.cvtColor(cv2.imread(str(folder / "Images" / f"{name}.png")), cv2.COLOR_BGR2RGB)
    label = loadmat(folder / "Labels" / f"{name}.mat")
    patch = np.concatenate([picture, np.dstack([label["inst_map"], label["type_map"]]).astype("int32")], axis=-1)
    return patch[..., :3].astype("uint8"), patch[..., 3], patch[..., 4]


def test_from_layouts_to_an_export(
    with_sample: Any, settle: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same layout in every run of this test.
    monkeypatch.setattr("napari_histomix.widgets.generate.layout_box.HIGHEST_SEED", 1)
    dock = with_sample()
    session, viewer = dock.session, dock.real_viewer
    session.use_model(image_model_folder(tmp_path / "image"), "image")
    real = {layer: np.array(layer.data) for layer in viewer.layers}
    panel = open_generate(viewer)
    box, sampling = panel.edit_box, panel.layout_box

    # Real labels are copied before they are edited.
    own = panel.layout.layer
    own.selected_label = 1
    qtbot.waitUntil(box.delete_button.isEnabled)
    box.delete_button.click()
    assert panel.layout.layer is not own and 1 not in panel.layout.layer.data and not own.visible

    sampling.form.fields["side"].value = 64
    sampling.bar.run_button.click()
    qtbot.waitUntil(lambda: not sampling.sampler.busy, timeout=60_000)
    layer = panel.layout.layer
    assert layer.data.shape == (64, 64) and box.layer is layer and box.selected == 0
    qtbot.wait(100)
    number = int(np.bincount(layer.data.ravel())[1:].argmax()) + 1
    place = on_canvas(viewer, *middle(layer.data == number))
    qtbot.mouseClick(canvas_of(viewer), Qt.MouseButton.LeftButton, pos=place)
    qtbot.waitUntil(lambda: box.selected == number and box.delete_button.isEnabled())
    sampled = layer.data.copy()
    box.turn_buttons[0].click()
    assert number in layer.data and (layer.data != sampled).any()
    added = draw_where_free(qtbot, viewer, box, "lymphocyte")
    # Moved it is elsewhere, deleted it is gone, undone it is back.
    drawn = layer.data == added
    box.move_buttons[0].click()
    assert added in layer.data and ((layer.data == added) != drawn).any()
    box.delete_button.click()
    assert added not in layer.data
    for _ in range(2):
        box.undo_button.click()
    np.testing.assert_array_equal(layer.data == added, drawn)
    box.kind.setCurrentIndex(box.kind.findData("tumor"))
    box.kind.activated.emit(box.kind.currentIndex())
    layout = layout_of(layer, viewer.dims.point)
    assert layout.classes[added] == "tumor"

    panel.paint_form.preset.setCurrentIndex(0)
    panel.paint_bar.run_button.click()
    qtbot.waitUntil(lambda: not panel.runner.busy, timeout=120_000)
    assert panel.note.kind == "good", panel.note.text()
    image, nuclei = (viewer.layers[f"{layer.name} painted 1{what}"] for what in ("", " nuclei"))
    assert image.data.shape == (64, 64, 3) and about(image)["model"] == "tiny" and micrometers(nuclei) == 0.5
    np.testing.assert_array_equal(nuclei.data, layout.instances)
    assert layout_of(nuclei, viewer.dims.point).classes == layout.classes
    # What is edited afterwards is seen, and is not the pair that was painted.
    layer.selected_label = added
    qtbot.wait(20)
    box.delete_button.click()
    assert layer.visible and not image.visible and added in nuclei.data
    for each, data in real.items():
        np.testing.assert_array_equal(each.data, data)

    # The same as a method, whose layouts are vetted.
    session.choose_method("nudiff")
    dock.open("make/plan")
    page = dock.plan.page
    page.form.fields["side"].value, page.form.fields["layouts"].value = 64, 3
    page.progress.run_button.click()
    settle(dock)
    assert len(page.book) == 3 and page.words() == "3 of 3 to paint", page.note.text()
    shown = [each for each in viewer.layers if each.visible]
    page.select([0])
    page.edit_button.click()
    qtbot.waitUntil(lambda: page.layer is not None, timeout=20_000)
    qtbot.wait(100)
    added = draw_where_free(qtbot, viewer, page.edit_box, "lymphocyte")
    qtbot.waitUntil(lambda: page.book.facts(0).edited, timeout=5_000)
    vetted = page.book.read(0)
    assert vetted.classes[added] == "lymphocyte"
    # The next layout follows on the canvas; when it is closed, what was there before comes back.
    page.decide("keep")
    qtbot.waitUntil(lambda: page.layer is not None and page.layer.name == "layout 2 of the study", timeout=20_000)
    page.decide("drop")
    qtbot.waitUntil(lambda: page.layer.name == "layout 3 of the study", timeout=20_000)
    page.decide("drop")
    assert page.words() == "1 of 3 to paint"
    viewer.layers.remove(page.layer)
    assert [each for each in viewer.layers if each.visible] == shown

    dock.open("make/making")
    fields = dock.make.form.fields
    fields["count"].value, fields["preset"].value = 2, "fast"
    assert fields["model"].value == str(tmp_path / "image")
    dock.make.progress.run_button.click()
    settle(dock)
    assert len(session.table) == 2, dock.make.note.text()
    dock.open("review")
    settle(dock)
    dock.review.decide("reject")
    dock.review.undo()
    dock.review.decide("approve")
    settle(dock)
    dock.review.decide("reject")
    (approved,) = (number for number, decision in session.decisions["change"].items() if decision == "approve")
    dock.open("results/export")
    settle(dock)
    folder, name = dock.export._folder, session.change(approved).name
    dock.export.progress.run_button.click()
    settle(dock)
    assert dock.export.note.kind == "good", dock.export.note.text()

    names = {path.stem for path in (folder / "Images").glob("*.png")}
    assert names == {path.stem for path in (folder / "Labels").glob("*.mat")} == {*session.images, name}
    pixels, instances, types = as_hovernet_reads(folder, name)
    np.testing.assert_array_equal(instances, vetted.instances)
    np.testing.assert_array_equal(pixels, session.change(approved).pixels)
    numbers = {kind.name: kind.number for kind in session.dataset.classes}
    expected = {number: numbers[kind] for number, kind in vetted.classes.items()}
    assert {each: set(types[instances == each]) for each in expected} == {each: {expected[each]} for each in expected}
    assert not types[instances == 0].any()


def test_a_nucleus_is_drawn_with_the_mouse_and_painted(make_napari_viewer: Any, qtbot: Any, tmp_path: Path, heart: Any):
    from napari_histomix.widgets.loading_ahead import prepare_torch

    prepare_torch()
    viewer = make_napari_viewer(show=True)
    panel = open_generate(viewer)
    pixels = np.random.default_rng(0).integers(120, 250, (64, 64, 3)).astype(np.uint8)
    real = viewer.add_image(pixels, rgb=True, name="real", scale=(0.5, 0.5), units=("um", "um"))
    panel.paint_form.model.value = str(image_model_folder(tmp_path / "image"))
    panel.paint_form.preset.setCurrentIndex(0)
    panel.task.setCurrentIndex(1)
    qtbot.waitUntil(lambda: panel.image.layer is real)
    panel.edit_box.add_button.click()
    qtbot.wait(200)
    # A stroke outside the image draws nothing, and nothing is painted.
    brush(qtbot, viewer, (-8, 30), (-6, 31))
    panel.paint_bar.run_button.click()
    qtbot.waitUntil(lambda: not panel.runner.busy, timeout=60_000)
    assert panel.note.text().startswith("Nothing is drawn where there was no nucleus") and len(viewer.layers) == 2
    brush(qtbot, viewer, (30, 30), (31, 32))
    drawn = viewer.layers["real, what if nuclei"]
    qtbot.waitUntil(lambda: bool((drawn.data == 1).any()))
    assert drawn.data[30, 30] == 1 and not drawn.data[:20].any()

    ticks = heart.ticks
    panel.paint_bar.run_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=120_000)
    assert panel.note.kind == "good", panel.note.text()
    assert heart.ticks > ticks
    differs = (viewer.layers["real, what if"].data != pixels).any(-1)
    assert differs[30, 30] and not differs[~dilate(drawn.data == 1, 5)].any() and np.array_equal(real.data, pixels)
    # The window shows it, and a click selects the nucleus.
    drawn.mode = "pan_zoom"
    drawn.selected_label = 5
    qtbot.mouseClick(canvas_of(viewer), Qt.MouseButton.LeftButton, pos=on_canvas(viewer, 30, 30))
    qtbot.waitUntil(lambda: panel.edit_box.selected == 1)
    assert panel.minimumSizeHint().width() <= 360


def test_many_nuclei_of_a_class_lead_to_the_method(with_sample: Any, qtbot: Any) -> None:
    dock = with_sample()
    session, viewer = dock.session, dock.real_viewer
    panel = open_generate(viewer)
    panel.task.setCurrentIndex(1)
    panel.edit_box.kind.setCurrentIndex(panel.edit_box.kind.findData("stromal"))
    panel.many_button.click()
    assert session.method == "painted-nuclei" and session.rare == (session.dataset.class_number("stromal"),)
    assert dock.isVisible() and dock.current == "make"
    assert dock.plan.page.form.fields["rare"].value == ("stromal",)


def test_what_is_drawn_into_a_real_image_is_reviewed_and_exported(
    with_sample: Any, settle: Any, qtbot: Any, tmp_path: Path
) -> None:
    dock = with_sample()
    session, viewer = dock.session, dock.real_viewer
    session.use_model(image_model_folder(tmp_path / "image"), "image")
    panel = open_generate(viewer)
    panel.paint_form.preset.setCurrentIndex(0)
    panel.task.setCurrentIndex(1)
    qtbot.waitUntil(lambda: about(panel.image.layer).get("image") == session.image and panel.nuclei.layer is not None)
    draw_where_free(qtbot, viewer, panel.edit_box, "lymphocyte")
    assert panel.keep_box.isHidden()
    panel.paint_bar.run_button.click()
    qtbot.waitUntil(lambda: not panel.runner.busy, timeout=120_000)
    assert panel.note.kind == "good", panel.note.text()
    keeping = panel.keep_box
    assert keeping.bar.run_button.isVisible() and keeping.bar.run_button.isEnabled(), keeping.why.text()
    assert panel.minimumSizeHint().width() <= 360
    keeping.bar.run_button.click()
    qtbot.waitUntil(lambda: not keeping.runner.busy, timeout=60_000)
    assert keeping.note.text() == "1 nucleus is in the study, to be reviewed.", keeping.note.text()
    keeping.review_button.click()
    settle(dock)
    assert dock.current == "review" and dock.review.queue.id == 0 and not session.decisions["change"]
    # What was painted does not lie above what decisions change.
    shown = [layer for layer in viewer.layers if layer.visible and isinstance(layer, Image)]
    assert shown == [dock.data.book.layer(session.image, what) for what in ("image", "synthetic")]
    dock.review.decide("approve")
    settle(dock)
    dock.open("results/export")
    settle(dock)
    folder, change = dock.export._folder, session.change(0)
    dock.export.progress.run_button.click()
    settle(dock)
    assert dock.export.note.kind == "good", dock.export.note.text()
    (number,) = change.added
    names = [path.stem for path in (folder / "Images").glob("*.png")]
    read = [as_hovernet_reads(folder, name) for name in names if session.image in name]
    ((pixels, instances, types),) = [each for each in read if number in each[1]]
    kind = session.dataset.class_number("lymphocyte")
    assert set(types[instances == number]) == {kind}
    assert np.array_equal(pixels[change.window][change.origin != 0], change.pixels[change.origin != 0])
