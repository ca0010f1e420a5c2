"""The dock that finds the nuclei of an open image."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from skimage.draw import disk

from napari_histomix.records import Event, HistomixError
from napari_histomix.widgets import nuclei_panel
from napari_histomix.widgets.nuclei_panel import Nuclei, NucleiPanel
from napari_histomix.widgets.session import Session

UM = {"scale": (0.5, 0.5), "units": ("um", "um")}
PLACES = ((10, 12), (30, 40))


class Finding:
    """Stands for the network: two nuclei; waits until it is let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.given: tuple[Any, ...] = ()
        self.failure = ""

    def __call__(self, picture: Any, mpp: float, model: str, device: str) -> Any:
        self.given = mpp, model, device
        pixels = picture.pixels()
        while not self.go.wait(0.005):
            self.asked.set()
            yield Event("Waiting")
        if self.failure:
            raise HistomixError(self.failure)
        yield Event("Finding nuclei", message="The image has 0.25 µm/px.")
        instances = np.zeros(pixels.shape[:2], np.int32)
        for number, place in enumerate(PLACES, start=1):
            instances[disk(place, 4)] = number
        facts = {"image": picture.name, "model": "tiny"}
        return Nuclei(
            instances, {1: "tumor", 2: "stromal"}, {1: 0.9, 2: 0.6}, ("lymphocyte", "tumor", "stromal"), facts
        )


@pytest.fixture
def finding(monkeypatch) -> Any:
    found = Finding()
    monkeypatch.setattr(nuclei_panel, "nuclei_job", found)
    yield found
    found.go.set()


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(qtbot, tmp_path, viewer, finding, monkeypatch) -> NucleiPanel:
    monkeypatch.setattr(nuclei_panel, "load_networks_ahead", lambda: None)
    made = NucleiPanel(viewer, Session(home=tmp_path / "home"))
    qtbot.addWidget(made)
    made.show()
    return made


@pytest.fixture
def run(panel, qtbot):
    def go() -> tuple[str, str]:
        qtbot.waitUntil(panel.progress.run_button.isEnabled)
        panel.progress.run_button.click()
        qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
        return panel.note.kind, panel.note.text()

    return go


def pixels(side: int = 50) -> np.ndarray:
    return np.full((side, side, 3), 230, np.uint8)


def test_the_module_needs_no_torch() -> None:
    code = "import sys, napari_histomix.widgets.nuclei_panel; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_nuclei_appear_over_the_image_in_the_colors_of_their_classes(panel, viewer, run) -> None:
    image = viewer.add_image(pixels(), name="biopsy", translate=(3, 4), **UM)
    viewer.add_image(pixels(), name="on top", visible=False, **UM)
    panel.image.choose(image)
    kind, text = run()
    assert (kind, text) == ("good", "2 nuclei in “biopsy nuclei”: tumor 1, stromal 1.")
    assert not panel.use_button.isHidden()
    layer = viewer.layers["biopsy nuclei"]
    assert isinstance(layer, Labels) and viewer.layers.index(layer) == 1 and viewer.layers.selection.active is layer
    assert tuple(layer.scale) == (0.5, 0.5) and tuple(layer.translate) == (3, 4) and layer.units == image.units
    assert [int(layer.data[place]) for place in PLACES] == [1, 2]
    assert list(layer.features["class"]) == ["tumor", "stromal"] and layer.features["probability"][0] == 0.9
    assert list(layer.metadata["histomix"]["classes"]) == ["1", "2", "3"]
    assert not np.array_equal(layer.get_color(1), layer.get_color(2))


def test_without_a_scale_the_person_says_it(panel, viewer, run, finding) -> None:
    viewer.add_image(pixels(), name="plain")
    panel.image.choose(viewer.layers["plain"])
    assert not panel.progress.run_button.isEnabled() and "how many µm" in panel.why.text()
    panel.scale.setValue(0.25)
    run()
    assert finding.given == (0.25, "", "auto")


def test_a_network_of_ones_own(panel, viewer, run, finding, tmp_path) -> None:
    viewer.add_image(pixels(), name="plain", **UM)
    panel.session.use_model(tmp_path, "segmenter")
    panel.session.use_model("elsewhere", "inpainter")
    panel.device.setCurrentIndex(panel.device.findData("cpu"))
    run()
    assert finding.given == (0.5, str(tmp_path), "cpu")


def test_nothing_open_is_said(panel) -> None:
    assert panel.why.text() == "Open an H&E image in napari." and not panel.progress.run_button.isEnabled()


def test_a_failure_is_one_sentence(panel, viewer, run, finding) -> None:
    viewer.add_image(pixels(), **UM)
    finding.failure = "There is no model folder 'x'."
    assert run() == ("error", "There is no model folder 'x'.") and len(viewer.layers) == 1


@pytest.mark.parametrize("cancel", [False, True])
def test_a_layer_that_goes_meanwhile_and_cancel_leave_nothing(panel, viewer, finding, qtbot, cancel) -> None:
    viewer.add_image(pixels(), name="biopsy", **UM)
    finding.go.clear()
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    panel.progress.run_button.click()
    qtbot.waitUntil(finding.asked.is_set)
    if cancel:
        panel.progress.cancel_button.click()
    else:
        viewer.layers.clear()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=10_000)
    words = "Stopped; nothing was made." if cancel else "'biopsy' was closed in the meantime; nothing was made of it."
    assert panel.note.text() == words and not any(isinstance(layer, Labels) for layer in viewer.layers)


def test_one_plane_of_a_stack(panel, viewer, run) -> None:
    viewer.add_image(np.stack([pixels()] * 3), name="stack", scale=(1, 0.5, 0.5), units=("um",) * 3)
    viewer.dims.set_point(0, 2)
    run()
    layer = viewer.layers["stack nuclei"]
    assert layer.ndim == 3 and layer.translate[0] == 2
