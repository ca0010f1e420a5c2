from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mix_samples import IMAGES, SIDE, make_mix_study, make_tissue
from napari.components import ViewerModel
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QListView, QProgressBar

from napari_histomix.datasets import open_tissue
from napari_histomix.methods.usegmix import MixSettings, compose
from napari_histomix.records import Event, HistomixError, MixedImage
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.mix import jobs as mix_jobs
from napari_histomix.widgets.mix import runs as mix_runs
from napari_histomix.widgets.mix.panel import MixPanel
from napari_histomix.widgets.session import Session


def fake_mix(dataset, pool, plan, settings, model=None):
    """As ``make_mix``, without a network: what is to be painted is gray."""
    images = {entry.source.image: dataset.read(entry) for entry in dataset.training}
    pixels, origin, facts = compose(images[plan.image], pool, plan.exchanges, images, settings.stain_matching)
    for step in range(2):
        yield Event(f"Blending {plan.name}", step, 2, preview=pixels)
        time.sleep(0.06)
    pixels[origin == 2] = 128
    return MixedImage(plan.name, plan.kind, plan.image, pixels, origin, plan.seed, {"donors": facts, "sampler": "fast"})


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    for module in (mix_jobs, mix_runs):
        monkeypatch.setattr(module, "make_mix", fake_mix)
        monkeypatch.setattr(module, "prepare_torch", lambda: None)
    monkeypatch.setattr("napari_histomix.widgets.mix.panel.warm_networks", lambda: None)


@pytest.fixture
def study(tmp_path) -> Study:
    return make_mix_study(tmp_path / "study")


@pytest.fixture
def make_panel(qtbot, tmp_path):
    def make() -> MixPanel:
        one = MixPanel(ViewerModel(), Session(home=tmp_path))
        qtbot.addWidget(one)
        one.resize(420, 1000)
        one.show()
        return one

    return make


@pytest.fixture
def panel(make_panel, qtbot, study) -> MixPanel:
    one = make_panel()
    one.open_study(study.folder)
    settle(qtbot, one)
    return one


def settle(qtbot, panel) -> None:
    def quiet() -> bool:
        latest = panel.target.loader, panel.target.previews, panel.review.loader, panel.export.counter
        return not panel.work.busy and not any(one.busy for one in latest) and not panel.target._soon.isActive()

    qtbot.waitUntil(quiet, timeout=20_000)
    qtbot.wait(20)
    qtbot.waitUntil(quiet, timeout=20_000)


def choose(qtbot, panel, label: int = 1) -> None:
    panel.target.choose(label)
    settle(qtbot, panel)


def make_batch(qtbot, panel, count: int = 2) -> None:
    panel.batch.count.setValue(count)
    panel.batch.low.setValue(10)
    panel.batch.bar.run_button.click()
    settle(qtbot, panel)


def donors(panel) -> list[int]:
    return [cell.donor.number for cell in panel.target.grid.cells if cell.donor is not None]


def look_at(qtbot, panel, place: int) -> int:
    number = panel.work.numbers[place]
    panel.review.go(number)
    settle(qtbot, panel)
    assert panel.review.visible_number == number
    return number


def notes(panel) -> str:
    parts = (panel, panel.target, panel.batch, panel.review, panel.export)
    return " ".join(one.note.text() for one in parts)


def test_the_form_begins_with_the_methods_own_defaults(make_panel) -> None:
    panel = make_panel()
    assert panel.batch.settings() == MixSettings()
    panel.form.temperature.setValue(1.5)
    panel.form.low.setValue(0.7)
    panel.form.own_patient.setChecked(True)
    panel.form.stain.setChecked(False)
    panel.form.seed.setValue(4)
    panel.batch.low.setValue(40)
    panel.batch.high.setValue(60)
    panel.batch.count.setValue(3)
    assert panel.batch.settings() == MixSettings(3, (0.4, 0.6), 1.5, (0.7, 2.0), True, False, seed=4)
    panel.batch.low.setValue(90)
    assert panel.batch.low.value() == 60


