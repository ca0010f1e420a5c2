"""NuDiff: layouts that people keep and edit, what is painted from them, and what their networks must not have seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_histomix import jobs
from napari_histomix.datasets import open_any
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import with_splits
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import load_generator
from napari_histomix.methods.base import Work
from napari_histomix.methods.layout_stage import LayoutBook, LayoutStage, LayoutStageSettings, layout_picture
from napari_histomix.methods.nudiff import METHOD, NuDiffSettings
from napari_histomix.methods.record import Record
from napari_histomix.records import HistomixError, drain, instance_ids
from napari_histomix.study import Study
from napari_histomix.study.export import export_study
from napari_histomix.study.replay import replay


@pytest.fixture(scope="module")
def dataset(labeled_image, dataset_folder, tmp_path_factory):
    images = [labeled_image(24, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=3) for seed in range(2)]
    images.append(labeled_image(12, seed=9, name="test_9", split="test", patient="p9"))
    return open_any(dataset_folder(tmp_path_factory.mktemp("nudiff") / "nuclei", images))


@pytest.fixture(scope="module")
def model(small_image_folder):
    return load_generator(small_image_folder, "image")


@pytest.fixture
def study(dataset, tmp_path) -> Study:
    return Study.create(tmp_path / "study", dataset.root, dataset.name)


def find(study, dataset, **settings):
    wanted = LayoutStageSettings(**{"layouts": 3, "side": 64, "device": "cpu", **settings})
    return drain(LayoutStage().find(Work(dataset, study), wanted))


def make(study, dataset, model, **settings):
    wanted = NuDiffSettings(**{"count": 3, "steps": 2, "device": "cpu", **settings})
    stage = LayoutStageSettings(layouts=3, side=64)
    outcome = drain(jobs.run(METHOD, dataset, wanted, study, stage=stage, loaded=model))
    return [study.change(number) for number in outcome.ids]


def taught(model, dataset, *names):
    """The model, as if it had learned from these images."""
    hashes = [pixels_sha256(dataset.read(name).pixels) for name in names]
    return replace(model, card={**model.card, "training_pixels": hashes})


class TestLayouts:
    def test_are_kept_with_their_classes_and_where_they_are_from(self, dataset, study):
        assert not LayoutStage().ready(study)
        assert find(study, dataset).layouts == 3 and LayoutStage().ready(study)
        book = LayoutBook(study.folder)
        for number in range(3):
            layout, facts = book.read(number), book.facts(number)
            assert layout.shape == facts.shape == (64, 64) and layout.counts() == facts.counts
            assert layout.source in ("train_0", "train_1") and "test_9" not in layout.donors
            assert set(layout.classes) == set(instance_ids(layout.instances))

    def test_made_again_are_further_ones(self, dataset, study):
        find(study, dataset)
        first = LayoutBook(study.folder).read(0)
        find(study, dataset, raised=("rare",), share=0.8, added=0.0)
        book = LayoutBook(study.folder)
        assert len(book) == 6 and np.array_equal(book.read(0).instances, first.instances)
        assert not np.array_equal(book.read(3).instances, first.instances)
        counts = book.facts(5).counts
        assert counts["rare"] > counts.get("common", 0)

    def test_real_ones_are_windows_of_real_labels(self, dataset, study):
        find(study, dataset, layouts_from="real")
        layout = LayoutBook(study.folder).read(0)
        areas = np.bincount(dataset.read(layout.source).instances.ravel())
        inside = set(instance_ids(layout.instances[1:-1, 1:-1]))
        rim = {*layout.instances[[0, -1]].ravel().tolist(), *layout.instances[:, [0, -1]].ravel().tolist()}
        whole = inside - rim
        assert whole and {int((layout.instances == number).sum()) for number in whole} <= set(areas.tolist())

    def test_drawn_ones_have_the_classes_and_the_scale_of_the_data(self, dataset, study, small_structure_folder):
        find(
            study,
            dataset,
            layouts=1,
            layouts_from="drawn",
            raised=("rare",),
            structure_model=str(small_structure_folder),
        )
        book = LayoutBook(study.folder)
        layout, facts = book.read(0), book.facts(0)
        mpp = dataset.read("train_0").mpp
        assert layout.source == "" and layout.mpp == pytest.approx(mpp) and set(layout.counts()) <= {"rare", "common"}
        assert facts.made["model"] == "small structure" and facts.made["learned_from"] == []

    def test_smaller_images_give_smaller_layouts_and_say_so(self, dataset, study):
        events = list(LayoutStage().find(Work(dataset, study), LayoutStageSettings(layouts=1, side=4096)))
        assert any("holds 4096×4096 pixels" in (event.message or "") for event in events)
        image = dataset.read("train_0")
        assert LayoutBook(study.folder).facts(0).shape == (min(image.instances.shape),) * 2

    def test_an_edit_leaves_the_original_and_can_be_taken_back(self, dataset, study):
        find(study, dataset)
        book = LayoutBook(study.folder)
        before = book.read(1)
        empty = Layout(np.zeros((64, 64), np.int32), {}, before.mpp, before.source)
        book.edit(1, empty)
        again = LayoutBook(study.folder)
        assert again.facts(1).edited and not again.facts(1).counts and not again.read(1).instances.any()
        assert np.array_equal(again.original(1).instances, before.instances)
        again.revert(1)
        assert np.array_equal(LayoutBook(study.folder).read(1).instances, before.instances)
        with pytest.raises(HistomixError, match="64×64 pixels"):
            book.edit(1, Layout(np.zeros((9, 9), np.int32), {}, before.mpp))

    @pytest.mark.parametrize("damage", ["", "[]", '{"classes": {}, "size": [64, 64], "map": "AAAA"}', "{"])
    def test_a_damaged_file_is_one_sentence(self, dataset, study, damage):
        find(study, dataset)
        book = LayoutBook(study.folder)
        (book.folder / "00002.json").write_text(damage, encoding="utf-8")
        with pytest.raises(HistomixError, match="cannot be read"):
            book.read(1)
        assert book.read(0).shape == (64, 64)
        (book.folder / "layouts.json").write_text(damage, encoding="utf-8")
        with pytest.raises(HistomixError, match="cannot be read"):
            LayoutBook(study.folder)

    def test_a_packed_map_is_never_unpacked_beyond_its_size(self, dataset, study):
        import base64
        import zlib

        find(study, dataset)
        book = LayoutBook(study.folder)
        path = book.folder / "00001.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["map"] = base64.b64encode(zlib.compress(bytes(2**24))).decode()
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(HistomixError, match="cannot be read"):
            book.read(0)

    def test_a_picture_shows_every_nucleus_in_the_color_of_its_class(self):
        instances = np.zeros((40, 60), np.int32)
        instances[5:15, 5:15], instances[20:30, 40:50] = 900_000_000, 3
        picture = layout_picture(Layout(instances, {900_000_000: "rare", 3: ""}, 0.5), {"rare": (200, 0, 0)})
        assert picture[10, 10].tolist() == [200, 0, 0] and picture[5, 10].tolist() == [100, 0, 0]
        assert picture[25, 45].tolist() == [150, 150, 150] and picture[0, 0].tolist() == [255, 255, 255]
        assert layout_picture(Layout(instances, {900_000_000: "", 3: ""}, 0.5), {}, side=30).shape == (20, 30, 3)


class TestImages:
    def test_have_the_labels_of_their_layouts_and_no_real_pixel(self, dataset, study, model):
        changes = make(study, dataset, model, count=5)
        book = LayoutBook(study.folder)
        for change in changes:
            layout = book.read(change.provenance["layout"]["number"])
            assert np.array_equal(change.labels, layout.instances) and (change.origin == 2).all()
            names = {number: dataset.class_name(kind) for number, kind in change.added.items()}
            assert names == layout.classes and change.source("labels").image == layout.source
            assert change.source("reference").image == layout.source
        painted = [change.provenance["layout"]["number"] for change in changes]
        assert set(painted[:3]) == {0, 1, 2} and set(painted[3:]) < {0, 1, 2}

    def test_of_dropped_layouts_are_not_made_and_edits_are_painted(self, dataset, study, model):
        find(study, dataset)
        book = LayoutBook(study.folder)
        layout = book.read(2)
        first = next(iter(layout.classes))
        book.edit(2, replace(layout, instances=np.where(layout.instances == first, np.int32(0), layout.instances)))
        study.decide("layout", [0, 1], "drop")
        changes = make(study, dataset, model)
        assert {change.provenance["layout"]["number"] for change in changes} == {2}
        assert all(first not in change.added and change.provenance["layout"]["edited"] for change in changes)
        assert "1 layouts, 1 of them edited by hand" in METHOD.sentence([Record.of(each, str) for each in changes])
        study.decide("layout", [2], "drop")
        with pytest.raises(HistomixError, match="No layout is kept"):
            make(study, dataset, model)

    def test_are_replayed_from_the_export_alone(self, dataset, study, small_image_folder, model, tmp_path):
        find(study, dataset)
        book = LayoutBook(study.folder)
        book.edit(0, replace(book.read(0), classes=dict.fromkeys(book.read(0).classes, "")))
        make(study, dataset, model)
        out = drain(export_study(study, dataset, tmp_path / "out", reviewed=False))
        study.folder.rename(tmp_path / "gone")
        report = drain(replay(out, dataset, [small_image_folder]))
        assert report.problems == () and {each.outcome for each in report.compared} == {"identical"}

    def test_follow_another_stain_where_that_is_wanted(self, dataset, study, model):
        for change in make(study, dataset, model, stain="other"):
            assert change.source("reference").image != change.source("labels").image

    def test_are_traced_to_their_layout_and_its_nucleus(self, dataset, study, model):
        change = make(study, dataset, model, count=1)[0]
        record = Record.of(change, dataset.class_name)
        row, col = (int(place[0]) for place in np.nonzero(change.labels))
        traced = METHOD.trace(record, row, col, True)
        number = int(change.labels[row, col])
        assert traced["instance"] == number and traced["class"] == dataset.class_name(change.added[number])
        assert traced["layout"] == change.provenance["layout"]["number"] + 1

    def test_of_networks_that_know_test_images_are_refused(self, dataset, study, model, tmp_path):
        with pytest.raises(HistomixError, match="learned from test_9"):
            make(study, dataset, taught(model, dataset, "test_9"))
        make(study, dataset, taught(model, dataset, "train_0"), count=1)
        splits = {entry.source.image: entry.source.split for entry in dataset.entries}
        moved = with_splits(dataset, {**splits, "train_0": "test"})
        with pytest.raises(HistomixError, match="train_0"):
            drain(export_study(study, moved, tmp_path / "out", reviewed=False))

    def test_of_layouts_whose_image_is_no_training_image_any_more_are_refused(self, dataset, study, model):
        find(study, dataset)
        splits = {entry.source.image: entry.source.split for entry in dataset.entries}
        used = LayoutBook(study.folder).facts(0).source
        moved = with_splits(dataset, {**splits, used: "test"})
        with pytest.raises(HistomixError, match=f"The image {used} is not in the training split"):
            make(study, moved, model)
