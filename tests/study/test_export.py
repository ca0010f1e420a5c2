from __future__ import annotations

import csv
import errno
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from toy_methods import FRESH, LAY, changes_of

from napari_histomix.compositing.composing import compose
from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.formats.hovernet import Writer
from napari_histomix.records import HistomixError, SourceRef, drain
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


@pytest.fixture(scope="module")
def made(study_dataset):
    """Six nuclei in two images."""
    changes = changes_of(LAY, study_dataset, 6)
    assert len(changes) == 6 and len({change.image for change in changes}) == 2
    return changes


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "exports" / "augmented"


def write(dataset, changes, out, *more, **named):
    return drain(export(dataset, changes, out, *more, **named))


def nothing_left(out: Path) -> bool:
    return not out.parent.exists() or list(out.parent.iterdir()) == []


def test_a_hovernet_loader_sees_the_approved_work_and_nothing_else(study_dataset, study_images, made, out):
    decisions = {change.id: "approve" for change in made} | {made[1].id: "reject"}
    del decisions[made[2].id]
    assert write(study_dataset, made, out, decisions) == out
    approved = [change for change in made if decisions.get(change.id) == "approve"]
    assert len(approved) == 4

    train = [image for image in study_images if image.source.split == "train"]
    assert {path.stem for path in (out / "Images").iterdir()} == {image.source.image for image in train}
    before, after = Counter(), Counter()
    for image in train:
        here = [change for change in approved if change.image == image.source.image]
        expected = compose(image, here).image
        pixels, instances, types = load_as_hovernet(out, image.source.image)
        assert np.array_equal(pixels, expected.pixels) and np.array_equal(instances, expected.instances)
        assert types == {number: expected.types[number] for number in types}
        before.update(image.types.values())
        after.update(types.values())
        with Image.open(out / "Images" / f"{image.source.image}.png") as png:
            assert (png.info.get("Description") == SYNTHETIC_NOTICE) is bool(here)

    replaced = Counter(change.target.type for change in approved)
    assert after[1] == before[1] + 4 and after[2] == before[2] - replaced[2]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    names = {"rare": 1, "common": 2, "other": 3}
    assert manifest["counts"]["before"] == {name: before[number] for name, number in names.items()}
    assert manifest["counts"]["after"] == {name: after[number] for name, number in names.items()}
    assert manifest["notice"] == SYNTHETIC_NOTICE