def test_before_a_study_is_open_there_is_one_button(make_panel) -> None:
    panel = make_panel()
    assert panel.progress.run_button.isVisible() and panel.empty.isVisible() and not panel.results.isVisible()
    for act in (panel.target.run, panel.target.choose_random, panel.batch.run, panel.export.run, panel.review.undo):
        act()
    panel.review.decide("approve")
    panel.review.move_by(1)
    assert not panel.work.busy


def test_every_control_says_what_it_does_and_all_fits(panel, qtbot) -> None:
    panel.settings.toggle.setChecked(True)
    make_batch(qtbot, panel, 1)
    look_at(qtbot, panel, 0)
    panel.review.decide("approve")
    settle(qtbot, panel)
    for kind in (QAbstractButton, QAbstractSpinBox, QComboBox, QListView, QProgressBar):
        for one in panel.results.findChildren(kind):
            within = isinstance(one.parent(), QComboBox | QListView) or one.parent().inherits("QAbstractItemView")
            if one.isVisible() and not within and not isinstance(one, QLineEdit):
                assert one.toolTip(), one
    assert panel.minimumSizeHint().width() <= 400
    assert panel.area.widget().minimumSizeHint().width() <= 390


def test_an_image_is_shown_with_the_segments_that_nobody_dropped(make_panel, study, qtbot) -> None:
    Curation(study, SegmentPool(study.folder)).decide([1], "drop")
    panel = make_panel()
    panel.take(study, SegmentPool(study.folder), open_tissue(study.dataset_root))
    settle(qtbot, panel)
    image, labels = panel.layers.layer("image"), panel.layers.layer("segments")
    assert image.metadata["histomix"]["image"] == labels.metadata["histomix"]["image"] == "grade 2/one"
    assert image.data.shape == (SIDE, SIDE, 3) and tuple(labels.scale) == (0.5, 0.5)
    assert str(labels.units[0]) == "micrometer"
    assert np.unique(labels.data).tolist() == [0, 1, 7]
    assert {panel.target.image.itemText(index) for index in range(4)} == {name for name, _, _ in IMAGES}
    panel.target.choose_image("grade 3/four")
    settle(qtbot, panel)
    assert panel.layers.layer("image") is image and image.name == "grade 3/four"
    assert np.unique(panel.layers.layer("segments").data).tolist() == [0, 1]
    assert len(panel.viewer.layers) == 2


def test_donors_are_of_other_patients_of_a_fitting_size_and_not_dropped(panel, study, qtbot) -> None:
    choose(qtbot, panel)
    assert sorted(donors(panel)) == [3, 4, 6, 7]
    chances = [cell.donor.probability for cell in panel.target.grid.cells if cell.donor is not None]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1, abs=1e-5)
    first = panel.target.grid.cells[0]
    assert first.donor.image in first.toolTip() and "%" in first.caption
    # In another dock of the window a donor is dropped.
    Curation(panel.work.study, panel.work.pool).decide([4], "drop")
    panel.form.own_patient.setChecked(True)
    settle(qtbot, panel)
    assert sorted(donors(panel)) == [1, 3, 6, 7]
    panel.form.high.setValue(0.2)
    settle(qtbot, panel)
    assert sorted(donors(panel)) == []


