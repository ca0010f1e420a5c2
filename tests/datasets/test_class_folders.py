from __future__ import annotations

import csv
import errno
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from napari_histomix.datasets.class_folders import export_tissue
from PIL import Image

from napari_histomix.datasets import SYNTHETIC_NOTICE, read_mpp
from napari_histomix.datasets.opening import open_tissue
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.writing import safe_name
from napari_histomix.records import HistomixError, MixedImage, drain

SIZE = (9, 8)


def mix(name: str, kind: str, target: str, donors: list, **more) -> MixedImage:
    pixels, origin = np.full((*SIZE, 3), 77, np.uint8), np.eye(*SIZE, dtype=np.uint8) * 2
    return MixedImage(name, kind, target, pixels, origin, 3, {"donors": donors, **more})


ROWS = (
    # image, class, patient, slide, split, mpp
    ("one/a.png", "tumor", "P1", "S1", "train", 0.25),
    ("two/a.jpg", "tumor", "P2", "S2", "train", 0.25),
    ("b.tif", "normal", "P3", "", "train", 0.25),
    ("c.png", "normal", "P4", "", "test", 0.25),
)


def write_dataset(folder: Path, rows=ROWS) -> Path:
    rng = np.random.default_rng(0)
    for name, *_ in rows:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image", "class", "patient", "slide", "split", "mpp"), *rows])
    return folder


@pytest.fixture
def dataset(tmp_path):
    return open_tissue(write_dataset(tmp_path / "data"))


@pytest.fixture
def mixed() -> list[MixedImage]:
    return [
        mix("a/1", "tumor", "one/a", ["two/a", "two/a"], sampler="ddim"),
        mix("b 1", "normal", "b", [{"image": "b", "segment": 4}]),
    ]


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "exports" / "augmented"


def write(dataset, mixed, out, manifest=None):
    return drain(export_tissue(dataset, mixed, out, manifest or {}))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def nothing_left(out: Path) -> bool:
    return not out.parent.exists() or list(out.parent.iterdir()) == []


def test_the_export_is_a_dataset_like_any_other(dataset, mixed, out):
    assert write(dataset, mixed, out) == out
    again = open_tissue(out)
    assert again.problems == () and again.kinds == dataset.kinds and again.name == "data, augmented"
    origin = {
        "tumor/a": "one/a",
        "tumor/two-a": "two/a",
        "normal/b": "b",
        "tumor/synthetic-a-1": "one/a",
        "normal/synthetic-b 1": "b",
    }
    assert {entry.source.image for entry in again.entries} == origin.keys()
    for name, image in origin.items():
        here, there = again.entry(name), dataset.entry(image)
        assert (here.source.patient, here.source.slide, here.source.split) == (
            there.source.patient,
            there.source.slide,
            "train",
        )
        assert here.kind == there.kind and here.mpp == 0.25
        if "synthetic" in name:
            assert (again.read(here).pixels == 77).all()
        else:
            assert here.image.read_bytes() == there.image.read_bytes()


def test_what_is_synthetic_says_so(dataset, mixed, out):
    write(dataset, mixed, out)
    with (out / "images.csv").open(newline="", encoding="utf-8") as stream:
        said = {row["image"]: row["synthetic"] for row in csv.DictReader(stream)}
    for name, value in said.items():
        assert (value == "yes") is ("synthetic-" in name)
        with Image.open(out / name) as image:
            assert (image.info.get("Description") == SYNTHETIC_NOTICE) is (value == "yes")
    assert read_mpp(out / "tumor" / "synthetic-a-1.png") == pytest.approx(0.25, rel=0.01)
    described = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert described == {"name": "data, augmented", "mpp": 0.25, "notice": SYNTHETIC_NOTICE}
    with zipfile.ZipFile(out / "origins.zip") as maps:
        assert set(maps.namelist()) == {name for name, value in said.items() if value == "yes"}
        with maps.open("tumor/synthetic-a-1.png") as file, Image.open(file) as image:
            assert image.mode == "L" and np.array_equal(image, mixed[0].origin)
    # A training loop that takes folders for classes finds the classes.
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"normal", "tumor"}
    # What an earlier export made does not become real by being exported again.
    again = [mix("a/1", "tumor", "tumor/a", ["tumor/synthetic-a-1"])]
    write(open_tissue(out), again, out.parent / "twice")
    with (out.parent / "twice" / "images.csv").open(newline="", encoding="utf-8") as stream:
        twice = {row["image"] for row in csv.DictReader(stream) if row["synthetic"] == "yes"}
    assert twice == {"tumor/synthetic-a-1.png", "normal/synthetic-b 1.png", "tumor/synthetic-a-1-2.png"}


