from __future__ import annotations

import csv
import errno
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from napari_histomix.compositing import compose
from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.formats.hovernet import Writer
from napari_histomix.records import HistomixError, drain
from napari_histomix.study import export as module
from napari_histomix.study.export import export


def load_as_hovernet(root: Path, name: str) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """As HoVer-Net's own loaders: the i-th type is that of the i-th id in ascending order."""
    pixels = np.array(Image.open(root / "Images" / f"{name}.png").convert("RGB"))
    labels = scipy.io.loadmat(root / "Labels" / f"{name}.mat")
    instances, kinds = labels["inst_map"], labels["inst_type"].flatten()
    ids = np.unique(instances)[1:] if 0 in instances else np.unique(instances)
    assert len(ids) == len(kinds) == len(labels["inst_centroid"])
    types = dict(zip(ids.tolist(), kinds.tolist(), strict=True))
    for number, kind in types.items():
        assert (labels["type_map"][instances == number] == kind).all()
    assert not labels["type_map"][instances == 0].any()
    return pixels, instances, types


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "exports" / "augmented"


def write(dataset, placements, out, *more, **named):
    return drain(export(dataset, placements, out, *more, **named))


def nothing_left(out: Path) -> bool:
    return not out.parent.exists() or list(out.parent.iterdir()) == []


def test_a_hovernet_loader_sees_the_approved_work_and_nothing_else(study_dataset, study_images, made, out):
    decisions = {one.candidate.rank: "approve" for one in made.placements}
    rejected = made.placements[1].candidate.rank
    decisions[rejected] = "reject"
    undecided = made.placements[2].candidate.rank
    del decisions[undecided]
    assert write(study_dataset, made.placements, out, decisions) == out
    approved = [one for one in made.placements if decisions.get(one.candidate.rank) == "approve"]
    assert len(approved) == 4

    train = [image for image in study_images if image.source.split == "train"]
    assert {path.stem for path in (out / "Images").iterdir()} == {image.source.image for image in train}
    before, after = Counter(), Counter()
    for image in train:
        here = [one for one in approved if one.candidate.target.image == image.source.image]
        expected = compose(image, here).image
        pixels, instances, types = load_as_hovernet(out, image.source.image)
        assert np.array_equal(pixels, expected.pixels) and np.array_equal(instances, expected.instances)
        assert types == {number: expected.types[number] for number in types}
        before.update(image.types.values())
        after.update(types.values())
        with Image.open(out / "Images" / f"{image.source.image}.png") as png:
            assert (png.info.get("Description") == SYNTHETIC_NOTICE) is bool(here)

    replaced = Counter(one.candidate.target.type for one in approved if one.candidate.target.instance)
    assert after[1] == before[1] + 4 and after[2] == before[2] - replaced[2]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    names = {"rare": 1, "common": 2, "other": 3}
    assert manifest["counts"]["before"] == {name: before[number] for name, number in names.items()}
    assert manifest["counts"]["after"] == {name: after[number] for name, number in names.items()}
    assert manifest["notice"] == SYNTHETIC_NOTICE