def test_a_preview_is_what_would_be_blended(panel, qtbot) -> None:
    choose(qtbot, panel, 2)
    target = panel.target
    for place in (0, 1):
        qtbot.mouseClick(target.grid.cells[place], Qt.MouseButton.LeftButton)
        donor = target.grid.donor
        assert donor is target.grid.cells[place].donor and np.array_equal(target.after.pixels, donor.crop)
        (one,) = donor.plan.exchanges
        assert one.target == 1 and one.donor == donor.number
        images = {name: panel.work.dataset.read(name) for name, _, _ in IMAGES}
        pixels, origin, _ = compose(images["grade 2/one"], panel.work.pool, donor.plan.exchanges, images)
        box = mix_jobs.around(panel.work.pool.segment(1), pixels.shape)
        assert np.array_equal(pixels[box], donor.crop) and (origin[box] == 1).any()
    # The same with the keyboard.
    target.grid.cells[1].setFocus()
    qtbot.keyClick(target.grid.cells[1], Qt.Key.Key_Right)
    qtbot.keyClick(target.grid.cells[2], Qt.Key.Key_Space)
    assert target.grid.donor is target.grid.cells[2].donor


def test_one_target_is_replaced_by_the_donor_that_was_chosen(panel, study, qtbot) -> None:
    choose(qtbot, panel)
    target = panel.target
    target.grid.choose(2)
    donor = target.grid.donor
    captions = []
    target.runner.progressed.connect(lambda _event: captions.append(target.after.caption))
    target.bar.run_button.click()
    assert not panel.batch.bar.run_button.isEnabled() and "Another run" in panel.batch.bar.run_button.toolTip()
    assert not panel.other_button.isEnabled()
    settle(qtbot, panel)
    assert "Being painted" in captions and target.after.caption == "Blended"
    ((number, name),) = Study.open(study.folder).mix_names().items()
    mix = study.mix(number)
    assert (name, mix.kind, mix.target) == ("grade 2/one mix 1", "grade 2", "grade 2/one")
    assert [one["segment"] for one in mix.provenance["donors"]] == [donor.number]
    image, origin = panel.layers.layer("synthetic"), panel.layers.layer("origin")
    assert np.array_equal(image.data, mix.pixels) and np.array_equal(origin.data, mix.origin)
    assert tuple(image.scale) == tuple(origin.scale) == (0.5, 0.5)
    assert image.visible and origin.visible and not panel.layers.layer("image").visible
    assert panel.review.current == number and panel.review.state.text() == "0 approved · 0 rejected · 1 left"
    assert panel.other_button.isEnabled()
    # A second one gets a name of its own, and a target brings its image back.
    target.run()
    settle(qtbot, panel)
    assert list(study.mix_names().values()) == ["grade 2/one mix 1", "grade 2/one mix 2"]
    target.choose_random()
    settle(qtbot, panel)
    assert panel.layers.layer("image").visible and not image.visible and target.number in (1, 2)
    assert len(panel.viewer.layers) == 5


def test_only_the_donors_of_the_last_target_are_shown(panel, qtbot, monkeypatch) -> None:
    def slow(*args: Any) -> Any:
        time.sleep(0.1)
        return compose(*args)

    monkeypatch.setattr(mix_jobs, "compose", slow)
    panel.target.choose(1)
    qtbot.waitUntil(lambda: panel.target.grid.count > 0, timeout=5000)
    panel.target.choose(2)
    assert panel.target.grid.count == 0
    proposed = []
    panel.target.grid.chosen.connect(proposed.append)
    settle(qtbot, panel)
    assert [donor.plan.exchanges[0].target for donor in proposed] == [1]
    plans = [cell.donor.plan for cell in panel.target.grid.cells if cell.donor is not None]
    assert len(plans) == 4 and {plan.exchanges[0].target for plan in plans} == {1}


def test_without_a_donor_it_is_said_why(panel, qtbot) -> None:
    panel.target.on_clicked("grade 3/four", 1)
    settle(qtbot, panel)
    assert panel.target.number == 9 and panel.target.grid.count == 0
    assert "No segment of its class may take its place" in panel.target.note.text()
    assert not panel.target.bar.run_button.isEnabled()
    assert panel.target.views.isVisible()
    panel.target.choose(5)
    assert "no segment of the pool" in panel.target.note.text()


