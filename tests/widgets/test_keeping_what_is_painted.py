"""What is painted by hand goes into the study, is reviewed, exported with its nuclei, and made again from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_histomix.datasets import open_any, survey
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.methods import method_of
from napari_histomix.methods.record import Record
from napari_histomix.records import INPAINTED, LabeledImage, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export_study
from napari_histomix.study.replay import replay
from napari_histomix.widgets.generate import keeping, layout_layers
from napari_histomix.widgets.generate.panel import WHAT_IF, GeneratePanel
from napari_histomix.widgets.loading import Opened
from napari_histomix.widgets.session import Session

PLACES = [(30.0, 30.0, 6.0, 5.0, 1), (30.0, 90.0, 5.0, 6.0, 2), (90.0, 30.0, 5.0, 5.0, 2)]
FREE, NEAR, FAR = (60, 60), (60, 71), (100, 100)
"""Places without a nucleus; the first two are near each other."""


@pytest.fixture
def dataset(labeled_image, dataset_folder, tmp_path):
    splits = {"one": "train", "two": "train", "held": "test"}
    images = [
        labeled_image(PLACES, seed=at, name=name, split=split, patient=f"p{at}", mpp=0.5)
        for at, (name, split) in enumerate(splits.items())
    ]
    return open_any(dataset_folder(tmp_path / "nuclei", images))


@pytest.fixture
def panel(qtbot, tmp_path, dataset, small_image_folder, small_pix2pix_folder, monkeypatch) -> GeneratePanel:
    monkeypatch.setattr("napari_histomix.widgets.generate.panel.load_networks_ahead", lambda: None)
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    for room in ("making", "keeping"):
        monkeypatch.setattr(f"napari_histomix.widgets.generate.{room}.prepare_torch", lambda: None)
    one = GeneratePanel(ViewerModel(), Session(home=tmp_path / "home"))
    qtbot.addWidget(one)
    one.resize(360, 900)
    one.show()
    one.folders = {"image": str(small_image_folder), "pix2pix": str(small_pix2pix_folder)}
    one.paint_form.model.value = one.folders["image"]
    one.paint_form.preset.setCurrentIndex(0)
    return one


def open_dataset(panel: GeneratePanel, dataset: Any, qtbot: Any) -> None:
    panel.session.take_opened(Opened(dataset, drain(survey(dataset))))
    qtbot.waitUntil(lambda: bool(panel.session.image), timeout=30_000)


def wait(qtbot, panel: GeneratePanel) -> None:
    qtbot.waitUntil(lambda: not panel.runner.busy and not panel.keep_box.runner.busy, timeout=60_000)
    qtbot.wait(20)


def paint(panel: GeneratePanel, qtbot) -> None:
    assert panel.problem() == "", panel.problem()
    panel.paint_bar.run_button.click()
    wait(qtbot, panel)
    assert panel.note.kind == "good", panel.note.text()


def add(panel: GeneratePanel, qtbot) -> str:
    assert panel.keep_box.bar.run_button.isEnabled(), panel.keep_box.why.text()
    panel.keep_box.bar.run_button.click()
    wait(qtbot, panel)
    return str(panel.keep_box.note.text())


def use(panel: GeneratePanel, image: LabeledImage, qtbot) -> None:
    """Have an image of the dataset open, with its nuclei, and draw into it."""
    facts = {"image": image.source.image}
    space = {"scale": (image.mpp, image.mpp), "units": ("um", "um")}
    layer = Image(image.pixels, rgb=True, name="shown", metadata={"histomix": facts}, **space)
    classes = panel.session.dataset.all_classes
    names = {known.number: known.name for known in classes}
    layout = layout_layers.Layout(image.instances, {i: names[kind] for i, kind in image.types.items()}, image.mpp)
    nuclei = layout_layers.layout_layer(layout, classes, "shown nuclei", space, **facts)
    for one in (layer, nuclei):
        panel.viewer.layers.append(one)
    panel.task.setCurrentIndex(panel.task.findData(WHAT_IF))
    panel.image.choose(layer)
    panel.nuclei.choose(nuclei)
    qtbot.wait(10)


def draw(panel: GeneratePanel, qtbot, place: tuple[int, int], kind: str = "rare", half: int = 4) -> None:
    panel.edit_box.kind.setCurrentIndex(panel.edit_box.kind.findData(kind))
    panel.edit_box.add_button.click()
    qtbot.wait(10)
    layer, (row, col) = panel.edited, place
    where = np.mgrid[row - half : row + half, col - half : col + half].reshape(2, -1)
    layer.data_setitem(tuple(where), layer.selected_label)
    qtbot.wait(10)


def replayed(study: Study, dataset: Any, folder: Path, models: list[str]) -> Any:
    """Approve all that a study holds, export it, and make it again from the export alone."""
    study.decide("change", [change.id for change in study.changes()], "approve")
    drain(export_study(study, dataset, folder))
    report = drain(replay(folder / "manifest.json", dataset, models))
    assert not report.problems and {each.outcome for each in report.compared} == {"identical"}
    return open_any(folder)


def test_nuclei_drawn_into_a_real_image_are_reviewed_exported_and_made_again(panel, dataset, qtbot, tmp_path) -> None:
    open_dataset(panel, dataset, qtbot)
    image = dataset.read("one")
    use(panel, image, qtbot)
    for place, kind in ((FREE, "rare"), (NEAR, "rare"), (FAR, "common")):
        draw(panel, qtbot, place, kind)
    assert panel.keep_box.isHidden()
    paint(panel, qtbot)
    shown = panel.viewer.layers["one, what if"].data
    assert add(panel, qtbot) == "3 nuclei are in the study, to be reviewed."

    session, pages = panel.session, []
    session.page_requested.connect(pages.append)
    panel.keep_box.review_button.click()
    assert pages == ["review/0"] and not session.decisions["change"] and panel.keep_box.bar.isHidden()
    near, far = session.study.changes()
    assert near.in_place and near.method == "painted-nuclei" and sorted(near.added) == [4, 5] and [*far.added] == [6]
    assert near.provenance["model"] == "small image" and near.seed == 0
    # What Review shows is what was painted, and nothing else of the image.
    for change in (near, far):
        hole = change.origin == INPAINTED
        assert np.array_equal(change.pixels[hole], shown[change.window][hole]) and not change.removed
    record = Record.of(far, dataset.class_name)
    assert method_of(far.method).trace(record, *FAR, True) == {"drawn_by_hand": True, "instance": 6, "class": "common"}

    written = replayed(session.study, dataset, tmp_path / "export", [panel.folders["image"]])
    made = next(written.read(entry) for entry in written.entries if entry.synthetic)
    assert np.array_equal(made.pixels, shown) and made.synthetic == {4, 5, 6}
    assert made.instances[FREE] == 4 and made.instances[NEAR] == 5 and made.instances[FAR] == 6
    assert written.class_name(made.types[6]) == "common"
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "drawn or chosen by hand, painted by a network (2 times)" in card


def test_a_further_nucleus_is_added_to_those_that_are_there_and_rejected_alone(panel, dataset, qtbot) -> None:
    open_dataset(panel, dataset, qtbot)
    use(panel, dataset.read("one"), qtbot)
    draw(panel, qtbot, FREE)
    paint(panel, qtbot)
    add(panel, qtbot)
    draw(panel, qtbot, FAR)
    paint(panel, qtbot)
    said = add(panel, qtbot)
    assert said == (
        "1 nucleus is in the study, to be reviewed. 1 left out: the study holds a synthetic nucleus there already."
    )
    study = panel.session.study
    assert [sorted(change.added) for change in study.changes()] == [[4], [5]] and len(study.runs()) == 2
    paint(panel, qtbot)
    assert "holds a synthetic nucleus already" in add(panel, qtbot) and len(study.runs()) == 2


@pytest.mark.parametrize("kind, method", [("image", "nudiff"), ("pix2pix", "edge-pix2pix")])
def test_a_layout_becomes_a_new_image_of_the_study(panel, dataset, qtbot, tmp_path, kind, method) -> None:
    panel.paint_form.kind.setCurrentIndex(panel.paint_form.kind.findData(kind))
    panel.paint_form.model.value = panel.folders[kind]
    # Without a dataset it is said what to do; as soon as one is open, it can be added.
    panel.layout_box.form.fields["side"].value = 64
    draw(panel, qtbot, (30, 30))
    paint(panel, qtbot)
    assert panel.keep_box.why.text() == keeping.OPEN_FIRST and not panel.keep_box.bar.run_button.isEnabled()
    open_dataset(panel, dataset, qtbot)
    assert not panel.keep_box.why.text()
    # A stain to follow: that of a training image.
    image = dataset.read("two")
    layer = Image(image.pixels, rgb=True, name="two", metadata={"histomix": {"image": "two"}})
    panel.viewer.layers.append(layer)
    panel.paint_form.stain.choose(layer)
    draw(panel, qtbot, (15, 15), "rare")
    paint(panel, qtbot)
    shown = panel._painted[False].pixels
    assert add(panel, qtbot) == "The image is in the study, to be reviewed."
    (change,) = panel.session.study.changes()
    assert not change.image and change.method == method and np.array_equal(change.pixels, shown)
    assert change.source("reference").image == "two"
    written = replayed(panel.session.study, dataset, tmp_path / "export", [panel.folders[kind]])
    made = next(written.read(entry) for entry in written.entries if entry.synthetic)
    assert np.array_equal(made.pixels, shown) and len(made.types) == 2
    assert written.class_name(made.types[int(made.instances[15, 15])]) == "rare"


def test_edge_pix2pix_in_a_real_image_is_made_again_too(panel, dataset, qtbot, tmp_path) -> None:
    open_dataset(panel, dataset, qtbot)
    panel.paint_form.kind.setCurrentIndex(1)
    panel.paint_form.model.value = panel.folders["pix2pix"]
    use(panel, dataset.read("one"), qtbot)
    draw(panel, qtbot, FREE)
    paint(panel, qtbot)
    assert add(panel, qtbot) == "1 nucleus is in the study, to be reviewed."
    written = replayed(panel.session.study, dataset, tmp_path / "export", [panel.folders["pix2pix"]])
    assert any(written.read(entry).synthetic for entry in written.entries)


def test_nothing_synthetic_goes_into_test_images_nor_comes_from_them(panel, dataset, qtbot) -> None:
    open_dataset(panel, dataset, qtbot)
    use(panel, dataset.read("held"), qtbot)
    draw(panel, qtbot, FREE)
    paint(panel, qtbot)
    assert add(panel, qtbot) == (
        "held is kept for test: synthetic nuclei go into training images only; draw into one of these."
    )
    # Of the study that would have begun nothing is there.
    assert panel.session.study is None and not panel.session.study_folder.exists()
    # Nor does its stain, nor what a network learned from it.
    panel.task.setCurrentIndex(0)
    panel.paint_form.stain.choose(panel.viewer.layers["shown"])
    draw(panel, qtbot, (30, 30))
    paint(panel, qtbot)
    assert add(panel, qtbot) == (
        "Its stain is that of held, which is kept for test; take a training image, and paint again."
    )
    panel.paint_form.stain.setCurrentIndex(0)
    paint(panel, qtbot)
    model = panel.networks.open("image", panel.folders["image"])
    model.card["training_pixels"] = [pixels_sha256(dataset.read("held").pixels)]
    try:
        assert "learned from held" in add(panel, qtbot)
    finally:
        del model.card["training_pixels"]
    assert panel.session.study is None


def test_only_what_was_painted_into_the_image_itself_can_be_added(panel, dataset, qtbot) -> None:
    open_dataset(panel, dataset, qtbot)
    image = dataset.read("one")
    use(panel, image, qtbot)
    # As if one of them were not labeled.
    nuclei = panel.viewer.layers["shown nuclei"]
    nuclei.data = np.where(image.instances == 1, 0, image.instances)
    qtbot.wait(20)
    draw(panel, qtbot, FREE)
    paint(panel, qtbot)
    assert "are not those that were painted beside" in add(panel, qtbot)
    assert panel.session.study is None


def test_other_pixels_than_those_of_the_image_are_refused(panel, dataset, qtbot) -> None:
    open_dataset(panel, dataset, qtbot)
    image = dataset.read("one")
    use(panel, replace(image, pixels=255 - image.pixels), qtbot)
    draw(panel, qtbot, FREE)
    paint(panel, qtbot)
    assert "shows other pixels than one" in add(panel, qtbot) and panel.session.study is None


def test_what_is_stopped_on_the_way_leaves_nothing(panel, dataset, qtbot, monkeypatch) -> None:
    open_dataset(panel, dataset, qtbot)
    use(panel, dataset.read("one"), qtbot)
    for place in (FREE, FAR):
        draw(panel, qtbot, place)
    paint(panel, qtbot)
    job = keeping.keep_job(
        panel.networks, panel._painted[True], panel.session.survey.hashes, dataset,
        study := Study.create(panel.session.home / "own", dataset.root, dataset.name),
    )  # fmt: skip
    while not next(job).made:
        pass
    assert len(study.changes()) == 1
    job.close()
    assert not study.changes() and not study.runs()

    # A run that was stopped keeps its numbers, to be gone on with.
    stopped = study.begin_run("nudiff", {})
    study.set_plan(stopped.id, 4, {}, past=stopped.first + 4)
    kept = drain(keeping.keep_job(panel.networks, panel._painted[True], {}, dataset, study))
    assert kept.ids == (4, 5) and study.run(stopped.id).past == 4
    # While one is under way, it is said at once.
    monkeypatch.setattr(Session, "running", property(lambda _session: [keeping.MAKING]))
    panel.keep_box.add()
    assert panel.keep_box.note.text() == "A run is under way; add this when it has ended."


def test_a_network_that_was_exchanged_since_is_refused(panel, dataset, qtbot, monkeypatch) -> None:
    open_dataset(panel, dataset, qtbot)
    use(panel, dataset.read("one"), qtbot)
    draw(panel, qtbot, FREE)
    paint(panel, qtbot)
    other = SimpleNamespace(name="small image", sha256="other", card={})
    monkeypatch.setattr(panel.networks, "open", lambda *_: other)
    assert add(panel, qtbot) == "The network small image is another one than when this was painted; paint it again."
