"""COCO's files as annotation tools write them: splits, file names, crowds and photographs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import Dataset, open_dataset, survey
from napari_histomix.datasets.formats.polygons import mask_text
from napari_histomix.records import HistomixError, drain

SHAPE = (20, 24)
CATEGORIES = [{"id": 1, "name": "Tumor"}, {"id": 2, "name": "Stroma"}]


def block(row: int, col: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[row : row + height, col : col + width] = True
    return mask


def polygon(row: int, col: int, height: int, width: int, category: int | None = 1, **more: Any) -> dict[str, Any]:
    corners = [col, row, col + width, row, col + width, row + height, col, row + height]
    return {"category_id": category, "segmentation": [corners], "area": height * width, "iscrowd": 0} | more


def brush(mask: np.ndarray, category: int = 1, **more: Any) -> dict[str, Any]:
    """A mask as CVAT writes it: run lengths in numbers, and called a crowd."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int), [0]])
    counts = np.diff([0, *np.flatnonzero(np.diff(flat)), mask.size]).tolist()
    outline = {"counts": counts, "size": list(mask.shape)}
    return {"category_id": category, "segmentation": outline, "area": int(mask.sum()), "iscrowd": 1} | more


def picture(path: Path, value: int = 200, shape: tuple[int, int] = SHAPE, turn: int = 1) -> None:
    """An image of one color; with a turn, as a camera that was held that way stores it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(path, exif=exif)


def listed(path: Path, images: dict[str, Iterable[dict[str, Any]]], **more: Any) -> None:
    """One of COCO's files with these images, by their file names, and their annotations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"id": number, "file_name": name} | more for number, name in enumerate(images, start=1)]
    annotations = [one | {"image_id": number} for number, group in enumerate(images.values(), 1) for one in group]
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": CATEGORIES}))


def splits(dataset: Dataset) -> dict[str, str]:
    return {entry.source.image: entry.source.split for entry in dataset.entries}


def sentences(dataset: Dataset) -> list[str]:
    return [problem.sentence for problem in drain(survey(dataset)).problems]


@pytest.mark.parametrize(
    ("file", "folder", "split"),
    [
        ("annotations/instances_Train.json", "images/Train", "train"),
        ("annotations/instances_TEST.json", "images/TEST", "test"),
        ("annotations/instances_Validation.json", "images/Validation", "val"),
        ("annotations/instances_default.json", "images/default", "train"),
        ("annotations/instances_val2017.json", "val2017", "val"),
        ("Annotations/Test.json", "images", "test"),
        ("annotations/consep_val_v2.json", "images", "val"),
        ("annotations/instances_default.json", "images/Test", "test"),
        ("test/_annotations.coco.json", "test", "test"),
        ("Valid/annotations/instances_default.json", "Valid/images/default", "val"),
        ("Test set/annotations/instances_default.json", "Test set/images", "test"),
        ("result.json", "images", "train"),
        ("annotations/instances_batch1.json", "images/batch1", "batch1"),
        ("annotations/instances_Fold_A.json", "images/Fold_A", "fold_a"),
        ("annotations/instances_trainval.json", "images", "trainval"),
        ("annotations/instances_Train.json", "images/Test", "test"),
        ("annotations/image_info_test-dev2017.json", "images", "test"),
    ],
)
def test_splits_as_tools_spell_them(tmp_path, file, folder, split):
    picture(tmp_path / folder / "a.png")
    listed(tmp_path / file, {"a.png": [polygon(2, 3, 4, 5)]})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": split}
    assert np.array_equal(dataset.read("a").instances, block(2, 3, 4, 5))
    asked = [sentence for sentence in sentences(dataset) if "nothing is learned from" in sentence]
    assert bool(asked) == (split not in ("train", "val", "test") or ("Train.json" in file and split == "test"))


def test_a_name_that_is_no_split_may_be_said_to_be_one(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"batch {name}" / f"{name}.png")
        listed(tmp_path / f"batch {name}" / "annotations" / "instances_default.json", {f"{name}.png": []})
    assert splits(open_dataset(tmp_path, mpp=0.25)) == {"a": "batch a", "b": "batch b"}
    (tmp_path / "dataset.json").write_text('{"splits": {"Batch A": "train", "batch b": "Test"}}')
    assert splits(open_dataset(tmp_path, mpp=0.25)) == {"a": "train", "b": "test"}