def test_a_label_chosen_in_the_layer_is_the_target(panel, qtbot) -> None:
    panel.layers.layer("segments").selected_label = 2
    settle(qtbot, panel)
    assert panel.target.number == 1 and panel.target.grid.count == 4
    colors = panel.layers.layer("segments").colormap.color_dict
    assert not np.allclose(colors[2], colors[None])


def test_a_batch_saves_every_image_and_says_which_class_has_none(panel, study, qtbot) -> None:
    words = []
    panel.batch.runner.progressed.connect(lambda _event: words.append(panel.batch.bar.status.text()))
    make_batch(qtbot, panel, 3)
    assert "1 of 3 …" in words and "3 of 3 …" in words
    mixes = [study.mix(number) for number in study.mix_names()]
    assert len(mixes) == 3 and {mix.kind for mix in mixes} == {"grade 2"}
    assert panel.batch.note.kind == "warning" and panel.batch.note.text().startswith("3 of 6 images made.")
    assert "Grade 3: a class needs two segments at least" in panel.batch.note.text()
    assert panel.review.model.rowCount() == 3
    assert study.settings()["mix_settings"]["per_class"] == 3


def test_cancel_keeps_what_is_finished(panel, study, qtbot) -> None:
    panel.batch.count.setValue(50)
    panel.batch.low.setValue(10)
    panel.batch.bar.run_button.click()
    qtbot.waitUntil(lambda: panel.review.model.rowCount() >= 2, timeout=20_000)
    panel.batch.bar.cancel_button.click()
    settle(qtbot, panel)
    kept = len(study.mix_names())
    assert 2 <= kept < 50 and panel.review.model.rowCount() == kept
    assert panel.batch.note.text() == f"Stopped. {kept} finished images kept."
    assert panel.batch.bar.run_button.isEnabled()


def test_a_batch_that_fails_keeps_what_is_finished(panel, study, qtbot, tmp_path) -> None:
    panel.batch.count.setValue(50)
    panel.batch.low.setValue(10)
    panel.batch.run()
    qtbot.waitUntil(lambda: panel.review.model.rowCount() >= 1, timeout=20_000)
    shutil.rmtree(tmp_path / "tissue")
    settle(qtbot, panel)
    assert panel.batch.note.kind == "error" and "kept." in panel.batch.note.text()
    assert str(tmp_path) not in notes(panel) and len(study.mix_names()) >= 1


def test_decisions_are_on_disk_and_can_be_taken_back(panel, study, qtbot) -> None:
    make_batch(qtbot, panel, 3)
    review = panel.review
    first = look_at(qtbot, panel, 0)
    qtbot.mouseClick(review.approve_button, Qt.MouseButton.LeftButton)
    settle(qtbot, panel)
    second = review.visible_number
    assert second == panel.work.numbers[1]
    review.decide("reject")
    settle(qtbot, panel)
    assert Study.open(study.folder).decisions("mix") == {first: "approve", second: "reject"}
    assert review.state.text() == "1 approved · 1 rejected · 1 left"
    assert review.model.data(review.model.index(0)).startswith("✓")
    review.undo()
    settle(qtbot, panel)
    assert review.visible_number == second and Study.open(study.folder).decisions("mix") == {first: "approve"}
    review.undo()
    review.undo()
    assert "nothing to undo" in review.note.text() and Study.open(study.folder).decisions("mix") == {}


def test_no_one_decides_on_what_they_do_not_see(panel, study, qtbot) -> None:
    make_batch(qtbot, panel, 2)
    review = panel.review
    review.decide("approve")
    assert not study.decisions("mix") and not review.approve_button.isEnabled()
    look_at(qtbot, panel, 0)
    review.move_by(1)  # still being read
    review.decide("approve")
    settle(qtbot, panel)
    panel.target.show_image()
    review.decide("approve")
    assert not study.decisions("mix") and not review.approve_button.isEnabled()
    look_at(qtbot, panel, 1)
    panel.viewer.layers.remove(panel.layers.layer("synthetic"))
    review.decide("approve")
    assert not study.decisions("mix")


