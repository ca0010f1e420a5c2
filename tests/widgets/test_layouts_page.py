"""The page of layouts without OpenGL: made, decided on, edited as a layer, saved and reverted."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_histomix.datasets import load_sample, survey
from napari_histomix.methods.layout_stage import LayoutBook
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.widgets.generate.layout_layers import RING
from napari_histomix.widgets.loading import Opened
from napari_histomix.widgets.plan_panel import PlanPanel
from napari_histomix.widgets.session import Session


@pytest.fixture
def panel(qtbot, tmp_path, monkeypatch) -> PlanPanel:
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    session = Session(home=tmp_path)
    one = PlanPanel(ViewerModel(), session)
    qtbot.addWidget(one)
    one.resize(400, 1000)
    one.show()
    dataset = load_sample()
    session.take_opened(Opened(dataset, drain(survey(dataset))))
    session.choose_method("nudiff")
    return one


@pytest.fixture
def page(panel, qtbot):
    page = panel.page
    page.form.fields["side"].value = 64
    page.form.fields["layouts"].value = 3
    page.progress.run_button.click()
    quiet(qtbot, page)
    assert page.note.text() == "3 layouts made.", page.note.text()
    return page


def quiet(qtbot, page) -> None:
    qtbot.waitUntil(lambda: not page.runner.busy and not page.reading.busy, timeout=60_000)
    qtbot.wait(30)
    qtbot.waitUntil(lambda: not page.reading.busy, timeout=60_000)


def test_layouts_are_made_looked_at_and_decided_on(panel, page, qtbot) -> None:
    assert panel.ready and page.table.rowCount() == 3 and page.current == 0
    assert page.picture.pixels.shape == (64, 64, 3) and page.words() == "3 of 3 to paint"
    page.decide("drop")
    assert page.current == 1
    page.decide("keep")
    assert Study.open(page.session.study.folder).decisions("layout") == {0: "drop", 1: "keep"}
    assert page.words() == "2 of 3 to paint" and "1 kept · 1 dropped" in page.count.text()
    page.undo()
    assert page.session.decisions["layout"] == {0: "drop"} and page.current == 1
    # Further ones come beside them, and what was decided stays.
    page.progress.run_button.click()
    quiet(qtbot, page)
    assert page.table.rowCount() == 6 and page.session.decisions["layout"] == {0: "drop"}


def test_a_layout_is_edited_in_a_layer_and_saved_at_once(page, qtbot) -> None:
    page.select([1])
    page.edit_button.click()
    quiet(qtbot, page)
    layer = page.viewer.layers["layout 2 of the study"]
    number = int(layer.data.max())
    layer.selected_label = number
    qtbot.wait(20)
    page.edit_box.delete_button.click()
    qtbot.waitUntil(lambda: page.book.facts(1).edited, timeout=5000)
    book = LayoutBook(page.session.study.folder)
    assert np.array_equal(book.read(1).instances, layer.data) and number not in book.read(1).classes
    assert number in book.original(1).classes and page.current == 1
    # A deleted layer takes nothing with it.
    page.edit_box.undo_button.click()
    page.edit_box.add_button.click()
    layer.data_setitem((np.array([0, 1]), np.array([0, 0])), int(layer.selected_label))
    edited = layer.data.copy()
    page.viewer.layers.remove(layer)
    assert np.array_equal(LayoutBook(page.session.study.folder).read(1).instances, edited)
    assert page.edit_box.isHidden()
    page.revert_button.setEnabled(True)
    page.revert_button.click()
    quiet(qtbot, page)
    again = LayoutBook(page.session.study.folder)
    assert not again.facts(1).edited and number in again.read(1).classes


def test_the_selected_nucleus_of_a_layout_is_marked_on_the_canvas(page, qtbot) -> None:
    page.open_layer()
    quiet(qtbot, page)
    layer, layers = page.layer, page.viewer.layers
    number = int(np.unique(layer.data)[1])
    layer.selected_label = number
    qtbot.waitUntil(lambda: RING in layers and layers[RING].visible, timeout=5_000)
    ring = layers[RING]
    rows, cols = np.nonzero(layer.data == number)
    assert ring.data[0].tolist() == [(rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2]
    assert ring.size[0] > max(np.ptp(rows), np.ptp(cols)) and tuple(ring.scale) == tuple(layer.scale)
    assert layers.selection.active is layer and layers.index(ring) > layers.index(layer)
    before = ring.data[0].copy()
    page.edit_box.move(0, 3)
    qtbot.waitUntil(lambda: ring.data[0][1] > before[1] + 2, timeout=5_000)
    page.edit_box.delete()
    qtbot.waitUntil(lambda: not ring.visible, timeout=5_000)
    layers.clear()
    qtbot.waitUntil(lambda: not len(layers), timeout=5_000)