def test_one_file_for_each_image_is_no_split(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
        listed(tmp_path / "annotations" / f"{name}.json", {f"{name}.png": []})
    assert splits(open_dataset(tmp_path, mpp=0.25)) == {"a": "train", "b": "train"}


def test_one_name_in_two_splits_is_two_images(tmp_path):
    for number, split in enumerate(("Test", "Train", "Validation"), start=1):
        picture(tmp_path / "images" / split / "a.png", 50 * number)
        listed(tmp_path / "annotations" / f"instances_{split}.json", {"a.png": [polygon(number, 3, 4, 5, 2)]})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "train", "Test-a": "test", "Validation-a": "val"} and not dataset.problems
    for number, name in enumerate(("Test-a", "a", "Validation-a"), start=1):
        image = dataset.read(name)
        assert (image.pixels == 50 * number).all() and dict(image.types) == {1: 2}
        assert np.array_equal(image.instances, block(number, 3, 4, 5))


def test_tasks_of_cvat_in_folders_for_splits(tmp_path):
    for split in ("train", "Test"):
        picture(tmp_path / split / "images" / "default" / "a.png")
        listed(tmp_path / split / "annotations" / "instances_default.json", {"a.png": [polygon(2, 3, 4, 5)]})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "train", "Test-a": "test"} and not dataset.problems


def test_many_folders_of_one_image_name_are_listed_fast(tmp_path):
    for number in range(300):
        picture(tmp_path / "images" / f"case {number}" / "image.png", shape=(2, 2))
    listed(tmp_path / "coco.json", {f"x/case {number}/image.png": [] for number in range(300)})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert len(dataset.entries) == 300 and not dataset.problems
    names = {entry.image.parent.name: entry.source.image for entry in dataset.entries}
    assert names["case 7"] == "case 7-image"


def test_an_image_of_another_split_is_not_taken_for_one_that_is_missing(tmp_path):
    picture(tmp_path / "images" / "Train" / "b.png")
    picture(tmp_path / "images" / "Test" / "a.png")
    listed(tmp_path / "annotations" / "instances_Train.json", {"a.png": [], "b.png": []})
    listed(tmp_path / "annotations" / "instances_Test.json", {"a.png": [polygon(2, 3, 4, 5)]})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "test", "b": "train"} and dataset.read("a").counts() == {1: 1}
    assert sentences(dataset) == ["a.png: instances_Train.json lists it but no such image is there; add it."]


def test_folders_called_images_do_not_speak_for_a_split(tmp_path):
    picture(tmp_path / "Train" / "images" / "b.png")
    picture(tmp_path / "Test" / "images" / "a.png")
    listed(tmp_path / "Train" / "coco.json", {"images/a.png": [], "images/b.png": []})
    listed(tmp_path / "Test" / "coco.json", {"images/a.png": [polygon(2, 3, 4, 5)]})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "test", "b": "train"} and dataset.read("a").counts() == {1: 1}
    assert "no such image is there" in sentences(dataset)[0]


def test_an_image_in_two_files_is_not_learned_from(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
    listed(tmp_path / "annotations" / "instances_all.json", {"a.png": [], "b.png": []})
    listed(tmp_path / "annotations" / "instances_test.json", {"b.png": [polygon(2, 3, 4, 5)]})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "train", "b": "test"} and dataset.read("b").counts() == {1: 1}
    assert "1 of its images is in instances_test.json too" in sentences(dataset)[0]


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("C:\\slides\\set 1\\ä 1.png", "images/ä 1.png"),
        ("images\\ä 1.png", "images/ä 1.png"),
        ("https://host/data/%C3%A4%201.png?token=3", "images/ä 1.png"),
        ("%C3%A4%201.png", "images/ä 1.png"),
        ("/data/local-files/?d=images/ä 1.png", "images/ä 1.png"),
        ("../../media/upload/1/ä 1.png", "images/ä 1.png"),
        (unicodedata.normalize("NFD", "ä 1.png"), "images/ä 1.png"),
        ("ä 1.png", unicodedata.normalize("NFD", "images/ä 1.png")),
        ("Ä 1.PNG", "Images/ä 1.png"),
        ("ä 1.jpg", "images/ä 1.png"),
        ("ä 1.svs", "images/ä 1.png"),
        ("ä 1", "images/ä 1.png"),
        ("what?.png", "images/what?.png"),
        ("50%25.png", "images/50%25.png"),
        ("a/b/c.png", "images/a/b/c.png"),
    ],
)
def test_file_names_in_other_bytes(tmp_path, text, file):
    picture(tmp_path / file)
    listed(tmp_path / "annotations" / "instances_train.json", {text: [polygon(2, 3, 4, 5)]})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert not dataset.problems
    assert np.array_equal(dataset.read(dataset.entries[0]).instances, block(2, 3, 4, 5))


