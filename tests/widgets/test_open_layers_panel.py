"""Layers that are open in napari become a dataset: with their classes, their scale, and no synthetic ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel

from napari_histomix.datasets import open_any
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


def test_what_cannot_be_a_dataset_is_one_sentence(panel, qtbot) -> None:
    panel.scale.setValue(0.5)
    panel.viewer.layers["nuclei"].data = np.zeros((7, 9), int)
    with qtbot.waitSignal(panel.runner.failed, timeout=20_000):
        panel.progress.run_button.click()
    assert "9×7" in panel.note.text() and not panel.session.home.exists()
    panel.image.layer.metadata = {"histomix": {"synthetic": True}}
    panel._update()
    assert "synthetic" in panel.why.text() and not panel.progress.run_button.isEnabled()