def test_the_manifest_says_of_every_placement_what_lies_in_the_images(study_dataset, made, out):
    decisions = {one.candidate.rank: "approve" for one in made.placements}
    write(study_dataset, made.placements, out, decisions, facts={"refusals": {"why": 3}})
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["refusals"] == {"why": 3} and manifest["skipped_images"] == {}
    assert len(manifest["placements"]) == len(made.placements)
    with (out / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    for record, row, one in zip(manifest["placements"], table, made.placements, strict=True):
        _, instances, types = load_as_hovernet(out, record["image"])
        assert types[record["instance"]] == 1
        assert (instances == record["instance"]).sum() == one.nucleus.sum()
        assert record["target"]["instance"] not in types
        assert record["donor"]["type"] == "rare" and record["decision"] == "approve"
        assert record["changed_pixels"] == (one.origin != 0).sum()
        assert record["seed"] == one.seed and record["provenance"]["model"] == "small"
        assert row["rank"] == str(record["rank"]) and row["donor_image"] == record["donor"]["image"]
        assert row["provenance_model_sha256"] == record["provenance"]["model_sha256"]


def test_the_export_is_a_dataset_like_any_other(study_dataset, study_images, made, out):
    write(study_dataset, made.placements, out)
    again = open_dataset(out)
    assert again.problems == () and again.classes == study_dataset.classes
    assert again.name == "made up, augmented"
    for entry in again.entries:
        assert entry.mpp == 0.25 and entry.source.split == "train"
        assert entry.source.patient == study_dataset.entry(entry.source.image).source.patient
        again.read(entry)


def test_without_a_review_it_says_unreviewed(study_dataset, made, out):
    write(study_dataset, iter(made.placements), out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert {record["decision"] for record in manifest["placements"]} == {"unreviewed"}
    assert len(manifest["placements"]) == 6


def test_pictures_for_people(study_dataset, made, out):
    write(study_dataset, made.placements, out, report=True)
    for name in ("class_counts.png", "report.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200
            assert np.ptp(np.asarray(picture.convert("L"))) > 100


def test_the_same_arguments_give_the_same_bytes(study_dataset, made, tmp_path):
    for name in ("a", "b"):
        write(study_dataset, made.placements, tmp_path / name, report=True)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert "report.png" in tree(tmp_path / "a")


@pytest.mark.parametrize("decisions", [{}, {"everything": "reject"}])
def test_nothing_approved_is_no_export(study_dataset, made, out, decisions):
    if decisions:
        decisions = {one.candidate.rank: "reject" for one in made.placements}
    with pytest.raises(HistomixError, match="approve some first"):
        write(study_dataset, made.placements, out, decisions)
    assert nothing_left(out)


@pytest.mark.parametrize("kind", ["folder", "full folder", "file"])
def test_an_existing_place_is_never_touched(study_dataset, made, out, kind):
    out.parent.mkdir()
    out.touch() if kind == "file" else out.mkdir()
    if kind == "full folder":
        (out / "mine").write_text("mine")
    with pytest.raises(HistomixError, match="already exists"):
        write(study_dataset, made.placements, out)
    assert list(out.parent.iterdir()) == [out]
    assert tree(out) == ({"mine": b"mine"} if kind == "full folder" else {})


@pytest.mark.parametrize("kind", ["empty folder", "full folder", "file"])
def test_a_place_that_was_taken_meanwhile_is_not_touched_either(study_dataset, made, out, kind):
    job = export(study_dataset, made.placements, out)
    while next(job).phase != "Writing images":
        pass
    out.touch() if kind == "file" else out.mkdir()
    if kind == "full folder":
        (out / "mine").write_text("mine")
    before = tree(out)
    with pytest.raises(HistomixError, match="already exists"):
        drain(job)
    assert list(out.parent.iterdir()) == [out]
    assert tree(out) == before and out.is_file() is (kind == "file")


@pytest.mark.parametrize("patience", range(0, 28, 3))
def test_a_full_disk_leaves_nothing_behind(study_dataset, made, out, monkeypatch, patience):
    """The disk is full at the n-th file that is opened to be written."""
    left = [patience]
    builtin_open = Path.open

    def full(path, mode="r", *args, **named):
        if "w" in str(mode):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return builtin_open(path, mode, *args, **named)

    save = Image.Image.save

    def full_save(image, target, *args, **named):
        left[0] -= 1
        if left[0] < 0:
            Path(str(target)).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(image, target, *args, **named)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(Image.Image, "save", full_save)
    try:
        write(study_dataset, made.placements, out, report=True)
    except HistomixError as error:
        assert "No space left" in str(error)
        monkeypatch.undo()
        assert nothing_left(out)
    else:
        assert left[0] >= 0, "a failure to write must not go unnoticed"
        monkeypatch.undo()
        assert (out / "report.png").is_file()


def test_an_error_without_a_number_still_says_something(study_dataset, made, out, monkeypatch):
    def fail(*_, **__):
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr(Writer, "add", fail)
    with pytest.raises(HistomixError, match="encoder error"):
        write(study_dataset, made.placements, out)
    assert nothing_left(out)


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6, 7, 8])
def test_closing_midway_leaves_nothing_behind(study_dataset, made, out, steps):
    job = export(study_dataset, made.placements, out)
    for _ in range(steps):
        next(job)
    job.close()
    assert nothing_left(out)


@pytest.mark.parametrize(
    ("where", "name"),
    [(Writer, "add"), (Writer, "finish"), (module, "write_card"), (module, "class_chart"), (module, "placement_sheet")],
)
def test_any_failure_leaves_nothing_behind(study_dataset, made, out, monkeypatch, where, name):
    def fail(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(RuntimeError, match="boom"):
        write(study_dataset, made.placements, out, report=True)
    assert nothing_left(out)


def test_patients_on_two_sides_of_the_split_are_refused(
    study_images, dataset_folder, labeled_image, made, out, tmp_path
):
    leak = labeled_image(3, name="leak", split="test", patient="p0")
    dataset = open_dataset(dataset_folder(tmp_path / "data", [*study_images, leak]))
    with pytest.raises(HistomixError, match=r"shares patients.*p0"):
        write(dataset, made.placements, out)
    assert nothing_left(out)


def test_a_bad_image_is_skipped_and_listed_unless_something_was_placed_in_it(study_folder, made, out, tmp_path):
    folder = Path(shutil.copytree(study_folder, tmp_path / "data"))
    dataset = open_dataset(folder)
    (folder / "Images" / "train_bare.png").write_bytes(b"no image")
    some = [one for one in made.placements if one.candidate.target.image != "train_bare"]
    write(dataset, some, out)
    assert not (out / "Images" / "train_bare.png").exists()
    assert list(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["skipped_images"]) == ["train_bare"]
    (folder / "Images" / f"{some[0].candidate.target.image}.png").write_bytes(b"no image")
    with pytest.raises(HistomixError, match=some[0].candidate.target.image):
        write(dataset, some, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_nobody_is_locked_out_of_an_export(study_dataset, made, out):
    write(study_dataset, made.placements, out)
    assert out.stat().st_mode & 0o055 == 0o055
