"""The Generate dock in a real viewer, opened through the manifest: a nucleus drawn with the mouse and painted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generate_samples import image_model_folder
from qtpy.QtCore import QPoint, Qt

pytestmark = pytest.mark.gui


def test_a_nucleus_is_drawn_with_the_mouse_and_painted(make_napari_viewer: Any, qtbot: Any, tmp_path: Path, heart: Any):
    from napari_histomix.widgets.jobs import prepare_torch

    prepare_torch()
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1400, 1000)
    dock, panel = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix: Generate")
    viewer.window._qt_window.resizeDocks([dock], [360], Qt.Orientation.Horizontal)
    pixels = np.random.default_rng(0).integers(120, 250, (64, 64, 3)).astype(np.uint8)
    real = viewer.add_image(pixels, rgb=True, name="real", scale=(0.5, 0.5), units=("um", "um"))
    panel.paint_form.model.value = str(image_model_folder(tmp_path / "image"))
    panel.paint_form.preset.setCurrentIndex(0)
    panel.task.setCurrentIndex(1)
    qtbot.waitUntil(lambda: panel.image.layer is real)
    panel.edit_box.add_button.click()
    qtbot.wait(200)

    def at(row: float, col: float) -> QPoint:
        camera = getattr(viewer, "scene", viewer).camera
        x = canvas.width() / 2 + (0.5 * col - camera.center[2]) * camera.zoom
        y = canvas.height() / 2 + (0.5 * row - camera.center[1]) * camera.zoom
        return QPoint(round(x), round(y))

    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=at(30, 30))
    qtbot.mouseMove(canvas, at(31, 32))
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=at(31, 32))
    drawn = viewer.layers["real, what if nuclei"]
    qtbot.waitUntil(lambda: bool((drawn.data == 1).any()))
    assert drawn.data[30, 30] == 1 and not drawn.data[:20].any()

    ticks = heart.ticks
    panel.paint_bar.run_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=120_000)
    assert panel.note.kind == "good", panel.note.text()
    assert heart.ticks > ticks
    differs = (viewer.layers["real, what if"].data != pixels).any(-1)
    assert differs[30, 30] and not differs[:20].any() and np.array_equal(real.data, pixels)
    # The window shows it, and a click selects the nucleus.
    drawn.mode = "pan_zoom"
    drawn.selected_label = 5
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=at(30, 30))
    qtbot.waitUntil(lambda: panel.edit_box.selected == 1)
    assert panel.minimumSizeHint().width() <= 360