def test_the_manifest_tells_where_every_synthetic_image_comes_from(dataset, mixed, out):
    write(dataset, mixed, out, {"settings": {"ratio": 0.3}})
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"] == {"ratio": 0.3} and manifest["notice"] == SYNTHETIC_NOTICE
    assert manifest["counts"] == {"before": {"normal": 1, "tumor": 2}, "after": {"normal": 2, "tumor": 3}}
    assert manifest["synthetic"][0] == {
        "file": "tumor/synthetic-a-1.png",
        "name": "a/1",
        "class": "tumor",
        "sha256": pixels_sha256(mixed[0].pixels),
        "sources": {
            "target": {"image": "one/a", "patient": "P1", "slide": "S1"},
            "donors": [{"image": "two/a", "patient": "P2", "slide": "S2"}],
        },
        "changed_pixels": 8,
        "seed": 3,
        "provenance": {"donors": ["two/a", "two/a"], "sampler": "ddim"},
    }
    assert [donor["patient"] for donor in manifest["synthetic"][1]["sources"]["donors"]] == ["P3"]


def test_names_that_a_disk_refuses_stay_classes(tmp_path, out):
    kinds = ["../x", "..\\x", "CON", "origin", "Images.csv", "T 1", "T  1 ", "…", "a\nb", "?", "é" * 300]
    rows = [(f"{number}.png", kind, "", "", "", 0.5) for number, kind in enumerate(kinds)]
    dataset = open_tissue(write_dataset(tmp_path / "data", rows))
    targets = {entry.kind: entry.source.image for entry in dataset.entries}
    mixed = [mix("..", kind, image, []) for kind, image in targets.items()]
    write(dataset, mixed, out)
    again = open_tissue(out)
    assert again.problems == () and set(again.kinds) == {kind.strip() for kind in kinds}
    assert {len(again.of_kind(kind)) for kind in again.kinds} == {2}
    folders = [path.name for path in out.iterdir() if path.is_dir()]
    assert len({name.casefold() for name in folders}) == len(kinds)
    assert {"x", "x-2", "CON_", "origin", "Images.csv-2"} <= set(folders)
    assert {path.parent for path in tmp_path.rglob("*.png")} == {
        tmp_path / "data",
        *(out / name for name in folders),
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [("", "image"), (" . ", "image"), (".a", "a"), ("lpt1.x", "lpt1_.x"), ("console", "console"), ("a:b\x00", "a-b-")],
)
def test_safe_names(text, name):
    assert safe_name(text) == name


def test_a_class_folder_dataset_keeps_its_names(tmp_path, out):
    for name in ("Train/tumor/1.png", "Train/normal/1.png", "Test/tumor/1.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(tmp_path / "data" / name)
    dataset = open_tissue(tmp_path / "data", mpp=0.5)
    write(dataset, [mix("1", "tumor", "tumor/1", [])], out)
    again = open_tissue(out)
    assert [entry.source.image for entry in again.entries] == ["normal/1", "tumor/1", "tumor/synthetic-1"]
    assert [entry.synthetic for entry in again.entries] == [False, False, True]
    assert [entry.source.image for entry in again.real_training] == ["normal/1", "tumor/1"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "other"}, "of the class 'other', which data does not have; its classes are normal, tumor"),
        ({"target": "c"}, "its target 'c' is not in the training split"),
        ({"provenance": {"donors": ["b", "c"]}}, "its donor 'c' is not in the training split"),
        ({"provenance": {"donors": [{"image": "c"}]}}, "its donor 'c' is not in the training split"),
        ({"provenance": {}}, "does not list its donors"),
        ({"pixels": np.zeros(SIZE, np.uint8)}, "pixels must be"),
        ({"pixels": np.zeros((*SIZE, 3))}, "pixels must be"),
        ({"origin": np.zeros((3, 3), np.uint8)}, "origin map must be"),
    ],
)
def test_what_does_not_fit_is_refused(dataset, mixed, out, change, words):
    with pytest.raises(HistomixError, match=words):
        write(dataset, [mixed[0], replace(mixed[1], **change)], out)
    assert nothing_left(out)


