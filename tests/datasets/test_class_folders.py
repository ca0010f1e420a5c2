"""Images with a class each: exported and converted as a folder for each split and, in it, one for each class."""

from __future__ import annotations

import csv
import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_methods import BLEND, FRESH, changes_of

from napari_histomix.compositing.composing import compose
from napari_histomix.datasets import SYNTHETIC_NOTICE, Dataset, open_any, open_tissue, read_mpp
from napari_histomix.datasets.dataset_writer import convert
from napari_histomix.datasets.writing import safe_name
from napari_histomix.records import Change, HistomixError, SourceRef, drain
from napari_histomix.study.export import export, format_for
from napari_histomix.study.export_plan import plan_export

SIZE = (9, 8)
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
def dataset(tmp_path) -> Dataset:
    return open_tissue(write_dataset(tmp_path / "data"))


def whole(number: int, name: str, kind: str, target: str, *donors: str) -> Change:
    pixels, origin = np.full((*SIZE, 3), 77, np.uint8), np.full(SIZE, 2, np.uint8)
    sources = (SourceRef("target", target), *(SourceRef("donor", donor) for donor in donors))
    return Change(number, target, name, 0, 0, pixels, origin, None, {}, (), {kind: 1.0}, "blend", 3, sources)


@pytest.fixture
def made() -> list[Change]:
    return [whole(0, "a/1", "tumor", "one/a", "two/a"), whole(1, "b 1", "normal", "b", "b")]


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "exports" / "augmented"


def write(dataset, changes, out, *more, **named):
    return drain(export(dataset, changes, out, *more, **named))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def nothing_left(out: Path) -> bool:
    return not out.parent.exists() or list(out.parent.iterdir()) == []


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_export_is_a_dataset_like_any_other(dataset, made, out):
    assert format_for(dataset) == "class-folders" and write(dataset, made, out) == out
    again = open_any(out)
    assert again.problems == () and again.kinds == dataset.kinds and again.name == "data, augmented"
    origin = {
        "train/tumor/a": "one/a",
        "train/tumor/two-a": "two/a",
        "train/normal/b": "b",
        "train/tumor/synthetic-a-1": "one/a",
        "train/normal/synthetic-b 1": "b",
    }
    assert {entry.source.image for entry in again.entries} == origin.keys()
    for name, image in origin.items():
        here, there = again.entry(name), dataset.entry(image)
        assert replace(here.source, image="", dataset="") == replace(there.source, image="", dataset="")
        assert here.kind == there.kind and here.mpp == 0.25 and here.synthetic is ("synthetic" in name)
        if here.synthetic:
            assert (again.read(here).pixels == 77).all()
        else:
            assert here.image.read_bytes() == there.image.read_bytes()


def test_what_is_synthetic_says_so(dataset, made, out):
    write(dataset, made, out)
    said = {row["image"]: row["synthetic"] for row in table(out / "images.csv")}
    for name, value in said.items():
        assert (value == "yes") is ("synthetic-" in name)
        with Image.open(out / name) as image:
            assert (image.info.get("Description") == SYNTHETIC_NOTICE) is (value == "yes")
    assert read_mpp(out / "train" / "tumor" / "synthetic-a-1.png") == pytest.approx(0.25, rel=0.01)
    described = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert described["notice"] == SYNTHETIC_NOTICE and described["format"] == "class-folders"
    with Image.open(out / "origin" / "train" / "tumor" / "synthetic-a-1.png") as image:
        assert image.mode == "L" and np.array_equal(image, made[0].origin)
    # A training loop that takes folders for classes finds the classes, and no origin maps.
    assert {path.name for path in (out / "train").iterdir()} == {"normal", "tumor"}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| tumor | 2 | 3 | +1 | 1 |" in card and "2 have pixels that no microscope saw" in card
    # What an earlier export made does not become real by being exported again.
    first = whole(0, "a/1", "tumor", "train/tumor/a", "train/tumor/two-a")
    write(open_any(out), [first], out.parent / "twice")
    twice = {row["image"] for row in table(out.parent / "twice" / "images.csv") if row["synthetic"] == "yes"}
    assert {Path(name).name for name in twice} == {"synthetic-a-1.png", "synthetic-b 1.png", "synthetic-a-1-2.png"}
    assert "| tumor | 3 | 4 | +1 | 2 |" in (out.parent / "twice" / "README.md").read_text(encoding="utf-8")


