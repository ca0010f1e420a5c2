from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from format_samples import CLASSES, small
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from round_trips import same, written

from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.datasets.formats.coco import Nucleus, Writer, filled, segmentation
from napari_histomix.datasets.formats.polygons import Canvas
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans())
NAME = "annotations/instances_train.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three nuclei: a block, one with a hole, and one in two parts."""
    writer = Writer(tmp_path, "three", CLASSES)
    writer.add(small(), synthetic=True)
    writer.finish()
    return tmp_path


def edited(folder: Path, change) -> Path:
    path = folder / NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content))
    return folder


def test_what_was_written_is_read_back(tmp_path):
    dataset = load_sample()
    again = open_dataset(written(dataset, tmp_path / "out", "coco"))
    assert again.classes == dataset.classes and not again.problems
    for entry in again.entries:
        same(again.read(entry), dataset.read(entry.source.image), ids=False)


def test_consep_is_read_back(shared, tmp_path):
    dataset = open_dataset(shared / "data" / "consep-train")
    again = open_dataset(written(dataset, tmp_path / "out", "coco", 1))
    same(again.read(again.entries[0]), dataset.read(again.entries[0].source.image), ids=False)


def test_pycocotools_sees_the_same_masks(tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco")
    dataset = load_sample()
    folder = written(dataset, tmp_path / "out", "coco")
    coco = coco_module.COCO(str(folder / NAME))
    for number, record in coco.imgs.items():
        image = dataset.read(Path(record["file_name"]).stem)
        assert record["synthetic"] == (number == 1)
        assert np.array_equal(np.asarray(Image.open(folder / "images" / record["file_name"])), image.pixels)
        seen = set()
        for one in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            mask = coco.annToMask(one).astype(bool)
            [instance] = np.unique(image.instances[mask])
            assert np.array_equal(mask, image.instances == instance)
            assert one["category_id"] == image.types[instance] and one["area"] == mask.sum()
            rows, cols = np.nonzero(mask)
            assert one["bbox"] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
            seen.add(instance)
        assert seen == set(np.unique(image.instances)) - {0}
    assert {one["id"]: one["name"] for one in coco.dataset["categories"]} == {
        one.number: one.name for one in dataset.classes
    }
    assert coco.dataset["info"]["notice"] == SYNTHETIC_NOTICE


@settings(max_examples=150, deadline=None)
@given(MASKS, st.integers(0, 3), st.integers(0, 3))
def test_any_mask_comes_back_here_and_in_pycocotools(mask, row, col):
    tools = pytest.importorskip("pycocotools.mask")
    shape = (mask.shape[0] + 4, mask.shape[1] + 5)
    whole = np.zeros(shape, bool)
    whole[row : row + mask.shape[0], col : col + mask.shape[1]] = mask
    if not mask.any():
        return
    outline = segmentation(mask, row, col, shape)
    above, left, found = filled(Nucleus.read(outline, 1), shape, Canvas(shape))
    again = np.zeros(shape, bool)
    again[above : above + found.shape[0], left : left + found.shape[1]] = found
    assert np.array_equal(again, whole)
    encoded = tools.merge(tools.frPyObjects(outline, *shape)) if isinstance(outline, list) else outline
    assert np.array_equal(tools.decode(encoded).astype(bool), whole)


def test_run_lengths_only_where_a_polygon_would_not_do(folder):
    content = json.loads((folder / NAME).read_text())
    assert [type(one["segmentation"]) for one in content["annotations"]] == [list, dict, dict]
    same(open_dataset(folder).read("a"), small(), ids=False)


def test_polygons_that_touch_are_one_nucleus_and_run_lengths_may_be_numbers(folder):
    def change(content):
        content["annotations"] = [
            # Two rings that overlap: a union, as pycocotools merges them, not one less the other.
            {"image_id": 1, "category_id": 1, "segmentation": [[2, 2, 7, 2, 7, 6, 2, 6], [5, 2, 9, 2, 9, 6, 5, 6]]},
            {"image_id": 1, "category_id": 3, "segmentation": {"size": [20, 24], "counts": [200, 10, 20, 5, 245]}},
            {"image_id": 1, "category_id": 3, "segmentation": [[-5, -5, 1, -5, 1, 1, -5, 1]]},
            {"image_id": 1, "category_id": 3, "segmentation": [[90, 90, 99, 90, 99, 99]]},
            {"image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [20, 24], "counts": [0, 480]}},
            {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
        ]

    dataset = open_dataset(edited(folder, change))
    image = dataset.read("a")
    runs = np.zeros(480, int)
    runs[200:210] = runs[230:235] = 2
    expected = runs.reshape(24, 20).T.copy()
    expected[2:6, 2:9] = 1
    expected[0, 0] = 3
    assert np.array_equal(image.instances, expected)
    assert dict(image.types) == {1: 1, 2: 3, 3: 3}
    assert image.notes[0].sentence == (
        "a: 1 of 6 objects is a region of many objects (iscrowd), 1 has a box but no outline, "
        "1 lies outside the image; they are left out."
    )


def test_a_file_beside_its_images_with_categories_from_0(tmp_path):
    for split, name in (("train", "one"), ("valid", "two")):
        (tmp_path / split).mkdir()
        Image.fromarray(small().pixels).save(tmp_path / split / f"{name}.jpg")
        content = {
            "info": {},
            "images": [{"id": 0, "file_name": f"{name}.jpg", "height": 20, "width": 24}],
            "annotations": [{"image_id": 0, "category_id": 1, "segmentation": [[2, 2, 7, 2, 7, 6, 2, 6]]}],
            "categories": [{"id": 0, "name": "cells"}, {"id": 1, "name": "mitosis"}],
        }
        if split == "valid":
            content["annotations"][0]["category_id"] = 0
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path, mpp=0.5)
    assert [(one.number, one.name) for one in dataset.classes] == [(1, "cells"), (2, "mitosis")]
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == {"one": "train", "two": "val"}
    assert dataset.read("one").counts() == {2: 1} and dataset.read("two").counts() == {1: 1}


def test_images_in_folders_of_the_splits(tmp_path):
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        Image.fromarray(small().pixels).save(tmp_path / split / f"{split[0]}.png")
        Image.fromarray(small().pixels[:9]).save(tmp_path / split / "000.png")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        content = {
            "images": [{"id": 7, "file_name": "000.png"}],
            "annotations": [],
            "categories": [{"id": 5, "name": "x", "color": [1, 2, 3]}],
        }
        if split == "val2017":
            content["images"][0]["file_name"] = "v.png"
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        (tmp_path / "annotations" / f"captions_{split}.json").write_text('{"info": {}}')
    dataset = open_dataset(tmp_path, mpp=0.5)
    assert [str(entry.image.relative_to(tmp_path)) for entry in dataset.entries] == [
        "train2017/000.png",
        "val2017/v.png",
    ]
    assert dataset.read("000").pixels.shape == (9, 24, 3) and dataset.classes[0].color == (1, 2, 3)


def change_of(place, value):
    def change(content):
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("images",), {}, "must be lists of objects"),
        (("images", 0, "id"), [1], "no id"),
        (("images", 0, "file_name"), 3, "no file_name"),
        (("annotations", 0, "image_id"), None, "no image_id"),
        (("categories", 0, "id"), "1", "no whole number"),
        (("categories", 0, "name"), "immune CELL", "one name or number to two classes"),
        (("categories", 0, "name"), None, "must read"),
        (("images", 0, "file_name"), "../../etc/a.txt", "no such image is there"),
        (("images", 0, "file_name"), "\0", "no such image is there"),
        (("annotations", 0, "category_id"), 9, "none of the categories"),
        (("annotations", 0, "category_id"), [], "none of the categories"),
        (("annotations", 0, "segmentation"), "abc", "run lengths or polygons"),
        (("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, float("inf")]], "is not valid JSON"),
        (("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, 1e300]], "infinity"),
        (("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, "6"]], "list of points"),
        (("annotations", 0, "segmentation"), [[1, 2, 3]], "run lengths or polygons"),
        (("annotations", 1, "segmentation", "size"), 7, "must read"),
    ],
)
def test_what_is_wrong_is_said_when_the_folder_is_opened(folder, place, value, words):
    with pytest.raises(HistomixError, match=words):
        open_dataset(edited(folder, change_of(place, value)))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("images", 0, "width"), 20, "says 20×20 pixels but the image is 24×20"),
        (("annotations", 1, "segmentation", "size"), [24, 20], "run lengths are for the size"),
        (("annotations", 1, "segmentation", "counts"), "0", "add up to"),
        (("annotations", 1, "segmentation", "counts"), "ooooooooooooooooooooo", "add up to"),
        (("annotations", 1, "segmentation", "counts"), "é", "add up to"),
        (("annotations", 1, "segmentation", "counts"), [480, -480, 480], "add up to"),
        (("annotations", 1, "segmentation", "counts"), [10**30], "add up to"),
        (("annotations", 1, "segmentation", "counts"), [2**62, 2**62, 480, 2**62, 2**62], "add up to"),
        (("annotations", 1, "segmentation", "counts"), [240.0, 240.0], "add up to"),
        (("annotations", 1, "segmentation", "counts"), [[1], 2], "add up to"),
        (("annotations", 1, "segmentation", "counts"), [0] * 4000, "more than the image's pixels"),
    ],
)
def test_what_is_wrong_is_said_when_an_image_is_read(folder, place, value, words):
    dataset = open_dataset(edited(folder, change_of(place, value)))
    with pytest.raises(HistomixError, match=words):
        dataset.read("a")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_one_sentence(folder, keep):
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(HistomixError):
        open_dataset(folder)


def test_polygons_beyond_counting_are_refused(folder, monkeypatch):
    monkeypatch.setattr("napari_histomix.datasets.formats.polygons._MAX_WORK", 50)
    dataset = open_dataset(folder)
    with pytest.raises(HistomixError, match="too many times"):
        dataset.read("a")
