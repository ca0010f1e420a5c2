from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_histomix.datasets.opening import open_tissue
from napari_histomix.records import HistomixError


def add(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 9), (200, 100, 150)).save(path)
    return folder


def names(dataset) -> list[str]:
    return [entry.source.image for entry in dataset.entries]


def problems(dataset) -> dict[str, str]:
    return {problem.image: problem.sentence for problem in dataset.problems}


@pytest.fixture
def folders(tmp_path) -> Path:
    return add(
        tmp_path, "grade 10/a2.png", "grade 10/a10.jpg", "grade 2/a2.tif", "benign/TCGA-A7-A0D9-01Z-00-DX2_1.png"
    )


@pytest.fixture
def listed(tmp_path) -> Path:
    add(tmp_path, "a.png", "more/b.tif", "c.d.jpg")
    rows = "a,tumor,P1,S1,test,0.25\nmore\\b.tif,Normal,P2,,,\n./c.d,TUMOR,,,,0.5\n"
    (tmp_path / "images.csv").write_text("image,class,patient,slide,split,mpp\n" + rows)
    return tmp_path


def test_class_folders(folders):
    dataset = open_tissue(folders, mpp=0.5)
    assert dataset.kinds == ("benign", "grade 2", "grade 10") and dataset.problems == ()
    barcode = "TCGA-A7-A0D9-01Z-00-DX2"
    assert names(dataset) == [f"benign/{barcode}_1", "grade 2/a2", "grade 10/a2", "grade 10/a10"]
    assert [entry.source.image for entry in dataset.of_kind("Grade 10")] == ["grade 10/a2", "grade 10/a10"]
    source = dataset.entries[0].source
    assert (source.patient, source.slide, source.split) == ("TCGA-A7-A0D9", barcode, "train")
    image = dataset.read("grade 2/a2")
    assert image.pixels.shape == (9, 8, 3) and (image.pixels == (200, 100, 150)).all()
    assert (image.kind, image.mpp, image.source.image) == ("grade 2", 0.5, "grade 2/a2")
    for wanted in (dataset.read, dataset.of_kind):
        with pytest.raises(HistomixError, match="has no"):
            wanted("grade 3")


def test_splits_and_images_of_one_name(tmp_path):
    add(tmp_path, "Test/tumor/1.png", "Test/tumor/2.png", "validation/Normal/1.png")
    alone = open_tissue(tmp_path)
    assert names(alone) == ["Normal/1", "tumor/1", "tumor/2"] and alone.training == ()
    dataset = open_tissue(add(tmp_path, "Training/tumor/1.png", "Training/normal/1.png"))
    # Tumor and tumor are one class; a training image's name does not depend on what else there is.
    assert dataset.kinds == ("Normal", "tumor")
    splits = {entry.source.image: (entry.source.split, entry.kind) for entry in dataset.entries}
    assert splits == {
        "tumor/1": ("train", "tumor"),
        "normal/1": ("train", "Normal"),
        "Test/tumor/1": ("test", "tumor"),
        "tumor/2": ("test", "tumor"),
        "Normal/1": ("val", "Normal"),
    }
    assert {entry.source.image for entry in dataset.training} == {"tumor/1", "normal/1"}


def test_folders_for_splits_of_any_spelling(tmp_path):
    add(tmp_path, "TRAIN set/tumor/1.png", "val2017/Tumor/1.png", "Testing/tumor/1.png", "batch 1/tumor/1.png")
    add(tmp_path, "notes/more/1.png", "origin/tumor/1.png")
    dataset = open_tissue(tmp_path)
    splits = {entry.source.image: entry.source.split for entry in dataset.entries}
    assert splits == {"tumor/1": "train", "Testing/tumor/1": "test", "Tumor/1": "val", "batch 1/tumor/1": "batch 1"}
    assert [kind.casefold() for kind in dataset.kinds] == ["tumor"]
    assert "it is none of train, val, test" in problems(dataset)["split 'batch 1'"]
    (tmp_path / "dataset.json").write_text('{"splits": {"Batch 1": "train"}}')
    dataset = open_tissue(tmp_path)
    assert dataset.entry("batch 1/tumor/1").source.split == "train" and dataset.problems == ()


def test_folders_of_the_same_classes_are_asked_about(tmp_path):
    dataset = open_tissue(add(tmp_path, "fold 1/tumor/1.png", "fold 2/Tumor/1.png", "fold 2/normal/2.png"))
    assert {entry.source.split for entry in dataset.entries} == {"fold 1", "fold 2"} and dataset.training == ()
    assert len(dataset.problems) == 2 and len(dataset.entries) == 3


def test_what_dataset_json_says_of_splits_counts_here_too(folders):
    (folders / "dataset.json").write_text('{"name": "graded", "split": {"Testing": ["grade 2/a2"]}}')
    dataset = open_tissue(folders)
    assert dataset.name == dataset.entries[0].source.dataset == "graded"
    assert {entry.source.split for entry in dataset.of_kind("grade 2")} == {"test"}
    assert len(dataset.training) == 3


