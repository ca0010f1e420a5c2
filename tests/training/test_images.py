from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_histomix.datasets import open_any
from napari_histomix.datasets.dataset import Mark
from napari_histomix.datasets.writing import write_png
from napari_histomix.records import HistomixError, drain
from napari_histomix.training.images import (
    Batches,
    Picture,
    dataset_pictures,
    find_images,
    pictures_of,
    random_hole,
    random_window,
    since,
    slide_of,
    split_by_slide,
    training_pictures,
)
from napari_histomix.training.settings import InpainterSettings


def pictures(*paths: str) -> list[Picture]:
    return [Picture(Path(path).name, "data", slide_of(Path(path)), Path(path)) for path in paths]


@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_the_slides_is_held_out_whole(seed):
    found = pictures(
        *(f"data/TCGA-A7-A{slide:03}-x_{number}.png" for slide in range(30) for number in range(slide % 4 + 1))
    )
    learned, held = split_by_slide(found, seed)
    assert sorted(one.name for one in learned + held) == sorted(one.name for one in found)
    assert not {one.slide for one in learned} & {one.slide for one in held}
    assert len({one.slide for one in held}) == 3


def test_of_a_few_large_slides_one_is_held_out():
    found = pictures(*(f"data/{slide}/{number}.png" for slide in "abcde" for number in range(100)))
    assert len(split_by_slide(found, 0)[1]) == 100


def test_a_single_slide_is_split_by_image():
    learned, held = split_by_slide(pictures(*(f"data/{number:02}.png" for number in range(20))), 0)
    assert len(held) == 2 and not {one.name for one in learned} & {one.name for one in held}


def test_files_without_a_barcode_belong_to_their_folder():
    assert slide_of(Path("a/patient7/x.png")) == "patient7"
    assert slide_of(Path("a/b/TCGA-A7-A0D9-01Z-00-DX1_1.png")) == "TCGA-A7-A0D9"


def test_images_that_hold_synthetic_pixels_are_not_learned_from(tmp_path):
    for name in ("real", "listed", "flagged"):
        write_png(tmp_path / f"{name}.png", np.full((40, 40, 3), 200, np.uint8), synthetic=name == "flagged")
    (tmp_path / "images.csv").write_text("image,synthetic\nlisted.png,yes\nreal,no\n")
    found, notes = pictures_of(tmp_path)
    assert [picture.name for picture in found] == ["real.png"]
    assert notes == [f"2 synthetic images in {tmp_path.name} are not learned from."]
    (tmp_path / "real.png").unlink()
    with pytest.raises(HistomixError, match="synthetic images only"):
        pictures_of(tmp_path)


def test_label_maps_and_torn_files_beside_the_images_are_left_out(tmp_path):
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "labels.png")
    (tmp_path / "torn.jpg").write_bytes(b"not an image")
    found, broken = find_images(tmp_path)
    assert [path.name for path in found] == ["image.png"]
    assert [path.name for path in broken] == ["torn.jpg"]


