"""Export in every format: what is written is what a reader of that format sees, all of it or nothing."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from placed_samples import placed_sample
from toy_methods import LAY, changes_of

from napari_histomix.compositing.composing import compose
from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.dataset_writer import WrittenDataset, convert
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.records import KEEP, Change, HistomixError, LabeledImage, NucleusClass, SourceRef, drain
from napari_histomix.study.export import export
from napari_histomix.study.export_plan import bytes_text, plan_export

WRITABLE = [one.name for one in FORMATS.values() if one.writes and one.holds == "nuclei"]
ONE_OUTLINE = {"hovernet-json"}
"""Formats whose nuclei are one filled outline."""
OWN_CLASSES = {"pannuke": {"lymphocyte": "inflammatory", "tumor": "neoplastic", "stromal": "connective"}}
"""What formats that have classes of their own make of the sample's."""


@pytest.fixture(scope="session")
def work():
    """The sample with a nucleus in each of its first four images."""
    return placed_sample()


def write(work, out, **how) -> Path:
    return drain(export(*work, out, **how))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def composed(work) -> dict[str, LabeledImage]:
    dataset, changes = work
    images = {}
    for entry in dataset.training:
        here = [change for change in changes if change.image == entry.source.image]
        images[entry.source.image] = compose(dataset.read(entry), here).image
    return images


def nuclei(image: LabeledImage, names: dict[int, str]) -> Counter:
    """Every nucleus by its class and its pixels, whatever its id."""
    return Counter(
        (names[image.types[int(one)]], np.flatnonzero(image.instances == one).tobytes())
        for one in np.unique(image.instances)
        if one
    )


def overlap(image: LabeledImage, again: LabeledImage) -> float:
    """The smallest intersection over union of a nucleus with the one that lies in its place."""
    found = []
    for one in np.unique(image.instances)[1:]:
        mask = image.instances == one
        ids, counts = np.unique(again.instances[mask], return_counts=True)
        other = again.instances == ids[counts.argmax()]
        found.append((mask & other).sum() / (mask | other).sum())
    return min(found, default=1.0)


@pytest.fixture(scope="session")
def exported(work, tmp_path_factory):
    """Exports by format, each made once; never write into them."""
    made: dict[str, Path] = {}

    def get(format: str) -> Path:
        if format not in made:
            made[format] = write(work, tmp_path_factory.mktemp("exports") / format, format=format, ignore_band=True)
        return made[format]

    return get


@pytest.mark.parametrize("format", WRITABLE)
def test_a_reader_of_the_format_sees_the_synthetic_images(work, exported, format):
    expected, again = composed(work), open_dataset(exported(format))
    theirs = OWN_CLASSES.get(format, {})
    names = {one.number: theirs.get(one.name, one.name) for one in work[0].classes}
    assert again.problems == ()
    assert {entry.source.image for entry in again.entries} == set(expected)
    assert {one.name for one in again.classes} >= set(names.values())
    read_names = {one.number: one.name for one in again.classes}
    for entry in again.entries:
        image, result = expected[entry.source.image], again.read(entry)
        np.testing.assert_array_equal(result.pixels, image.pixels)
        assert result.mpp == pytest.approx(image.mpp, rel=1e-4)
        assert result.source.patient == image.source.patient != ""
        assert (result.source.slide, result.source.split) == (image.source.slide, "train")
        if format in ONE_OUTLINE:
            by_name = Counter({read_names[number]: count for number, count in result.counts().items()})
            assert by_name == Counter({names[number]: count for number, count in image.counts().items()})
            assert overlap(image, result) > 0.75
        else:
            assert nuclei(result, read_names) == nuclei(image, names)


