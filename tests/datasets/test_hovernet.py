from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_histomix.datasets import (
    SYNTHETIC_NOTICE,
    open_dataset,
    survey,
    write_dataset_json,
    write_hovernet,
    write_type_info,
)
from napari_histomix.datasets.formats.mat_files import read_mat
from napari_histomix.records import Event, HistomixError, NucleusClass, drain

CLASSES = (NucleusClass(1, "Rare", (255, 0, 0)), NucleusClass(4, "common", (0, 0, 255)))


def scene(ids=(7, 70_000)):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    instances = np.zeros((24, 30), np.int32)
    instances[2:6, 3:9] = ids[0]
    instances[10:20, 15:20] = ids[1]
    return pixels, instances, {ids[0]: 1, ids[1]: 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train_10", "train_2"):
        write_hovernet(tmp_path, name, *scene(), 0.25)
    write_type_info(tmp_path, CLASSES)
    write_dataset_json(tmp_path, name="Two", mpp=0.25)
    return tmp_path


def test_round_trip_with_ids_above_16_bits(folder):
    dataset = open_dataset(folder)
    pixels, instances, types = scene()
    image = dataset.read("train_2")
    assert np.array_equal(image.pixels, pixels)
    assert np.array_equal(image.instances, instances)
    assert image.instances.dtype == np.int32
    assert dict(image.types) == types
    assert (dataset.name, image.mpp, image.source.dataset, image.source.split) == ("Two", 0.25, "Two", "train")
    assert dataset.classes == CLASSES
    assert [entry.source.image for entry in dataset.entries] == ["train_2", "train_10"]


def test_the_written_file_is_what_hovernet_loaders_expect(folder):
    content = scipy.io.loadmat(folder / "Labels" / "train_2.mat")
    assert content["inst_type"].tolist() == [[1], [4]]
    assert content["inst_centroid"].tolist() == [[5.5, 3.5], [17.0, 14.5]]
    assert content["type_map"][3, 4] == 1 and content["type_map"][11, 16] == 4 and content["type_map"][0, 0] == 0


def test_same_input_same_bytes_and_no_date(tmp_path):
    for name in ("a", "b"):
        write_hovernet(tmp_path / name, "x", *scene(), 0.25, synthetic=True)
    for part in ("Images/x.png", "Labels/x.mat"):
        assert (tmp_path / "a" / part).read_bytes() == (tmp_path / "b" / part).read_bytes()
    header = (tmp_path / "a" / "Labels" / "x.mat").read_bytes()[:116]
    assert b"MATLAB 5.0" in header and b"Created" not in header
    with Image.open(tmp_path / "a" / "Images" / "x.png") as image:
        assert image.info["Description"] == SYNTHETIC_NOTICE


def test_real_images_are_not_marked_synthetic(folder):
    with Image.open(folder / "Images" / "train_2.png") as image:
        assert "Description" not in image.info


@given(st.floats(0.06, 4.9))
@settings(max_examples=20, deadline=None)
def test_scale_round_trips_through_the_png(tmp_path_factory, mpp):
    folder = tmp_path_factory.mktemp("scale")
    write_hovernet(folder, "x", *scene(), mpp)
    assert open_dataset(folder).entries[0].mpp == pytest.approx(mpp, rel=1e-4)


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 99_999]), min_size=5, max_size=5), min_size=1, max_size=6),
    st.lists(st.integers(1, 7), min_size=3, max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_any_instance_map_round_trips(tmp_path_factory, rows, numbers):
    folder = tmp_path_factory.mktemp("any")
    instances = np.array(rows, np.int32)
    types = dict(zip((1, 2, 99_999), numbers, strict=True))
    write_hovernet(folder, "x", np.zeros((*instances.shape, 3), np.uint8), instances, types, 0.5)
    found = read_mat(folder / "Labels" / "x.mat")
    assert np.array_equal(found.instances, instances)
    assert found.types == {int(i): types[int(i)] for i in np.unique(instances) if i}


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", ".x", "c:x"])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(HistomixError, match="name of an image file"):
        write_hovernet(tmp_path / "out", name, *scene(), 0.25)
    assert not (tmp_path / "out").exists()


def save_mat(path, **content):
    scipy.io.savemat(path, content)
    return path


def test_type_map_decides_where_inst_type_does_not_fit(tmp_path):
    instances = np.array([[5, 5, 5, 0, 9, 9]])
    type_map = np.array([[2, 0, 2, 0, 3, 1]])
    path = save_mat(tmp_path / "x.mat", inst_map=instances, inst_type=np.ones((9, 1)), type_map=type_map)
    assert read_mat(path).types == {5: 2, 9: 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"type_map": np.ones((2, 2))}, "no inst_map"),
        ({"inst_map": np.full((2, 2), 1.5), "inst_type": [[1]]}, "whole numbers"),
        ({"inst_map": np.full((2, 2), -1), "inst_type": [[1]]}, "whole numbers"),
        ({"inst_map": np.full((2, 2), np.nan), "inst_type": [[1]]}, "whole numbers"),
        ({"inst_map": np.array(["a", "b"])}, "does not hold numbers"),
        ({"inst_map": np.ones((2, 2, 2)), "inst_type": [[1]]}, "one plane"),
    ],
)
def test_bad_label_files_say_what_is_wrong(tmp_path, content, words):
    with pytest.raises(HistomixError, match=words):
        read_mat(save_mat(tmp_path / "x.mat", **content))


