"""What goes wrong in real use: cancel, failures, deleted layers, two viewers, a closed window."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from qtpy.QtCore import Qt

from napari_histomix.datasets import load_sample, sample_folder
from napari_histomix.methods import method_of
from napari_histomix.records import Event, HistomixError

pytestmark = pytest.mark.gui


def test_cancel_acts_and_leaves_nothing(with_candidates, tiny_model, qtbot, settle) -> None:
    dock = with_candidates(tiny_model)
    layers = list(dock.real_viewer.layers)
    dock.open("make/making")
    dock.make.form.fields["count"].value = 200
    seen: list[Event] = []
    dock.make.runner.progressed.connect(seen.append)
    dock.make.ask = lambda count: False
    dock.make.progress.run_button.click()
    qtbot.waitUntil(lambda: any(one.preview is not None for one in seen), timeout=60_000)
    dock.make.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not dock.make.runner.running, timeout=10_000)
    settle(dock)
    assert list(dock.real_viewer.layers) == layers
    assert len(dock.session.table) == 0 and dock.session.study.runs() == ()
    assert dock.make.progress.run_button.isEnabled()
    assert not dock.make.preview.isVisible()
    assert dock.make.note.text().startswith("Stopped")


@pytest.mark.parametrize(
    ("error", "said"),
    [(HistomixError("Put the slide back."), "Put the slide back."), (ZeroDivisionError("x"), "Something unexpected")],
)
def test_a_failure_is_one_sentence_and_run_comes_back(with_sample, settle, monkeypatch, error, said) -> None:
    dock = with_sample()

    def failing(self: Any, work: Any, settings: Any) -> Any:
        yield Event("Reading", 1, 2)
        raise error

    monkeypatch.setattr(type(method_of("nucleimix").stage), "find", failing)
    dock.open("make/plan")
    dock.plan.page.progress.run_button.click()
    settle(dock)
    note = dock.plan.page.note
    assert note.kind == "error" and note.text().startswith(said)
    assert "Traceback" not in note.text() and "\n" not in note.text()
    assert dock.plan.page.progress.run_button.isEnabled()
    assert dock.session.study is None


def test_a_folder_that_is_no_dataset_is_one_sentence(open_dock, settle, tmp_path) -> None:
    dock = open_dock()
    dock.data.open_folder(tmp_path)
    settle(dock)
    assert dock.data.note.kind == "error" and dock.data.note.text().endswith(".")
    assert dock.data.sample_button.isEnabled()
    assert dock.buttons["make"].state == "waiting"


def test_the_scale_is_asked_for_only_when_it_is_missing(open_dock, settle, qtbot, tmp_path) -> None:
    folder = tmp_path / "no scale"
    shutil.copytree(sample_folder(), folder)
    (folder / "dataset.json").unlink()
    for image in (folder / "Images").glob("*.png"):
        PIL.Image.fromarray(np.asarray(PIL.Image.open(image))).save(image)
    dock = open_dock()
    dock.data.open_folder(folder)
    settle(dock)
    assert dock.data.scale_box.isVisible() and dock.buttons["make"].state == "waiting"
    dock.data.scale.setValue(0.5)
    dock.data.scale_apply.click()
    qtbot.waitUntil(lambda: dock.session.image != "", timeout=60_000)
    settle(dock)
    assert not dock.data.scale_box.isVisible() and dock.buttons["make"].state != "waiting"
    assert dock.data.book.layer(dock.session.image, "image").scale[0] == 0.5


def test_masks_without_ids_are_read_shape_by_shape(open_dock, settle, tmp_path) -> None:
    source = load_sample()
    image = source.read(source.training[0])
    for part, pixels in (("images", image.pixels), ("masks", (image.instances > 0).astype(np.uint8) * 255)):
        (tmp_path / "binary" / part).mkdir(parents=True)
        PIL.Image.fromarray(pixels).save(tmp_path / "binary" / part / "a.png")
    dock = open_dock()
    dock.data.open_folder(tmp_path / "binary", 0.5)
    settle(dock)
    assert dock.session.survey.total.total() == 1 and "that lie apart" in dock.data.problems.item(0).text()
    dock.data.split_parts.click()
    settle(dock)
    assert dock.session.survey.total.total() > 20 and dock.session.dataset.split_parts
    assert not dock.data.split_parts.isVisible() and not dock.data.problems.isVisible()
    assert dock.session.dataset.missing_scale == ()


def test_layers_deleted_in_mid_run_and_in_review_do_no_harm(with_candidates, tiny_model, settle, qtbot) -> None:
    dock = with_candidates(tiny_model)
    viewer, session, book = dock.real_viewer, dock.session, dock.data.book
    dock.open("make/making")
    dock.make.form.fields["count"].value = 3
    dock.make.progress.run_button.click()
    viewer.layers.clear()
    settle(dock)
    assert len(session.table) == 3
    dock.open("review")
    settle(dock)
    image = session.image
    viewer.layers.remove(book.layer(image, "synthetic nuclei"))
    dock.review.contents.deciding.buttons["reject"].click()
    first = session.change(int(dock.review.queue.table.ids[dock.review.queue.shown[0]]))
    target = session.dataset.read(image)
    shown = book.layer(image, "synthetic").data
    np.testing.assert_array_equal(shown[first.window][first.origin > 0], target.pixels[first.window][first.origin > 0])
    # A renamed layer stays ours.
    book.layer(image, "synthetic").name = "mine"
    dock.review.contents.deciding.undo_button.click()
    assert (book.layer(image, "synthetic").data[first.window] != target.pixels[first.window]).any()


def test_two_viewers_share_nothing(with_candidates, with_sample) -> None:
    one = with_candidates()
    other = with_sample()
    assert one.session is not other.session
    one.plan.page.select([0])
    one.plan.page.keep_button.click()
    assert one.session.decisions["candidate"] and not other.session.decisions["candidate"]
    assert other.session.candidates is None and other.buttons["review"].state == "waiting"
    assert one.session.study_folder != other.session.study_folder
    assert not {id(layer) for layer in one.real_viewer.layers} & {id(layer) for layer in other.real_viewer.layers}


def test_a_second_search_keeps_what_was_decided(with_candidates, settle) -> None:
    dock = with_candidates()
    first = dock.session.study_folder
    dock.plan.page.select([0])
    dock.plan.page.keep_button.click()
    dock.plan.page.form.fields["seed"].value = 7
    dock.plan.page.progress.run_button.click()
    settle(dock)
    assert dock.session.study_folder != first
    assert dock.session.decisions["candidate"] == {}
    from napari_histomix.study import Study

    assert Study.open(first).decisions("candidate") == {0: "keep"}
    assert first.name in dock.plan.page.note.text()


def test_closing_by_menu_or_key_asks_before_it_ends_a_job(with_candidates, tiny_model, qtbot) -> None:
    dock = with_candidates(tiny_model)
    dock.open("make/making")
    dock.make.form.fields["count"].value = 500
    dock.make.progress.run_button.click()
    qtbot.waitUntil(lambda: dock.make.runner.running, timeout=10_000)
    asked: list[list[str]] = []
    dock.ask = lambda titles: asked.append(titles) or False
    # As napari's File menu does, once its own question is answered.
    dock.window().close(quit_app=False, confirm_need=False)
    assert asked == [["making images"]]
    assert dock.make.runner.running and dock.window().isVisible()


def test_closing_the_window_stops_the_job(with_candidates, tiny_model, qtbot) -> None:
    from superqt.utils import WorkerBase

    dock = with_candidates(tiny_model)
    dock.open("make/making")
    dock.make.form.fields["count"].value = 500
    dock.make.progress.run_button.click()
    qtbot.waitUntil(lambda: dock.make.runner.running, timeout=10_000)
    study = dock.session.study
    dock.real_viewer.close()
    qtbot.waitUntil(lambda: not any(one.is_running for one in WorkerBase._worker_set), timeout=20_000)
    assert len(study.changes()) < 500
    assert gc.get_freeze_count() == 0


TORCH_AFTER_A_WINDOW = """
import napari
from napari_histomix.widgets.loading_ahead import prepare_torch
viewer = napari.Viewer()
prepare_torch()
from diffusers import UNet2DModel
print("alive")
viewer.close()
"""


def test_torch_loads_after_a_window_was_opened(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TORCH_AFTER_A_WINDOW], capture_output=True, text=True, timeout=200, check=False
    )
    assert "alive" in done.stdout, done.stderr[-2000:]


def test_opening_something_else_asks_before_it_ends_a_run(with_candidates, tiny_model, qtbot, settle) -> None:
    dock = with_candidates(tiny_model)
    session, asked = dock.session, []
    dock.open("make/making")
    dock.make.form.fields["count"].value = 50
    dock.make.progress.run_button.click()
    qtbot.waitUntil(lambda: len(session.table) > 0, timeout=60_000)
    dock.data.ask = lambda titles: bool(asked.append(titles))
    study = session.study
    dock.data.open_sample()
    assert asked == [["making images"]] and dock.make.runner.running and session.study is study
    dock.data.ask = lambda titles: True
    dock.data.open_sample()
    qtbot.waitUntil(lambda: session.study is None and not dock.make.runner.running, timeout=60_000)
    settle(dock)
    # What was made is kept, in the study that it belongs to.
    assert len(study.change_table()) > 0


def test_arrows_are_the_pages_after_it_was_opened_by_keyboard(with_changes, qtbot, settle) -> None:
    dock = with_changes()
    dock.open("project")
    dock.buttons["review"].setFocus()
    qtbot.keyClick(dock.buttons["review"], Qt.Key.Key_Space)
    assert dock.current == "review"
    before = dock.review.queue.at
    qtbot.keyClick(dock.window().focusWidget(), Qt.Key.Key_Right)
    assert dock.review.queue.at == before + 1 and dock.current == "review"


def test_images_come_in_a_view_of_three_dimensions(with_sample, settle) -> None:
    dock = with_sample()
    session, viewer = dock.session, dock.real_viewer
    viewer.window._qt_viewer.viewerButtons.ndisplayButton.click()
    viewer.dims.roll()
    assert viewer.dims.ndisplay == 3
    session.step(1)
    settle(dock)
    named = {layer.name: layer for layer in viewer.layers}
    assert viewer.dims.ndisplay == 2 and named[session.image].visible


def test_a_decision_that_cannot_be_written_is_told_where_it_was_made(with_changes, settle, monkeypatch) -> None:
    dock = with_changes()
    dock.open("review")
    settle(dock)
    said: list[str] = []
    monkeypatch.setattr("napari_histomix.widgets.base.show_warning", said.append)

    def full(*_: Any) -> None:
        raise HistomixError("The disk is full; free space and decide again.")

    monkeypatch.setattr(type(dock.session.study), "act", full)
    decided = dict(dock.session.decisions["change"])
    dock.review.decide("approve")
    assert said == ["The disk is full; free space and decide again."]
    assert dict(dock.session.decisions["change"]) == decided
