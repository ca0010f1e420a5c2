"""The Mix dock without a network: a target, its donors, and the change that a person's choice becomes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mix_samples import IMAGES, SIDE, make_mix_study, make_tissue
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QListView, QProgressBar

from napari_histomix.methods import usegmix
from napari_histomix.methods.usegmix import compose
from napari_histomix.records import Change, Event, SourceRef
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.widgets import mix_donors
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.mix_panel import MixPanel
from napari_histomix.widgets.segments.panel import SegmentsPanel
from napari_histomix.widgets.session import Session


def fake_mix(dataset, pool, plan, settings, model):
    """As ``make_mix``, without a network: what is to be painted is gray."""
    images = {entry.source.image: dataset.read(entry) for entry in dataset.training}
    pixels, origin, facts = compose(images[plan.image], pool, plan.exchanges, images, settings.stain_matching)
    for step in range(2):
        yield Event(f"Blending {plan.name}", step, 2, preview=pixels)
        time.sleep(0.06)
    pixels[origin == 2] = 128
    sources = (SourceRef("target", plan.image), SourceRef("donor", facts[0]["image"], facts[0]["segment"]))
    parts = plan.image, plan.name, 0, 0, pixels, origin, None, {}, (), {plan.kind: 1.0}, "usegmix", plan.seed, sources
    return Change(0, *parts, provenance={"donors": facts, "sampler": "fast"})


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    monkeypatch.setattr(usegmix, "make_mix", fake_mix)
    monkeypatch.setattr(usegmix, "painter", lambda settings, loaded: None)
    monkeypatch.setattr(mix_donors, "prepare_torch", lambda: None)
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)


@pytest.fixture
def study(tmp_path) -> Study:
    return make_mix_study(tmp_path / "study")


@pytest.fixture
def make_panel(qtbot, tmp_path):
    def make() -> MixPanel:
        one = MixPanel(ViewerModel(), Session(home=tmp_path))
        qtbot.addWidget(one)
        # The paper's form, in which every donor fits.
        one.form.fields["outline"].value, one.form.fields["own_patient"].value = "segment", False
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
        runners = panel.runner, panel.loader, panel.previews, panel.blender
        return not any(one.busy for one in runners) and not panel._find_soon.isActive() and not panel.book.busy

    qtbot.waitUntil(quiet, timeout=30_000)
    qtbot.wait(20)
    qtbot.waitUntil(quiet, timeout=30_000)


def choose(qtbot, panel, label: int = 1) -> None:
    panel.choose(label)
    settle(qtbot, panel)


def donors(panel) -> list[int]:
    return [cell.donor.number for cell in panel.grid.cells if cell.donor is not None]


def changes(study):
    return list(Study.open(study.folder).changes())


def test_before_a_study_is_open_there_is_one_button(make_panel) -> None:
    panel = make_panel()
    assert panel.open_button.isVisible() and not panel.results.isVisible()
    panel.run()
    panel.choose_random()
    assert not panel.blender.running


@pytest.mark.parametrize("where", ["mix_panel", "segments.pool_box"])
def test_other_data_do_not_end_a_run_without_asking(make_panel, study, qtbot, monkeypatch, where) -> None:
    panel, asked = make_panel(), []
    monkeypatch.setattr(f"napari_histomix.widgets.{where}.ask_to_stop", lambda _, titles: asked.append([*titles]))

    def long():
        for step in range(1000):
            time.sleep(0.01)
            yield Event("Making", step, 1000)

    run = panel.session.follow(JobRunner(panel))
    run.start(long, "making images")
    if where == "mix_panel":
        panel.open_study(study.folder)
        opener = panel.runner
    else:
        tissue = SegmentsPanel(panel.viewer, panel.session)
        qtbot.addWidget(tissue)
        tissue.pool.choose_folder(study.dataset_root)
        opener = tissue.pool.runner
    assert asked == [["making images"]] and not opener.busy
    run.cancel()
    qtbot.waitUntil(lambda: not run.running)


def test_every_control_says_what_it_does_and_all_fits(panel, qtbot) -> None:
    panel.settings.toggle.setChecked(True)
    panel.form.advanced.expand(animate=False)
    choose(qtbot, panel)
    for kind in (QAbstractButton, QAbstractSpinBox, QComboBox, QListView, QProgressBar):
        for one in panel.results.findChildren(kind):
            within = isinstance(one.parent(), QComboBox | QListView) or one.parent().inherits("QAbstractItemView")
            if one.isVisible() and not within and not isinstance(one, QLineEdit):
                assert one.toolTip() or one.parent().toolTip() or one is panel.form.advanced.toggleButton(), one
    assert panel.minimumSizeHint().width() <= 400
    assert panel.area.widget().minimumSizeHint().width() <= 390


def test_an_image_is_shown_with_the_segments_that_nobody_dropped(make_panel, study, qtbot) -> None:
    Curation(study, SegmentPool(study.folder)).decide([1], "drop")
    panel = make_panel()
    panel.open_study(study.folder)
    settle(qtbot, panel)
    labels = panel.segments.layer
    (image,) = [one for one in panel.viewer.layers if isinstance(one, ImageLayer)]
    assert image.data.shape == (SIDE, SIDE, 3) and tuple(labels.scale) == tuple(image.scale) == (0.5, 0.5)
    assert str(labels.units[0]) == "micrometer"
    assert np.unique(labels.data).tolist() == [0, 1, 7]
    assert {panel.image.itemText(index) for index in range(4)} == {name for name, _, _ in IMAGES}
    panel.choose_image("grade 3/four")
    settle(qtbot, panel)
    assert panel.segments.layer is labels and labels.name == "grade 3/four segments"
    assert np.unique(labels.data).tolist() == [0, 1] and panel.session.image == "grade 3/four"
    panel.session.show("grade 2/two")
    settle(qtbot, panel)
    assert not labels.visible
    panel.show_button.click()
    settle(qtbot, panel)
    assert labels.visible and panel.session.image == "grade 3/four"


def test_donors_are_of_other_patients_of_a_fitting_size_and_not_dropped(panel, study, qtbot) -> None:
    choose(qtbot, panel)
    assert sorted(donors(panel)) == [3, 4, 6, 7]
    chances = [cell.donor.probability for cell in panel.grid.cells if cell.donor is not None]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1, abs=1e-5)
    first = panel.grid.cells[0]
    assert first.donor.image in first.toolTip() and "%" in first.caption
    # In another dock of the window a donor is dropped.
    Curation(panel.session.study, panel.tissue.pool).decide([4], "drop")
    panel.form.fields["own_patient"].value = True
    settle(qtbot, panel)
    assert sorted(donors(panel)) == [1, 3, 6, 7]
    panel.form.fields["area_ratio"].value = (0.05, 0.06)
    settle(qtbot, panel)
    assert sorted(donors(panel)) == []


def test_a_preview_is_what_would_be_blended(panel, qtbot) -> None:
    choose(qtbot, panel, 2)
    target = panel
    for place in (0, 1):
        qtbot.mouseClick(target.grid.cells[place], Qt.MouseButton.LeftButton)
        donor = target.grid.donor
        assert donor is target.grid.cells[place].donor and np.array_equal(target.after.pixels, donor.crop)
        (one,) = donor.plan.exchanges
        assert one.target == 1 and one.donor == donor.number
        images = {name: panel.session.dataset.read(name) for name, _, _ in IMAGES}
        pixels, origin, _ = compose(images["grade 2/one"], panel.tissue.pool, donor.plan.exchanges, images)
        box = mix_donors.around(panel.tissue.pool.segment(1), pixels.shape)
        assert np.array_equal(pixels[box], donor.crop) and (origin[box] == 1).any()
    # The same with the keyboard.
    target.grid.cells[1].setFocus()
    qtbot.keyClick(target.grid.cells[1], Qt.Key.Key_Right)
    qtbot.keyClick(target.grid.cells[2], Qt.Key.Key_Space)
    assert target.grid.donor is target.grid.cells[2].donor


def test_one_target_is_replaced_by_the_donor_that_was_chosen(panel, study, qtbot) -> None:
    choose(qtbot, panel)
    panel.grid.choose(2)
    donor = panel.grid.donor
    captions = []
    panel.blender.progressed.connect(lambda _event: captions.append(panel.after.caption))
    panel.bar.run_button.click()
    assert not panel.open_button.isEnabled()
    settle(qtbot, panel)
    assert "Being painted" in captions and panel.after.caption == "Blended"
    (change,) = changes(study)
    assert (change.id, change.name, change.image) == (0, "grade 2/one mix 1", "grade 2/one")
    assert change.class_shares == {"grade 2": 1.0}
    assert [one["segment"] for one in change.provenance["donors"]] == [donor.number]
    assert panel.session.table.ids.tolist() == [0] and "mix 1 is made" in panel.note.text()
    assert panel.open_button.isEnabled()
    with qtbot.waitSignal(panel.session.page_requested) as asked:
        panel.review_button.click()
    assert asked.args == ["review/0"]
    # A second one gets a name of its own.
    panel.run()
    settle(qtbot, panel)
    assert [one.name for one in changes(study)] == ["grade 2/one mix 1", "grade 2/one mix 2"]
    assert all(run.state == "done" for run in study.runs())
    panel.choose_random()
    settle(qtbot, panel)
    assert panel.segments.layer.visible and panel.number in (1, 2)


def test_cancel_keeps_nothing(panel, study, qtbot) -> None:
    choose(qtbot, panel)
    panel.run()
    qtbot.waitUntil(lambda: panel.after.caption == "Being painted", timeout=20_000)
    panel.bar.cancel_button.click()
    settle(qtbot, panel)
    assert not changes(study) and not study.runs() and panel.note.text() == "Stopped. Nothing was kept."
    assert panel.after.caption.startswith("Pasted")


def test_only_the_donors_of_the_last_target_are_shown(panel, qtbot, monkeypatch) -> None:
    def slow(*args: Any) -> Any:
        time.sleep(0.1)
        return compose(*args)

    monkeypatch.setattr(mix_donors, "compose", slow)
    panel.choose(1)
    qtbot.waitUntil(lambda: panel.grid.count > 0, timeout=5000)
    panel.choose(2)
    assert panel.grid.count == 0
    proposed = []
    panel.grid.chosen.connect(proposed.append)
    settle(qtbot, panel)
    assert [donor.plan.exchanges[0].target for donor in proposed] == [1]
    plans = [cell.donor.plan for cell in panel.grid.cells if cell.donor is not None]
    assert len(plans) == 4 and {plan.exchanges[0].target for plan in plans} == {1}


def test_without_a_donor_it_is_said_why(panel, qtbot) -> None:
    panel.on_clicked("grade 3/four", 1)
    settle(qtbot, panel)
    assert panel.number == 9 and panel.grid.count == 0
    assert "needs two segments, and this one has 1" in panel.note.text()
    assert not panel.bar.run_button.isEnabled()
    assert panel.views.isVisible()
    panel.choose(5)
    assert "no segment of the pool" in panel.note.text()


def test_a_label_chosen_in_the_layer_is_the_target(panel, qtbot) -> None:
    panel.segments.layer.selected_label = 2
    settle(qtbot, panel)
    assert panel.number == 1 and panel.grid.count == 4
    colors = panel.segments.layer.colormap.color_dict
    assert not np.allclose(colors[2], colors[None])


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
    assert "is among the training images" in panel.note.text()
    panel.open_study(study.folder, tmp_path / "elsewhere")
    settle(qtbot, panel)
    assert not panel.note.text() and panel.results.isVisible() and not panel.find_button.isVisible()
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
    assert panel.open_button.isVisible() and panel.open_button.isEnabled()


def test_an_image_that_changed_is_not_mixed(panel, qtbot) -> None:
    choose(qtbot, panel)
    file = panel.session.dataset.entry("grade 2/two").image
    Image.fromarray(np.full((SIDE, SIDE, 3), 200, np.uint8)).save(file)
    panel.form.fields["seed"].value = 1
    settle(qtbot, panel)
    assert "is not the one that the pool was made of" in panel.note.text()
    panel.choose_image("grade 2/two")
    settle(qtbot, panel)
    assert "is not the one that the pool was made of" in panel.note.text()
    assert not panel.bar.run_button.isEnabled() and not panel.random_button.isEnabled()


def test_layers_removed_in_mid_run_come_back(panel, qtbot) -> None:
    choose(qtbot, panel)
    panel.run()
    panel.viewer.layers.clear()
    settle(qtbot, panel)
    assert panel.note.kind == "good" and len(panel.session.table) == 1
    panel.viewer.layers.clear()
    panel.choose_random()
    settle(qtbot, panel)
    assert panel.segments.layer.visible and panel.grid.count


def test_another_study_lets_go_of_everything(panel, study, qtbot, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.widgets.mix_panel.ask_to_stop", lambda *_: True)
    choose(qtbot, panel)
    (tmp_path / "second").mkdir()
    other = make_mix_study(tmp_path / "second" / "study 2")
    panel.run()
    panel.open_study(other.folder)
    settle(qtbot, panel)
    assert panel.session.study.folder == other.folder and not other.changes() and not changes(study)
    assert not panel.note.text() and panel.grid.count == 0 and panel.number == -1


def test_two_windows_share_nothing(panel, make_panel, qtbot, tmp_path) -> None:
    other = make_panel()
    (tmp_path / "second").mkdir()
    other.open_study(make_mix_study(tmp_path / "second" / "study 2").folder)
    settle(qtbot, other)
    choose(qtbot, panel)
    panel.run()
    settle(qtbot, panel)
    assert other.number == -1 and other.grid.count == 0 and not len(other.session.table)


def test_tiny_segments_and_images(make_panel, qtbot, tmp_path) -> None:
    study = make_mix_study(tmp_path / "study")
    panel = make_panel()
    panel.open_study(study.folder)
    settle(qtbot, panel)
    choose(qtbot, panel, 7)
    crop = panel.grid.cells[0].donor.crop
    assert donors(panel) and crop.shape == (26, 26, 3)
    assert Path(study.folder).name in panel.title.text()


def test_along_seams_donors_that_do_not_fit_are_counted_by_reason(panel, qtbot) -> None:
    panel.form.fields["outline"].value = "seam"
    panel.form.fields["mismatch"].value, panel.form.fields["unlike"].value = 0.0, 5.0
    settle(qtbot, panel)
    choose(qtbot, panel)
    assert donors(panel) == [] and "around the donor is different" in panel.note.text()
    panel.form.fields["mismatch"].value, panel.form.fields["seam"].value = 5.0, 5.0
    settle(qtbot, panel)
    cells = [cell for cell in panel.grid.cells if cell.donor is not None]
    assert cells and "to paint" in panel.after.caption and not panel.note.text()
    assert "of the target" in cells[0].toolTip() and 0 < cells[0].donor.painted < 0.2