def test_folders_of_one_image_name_are_told_apart(tmp_path):
    for number, folder in enumerate(("case 1", "case 2"), start=1):
        picture(tmp_path / "images" / folder / "a.png", number)
    listed(tmp_path / "coco.json", {"case 2/a.png": [polygon(2, 2, 2, 2)], "x\\Case 1\\a.png": [], "case 3/a.png": []})
    dataset = open_dataset(tmp_path, mpp=0.25)
    images = {name: dataset.read(name) for name in ("a", "case 1-a")}
    assert {name: (int(image.pixels.max()), len(image.types)) for name, image in images.items()} == {
        "a": (2, 1),
        "case 1-a": (1, 0),
    }
    assert sentences(dataset) == [
        "case 3/a.png: coco.json lists it and 2 images could be meant; write their folders in there."
    ]


def test_an_image_of_a_kind_that_is_not_read_is_named_as_that(tmp_path):
    picture(tmp_path / "images" / "b.png")
    (tmp_path / "images" / "a.bmp").write_bytes(b"BM")
    listed(tmp_path / "coco.json", {"a.bmp": [], "b.png": []})
    assert sentences(open_dataset(tmp_path, mpp=0.25)) == [
        "a.bmp: coco.json lists it but it is no PNG, TIFF or JPEG; save it as one of these."
    ]


def test_a_polygon_without_brackets_around_it(tmp_path):
    picture(tmp_path / "images" / "a.png")
    flat = {"category_id": 1, "segmentation": [3, 2, 8, 2, 8, 6, 3, 6]}
    listed(tmp_path / "coco.json", {"a.png": [flat]})
    assert np.array_equal(open_dataset(tmp_path, mpp=0.25).read("a").instances, ROUND)


def test_a_name_with_another_ending_that_two_images_have(tmp_path):
    for name in ("a.png", "a.tif", "b.png"):
        picture(tmp_path / "images" / name)
    listed(tmp_path / "coco.json", {"a.jpg": [], "b.png": []})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"b": "train"} and "2 images could be meant" in dataset.problems[0].sentence
    listed(tmp_path / "coco.json", {"a.tif": [], "a.png": [], "b.png": []})
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "train", "b": "train"} and "two images named 'a'" in dataset.problems[0].sentence


ROUND = block(2, 3, 4, 5)
TWO = block(2, 3, 4, 5) | block(12, 3, 4, 5)
SPECK = block(2, 3, 5, 5) | block(9, 9, 1, 1)
CVAT = {"attributes": {"occluded": False}}


@pytest.mark.parametrize(
    ("annotations", "counts", "crowds"),
    [
        ([brush(ROUND), brush(block(9, 9, 2, 2), 2)], {1: 1, 2: 1}, 0),
        ([brush(TWO), brush(block(9, 9, 2, 2), 2)], {1: 1, 2: 1}, 0),
        # A region of many objects among polygons, as in COCO's own files.
        ([polygon(2, 3, 4, 5), polygon(8, 3, 4, 5), brush(block(12, 12, 6, 9))], {1: 2}, 1),
        # Polygons and a brush in CVAT, and a category that is drawn with the brush.
        ([polygon(2, 3, 4, 5), polygon(8, 3, 4, 5), brush(block(12, 12, 4, 5)) | CVAT], {1: 3}, 0),
        ([polygon(2, 3, 4, 5), polygon(8, 3, 4, 5), brush(block(12, 12, 4, 5), 2)], {1: 2, 2: 1}, 0),
        ([polygon(2, 3, 1, 5), polygon(8, 3, 4, 1), brush(block(0, 8, 20, 16), 2)], {1: 2}, 1),
        ([polygon(8, 13, 4, 5), brush(TWO) | CVAT, brush(SPECK) | CVAT], {1: 2}, 1),
        ([polygon(2, 3, 4, 5, iscrowd="0"), brush(block(9, 9, 2, 2), iscrowd=False)], {1: 2}, 0),
    ],
)
def test_crowds(tmp_path, annotations, counts, crowds):
    picture(tmp_path / "images" / "a.png")
    listed(tmp_path / "annotations" / "instances_default.json", {"a.png": annotations})
    dataset = open_dataset(tmp_path, mpp=0.25)
    image = dataset.read("a")
    assert dict(image.counts()) == counts
    assert [note.sentence for note in image.notes if "iscrowd" in note.sentence] == (
        [f"a: 1 of {sum(counts.values()) + 1} objects is a region of many objects (iscrowd); it is left out."] * crowds
    )


def test_a_brush_mask_is_read_pixel_by_pixel(tmp_path):
    picture(tmp_path / "images" / "a.png")
    ring = block(3, 3, 7, 8) & ~block(5, 5, 2, 3)
    text = brush(ring, 2) | {"segmentation": mask_text(ring)}
    listed(tmp_path / "annotations" / "instances_default.json", {"a.png": [brush(block(12, 1, 3, 3)), text]})
    image = open_dataset(tmp_path, mpp=0.25).read("a")
    assert np.array_equal(image.instances, block(12, 1, 3, 3) + 2 * ring) and dict(image.types) == {1: 1, 2: 2}