def test_a_truncated_label_file_is_one_sentence(folder):
    path = folder / "Labels" / "train_2.mat"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(HistomixError, match=r"train_2\.mat cannot be read") as caught:
        open_dataset(folder).read("train_2")
    assert "\n" not in str(caught.value)


def test_an_instance_without_a_type_is_unclassified(folder):
    save_mat(folder / "Labels" / "train_2.mat", inst_map=np.ones((24, 30)), inst_type=[[0]])
    dataset = open_dataset(folder)
    assert dataset.read("train_2").counts() == {dataset.unclassified.number: 1}
    assert [known.name for known in dataset.classes_in(drain(survey(dataset)))] == ["Rare", "common", "unclassified"]


@pytest.mark.parametrize("kind", [9, 5])
def test_a_type_outside_type_info_is_refused(folder, kind):
    save_mat(folder / "Labels" / "train_2.mat", inst_map=np.ones((24, 30)), inst_type=[[kind]])
    with pytest.raises(HistomixError, match=rf"the type {kind}, which is none of the classes \(1 Rare, 4 common\)"):
        open_dataset(folder).read("train_2")


def test_labels_of_another_size_are_refused(folder):
    Image.new("RGB", (8, 8)).save(folder / "Images" / "train_2.png")
    with pytest.raises(HistomixError, match="30×24 pixels but the image is 8×8"):
        open_dataset(folder).read("train_2")


