"""``histomix split`` and ``--splits``, as a person types them: proposed, applied, kept by the study, leaks refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import open_dataset
from napari_histomix.study import Study


@pytest.fixture(scope="module")
def data(labeled_image, dataset_folder, tmp_path_factory) -> Path:
    """Eight images of four patients, all for training. Never write into it."""
    images = [
        labeled_image(10, seed=number, name=f"image_{number}", patient=f"p{number // 2}", rare=4) for number in range(8)
    ]
    return dataset_folder(tmp_path_factory.mktemp("splitting") / "data", images)


@pytest.fixture
def leaky(labeled_image, dataset_folder, tmp_path) -> Path:
    """A test image that is a training image mirrored, of nobody known."""
    images = [labeled_image(10, seed=number, name=f"image_{number}", rare=4) for number in range(2)]
    copy = labeled_image(10, seed=1, name="copy", split="test", rare=4)
    folder = dataset_folder(tmp_path / "leaky", [*images, copy])
    pixels = np.array(Image.open(folder / "Images" / "copy.png"))
    Image.fromarray(pixels[:, ::-1]).save(folder / "Images" / "copy.png")
    return folder


def read(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["image"]: row for row in csv.DictReader(stream)}


def test_splits_are_proposed_by_patient_and_the_same_seed_gives_the_same_file(run, data, tmp_path):
    code, out, _ = run("split", data, "--out", tmp_path / "a.csv", "--val", 0.25, "--test", 0.25, "--seed", 3)
    assert code == 0 and any(line.startswith("  test") and "2 images; rare 8" in line for line in out)
    rows = read(tmp_path / "a.csv")
    assert (
        len(rows) == 8 and sorted(row["split"] for row in rows.values()) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    )
    for patient in "p0", "p1", "p2", "p3":
        assert len({row["split"] for row in rows.values() if row["patient"] == patient}) == 1
    code, out, _ = run("split", data, "--out", tmp_path / "b.csv", "--val", 0.25, "--test", 0.25, "--seed", 3, "--json")
    assert code == 0 and json.loads(out[-1])["images"] == {"train": 4, "val": 2, "test": 2}
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    code, _, err = run("split", data, "--out", tmp_path / "b.csv")
    assert code == 1 and "already exists" in err[-1]


def test_named_splits_decide_where_donors_come_from_and_the_study_keeps_them(run, data, small_model_folder, tmp_path):
    splits = tmp_path / "splits.csv"
    run("split", data, "--out", splits, "--val", 0.25, "--test", 0.25)
    training = {image for image, row in read(splits).items() if row["split"] == "train"}
    code, out, _ = run("inspect", data, "--splits", splits)
    assert code == 0 and "splits: " in "\n".join(out) and "No problems found." in out
    code, _, err = run("candidates", data, "--rare", "rare", "--splits", splits, "--out", tmp_path / "found.csv")
    assert code == 0, err
    with (tmp_path / "found.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["image"] for row in rows} | {row["donor_image"] for row in rows} == training
    made = ("--rare", "rare", "-k", 2, "--model", small_model_folder, "--device", "cpu", "--study", tmp_path / "study")
    code, _, err = run("synthesize", data, "--splits", splits, "--out", tmp_path / "made", *made)
    assert code == 0, err
    assert {one.source.image for one in open_dataset(tmp_path / "made").entries} == training
    assert Study.open(tmp_path / "study").settings()["splits"] == {
        image: row["split"] for image, row in read(splits).items()
    }
    study = Study.open(tmp_path / "study")
    study.decide("change", study.changes().ids, "approve")
    code, _, err = run("export", tmp_path / "study", "--out", tmp_path / "exported")
    assert code == 0, err
    assert {one.source.image for one in open_dataset(tmp_path / "exported").entries} == training


def test_a_table_that_forgets_an_image_is_refused(run, data, tmp_path):
    (tmp_path / "splits.csv").write_text("image,split\nimage_0,train\n")
    code, _, err = run("inspect", data, "--splits", tmp_path / "splits.csv")
    assert code == 1 and "do not list image_1" in err[-1]


def test_a_copy_across_splits_is_reported_refused_and_kept_together(run, leaky, tmp_path):
    code, out, _ = run("inspect", leaky, "--json")
    leaks = json.loads(out[-1])["leaks"]
    assert code == 0 and leaks == ["copy (test) and image_1 (train) are one image, turned or mirrored."]
    code, _, err = run("synthesize", leaky, "--rare", "rare", "-k", 1, "--out", tmp_path / "made")
    assert code == 1 and "shares tissue with another split" in err[-1] and "image_1 (train)" in err[-1]
    assert not (tmp_path / "made").exists()
    code, out, _ = run("split", leaky, "--out", tmp_path / "splits.csv", "--val", 0)
    rows = read(tmp_path / "splits.csv")
    assert code == 0 and rows["copy"]["split"] == rows["image_1"]["split"]
    assert any("name no patient and no slide" in line for line in out)
    code, out, _ = run("inspect", leaky, "--splits", tmp_path / "splits.csv", "--json")
    assert code == 0 and json.loads(out[-1])["leaks"] == []


def test_tissue_is_divided_by_its_classes_and_a_pool_is_built_of_training_images(run, tmp_path):
    rng = np.random.default_rng(0)
    for kind in "high", "low":
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(4):
            blocks = rng.integers(80, 220, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(np.kron(blocks, np.ones((14, 14, 1), np.uint8))).save(
                tmp_path / "data" / kind / f"{number}.png"
            )
    splits = tmp_path / "splits.csv"
    code, _, err = run("split", tmp_path / "data", "--out", splits, "--val", 0, "--test", 0.25)
    assert code == 0, err
    test = [image for image, row in read(splits).items() if row["split"] == "test"]
    assert sorted(image.split("/")[0] for image in test) == ["high", "low"]
    study = tmp_path / "study"
    few = ("--superpixels", 8, "--points", 4, "--mpp", 0.5)
    code, _, err = run("pool", "build", tmp_path / "data", "--study", study, "--splits", splits, *few)
    assert code == 0, err
    from napari_histomix.segmentation.pool import SegmentPool

    assert {one.source.image for one in SegmentPool(study).images} == read(splits).keys() - set(test)
    assert Study.open(study).settings()["splits"].keys() == read(splits).keys()


@pytest.mark.parametrize("shares", [("--val", 0.6, "--test", 0.5), ("--val", 0.5, "--test", 0.5)])
def test_shares_that_leave_nothing_are_refused(run, data, tmp_path, shares):
    code, _, err = run("split", data, "--out", tmp_path / "splits.csv", *shares)
    assert code == 1 and "nothing to train on" in err[-1]