def test_nothing_synthetic_is_no_export(dataset, out):
    with pytest.raises(HistomixError, match="no synthetic image"):
        write(dataset, [], out)
    assert nothing_left(out)


def test_patients_on_two_sides_of_the_split_are_refused(tmp_path, mixed, out):
    dataset = open_tissue(write_dataset(tmp_path / "data", [*ROWS, ("leak.png", "tumor", "P1", "", "val", "")]))
    with pytest.raises(HistomixError, match=r"shares patients with another split: P1 \("):
        write(dataset, mixed, out)
    assert nothing_left(out)


def test_the_same_arguments_give_the_same_bytes(dataset, mixed, tmp_path):
    for name in ("a", "b"):
        write(dataset, mixed, tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") and len(tree(tmp_path / "a")) == 10
    assert (tmp_path / "a").stat().st_mode & 0o055 == 0o055


def test_a_bad_image_is_skipped_and_listed_unless_it_is_a_target(dataset, mixed, out):
    dataset.entry("two/a").image.write_bytes(b"no image")
    write(dataset, mixed, out)
    assert list(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["skipped_images"]) == ["two/a"]
    assert len(open_tissue(out).entries) == 4
    dataset.entry("b").image.unlink()
    with pytest.raises(HistomixError, match=r"b\.tif is no longer there"):
        write(dataset, mixed, out.parent / "other")
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("kind", ["folder", "full folder", "file"])
def test_an_existing_place_is_never_touched(dataset, mixed, out, kind, when):
    job = export_tissue(dataset, mixed, out, {})
    if when == "meanwhile":
        next(job)
    out.parent.mkdir(exist_ok=True)
    out.touch() if kind == "file" else out.mkdir()
    if kind == "full folder":
        (out / "mine").write_text("mine")
    with pytest.raises(HistomixError, match="already exists"):
        drain(job)
    assert list(out.parent.iterdir()) == [out] and out.is_file() is (kind == "file")
    assert tree(out) == ({"mine": b"mine"} if kind == "full folder" else {})


@pytest.mark.parametrize("patience", range(15))
def test_a_full_disk_leaves_nothing_behind(dataset, mixed, out, monkeypatch, patience):
    """The disk is full at the n-th file that is opened to be written."""
    left = [patience]
    path_open, save = Path.open, Image.Image.save

    def spend() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full_open(path, mode="r", *args, **named):
        if "w" in str(mode):
            spend()
        return path_open(path, mode, *args, **named)

    def full_save(image, *args, **named):
        spend()
        return save(image, *args, **named)

    monkeypatch.setattr(Path, "open", full_open)
    monkeypatch.setattr(Image.Image, "save", full_save)
    try:
        write(dataset, mixed, out)
    except HistomixError as error:
        assert "No space left" in str(error) and patience < 12
        assert nothing_left(out)
    else:
        assert patience >= 12, (
            "3 images, 2 synthetic ones with maps and 4 small files, one of them twice; no failure may go unnoticed"
        )
        assert (out / "manifest.json").is_file()


@pytest.mark.parametrize("steps", range(7))
def test_closing_midway_leaves_nothing_behind(dataset, mixed, out, steps):
    job = export_tissue(dataset, mixed, out, {})
    for _ in range(steps):
        next(job)
    job.close()
    assert nothing_left(out)


def test_tiles_of_slides_read_back(shared, out):
    dataset = open_tissue(shared / "data" / "atlas-tiles" / "half", mpp=0.5)
    few = replace(dataset, entries=dataset.entries[::80])
    names = [entry.source.image for entry in few.entries]
    pixels = few.read(names[0]).pixels
    mixed = mix("1", few.entries[0].kind, names[0], names[1:2])
    write(few, [replace(mixed, pixels=pixels, origin=pixels[..., 0] * 0)], out)
    again = open_tissue(out)
    assert again.kinds == dataset.kinds and not again.problems
    assert [entry.source.image for entry in again.entries if "/synthetic-" not in entry.source.image] == names
    for name in names:
        assert np.array_equal(again.read(name).pixels, few.read(name).pixels)
