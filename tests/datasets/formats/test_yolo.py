from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from format_samples import CLASSES, small
from PIL import Image
from round_trips import same, written

from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.datasets.formats.yolo import Writer
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = Writer(tmp_path, "three", CLASSES)
    for name, split in (("a", "train"), ("b", "val")):
        image = small(name)
        writer.add(replace(image, source=replace(image.source, split=split)), synthetic=name == "a")
    writer.finish()
    return tmp_path


def test_what_was_written_is_read_back(tmp_path):
    dataset = load_sample()
    again = open_dataset(written(dataset, tmp_path / "out", "yolo"))
    assert again.classes == dataset.classes and not again.problems
    for entry in again.entries:
        same(again.read(entry), dataset.read(entry.source.image), ids=False)


def test_consep_is_read_back(shared, tmp_path):
    dataset = open_dataset(shared / "data" / "consep-train")
    again = open_dataset(written(dataset, tmp_path / "out", "yolo", 1))
    same(again.read(again.entries[0]), dataset.read(again.entries[0].source.image), ids=False)


def test_holes_parts_splits_and_class_numbers_come_back(folder):
    dataset = open_dataset(folder)
    assert dataset.classes == CLASSES
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == {"a": "train", "b": "val"}
    same(dataset.read("a"), small(), ids=False)
    (folder / "dataset.json").unlink()
    dataset = open_dataset(folder)
    assert [(one.number, one.name) for one in dataset.classes] == [(1, "Tumor"), (2, "immune cell")]


def ultralytics(folder: Path, split: str) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Classes and segments as ``ultralytics.data.utils.verify_image_label`` and ``img2label_paths`` find them."""
    said = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert {"train", "val", "names"} <= said.keys() and "path" not in said
    found = {}
    for image in sorted((folder / said[split]).glob("*.png")):
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        rows = [line.split() for line in label.read_text().strip().splitlines() if line]
        assert any(len(row) > 6 for row in rows)
        classes = np.array([row[0] for row in rows], dtype=np.float32)
        segments = [np.array(row[1:], dtype=np.float32).reshape(-1, 2) for row in rows]
        assert all(segment.max() <= 1 and segment.min() >= 0 for segment in segments)
        assert classes.max() < len(said["names"])
        found[image.stem] = [
            (said["names"][int(kind)], segment) for kind, segment in zip(classes, segments, strict=True)
        ]
    return found


def test_ultralytics_reads_the_same_nuclei(folder):
    cv2 = pytest.importorskip("cv2")
    image = small()
    for split, name in (("train", "a"), ("val", "b")):
        segments = ultralytics(folder, split)[name]
        assert [kind for kind, _ in segments] == ["Tumor", "immune cell", "Tumor"]
        for instance, (_, segment) in enumerate(segments, start=1):
            # ultralytics.data.utils.polygon2mask; OpenCV draws the outermost line as well.
            points = (segment * (24, 20)).astype(np.int32)
            mask = cv2.fillPoly(np.zeros((20, 24), np.uint8), [points], 1).astype(bool)
            assert (mask >= (image.instances == instance)).all()


def test_data_yaml_says_what_a_person_must_know(folder):
    text = (folder / "data.yaml").read_text()
    assert text.startswith(f"# {SYNTHETIC_NOTICE}\n# 4 nuclei have holes or several parts")
    assert Image.open(folder / "images" / "train" / "a.png").info["Description"] == SYNTHETIC_NOTICE
    assert "Description" not in Image.open(folder / "images" / "val" / "b.png").info


def test_without_validation_images(tmp_path):
    folder = written(load_sample(), tmp_path / "out", "yolo", 1)
    text = (folder / "data.yaml").read_text()
    assert "There are no images for validation" in text
    assert yaml.safe_load(text)["val"] == "images/train"


def test_folders_the_other_way_round_and_an_image_without_nuclei(tmp_path):
    for split, name in (("train", "one"), ("valid", "two")):
        for part in ("images", "labels"):
            (tmp_path / split / part).mkdir(parents=True)
        Image.fromarray(small().pixels).save(tmp_path / split / "images" / f"{name}.jpg")
        (tmp_path / split / "labels" / f"{name}.txt").write_text("")
    (tmp_path / "train" / "labels" / "one.txt").write_text("1 0.25 0.5 0.75 0.5 0.75 1 0.25 1.0\n\n")
    (tmp_path / "data.yaml").write_text("names: ['yes', no]\nnc: 2\n")
    dataset = open_dataset(tmp_path, mpp=0.5)
    assert [(one.number, one.name) for one in dataset.classes] == [(1, "yes"), (2, "no")]
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == {"one": "train", "two": "val"}
    expected = np.zeros((20, 24), int)
    expected[10:, 6:18] = 1
    assert np.array_equal(dataset.read("one").instances, expected) and dataset.read("one").counts() == {2: 1}
    assert dataset.read("two").counts() == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.1 0.1 0.2 0.2 0.3", "must read class x1 y1"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "must read class x1 y1"),
        ("7 0.1 0.1 0.2 0.2 0.3 0.1", "class '7' has no name"),
        ("0.5 0.1 0.1 0.2 0.2 0.3 0.1", "has no name"),
        ("nan 0.1 0.1 0.2 0.2 0.3 0.1", "has no name"),
        ("x 0.1 0.1 0.2 0.2 0.3 0.1", "must hold numbers"),
        ("0 10 10 20 20 30 10", "shares of the image's size"),
        ("0 0.1 0.1 nan 0.2 0.3 0.1", "shares of the image's size"),
        ("0 0.1 0.1 inf 0.2 0.3 0.1", "shares of the image's size"),
        ("é", "no text of numbers"),
    ],
)
def test_a_bad_line_is_one_sentence(folder, line, words):
    path = folder / "labels" / "train" / "a.txt"
    path.write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n" + line, encoding="utf-8")
    with pytest.raises(HistomixError, match=words):
        open_dataset(folder).read("a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must name the classes"),
        ("names: 3", "must name the classes"),
        ("names: {a: b}", "must name the classes"),
        ("names: {0: [x]}", "must name the classes"),
        ("names: [a, A]", "to two classes"),
        ("names: [", "not valid YAML"),
        ("[" * 9000, "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "must name"),
        ("names: [" + "x, " * 200_000 + "]", "larger than"),
    ],
)
def test_a_bad_data_yaml_is_one_sentence(folder, text, words):
    (folder / "data.yaml").write_text(text)
    (folder / "dataset.json").unlink()
    with pytest.raises(HistomixError, match=words):
        open_dataset(folder)


def test_merge_keys_do_not_grow(folder):
    lines = ["a0: &a0 {x: y}"]
    lines += [f"a{one}: &a{one} {{<<: [{', '.join([f'*a{one - 1}'] * 9)}]}}" for one in range(1, 12)]
    (folder / "data.yaml").write_text("\n".join(lines))
    with pytest.raises(HistomixError):
        open_dataset(folder)


def test_other_label_folders_are_none_of_these(folder):
    (folder / "labels" / "train" / "a.png").write_bytes(b"")
    (folder / "labels" / "val" / "b.mat").write_bytes(b"")
    assert open_dataset(folder, mpp=0.5).format != "yolo"
