from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_histomix.datasets import open_dataset, survey
from napari_histomix.datasets.entries import natural_key, tcga_origin
from napari_histomix.records import HistomixError, drain

HEADER = "image,instance,type,patient,slide,split,mpp\n"


def add(folder: Path, name: str, instances=None) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    if instances is None:
        instances = np.zeros((9, 8), np.int32)
        instances[1:3, 1:3], instances[5:8, 4:7] = 3, 70_000
    Image.new("RGB", (8, 9), (200, 100, 150)).save(folder / "images" / f"{name}.png")
    tifffile.imwrite(folder / "labels" / f"{name}.tif", instances)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add(tmp_path, "a")
    add(tmp_path, "b")
    rows = "a.png,3,Tumor,P1,S1,test,0.25\na.png,70000,lymphocyte,,,,\nb,3,tumor,P2,,,0.5\nb,70000.0,Tumor,,,,\n"
    (tmp_path / "types.csv").write_text(HEADER + rows)
    return tmp_path


def test_plain_layout(folder):
    dataset = open_dataset(folder)
    assert [(one.number, one.name) for one in dataset.classes] == [(1, "lymphocyte"), (2, "Tumor")]
    assert len({one.color for one in dataset.classes}) == 2
    image = dataset.read("a")
    assert dict(image.types) == {3: 2, 70_000: 1}
    assert (image.source.patient, image.source.slide, image.source.split, image.mpp) == ("P1", "S1", "test", 0.25)
    assert dataset.entry("b").source.split == "train"
    assert drain(survey(dataset)).total == {1: 1, 2: 3}


def test_semicolons_numbers_and_type_info(folder):
    (folder / "types.csv").write_text("Image;Instance;Type\na;3;2\na;70000;1\nb;3;2\nb;70000;2\n", encoding="utf-8-sig")
    dataset = open_dataset(folder, mpp=0.5)
    assert [(one.number, one.name) for one in dataset.classes] == [(1, "type 1"), (2, "type 2")]
    (folder / "type_info.json").write_text('{"1": ["mitosis", [1, 2, 3]], "2": ["other", [4, 5, 6]]}')
    dataset = open_dataset(folder, mpp=0.5)
    assert dataset.class_number("Mitosis") == 1 and dataset.classes[0].color == (1, 2, 3)
    assert drain(survey(dataset)).total == {1: 1, 2: 3}


def test_scale_by_precedence(folder):
    assert open_dataset(folder, mpp=1.0).entry("a").mpp == 1.0
    (folder / "dataset.json").write_text('{"mpp": 2.0}')
    assert open_dataset(folder).entry("a").mpp == 0.25
    (folder / "types.csv").write_text("image,instance,type\na,3,x\na,70000,x\nb,3,x\nb,70000,x\n")
    Image.new("RGB", (8, 9)).save(folder / "images" / "a.png", dpi=(50800, 50800))
    assert open_dataset(folder).entry("a").mpp == 2.0
    (folder / "dataset.json").unlink()
    dataset = open_dataset(folder)
    assert dataset.entry("a").mpp == 0.5
    assert [entry.source.image for entry in dataset.missing_scale] == ["b"]
    with pytest.raises(HistomixError, match="b: nothing says how many µm one pixel is; pass --mpp"):
        dataset.read("b")
    assert drain(survey(dataset)).total == {1: 4}


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), float("inf")])
def test_an_impossible_scale_is_refused(folder, mpp):
    with pytest.raises(HistomixError, match="positive number"):
        open_dataset(folder, mpp=mpp)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,x,tumor,,,,", "line 6: the instance 'x' is not a positive whole number"),
        ("a,3,lymphocyte,,,,", "line 6: instance 3 is of type Tumor above and lymphocyte here"),
        ("a,3,Tumor,P9,,,", "the patient is P1 above and P9 here"),
        ("a,9,Tumor,,,,fine", "the mpp is 0.25 above and fine here"),
        ("../a,3,Tumor,,,,", "no such image is there"),
    ],
)
def test_a_bad_row_leaves_its_image_out_and_the_others_go_on(folder, row, words):
    text = (folder / "types.csv").read_text().replace("a.png", "a")
    (folder / "types.csv").write_text(text + row + "\n")
    dataset = open_dataset(folder)
    assert [problem.sentence for problem in dataset.problems if words in problem.sentence]
    assert "b" in [entry.source.image for entry in dataset.entries]
    assert row.startswith("..") == ("a" in [entry.source.image for entry in dataset.entries])


def test_an_instance_the_table_does_not_list_is_unclassified(folder):
    add(folder, "c")
    dataset = open_dataset(folder, mpp=0.5)
    assert dataset.read("c").counts() == {dataset.unclassified.number: 2}