def test_a_decision_that_cannot_be_written_is_not_shown(panel, study, qtbot, monkeypatch, tmp_path) -> None:
    make_batch(qtbot, panel, 1)
    look_at(qtbot, panel, 0)

    def full(*_: Any) -> None:
        raise HistomixError(f"The study {study.folder} cannot be read or written (disk full); make room.")

    monkeypatch.setattr(Study, "act", full)
    panel.review.decide("approve")
    assert panel.review.state.text() == "0 approved · 0 rejected · 1 left"
    assert "disk full" in panel.review.note.text() and str(tmp_path) not in panel.review.note.text()


def test_a_study_that_is_lost_while_it_is_shown_is_said(panel, study, qtbot) -> None:
    make_batch(qtbot, panel, 2)
    look_at(qtbot, panel, 0)
    (study.folder / "study.sqlite").write_bytes(b"rubbish")
    panel.review.decide("approve")
    panel.review.details.reasons["seam"].click()
    panel.review.undo()
    assert panel.review.note.kind == "error" and panel.review.note.text().count("\n") == 0
    assert panel.review.state.text() == "0 approved · 0 rejected · 2 left"


def test_reasons_notes_and_deletion_are_written_down_with_who_said_it(panel, study, qtbot, monkeypatch) -> None:
    make_batch(qtbot, panel, 2)
    review, details = panel.review, panel.review.details
    monkeypatch.setattr(type(panel.session), "reviewer", "Dr. Ada")
    panel.session.introduce(panel.work.study)
    first = look_at(qtbot, panel, 0)
    qtbot.mouseClick(details.reasons["stain"], Qt.MouseButton.LeftButton)
    review.toggle_reason("seam")
    details.note.setText("a purple edge")
    review.decide("reject")
    kept = Study.open(study.folder)
    assert kept.decisions("mix reasons") == {first: "seam, stain"}
    assert kept.decisions("mix note") == {first: "a purple edge"} and kept.decided("mix")[first].who == "Dr. Ada"
    settle(qtbot, panel)
    second = review.visible_number
    assert second != first and not details.note.text()
    assert not any(button.isChecked() for button in details.reasons.values())
    review.decide("delete")
    settle(qtbot, panel)
    assert Study.open(study.folder).decisions("mix") == {first: "reject", second: "delete"}
    assert review.state.text() == "0 approved · 1 rejected · 0 left · 1 deleted"
    look_at(qtbot, panel, 1)
    review.decide("undecided")
    assert Study.open(study.folder).decisions("mix") == {first: "reject"} and review.visible_number == second
    look_at(qtbot, panel, 0)
    assert details.note.text() == "a purple edge" and details.reasons["seam"].isChecked()
    assert "rejected by Dr. Ada" in review.about.text()
    for _ in range(3):
        review.undo()
        settle(qtbot, panel)
    assert Study.open(study.folder).decisions("mix") == {} and details.note.text() == "a purple edge"
    review.undo()
    review.undo()
    settle(qtbot, panel)
    assert Study.open(study.folder).decisions("mix reasons") == {first: "stain"}
    assert not details.note.text() and details.reasons["stain"].isChecked() and not details.reasons["seam"].isChecked()


def test_real_and_synthetic_in_the_same_layers(panel, qtbot, monkeypatch) -> None:
    make_batch(qtbot, panel, 3)
    read = []
    real_mix = Study.mix
    monkeypatch.setattr(Study, "mix", lambda self, number: (read.append(number), real_mix(self, number))[1])
    review, layers = panel.review, panel.layers
    look_at(qtbot, panel, 0)
    triple = [layers.layer(what) for what in ("real", "synthetic", "origin")]
    assert all(one.visible for one in triple)
    review.real.setChecked(True)
    assert [one.visible for one in triple] == [True, False, False]
    assert np.array_equal(triple[0].data, panel.work.dataset.read(review.shown.mix.target).pixels)
    review.real.setChecked(False)
    review.origin.setChecked(False)
    assert [one.visible for one in triple] == [True, True, False]
    review.blink.setChecked(True)
    qtbot.waitUntil(lambda: not triple[1].visible, timeout=3000)
    qtbot.waitUntil(lambda: triple[1].visible, timeout=3000)
    review.blink.setChecked(False)
    look_at(qtbot, panel, 2)
    assert [layers.layer(what) for what in ("real", "synthetic", "origin")] == triple
    assert triple[1].visible and triple[1].name == panel.work.names[review.current]
    assert read == [panel.work.numbers[0], panel.work.numbers[2]]


