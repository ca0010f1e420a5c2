"""``histomix replay`` and ``histomix explain``: what a person reads, what a program reads, and the exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.cli import main


@pytest.fixture(scope="module")
def out(labeled_image, dataset_folder, small_model_folder, tmp_path_factory) -> Path:
    """What ``synthesize`` writes, beside its dataset. Never write into it."""
    root = tmp_path_factory.mktemp("provenance")
    images = [labeled_image(10, seed=seed, name=f"train_{seed}", patient=f"p{seed}", rare=4) for seed in range(2)]
    data = dataset_folder(root / "data", images)
    more = ("-k", "4", "--model", str(small_model_folder), "--device", "cpu", "--out", str(root / "out"))
    assert main(["synthesize", str(data), "--rare", "rare", *more]) == 0
    return root / "out"


@pytest.fixture
def image(out) -> str:
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))["changes"][0]["image"]


def test_a_search_is_recorded_with_its_encoder_and_temperatures(out):
    made = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["changes"][0]["provenance"]
    assert made["search"]["encoder"].startswith("texture") and made["search"]["seed"] == 0
    assert made["search"]["temperature"] > 0 and made["search"]["donor_temperature"] > 0


def test_a_replay_says_that_all_is_the_same(run, out, small_model_folder):
    code, said, _ = run("replay", out, "--model", small_model_folder)
    assert code == 0 and len(said) == 1 and "bit for bit the same" in said[0] and "made up" in said[0]
    code, said, _ = run("replay", out / "manifest.json", "--model", small_model_folder, "--json")
    result = json.loads(said[-1])
    assert code == 0 and {one["outcome"] for one in result["images"]} == {"identical"} and "error" not in result


def test_a_replay_of_changed_images_is_exit_code_one_and_a_list(run, out, small_model_folder, image, tmp_path):
    folder = Path(shutil.copytree(out, tmp_path / "out"))
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(folder / "Images" / f"{image}.png")
    arguments = ("replay", folder, "--model", small_model_folder, "--dataset", out.parent / "data")
    code, said, err = run(*arguments)
    assert code == 1 and any(line.startswith(f"  {image}: somebody changed") for line in said)
    assert err[-1].startswith("histomix: 1 of ") and "differ from their export" in err[-1]
    code, said, err = run(*arguments, "--json")
    result = json.loads(said[-1])
    assert code == 1 and len(said) == 1 and f"histomix: {result['error']}" == err[-1]
    assert [one["image"] for one in result["images"] if one["outcome"] == "different"] == [image]


def test_a_replay_from_other_sources_names_them(run, out, small_model_folder, image, tmp_path):
    data = Path(shutil.copytree(out.parent / "data", tmp_path / "data"))
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(data / "Images" / f"{image}.png")
    code, said, err = run("replay", out, "--model", small_model_folder, "--dataset", data, "--out", tmp_path / "new")
    assert code == 1 and "1 source image is not the one that was used" in err[-1]
    assert said == [f"  {image}: its pixels are not those that were used."]
    assert not (tmp_path / "new").exists()


def test_a_replay_without_its_model_or_its_dataset_is_one_sentence(run, out, tmp_path):
    code, _, err = run("replay", out)
    assert code == 1 and "--model" in err[-1]
    moved = shutil.copytree(out, tmp_path / "deep" / "out")
    code, _, err = run("replay", moved)
    assert code == 1 and "--dataset" in err[-1]


def test_rebuilt_images_are_written(run, out, small_model_folder, image, tmp_path):
    code, said, _ = run("replay", out, "--model", small_model_folder, "--out", tmp_path / "new", "--check")
    assert code == 0 and said[-1] == f"Written: {tmp_path / 'new'}" and "bit for bit" in said[0]
    first, second = (np.array(Image.open(folder / "Images" / f"{image}.png")) for folder in (out, tmp_path / "new"))
    assert np.array_equal(first, second)


def test_explain_of_an_image_and_of_its_points(run, out, image):
    file = out / "Images" / f"{image}.png"
    code, said, _ = run("explain", file)
    text = "\n".join(said)
    assert code == 0
    for words in ("not for diagnosis", "change", "% inpainted", "patient p", "small", "unreviewed"):
        assert words in text, words
    origin = np.array(Image.open(out / "origin" / f"{image}.png"))
    for value, words in ((0, "is real"), (1, "the donor's: ("), (2, "inpainted by small")):
        row, col = np.argwhere(origin == value)[0]
        code, said, _ = run("explain", file, "--at", col, row)
        assert code == 0 and words in said[0], words
        code, said, _ = run("explain", image, "--manifest", out / "manifest.json", "--at", col, row, "--json")
        point = json.loads(said[-1])["point"]
        assert point["origin"] == ("real", "donor", "inpainted")[value] and point["at"] == [col, row]


def test_explain_of_other_images(run, out, image, tmp_path):
    code, said, _ = run("explain", shutil.copy(out / "Images" / f"{image}.png", tmp_path / "a.png"), "--json")
    assert code == 0 and json.loads(said[-1])["kind"] == "flagged"
    code, said, _ = run("explain", out.parent / "data" / "Images" / f"{image}.png")
    assert code == 0 and "no image of an export" in said[0]
    code, _, err = run("explain", tmp_path / "nowhere.png")
    assert code == 1 and "is not there" in err[-1]
    code, _, err = run("explain", out / "Images" / f"{image}.png", "--at", 500, 0)
    assert code == 1 and "lies outside" in err[-1]