def test_image_without_labels_and_labels_without_image(folder):
    (folder / "labels" / "a.tif").unlink()
    tifffile.imwrite(folder / "labels" / "z.tif", np.zeros((9, 8), np.int32))
    dataset = open_dataset(folder)
    assert {problem.image for problem in dataset.problems} == {"a", "z"}
    assert [entry.source.image for entry in dataset.entries] == ["b"]


def test_two_images_of_one_name(folder):
    Image.new("RGB", (8, 9)).save(folder / "images" / "a.jpg")
    dataset = open_dataset(folder)
    assert "a.jpg and a.png are two image files of one name" in dataset.problems[0].sentence
    assert [entry.source.image for entry in dataset.entries] == ["b"]


def test_hidden_files_do_not_count(folder):
    (folder / "images" / "._a.png").write_bytes(b"x")
    assert not open_dataset(folder).problems


def test_wrong_folders_say_what_to_do(tmp_path, folder):
    with pytest.raises(HistomixError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(HistomixError, match="is a file, not a folder"):
        open_dataset(folder / "types.csv")
    with pytest.raises(HistomixError, match="one half of a dataset"):
        open_dataset(folder / "images")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(HistomixError, match=r"holds no labeled images.*read are HoVer-Net"):
        open_dataset(other)
    Image.new("RGB", (8, 9)).save(other / "x.png")
    with pytest.raises(
        HistomixError, match=r"holds images but no labels \(1 image\): the tab Find nuclei .*; read are"
    ):
        open_dataset(other)
    (other / "Images").mkdir()
    with pytest.raises(HistomixError, match="has images but no folder Labels"):
        open_dataset(other)
    (other / "Labels").mkdir()
    with pytest.raises(HistomixError, match="no images"):
        open_dataset(other)
    (other / "x.png").rename(other / "Images" / "x.png")
    with pytest.raises(HistomixError, match="no label files"):
        open_dataset(other)
    (other / "Labels" / "y.mat").write_bytes(b"")
    with pytest.raises(HistomixError, match=r"no label file in .* has the name of an image"):
        open_dataset(other)


def test_wrong_tables_say_what_to_do(folder):
    (folder / "types.csv").write_text("image,instance\na,3\n")
    with pytest.raises(HistomixError, match="has no column type"):
        open_dataset(folder)
    (folder / "types.csv").write_text("image,instance,type\na,3,1\na,70000,tumor\n")
    with pytest.raises(HistomixError, match="some types as numbers and some as names"):
        open_dataset(folder)
    (folder / "types.csv").rename(folder / "one.csv")
    (folder / "two.csv").write_text("")
    with pytest.raises(HistomixError, match="has 2 CSV files"):
        open_dataset(folder)
    (folder / "one.csv").unlink()
    (folder / "two.csv").unlink()
    dataset = open_dataset(folder, mpp=0.5)
    assert [known.name for known in dataset.classes] == ["nucleus"] and dataset.read("a").counts() == {1: 2}
    assert [problem.about for problem in dataset.problems] == ["types"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("dataset.json", "{oops", "not valid JSON at line 1"),
        ("dataset.json", "[1]", "one JSON object"),
        ("dataset.json", '{"split": 3}', "split must be"),
        ("type_info.json", '{"1": "tumor"}', 'the entry "1" must read'),
        ("type_info.json", '{"1": ["a", [0, 0, 0]], "2": ["A", [0, 0, 0]]}', "one name or number to two classes"),
    ],
)
def test_broken_json_is_one_sentence(folder, name, text, words):
    (folder / name).write_text(text)
    with pytest.raises(HistomixError, match=words):
        open_dataset(folder)


def test_bad_scale_in_dataset_json(folder):
    (folder / "types.csv").write_text("image,instance,type\na,3,x\na,70000,x\n")
    (folder / "dataset.json").write_text('{"mpp": "forty"}')
    with pytest.raises(HistomixError, match="says 'forty' µm per pixel"):
        open_dataset(folder)


def test_tcga_names_tell_patient_and_slide():
    name = "TCGA-A7-A0D9-01Z-00-DX2_18001_13001"
    assert tcga_origin(name) == ("TCGA-A7-A0D9", "TCGA-A7-A0D9-01Z-00-DX2")
    assert tcga_origin("train_1") == ("", "")
    assert tcga_origin("TCGA-A7-A0D9X") == ("", "")


def test_natural_order():
    assert sorted(["b10", "b2", "A1", "10", "9"], key=natural_key) == ["9", "10", "A1", "b2", "b10"]
