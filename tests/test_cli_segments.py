"""The commands on tissue segments, as a person types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_histomix.datasets import SYNTHETIC_NOTICE, open_tissue
from napari_histomix.study import Study

FEW = ("--superpixels", "8", "--points", "4")
POOL = (*FEW, "--border")


def paint(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = np.full((110, 120, 3), (225, 165, 205), float)
    rows, cols = np.mgrid[:110, :120]
    for color in ((130, 85, 160), (205, 60, 90)):
        row, col = rng.uniform(25, 85, 2)
        pixels[((rows - row) / rng.uniform(14, 22)) ** 2 + ((cols - col) / rng.uniform(14, 22)) ** 2 < 1] = color
    pixels += cv2.GaussianBlur(rng.standard_normal((110, 120)), (0, 0), 1.0)[..., None] * 12
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "tissue"
    for kind in ("high", "low"):
        (root / kind).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(paint(number + 10 * (kind == "high"))).save(root / kind / f"{number}.png")
    (root / "dataset.json").write_text('{"mpp": 0.25}')
    return root


@pytest.fixture
def synthesize(run, small_model_folder):
    def call(data: Path, out: Path, *more: object) -> tuple[int, list[str], str]:
        model = ("--model", small_model_folder, "--device", "cpu", "--new-area", 0.05, 0.95)
        form = ("--outline", "segment", "--no-own-patient")
        return run("synthesize", data, "--method", "usegmix", "--out", out, *model, *form, *POOL, *more)

    return call


def test_segment_writes_label_maps_outlines_and_a_table(run, data, tmp_path):
    out = tmp_path / "segments"
    code, shown, _ = run("segment", data, "--out", out, "--json", *FEW)
    said = json.loads(shown[-1])
    assert code == 0 and set(said["segments"]) == {f"{kind}/{n}" for kind in ("high", "low") for n in range(3)}
    with (out / "segments.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["image"] == "low/1"]
    labels = tifffile.imread(out / "low" / "1.tif")
    assert labels.shape == (110, 120) and labels.dtype == np.int32
    assert {int(row["segment"]): int(row["area"]) for row in rows} == {
        number: int((labels == number).sum()) for number in np.unique(labels) if number
    }
    assert len(rows) == said["segments"]["low/1"] and all(0 < float(row["vote_share"]) <= 1 for row in rows)
    assert (out / "low" / "1-outlines.png").is_file()


def test_a_single_image_and_images_without_tissue(run, data, tmp_path):
    Image.fromarray(np.full((60, 60, 3), 255, np.uint8)).save(tmp_path / "white.png")
    code, _, said = run("segment", tmp_path / "white.png", "--out", tmp_path / "a")
    assert code == 1 and "no tissue" in said[-1] and not (tmp_path / "a").exists()
    Image.fromarray(paint(3)).convert("L").save(tmp_path / "gray.png")
    Image.fromarray(paint(3)).save(tmp_path / "color.png")
    for suffix in ("png", "tif"):
        Image.fromarray(paint(4)).save(tmp_path / f"twice.{suffix}")
    code, shown, _ = run("segment", tmp_path, "--out", tmp_path / "b", *FEW)
    assert code == 0 and any("white: This image shows no tissue" in line for line in shown)
    assert any("gray.png is a grayscale image" in line for line in shown)
    assert {one.name for one in (tmp_path / "b").glob("*.tif")} == {"color.tif", "twice.png.tif", "twice.tif.tif"}
    code, _, said = run("segment", tmp_path / "nothing", "--out", tmp_path / "c")
    assert code == 1 and "not there" in said[-1]


def test_a_pool_is_built_and_counted(run, data, tmp_path):
    study = tmp_path / "study"
    assert run("pool", "build", data, "--study", study, *POOL)[0] == 0
    code, shown, _ = run("pool", "stats", study, "--json")
    said = json.loads(shown[-1])
    assert code == 0 and set(said["classes"]) == {"high", "low"}
    assert said["segments"] == sum(one["segments"] for one in said["classes"].values()) > 6
    assert said["signature"]["encoder"].startswith("texture")
    code, _, said = run("pool", "build", data, "--study", study)
    assert code == 1 and "not empty" in said[-1]
    Study.open(study).decide("segment", [0, 1], "drop")
    dropped = json.loads(run("pool", "stats", study, "--json")[1][-1])["classes"]
    assert sum(one["dropped"] for one in dropped.values()) == 2


def test_synthetic_images_in_class_folders_with_a_manifest(synthesize, data, tmp_path):
    out, again = tmp_path / "out", tmp_path / "again"
    code, shown, said = synthesize(data, out, "--per-class", 2, "--study", tmp_path / "study")
    assert code == 0, said
    assert "Made 4 of 4." in shown
    made = open_tissue(out)
    assert {kind: len(made.of_kind(kind)) for kind in made.kinds} == {"high": 5, "low": 5}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert [one["class_shares"] for one in manifest["changes"]] == [{"high": 1}] * 2 + [{"low": 1}] * 2
    files = {one["name"]: manifest["synthetic_images"][one["name"]]["file"] for one in manifest["changes"]}
    for one in manifest["changes"]:
        with Image.open(out / f"{files[one['name']]}.png") as image:
            assert image.info["Description"] == SYNTHETIC_NOTICE
        assert 0.05 <= one["provenance"]["new_area"] <= 0.95
    assert len(Study.open(tmp_path / "study").changes()) == 4
    assert synthesize(data, again, "--per-class", 2)[0] == 0
    for file in files.values():
        assert (again / f"{file}.png").read_bytes() == (out / f"{file}.png").read_bytes(), (
            "the same seed, the same bytes"
        )


def test_a_curated_pool_is_used_as_it_is(run, synthesize, data, tmp_path):
    study = tmp_path / "study"
    run("pool", "build", data, "--study", study, *POOL)
    from napari_histomix.segmentation.pool import SegmentPool

    pool = SegmentPool(study)
    low = np.flatnonzero(pool.image_kinds == pool.kinds.index("low"))
    Study.open(study).decide("segment", low.tolist(), "drop")
    code, shown, said = synthesize(data, tmp_path / "out", "--per-class", 1, "--study", study)
    assert code == 0, said
    assert "Made 1 of 2." in shown and any("two segments" in line for line in shown)
    code, _, said = synthesize(data, tmp_path / "other", "--study", study, "--encoder", "timm:none")
    assert code == 1 and "found with another --encoder" in said[-1] and not (tmp_path / "other").exists()


def test_a_killed_build_is_taken_up_again(run, synthesize, data, tmp_path):
    for name in ("a", "b"):
        study = Study.create(tmp_path / name, data, "tissue")
        left = study.folder / "pool" / "part-0000.partial"
        left.mkdir(parents=True)
        (left / "rows.bin").write_bytes(b"half")
    assert "no segment pool" in run("pool", "stats", tmp_path / "a")[2][-1]
    code, _, said = run("pool", "build", data, "--study", tmp_path / "a", *POOL)
    assert code == 0 and run("pool", "stats", tmp_path / "a")[0] == 0, said
    assert synthesize(data, tmp_path / "out", "--per-class", 1, "--study", tmp_path / "b")[0] == 0
    Study.create(tmp_path / "c", tmp_path, "another")
    code, _, said = run("pool", "build", data, "--study", tmp_path / "c")
    assert code == 1 and "another dataset" in said[-1]


def test_what_cannot_be_is_one_sentence_before_any_work(run, synthesize, data, tmp_path):
    bare = tmp_path / "bare"
    (bare / "low").mkdir(parents=True)
    Image.fromarray(paint(0)).save(bare / "low" / "a.png")
    assert "µm one pixel" in synthesize(bare, tmp_path / "x")[2][-1]
    (tmp_path / "full").mkdir()
    assert "already exists" in synthesize(data, tmp_path / "full")[2][-1]
    assert "SAM needs weights" in run("segment", data, "--out", tmp_path / "y", "--prompter", "sam")[2][-1]
    assert "no segment pool" in _empty(run, tmp_path)


def _empty(run, tmp_path: Path) -> str:
    Study.create(tmp_path / "empty", tmp_path, "none")
    return run("pool", "stats", tmp_path / "empty")[2][-1]
