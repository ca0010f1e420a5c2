"""Layers that are open in napari become a dataset: with their classes, their scale, and no synthetic ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel

from napari_histomix.datasets import open_any
from napari_histomix.records import drain
from napari_histomix.widgets import viewer_layers
from napari_histomix.widgets.camera import camera_of
from napari_histomix.widgets.loading import open_job
from napari_histomix.widgets.open_layers_panel import OpenLayersPanel
from napari_histomix.widgets.session import Session


@pytest.fixture
def panel(qtbot, tmp_path, labeled_image):
    viewer, session = ViewerModel(), Session(home=tmp_path / "home")
    made = OpenLayersPanel(viewer, session)
    qtbot.addWidget(made)
    image = labeled_image(6, seed=1)
    viewer.add_image(image.pixels, rgb=True, name="slide 1/a")
    ids = sorted(image.types)
    features = pd.DataFrame({"index": ids, "kind": [f"class {image.types[one]}" for one in ids]})
    viewer.add_labels(image.instances, name="nuclei", features=features)
    made.truth = image
    yield made
    session.release()


def test_the_dataset_has_the_pixels_nuclei_classes_and_scale_of_the_layers(panel, qtbot) -> None:
    assert not panel.progress.run_button.isEnabled() and "µm" in panel.why.text()
    panel.scale.setValue(0.5)
    panel.column_choice.setCurrentIndex(panel.column_choice.findData("kind"))
    with qtbot.waitSignal(panel.written, timeout=20_000) as written:
        panel.progress.run_button.click()
    dataset = open_any(written.args[0])
    (entry,) = dataset.entries
    read = dataset.read(entry)
    np.testing.assert_array_equal(read.pixels, panel.truth.pixels)
    np.testing.assert_array_equal(read.instances > 0, panel.truth.instances > 0)
    assert read.mpp == 0.5 and len(read.types) == len(panel.truth.types)
    expected = {f"class {number}": count for number, count in panel.truth.counts().items()}
    assert {dataset.class_name(number): count for number, count in read.counts().items()} == expected


@pytest.mark.parametrize("background", [True, False])
def test_a_table_without_ids_has_a_row_for_each_label_with_or_without_the_background(panel, qtbot, background) -> None:
    truth = panel.truth
    assert sorted(truth.types) == [*range(1, max(truth.types) + 1)]
    last = max(truth.types)
    kinds = {number: f"class {kind}" for number, kind in truth.types.items()} | {last: None}
    rows = [*(["background"] if background else []), *(kinds[number] for number in sorted(kinds))]
    labels = panel.viewer.add_labels(truth.instances, name="measured", features=pd.DataFrame({"kind": rows}))
    panel.labels.choose(labels)
    panel.scale.setValue(0.5)
    panel.column_choice.setCurrentIndex(panel.column_choice.findData("kind"))
    with qtbot.waitSignal(panel.written, timeout=20_000) as written:
        panel.progress.run_button.click()
    dataset = open_any(written.args[0])
    read = dataset.read(dataset.entries[0])
    for number, kind in kinds.items():
        (made,) = set(read.instances[truth.instances == number].tolist())
        assert dataset.class_name(read.types[made]) == (kind or "nucleus")


def test_a_column_of_classes_is_chosen_once_and_what_a_person_chooses_stays(panel) -> None:
    choice, labels = panel.column_choice, panel.viewer.layers["nuclei"]
    assert choice.currentData() == "", "kind may be anything"
    features = labels.features.assign(Cell_Type=labels.features["kind"], area=0.5)
    panel.viewer.add_labels(labels.data, name="typed", features=features)
    panel.labels.choose(panel.viewer.layers["typed"])
    assert choice.currentData() == "Cell_Type"
    choice.setCurrentIndex(0)
    panel.scale.setValue(0.5)
    assert choice.currentData() == "", "not chosen again"


def test_real_layers_are_offered_before_synthetic_ones_above_them(qtbot, tmp_path, labeled_image) -> None:
    viewer, session, image = ViewerModel(), Session(home=tmp_path / "home"), labeled_image(6, seed=1)
    for name, about in (("real", {}), ("synthetic", {"histomix": {"synthetic": True}})):
        viewer.add_image(image.pixels, rgb=True, name=name, metadata=about)
        viewer.add_labels(image.instances, name=f"{name} nuclei", metadata=about)
    made = OpenLayersPanel(viewer, session)
    qtbot.addWidget(made)
    assert (made.image.layer.name, made.labels.layer.name) == ("real", "real nuclei")
    session.release()


def test_what_cannot_be_a_dataset_is_one_sentence(panel, qtbot) -> None:
    panel.scale.setValue(0.5)
    panel.viewer.layers["nuclei"].data = np.zeros((7, 9), int)
    with qtbot.waitSignal(panel.runner.failed, timeout=20_000):
        panel.progress.run_button.click()
    assert "9×7" in panel.note.text() and not panel.session.home.exists()
    panel.image.layer.metadata = {"histomix": {"synthetic": True}}
    panel._update()
    assert "synthetic" in panel.why.text() and not panel.progress.run_button.isEnabled()


def drag(panel, *places) -> None:
    """Press the mouse at the first place (world coordinates), move it over the others, and let it go."""
    at = SimpleNamespace(type="mouse_press", position=places[0], view_direction=None, dims_displayed=[0, 1], button=1)
    at.pos = (0, 0)
    (callback,) = panel.viewer.mouse_drag_callbacks[1:]
    running = callback(panel.viewer, at)
    next(running)
    for at.position in places[1:]:
        at.type = "mouse_move"
        next(running)
    at.type = "mouse_release"
    assert next(running, None) is None


def middle(image, label: int) -> tuple[float, float]:
    return tuple(np.argwhere(image.instances == label)[len(np.argwhere(image.instances == label)) // 2].tolist())


def test_classes_are_given_by_clicking_and_dragging(panel, qtbot) -> None:
    viewer, brush, image = panel.viewer, panel.brush, panel.truth
    panel.scale.setValue(0.5)
    assert not brush.button.isEnabled() and "type the name" in brush.button.toolTip()
    brush.kind.setEditText("tumor cell")
    brush.button.click()
    assert brush.on and camera_of(viewer).mouse_pan is False
    # What has a class is filled, all else an outline.
    assert viewer.layers["nuclei"].contour == 1
    places = {label: middle(image, label) for label in image.types}
    one, two, three, *_ = places
    drag(panel, places[one])
    drag(panel, places[two])
    brush.kind.setEditText("lymphocyte")
    drag(panel, places[three])
    assert brush.given == {one: "tumor cell", two: "tumor cell", three: "lymphocyte"}
    assert brush.counts.text() == "2 tumor cell, 1 lymphocyte"
    colors = viewer.layers["nuclei classes"]
    shown = {label: tuple(colors.colormap.map(colors.data[places[label]]).round(3)) for label in (one, two, three)}
    assert shown[one] == shown[two] != shown[three] and colors.data[places[max(places)]] == 0
    np.testing.assert_array_equal(colors.data == colors.data[places[three]], image.instances == three)
    brush.undo_button.click()
    assert three not in brush.given and colors.data[places[three]] == 0
    drag(panel, places[three])
    # Escape ends it, over the image as in the panel; the mouse moves the image again.
    next(call for key, call in viewer.keymap.items() if str(key) == "Escape")(viewer)
    assert (
        not brush.on
        and viewer.layers["nuclei"].contour == 0
        and camera_of(viewer).mouse_pan
        and len(viewer.mouse_drag_callbacks) == 1
    )
    with qtbot.waitSignal(panel.written, timeout=20_000) as written:
        panel.progress.run_button.click()
    read = open_any(written.args[0])
    counts = {read.class_name(number): count for number, count in read.read(read.entries[0]).counts().items()}
    assert counts == {"tumor cell": 2, "lymphocyte": 1, "unclassified": len(image.types) - 3}
    assert "nuclei classes" not in viewer.layers
    np.testing.assert_array_equal(viewer.layers["nuclei"].data, image.instances)


def test_a_fast_drag_gives_what_lies_on_its_way_and_ctrl_z_takes_it_back(panel) -> None:
    brush, image = panel.brush, panel.truth
    brush.kind.setEditText("tumor cell")
    brush.button.click()
    label = next(iter(image.types))
    row, _ = middle(image, label)
    # The mouse is heard of only on both sides of the nucleus, the second time outside of the image.
    drag(panel, (row, -5), (row, image.instances.shape[1] + 5))
    on_the_way = set(np.unique(image.instances[row]).tolist()) - {0}
    assert label in on_the_way and set(brush.given) == on_the_way
    # A click beside all nuclei, and one on a nucleus that has the class, give nothing to be taken back.
    drag(panel, (-5, -5))
    drag(panel, middle(image, label))
    next(call for key, call in panel.viewer.keymap.items() if str(key) == "Ctrl+Z")(panel.viewer)
    assert not brush.given and brush.on and brush.undo_button.isHidden()
    brush.end()
    assert not any(str(key) == "Ctrl+Z" for key in panel.viewer.keymap)


def test_a_coarser_level_of_a_pyramid_has_the_scale_of_its_own_pixels(panel, qtbot, monkeypatch) -> None:
    truth = panel.truth
    levels = [np.repeat(np.repeat(truth.pixels, 2, axis=0), 2, axis=1), truth.pixels]
    monkeypatch.setattr(viewer_layers, "MOST_PIXELS", truth.instances.size)
    slide = panel.viewer.add_image(levels, rgb=True, multiscale=True, name="slide", scale=(0.25, 0.25), units="um")
    panel.image.choose(slide)
    with qtbot.waitSignal(panel.written, timeout=20_000) as written:
        panel.progress.run_button.click()
    dataset = open_any(written.args[0])
    assert dataset.read(dataset.entries[0]).mpp == 0.5 and "0.5 µm" in panel.scaled.text()


def extent(layer) -> np.ndarray:
    """Corners of a layer in micrometers."""
    factor = [(1 * unit).to("um").magnitude for unit in layer.units[-2:]]
    return layer.extent.world[:, -2:] * factor


@pytest.mark.parametrize("unit", ["pixel", "um", "mm"])
def test_own_layers_and_the_datasets_lie_on_each_other(panel, qtbot, unit) -> None:
    viewer, (image, labels) = panel.viewer, panel.viewer.layers
    where = {"pixel": (1.0, 40.0), "um": (0.5, 20.0), "mm": (0.0005, 0.02)}[unit]
    for layer in (image, labels) if unit == "pixel" else (image,):
        layer.scale, layer.translate, layer.units = [where[0]] * 2, [where[1]] * 2, [unit] * 2
    panel._update()
    panel.scale.setValue(0.5)
    camera_of(viewer).center, camera_of(viewer).zoom = (0, 60, 80), 4.0
    with qtbot.waitSignal(panel.written, timeout=20_000) as written:
        panel.progress.run_button.click()
    told = "'slide 1/a' and 'nuclei'" if unit == "pixel" else "'nuclei'"
    assert panel.scaled.text().startswith(f"One pixel is 0.5 µm: {told}, until now in pixels")
    if unit == "pixel":
        assert camera_of(viewer).zoom == pytest.approx(8.0) and camera_of(viewer).center[-1] == pytest.approx(40)
    panel.session.take_opened(drain(open_job(written.args[0])))
    qtbot.waitUntil(lambda: panel.session.image != "" and not panel.book.busy, timeout=60_000)
    for what, own in (("image", image), ("nuclei", labels)):
        ours = panel.book.layer(panel.session.image, what)
        np.testing.assert_allclose(ours.extent.world, own.extent.world)
        assert ours.units == own.units and np.allclose(ours.scale, own.scale)
        np.testing.assert_allclose(extent(ours), extent(own))
        assert np.ptp(extent(ours)[:, 0]) == pytest.approx(0.5 * panel.truth.pixels.shape[0], abs=0.51)


def test_large_letters_leave_the_counts_of_the_class_brush_whole(panel, qtbot) -> None:
    panel.setStyleSheet("QLabel, QPushButton, QComboBox { font-size: 18pt }")
    panel.resize(440, 900)
    panel.show()
    for label, name in zip(panel.truth.types, ("lymphocyte", "epithelium", "tumor cell", "plasma cell"), strict=False):
        panel.brush.kind.setEditText(name)
        if not panel.brush.on:
            panel.brush.button.click()
        drag(panel, middle(panel.truth, label))
    counts = panel.brush.counts
    qtbot.waitUntil(lambda: counts.height() >= counts.heightForWidth(counts.width()) > counts.fontMetrics().height())
    metrics = panel.brush.button.fontMetrics()
    assert panel.brush.button.width() > metrics.horizontalAdvance(panel.brush.button.text())
    assert panel.brush.kind.width() > metrics.horizontalAdvance("lymphocyte")
