"""The Segments dock in a real viewer: an image divided, a pool built, corrected and handed to the Pool dock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dock_pages import open_page
from napari.layers import Labels
from PIL import Image as Picture
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QScrollArea

from napari_histomix.datasets import load_sample
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.loading import open_job

pytestmark = pytest.mark.gui


@pytest.fixture
def open_segments(make_napari_viewer: Any, tmp_path: Path) -> Any:
    """Open the dock through the manifest."""
    from napari_histomix.widgets.session import session_of

    def opened() -> Any:
        viewer = make_napari_viewer(show=True)
        session_of(viewer).home = tmp_path / "home"
        panel = open_page(viewer, "make/segments")
        panel.real_viewer = viewer
        return panel

    return opened


def fits(panel: Any) -> bool:
    """Whether all that is shown lies within 360 pixels."""
    area = panel.findChild(QScrollArea)
    return panel.minimumSizeHint().width() <= 360 and area.widget().minimumSizeHint().width() <= 350


def silent(panel: Any) -> list[str]:
    """Controls that do not say what they do."""
    found: list[str] = []
    for kind in (QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit):
        for one in panel.findChildren(kind):
            inside = one.parent() is not None and isinstance(one.parent(), QAbstractSpinBox)
            told = one.toolTip() or (one.parent().toolTip() if one.parent() is not None else "")
            if not inside and not told and not one.objectName().startswith("qt_"):
                found.append(f"{kind.__name__} {getattr(one, 'text', str)()}")
    return found


def test_an_image_is_divided_while_the_window_stays_alive(open_segments, qtbot, heart) -> None:
    panel = open_segments()
    dataset = load_sample()
    image = dataset.read(dataset.entries[0])
    viewer = panel.real_viewer
    scale = (image.mpp, image.mpp)
    layer = viewer.add_image(image.pixels, rgb=True, name="sample", scale=scale, units=("um", "um"))
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    form = panel.form.settings
    form.advanced.expand(animate=False)
    form.fields["prompter"].value = "sam"
    assert form.fields["spread"].native.isVisible() and fits(panel)
    form.fields["prompter"].value = "region-tree"
    before = heart.ticks
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=60_000)
    assert panel.note.kind == "good", panel.note.text()
    assert heart.ticks - before > 5 and fits(panel)
    made = viewer.layers.selection.active
    assert isinstance(made, Labels) and tuple(made.scale) == tuple(layer.scale) and made.units == layer.units
    made.contour = 2
    row, col = np.argwhere(made.data == 1)[0]
    assert "vote_share" in made.get_status((row * image.mpp, col * image.mpp), world=True)["coordinates"]
    assert silent(panel) == []
    viewer.theme = "light"
    viewer.layers.clear()
    qtbot.waitUntil(lambda: panel.why.text() == "Open an H&E image in napari.")


def test_from_a_folder_to_a_corrected_pool(open_segments, qtbot, tmp_path) -> None:
    panel = open_segments()
    viewer, pool = panel.real_viewer, panel.pool
    dataset = load_sample()
    for number, entry in enumerate(dataset.entries[:3]):
        path = tmp_path / "tissue" / f"grade {number // 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(dataset.read(entry).pixels).save(path)
    panel.session.take_opened(drain(open_job(tmp_path / "tissue", 0.25)))
    qtbot.waitUntil(lambda: pool.page.isVisible() and panel.session.image != "", timeout=20_000)
    panel.form.settings.fields["encoder"].value = "ctranspath:"
    assert fits(panel) and silent(panel) == []
    panel.form.settings.fields["encoder"].value = "texture"
    pool.page.progress.run_button.click()
    qtbot.waitUntil(lambda: pool.opened is not None, timeout=60_000)
    folder = panel.session.study.folder
    other = open_page(viewer, "make/pool")
    # What one dock has open, the others of the viewer open too.
    qtbot.waitUntil(lambda: other.curation is not None and not other.runner.running, timeout=20_000)
    assert Path(other.study.folder) == folder
    other.view.selection.select([0], 0)
    other.view.describe()
    other.view.image_button.click()
    name = other.curation.pool.image(0).source.image
    qtbot.waitUntil(lambda: f"{name} segments" in viewer.layers, timeout=20_000)
    qtbot.waitUntil(lambda: not pool.runner.running)
    shown = [layer for layer in viewer.layers if layer.visible]
    assert {name, f"{name} segments"} <= {layer.name for layer in shown} and fits(panel)
    assert {layer.metadata["histomix"]["image"] for layer in shown} == {name}
    labels = viewer.layers[f"{name} segments"]
    number = int(other.curation.pool.rows["number"][0])
    assert labels.selected_label == number
    place = np.argwhere(labels.data == number).mean(axis=0).round().astype(int)
    labels.mode = "paint"
    labels.brush_size = 12
    labels.paint(tuple(place), int(labels.data.max()) + 1)
    before = len(other.curation)
    with qtbot.waitSignal(panel.session.pool_changed, timeout=20_000) as corrected:
        qtbot.mouseClick(pool.correct_button, Qt.MouseButton.LeftButton)
    assert "1 added" in pool.note.text() and pool.note.kind == "good"
    qtbot.waitUntil(lambda: len(other.curation) > before, timeout=20_000)
    now = Curation(Study.open(Path(corrected.args[0])), other.curation.pool)
    assert 1 <= now.counts().dropped < before
