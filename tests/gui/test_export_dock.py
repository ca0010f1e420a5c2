"""The Export step: formats, the figures of the dry run before the button works, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtWidgets import QFileDialog
from review_samples import make_class_study

from napari_histomix.datasets import load_sample, open_any, open_dataset, sample_folder
from napari_histomix.datasets.formats import FORMATS

pytestmark = pytest.mark.gui


@pytest.fixture
def exporting(with_study, settle):
    """The dock with two of four changes approved and one rejected, at the Export step."""

    def opened() -> Any:
        dock = with_study("made")
        ids = dock.session.table.ids.tolist()
        dock.session.decide("change", ids[:2], "approve")
        dock.session.decide("change", ids[2:3], "reject")
        dock.open("results/export")
        return dock

    return opened


def choose(dock: Any, format: str) -> None:
    """Choose a format as a person does."""
    dock.export.format.setCurrentIndex(dock.export.format.findData(format))


def test_the_figures_come_before_the_button_works(exporting, settle, heart) -> None:
    dock = exporting()
    panel = dock.export
    assert not panel.progress.run_button.isEnabled() and panel.plan is None
    before = heart.ticks
    settle(dock)
    assert heart.ticks - before > 10
    assert panel.progress.run_button.isEnabled() and panel.plan.synthetic == 2
    assert f"{panel.plan.files} files, about" in panel.figures.text() and "free" in panel.figures.text()
    assert "1 still undecided stays out" in panel.summary.text()
    titles = [panel.format.itemText(at) for at in range(panel.format.count())]
    assert titles == [one.title for one in FORMATS.values() if one.writes and one.holds == "nuclei"]


def test_each_format_is_chosen_and_written(exporting, settle) -> None:
    dock = exporting()
    panel = dock.export
    settle(dock)
    panel.ignore_band.setChecked(True)
    for format in ("hovernet", "qupath", "pannuke"):
        choose(dock, format)
        assert not panel.progress.run_button.isEnabled()
        settle(dock)
        plan, folder = panel.plan, panel._folder
        assert ("lymphocyte as inflammatory" in panel.warnings.text()) is (format == "pannuke")
        panel.progress.run_button.click()
        settle(dock)
        assert panel.note.kind == "good", panel.note.text()
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        assert len(files) == plan.files and size / 1.5 < plan.size < 1.5 * size
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert len(manifest["changes"]) == 2 and manifest["format"] == format
        assert all(change["decided"] for change in manifest["changes"])
        assert len(open_dataset(folder).entries) == 5 and (folder / "ignore").is_dir()
        # The next one goes elsewhere, and its figures are there already.
        assert panel._folder != folder and panel.progress.run_button.isEnabled() and panel.plan is plan
        assert dock.buttons["results"].state == "done" and "✓" in dock.buttons["results"].text()
    dock.session.decide("change", dock.session.table.ids[1:2].tolist(), "reject")
    assert dock.buttons["results"].state == "open", "what was exported is not what is approved now"


def test_a_decision_makes_the_figures_anew(exporting, settle) -> None:
    dock = exporting()
    panel = dock.export
    settle(dock)
    ids = dock.session.table.ids.tolist()
    dock.session.decide("change", ids[3:], "approve")
    assert not panel.progress.run_button.isEnabled()
    settle(dock)
    assert panel.plan.synthetic == 3 and "3 approved" in panel.summary.text()
    dock.session.decide("change", ids, None)
    settle(dock)
    assert panel.empty.isVisible() and not panel.contents.isVisible()
    dock.session.decide("change", ids[:1], "approve")
    settle(dock)
    assert panel.plan.synthetic == 1 and panel.contents.isVisible()


def test_splits_make_the_figures_anew(exporting, settle) -> None:
    dock = exporting()
    panel, session = dock.export, dock.session
    settle(dock)
    touched = {source.image for change in session.changes for source in change.sources}
    spare = next(name for name in session.images if name not in touched)
    session.choose_splits({name: "test" if name == spare else "train" for name in session.images})
    assert not panel.progress.run_button.isEnabled()
    settle(dock)
    assert panel.plan.images == len(session.images) - 1 and "all 4 training images" in panel.summary.text()
    target = session.change(session.approved[0]).image
    session.choose_splits({name: "test" if name == target else "train" for name in session.images})
    settle(dock)
    assert panel.figures.kind == "error" and target in panel.figures.text()
    assert not panel.progress.run_button.isEnabled()


def test_too_little_room_and_a_failing_dry_run_are_a_sentence_each(exporting, settle, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("napari_histomix.study.export_plan.free_space", lambda _out: 1000)
        dock = exporting()
        panel = dock.export
        settle(dock)
        assert not panel.progress.run_button.isEnabled()
        assert "1.0 kB are free there" in panel.warnings.text() and panel.warnings.isVisible()

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_histomix.study.export_plan.tempfile.TemporaryDirectory", failing)
    choose(dock, "qupath")
    settle(dock)
    assert panel.figures.kind == "error" and "temporary folder" in panel.figures.text()
    assert not panel.progress.run_button.isEnabled()


def test_a_run_keeps_nobody_from_exporting(exporting, settle) -> None:
    """What a run makes is undecided and stays out: the figures hold, and Export can be pressed all the time."""
    dock = exporting()
    panel, session = dock.export, dock.session
    settle(dock)
    plan = panel.plan
    session.changes_made.emit(session.table.ids[-1:].tolist())
    assert panel.plan is plan and panel.progress.run_button.isEnabled()
    settle(dock)
    assert panel.plan is plan and panel.progress.run_button.isEnabled()


def test_a_closed_step_does_not_work(exporting, settle) -> None:
    dock = exporting()
    dock.open("review")
    settle(dock)
    ids = dock.session.table.ids.tolist()
    dock.session.decide("change", ids[3:], "approve")
    assert not dock.export.busy and dock.export.plan is None
    dock.open("results/export")
    assert "3 approved" in dock.export.summary.text()
    settle(dock)
    assert dock.export.plan.synthetic == 3


def test_images_with_a_class_are_written_as_class_folders(open_dock, settle, qtbot, tmp_path) -> None:
    dock = open_dock()
    dock.data.open_study(make_class_study(tmp_path / "study").folder)
    qtbot.waitUntil(lambda: dock.session.image != "", timeout=60_000)
    dock.session.decide("change", [0, 1, 2], "approve")
    dock.open("results/export")
    settle(dock)
    panel = dock.export
    assert [panel.format.itemData(at) for at in range(panel.format.count())] == ["class-folders"]
    assert not panel.ignore_band.isVisible() and "3 approved images" in panel.summary.text()
    assert panel.counts_title.text() == "Images before and after"
    folder, plan = panel._folder, panel.plan
    panel.progress.run_button.click()
    settle(dock)
    assert panel.note.kind == "good", panel.note.text()
    assert len([path for path in folder.rglob("*") if path.is_file()]) == plan.files
    dataset = open_any(folder)
    assert len(dataset.entries) == 7 and sum(entry.synthetic for entry in dataset.entries) == 3


def test_a_folder_dropped_on_napari_opens_the_dock(make_napari_viewer, settle, qtbot, tmp_path, exporting) -> None:
    from napari_histomix.widgets.session import session_of

    dock = exporting()
    settle(dock)
    choose(dock, "coco")
    settle(dock)
    folder = dock.export._folder
    dock.export.progress.run_button.click()
    settle(dock)
    viewer = make_napari_viewer(show=True)
    session_of(viewer).home = tmp_path / "elsewhere"
    layers = viewer.open(str(folder), plugin="napari-histomix")
    session = session_of(viewer)
    qtbot.waitUntil(lambda: session.image != "", timeout=60_000)
    other = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")[1]
    settle(other)
    assert session.dataset.root == folder.resolve() and other.current == "project"
    assert [one.name for one in layers] == [session.image]
    # The layer that the reader gave is the one the dock goes on with.
    assert other.data.book.layer(session.image, "image") is layers[0]
    assert [layer.name for layer in viewer.layers].count(session.image) == 1
    assert layers[0].scale[0] == pytest.approx(0.5)
    # What is synthetic in it is said, and gives no donor.
    made = session.survey.synthetic_total.total()
    assert made > 0 and other.data.synthetic.text().startswith(f"Contains {made} synthetic nuclei among all ")
    assert "never donors" in other.data.synthetic.text() or made == 1


def test_a_study_dropped_on_napari_goes_on(make_napari_viewer, studies, settle, qtbot, tmp_path) -> None:
    import shutil

    from napari_histomix.widgets.session import session_of

    study = Path(shutil.copytree(studies / "made", tmp_path / "made"))
    viewer = make_napari_viewer(show=True)
    viewer.open(str(study), plugin="napari-histomix")
    session = session_of(viewer)
    qtbot.waitUntil(lambda: session.image != "", timeout=60_000)
    dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")[1]
    settle(dock)
    assert len(session.table) == 4 and session.study_folder == study


def test_label_files_and_layers_go_both_ways(make_napari_viewer, tmp_path) -> None:
    viewer = make_napari_viewer(show=True)
    path = min((sample_folder() / "Labels").iterdir())
    (layer,) = viewer.open(str(path), plugin="napari-histomix")
    assert layer.scale[0] == pytest.approx(0.5) and "class" in layer.features
    assert layer.save(str(tmp_path / "nuclei.geojson"), plugin="napari-histomix")
    (again,) = viewer.open(str(tmp_path / "nuclei.geojson"), plugin="napari-histomix")
    rows, cols = again.data.shape
    assert ((again.data > 0) == (layer.data[:rows, :cols] > 0)).all()
    assert sorted(again.features["class"]) == sorted(layer.features["class"])
    # On the image of its name, where the viewer shows that.
    dataset = load_sample()
    pixels = dataset.read(path.stem).pixels
    image = viewer.add_image(pixels, rgb=True, name=path.stem, scale=(0.5, 0.5), translate=(7, 9), units=("um", "um"))
    renamed = (tmp_path / "nuclei.geojson").rename(tmp_path / f"{path.stem}.geojson")
    (on_image,) = viewer.open(str(renamed), plugin="napari-histomix")
    assert on_image.data.shape == pixels.shape[:2] and tuple(on_image.translate) == (7, 9)
    assert tuple(on_image.scale) == tuple(image.scale) and on_image.units == image.units


def test_a_damaged_file_is_a_notice_and_no_layer(make_napari_viewer, tmp_path) -> None:
    viewer = make_napari_viewer(show=True)
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "FeatureCollection", "features": [')
    with pytest.raises(Exception, match=r"a\.geojson in .* is not valid JSON"):
        viewer.open(str(path), plugin="napari-histomix")
    assert len(viewer.layers) == 0


def test_another_folder_is_looked_for_from_the_present_one(exporting, settle, monkeypatch, tmp_path) -> None:
    dock = exporting()
    settle(dock)
    began: list[str] = []
    other = tmp_path / "elsewhere"
    other.mkdir()

    def asked(_parent: Any, _title: str, beginning: str) -> str:
        began.append(beginning)
        return str(other)

    monkeypatch.setattr(QFileDialog, "getExistingDirectory", asked)
    dock.export.folder_button.click()
    assert began == [str(dock.session.study_folder)]
    dock.export.folder_button.click()
    assert began[1:] == [str(other)]