def test_survey_goes_on_after_a_bad_image(folder):
    (folder / "Images" / "train_10.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    write_hovernet(folder, "empty", np.zeros((5, 6, 3), np.uint8), np.zeros((5, 6), np.int32), {}, 0.25)
    dataset = open_dataset(folder)
    events = []
    job = survey(dataset)
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            found = end.value
            break
    assert events[0] == Event("Reading labels", 0, 3) and events[-1] == Event("Reading labels", 3, 3)
    assert [problem.image for problem in found.problems] == ["train_10"]
    assert found.counts == {"empty": {}, "train_2": {1: 1, 4: 1}}
    assert found.shapes["empty"] == (5, 6)
    assert found.total == {1: 1, 4: 1}


def read_again(dataset, known):
    """Names of images in the order they were read, and what was found."""
    job, places = survey(dataset, known), []
    while True:
        try:
            places.append(next(job).done)
        except StopIteration as end:
            return [dataset.entries[place].source.image for place in places[:-1]], end.value


def test_images_whose_files_are_as_they_were_are_not_read_again(folder):
    first = drain(survey(open_dataset(folder)))
    names, again = read_again(open_dataset(folder), first)
    assert names == [] and again == first
    labels = folder / "Labels" / "train_2.mat"
    times = labels.stat().st_mtime_ns
    save_mat(labels, inst_map=np.pad(np.ones((1, 1), int), ((0, 23), (0, 29))), inst_type=[[4]])
    os.utime(labels, ns=(times, times + 1))
    names, changed = read_again(open_dataset(folder), first)
    assert names == ["train_2"] and changed.counts["train_2"] == {4: 1}
    assert changed.hashes == first.hashes and changed.counts["train_10"] == first.counts["train_10"]
    (folder / "Images" / "train_10.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    names, broken = read_again(open_dataset(folder), changed)
    assert names == ["train_10"] and broken.counts.keys() == broken.stamps.keys() == {"train_2"}
    assert [one.image for one in broken.problems] == ["train_10"]


def test_images_are_read_again_when_the_classes_are_others(folder):
    first = drain(survey(open_dataset(folder)))
    write_type_info(folder, CLASSES[:1])
    names, again = read_again(open_dataset(folder), first)
    assert len(names) == 2 and {one.image for one in again.problems} == {"train_2", "train_10"}


def test_classes_go_by_number_without_type_info(folder):
    (folder / "type_info.json").unlink()
    assert [(one.number, one.name) for one in open_dataset(folder).classes] == [(1, "type 1"), (4, "type 4")]


def test_class_lookup(folder):
    dataset = open_dataset(folder)
    assert dataset.class_number("rare") == dataset.class_number(1) == dataset.class_number("1") == 1
    assert dataset.class_name(4) == "common"
    with pytest.raises(HistomixError, match="its classes are 1 Rare, 4 common"):
        dataset.class_number("mitosis")
    with pytest.raises(HistomixError, match="no image 'x'"):
        dataset.entry("x")


def test_train_and_test_subfolders(tmp_path):
    write_hovernet(tmp_path / "Train", "train_1", *scene(), 0.25)
    write_hovernet(tmp_path / "Test", "test_1", *scene(), 0.25)
    write_type_info(tmp_path, CLASSES)
    write_dataset_json(tmp_path, name="Both", mpp=0.25)
    dataset = open_dataset(tmp_path)
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == {
        "train_1": "train",
        "test_1": "test",
    }
    assert [entry.source.image for entry in dataset.training] == ["train_1"]
    write_hovernet(tmp_path / "Test", "train_1", *scene(), 0.25)
    names = [(entry.source.image, entry.source.split) for entry in open_dataset(tmp_path).entries]
    assert names == [("test-train_1", "test"), ("test_1", "test"), ("train_1", "train")]


def test_split_by_dataset_json(folder):
    write_dataset_json(folder, name="Two", mpp=0.25, split={"test": ["train_10"]})
    assert [entry.source.split for entry in open_dataset(folder).entries] == ["train", "test"]
    write_dataset_json(folder, name="Two", mpp=0.25, split="Validation")
    assert open_dataset(folder).training == ()


def test_images_csv_gives_patients(folder):
    (folder / "images.csv").write_text("image,patient,slide,split,mpp\ntrain_2.png,P1,S1,Test,0.5\n")
    entry = open_dataset(folder).entry("train_2")
    assert (entry.source.patient, entry.source.slide, entry.source.split, entry.mpp) == ("P1", "S1", "test", 0.5)


def test_consep_counts(shared):
    dataset = open_dataset(shared / "data" / "consep-train")
    assert len(dataset.entries) == 27 and dataset.entries[0].mpp == 0.25 and not dataset.problems
    found = drain(survey(dataset))
    assert found.total == {1: 371, 2: 3941, 3: 5537, 4: 5706}
    assert not found.problems


def test_dataset_json_holds_what_was_written(folder):
    write_dataset_json(folder, name="µ", license="CC0")
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8")) == {"name": "µ", "license": "CC0"}


SPECK = np.zeros((24, 30), np.int32)
SPECK[2:6, 3:9], SPECK[10:20, 15:20], SPECK[22:23, 1:3] = 7, 2, 5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # Lizard's own: the i-th class is that of the i-th id.
        ({"id": [[7], [5], [2]], "class": [[6], [1], [3]], "bbox": np.zeros((3, 4))}, {7: 6, 5: 1, 2: 3}),
        # HoVer-Net's output, where a speck has no record, or one has no speck any more.
        ({"inst_uid": [[7], [2]], "inst_type": [[4], [1]]}, {7: 4, 2: 1}),
        ({"inst_uid": [[9], [7], [2], [5]], "inst_type": [[2], [4], [1], [0]]}, {7: 4, 2: 1, 9: 2, 5: 0}),
        ({"inst_uid": [[7], [2]], "inst_type": [[4], [1]], "type_map": SPECK % 4}, {7: 4, 2: 1, 5: 1}),
        ({"inst_type": [[1], [3], [4]]}, {2: 1, 5: 3, 7: 4}),
        # Nothing can be known.
        ({"inst_type": [[1], [3]]}, {}),
        ({"inst_uid": [[7], [2]], "inst_type": [[1], [3], [4]]}, {}),
        ({"inst_uid": [[7], [2], [5]]}, {}),
    ],
)
def test_types_belong_to_the_ids_that_the_file_lists(tmp_path, content, expected):
    labels = read_mat(save_mat(tmp_path / "x.mat", inst_map=SPECK, **content))
    assert labels.types == expected and np.array_equal(labels.instances, SPECK)
    assert bool(labels.notes) == (not expected and "inst_type" in content)