@pytest.mark.parametrize("way", ["folder", "only CSV", "CSV itself"])
def test_a_table(listed, way):
    path = listed
    if way == "only CSV":
        (listed / "images.csv").rename(listed / "mine.csv")
    if way == "CSV itself":
        path = (listed / "images.csv").rename(listed / "mine.csv")
        (listed / "other.csv").touch()
    dataset = open_tissue(path)
    assert names(dataset) == ["a", "c.d", "more/b"] and dataset.kinds == ("Normal", "tumor")
    assert dataset.problems == () and dataset.root == listed and dataset.name == listed.name
    first = dataset.read("a")
    assert (first.source.patient, first.source.slide, first.source.split, first.mpp) == ("P1", "S1", "test", 0.25)
    assert first.kind == dataset.read("c.d").kind == "tumor"
    assert dataset.entry("more/b").source.split == "train" and dataset.missing_scale == (dataset.entry("more/b"),)
    with pytest.raises(HistomixError, match="more/b: nothing says how many µm one pixel is; pass --mpp"):
        dataset.read("more/b")


def test_semicolons_and_quoted_cells(listed):
    (listed / "images.csv").write_text('\ufeffImage ;CLASS\na.png;"Gleason; 3"\n;\n', encoding="utf-8")
    assert open_tissue(listed).kinds == ("Gleason; 3",)


def test_a_table_with_classes_decides_alone(listed):
    add(listed, "origin/tumor/a.png", "a.tif")
    assert names(open_tissue(listed)) == ["c.d", "more/b"]
    assert "write it with its suffix" in problems(open_tissue(listed))["a"]


def test_a_table_without_classes_speaks_of_class_folders(folders):
    (folders / "stray.csv").write_text("key,value\n")
    assert len(open_tissue(folders).entries) == 4
    add(folders, "grade 2/a3.png", "elsewhere/deep/x.png")
    rows = "grade 2/a2.tif,P1,test,0.25\ngrade 10/a2,P2,,\ngrade 2/a3,P3,,none\nelsewhere/deep/x,P4,,\ngone,P5,,\n"
    (folders / "images.csv").write_text("image,patient,split,mpp\n" + rows)
    dataset = open_tissue(folders)
    entry = dataset.entry("grade 2/a2")
    assert (entry.source.patient, entry.source.split, entry.mpp) == ("P1", "test", 0.25)
    assert dataset.entry("grade 10/a2").source.patient == "P2" and "grade 10/a10" in names(dataset)
    assert "grade 2/a3" not in names(dataset)
    assert problems(dataset).keys() == {"grade 2/a3", "elsewhere/deep/x", "elsewhere", "gone"}


def test_names_in_other_bytes(tmp_path):
    add(tmp_path, "Tumör/Ä.PNG", "Tumör/b.png", "c.JPG")
    first = unicodedata.normalize("NFD", "tumör/ä.png")
    (tmp_path / "images.csv").write_text(f"image,class\n{first},x\nTUMÖR\\B,x\nC.jpg,y\n", encoding="utf-8")
    dataset = open_tissue(tmp_path)
    assert {entry.source.image: entry.kind for entry in dataset.entries} == {"Tumör/Ä": "x", "Tumör/b": "x", "c": "y"}
    assert dataset.problems == () and all(entry.image.is_file() for entry in dataset.entries)


def test_scale_by_precedence(listed):
    Image.new("RGB", (8, 9)).save(listed / "a.png", dpi=(50800, 50800))
    Image.new("RGB", (8, 9)).save(listed / "c.d.jpg", dpi=(25400, 25400))
    (listed / "images.csv").write_text("image,class,mpp\na,x,0.25\nc.d,x,\nmore/b,x,\n")
    scales = lambda **named: [entry.mpp for entry in open_tissue(listed, **named).entries]  # noqa: E731
    assert scales(mpp=2) == [2, 2, 2]
    assert scales() == [0.25, 1.0, None]
    (listed / "dataset.json").write_text('{"mpp": 4}')
    assert scales() == [0.25, 4, 4]


@pytest.mark.parametrize(
    ("row", "image", "words"),
    [
        ("a,", "a", "gives it no class; fill the cell"),
        ("a,normal\na.png,tumor", "a", "line 3: the class is normal above and tumor here; keep one"),
        ("gone.png,tumor", "gone.png", "no image is there"),
        (f"{'x' * 300},tumor", "x" * 300, "no image is there"),
        ("../a.png,tumor", "../a.png", "leaves the folder"),
        ("{root}/a.png,tumor", "{root}/a.png", "leaves the folder"),
        ("C:\\a.png,tumor", "C:\\a.png", "leaves the folder"),
        ("a.png,tumor\na.tif,tumor", "a", "a.png and a.tif are two image files of one name"),
        ("notes.txt,tumor", "notes.txt", "it is no PNG, TIFF or JPEG"),
        (",tumor", "images.csv", "line 2: no image is named"),
    ],
)
def test_a_bad_row_is_one_sentence_and_the_others_go_on(tmp_path, row, image, words):
    folder = add(tmp_path / "data", "a.png", "b.png")
    add(tmp_path, "a.png")
    if "a.tif" in row:
        add(folder, "a.tif")
    (folder / "notes.txt").touch()
    row, image = row.replace("{root}", str(folder)), image.replace("{root}", str(folder))
    (folder / "images.csv").write_text(f"image,class\n{row}\nb.png,tumor\n")
    dataset = open_tissue(folder)
    assert names(dataset) == ["b"]
    assert problems(dataset).keys() == {image} and words in problems(dataset)[image]


