"""The Pool dock in a real viewer, with the layers it is linked to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dock_pages import open_page
from pool_samples import make_study, plain_images, segment
from qtpy.QtCore import QPoint, Qt

from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation

pytestmark = pytest.mark.gui

IMAGE = "g2/one"


@pytest.fixture
def open_pool(make_napari_viewer: Any, tmp_path: Path, qtbot: Any) -> Callable[..., Any]:
    """Open the dock through the manifest, with a pool."""

    def opened(images: Any = None) -> Any:
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1500, 1000)
        panel = open_page(viewer, "make/pool")
        study = make_study(tmp_path / "study", images)
        with qtbot.waitSignal(panel.opened, timeout=20_000):
            panel.open_study(study.folder)
        panel.real_viewer = viewer
        return panel

    return opened


@pytest.fixture
def beside_its_image(open_pool: Any) -> Any:
    """The dock beside an image of the pool and its segments."""
    panel = open_pool()
    viewer = panel.real_viewer
    labels = np.zeros((200, 200), np.int32)
    for number in range(4):
        one = panel.curation.pool.segment(number)
        labels[:, 50 * number : 50 * number + 40] = one.number  # where a person can click them apart
    space = {"scale": (0.5, 0.5), "units": ("um", "um")}
    viewer.add_image(np.full((200, 200, 3), 200, np.uint8), rgb=True, metadata={"histomix": {"image": IMAGE}}, **space)
    viewer.add_labels(labels, name="anchors", metadata={"histomix": {"image": IMAGE, "segments": {}}}, **space)
    return panel


def click_tile(panel: Any, qtbot: Any, place: int) -> None:
    gallery = panel.view.gallery
    qtbot.mouseClick(gallery.viewport(), Qt.MouseButton.LeftButton, pos=gallery.tile(place).center())


def click_canvas(panel: Any, qtbot: Any, row: float, col: float) -> None:
    """Click a place of the image, in pixels."""
    viewer = panel.real_viewer
    camera = getattr(viewer, "scene", viewer).camera
    canvas = viewer.window._qt_viewer.canvas.native
    middle = canvas.width() / 2, canvas.height() / 2
    x = middle[0] + (0.5 * col - camera.center[2]) * camera.zoom
    y = middle[1] + (0.5 * row - camera.center[1]) * camera.zoom
    at = QPoint(round(x), round(y))
    assert canvas.rect().contains(at)
    qtbot.mouseMove(canvas, at)
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=at)


def press(panel: Any, key: str) -> None:
    panel.real_viewer.window._qt_viewer._key_map_handler.press_key(key)


def test_gallery_layer_and_map_follow_each_other(beside_its_image, qtbot) -> None:
    panel = beside_its_image
    viewer, view = panel.real_viewer, panel.view
    click_tile(panel, qtbot, 2)
    anchors = viewer.layers["anchors"]
    assert anchors.selected_label == 3
    assert np.allclose(getattr(viewer, "scene", viewer).camera.center[1:], (17.25, 22.25))
    assert not view.image_button.isVisible()

    viewer.reset_view()
    qtbot.wait(50)
    click_canvas(panel, qtbot, 100, 65)
    qtbot.waitUntil(lambda: view.selection.numbers().tolist() == [1])
    assert view.map.point_of(1) is not None and "g2/one" in view.about.text()
    # A key over the canvas, where a Labels layer is active.
    press(panel, "D")
    assert Curation(panel.study, panel.curation.pool).decision.tolist()[:3] == [0, 2, 0]
    assert view.selection.numbers().tolist() == [2]

    view.filters.decision.setCurrentText("Dropped")
    viewer.reset_view()
    click_canvas(panel, qtbot, 100, 15)
    qtbot.waitUntil(lambda: "filters hide" in panel.note.text())
    view.filters.clear()

    # While a person paints, a click paints.
    anchors.mode = "paint"
    view.selection.select([7], 7)
    click_canvas(panel, qtbot, 100, 115)
    qtbot.wait(50)
    assert view.selection.numbers().tolist() == [7]
    anchors.mode = "pan_zoom"

    viewer.layers.clear()
    assert view.image_button.isVisible()
    click_tile(panel, qtbot, 0)
    press(panel, "K")
    assert panel.curation.decision[0] == 1


def test_thousands_are_looked_through_without_holding_the_window(open_pool, qtbot, heart) -> None:
    many = [(f"image {index}", "xyz"[index % 3], "", [segment(n + 1) for n in range(500)]) for index in range(12)]
    panel = open_pool(many)
    gallery = panel.view.gallery
    bar = gallery.verticalScrollBar()
    painted = []
    gallery.thumbnails.load, load = (lambda number: (painted.append(number), load(number))[1]), gallery.thumbnails.load
    for value in np.linspace(0, bar.maximum(), 40):
        bar.setValue(int(value))
        qtbot.wait(15)
    in_sight = (gallery.viewport().height() // gallery.cell + 2) * gallery.columns
    qtbot.waitUntil(lambda: 5999 in painted)
    assert len(painted) <= 40 * in_sight < 6000
    before = heart.ticks
    qtbot.keyClick(gallery, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    panel.drop()
    assert panel.writer.busy
    qtbot.waitUntil(lambda: not panel.writer.busy, timeout=20_000)
    assert heart.ticks > before
    assert panel.curation.counts().dropped == 6000 and "6,000 dropped" in panel.count.text()
    again = Curation(Study.open(panel.study.folder), SegmentPool(panel.study.folder))
    assert again.counts().dropped == 6000


def test_it_fits_beside_the_canvas_and_closes_in_the_midst_of_opening(open_pool, qtbot) -> None:
    panel = open_pool(plain_images())
    assert panel.minimumSizeHint().width() <= 400
    panel.open_study(panel.study.folder)
    panel.real_viewer.close()
    qtbot.wait(200)
