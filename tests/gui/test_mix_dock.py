"""The Mix dock in a real viewer, with real clicks, the real method and a network small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dock_pages import open_page
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
        panel = open_page(viewer, "make/mix")
        panel.model = tiny_model
        # The paper's form, in which every donor fits.
        panel.form.fields["outline"].value, panel.form.fields["own_patient"].value = "segment", False
        panel.real_viewer = viewer
        folder = next(folders)
        folder.mkdir()
        panel.open_study(make_mix_study(folder / "study").folder)
        qtbot.waitUntil(lambda: panel.target is not None and not panel.book.busy, timeout=30_000)
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


def test_from_a_click_to_a_change_without_holding_the_window(open_mix, qtbot, heart) -> None:
    panel, other = open_mix(), open_mix()
    click_canvas(panel, qtbot, 66, 70)
    qtbot.waitUntil(lambda: panel.grid.count == 4, timeout=20_000)
    assert panel.number == 1 and panel.note.text() == ""
    # While a person paints, a click paints.
    panel.segments.layer.mode = "paint"
    click_canvas(panel, qtbot, 26, 22)
    qtbot.wait(100)
    assert panel.number == 1
    panel.segments.layer.mode = "pan_zoom"

    panel.grid.choose(1)
    donor, ticks = panel.grid.donor, heart.ticks
    panel.bar.run_button.click()
    qtbot.waitUntil(lambda: not panel.blender.running, timeout=120_000)
    assert panel.note.kind == "good", panel.note.text()
    assert heart.ticks - ticks > 20
    study = Study.open(panel.session.study.folder)
    (change,) = study.changes()
    assert change.provenance["model"] == "small" and change.provenance["donors"][0]["segment"] == donor.number
    real = panel.session.dataset.read(change.image).pixels
    assert np.array_equal(change.pixels[change.origin == 0], real[change.origin == 0])
    assert (change.pixels[change.origin == 2] != real[change.origin == 2]).any()
    # It is reviewed as every change is.
    panel.session.decide("change", [change.id], "approve")
    assert Study.open(study.folder).decisions("change") == {change.id: "approve"}
    assert panel.minimumSizeHint().width() <= 400
    assert not len(other.session.table) and other.number == -1


def test_the_window_is_closed_in_the_midst_of_a_run(open_mix, qtbot) -> None:
    from superqt.utils import WorkerBase

    panel = open_mix()
    panel.choose(1)
    qtbot.waitUntil(lambda: panel.grid.count > 0 and not panel.previews.busy, timeout=20_000)
    panel.run()
    qtbot.wait(100)
    folder = panel.session.study.folder
    panel.real_viewer.close()
    qtbot.waitUntil(lambda: not any(one.is_running for one in WorkerBase._worker_set), timeout=60_000)
    assert all(run.state == "done" for run in Study.open(folder).runs())