def test_the_manifest_tells_where_every_synthetic_image_comes_from(dataset, made, out):
    write(dataset, made, out, facts={"runs": []})
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == "class-folders" and manifest["notice"] == SYNTHETIC_NOTICE
    assert manifest["counts"] == {"before": {"normal": 1, "tumor": 2}, "after": {"normal": 2, "tumor": 3}}
    record = manifest["changes"][0]
    assert (record["image"], record["name"], record["class_shares"]) == ("one/a", "a/1", {"tumor": 1.0})
    assert [(source["role"], source["image"]) for source in record["sources"]] == [
        ("target", "one/a"),
        ("donor", "two/a"),
    ]
    assert manifest["synthetic_images"]["a/1"]["file"] == "train/tumor/synthetic-a-1"


def test_soft_labels_lie_in_a_table(dataset, out):
    changes = changes_of(BLEND, dataset, 3)
    write(dataset, changes, out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    again = open_any(out)
    rows = table(out / "class_shares.csv")
    for change in changes:
        file = manifest["synthetic_images"][change.name]["file"]
        shares = {row["class"]: float(row["share"]) for row in rows if row["image"] == file}
        assert shares == change.class_shares and len(shares) == 2
        assert again.entry(file).kind == max(shares, key=shares.get)
        expected = compose(dataset.read(change.image), [change]).image
        assert np.array_equal(again.read(file).pixels, expected.pixels)
    assert "Soft labels: 3 images are of several classes" in (out / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in (out / "train").iterdir()} == {"normal", "tumor"}


def test_new_images_of_a_class(dataset, out):
    fresh = changes_of(FRESH, dataset, 2)
    write(dataset, fresh, out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert sum(manifest["counts"]["after"].values()) == 5
    for change in fresh:
        entry = open_any(out).entry(manifest["synthetic_images"][change.name]["file"])
        giver = dataset.entry(change.sources[0].image)
        assert entry.kind == giver.kind and entry.source.patient == giver.source.patient and entry.mpp == 0.25


def test_the_dry_run_says_what_comes(dataset, out, tmp_path):
    changes = changes_of(BLEND, dataset, 3)
    plan = drain(plan_export(dataset, changes, out, {change.id: "approve" for change in changes[:2]}))
    assert not out.exists() and plan.unit == "images" and plan.losses == ()
    assert plan.left_out == ("1 synthetic image is still undecided and stays out.",)
    write(dataset, changes[:2], out, {change.id: "approve" for change in changes})
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert {"before": plan.before, "after": plan.after} == manifest["counts"]
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    # The chart of classes is most of so small an export.
    assert plan.files == len(files) and abs(plan.size - size) < 30_000
    assert (plan.images, plan.synthetic_images, plan.synthetic) == (5, 2, 2)


def test_names_that_a_disk_refuses_stay_classes(tmp_path, out):
    kinds = ["../x", "..\\x", "CON", "origin", "Images.csv", "T 1", "T  1 ", "…", "a\nb", "?", "é" * 300]
    rows = [(f"{number}.png", kind, "", "", "", 0.5) for number, kind in enumerate(kinds)]
    dataset = open_tissue(write_dataset(tmp_path / "data", rows))
    targets = {entry.kind: entry.source.image for entry in dataset.entries}
    changes = [whole(number, ".." * (number + 1), kind, image) for number, (kind, image) in enumerate(targets.items())]
    write(dataset, changes, out)
    again = open_any(out)
    assert again.problems == () and set(again.kinds) == {kind.strip() for kind in kinds}
    assert {len(again.of_kind(kind)) for kind in again.kinds} == {2}
    folders = [path.name for path in (out / "train").iterdir() if path.is_dir()]
    assert len({name.casefold() for name in folders}) == len(kinds)
    assert {"x", "x-2", "CON_", "origin", "Images.csv"} <= set(folders)


@pytest.mark.parametrize(
    ("text", "name"),
    [("", "image"), (" . ", "image"), (".a", "a"), ("lpt1.x", "lpt1_.x"), ("console", "console"), ("a:b\x00", "a-b-")],
)
def test_safe_names(text, name):
    assert safe_name(text) == name


def test_every_split_is_converted_into_a_folder_of_its_own(dataset, tmp_path):
    drain(convert(dataset, tmp_path / "new", "class-folders"))
    again = open_any(tmp_path / "new")
    train = dict.fromkeys(("train/tumor/a", "train/tumor/two-a", "train/normal/b"), "train")
    splits = {**train, "test/normal/c": "test"}
    assert {entry.source.image: entry.source.split for entry in again.entries} == splits
    (tmp_path / "new" / "images.csv").unlink()
    assert {entry.source.split for entry in open_any(tmp_path / "new").entries} == {"train", "test"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_shares": {"other": 1.0}}, "of the class 'other', which data does not have; its classes are normal"),
        ({"image": "c"}, "1 in c"),
        ({"sources": (SourceRef("target", "b"), SourceRef("donor", "c"))}, "1 from c"),
        ({"sources": (SourceRef("target", "b"), SourceRef("reference", "c"))}, "1 from c"),
        ({"pixels": np.zeros(SIZE, np.uint8)}, "does not fit into b"),
        ({"pixels": np.zeros((*SIZE, 3))}, "does not fit into b"),
        ({"origin": np.zeros((3, 3), np.uint8)}, "does not fit into b"),
    ],
)
def test_what_does_not_fit_is_refused(dataset, made, out, change, words):
    with pytest.raises(HistomixError, match=words):
        write(dataset, [made[0], replace(made[1], **change)], out)
    assert nothing_left(out)


def test_formats_of_nuclei_are_refused_in_words(dataset, made, out):
    with pytest.raises(HistomixError, match="only the format class-folders holds them"):
        write(dataset, made, out, format="coco")
    with pytest.raises(HistomixError, match="ignore band"):
        write(dataset, made, out, ignore_band=True)
    assert nothing_left(out)


def test_nothing_synthetic_is_no_export(dataset, out):
    with pytest.raises(HistomixError, match="approve some first"):
        write(dataset, [], out)
    assert nothing_left(out)


def test_patients_on_two_sides_of_the_split_are_refused(tmp_path, made, out):
    dataset = open_tissue(write_dataset(tmp_path / "data", [*ROWS, ("leak.png", "tumor", "P1", "", "val", "")]))
    with pytest.raises(HistomixError, match=r"shares patients with another split: P1 \("):
        write(dataset, made, out)
    assert nothing_left(out)


def test_the_same_arguments_give_the_same_bytes(dataset, made, tmp_path):
    for name in ("a", "b"):
        write(dataset, made, tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") and len(tree(tmp_path / "a")) == 13
    assert (tmp_path / "a").stat().st_mode & 0o055 == 0o055


def test_a_bad_image_is_skipped_and_listed_unless_something_was_made_of_it(dataset, made, out):
    dataset.entry("two/a").image.write_bytes(b"no image")
    write(dataset, made, out)
    assert list(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["skipped_images"]) == ["two/a"]
    assert len(open_any(out).entries) == 4
    dataset.entry("b").image.unlink()
    with pytest.raises(HistomixError, match=r"b\.tif is no longer there"):
        write(dataset, made, out.parent / "other")
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("patience", range(0, 20, 3))
def test_a_full_disk_leaves_nothing_behind(dataset, made, out, monkeypatch, patience):
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
        write(dataset, made, out)
    except HistomixError as error:
        assert "No space left" in str(error)
        assert nothing_left(out)
    else:
        assert left[0] >= 0, "no failure may go unnoticed"
        assert (out / "manifest.json").is_file()


def test_tiles_of_slides_read_back(shared, out):
    dataset = open_tissue(shared / "data" / "atlas-tiles" / "half", mpp=0.5)
    few = replace(dataset, entries=dataset.entries[::80])
    write(few, changes_of(BLEND, few, 1), out)
    again = open_any(out)
    assert again.kinds == dataset.kinds and not again.problems
    real = [entry.source.image for entry in again.entries if not entry.synthetic]
    assert sorted(f"train/{entry.source.image}" for entry in few.entries) == sorted(real)
    for entry in few.entries:
        assert np.array_equal(again.read(f"train/{entry.source.image}").pixels, few.read(entry).pixels)
