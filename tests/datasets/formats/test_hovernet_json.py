from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from format_samples import CLASSES, real_consep, real_sample, small, written
from PIL import Image
from scipy import ndimage

from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.formats.hovernet_json import Writer, recognizes
from napari_histomix.records import HistomixError


def loaded(path):
    """HoVer-Net's own reader of its JSON: lists by nucleus, contours and boxes as arrays."""
    nuclei = json.loads(path.read_text())["nuc"]
    return {
        int(key): (np.array(one["bbox"]), np.array(one["centroid"]), np.array(one["contour"]), one["type"])
        for key, one in nuclei.items()
    }


def filled(instances):
    """An instance map as contours can hold it: the largest part of each nucleus, without holes, in its own order."""
    result = np.zeros_like(instances)
    for number, window in enumerate(ndimage.find_objects(instances), start=1):
        if window is not None:
            parts, _ = ndimage.label(instances[window] == number, np.ones((3, 3)))
            part = ndimage.binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
            result[window][part & (result[window] == 0)] = number
    return result


@pytest.mark.parametrize("real", ["sample", "consep"])
def test_round_trip_on_real_images(tmp_path, request, real):
    dataset, image = real_sample() if real == "sample" else real_consep(request.getfixturevalue("shared"))
    root = written(Writer, tmp_path / "out", [image], dataset.classes)
    opened = open_dataset(root)
    assert opened.classes == dataset.classes and opened.name == "written" and not opened.problems
    found = opened.read(image.source.image)
    np.testing.assert_array_equal(found.pixels, image.pixels)
    np.testing.assert_array_equal(found.instances, filled(image.instances))
    assert found.types == {number: image.types[number] for number in found.types}
    assert found.counts() == image.counts() and found.mpp == image.mpp
    assert (found.source.patient, found.source.slide) == (image.source.patient, image.source.slide)
    # What HoVer-Net's viewer draws from the file is the mask, its box and its center.
    nuclei = loaded(root / "json" / f"{image.source.image}.json")
    assert len(nuclei) == image.counts().total()
    for number, (box, center, contour, kind) in list(nuclei.items())[:60]:
        drawn = np.zeros(image.instances.shape, np.uint8)
        cv2.drawContours(drawn, [contour], -1, 1, -1)
        assert (drawn[image.instances == number].mean() == 1) or ndimage.label(image.instances == number)[1] > 1
        rows, cols = np.nonzero(drawn)
        assert box.tolist() == [[rows.min(), cols.min()], [rows.max() + 1, cols.max() + 1]]
        assert abs(center - (cols.mean(), rows.mean())).max() < 2
        assert kind == image.types[number]


def test_holes_are_closed_and_the_largest_part_stays(tmp_path):
    image = small()
    found = open_dataset(written(Writer, tmp_path / "out", [image])).read("a")
    np.testing.assert_array_equal(found.instances, filled(image.instances))
    assert found.types == image.types


def test_single_pixels_and_synthetic_images(tmp_path):
    image = small()
    image.instances[:] = 0
    image.instances[0, 0], image.instances[19, 23], image.instances[5, 5:7] = 1, 2, 3
    root = written(Writer, tmp_path / "out", [image], synthetic=True)
    np.testing.assert_array_equal(open_dataset(root).read("a").instances, image.instances)
    with Image.open(root / "images" / "a.png") as picture:
        assert picture.info["Description"] == SYNTHETIC_NOTICE
    assert json.loads((root / "dataset.json").read_text())["notice"] == SYNTHETIC_NOTICE