def test_the_manifest_says_of_every_change_what_lies_in_the_images(study_dataset, made, out):
    decisions = {change.id: "approve" for change in made}
    reviews = {made[1].id: {"decided_by": "Ann", "note": "pale"}}
    write(study_dataset, made, out, decisions, facts={"runs": [{"refusals": {"why": 3}}]}, reviews=reviews)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["runs"] == [{"refusals": {"why": 3}}] and manifest["skipped_images"] == {}
    assert manifest["manifest"] == 2 and len(manifest["changes"]) == len(made)
    with (out / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    for record, row, change in zip(manifest["changes"], table, made, strict=True):
        _, instances, types = load_as_hovernet(out, record["image"])
        ((number, about),) = record["added"].items()
        assert types[int(number)] == 1 and about["class"] == "rare"
        assert instances[tuple(about["at"])] == int(number)
        assert (instances == int(number)).sum() == (change.labels > 0).sum()
        assert not set(record["removed"]) & types.keys()
        target, donor = record["sources"]
        assert (target["role"], target["class"]) == ("target", "common") and donor["class"] == "rare"
        assert record["decision"] == "approve" and record["seed"] == change.seed
        assert record["changed_pixels"] == (change.origin != 0).sum()
        assert row["id"] == str(record["id"]) and row["donor_image"] == donor["image"]
        assert (row["added"], row["added_class"]) == (number, "rare")
        sha256 = record["provenance"]["sources"]["donor"]["pixels_sha256"]
        assert row["provenance_sources_donor_pixels_sha256"] == sha256
    assert [record.get("note") for record in manifest["changes"]][:3] == [None, "pale", None]


def test_the_export_is_a_dataset_like_any_other(study_dataset, study_images, made, out):
    write(study_dataset, made, out)
    again = open_dataset(out)
    assert again.problems == () and again.classes == study_dataset.classes
    assert again.name == "made up, augmented"
    for entry in again.entries:
        assert entry.mpp == 0.25 and entry.source.split == "train"
        assert entry.source.patient == study_dataset.entry(entry.source.image).source.patient
        again.read(entry)


def test_without_a_review_it_says_unreviewed(study_dataset, made, out):
    write(study_dataset, iter(made), out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert {record["decision"] for record in manifest["changes"]} == {"unreviewed"}
    assert len(manifest["changes"]) == 6


def test_pictures_for_people(study_dataset, made, out):
    write(study_dataset, made, out, report=True)
    for name in ("class_counts.png", "report.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200
            assert np.ptp(np.asarray(picture.convert("L"))) > 100


def test_the_same_arguments_give_the_same_bytes(study_dataset, made, tmp_path):
    for name in ("a", "b"):
        write(study_dataset, made, tmp_path / name, report=True)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert "report.png" in tree(tmp_path / "a")


@pytest.mark.parametrize("decisions", [{}, {"everything": "reject"}])
def test_nothing_approved_is_no_export(study_dataset, made, out, decisions):
    if decisions:
        decisions = {change.id: "reject" for change in made}
    with pytest.raises(HistomixError, match="approve some first"):
        write(study_dataset, made, out, decisions)
    assert nothing_left(out)


@pytest.mark.parametrize("kind", ["folder", "full folder", "file"])
def test_an_existing_place_is_never_touched(study_dataset, made, out, kind):
    out.parent.mkdir()
    out.touch() if kind == "file" else out.mkdir()
    if kind == "full folder":
        (out / "mine").write_text("mine")
    with pytest.raises(HistomixError, match="already exists"):
        write(study_dataset, made, out)
    assert list(out.parent.iterdir()) == [out]
    assert tree(out) == ({"mine": b"mine"} if kind == "full folder" else {})


@pytest.mark.parametrize("kind", ["empty folder", "full folder", "file"])
def test_a_place_that_was_taken_meanwhile_is_not_touched_either(study_dataset, made, out, kind):
    job = export(study_dataset, made, out)
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
        write(study_dataset, made, out, report=True)
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
        write(study_dataset, made, out)
    assert nothing_left(out)


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6, 7, 8])
def test_closing_midway_leaves_nothing_behind(study_dataset, made, out, steps):
    job = export(study_dataset, made, out)
    for _ in range(steps):
        next(job)
    job.close()
    assert nothing_left(out)


@pytest.mark.parametrize(
    ("where", "name"),
    [(Writer, "add"), (Writer, "finish"), (module, "write_card"), (module, "class_chart"), (module, "change_sheet")],
)
def test_any_failure_leaves_nothing_behind(study_dataset, made, out, monkeypatch, where, name):
    def fail(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(RuntimeError, match="boom"):
        write(study_dataset, made, out, report=True)
    assert nothing_left(out)


def test_patients_on_two_sides_of_the_split_are_refused(
    study_images, dataset_folder, labeled_image, made, out, tmp_path
):
    leak = labeled_image(3, name="leak", split="test", patient="p0")
    dataset = open_dataset(dataset_folder(tmp_path / "data", [*study_images, leak]))
    with pytest.raises(HistomixError, match=r"shares patients.*p0"):
        write(dataset, made, out)
    assert nothing_left(out)


def test_a_bad_image_is_skipped_and_listed_unless_something_was_made_of_it(study_folder, made, out, tmp_path):
    folder = Path(shutil.copytree(study_folder, tmp_path / "data"))
    dataset = open_dataset(folder)
    (folder / "Images" / "train_bare.png").write_bytes(b"no image")
    write(dataset, made, out)
    assert not (out / "Images" / "train_bare.png").exists()
    assert list(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["skipped_images"]) == ["train_bare"]
    (folder / "Images" / f"{made[0].image}.png").write_bytes(b"no image")
    with pytest.raises(HistomixError, match=made[0].image):
        write(dataset, made, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_nobody_is_locked_out_of_an_export(study_dataset, made, out):
    write(study_dataset, made, out)
    assert out.stat().st_mode & 0o055 == 0o055


class TestWholeImages:
    def test_a_new_image_lies_beside_the_real_ones(self, study_dataset, made, out):
        fresh = changes_of(FRESH, study_dataset, 2, first=len(made))
        write(study_dataset, [*made, *fresh], out)
        again = open_dataset(out)
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        assert len(again.entries) == 5
        for change in fresh:
            about = manifest["synthetic_images"][change.name]
            image, entry = again.read(about["file"]), again.entry(about["file"])
            assert np.array_equal(image.pixels, change.pixels) and np.array_equal(image.instances, change.labels)
            assert about["whole"] and about["source_sha256"] == ""
            # Of whom it was made is known, so that no patient gets onto two sides of a later split.
            assert entry.source.patient == study_dataset.entry(change.sources[0].image).source.patient != ""
            assert (entry.source.split, entry.mpp) == ("train", 0.25)
            origin = np.array(Image.open(out / "origin" / f"{about['file']}.png"))
            assert (origin == 2).all()
        before, after = (manifest["counts"][key] for key in ("before", "after"))
        extra = sum((Counter(change.added.values()) for change in fresh), Counter())
        assert after["rare"] == before["rare"] + 6 + extra[1] and after["common"] == before["common"] - 6 + extra[2]

    def test_one_without_a_scale_is_refused(self, study_dataset, out):
        (change,) = changes_of(FRESH, study_dataset, 1)
        provenance = {key: value for key, value in change.provenance.items() if key != "mpp"}
        with pytest.raises(HistomixError, match="µm"):
            write(study_dataset, [replace(change, provenance=provenance)], out)
        assert nothing_left(out)

    def test_what_it_was_made_of_is_checked_in_every_role(self, study_dataset, out):
        (change,) = changes_of(FRESH, study_dataset, 1)
        for role in ("labels", "reference", "donor"):
            stranger = replace(change, sources=(SourceRef(role, "test_9"),))
            with pytest.raises(HistomixError, match="0 from test_9"):
                write(study_dataset, [stranger], out)
        assert nothing_left(out)

    def test_a_patch_that_does_not_fit_is_refused(self, study_dataset, made, out):
        with pytest.raises(HistomixError, match="does not fit"):
            write(study_dataset, [made[0].moved(120, 0)], out)
        assert nothing_left(out)

    def test_a_class_per_image_is_asked_for(self, study_dataset, made, out):
        with pytest.raises(HistomixError, match="class-folders"):
            write(study_dataset, made, out, format="class-folders")
        soft = replace(made[0], class_shares={"a": 0.5, "b": 0.5})
        with pytest.raises(HistomixError, match="of the class 'a', which made up does not have"):
            write(study_dataset, [soft], out)
        assert nothing_left(out)


def test_a_method_that_is_not_installed_is_named_on_the_card(study_dataset, made, out):
    write(study_dataset, [replace(made[0], method="gone"), *made[1:]], out)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "The method 'gone', which is not installed" in card and "Lay: nuclei of the first class" in card
    assert "| rare | 8 | 14 | +6 | 6 |" in card