def test_an_image_listed_twice_alike_is_listed_once(listed):
    (listed / "images.csv").write_text("image,class,patient\na,tumor,\na.png,Tumor,P1\n")
    dataset = open_tissue(listed)
    assert dataset.problems == () and [entry.source.patient for entry in dataset.entries] == ["P1"]


def test_what_is_no_image_of_a_class_is_said(folders):
    add(folders, "overview.png", "grade 2/a2.png", "grade 3/P1/x.png", ".hidden/x.png", "benign/._x.png")
    dataset = open_tissue(folders)
    assert dataset.kinds == ("benign", "grade 10") and len(dataset.entries) == 3
    assert problems(dataset).keys() == {"overview", "grade 2/a2", "grade 3"}
    assert problems(dataset)["grade 2/a2"].startswith("grade 2/a2: a2.png and a2.tif are two image files of one name")


def test_a_class_beside_the_splits_is_said(tmp_path):
    dataset = open_tissue(add(tmp_path, "Train/tumor/1.png", "normal/2.png", "Train/3.png", "4.png", "Test/5.png"))
    assert names(dataset) == ["tumor/1"]
    assert problems(dataset).keys() == {"normal", "3", "4", "Test"}


def test_a_damaged_image_is_named_when_it_is_read(folders):
    (folders / "grade 2" / "a2.tif").write_bytes(b"no image")
    dataset = open_tissue(folders, mpp=1)
    with pytest.raises(HistomixError, match=r"a2\.tif cannot be read as an image"):
        dataset.read("grade 2/a2")
    tifffile.imwrite(folders / "grade 2" / "a2.tif", np.full((9, 8, 3), 65535, np.uint16))
    assert (dataset.read("grade 2/a2").pixels == 255).all()


@pytest.mark.parametrize(
    ("images", "table", "words"),
    [
        (["a.png"], None, "images but nothing gives them a class; expected one folder per class"),
        (["Images/a.png"], None, "nothing gives them a class"),
        (["Train/a.png", "Test/b.png"], None, "Test holds images but nothing gives them a class"),
        ([], None, "holds no images; expected"),
        (["native/x/a.png"], None, "holds no class folders but its folder native does; choose that one"),
        (["Images/a.png", "Labels/a.png"], None, "dataset of labeled nuclei"),
        (["Train/Images/a.png", "Train/Labels/a.png"], None, "dataset of labeled nuclei"),
        (["Images/a.png", "Labels/a.png"], "image,patient\na,P1\n", "dataset of labeled nuclei"),
        (["a.png"], "image,patient\na,P1\n", r"images\.csv in .* has no column class; add it"),
        (["x/a.png"], "file,class\na,x\n", "has no column image"),
        (["a.png"], "image,class\nb,x\n", "no image that could be used; the first: b: images.csv, line 2"),
        (["a.png"], "image,class\n", r"no image that could be used\."),
        (["a.png"], "", "has no column image and class"),
    ],
)
def test_wrong_folders_say_what_to_do(tmp_path, images, table, words):
    add(tmp_path, *images)
    if table is not None:
        (tmp_path / "images.csv").write_text(table)
    with pytest.raises(HistomixError, match=words):
        open_tissue(tmp_path)


def test_wrong_paths_say_what_to_do(listed):
    with pytest.raises(HistomixError, match="does not exist"):
        open_tissue(listed / "nowhere")
    with pytest.raises(HistomixError, match="is a file but no CSV"):
        open_tissue(listed / "a.png")
    with pytest.raises(HistomixError, match="positive number"):
        open_tissue(listed, mpp=0)
    table = (listed / "images.csv").rename(listed / "one.csv")
    (listed / "two.csv").touch()
    (listed / "more" / "b.tif").rename(listed / "b.tif")
    with pytest.raises(HistomixError, match=r"2 CSV files; name the one .* images\.csv"):
        open_tissue(listed)
    table.write_bytes(b"image,class\na,h\0matoxylin\n")
    with pytest.raises(HistomixError, match="save it as a CSV in UTF-8"):
        open_tissue(table)
    table.write_text("image,patient\na,P1\n")
    with pytest.raises(HistomixError, match="has no column class"):
        open_tissue(table)


def test_tiles_of_five_slides(shared):
    dataset = open_tissue(shared / "data" / "atlas-tiles" / "half", mpp=0.5)
    assert len(dataset.kinds) == 5 and dataset.problems == ()
    assert {len(dataset.of_kind(kind)) for kind in dataset.kinds} == {160}
    image = dataset.read(dataset.entries[-1])
    assert image.pixels.shape == (256, 256, 3) and image.source.image.startswith(f"{image.kind}/")