def hover(root, nuclei, name="a"):
    """HoVer-Net's out folder, and the image in a folder beside."""
    for folder in ("json", "mat", "overlay", "Images"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image = np.full((30, 40, 3), 200, np.uint8)
    Image.fromarray(image).save(root / "Images" / f"{name}.png")
    Image.fromarray(image).save(root / "overlay" / f"{name}.png")
    text = nuclei if isinstance(nuclei, str) else json.dumps({"mag": None, "nuc": nuclei})
    (root / "json" / f"{name}.json").write_text(text)
    return root


SQUARE = [[2, 3], [2, 6], [6, 6], [6, 3]]


def test_out_folder_of_hovernet(tmp_path):
    root = hover(tmp_path, {"7": {"contour": SQUARE, "type": 2}, "9": {"contour": [[20, 20]], "type": 0}})
    dataset = open_dataset(root, mpp=0.25)
    assert [(one.number, one.name) for one in dataset.classes] == [(2, "type 2"), (3, "unclassified")]
    image = dataset.read("a")
    assert dict(image.types) == {7: 2, 9: 3}
    assert (image.instances[3:7, 2:7] == 7).all() and (image.instances == 7).sum() == 20
    assert image.instances[20, 20] == 9
    (root / "type_info.json").write_text('{"0": ["nolabe", [0, 0, 0]], "2": ["inflammatory", [0, 255, 0]]}')
    (root / "images.csv").write_text("image,patient,split,mpp\na.png,P1,test,0.5\n")
    dataset = open_dataset(root)
    assert [one.name for one in dataset.classes] == ["inflammatory", "unclassified"]
    assert dataset.read("a").mpp == 0.5 and dataset.entries[0].source.patient == "P1"
    assert dataset.entries[0].source.split == "test"


def test_without_any_types_all_are_nuclei(tmp_path):
    root = hover(tmp_path, {"1": {"contour": SQUARE, "type": None, "type_prob": None}, "2": {"contour": [[9, 9]]}})
    dataset = open_dataset(root, mpp=0.25)
    assert [one.name for one in dataset.classes] == ["nucleus"]
    assert dict(dataset.read("a").types) == {1: 1, 2: 1}


def test_contours_that_leave_the_image_or_cross_themselves(tmp_path):
    bow = [[10, 10], [18, 18], [18, 10], [10, 18]]
    nuclei = {
        "1": {"contour": [[-5, -5], [-5, 2], [3, 2], [3, -5]], "type": 1},
        "2": {"contour": bow, "type": 1},
        "3": {"contour": [[100, 100], [110, 100], [110, 110]], "type": 1},
        "4": {"contour": [], "type": 1},
        "5": {"contour": [[35.4, 20.2], [60, 20], [60, 25.5], [35, 25]], "type": 1},
    }
    image = open_dataset(hover(tmp_path, nuclei), mpp=0.25).read("a")
    assert set(image.types) == {1, 2, 5}
    assert (image.instances[:3, :4] == 1).all() and (image.instances == 1).sum() == 12
    assert image.instances[20, 39] == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"mag": null}',
        '{"nuc": []}',
        '{"nuc": {"x": {"contour": [[1, 1]]}}}',
        '{"nuc": {"0": {"contour": [[1, 1]]}}}',
        '{"nuc": {"99999999999": {"contour": [[1, 1]]}}}',
        '{"nuc": {"1": {"contour": [[1, 1]]}, "01": {"contour": [[1, 1]]}}}',
        '{"nuc": {"1": []}}',
        '{"nuc": {"1": {}}}',
        '{"nuc": {"1": {"contour": "abc"}}}',
        '{"nuc": {"1": {"contour": [[1, 2, 3]]}}}',
        '{"nuc": {"1": {"contour": [[1, 1], [NaN, 2]]}}}',
        '{"nuc": {"1": {"contour": [[1, 1], [1e999, 2]]}}}',
        '{"nuc": {"1": {"contour": [[1, 1], [1e9, 1e9]]}}}',
        '{"nuc": {"1": {"contour": [[1, 1]], "type": "tumor"}}}',
        '{"nuc": {"1": {"contour": [[1, 1]], "type": 77}}, "type": 1}',
        '{"nuc": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"nuc": {"1": {"contour": [[' + "9" * 5000 + ", 1]]}}}",
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, text):
    root = hover(tmp_path, text)
    (root / "type_info.json").write_text('{"1": ["a", [0, 0, 0]]}')
    hover(root, {"1": {"contour": SQUARE, "type": 1}}, "0")
    dataset = open_dataset(root, mpp=0.25)
    with pytest.raises(HistomixError):
        dataset.read("a")
    dataset.read("0")


