"""The Mix dock in a real viewer, with real clicks, the real method and a network small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mix_samples import make_mix_study
from qtpy.QtCore import QPoint, Qt

from napari_histomix.study import Study

pytestmark = pytest.mark.gui


@pytest.fixture
def open_mix(make_napari_viewer: Any, tmp_path: Path, qtbot: Any, tiny_model: Any) -> Callable[..., Any]:
    """Open the dock through the manifest, with a study."""
    folders = iter(tmp_path / f"home {number}" for number in range(2))

    def opened() -> Any:
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1500, 1000)
        dock, panel = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix: Mix tissue")
        viewer.window._qt_window.resizeDocks([dock], [420], Qt.Orientation.Horizontal)
        panel.model = tiny_model
        panel.real_viewer = viewer
        folder = next(folders)
        folder.mkdir()
        panel.open_study(make_mix_study(folder / "study").folder)
        qtbot.waitUntil(lambda: panel.target.target is not None, timeout=30_000)
        qtbot.wait(100)
        return panel

    return opened


def click_canvas(panel: Any, qtbot: Any, row: float, col: float) -> None:
    """Click a place of the image, in pixels."""
    viewer = panel.real_viewer
    camera = getattr(viewer, "scene", viewer).camera
    canvas = viewer.window._qt_viewer.canvas.native
    x = canvas.width() / 2 + (0.5 * col - camera.center[2]) * camera.zoom
    y = canvas.height() / 2 + (0.5 * row - camera.center[1]) * camera.zoom
    at = QPoint(round(x), round(y))
    assert canvas.rect().contains(at)
    qtbot.mouseMove(canvas, at)
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=at)


def press(panel: Any, key: str) -> None:
    panel.real_viewer.window._qt_viewer._key_map_handler.press_key(key)


def test_from_a_click_to_a_decision_without_holding_the_window(open_mix, qtbot, heart) -> None:
    panel = open_mix()
    target, review = panel.target, panel.review
    click_canvas(panel, qtbot, 66, 70)
    qtbot.waitUntil(lambda: target.grid.count == 4, timeout=20_000)
    assert target.number == 1 and target.note.text() == ""
    # Over the canvas, keys of the review do nothing while a target is on the screen.
    press(panel, "A")
    # While a person paints, a click paints.
    segments = panel.layers.layer("segments")
    segments.mode = "paint"
    click_canvas(panel, qtbot, 26, 22)
    qtbot.wait(100)
    assert target.number == 1
    segments.mode = "pan_zoom"

    target.grid.choose(1)
    donor, ticks = target.grid.donor, heart.ticks
    target.bar.run_button.click()
    qtbot.waitUntil(lambda: not target.runner.running, timeout=120_000)
    assert target.note.kind == "good", target.note.text()
    assert heart.ticks - ticks > 20
    qtbot.waitUntil(lambda: review.visible_number is not None, timeout=20_000)
    study = Study.open(panel.work.study.folder)
    (number,) = study.mix_names()
    mix = study.mix(number)
    assert mix.provenance["model"] == "small" and mix.provenance["donors"][0]["segment"] == donor.number
    real = panel.work.dataset.read(mix.target).pixels
    assert np.array_equal(mix.pixels[mix.origin == 0], real[mix.origin == 0])
    assert (mix.pixels[mix.origin == 2] != real[mix.origin == 2]).any()
    assert not study.decisions("mix")
    # A layer of any kind may be active.
    panel.real_viewer.layers.selection.active = panel.layers.layer("origin")
    press(panel, "A")
    assert study.decisions("mix") == {number: "approve"} and "1 image: 1 grade 2" in panel.export.summary.text()
    press(panel, "X")
    assert not panel.layers.layer("synthetic").visible and panel.layers.layer("real").visible
    press(panel, "U")
    assert not study.decisions("mix")
    assert panel.minimumSizeHint().width() <= 400


def test_a_batch_is_cancelled_and_the_window_closed_in_the_midst_of_one(open_mix, qtbot) -> None:
    from superqt.utils import WorkerBase

    panel, other = open_mix(), open_mix()
    batch = panel.batch
    batch.count.setValue(100)
    batch.low.setValue(10)
    batch.bar.run_button.click()
    qtbot.waitUntil(lambda: batch.preview.isVisible() or batch.note.text() != "", timeout=60_000)
    qtbot.waitUntil(lambda: len(panel.work.names) > 0, timeout=120_000)
    batch.bar.cancel_button.click()
    qtbot.waitUntil(lambda: not batch.runner.running, timeout=60_000)
    kept = len(Study.open(panel.work.study.folder).mix_names())
    assert kept > 0 and f"{kept} finished image" in batch.note.text()
    assert not other.work.names and len(other.real_viewer.layers) == 2
    batch.bar.run_button.click()
    qtbot.waitUntil(lambda: len(panel.work.names) > kept, timeout=120_000)
    panel.real_viewer.close()
    qtbot.waitUntil(lambda: not any(one.is_running for one in WorkerBase._worker_set), timeout=60_000)
    assert len(Study.open(panel.work.study.folder).mix_names()) > kept
