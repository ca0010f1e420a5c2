from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import dask.array
import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image as Picture
from qtpy.QtWidgets import QPushButton

from napari_histomix.datasets import open_any
from napari_histomix.methods.segment_stage import PoolSettings, build_pool
from napari_histomix.records import Event, drain
from napari_histomix.segmentation import AnchorSettings, RegionTreePrompter
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.widgets import viewer_layers
from napari_histomix.widgets.loading import open_job
from napari_histomix.widgets.segments import panel as segments_panel
from napari_histomix.widgets.segments.panel import SegmentsPanel
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer_layers import picture_of, unusable

UM = {"scale": (0.5, 0.5), "units": ("um", "um")}


def tissue(seed: int = 0, side: int = 160) -> np.ndarray:
    """Pink tissue with two violet disks and a white one."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), (225, 160, 200), np.uint8)
    disks = (45, 45, 28, (110, 70, 150)), (110, 105, 32, (95, 60, 140)), (40, 120, 20, (245, 243, 245))
    for row, col, radius, color in disks:
        cv2.circle(pixels, (col, row), radius, color, -1)
    grain = cv2.GaussianBlur(rng.normal(0, 20, pixels.shape), (0, 0), 1)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def make_panel(qtbot, tmp_path):
    def make(viewer: ViewerModel) -> SegmentsPanel:
        one = SegmentsPanel(viewer, Session(home=tmp_path / "home"))
        qtbot.addWidget(one)
        one.show()
        return one

    return make


@pytest.fixture
def panel(make_panel, viewer) -> SegmentsPanel:
    return make_panel(viewer)


@pytest.fixture
def run(panel, qtbot):
    """Run to the end; the note's kind and text."""

    def go() -> tuple[str, str]:
        qtbot.waitUntil(panel.progress.run_button.isEnabled)
        panel.progress.run_button.click()
        qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
        return panel.note.kind, panel.note.text()

    return go


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images of two classes; nothing says their scale."""
    for number, name in enumerate(("grade 2/one", "grade 2/two", "grade 3/three")):
        path = tmp_path / "biopsies" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(tissue(number)).save(path)
    return tmp_path / "biopsies"


@pytest.fixture
def pooled(panel, folder, qtbot, tmp_path):
    """With a pool of the three images open."""
    dataset = open_any(folder, mpp=0.5)
    study = Study.create(tmp_path / "home" / "biopsies", dataset.root, dataset.name, 0.5)
    drain(build_pool(dataset, study.folder))
    study.save_settings({"pool_settings": {"encoder": "texture"}})
    settle(panel, qtbot, lambda: panel.pool.open_study(study.folder))
    return panel


def settle(panel: SegmentsPanel, qtbot: Any, act: Any) -> str:
    act()
    qtbot.waitUntil(lambda: not panel.pool.runner.running, timeout=30_000)
    qtbot.wait(20)
    return panel.pool.note.text()


class Waiting:
    """A prompter that waits until it is let go."""

    name = "waiting"

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self, pixels: Any, points: Any) -> Any:
        while not self.go.wait(0.005):
            self.asked.set()
            yield Event("Waiting")
        return (yield from RegionTreePrompter()(pixels, points))


@pytest.fixture
def waiting(monkeypatch) -> Any:
    one = Waiting()
    monkeypatch.setattr(segments_panel, "open_prompter", lambda *_: one)
    yield one
    one.go.set()


def test_the_module_needs_no_torch() -> None:
    code = "import sys, napari_histomix.widgets.segments.panel; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# An open image.


def test_segments_lie_on_their_image_and_carry_their_features(panel, viewer, run) -> None:
    image = viewer.add_image(tissue(), rgb=True, name="biopsy", translate=(5, 7), rotate=20, **UM)
    panel.form.kind.setText("grade 3")
    kind, said = run()
    layer = viewer.layers[1]
    count = len(np.unique(layer.data)) - 1
    assert (kind, said) == ("good", f"{count} segments in “biopsy segments”.") and count > 2
    assert np.array_equal(layer._data_to_world.affine_matrix, image._data_to_world.affine_matrix)
    assert layer.units == image.units and layer.opacity == 0.4
    assert layer.data.shape == (160, 160) and layer.data.dtype == np.int32
    table = layer.features.set_index("index")
    areas = np.bincount(layer.data.ravel())
    assert table.index.tolist() == np.unique(layer.data[layer.data > 0]).tolist()
    assert table["area"].tolist() == [areas[number] for number in table.index]
    assert table["area_um2"].tolist() == [areas[number] / 4 for number in table.index]
    assert set(table["class"]) == {"grade 3"} and table["at_border"].any() and not table["at_border"].all()
    assert table["vote_share"].between(0, 1).all() and table["stability"].between(0, 1).all()
    about = layer.metadata["histomix"]
    assert (about["image"], about["prompter"], about["segments"]) == ("biopsy", "region-tree-2", count)
    assert about["settings"] == asdict(AnchorSettings())
    layer.contour = 2


def test_the_settings_are_those_of_a_pool_and_are_used(panel, viewer, run) -> None:
    form = panel.form.settings
    assert form.value(PoolSettings) == PoolSettings()
    form.fields["extent"].value = (0.006, 0.2)
    form.fields["points"].value = 7
    viewer.add_image(tissue(), rgb=True)
    assert run()[0] == "good"
    layer = viewer.layers[-1]
    assert layer.metadata["histomix"]["settings"]["points"] == 7
    assert layer.features["area"].max() < 0.2 * 160 * 160


def test_points_take_the_place_of_random_ones(panel, viewer, run, qtbot) -> None:
    viewer.add_image(tissue(), rgb=True, name="biopsy", **UM)
    panel.form.mode.setCurrentIndex(1)
    qtbot.wait(20)
    assert panel.why.text() == "Add a Points layer and set points in the image."
    # In millimeters, turned round and moved: what counts is where they are seen.
    points = viewer.add_points([[-22.5e-3, 22.5e-3], [9, 9]], scale=(-1, 1), units=("mm", "mm"), name="asked")
    assert run() == ("good", "1 segment in “biopsy segments”.")
    disk = np.hypot(*(np.mgrid[:160, :160] - 45)) <= 28
    found = viewer.layers["biopsy segments"].data > 0
    assert (found & disk).sum() / (found | disk).sum() > 0.7
    assert not panel.form.settings.fields["points"].enabled
    points.data = [[9, 9]]
    assert run() == ("error", "No point lies in this image; place some, or let it choose them.")


def test_segments_that_a_person_drew_get_their_features(panel, viewer, run) -> None:
    viewer.add_image(tissue(), rgb=True, name="biopsy", **UM)
    drawn = np.zeros((160, 160), np.uint8)
    drawn[10:20, 30:50], drawn[0:10, 0:10] = 7, 200
    labels = viewer.add_labels(drawn, name="mine", **UM)
    panel.form.mode.setCurrentIndex(2)
    assert run()[0] == "good"
    made = viewer.layers["biopsy segments"]
    assert np.array_equal(made.data, drawn) and made.data is not drawn
    rows = made.features[["index", "area", "area_um2", "vote_share", "at_border"]].to_numpy().tolist()
    assert rows == [[7, 200, 50.0, 1.0, False], [200, 100, 25.0, 1.0, True]]
    panel.form.labels.choose(labels)
    labels.data = np.ones((80, 160), int)
    assert run() == ("error", "'mine' is 160×80 pixels but the image is 160×160.")
    labels.data = np.zeros((160, 160), int)
    assert run() == ("error", "'mine' holds no segment; paint some.")
    labels.data = np.full((160, 160), 2**40)
    assert "number them from 1" in run()[1]


def bad_images() -> dict[str, tuple[np.ndarray, str]]:
    return {
        "white": (np.full((64, 64, 3), 255, np.uint8), "This image shows no tissue, so it has no anchor segments."),
        "one color": (np.full((64, 64, 3), 120, np.uint8), "Nothing stands out in this image"),
        "one pixel": (np.full((1, 1, 3), 120, np.uint8), "Nothing stands out in this image"),
    }


@pytest.mark.parametrize("name", bad_images())
def test_images_without_segments_are_said_to_be_so(panel, viewer, run, name) -> None:
    pixels, sentence = bad_images()[name]
    viewer.add_image(pixels, rgb=True, name=name)
    kind, text = run()
    assert kind == "error" and text.startswith(sentence) and len(viewer.layers) == 1
    assert panel.progress.run_button.isEnabled()


@pytest.mark.parametrize(
    "content", [pickle.dumps({"a": print}), b"PK\x03\x04 half", b""], ids=["pickle", "cut", "empty"]
)
def test_weights_that_are_none_are_refused_in_a_sentence(panel, viewer, run, qtbot, tmp_path, content) -> None:
    pytest.importorskip("segment_anything")
    viewer.add_image(tissue(), rgb=True)
    panel.form.settings.fields["prompter"].value = "sam"
    qtbot.wait(20)
    assert panel.why.text() == "Choose the weights of SAM, or the region tree, which needs none."
    path = tmp_path / "sam.pth"
    path.write_bytes(content)
    panel.form.settings.fields["weights"].value = str(path)
    kind, text = run()
    assert kind == "error" and "sam.pth" in text and str(tmp_path) not in text and "unexpected" not in text
    assert len(viewer.layers) == 1


def test_a_layer_closed_in_mid_run_leaves_nothing_half_made(panel, viewer, waiting, qtbot) -> None:
    image = viewer.add_image(tissue(), rgb=True, name="biopsy")
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    panel.run()
    qtbot.waitUntil(waiting.asked.is_set)
    assert not panel.form.isEnabled() and panel.progress.cancel_button.isVisible()
    viewer.layers.remove(image)
    qtbot.waitUntil(lambda: not panel.runner.running)
    assert panel.note.text() == "'biopsy' was closed in the meantime; nothing was made of it."
    assert len(viewer.layers) == 0 and panel.why.text() == "Open an H&E image in napari."


def test_cancel_stops_and_nothing_is_made(panel, viewer, waiting, qtbot) -> None:
    viewer.add_image(tissue(), rgb=True)
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    panel.run()
    qtbot.waitUntil(waiting.asked.is_set)
    panel.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running)
    assert panel.note.text() == "Stopped; nothing was made." and len(viewer.layers) == 1


def test_what_is_done_to_the_image_in_mid_run(panel, viewer, waiting, qtbot) -> None:
    image = viewer.add_image(tissue(), rgb=True, name="biopsy")
    other = viewer.add_image(tissue(1), rgb=True, name="other")
    panel.form.image.choose(image)
    for act, kind in ((lambda: None, "good"), (lambda: setattr(image, "data", tissue(side=80)), "error")):
        waiting.go.clear()
        waiting.asked.clear()
        panel.run()
        qtbot.waitUntil(waiting.asked.is_set)
        image.name, image.scale = "renamed", (3, 3)
        viewer.layers.selection.active = other
        act()
        waiting.go.set()
        qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
        assert panel.note.kind == kind
    assert [layer.name for layer in viewer.layers] == ["renamed", "renamed segments", "other"]
    assert tuple(viewer.layers[1].scale) == (3, 3)


def test_open_images_are_listed_as_they_come_go_and_are_renamed(panel, viewer, qtbot, monkeypatch) -> None:
    monkeypatch.setattr(viewer_layers, "MOST_PIXELS", 200 * 200)
    choice = panel.form.image

    def texts() -> list[str]:
        return [choice.itemText(row) for row in range(choice.count())]

    first = viewer.add_image(tissue(), rgb=True, name="first", **UM)
    viewer.add_image(tissue()[..., 0], name="second")
    viewer.add_labels(np.zeros((9, 9), int))
    viewer.add_image(tissue(side=201), rgb=True, name="slide")
    qtbot.waitUntil(lambda: texts() == ["slide · too large", "second · gray", "first · 0.5 µm/px"])
    assert not choice.model().item(0).isEnabled()
    assert choice.layer is first
    first.name = "renamed"
    qtbot.waitUntil(lambda: texts()[-1].startswith("renamed"))
    assert choice.layer is first
    viewer.layers.remove(first)
    qtbot.waitUntil(lambda: len(texts()) == 2)
    assert choice.layer is viewer.layers["second"]


def pictures() -> dict[str, tuple[Any, dict[str, Any]]]:
    pixels = tissue()
    opaque = np.full((160, 160, 1), 255, np.uint8)
    return {
        "RGBA": (np.concatenate([pixels, opaque], axis=2), {"rgb": True}),
        "16 bits": (pixels.astype(np.uint16) * 257, {"rgb": True}),
        "float": (pixels / 255, {"rgb": True}),
        "dask": (dask.array.from_array(pixels, chunks=(64, 64, 3)), {"rgb": True}),
        "stack": (np.stack([255 - pixels, pixels]), {"rgb": True}),
        "pyramid": ([pixels, pixels[::2, ::2]], {"rgb": True, "multiscale": True}),
    }


@pytest.mark.parametrize("name", pictures())
def test_every_kind_of_layer_gives_its_pixels(viewer, name) -> None:
    data, how = pictures()[name]
    layer = viewer.add_image(data, **how)
    viewer.dims.set_current_step(0, 1)
    assert np.array_equal(picture_of(layer, viewer.dims.point).pixels(), tissue())


def test_gray_and_transparent_images(viewer) -> None:
    gray = viewer.add_image(tissue()[..., 1].astype(float) * 10, contrast_limits=(0, 2550))
    pixels = picture_of(gray, viewer.dims.point).pixels()
    assert np.abs(pixels.astype(int) - tissue()[..., 1:2]).max() <= 1
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = 90, 20, 60, 255
    pixels = picture_of(viewer.add_image(clear, rgb=True), viewer.dims.point).pixels()
    assert (pixels[:4] == (90, 20, 60)).all() and (pixels[4:] == 255).all()


def test_of_a_pyramid_the_finest_level_that_fits_is_used(panel, viewer, run, monkeypatch) -> None:
    pixels = tissue(side=320)
    monkeypatch.setattr(viewer_layers, "MOST_PIXELS", 160 * 160)
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2]), np.ascontiguousarray(pixels[::8, ::8])]
    image = viewer.add_image(levels, rgb=True, multiscale=True, translate=(30, 40), name="slide", **UM)
    assert run()[0] == "good"
    layer = viewer.layers[-1]
    assert layer.data.shape == (160, 160) and tuple(layer.scale) == (1, 1)
    # The corners of both lie on each other, pixels being squares around their coordinates.
    for inner, outer in (((-0.5, -0.5), (-0.5, -0.5)), ((159.5, 159.5), (319.5, 319.5))):
        assert layer.data_to_world(inner) == pytest.approx(image.data_to_world(outer))
    assert layer.features["area_um2"].tolist() == layer.features["area"].tolist()
    assert unusable(viewer.add_image(pixels, rgb=True)) == "too large"


def test_of_a_stack_the_plane_that_is_looked_at_is_divided_where_it_lies(panel, viewer, run) -> None:
    stack = np.stack([np.full_like(tissue(), 255), tissue(), np.full_like(tissue(), 255)])
    viewer.add_image(stack, rgb=True, scale=(4, 0.5, 0.5), translate=(10, 0, 0), units=("um",) * 3)
    viewer.dims.set_current_step(0, 0)
    assert run()[1].startswith("This image shows no tissue")
    viewer.dims.set_current_step(0, 1)
    assert run()[0] == "good"
    layer = viewer.layers[-1]
    assert layer.data.shape == (1, 160, 160) and layer.data_to_world((0, 0, 0)) == (14, 0, 0)
    panel.form.mode.setCurrentIndex(1)
    viewer.add_points([[14, 22.5, 22.5], [18, 55, 52]], units=("um",) * 3, ndim=3)
    assert run()[1].startswith("1 segment in")


def test_two_viewers_share_nothing(panel, make_panel, viewer, waiting, qtbot) -> None:
    other = make_panel(ViewerModel())
    viewer.add_image(tissue(), rgb=True)
    qtbot.waitUntil(panel.progress.run_button.isEnabled)
    panel.form.settings.fields["points"].value = 3
    panel.run()
    qtbot.waitUntil(waiting.asked.is_set)
    assert not other.runner.running and other.form.isEnabled()
    waiting.go.set()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    assert len(other.viewer.layers) == 0 and not other.note.text()
    assert other.form.settings.value(PoolSettings) == PoolSettings()


# The pool.


def open_images(panel, qtbot, folder, mpp=0.5):
    """Open a folder in the session, as the Data step does."""
    panel.session.take_opened(drain(open_job(folder, mpp)))
    qtbot.waitUntil(lambda: not panel.book.busy and panel.session.image != "", timeout=20_000)


def build(panel, qtbot) -> str:
    panel.pool.page.run()
    qtbot.waitUntil(lambda: not panel.pool.page.runner.running, timeout=30_000)
    qtbot.waitUntil(lambda: not panel.pool.runner.busy, timeout=30_000)
    return panel.pool.page.note.text()


def test_a_pool_is_built_of_the_images_that_are_open(panel, folder, qtbot, tmp_path) -> None:
    assert not panel.pool.page.isVisibleTo(panel)
    settle(panel, qtbot, lambda: panel.pool.choose_folder(folder))
    page = panel.pool.page
    assert page.isVisibleTo(panel) and page.empty.text().startswith("Enter how many µm one pixel is")
    assert not page.progress.run_button.isEnabled()
    open_images(panel, qtbot, folder)
    panel.form.settings.fields["superpixels"].value = 20
    text = build(panel, qtbot)
    home = tmp_path / "home" / "biopsies"
    qtbot.waitUntil(lambda: panel.pool.opened is not None, timeout=20_000)
    pool = SegmentPool(home)
    assert text == f"{len(pool)} segments of 3 images." and pool.images[0].mpp == 0.5
    assert pool.signature["anchors"]["superpixels"] == 20 and panel.session.study.folder == home
    assert f"<b>biopsies</b> · {len(pool)} segments of 3 images" in panel.pool.title.text()
    assert not page.isVisibleTo(panel) and panel.pool.tools.isVisibleTo(panel)


def test_only_images_that_a_person_left_in_training_are_in_the_pool(panel, folder, qtbot) -> None:
    open_images(panel, qtbot, folder)
    panel.session.choose_splits({"grade 2/one": "train", "grade 2/two": "test", "grade 3/three": "train"})
    build(panel, qtbot)
    qtbot.waitUntil(lambda: panel.pool.opened is not None, timeout=20_000)
    opened = panel.pool.opened
    assert {one.source.image for one in opened.pool.images} == {"grade 2/one", "grade 3/three"}
    settle(panel, qtbot, lambda: panel.pool.open_study(opened.study.folder))
    assert [one.source.image for one in panel.pool.opened.dataset.training] == ["grade 2/one", "grade 3/three"]


def test_a_build_that_is_cancelled_or_fails_leaves_no_folder(panel, folder, qtbot, monkeypatch) -> None:
    prompter = Waiting()
    monkeypatch.setattr("napari_histomix.methods.segment_stage.open_prompter", lambda *_: prompter)
    open_images(panel, qtbot, folder)
    page, home = panel.pool.page, panel.session.study_folder
    page.run()
    qtbot.waitUntil(prompter.asked.is_set, timeout=20_000)
    page.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not page.runner.running)
    assert page.note.text() == "Stopped. Nothing was changed." and not home.exists()
    for path in folder.rglob("*.png"):
        Picture.fromarray(np.full((64, 64, 3), 255, np.uint8)).save(path)
    prompter.go.set()
    assert "shows no tissue" in build(panel, qtbot) and page.note.kind == "error" and not home.exists()
    assert "is not a study" in settle(panel, qtbot, lambda: panel.pool.open_study(folder))
    assert str(folder.parent) not in panel.pool.note.text()


def test_brush_corrections_are_taken_in_with_a_click(pooled, viewer, qtbot) -> None:
    pool = SegmentPool(pooled.pool.opened.study.folder)
    before = len(pool)
    settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 2/two"))
    assert pooled.pool.images.currentText() == "grade 2/two", "what is shown is what is corrected"
    image, layer = viewer.layers["grade 2/two"], viewer.layers["grade 2/two segments"]
    assert np.array_equal(image.data, tissue(1)) and tuple(layer.scale) == (0.5, 0.5)
    assert set(layer.features["class"]) == {"grade 2"}
    assert settle(pooled, qtbot, pooled.pool.correct_button.click) == "Nothing differs from the pool."
    first, second = layer.features["index"][:2]
    study = pooled.pool.opened.study
    was = Curation(study, pool)
    old = was.find("grade 2/two", second)
    was.tag([old], "gland")
    was.relabel([old], "grade 3")
    layer.data[layer.data == first] = 0
    layer.data[layer.data == second] = np.where(np.arange((layer.data == second).sum()) % 50 == 0, 0, second)
    layer.data[150:158, 150:158] = 90
    with qtbot.waitSignal(pooled.session.pool_changed, timeout=20_000):
        pooled.pool.correct_button.click()
    lost = np.unique(layer.data[layer.data > 0])
    now = Curation(study, SegmentPool(pool.folder))
    assert pooled.pool.note.text().endswith("replaced, 1 added, 1 dropped.")
    assert now.kind_of(now.find("grade 2/two", second)) == "grade 3"
    assert now.tags_of(now.find("grade 2/two", second)) == ("gland",)
    assert now.decision[old] == 2 and now.decision[was.find("grade 2/two", first)] == 2
    added = now.pool.segment(now.find("grade 2/two", 90))
    assert (added.row, added.col, added.area) == (150, 150, 64)
    own = [number for number in range(len(now)) if now.pool.image(number).source.image == "grade 2/two"]
    kept = sorted(int(now.pool.rows["number"][number]) for number in own if now.decision[number] != 2)
    assert kept == lost.tolist() == sorted(layer.features["index"]) and len(now) > before
    assert settle(pooled, qtbot, pooled.pool.correct_button.click) == "Nothing differs from the pool."
    assert len(SegmentPool(pool.folder)) == len(now)


def test_a_class_with_one_segment_is_a_pool_all_the_same(panel, folder, qtbot) -> None:
    open_images(panel, qtbot, folder)
    for name in ("superpixels", "points"):
        panel.form.settings.fields[name].value = 1
    panel.form.settings.fields["border"].value = True
    told = "3 segments of 3 images. grade 3 has too few segments to be mixed (1); add images of it."
    assert build(panel, qtbot) == told
    assert SegmentPool(panel.session.study.folder).kinds == ("grade 2", "grade 3")


def test_what_was_dropped_while_the_layer_was_open_stays_dropped(pooled, viewer, qtbot) -> None:
    settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 2/one"))
    opened = pooled.pool.opened
    Curation(opened.study, opened.pool).decide([0], "drop")
    assert settle(pooled, qtbot, pooled.pool.correct_button.click) == "Nothing differs from the pool."
    assert Curation(opened.study, SegmentPool(opened.study.folder)).decision[0] == 2
    viewer.layers.clear()
    settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 2/one"))
    shown = viewer.layers["grade 2/one segments"].features["index"]
    assert opened.pool.rows["number"][0] not in shown.tolist()


def test_an_open_layer_will_do_where_the_images_were_moved(pooled, viewer, folder, qtbot) -> None:
    settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 2/one"))
    shutil.rmtree(folder)
    layer = viewer.layers["grade 2/one segments"]
    layer.data[150:158, 150:158] = 90
    layer.visible = False
    qtbot.waitUntil(lambda: pooled.pool.correct_button.isEnabled())
    text = settle(pooled, qtbot, pooled.pool.correct_button.click)
    assert "added" in text and "1 " in text
    viewer.layers["grade 2/one"].data = tissue(5)
    layer.data[140:148, 150:158] = 91
    text = settle(pooled, qtbot, pooled.pool.correct_button.click)
    assert text.startswith("The image grade 2/one is neither") and pooled.pool.note.kind == "error"
    settle(pooled, qtbot, lambda: pooled.pool.open_study(pooled.pool.opened.study.folder))
    viewer.layers.clear()
    assert "put them back" in settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 2/one"))


def test_a_pool_from_another_encoder_is_left_alone(pooled, viewer, qtbot) -> None:
    opened = pooled.pool.opened
    for part in (opened.study.folder / "pool").glob("part-*/part.json"):
        part.write_text(part.read_text().replace('"encoder": "texture-whole-1"', '"encoder": "resnet-abc"'))
    settle(pooled, qtbot, lambda: pooled.pool.open_study(opened.study.folder))
    settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 3/three"))
    viewer.layers[-1].data[0:9, 0:9] = 90
    text = settle(pooled, qtbot, pooled.pool.correct_button.click)
    assert "another encoder" in text and pooled.pool.note.kind == "error"
    assert len(SegmentPool(opened.study.folder)) == len(opened.pool)


def test_other_labels_are_no_corrections(pooled, viewer, qtbot) -> None:
    assert not pooled.pool.correct_button.isEnabled()
    viewer.add_labels(np.ones((160, 160), int), metadata={"histomix": {"image": "grade 2/one"}})
    other = {"image": "grade 2/one", "segments": 1, "sha256": "0" * 64}
    viewer.add_labels(np.ones((160, 160), int), metadata={"histomix": other})
    qtbot.wait(50)
    assert not pooled.pool.correct_button.isEnabled()


def test_an_image_that_is_open_is_brought_to_the_front(pooled, viewer, qtbot) -> None:
    for name in ("grade 2/one", "grade 2/two"):
        settle(pooled, qtbot, lambda name=name: pooled.pool.show_image(name))
    assert [layer.visible for layer in viewer.layers] == [False, False, True, True]
    settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 2/one"))
    assert [layer.visible for layer in viewer.layers] == [True, True, False, False]
    viewer.layers.remove("grade 2/one segments")
    settle(pooled, qtbot, lambda: pooled.pool.show_image("grade 2/one"))
    assert len(viewer.layers) == 4 and viewer.layers.selection.active.name == "grade 2/one segments"
    assert "no image nobody" in settle(pooled, qtbot, lambda: pooled.pool.show_image("nobody"))


def test_browsing_the_pool_leaves_what_is_selected_and_filtered_there(pooled, qtbot) -> None:
    read, led = [], []
    pooled.session.pool_changed.connect(lambda *_: read.append(1))
    pooled.session.page_requested.connect(led.append)
    browse = next(button for button in pooled.findChildren(QPushButton) if button.text() == "Browse the pool")
    browse.click()
    assert led == ["make/pool"] and read == [], "nothing changed in the pool that would have to be read again"


def test_the_pool_of_another_study_is_let_go_when_a_dataset_is_opened(pooled, folder, qtbot, tmp_path) -> None:
    assert pooled.pool.opened is not None and pooled.pool.images.count()
    open_images(pooled, qtbot, Path(shutil.copytree(folder, tmp_path / "other tissue")))
    assert pooled.pool.opened is None and not pooled.pool.images.count()
    assert pooled.session.pool_folder is None