def test_what_is_no_nucleus_is_counted(tmp_path):
    picture(tmp_path / "images" / "a.png")
    box = {"category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": []}
    kept = [polygon(2, 3, 4, 5, None), box, box | {"bbox": None}]
    listed(tmp_path / "annotations" / "instances_default.json", {"a.png": kept, "b.png": []})
    dataset = open_dataset(tmp_path, mpp=0.25)
    image = dataset.read("a")
    assert np.array_equal(image.instances, ROUND) and dict(image.types) == {1: dataset.unclassified.number}
    assert image.notes[0].sentence == (
        "a: 1 of 3 objects has a box but no outline, 1 has no outline; they are left out."
    )
    content = json.loads((tmp_path / "annotations" / "instances_default.json").read_text())
    content["annotations"] += [polygon(1, 1, 2, 2) | {"image_id": 9}, polygon(12, 1, 2, 2, 2) | {"image_id": "1"}]
    (tmp_path / "annotations" / "instances_default.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert len(dataset.read("a").types) == 2
    assert "1 annotation is of images that it does not list" in dataset.problems[0].sentence
    listed(tmp_path / "annotations" / "instances_default.json", {"a.png": [box, box]})
    with pytest.raises(HistomixError, match="none of the 2 objects can be read: 2 have a box but no outline"):
        open_dataset(tmp_path, mpp=0.25).read("a")


@pytest.mark.parametrize("brushed", [False, True])
@pytest.mark.parametrize("size", ["stored", "upright", "none"])
def test_photographs_are_turned_with_their_labels(tmp_path, size, brushed):
    # The camera was held so that what is stored, 24×20, is to be turned clockwise: upright it is 20 wide, 24 high.
    picture(tmp_path / "images" / "a.jpg", turn=6)
    stored = block(2, 3, 4, 5)
    upright = np.rot90(stored, -1)
    mask = stored if size == "stored" else upright
    rows, cols = (int(side[0]) for side in np.nonzero(mask))
    height, width = (4, 5) if size == "stored" else (5, 4)
    more = {} if size == "none" else {"height": mask.shape[0], "width": mask.shape[1]}
    drawn = brush(mask) if brushed else polygon(rows, cols, height, width)
    listed(tmp_path / "annotations" / "instances_train.json", {"a.jpg": [drawn]}, **more)
    image = open_dataset(tmp_path, mpp=0.25).read("a")
    assert image.pixels.shape[:2] == (24, 20) and np.array_equal(image.instances, upright)


def test_a_photograph_upside_down_says_what_its_labels_are_taken_for(tmp_path):
    picture(tmp_path / "images" / "a.jpg", turn=3)
    listed(tmp_path / "annotations" / "instances_train.json", {"a.jpg": [polygon(2, 3, 4, 5)]}, height=20, width=24)
    image = open_dataset(tmp_path, mpp=0.25).read("a")
    assert np.array_equal(image.instances, ROUND) and "EXIF" in image.notes[0].sentence


def test_other_files_are_not_taken_for_coco(tmp_path):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "x"}], "info": {"year": 2026}}')
    with pytest.raises(HistomixError, match="no labels in a form that is read"):
        open_dataset(tmp_path)
    # A folder of folders, of which one is COCO's, is not a dataset.
    picture(tmp_path / "other" / "b.png")
    listed(tmp_path / "coco" / "annotations" / "instances_train.json", {"a.png": []})
    with pytest.raises(HistomixError, match="its folder coco holds them"):
        open_dataset(tmp_path)


def test_addresses_and_numbers_as_lvis_and_pandas_write_them(tmp_path):
    (tmp_path / "train2017").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train2017" / "09.png")
    square = {"segmentation": [[2, 3, 9, 3, 9, 8, 2, 8]], "area": 35.0, "iscrowd": 0.0}
    content = {
        "images": [{"id": 9, "coco_url": "http://images.example.org/train2017/09.png", "width": 30, "height": 20}],
        "annotations": [{"id": 1, "image_id": 9.0, "category_id": 2.0, **square}],
        "categories": [{"id": 2, "name": "x"}],
    }
    (tmp_path / "lvis_v1_train.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path, mpp=0.25)
    [entry] = dataset.entries
    labeled = dataset.read(entry)
    expected = np.zeros((20, 30), np.int32)
    expected[3:8, 2:9] = 1
    assert np.array_equal(labeled.instances, expected) and labeled.types == {1: 2} and entry.source.split == "train"
    assert not dataset.problems and not labeled.notes