def test_the_keys_are_given_back_with_the_target(panel, qtbot) -> None:
    make_batch(qtbot, panel, 1)
    assert not panel.viewer.keymap
    look_at(qtbot, panel, 0)
    assert panel.viewer.keymap
    panel.target.show_image()
    assert not panel.viewer.keymap
    look_at(qtbot, panel, 0)
    panel.hide()
    assert not panel.viewer.keymap


def test_what_is_approved_is_exported(panel, study, qtbot, make_panel, tmp_path) -> None:
    assert panel.export.empty.isVisible()
    make_batch(qtbot, panel, 3)
    for place, decision in ((0, "approve"), (1, "reject")):
        look_at(qtbot, panel, place)
        panel.review.decide(decision)
        settle(qtbot, panel)
    assert "1 image: 1 grade 2" in panel.export.summary.text() and "1 still undecided" in panel.export.summary.text()
    # In another session it is still known.
    other = make_panel()
    other.open_study(study.folder)
    settle(qtbot, other)
    assert "1 image: 1 grade 2" in other.export.summary.text()
    assert other.review.state.text() == "1 approved · 1 rejected · 1 left"
    out = tmp_path / "out"
    other.export.set_folder(out)
    qtbot.waitUntil(lambda: other.export.plan is not None, timeout=20_000)
    plan = other.export.plan
    assert f"{plan.files} files, about" in other.export.figures.text() and plan.synthetic == 1
    other.export.bar.run_button.click()
    settle(qtbot, other)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) == plan.files
    assert other.export.note.text() == "1 approved image exported to the folder out."
    rows = list(csv.DictReader((out / "images.csv").open()))
    approved = study.mix_names()[next(iter(study.decisions("mix")))]
    synthetic = [row for row in rows if row["synthetic"] == "yes"]
    assert len(rows) == len(IMAGES) + 1 and len(synthetic) == 1
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["synthetic"][0]["name"] == approved and manifest["mix_settings"]["per_class"] == 3
    assert other.export.folder != out
    other.export.set_folder(out)
    other.export.run()
    settle(qtbot, other)
    assert "already exists" in other.export.note.text() and str(tmp_path) not in other.export.note.text()


