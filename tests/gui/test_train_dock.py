"""The Train dock in a real viewer, with the real training and a network small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dock_pages import open_page
from qtpy.QtWidgets import QScrollArea

from napari_histomix.settings import PaintingSettings
from napari_histomix.training.settings import InpainterSettings
from napari_histomix.widgets.session_form import SessionForm

pytestmark = pytest.mark.gui


@pytest.fixture
def open_train(
    make_napari_viewer: Any, tmp_path: Path, qtbot: Any, labeled_image: Any, small_model_folder: Path, monkeypatch: Any
) -> Callable[..., Any]:
    """Open the dock through the manifest beside two open images, ready to fine-tune the small network."""
    from napari_histomix.training import inpainting
    from napari_histomix.widgets.session import session_of

    def opened(steps: int | None) -> Any:
        monkeypatch.setattr(inpainting, "CHECKED", 4)
        viewer = make_napari_viewer(show=True)
        session_of(viewer).home = tmp_path
        for number in range(2):
            pixels = labeled_image(seed=number).pixels
            viewer.add_image(pixels, rgb=True, name=f"tissue {number}", scale=(0.25, 0.25), units=("um", "um"))
        panel = open_page(viewer, "make/train")
        panel.real_viewer = viewer
        panel.form.settings.set_value(InpainterSettings(steps=steps, batch=2, window=48))
        panel.form.start.setCurrentIndex(1)
        panel.form.start_folder.choose(small_model_folder)
        qtbot.waitUntil(panel.progress.run_button.isEnabled, timeout=20_000)
        return panel

    return opened


def fits(panel: Any) -> bool:
    """Whether all that is shown lies within 360 pixels."""
    area = panel.findChild(QScrollArea)
    return panel.minimumSizeHint().width() <= 360 and area.widget().minimumSizeHint().width() <= 350


def test_a_run_to_its_end_and_its_use(open_train, qtbot, heart) -> None:
    from napari_histomix.diffusion.model_files import load_model

    panel = open_train(8)
    assert [layer.name for layer in panel.tissue.layers.checked()] == ["tissue 1", "tissue 0"]
    panel.form.network.setCurrentIndex(2)
    panel.form.start.setCurrentIndex(1)
    unknown = panel.real_viewer.add_image(np.zeros((64, 64, 3), np.uint8), rgb=True, name="no scale " * 20)
    qtbot.waitUntil(panel.tissue.scale.isVisible)
    assert fits(panel)
    panel.real_viewer.layers.remove(unknown)
    panel.form.network.setCurrentIndex(0)
    panel.form.start.setCurrentIndex(1)
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    before = heart.ticks
    panel.progress.run_button.click()
    assert fits(panel)
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=120_000)
    assert panel.note.kind == "good", panel.note.text()
    assert heart.ticks - before > 20 and fits(panel)
    assert panel.plot.validations[-1][0] == 8 and panel.plot.isVisible()
    assert panel.preview.isVisible() and np.ptp(panel.preview.pixels) > 50
    out = panel.session.home / "models" / "My tissue"
    assert load_model(out).name == "My tissue" and load_model(out).mpp == (0.25, 0.25)

    panel.use_button.click()
    _, steps = panel.real_viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
    assert steps.session.networks == {"inpainter": out}
    form = SessionForm(steps.session, PaintingSettings)
    qtbot.addWidget(form)
    assert form.fields["model"].box.native.currentText() == "My tissue" and form.fields["model"].value == str(out)


def test_a_network_of_ones_own_paints_the_nuclei(with_study, settle, small_model_folder) -> None:
    dock = with_study("searched")
    dock.session.use_model(small_model_folder)
    dock.open("make/making")
    dock.make.form.fields["count"].value = 1
    dock.make.progress.run_button.click()
    settle(dock)
    (number,) = dock.session.table.ids.tolist()
    assert dock.session.change(number).provenance["model"] == "small"


def test_stop_keeps_the_best_and_the_run_can_be_resumed(open_train, qtbot) -> None:
    from napari_histomix.training.loop import unfinished

    panel = open_train(60)
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: len(panel.plot.losses) > 2, timeout=120_000)
    panel.progress.pause_button.click()
    qtbot.wait(600)
    at = panel.plot.losses[-1][0]
    qtbot.wait(300)
    assert panel.plot.losses[-1][0] == at
    panel.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=60_000)
    assert panel.note.text().startswith("Stopped. The best network"), panel.note.text()
    out = panel.form.out
    assert at <= unfinished(out)["step"] < 60
    qtbot.waitUntil(panel.resume_button.isVisible, timeout=20_000)
    assert panel.resume_button.isEnabled() and fits(panel)
    panel.resume_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=120_000)
    assert panel.note.text().startswith("Done."), panel.note.text()
    assert panel.plot.validations[-1][0] == 60 and unfinished(out) is None


def test_closing_the_window_on_a_paused_run_does_not_hang(open_train, qtbot) -> None:
    from superqt.utils import WorkerBase

    from napari_histomix.training.loop import unfinished

    panel = open_train(10_000)
    out = panel.form.out
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: len(panel.plot.losses) > 2, timeout=120_000)
    panel.progress.pause_button.click()
    qtbot.wait(500)
    panel.real_viewer.close()
    qtbot.waitUntil(lambda: not any(one.is_running for one in WorkerBase._worker_set), timeout=60_000)
    assert unfinished(out)["step"] > 0 and (out / "histomix.json").is_file()