def test_one_id_of_two_types_is_refused(tmp_path):
    path = save_mat(tmp_path / "x.mat", inst_map=SPECK, inst_uid=[[7], [7]], inst_type=[[1], [2]])
    with pytest.raises(HistomixError, match="two types to the instance 7"):
        read_mat(path)


def test_lizard_has_names_and_maps_alone_are_of_one_class(tmp_path):
    write_hovernet(tmp_path, "x", *scene(), 0.5)
    labels = tmp_path / "Labels" / "x.mat"
    save_mat(labels, inst_map=SPECK, id=[[7], [5], [2]], **{"class": [[6], [1], [3]]})
    dataset = open_dataset(tmp_path)
    names = {instance: dataset.class_name(kind) for instance, kind in dataset.read("x").types.items()}
    assert names == {7: "Connective tissue", 5: "Neutrophil", 2: "Lymphocyte"}
    save_mat(labels, inst_map=SPECK, inst_centroid=np.zeros((3, 2)))
    dataset = open_dataset(tmp_path)
    assert [known.name for known in dataset.classes] == ["nucleus"]
    assert dataset.read("x").counts() == {1: 3} and not dataset.problems
    save_mat(labels, inst_map=SPECK, inst_type=[[1], [3]])
    image = open_dataset(tmp_path).read("x")
    assert image.notes[0].sentence == (
        "x: x.mat lists 2 types for 3 nuclei, so they are not used; export the labels again."
    )


@pytest.mark.parametrize("case", ["23-lizard-mat", "24a-hovernet-output-mat-inst-uid"])
def test_files_of_lizard_and_hovernet(shared, case):
    root = shared / "cases" / case
    dataset = open_dataset(root / "in", mpp=0.5)
    [entry] = dataset.entries
    with np.load(next((root / "truth").glob("*.npz"))) as truth:
        instances, types = truth["inst"], json.loads(str(truth["types"]))
    image = dataset.read(entry)
    assert {str(i): kind for i, kind in image.types.items() if str(i) in types} == {
        instance: dataset.class_number(kind) for instance, kind in types.items()
    }
    # A speck without a record is not in the truth.
    [*specks] = image.types.keys() - {int(instance) for instance in types}
    assert np.array_equal(np.where(np.isin(image.instances, specks), 0, image.instances), instances)
    assert {image.types[speck] for speck in specks} <= {dataset.unclassified.number} and len(specks) < 2


def test_the_folder_mat_of_hovernet_beside_images(tmp_path):
    write_hovernet(tmp_path, "x", *scene(), 0.5)
    (tmp_path / "Labels").rename(tmp_path / "mat")
    (tmp_path / "overlay").mkdir()
    dataset = open_dataset(tmp_path)
    assert dataset.format == "hovernet" and dict(dataset.read("x").types) == scene()[2]