def test_an_export_that_would_fill_the_disk_is_refused(panel, qtbot, monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.study.export_plan.free_space", lambda _out: 1000)
    make_batch(qtbot, panel, 1)
    look_at(qtbot, panel, 0)
    panel.review.decide("approve")
    qtbot.waitUntil(lambda: panel.export.plan is not None, timeout=20_000)
    assert panel.export.figures.kind == "error" and "1.0 kB are free" in panel.export.figures.text()
    assert not panel.export.bar.run_button.isEnabled()


def test_images_that_moved_can_be_pointed_at(make_panel, study, qtbot, tmp_path) -> None:
    (tmp_path / "tissue").rename(tmp_path / "elsewhere")
    panel = make_panel()
    panel.open_study(study.folder)
    settle(qtbot, panel)
    assert panel.find_button.isVisible() and not panel.results.isVisible()
    assert panel.note.text() == "The images of study are not where they were."
    wrong = make_tissue(tmp_path / "wrong" / "tissue")
    for entry in wrong.entries:
        entry.image.rename(entry.image.with_name(f"other {entry.image.name}"))
    (wrong.root / "images.csv").unlink()
    panel.open_study(study.folder, wrong.root)
    settle(qtbot, panel)
    assert "is among the training images" in panel.note.text() and panel.find_button.isVisible()
    panel.open_study(study.folder, tmp_path / "elsewhere")
    settle(qtbot, panel)
    assert panel.results.isVisible() and not panel.find_button.isVisible() and not panel.note.text()
    again = make_panel()
    again.open_study(study.folder)
    settle(qtbot, again)
    assert again.results.isVisible()


@pytest.mark.parametrize("what", ["no study", "no pool"])
def test_what_cannot_be_opened_is_said_in_a_sentence(make_panel, study, qtbot, tmp_path, what) -> None:
    folder = tmp_path / "empty" if what == "no study" else study.folder
    folder.mkdir(exist_ok=True)
    shutil.rmtree(study.folder / "pool")
    panel = make_panel()
    panel.open_study(folder)
    settle(qtbot, panel)
    assert panel.note.kind == "error" and str(tmp_path) not in panel.note.text()
    assert ("is not a study" if what == "no study" else "no segment pool") in panel.note.text()
    assert panel.progress.run_button.isVisible() and panel.progress.run_button.isEnabled()


def test_an_image_that_changed_is_not_mixed(panel, qtbot) -> None:
    choose(qtbot, panel)
    file = panel.work.dataset.entry("grade 2/two").image
    Image.fromarray(np.full((SIDE, SIDE, 3), 200, np.uint8)).save(file)
    panel.form.seed.setValue(1)
    settle(qtbot, panel)
    assert "is not the one that the pool was made of" in panel.target.note.text()
    panel.target.choose_image("grade 2/two")
    settle(qtbot, panel)
    assert "is not the one that the pool was made of" in panel.target.note.text()
    assert not panel.target.bar.run_button.isEnabled() and not panel.target.random_button.isEnabled()


def test_layers_removed_in_mid_run_come_back(panel, qtbot) -> None:
    choose(qtbot, panel)
    panel.target.run()
    panel.viewer.layers.clear()
    settle(qtbot, panel)
    assert panel.target.note.kind == "good" and panel.layers.layer("synthetic").visible
    panel.viewer.layers.clear()
    panel.target.choose_random()
    settle(qtbot, panel)
    assert panel.layers.layer("segments").visible and panel.target.grid.count


def test_another_study_lets_go_of_everything(panel, qtbot, tmp_path) -> None:
    make_batch(qtbot, panel, 1)
    look_at(qtbot, panel, 0)
    choose(qtbot, panel)
    (tmp_path / "second").mkdir()
    other = make_mix_study(tmp_path / "second" / "study 2")
    panel.batch.count.setValue(20)
    panel.batch.run()
    panel.take(other)
    settle(qtbot, panel)
    assert panel.work.study is other and not other.mix_names() and panel.review.model.rowCount() == 0
    assert not notes(panel).strip() and panel.target.grid.count == 0 and len(panel.viewer.layers) == 2


def test_two_windows_share_nothing(panel, make_panel, qtbot, tmp_path) -> None:
    other = make_panel()
    (tmp_path / "second").mkdir()
    other.open_study(make_mix_study(tmp_path / "second" / "study 2").folder)
    settle(qtbot, other)
    choose(qtbot, panel)
    make_batch(qtbot, panel, 1)
    assert other.target.number == -1 and other.target.grid.count == 0 and not other.work.names
    assert len(other.viewer.layers) == 2


def test_tiny_segments_and_images(make_panel, qtbot, tmp_path) -> None:
    study = make_mix_study(tmp_path / "study")
    panel = make_panel()
    panel.open_study(study.folder)
    settle(qtbot, panel)
    choose(qtbot, panel, 7)
    crop = panel.target.grid.cells[0].donor.crop
    assert donors(panel) and crop.shape == (26, 26, 3)
    assert Path(study.folder).name in panel.title.text()
