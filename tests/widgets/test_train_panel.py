from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from PIL import Image as Picture
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QPushButton

from napari_histomix.datasets import sample_folder
from napari_histomix.records import Event, HistomixError, drain
from napari_histomix.settings import PaintingSettings
from napari_histomix.widgets import train_panel
from napari_histomix.widgets.base import RunBar
from napari_histomix.widgets.dock import HistoMixDock
from napari_histomix.widgets.loading import open_job
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.session_form import SessionForm
from napari_histomix.widgets.train_panel import LossPlot, TrainPanel, first_rows
from napari_histomix.widgets.viewer_layers import micrometers, pixels_of

UM = {"scale": (0.25, 0.25), "units": ("um", "um")}


def rgb(value: int = 100, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def card(out: Path, step: int, validation: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    best = {"step": step, "minutes": 1.0, "validation": validation}
    (out / "histomix.json").write_text(json.dumps({"history": [best], "best": best}))


class Trainer:
    """Stands in for ``train``: says what it was asked, trains until it is let go or closed."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.go = threading.Event()
        self.steps = 0
        self.error: Exception | None = None

    def __call__(self, kind: str, images: Any, out: Path, **how: Any) -> Any:
        self.asked = {"kind": kind, "images": images, "out": out, **how}
        yield Event("Reading images", message="Skipped: one.png cannot be read as an image.")
        try:
            while not self.go.wait(0.002):
                self.steps += 1
                figures = {"step": self.steps, "loss": 1 / self.steps, "left": 720.0}
                if self.steps == 3:
                    card(out, 3, 0.1234)
                    sheet = np.zeros((256, 192, 3), np.uint8)
                    yield Event("Training", 3, 300, sheet, figures=figures | {"validation": 0.1234})
                yield Event("Training, loss 0.2000", self.steps, 300, figures=figures)
                if self.error is not None:
                    raise self.error
        finally:
            if self.steps and self.error is None:
                card(out, self.steps, 0.1)
        return out


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    one = Trainer()
    # Networks may be loading ahead since a test of another file.
    prepare_torch()
    monkeypatch.setattr(train_panel, "load_networks_ahead", lambda: None)
    monkeypatch.setattr("napari_histomix.training.loop.train", one)
    return one


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(qtbot, trainer, viewer, tmp_path) -> TrainPanel:
    one = TrainPanel(viewer, Session(home=tmp_path))
    qtbot.addWidget(one)
    one.show()
    yield one
    trainer.go.set()


@pytest.fixture
def ready(panel, viewer, qtbot) -> TrainPanel:
    """With one open image whose scale is known."""
    viewer.add_image(rgb(), rgb=True, name="tissue", **UM)
    panel.tissue.kind.setCurrentIndex(1)
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    return panel


def test_from_the_choice_of_a_network_its_kind_is_trained(qtbot, trainer, viewer, tmp_path) -> None:
    dock = HistoMixDock(viewer, Session(home=tmp_path))
    qtbot.addWidget(dock)
    painting = dock.open("make/generate").paint_form
    painting.kind.setCurrentIndex(painting.kind.findData("pix2pix"))
    (button,) = (each for each in painting.findChildren(QPushButton) if each.text() == "Train a network …")
    button.click()
    qtbot.waitUntil(lambda: dock.place == "make/train")
    assert dock.open("make/train").form.kind == "pix2pix"


def test_a_page_that_is_still_being_built_does_not_come_over_a_later_one(qtbot, viewer, tmp_path) -> None:
    dock = HistoMixDock(viewer, Session(home=tmp_path))
    qtbot.addWidget(dock)
    dock.session.page_requested.emit("make/train")
    dock.session.page_requested.emit("review")
    qtbot.wait(50)
    assert dock.current == "review"
    dock.session.page_requested.emit("make/train")
    qtbot.waitUntil(lambda: dock.place == "make/train")


def texts(panel: TrainPanel) -> list[str]:
    return [panel.tissue.layers.item(row).text() for row in range(panel.tissue.layers.count())]


def test_the_module_needs_no_torch() -> None:
    code = "import sys, napari_histomix.widgets.train_panel; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_open_images_are_listed_as_they_come_and_go(panel, viewer, qtbot) -> None:
    listed = panel.tissue.layers
    viewer.add_image(np.zeros((64, 64), np.uint8), name="gray")
    viewer.add_labels(np.zeros((64, 64), int))
    first = viewer.add_image(rgb(1), rgb=True, name="first")
    viewer.add_image(rgb(2), rgb=True, name="test", metadata={"histomix": {"split": "test"}})
    viewer.add_image(rgb(3), rgb=True, name="made", metadata={"histomix": {"split": "train", "synthetic": True}})
    second = viewer.add_image(rgb(4), rgb=True, name="second", metadata={"histomix": {"split": "train"}}, **UM)
    qtbot.waitUntil(lambda: texts(panel) == ["second · 0.25 µm/px", "first"])
    listed.item(1).setCheckState(Qt.CheckState.Unchecked)
    assert listed.checked() == [second]
    first.name = "renamed"
    second.scale = (0.5, 0.5)
    qtbot.waitUntil(lambda: texts(panel) == ["second · 0.5 µm/px", "renamed"])
    assert listed.checked() == [second]
    viewer.layers.remove(second)
    qtbot.waitUntil(lambda: texts(panel) == ["renamed"])
    assert listed.checked() == []
    viewer.layers.clear()
    qtbot.waitUntil(lambda: texts(panel) == [])
    panel.tissue.kind.setCurrentIndex(1)
    assert panel.tissue.none.isVisible() and "Open an RGB image" in panel.why.text()


@pytest.mark.parametrize(
    ("scale", "units", "expected"),
    [((0.25, 0.25), "um", 0.25), ((5e-4, 5e-4), "mm", 0.5), ((0.5, 0.5), "pixel", None), ((1, 1), None, None)],
)
def test_the_scale_of_a_layer(scale, units, expected) -> None:
    layer = Image(rgb(), rgb=True, scale=scale, units=units and (units, units))
    assert micrometers(layer) == (pytest.approx(expected) if expected else None)


def test_pixels_of_every_sort_become_8_bit_rgb() -> None:
    wanted = np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    alpha = np.concatenate([wanted, np.full((64, 64, 1), 9, np.uint8)], axis=2)
    for data in (wanted, alpha, wanted.astype(np.uint16) * 257, wanted / 255, dask.array.from_array(wanted)):
        ((name, pixels),) = pixels_of("one", data)
        assert name == "one" and pixels.dtype == np.uint8 and pixels is not data
        np.testing.assert_array_equal(pixels, wanted)
    stack = pixels_of("stack", np.stack([wanted, 255 - wanted]))
    assert [name for name, _ in stack] == ["stack 1", "stack 2"]
    np.testing.assert_array_equal(stack[1][1], 255 - wanted)
    with pytest.raises(HistomixError, match="too large"):
        pixels_of("slide", dask.array.zeros((100_000, 100_000, 3), np.uint8))


def test_of_a_multiscale_image_the_full_resolution_is_taken(panel, viewer, qtbot) -> None:
    viewer.add_image([rgb(7, 128), rgb(8, 64)], rgb=True, name="slide", multiscale=True)
    qtbot.waitUntil(lambda: panel.tissue.layers.count() == 1)
    panel.tissue.kind.setCurrentIndex(1)
    gather = panel.tissue.gather()
    viewer.layers.clear()
    ((name, pixels),) = gather()
    assert name == "slide" and pixels.shape == (128, 128, 3) and (pixels == 7).all()


def test_the_scale_is_asked_for_where_it_is_not_known(panel, viewer, qtbot) -> None:
    viewer.add_image(rgb(), rgb=True, name="known", **UM)
    viewer.add_image(rgb(), rgb=True, name="unknown")
    panel.tissue.kind.setCurrentIndex(1)
    qtbot.waitUntil(lambda: len(texts(panel)) == 2)
    run = panel.progress.run_button
    assert not run.isEnabled() and "µm" in panel.why.text() and panel.tissue.scale.isVisible()
    panel.tissue.scale.setValue(0.5)
    assert run.isEnabled() and not panel.why.isVisible() and panel.tissue.mpp() == (0.25, 0.5)
    panel.tissue.layers.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert not panel.tissue.scale.isVisible() and panel.tissue.mpp() == (0.25, 0.25)


def test_a_dropped_folder_is_looked_at(panel, qtbot, tmp_path) -> None:
    folder = tmp_path / "a & b"
    folder.mkdir()
    for number in range(3):
        Picture.fromarray(rgb(number)).save(folder / f"{number}.png")
    Picture.fromarray(rgb()[..., 0]).save(folder / "labels.png")
    (folder / "dataset.json").write_text('{"mpp": 0.5}')
    dragged = QMimeData()
    dragged.setUrls([QUrl.fromLocalFile(str(folder))])
    copy, left, none = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    panel.tissue.drop.dropEvent(QDropEvent(QPointF(5, 5), copy, dragged, left, none))
    qtbot.waitUntil(lambda: not panel.tissue.looking, timeout=60_000)
    assert "3 images" in panel.tissue.drop.label.text()
    assert panel.tissue.mpp() == (0.5, 0.5) and panel.tissue.gather()() == [folder]
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    empty = tmp_path / "empty"
    empty.mkdir()
    panel.tissue.drop.choose(empty)
    qtbot.waitUntil(lambda: not panel.tissue.looking)
    assert "no color" in panel.why.text() and not panel.progress.run_button.isEnabled()


def test_what_each_network_needs(ready, tmp_path) -> None:
    form = ready.form

    def starts() -> list[str]:
        return [form.start.itemData(index) for index in range(form.start.count())]

    assert starts() == ["bundled", "model", "nothing"] and form.options()["start"].name == "he-inpaint"
    assert not form.autoencoder.isVisible()
    form.start.setCurrentIndex(1)
    assert "begin with" in ready.why.text()
    form.start_folder.choose(tmp_path / "mine")
    assert form.options()["start"] == tmp_path / "mine" and not ready.why.isVisible()
    form.start.setCurrentIndex(2)
    assert form.options()["start"] is None and not ready.why.isVisible()
    form.network.setCurrentIndex(2)
    assert starts() == ["nothing", "model"] and form.autoencoder.isVisible() and "autoencoder" in ready.why.text()
    form.autoencoder.choose(tmp_path / "coder")
    assert ready.progress.run_button.isEnabled()


def test_another_size_than_the_bundled_weights_have_is_not_begun_with_them(panel, viewer) -> None:
    panel.session.take_opened(drain(open_job(sample_folder())))
    for kind, size in (("pix2pix", "paper"), ("segmenter", "full")):
        panel.bring_up(kind)
        assert panel.progress.run_button.isEnabled()
        panel.form.settings.fields["size"].value = size
        assert not panel.progress.run_button.isEnabled() and "begin from nothing" in panel.why.text()
        panel.form.start.setCurrentIndex(panel.form.start.findData("nothing"))
        assert panel.progress.run_button.isEnabled() and not panel.why.text()


def test_networks_that_learn_labels_take_the_dataset_of_the_session_or_a_folder(panel, trainer, qtbot) -> None:
    panel.form.network.setCurrentIndex(panel.form.network.findData("image"))
    assert panel.form.settings.isVisible() and panel.form.settings.fields["share"].value == 100
    assert "page Project" in panel.why.text() and not panel.progress.run_button.isEnabled()
    panel.session.take_opened(drain(open_job(sample_folder())))
    assert panel.progress.run_button.isEnabled(), panel.why.text()
    offered = panel.form.settings.fields["ignore"]
    assert {"lymphocyte", "tumor", "ignore"} <= set(offered._boxes) and "lymphocyte" not in offered.value
    assert not panel.tissue.scale.isVisible() and panel.tissue.known.isVisible()
    panel.form.settings.fields["share"].value = 20
    panel.progress.run_button.click()
    qtbot.waitUntil(lambda: trainer.steps > 5)
    trainer.go.set()
    qtbot.waitUntil(lambda: not panel.runner.running)
    (dataset,) = trainer.asked["images"]
    assert dataset.name == panel.session.dataset.name and trainer.asked["settings"].share == 20
    assert trainer.asked["kind"] == "image" and "mpp" not in trainer.asked
    panel.use_button.click()
    assert panel.session.networks == {"image": panel._out} and panel.use_button.text() == "In use"
    panel.tissue.drop.choose(sample_folder())
    panel.tissue.kind.setCurrentIndex(1)
    qtbot.waitUntil(lambda: not panel.tissue.looking)
    assert panel.tissue.words() == dataset.name and panel.tissue.source == "folder"
    panel.form.network.setCurrentIndex(0)
    qtbot.waitUntil(lambda: not panel.tissue.looking)
    assert panel.tissue.dataset is None and panel.tissue.source == "folder"


@pytest.mark.parametrize("kind", ["inpainter", "autoencoder", "latent"])
def test_networks_without_labels_learn_from_the_training_split_of_the_open_dataset(
    panel, trainer, qtbot, tmp_path, kind
) -> None:
    panel.bring_up(kind)
    panel.form.autoencoder.choose(tmp_path / "coder")
    assert not panel.progress.run_button.isEnabled()
    panel.session.take_opened(drain(open_job(sample_folder())))
    assert panel.tissue.source == "dataset" and panel.progress.run_button.isEnabled(), panel.why.text()
    # The splits that a person chose in this window count.
    opened = panel.session.dataset
    chosen = {entry.source.image: entry.source.split or "train" for entry in opened.entries}
    taken = next(name for name, split in chosen.items() if split == "train")
    panel.session.choose_splits({**chosen, taken: "test"})
    panel.progress.run_button.click()
    assert "training split of" in panel.summary.text()
    qtbot.waitUntil(lambda: trainer.steps > 5)
    trainer.go.set()
    qtbot.waitUntil(lambda: not panel.runner.running)
    (dataset,) = trainer.asked["images"]
    assert taken not in {entry.source.image for entry in dataset.training} and dataset.training
    mpp = opened.entries[0].mpp
    assert trainer.asked["kind"] == kind and trainer.asked["mpp"] == (mpp, mpp)


def test_a_run_and_its_use_for_synthesis(ready, trainer, viewer, qtbot, tmp_path) -> None:
    chosen = SessionForm(ready.session, PaintingSettings)
    qtbot.addWidget(chosen)
    elsewhere = Session(home=tmp_path / "elsewhere")
    ready.form.settings.fields["minutes"].value = 5
    ready.form.settings.fields["seed"].value = 3
    ready.progress.run_button.click()
    assert not ready.form.isVisible() and not ready.progress.run_button.isVisible()
    qtbot.waitUntil(lambda: trainer.steps > 10 and ready.sample.isVisible())
    viewer.layers.clear()
    status = ready.progress.status.text()
    # 300 steps are not 300 seconds.
    assert "step" in status and "about 12 min left" in status
    elsewhere_too = RunBar("", ready.runner)
    qtbot.addWidget(elsewhere_too)
    assert "about 12 min left" in elsewhere_too.status.text() and " of " not in elsewhere_too.status.text()
    assert ready.preview.pixels.shape == (128, 192, 3)
    qtbot.waitUntil(lambda: len(ready.plot.losses) > 3)
    assert ready.plot.validations == [(3, 0.1234)]
    assert ready.note.kind == "warning" and "Skipped" in ready.note.text()
    trainer.go.set()
    qtbot.waitUntil(lambda: not ready.runner.running)
    asked = trainer.asked
    out = tmp_path / "models" / "My tissue"
    settings = asked.pop("settings")
    assert (settings.minutes, settings.seed, settings.steps) == (5.0, 3, None)
    ((name, pixels),) = asked.pop("images")
    assert name == "tissue" and (pixels == 100).all()
    assert asked.pop("start").name == "he-inpaint"
    assert asked == {
        "kind": "inpainter",
        "out": out,
        "autoencoder": None,
        "mpp": (0.25, 0.25),
        "device": "auto",
        "resume": False,
        "splits": {},
    }
    assert ready.note.text().startswith("Done. The best network") and "My tissue" in ready.note.text()
    assert "Skipped" in ready.note.text()
    assert ready.form.out.name == "My tissue 2"
    ready.use_button.click()
    assert ready.session.networks == {"inpainter": out} and not elsewhere.networks
    assert chosen.fields["model"].box.native.currentText() == "My tissue" and not ready.use_button.isEnabled()
    chosen.fields["model"].value = ""
    assert not ready.session.networks and ready.use_button.isEnabled()


def test_how_a_run_ended_is_in_sight_on_a_low_page(ready, trainer, qtbot) -> None:
    ready.resize(360, 260)
    ready.progress.run_button.click()
    qtbot.waitUntil(lambda: trainer.steps > 5)
    trainer.go.set()
    qtbot.waitUntil(lambda: not ready.runner.running)
    qtbot.wait(100)
    for part in (ready.note, ready.use_button):
        assert part.visibleRegion().boundingRect().height() == part.height()


def test_stop_keeps_the_best_and_offers_to_go_on(ready, trainer, qtbot) -> None:
    out = ready.form.out
    ready.progress.run_button.click()
    qtbot.waitUntil(lambda: trainer.steps > 5)
    state = out.with_name(out.name + ".training")
    state.mkdir()
    saved = {"step": 1234, "minutes": 2.5, "saved": "2026-03-04T12:00:00+00:00", "kind": "inpainter"}
    (state / "run.json").write_text(json.dumps(saved))
    ready.progress.pause_button.click()
    assert ready.progress.pause_button.text() == "Resume" and ready.progress.status.text().startswith("Paused")
    ready.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not ready.runner.running)
    assert ready.note.text().startswith("Stopped. The best network (step ")
    assert "validation loss 0.1000) is in the folder My tissue" in ready.note.text()
    assert ready.use_button.isVisible()
    assert not ready.progress.run_button.isEnabled() and "unfinished" in ready.why.text()
    assert "4 Mar 2026" in ready.resume_button.text() and "step 1,234" in ready.resume_button.text()
    ready.resume_button.click()
    qtbot.waitUntil(lambda: trainer.asked.get("resume") is True)
    assert trainer.asked["out"] == out and ready.plot.validations[0][1] == 0.1
    trainer.go.set()
    qtbot.waitUntil(lambda: not ready.runner.running)


def test_an_unfinished_run_is_offered_to_whoever_opens_the_dock(trainer, viewer, qtbot, tmp_path) -> None:
    from napari_histomix.training.loop import state_folder

    done, killed = tmp_path / "models" / "My tissue", tmp_path / "models" / "My tissue 2"
    card(done, 5, 0.2)
    state_folder(killed).mkdir()
    saved = {"step": 7, "minutes": 2.5, "saved": "2026-03-04T12:00:00+00:00", "kind": "inpainter"}
    (state_folder(killed) / "run.json").write_text(json.dumps(saved))
    panel = TrainPanel(viewer, Session(home=tmp_path))
    qtbot.addWidget(panel)
    panel.show()
    qtbot.waitUntil(panel.resume_button.isVisible)
    assert panel.form.out == killed and not panel.resume_button.isEnabled()
    viewer.add_image(rgb(), rgb=True, **UM)
    panel.tissue.kind.setCurrentIndex(1)
    qtbot.waitUntil(panel.resume_button.isEnabled)
    # Another network gets a name of its own; the run is found again with its own network.
    panel.bring_up("autoencoder")
    assert panel.form.out.name == "My tissue 3" and not panel.resume_button.isVisible()
    panel.form.name.setText("My tissue 2")
    assert "another network" in panel.why.text() and not panel.resume_button.isEnabled()
    panel.bring_up("inpainter")
    assert panel.form.out == killed and panel.resume_button.isEnabled()
    panel.form.name.setText("My tissue")
    assert not panel.resume_button.isVisible() and "already" in panel.why.text()
    for name in ("", "..", "a/b", "a:b"):
        panel.form.name.setText(name)
        assert "name" in panel.why.text() and not panel.progress.run_button.isEnabled()
    panel.form.name.setText("other")
    qtbot.waitUntil(panel.progress.run_button.isEnabled)


@pytest.mark.parametrize(
    ("error", "said"),
    [(HistomixError("Free some space."), "Free some space."), (KeyError("k"), "Something unexpected")],
)
def test_a_failure_is_one_sentence_and_the_best_is_named(ready, trainer, qtbot, error, said) -> None:
    trainer.error = error
    card(ready.form.out, 4, 0.3)
    ready._out = ready.form.out
    ready.form.name.setText("new")
    qtbot.waitUntil(ready.progress.run_button.isEnabled)
    ready.progress.run_button.click()
    qtbot.waitUntil(lambda: not ready.runner.running)
    assert ready.note.kind == "error" and ready.note.text().startswith(said)
    assert "Traceback" not in ready.note.text() and "My tissue" not in ready.note.text()
    assert ready.form.isVisible() and not ready.result.isVisible()


def test_a_finished_autoencoder_is_ready_to_be_built_on(ready, trainer, qtbot, tmp_path) -> None:
    ready.form.network.setCurrentIndex(1)
    ready.progress.run_button.click()
    qtbot.waitUntil(lambda: trainer.steps > 5)
    trainer.go.set()
    qtbot.waitUntil(lambda: not ready.runner.running)
    assert trainer.asked["kind"] == "autoencoder" and trainer.asked["start"] is None
    assert ready.form.autoencoder.folder == tmp_path / "models" / "My tissue"
    assert ready.show_button.isVisible() and not ready.use_button.isVisible()


def test_a_long_run_takes_no_more_memory_than_a_short_one(qtbot) -> None:
    plot, most = LossPlot(), LossPlot.MOST
    qtbot.addWidget(plot)
    for step in range(10 * most):
        plot.add(step, 2.0 if step < 50 else 0.1 + 0.05 * (step % 2))
    plot.add(10 * most, validation=0.08)
    plot.add(10 * most, float("nan"))
    assert len(plot.losses) < most
    first, last, low, high = plot.limits()
    assert first < 20 and last == 10 * most and low < 0.08 and 0.1 < high < 0.5
    steps = np.array([step for step, _ in plot.losses])
    assert (np.diff(steps) > 0).all() and np.ptp(np.diff(steps)) < 1e-6
    plot.clear()
    assert plot.limits() is None


@pytest.mark.parametrize("losses", [[], [0.5], [0.5, 0.5], [0.0], [0.90, 0.91, 0.92]])
def test_few_losses_have_axes_too(qtbot, losses) -> None:
    plot = LossPlot()
    qtbot.addWidget(plot)
    for step, loss in enumerate(losses, start=1):
        plot.add(step, loss)
    plot.show()
    plot.grab()
    if losses:
        first, last, low, high = plot.limits()
        assert first < last and low <= min(losses) and high >= max(losses) and low < high


def test_the_plot_follows_the_theme(panel, viewer) -> None:
    panel.plot.add(1, 0.5, 0.4)
    panel.plot.show()
    dark = panel.plot.grab().toImage().pixelColor(2, panel.plot.height() - 2).lightness()
    viewer.theme = "light"
    light = panel.plot.grab().toImage().pixelColor(2, panel.plot.height() - 2).lightness()
    assert dark < 80 and light > 180


def test_as_many_samples_as_fit() -> None:
    assert first_rows(np.zeros((256, 192, 3), np.uint8), 3).shape == (128, 192, 3)
    assert first_rows(np.zeros((512, 256, 3), np.uint8), 2).shape == (128, 256, 3)
    assert first_rows(np.zeros((64, 192, 3), np.uint8), 3).shape == (64, 192, 3)