@pytest.mark.parametrize("format", WRITABLE)
def test_beside_the_images_lies_what_every_export_has(work, exported, format):
    dataset, changes = work
    out = exported(format)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["notice"] == SYNTHETIC_NOTICE and manifest["format"] == format
    assert len(manifest["changes"]) == len(changes)
    with (out / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        assert [int(row["id"]) for row in csv.DictReader(stream)] == [change.id for change in changes]
    with (out / "class_counts.png").open("rb") as stream:
        assert Image.open(stream).size[0] > 200
    card = (out / "README.md").read_text(encoding="utf-8")
    assert SYNTHETIC_NOTICE in card and FORMATS[format].title in card and "BSD-3-Clause" in card
    assert (out / "NOTICE").read_bytes() == (dataset.root / "NOTICE").read_bytes()
    described = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert described["notice"] == SYNTHETIC_NOTICE and described["license"].startswith("BSD-3-Clause")
    targets = {change.image for change in changes}
    assert {path.stem for path in (out / "origin").iterdir()} == targets == set(manifest["synthetic_images"])
    for entry in dataset.training:
        name = entry.source.image
        here = [change for change in changes if change.image == name]
        made = compose(dataset.read(name), here)
        classes = np.array(Image.open(out / "ignore" / f"{name}.png"))
        assert ((classes == 255) == (made.origin == 2)).all()
        for number in made.image.types:
            kept = (made.image.instances == number) & (made.origin != 2)
            assert (classes[kept] == made.image.types[number]).all()
        assert not classes[(made.image.instances == 0) & (made.origin != 2)].any()
        if here:
            with Image.open(out / "origin" / f"{name}.png") as origin:
                assert np.array_equal(np.array(origin), made.origin) and "inpainted" in origin.info["Description"]
            assert manifest["synthetic_images"][name]["file"] == name


@pytest.mark.parametrize("format", WRITABLE)
def test_the_same_arguments_give_the_same_bytes(work, exported, format, tmp_path):
    # Formats that keep times keep them in steps of up to two seconds.
    time.sleep(2.1 if format == "ome-zarr" else 0)
    again = write(work, tmp_path / "again", format=format, ignore_band=True)
    assert tree(again) == tree(exported(format))


@pytest.mark.parametrize("format", WRITABLE)
def test_the_dry_run_says_what_comes(work, exported, format, tmp_path):
    out = exported(format)
    plan = drain(plan_export(*work, tmp_path / "new", format=format, ignore_band=True))
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert size / 1.5 < plan.size < 1.5 * size
    assert plan.files == len(files)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert dict(plan.before) == manifest["counts"]["before"] and dict(plan.after) == manifest["counts"]["after"]
    assert (plan.images, plan.synthetic, plan.refusal) == (5, 4, "")
    assert plan.synthetic_images == len(manifest["synthetic_images"])
    assert list(tmp_path.iterdir()) == []


def test_the_dry_run_of_a_larger_dataset_is_near_the_truth(shared, tmp_path):
    """From six real images of nine, whose own files differ by a factor of two in size."""
    dataset = open_dataset(shared / "data" / "consep-train", mpp=0.25)
    dataset = replace(dataset, entries=dataset.entries[::3])
    changes = changes_of(LAY, dataset, 1)
    plan = drain(plan_export(dataset, changes, tmp_path / "new"))
    drain(export(dataset, changes, tmp_path / "new"))
    files = [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert size / 1.2 < plan.size < 1.2 * size
    assert plan.files == len(files)


def test_too_little_room_is_refused_with_both_numbers(work, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_histomix.study.export_plan.free_space", lambda _out: 123_456)
    plan = drain(plan_export(*work, tmp_path / "new"))
    assert bytes_text(plan.size) in plan.refusal and "123 kB are free" in plan.refusal


def test_the_dry_run_names_what_stays_out_and_what_is_lost(work, tmp_path):
    dataset, changes = work
    plan = drain(plan_export(dataset, changes, tmp_path / "new", {changes[0].id: "approve"}))
    assert plan.synthetic == 1 and "3 synthetic nuclei are still undecided" in " ".join(plan.left_out)
    assert plan.losses == ()
    plan = drain(plan_export(dataset, changes, tmp_path / "new", format="pannuke"))
    assert "lymphocyte as inflammatory" in " ".join(plan.losses)
    assert plan.left_out == ("Nobody reviewed the synthetic nuclei; the manifest says so.",)


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ("hovernet-json", "outlines of 1 of 4 nuclei in the 1 image tried change"),
        ("yolo", "1 of 4 nuclei in the 1 image tried have holes"),
        ("aperio-xml", "1 of 4 nuclei in the 1 image tried have holes"),
        ("coco", ""),
    ],
)
def test_holes_are_counted_where_the_format_has_no_room_for_them(format, said, labeled_image, dataset_folder, tmp_path):
    image = labeled_image([(30, 30, 8, 8, 2), (90, 90, 7, 7, 1), (90, 30, 7, 7, 1)], name="holed", patient="p")
    image.instances[28:32, 28:32] = 0
    dataset = open_dataset(dataset_folder(tmp_path / "data", [image]))
    ones, sources = np.ones((5, 5), np.uint8), (SourceRef("target", "holed"),)
    pixels, labels = np.zeros((5, 5, 3), np.uint8), np.full((5, 5), 4, np.int32)
    change = Change(0, "holed", "holed", 58, 58, pixels, ones, labels, {4: 1}, (), None, "lay", 1, sources)
    plan = drain(plan_export(dataset, [change], tmp_path / "new", format=format))
    assert said in "".join(plan.losses) and bool(said) is bool(plan.losses)


@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("patience", [0, 1, 3, 8, 14])
def test_a_full_disk_leaves_nothing_behind(work, tmp_path, monkeypatch, format, patience):
    """The system refuses the n-th file that is opened to be written in the export's place."""
    out = tmp_path / "exports" / "new"
    out.parent.mkdir()
    left, opened = [patience], io.open

    def full(file, mode="r", *args, **named):
        if set(mode) & set("wax+") and str(out.parent) in str(file):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return opened(file, mode, *args, **named)

    monkeypatch.setattr(io, "open", full)
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(HistomixError, match="No space left"):
        write(work, out, format=format)
    assert list(out.parent.iterdir()) == []


def test_an_existing_folder_is_refused_in_every_format(work, tmp_path):
    for format in WRITABLE:
        with pytest.raises(HistomixError, match="already exists"):
            write(work, tmp_path, format=format)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused_with_the_known_ones(work, tmp_path):
    with pytest.raises(HistomixError, match="hovernet"):
        write(work, tmp_path / "new", format="pickle")


def test_a_killed_export_never_looks_complete(work, tmp_path, exported):
    program = """
import sys
from pathlib import Path
from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.dataset_writer import convert
from napari_histomix.records import drain
print("begun", flush=True)
for number in range(100):
    drain(convert(open_dataset(sys.argv[1]), Path(sys.argv[2]) / str(number), "hovernet"))
"""
    source = exported("hovernet")
    whole = None
    for wait in (0.02, 0.15, 0.4, 0.9):
        place = tmp_path / str(wait)
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(source), str(place)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begun\n"
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for folder in place.iterdir() if place.exists() else ():
            if folder.name.startswith("."):
                continue
            whole = whole or tree(folder)
            assert tree(folder) == whole


@pytest.fixture(scope="module")
def made(study_dataset):
    return changes_of(LAY, study_dataset, 6)


def test_a_change_of_another_split_is_refused_by_name(study_dataset, made, tmp_path):
    stranger = replace(made[0], sources=(made[0].target, replace(made[0].donor, image="test_9")))
    with pytest.raises(HistomixError, match="0 from test_9"):
        drain(export(study_dataset, [stranger, *made[1:]], tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_the_same_tissue_in_two_splits_is_refused(labeled_image, dataset_folder, made, study_images, tmp_path):
    copy = replace(study_images[0], source=replace(study_images[0].source, image="copy", split="test", patient="p8"))
    dataset = open_dataset(dataset_folder(tmp_path / "data", [*study_images[:3], copy]))
    with pytest.raises(HistomixError, match="copy"):
        drain(export(dataset, made, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["pixels", "labels"])
def test_an_image_that_changed_since_is_refused(study_images, dataset_folder, made, tmp_path, what):
    name = made[0].image
    image = next(one for one in study_images if one.source.image == name)
    if what == "pixels":
        image = LabeledImage(255 - image.pixels, image.instances, image.types, image.mpp, image.source)
    else:
        covered = image.instances.copy()
        covered[made[0].window][made[0].labels != KEEP] = 500
        image = LabeledImage(image.pixels, covered, {**image.types, 500: 2}, image.mpp, image.source)
    others = [one for one in study_images if one.source.image != name]
    dataset = open_dataset(dataset_folder(tmp_path / "data", [image, *others]))
    with pytest.raises(HistomixError, match="change"):
        drain(export(dataset, made, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("format", WRITABLE)
def test_a_dataset_is_converted_with_all_its_splits(study_dataset, tmp_path, format):
    if format in OWN_CLASSES:
        with pytest.raises(HistomixError, match="'rare' is none of"):
            drain(convert(study_dataset, tmp_path / "new", format))
        assert list(tmp_path.iterdir()) == []
        return
    done = drain(convert(study_dataset, tmp_path / "new", format))
    again = open_dataset(tmp_path / "new")
    assert done.images == 4 and done.skipped == {}
    assert {one.source.image: one.source.split for one in again.entries} == {
        one.source.image: one.source.split for one in study_dataset.entries
    }
    names = {one.number: one.name for one in study_dataset.classes}
    for entry in again.entries:
        image, result = study_dataset.read(entry.source.image), again.read(entry)
        by_name = Counter({again.class_name(number): count for number, count in result.counts().items()})
        assert by_name == Counter({names[number]: count for number, count in image.counts().items()})
        assert np.array_equal(result.pixels, image.pixels)


def test_what_is_synthetic_stays_so_when_it_is_converted_or_exported_again(exported, work, tmp_path):
    for step, format in enumerate(("tiff-pairs", "plain", "hovernet")):
        source = exported("hovernet") if not step else tmp_path / str(step - 1)
        drain(convert(open_dataset(source), tmp_path / str(step), format))
    with (tmp_path / "2" / "images.csv").open(newline="", encoding="utf-8") as stream:
        flagged = {row["image"] for row in csv.DictReader(stream) if row["synthetic"] == "yes"}
    assert flagged == {change.image for change in work[1]}
    for path in (tmp_path / "2" / "Images").iterdir():
        with Image.open(path) as image:
            assert (image.info.get("Description") == SYNTHETIC_NOTICE) is (path.stem in flagged)
    # Also where images.csv was lost, by what the images themselves say.
    (tmp_path / "0" / "images.csv").unlink()
    drain(convert(open_dataset(tmp_path / "0"), tmp_path / "again", "hovernet"))
    with (tmp_path / "again" / "images.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["image"] for row in csv.DictReader(stream) if row["synthetic"] == "yes"} == flagged


@pytest.mark.parametrize("format", WRITABLE)
def test_names_that_a_disk_refuses_are_replaced(labeled_image, tmp_path, format):
    first = labeled_image(3, name="a/b:c")
    second = replace(labeled_image(3, seed=1), source=replace(first.source, image="a-b-c"))
    classes = (NucleusClass(1, "epithelial", (255, 0, 0)), NucleusClass(2, "dead", (0, 255, 0)))
    (tmp_path / "out").mkdir()
    written = WrittenDataset(tmp_path / "out", "x", classes, format)
    assert [written.add(one, synthetic=False) for one in (first, second)] == ["a-b-c", "a-b-c-2"]
    written.finish()
    again = open_dataset(tmp_path / "out")
    assert [entry.source.image for entry in again.entries] == ["a-b-c", "a-b-c-2"]
    for entry, image in zip(again.entries, (first, second), strict=True):
        assert np.array_equal(again.read(entry).pixels, image.pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