def test_folders_that_are_not_whole(tmp_path):
    root = hover(tmp_path / "x", {"1": {"contour": SQUARE, "type": 1}})
    hover(root, {"1": {"contour": SQUARE, "type": 1}}, "b")
    (root / "json" / "b.json").unlink()
    (root / "json" / "c.json").write_text('{"nuc": {}}')
    dataset = open_dataset(root, mpp=0.25)
    assert {problem.image for problem in dataset.problems} == {"b", "c"}
    shutil.rmtree(root / "Images")
    with pytest.raises(HistomixError, match="no folder images"):
        open_dataset(root)
    (root / "json" / "a.json").write_text("[]")
    (root / "json" / "c.json").unlink()
    assert not recognizes(root)


def test_names_cannot_leave_the_folder(tmp_path):
    for name in ("../x", "a/b", "", ".hidden", "a\\b"):
        with pytest.raises(HistomixError, match="cannot be the name"):
            written(Writer, tmp_path, [small(name)], CLASSES)


def test_nuclei_without_contour_or_type(tmp_path):
    nuclei = {
        "1": {"contour": SQUARE},
        "2": {"contour": [[20, 20]], "type": 2.0},
        "3": {"type": 2},
        "4": {"contour": None},
    }
    dataset = open_dataset(hover(tmp_path, nuclei | {"5": {"contour": [[9, 20]], "type": None}}), mpp=0.25)
    image = dataset.read("a")
    unclassified = dataset.unclassified.number
    assert dict(image.types) == {1: unclassified, 2: 2, 5: unclassified}
    assert image.notes[0].sentence == "a: 2 of 5 objects have no outline; they are left out."
    hover(tmp_path, {})
    assert open_dataset(tmp_path, mpp=0.25).read("a").counts() == {}


def test_folders_for_splits(tmp_path):
    for number, split in enumerate(("Train", "Validation", "test"), start=1):
        hover(tmp_path / split, {"1": {"contour": SQUARE, "type": number}})
    dataset = open_dataset(tmp_path, mpp=0.25)
    splits = {entry.source.image: entry.source.split for entry in dataset.entries}
    assert splits == {"a": "train", "Validation-a": "val", "test-a": "test"} and not dataset.problems
    assert [dataset.read(name).types[1] for name in ("a", "Validation-a", "test-a")] == [1, 2, 3]


def test_folders_for_splits_in_json(tmp_path):
    hover(tmp_path, {"1": {"contour": SQUARE, "type": 1}})
    for part in ("json", "Images"):
        (tmp_path / part / "TEST").mkdir()
        for path in (tmp_path / part).glob("a.*"):
            shutil.copy(path, path.parent / "TEST" / path.name)
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == {"a": "train", "TEST-a": "test"}


@pytest.mark.parametrize("turn", [3, 6])
def test_contours_of_a_photograph_are_on_the_upright_image(tmp_path, turn):
    root = hover(tmp_path, {"7": {"contour": SQUARE, "type": 2}})
    exif = Image.Exif()
    exif[274] = turn
    Image.open(root / "Images" / "a.png").save(root / "Images" / "a.png", exif=exif)
    image = open_dataset(root, mpp=0.25).read("a")
    wanted = np.zeros((40, 30) if turn == 6 else (30, 40), int)
    wanted[3:7, 2:7] = 7
    np.testing.assert_array_equal(image.instances, wanted)
    assert "EXIF" in image.notes[0].sentence