def test_images_of_test_and_validation_splits_are_never_learned_from(tmp_path):
    for name in ("Train/Images/a", "Test/Images/b", "valid/c", "d", "e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "images.csv").write_text("image,split\nd,train\ne.png,Testing\n", encoding="utf-8")
    found, notes = pictures_of(tmp_path)
    assert {one.name for one in found} == {"a.png", "d.png"}
    assert notes == [f"3 images of test and validation splits in {tmp_path.name} are not learned from."]
    with pytest.raises(HistomixError, match="splits only"):
        pictures_of(tmp_path / "Test")


def test_splits_of_a_labeled_dataset_count(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "abc":
        Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    for split, name in (("Train", "a"), ("Validation", "b"), ("batch1", "c")):
        content = {"images": [{"id": 1, "file_name": f"{name}.png"}], "annotations": []}
        content["categories"] = [{"id": 1, "name": "x"}]
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(content))
    assert [one.name for one in pictures_of(tmp_path)[0]] == ["a.png"]
    (tmp_path / "dataset.json").write_text('{"splits": {"batch1": "train"}}')
    assert [one.name for one in pictures_of(tmp_path)[0]] == ["a.png", "c.png"]


def test_a_file_that_broke_since_is_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(HistomixError, match="cannot be read as an image"):
        Picture("a.png", "data", "s", tmp_path / "a.png").pixels()


def collection() -> list[Picture]:
    rng = np.random.default_rng(0)
    sizes = ((30, 30), (90, 90))
    return [Picture(str(i), "f", "s", given=rng.integers(0, 256, (*size, 3), np.uint8)) for i, size in enumerate(sizes)]


def test_the_same_step_gives_the_same_batch_wherever_a_run_begins():
    batches = Batches(collection(), InpainterSettings(window=16, batch=3, seed=4), random_hole)
    stream = since(batches.at, 2)
    for step in (2, 3, 4):
        for given, again in zip(next(stream), batches.at(step), strict=True):
            assert torch.equal(given, again)
    stream.close()
    assert not torch.equal(batches.at(2)[0], batches.at(3)[0])
    other = replace(batches, rank=1)
    assert not torch.equal(batches.at(2)[0], other.at(2)[0]), "each process has its own windows"


def test_a_large_image_is_drawn_more_often_than_a_small_one():
    assert Batches(collection(), InpainterSettings()).shares.tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize("shape", [(12, 12), (16, 200), (64, 64)])
def test_training_windows_have_the_right_size_whatever_the_image(shape):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for _ in range(20):
        crop = random_window(pixels, InpainterSettings(window=16), rng)
        assert crop.shape == (16, 16, 3) and crop.dtype == np.uint8


def test_training_holes_are_mostly_thin_sometimes_large_and_sometimes_everything():
    rng = np.random.default_rng(0)
    settings = InpainterSettings(unconditional=0.2, segments=0.15, rings=0.6)
    shares = np.array([random_hole(settings, rng).mean() for _ in range(300)])
    assert (shares == 1).mean() == pytest.approx(0.2, abs=0.08)
    assert 0 < np.median(shares[shares < 1]) < 0.35
    assert 0.02 < ((shares > 0.4) & (shares < 1)).mean() < 0.2
    assert not (shares == 0).any()


@pytest.mark.parametrize(("shares", "least", "most"), [((1, 0), 0.1, 0.95), ((0, 1), 0, 0.3)], ids=str)
def test_the_shares_of_holes_are_kept(shares, least, most):
    rng = np.random.default_rng(0)
    settings = InpainterSettings(unconditional=0, segments=shares[0], rings=shares[1])
    found = [random_hole(settings, rng).mean() for _ in range(60)]
    assert least < np.quantile(found, 0.1) and np.quantile(found, 0.9) < most


def test_of_a_dataset_only_real_images_of_the_training_split_are_learned_from(labeled_image, dataset_folder, tmp_path):
    names = {"a": "train", "b": "train", "held": "test", "checked": "val", "made": "train", "marked": "train"}
    images = [
        labeled_image(4, seed=at, name=name, split=split, patient=f"p{at}")
        for at, (name, split) in enumerate(names.items())
    ]
    dataset = open_any(dataset_folder(tmp_path / "nuclei", images))
    synthetic = tuple(replace(entry, synthetic=entry.source.image == "made") for entry in dataset.entries)
    # One nucleus of an otherwise real image is synthetic.
    dataset = replace(dataset, entries=synthetic, marks={"marked": (Mark.at(np.argwhere(images[5].instances)[0]),)})
    assert dataset.read("marked").synthetic
    found = drain(dataset_pictures(dataset))
    assert [one.name for one in found] == ["a", "b"] and {one.slide for one in found} == {"p0", "p1"}
    assert found[0].size == (128, 128) and np.array_equal(found[0].pixels(), images[0].pixels)
    # What a person chose counts.
    chosen = {**names, "a": "test", "held": "train"}
    assert [one.name for one in drain(dataset_pictures(dataset, chosen))] == ["b", "held"]
    learned, checked = drain(training_pictures([dataset], 0, chosen))
    assert len(learned) == len(checked) == 1 and learned[0].slide != checked[0].slide
    with pytest.raises(HistomixError, match="has no real training image"):
        drain(dataset_pictures(dataset, dict.fromkeys(names, "test")))
