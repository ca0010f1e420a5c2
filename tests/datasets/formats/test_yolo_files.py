"""YOLO's files as Label Studio, CVAT, Roboflow, labelImg and Ultralytics leave them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import Dataset, open_dataset, survey
from napari_histomix.records import HistomixError, drain

SHAPE = (20, 40)
NAMES = "names: [Tumor, Stroma]\n"


def block(row: int, col: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[row : row + height, col : col + width] = True
    return mask


def line(row: float, col: float, height: float, width: float, kind: object = 0, shape: tuple[int, int] = SHAPE) -> str:
    corners = [(col, row), (col + width, row), (col + width, row + height), (col, row + height)]
    return " ".join([str(kind), *(f"{x / shape[1]} {y / shape[0]}" for x, y in corners)]) + "\n"


def pair(image: Path, labels: Path, text: str | bytes, value: int = 200, turn: int = 1) -> None:
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(np.full((*SHAPE, 3), value, np.uint8)).save(image, exif=exif)
    labels.write_bytes(text if isinstance(text, bytes) else text.encode())


def splits(dataset: Dataset) -> dict[str, str]:
    return {entry.source.image: entry.source.split for entry in dataset.entries}


def sentences(dataset: Dataset) -> list[str]:
    return [problem.sentence for problem in drain(survey(dataset)).problems]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data.yaml").write_text(NAMES)
    return tmp_path


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("images/Train", "labels/Train", "train"),
        ("images/Test", "labels/test", "test"),
        ("Images/VAL", "Labels/val", "val"),
        ("Train/images", "Train/labels", "train"),
        ("valid/images", "valid/labels", "val"),
        ("Validation/Images", "Validation/Labels", "val"),
        ("images/val2017", "labels/val2017", "val"),
        ("images/Validation", "labels/val", "val"),
        ("images/default", "labels/default", "train"),
        ("images/train/case 1", "labels/train/case 1", "train"),
        ("images/batch1", "labels/batch1", "batch1"),
        ("images", "labels", "train"),
        ("export/images", "export/labels", "train"),
        ("obj_train_data", "obj_train_data", "train"),
        ("obj_Validation_data", "obj_Validation_data", "val"),
        ("obj_batch1_data", "obj_batch1_data", "batch1"),
        ("test", "test", "test"),
        (".", ".", "train"),
    ],
)
def test_splits_by_folders(root, images, labels, split):
    pair(root / images / "a.png", root / labels / "a.txt", line(2, 4, 5, 10, 1))
    dataset = open_dataset(root, mpp=0.25)
    assert splits(dataset) == {"a": split}
    image = dataset.read("a")
    assert np.array_equal(image.instances, block(2, 4, 5, 10)) and dict(image.types) == {1: 2}
    assert len(sentences(dataset)) == (split == "batch1")


def test_one_name_in_three_splits_is_three_images(root):
    for number, split in enumerate(("Train", "Test", "valid"), start=1):
        pair(root / split / "images" / "a.png", root / split / "labels" / "a.txt", line(number, 4, 5, 10), 50 * number)
    dataset = open_dataset(root, mpp=0.25)
    assert splits(dataset) == {"a": "train", "Test-a": "test", "valid-a": "val"} and not dataset.problems
    for number, name in enumerate(("a", "Test-a", "valid-a"), start=1):
        image = dataset.read(name)
        assert (image.pixels == 50 * number).all() and np.array_equal(image.instances, block(number, 4, 5, 10))


def test_what_is_left_over_in_two_splits_is_said_of_both(root):
    for split in ("train", "test"):
        pair(root / "images" / split / f"{split}.png", root / "labels" / split / f"{split}.txt", line(2, 4, 5, 10))
        pair(root / "images" / split / "a.png", root / "labels" / split / "b.txt", "")
    pair(root / "images" / "val" / "c.png", root / "labels" / "val.txt", "")
    dataset = open_dataset(root, mpp=0.25)
    assert splits(dataset) == {"train": "train", "test": "test"}
    assert sorted(problem.image for problem in dataset.problems) == ["a", "a", "b", "b", "images/val"]


def test_images_of_a_split_without_labels_are_counted(root):
    pair(root / "train" / "images" / "a.png", root / "train" / "labels" / "a.txt", line(2, 4, 5, 10))
    pair(root / "test" / "images" / "b.png", root / "test" / "b.txt", "")
    dataset = open_dataset(root, mpp=0.25)
    assert splits(dataset) == {"a": "train"}
    assert sentences(dataset) == ["test/images: there is no folder of labels for it; its 1 image(s) are left out."]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("train: ../set one/images\nval: ../set two/images\n", {"a": "train", "b": "val"}),
        ("path: /content/data\ntrain: [set one/images]\ntest: set two/images\n", {"a": "train", "b": "test"}),
        ("train: C:\\data\\mine\\set two\\images\nval: Set One/Images/\n", {"a": "val", "b": "train"}),
        ("train: set one/images\nval: set one/images\n", {"a": "train", "b": "set two"}),
        ("train: /etc\nval: ../../..\n", {"a": "set one", "b": "set two"}),
        ("train: [3, {a: b}]\nval:\n", {"a": "set one", "b": "set two"}),
    ],
)
def test_splits_by_paths_in_data_yaml(root, text, wanted):
    for name, folder in (("a", "set one"), ("b", "set two")):
        pair(root / folder / "images" / f"{name}.png", root / folder / "labels" / f"{name}.txt", line(2, 4, 5, 10))
    (root / "data.yaml").write_text(text + NAMES)
    assert splits(open_dataset(root, mpp=0.25)) == wanted


def test_what_is_not_for_training_by_its_folder_stays_so(root):
    for split in ("train", "test"):
        pair(root / split / "images" / f"{split}.png", root / split / "labels" / f"{split}.txt", line(2, 4, 5, 10))
    (root / "data.yaml").write_text("train: [train/images, test/images]\nval: train/images\n" + NAMES)
    assert splits(open_dataset(root, mpp=0.25)) == {"train": "train", "test": "test"}


@pytest.mark.parametrize("named", [False, True])
def test_splits_by_lists_of_images(root, named):
    for name in ("a", "b", "c", "ä d"):
        pair(root / "images" / f"{name}.png", root / "labels" / f"{name}.txt", line(2, 4, 5, 10))
    first, second = ("one.txt", "two.txt") if named else ("train.txt", "autosplit_val.txt")
    (root / first).write_bytes(b"\xef\xbb\xbf./images/a.png\r\ndata/images/b.png\r\n\r\n../../etc/passwd\r\n")
    other = unicodedata.normalize("NFD", "ä d")
    (root / second).write_text(f"C:\\x\\images\\C.PNG\nhttps://host/images/{other}.png\n", encoding="utf-8")
    if named:
        (root / "data.yaml").write_text(f"path: .\ntrain: data/{first}\nval: {second}\n{NAMES}")
    assert splits(open_dataset(root, mpp=0.25)) == {"a": "train", "b": "train", "c": "val", "ä d": "val"}


def test_subsets_of_cvat(tmp_path):
    (tmp_path / "obj.names").write_text("Tumor\nStroma\n")
    for split in ("train", "Validation"):
        folder = tmp_path / f"obj_{split}_data"
        pair(folder / "a.png", folder / "a.txt", line(2, 4, 5, 10, 1))
        (tmp_path / f"{split}.txt").write_text(f"data/obj_{split}_data/a.png\n")
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "train", "Validation-a": "val"} and not sentences(dataset)
    assert [known.name for known in dataset.classes] == ["Tumor", "Stroma"]


@pytest.mark.parametrize(
    "content",
    [b"Tumor\nImmune cells\n", b"\xef\xbb\xbfTumor\r\nImmune cells\r\n\r\n", "Tumor\nImmune cells".encode("utf-16")],
)
@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "Classes.TXT"])
def test_names_by_label_studio_and_labelimg(tmp_path, content, place):
    pair(tmp_path / "images" / "a.png", tmp_path / "labels" / "a.txt", line(2, 4, 5, 10, 1) + line(9, 4, 5, 10))
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "Tumor"}], "info": {"year": 2026}}')
    (tmp_path / place).write_bytes(content)
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert [(known.number, known.name) for known in dataset.classes] == [(1, "Tumor"), (2, "Immune cells")]
    image = dataset.read("a")
    assert np.array_equal(image.instances, block(2, 4, 5, 10) + 2 * block(9, 4, 5, 10))
    assert dict(image.types) == {1: 2, 2: 1} and not sentences(dataset)


def test_subsets_of_cvat_for_ultralytics(tmp_path):
    yaml = "names:\n  0: Tumor\n  1: Stroma\npath: .\n"
    for split in ("Train", "Test", "Validation"):
        yaml += f"{split}: {split}.txt\n"
        pair(tmp_path / "images" / split / "a.png", tmp_path / "labels" / split / "a.txt", line(2, 4, 5, 10, 1))
        (tmp_path / f"{split}.txt").write_text(f"data/images/{split}/a.png\n")
    (tmp_path / "data.yaml").write_text(yaml)
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert splits(dataset) == {"a": "train", "Test-a": "test", "Validation-a": "val"} and not sentences(dataset)


def test_two_lists_of_names_that_differ_are_refused(tmp_path):
    for split, names in (("train", "a\nb\n"), ("val", "b\na\n")):
        pair(tmp_path / "images" / split / "x.png", tmp_path / "labels" / split / "x.txt", line(2, 4, 5, 10))
        (tmp_path / "labels" / split / "classes.txt").write_text(names)
    with pytest.raises(HistomixError, match="name different classes; add a data"):
        open_dataset(tmp_path)


def test_labels_without_names_are_numbered_and_that_is_said(tmp_path):
    pair(tmp_path / "images" / "a.png", tmp_path / "labels" / "a.txt", line(2, 4, 5, 10, 3) + line(9, 4, 5, 10))
    dataset = open_dataset(tmp_path, mpp=0.25)
    assert [(known.number, known.name) for known in dataset.classes] == [(1, "class 0"), (4, "class 3")]
    assert dict(dataset.read("a").types) == {1: 4, 2: 1}
    assert ["add a classes.txt with one name a line" in sentence for sentence in sentences(dataset)] == [True]


BOX = "0 0.5 0.5 0.2 0.2\n"


@pytest.mark.parametrize(
    ("text", "ids", "note"),
    [
        (line(2, 4, 5, 10).replace(" ", "\t").replace("\n", "\r\n").encode("utf-8-sig"), 1, ""),
        (line(2, 4, 5, 10).replace(".", ","), 1, ""),
        ("0 1e-1 1e-1 3.5e-1 1E-1 .35 +0.35 0.1 0.35\n", 1, ""),
        ("0.0 " + line(2, 4, 5, 10)[2:], 1, ""),
        (line(2, 4, 5, 10) + BOX + BOX, 1, "2 of 3 objects have a box but no outline; they are left out."),
        (line(2, 4, 5, 10) + line(2, 44, 5, 10), 1, "1 of 2 objects lies outside the image; it is left out."),
        (line(2, 4, 5, 10)[:-1] + " 0.93\n" + BOX[:-1] + " 0.5", 1, "1 of 2 objects has a box but no outline"),
        (line(2, 4, 5, 10)[:-1] + " 0.93\n", 1, "is taken for a confidence"),
    ],
)
def test_what_programs_write(root, text, ids, note):
    pair(root / "images" / "a.png", root / "labels" / "a.txt", text)
    image = open_dataset(root, mpp=0.25).read("a")
    assert np.array_equal(image.instances, ids * block(2, 4, 5, 10)) and dict(image.types) == {1: 1}
    assert note in " ".join(said.sentence for said in image.notes) and bool(image.notes) == bool(note)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOX + BOX, "none of the 2 objects can be read: 2 have a box but no outline"),
        ("0 12 12 30 12 30 18\n", "line 1: its points must be shares .* and are pixels; export it again"),
        ("0 nan 0.1 0.2 0.2 0.3 0.1\n", "from 0 to 1; export it again"),
        ("0 0_1 0.1 0.2 0.2 0.3 0.1\n", "must hold numbers"),
        ("0,0.1,0.1,0.2,0.2,0.3,0.1\n", "must hold numbers"),
        (line(2, 4, 5, 10)[:-1] + " 3\n", "must read class x1 y1"),
        (line(2, 4, 5, 10) + line(2, 4, 5, 10)[:-1] + " 0.5\n", "line 2: it must read class x1 y1"),
    ],
)
def test_what_cannot_be_right_is_one_sentence(root, text, words):
    pair(root / "images" / "a.png", root / "labels" / "a.txt", text)
    with pytest.raises(HistomixError, match=words):
        open_dataset(root, mpp=0.25).read("a")


@pytest.mark.parametrize("turn", [3, 6])
def test_labels_of_a_photograph_are_of_the_upright_image(root, turn):
    shape = SHAPE[::-1] if turn == 6 else SHAPE
    pair(root / "images" / "a.jpg", root / "labels" / "a.txt", line(2, 4, 5, 10, shape=shape), turn=turn)
    image = open_dataset(root, mpp=0.25).read("a")
    wanted = np.zeros(shape, int)
    wanted[2:7, 4:14] = 1
    assert image.pixels.shape[:2] == shape and np.array_equal(image.instances, wanted)
    assert "EXIF" in image.notes[0].sentence


def test_names_in_other_bytes_meet(root):
    pair(root / "Images" / "Ä b.PNG", root / "Labels" / f"{unicodedata.normalize('NFD', 'ä B')}.txt", line(2, 4, 5, 10))
    dataset = open_dataset(root, mpp=0.25)
    assert splits(dataset) == {"Ä b": "train"} and dataset.read("Ä b").counts() == {1: 1}


def test_labels_of_splits_in_one_folder_are_named_as_the_cause(root):
    for split in ("train", "val"):
        pair(root / "images" / split / "a.png", root / "labels" / "a.txt", line(2, 4, 5, 10))
    with pytest.raises(HistomixError, match="images/train: there is no folder of labels for it"):
        open_dataset(root)
