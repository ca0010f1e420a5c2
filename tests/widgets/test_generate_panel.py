"""The Generate dock without OpenGL: layouts as layers, edited, painted by an untrained network, and what-ifs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from generate_samples import image_model_folder, pix2pix_folder, squares
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_histomix.datasets import load_sample
from napari_histomix.datasets.entries import named_classes
from napari_histomix.generation.drawn import hole_of
from napari_histomix.widgets.generate import layout_layers
from napari_histomix.widgets.generate.panel import WHAT_IF, GeneratePanel
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import about, micrometers
from napari_histomix.widgets.writers import is_synthetic

MICRONS = {"scale": (0.5, 0.5), "units": ("um", "um")}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("generators")
    return {"image": image_model_folder(place / "image"), "pix2pix": pix2pix_folder(place / "pix2pix")}


@pytest.fixture
def panel(qtbot, tmp_path, folders, monkeypatch) -> GeneratePanel:
    monkeypatch.setattr("napari_histomix.widgets.generate.panel.load_networks_ahead", lambda: None)
    monkeypatch.setattr("napari_histomix.widgets.generate.making.prepare_torch", lambda: None)
    one = GeneratePanel(ViewerModel(), Session(home=tmp_path))
    qtbot.addWidget(one)
    one.resize(360, 900)
    one.show()
    one.paint_form.model.value = str(folders["image"])
    one.paint_form.preset.setCurrentIndex(0)
    return one


def add_layout(panel: GeneratePanel, layout=None, **space: Any) -> Labels:
    layout = layout or squares()
    layer = layout_layers.layout_layer(layout, named_classes("lymphocyte", "tumor"), "mine", space or MICRONS)
    panel.viewer.layers.append(layer)
    panel.layout.choose(layer)
    return layer


def add_image(panel: GeneratePanel, shape=(48, 64), **space: Any) -> Image:
    rng = np.random.default_rng(0)
    pixels = rng.integers(120, 250, (*shape, 3)).astype(np.uint8)
    layer = Image(pixels, rgb=True, name="real", metadata={"histomix": {"image": "real"}}, **(space or MICRONS))
    panel.viewer.layers.append(layer)
    return layer


def wait(qtbot, panel: GeneratePanel) -> None:
    qtbot.waitUntil(lambda: not panel.runner.busy and not panel.layout_box.sampler.busy, timeout=60_000)
    qtbot.wait(20)


def paint(qtbot, panel: GeneratePanel) -> None:
    assert panel.problem() == "", panel.problem()
    panel.paint_bar.run_button.click()
    wait(qtbot, panel)


def instances(layer: Labels) -> np.ndarray:
    return np.asarray(layer.data)


def test_a_layout_is_edited_and_every_step_can_be_undone(panel, qtbot) -> None:
    layer, box = add_layout(panel), panel.edit_box
    qtbot.wait(10)
    before = layer.data.copy()
    layer.selected_label = 1
    qtbot.wait(10)
    assert box.selected == 1 and box.kind.currentData() == "lymphocyte" and "20 µm²" in box.about.text()
    box.move_buttons[3].click()
    assert layer.data[8, 17] == 1 and layer.data[8, 9] == 0
    box.turn_buttons[0].click()
    box.delete_button.click()
    assert 1 not in layer.data
    assert box.selected == 0 and not (layer.data != before)[:, 40:].any()
    for _ in range(3):
        box.undo_button.click()
    assert np.array_equal(layer.data, before)
    box.redo_button.click()
    assert layer.data[8, 17] == 1

    # Another class: color, feature and metadata follow.
    box.kind.setCurrentIndex(box.kind.findData("tumor"))
    box.kind.activated.emit(box.kind.currentIndex())
    assert layout_layers.classes_of_layer(layer) == {1: "tumor", 2: "tumor"}
    assert np.array_equal(layer.get_color(1), layer.get_color(2))
    assert list(about(layer)["classes"].values())[1][0] == "tumor"


def test_a_new_nucleus_is_drawn_with_the_brush_and_has_the_chosen_class(panel, qtbot) -> None:
    layer, box = add_layout(panel), panel.edit_box
    qtbot.wait(10)
    layer.selected_label = 2
    qtbot.wait(10)
    box.add_button.click()
    assert layer.selected_label == 4 and layer.mode == "paint" and panel.viewer.layers.selection.active is layer
    layer.paint((40, 50), 4)
    qtbot.wait(10)
    assert layout_layers.layout_of(layer, (0, 0)).classes == {1: "lymphocyte", 2: "tumor", 3: "", 4: "tumor"}
    # A stroke outside the image leaves no trace.
    layer.paint((400, 500), 4)
    # Labels of the person's own get the chosen class, too.
    layer.selected_label = 9
    layer.paint((40, 30), 9)
    assert layout_layers.classes_of_layer(layer)[9] == "tumor"
    layer.undo()
    assert 9 not in layer.data and layout_layers.layout_of(layer, (0, 0)).counts()["tumor"] == 2


def test_a_layout_is_drawn_from_nothing(panel, qtbot) -> None:
    panel.layout_box.form.fields["side"].value = 32
    panel.edit_box.add_button.click()
    layer = panel.viewer.layers["layout 1"]
    assert panel.layout.layer is panel.edit_box.layer is layer
    assert layer.mode == "paint" and layer.data.shape == (32, 32)
    layer.paint((10, 10), 1)
    paint(qtbot, panel)
    assert panel.note.text() == "“layout 1 painted 1”: 1 nucleus: lymphocyte 1."


def test_labels_of_others_are_layouts_too(panel, qtbot) -> None:
    small = Labels(np.eye(32, dtype=np.uint8) * 255, name="eye")
    panel.viewer.layers.append(small)
    panel.layout.choose(small)
    assert panel.problem() == "Enter how many µm one pixel is: 0.25 for most scans at 40×, 0.5 at 20×."
    panel.scale.setValue(0.5)
    assert panel.problem() == "" and layout_layers.fresh_label(small) == 1
    small.data[:] = np.arange(1024).reshape(32, 32) % 256
    panel.edit_box.add_button.click()
    assert panel.note.text() == "'eye' has room for 255 labels only; convert it to a larger data type."
    # Without a scale the pair has none either.
    small.data[:] = 0
    small.data[4:12, 4:12] = 7
    paint(qtbot, panel)
    assert panel.note.text() == "“eye painted 1”: 1 nucleus without a class."
    image = panel.viewer.layers["eye painted 1"]
    assert micrometers(image) is None and image.data.shape == (32, 32, 3)


def test_a_pair_is_painted_with_a_live_preview(panel, qtbot) -> None:
    layer = add_layout(panel)
    previews = []
    panel.runner.progressed.connect(lambda event: previews.append(event.preview is not None))
    paint(qtbot, panel)
    image, labels = panel.viewer.layers["mine painted 1"], panel.viewer.layers["mine painted 1 nuclei"]
    assert any(previews) and panel.note.kind == "good"
    assert panel.note.text() == "“mine painted 1”: 3 nuclei: no class 1, lymphocyte 1, tumor 1."
    assert image.data.shape == (48, 64, 3) and image.data.std() > 1
    assert np.array_equal(labels.data, layer.data) and labels.data is not layer.data
    assert np.array_equal(labels.get_color(2), layer.get_color(2))
    for made in (image, labels):
        facts = about(made)
        assert is_synthetic({"metadata": made.metadata}) and micrometers(made) == 0.5
        assert facts["image"] == "mine painted 1" and facts["model"] == "tiny" and facts["settings"]["preset"] == "fast"
    assert not layer.visible
    # The same seed, the same picture; the stain of a reference, another one.
    panel.layout.choose(layer)
    paint(qtbot, panel)
    assert np.array_equal(panel.viewer.layers["mine painted 2"].data, image.data)
    panel.paint_form.stain.choose(add_image(panel))
    panel.layout.choose(layer)
    paint(qtbot, panel)
    third = panel.viewer.layers["mine painted 3"]
    assert about(third)["stain_of"] == "real" and not np.array_equal(third.data, image.data)


def test_edge_pix2pix_paints_the_same_layout(panel, qtbot, folders) -> None:
    add_layout(panel)
    panel.paint_form.kind.setCurrentIndex(1)
    assert not panel.paint_form.model.value and panel.paint_form.preset.isHidden()
    panel.paint_form.model.value = str(folders["pix2pix"])
    paint(qtbot, panel)
    image = panel.viewer.layers["mine painted 1"]
    assert about(image)["model"] == "tiny pix2pix" and image.data.shape == (48, 64, 3)


def test_what_is_cancelled_or_closed_leaves_nothing_half_done(panel, qtbot) -> None:
    layer = add_layout(panel)
    panel.paint_form.preset.setCurrentIndex(3)
    panel.paint_bar.run_button.click()
    qtbot.waitUntil(lambda: panel._preview is not None, timeout=30_000)
    panel.paint_bar.cancel_button.click()
    wait(qtbot, panel)
    assert panel.note.text() == "Stopped; nothing was made." and list(panel.viewer.layers) == [layer]
    assert layer.visible

    panel.paint_bar.run_button.click()
    qtbot.waitUntil(lambda: panel._preview is not None, timeout=30_000)
    panel.viewer.layers.remove(panel._preview)
    wait(qtbot, panel)
    assert panel.note.text() == "'mine painted 1' was closed while it was painted; nothing of it was kept."

    # Where the layout goes, the pair still has its labels.
    panel.paint_form.preset.setCurrentIndex(0)
    panel.paint_bar.run_button.click()
    panel.viewer.layers.remove(layer)
    wait(qtbot, panel)
    assert np.array_equal(panel.viewer.layers["mine painted 1 nuclei"].data, squares().instances)


@pytest.mark.parametrize("given, sentence", [
    ("nothing", "Sample a layout, draw one with Add, or open a Labels layer."),
    ("empty", "The layout holds no nucleus; add some, or sample a layout."),
    ("wrong kind", "image is of the kind 'image', not 'pix2pix'; choose another model folder."),
    ("unknown class", "tiny does not know the class plasma: such nuclei are painted without a class."),
    ("other scale", "Painted at 0.5 µm/px, the scale of tiny, and resampled to 0.25."),
])  # fmt: skip
def test_bad_input_gets_one_sentence(panel, qtbot, folders, given, sentence) -> None:
    if given == "nothing":
        panel.paint_bar.run.emit()
        assert panel.why.text() == sentence and not panel.paint_bar.run_button.isEnabled()
        return
    layer = add_layout(panel, **({"scale": (0.25, 0.25), "units": ("um", "um")} if given == "other scale" else {}))
    if given == "empty":
        layer.data[:] = 0
    if given == "wrong kind":
        panel.paint_form.kind.setCurrentIndex(1)
        panel.paint_form.model.value = str(folders["image"])
    if given == "unknown class":
        layout_layers.set_classes(layer, {3: "plasma"})
    paint(qtbot, panel)
    assert sentence in panel.note.text() and panel.paint_bar.run_button.isEnabled()


# What if.


@pytest.fixture
def what_if(panel, qtbot) -> GeneratePanel:
    image = add_image(panel)
    nuclei = layout_layers.layout_layer(
        squares(), named_classes("lymphocyte", "tumor"), "real nuclei", MICRONS, image="real"
    )
    panel.viewer.layers.append(nuclei)
    panel.task.setCurrentIndex(panel.task.findData(WHAT_IF))
    panel.image.choose(image)
    qtbot.wait(10)
    assert panel.nuclei.layer is nuclei
    return panel


def test_only_the_place_of_a_drawn_nucleus_is_painted(what_if, qtbot) -> None:
    panel, layers, box = what_if, what_if.viewer.layers, what_if.edit_box
    real, nuclei = layers["real"].data.copy(), layers["real nuclei"].data.copy()
    assert panel.problem() == "Add a nucleus, and draw it where there is none."
    box.kind.setCurrentIndex(box.kind.findData("tumor"))
    box.add_button.click()
    drawn = layers["real, what if nuclei"]
    assert box.layer is drawn and drawn.selected_label == 4 and drawn.contour == 1
    # A stroke over a nucleus that was there does not take it away.
    drawn.data_setitem(tuple(np.mgrid[24:33, 12:22].reshape(2, -1)), 4)
    paint(qtbot, panel)
    assert panel.note.text() == "1 nucleus is painted in “real, what if”; all else is as it was.", panel.note.text()
    made = layers["real, what if"]
    own = (drawn.data == 4) & (nuclei == 0)
    hole = hole_of(np.where(nuclei > 0, nuclei, drawn.data), 4, 0.5)
    assert own.sum() == 75 and (hole & own).sum() == 75 and not (hole & (nuclei > 0)).any()
    differs = (made.data != real).any(-1)
    assert differs[own].mean() > 0.9 and not differs[~hole].any()
    assert np.array_equal(layers["real"].data, real) and np.array_equal(layers["real nuclei"].data, nuclei)
    assert np.array_equal(drawn.data, np.where(nuclei > 0, nuclei, np.where(own, 4, 0)))
    assert about(made)["image"] == about(drawn)["image"] == "real, what if" and about(made)["synthetic"]
    flags = dict(zip(drawn.features["index"], drawn.features["synthetic"], strict=True))
    assert flags[4] and not flags[1]
    assert layout_layers.classes_of_layer(drawn)[4] == "tumor"

    # Before and after.
    assert panel.before_button.isVisible()
    panel.before_button.click()
    assert not made.visible and layers["real"].visible
    panel.before_button.click()
    assert made.visible

    # A nucleus that was there is not for editing; a second one leaves the first as it is painted.
    drawn.selected_label = 1
    qtbot.wait(10)
    assert box.selected == 0 and "was there before" in box.about.text()
    first = made.data.copy()
    box.add_button.click()
    drawn.data_setitem(tuple(np.mgrid[38:46, 50:60].reshape(2, -1)), 5)
    paint(qtbot, panel)
    assert layers["real, what if"] is made and len([layer for layer in layers if isinstance(layer, Image)]) == 2
    assert np.array_equal(made.data[own], first[own]) and (made.data[40:44, 52:58] != first[40:44, 52:58]).any()


def test_a_what_if_by_edge_pix2pix(what_if, qtbot, folders) -> None:
    panel, layers = what_if, what_if.viewer.layers
    panel.paint_form.kind.setCurrentIndex(1)
    panel.paint_form.model.value = str(folders["pix2pix"])
    panel.edit_box.add_button.click()
    layers["real, what if nuclei"].data_setitem(tuple(np.mgrid[30:36, 40:46].reshape(2, -1)), 4)
    paint(qtbot, panel)
    differs = (layers["real, what if"].data != layers["real"].data).any(-1)
    assert differs[31:35, 41:45].any() and not differs[:24].any() and not differs[42:].any()


def test_what_cannot_be_painted_into_an_image_is_said(what_if, qtbot) -> None:
    panel, layers = what_if, what_if.viewer.layers
    # Nothing drawn, or only over what was there.
    panel.edit_box.add_button.click()
    drawn = layers["real, what if nuclei"]
    paint(qtbot, panel)
    nothing = "Nothing is drawn where there was no nucleus; add a nucleus inside the image first."
    assert panel.note.text() == nothing
    drawn.data_setitem(tuple(np.mgrid[7:10, 9:12].reshape(2, -1)), 4)
    paint(qtbot, panel)
    assert panel.note.text() == nothing and "real, what if" not in layers
    # Labels of another image.
    other = Labels(np.ones((20, 20), np.int32), name="other")
    layers.append(other)
    panel.nuclei.choose(other)
    panel.edit_box.add_button.click()
    assert panel.note.text() == "'other' is 20×20 pixels but the image is 64×48."
    # An image that says nothing of its scale.
    plain = Image(np.zeros((20, 20, 3), np.uint8), rgb=True, name="plain")
    layers.append(plain)
    panel.image.choose(plain)
    panel.edit_box.add_button.click()
    assert panel.note.text().startswith("Enter how many µm one pixel is")


def test_nuclei_are_chosen_for_a_person_once(what_if, qtbot) -> None:
    panel, layers = what_if, what_if.viewer.layers
    nuclei = panel.nuclei.layer
    panel.nuclei.setCurrentIndex(0)
    layers.append(Image(np.zeros((20, 20, 3), np.uint8), rgb=True, name="another"))
    qtbot.wait(10)
    assert panel.nuclei.layer is None and panel.nuclei.currentText() == "none are labeled"
    # Those that come back are not painted over.
    layers.remove(nuclei)
    qtbot.wait(10)
    layers.append(nuclei)
    qtbot.wait(10)
    assert panel.nuclei.layer is nuclei


def test_layers_that_are_deleted_while_a_nucleus_is_painted(what_if, qtbot) -> None:
    panel, layers = what_if, what_if.viewer.layers
    panel.edit_box.add_button.click()
    drawn = layers["real, what if nuclei"]
    drawn.data_setitem(tuple(np.mgrid[38:46, 50:60].reshape(2, -1)), 4)
    expected = drawn.data.copy()
    panel.paint_bar.run_button.click()
    for layer in (layers["real"], drawn):
        layers.remove(layer)
    wait(qtbot, panel)
    assert panel.note.kind == "good", panel.note.text()
    assert layers["real, what if"].data.shape == (48, 64, 3)
    assert np.array_equal(layers["real, what if nuclei"].data, expected)


def test_a_layout_is_sampled_from_the_open_dataset(panel, qtbot) -> None:
    assert (
        panel.layout_box.note.text() == "Open a dataset of labeled nuclei on the page Project, or let the network draw."
    )
    panel.session.dataset = load_sample()
    panel.session.dataset_changed.emit()
    panel.layout_box.form.fields["side"].value = 96
    panel.layout_box.bar.run_button.click()
    wait(qtbot, panel)
    layer = panel.layout.layer
    assert layer.name == "layout 1" and layer.data.shape == (96, 96) and micrometers(layer) == 0.5
    names = {kind.name for kind in panel.session.dataset.classes}
    assert set(layout_layers.classes_of_layer(layer).values()) <= names and about(layer)["source"]
    assert panel.edit_box.layer is layer and panel.layout_box.note.text().startswith("“layout 1”: ")
    panel.layout_box.bar.run_button.click()
    wait(qtbot, panel)
    assert panel.layout.layer.name == "layout 2" and not layer.visible
    assert not np.array_equal(panel.layout.layer.data, layer.data)


def test_the_dock_fits_its_width(panel) -> None:
    assert panel.minimumSizeHint().width() <= 360
