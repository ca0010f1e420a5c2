"""Explain: every pixel of an exported image is traced to where it came from."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_changes import tissue_of_sample
from toy_methods import BLEND, FRESH, LAY, changes_of

from napari_histomix.datasets import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError, drain
from napari_histomix.study.explain import Explanation, explain
from napari_histomix.study.export import export
from napari_histomix.study.manifest import read_manifest
from napari_histomix.study.replay import replay

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def placed(study_dataset):
    """Changes whose donors keep their own colors."""
    return changes_of(LAY, study_dataset, 6)


@pytest.fixture(scope="module")
def exported(study_dataset, placed, tmp_path_factory) -> Path:
    decisions = {change.id: "approve" for change in placed}
    reviews = {number: {"decided_by": "Dr. Ada", "decided": "2026-01-02T03:04:05+00:00"} for number in decisions}
    out = tmp_path_factory.mktemp("explain") / "out"
    return drain(export(study_dataset, placed, out, decisions, reviews=reviews))


def image_of(export: Path, name: str) -> Explanation:
    return explain(export / "Images" / f"{name}.png")


def points(origin: np.ndarray, value: int) -> list[tuple[int, int]]:
    """Columns and rows of all pixels of an origin."""
    return [(int(col), int(row)) for row, col in np.argwhere(origin == value)]


def test_a_donors_pixels_are_found_where_they_lay(study_dataset, placed, exported):
    seen = 0
    for image in read_manifest(exported).images:
        found = image_of(exported, image.name)
        pixels = np.array(Image.open(exported / "Images" / f"{image.file}.png"))
        for x, y in points(found.origin, 1):
            point = found.at(x, y)
            there = study_dataset.read(point["image"])
            assert np.array_equal(there.pixels[point["y"], point["x"]], pixels[y, x])
            (change,) = (change for change in placed if change.id == point["change"])
            assert (change.image, change.donor.image) == (image.name, point["image"])
            assert change.donor.item == point["donor_instance"] and point["instance"] in change.added
            assert there.instances[point["y"], point["x"]] == point["donor_instance"]
            assert point["patient"] == there.source.patient and point["class"] == "rare"
            assert (point["decision"], point["decided_by"]) == ("approve", "Dr. Ada")
            seen += 1
    assert seen > 200


def test_real_and_inpainted_pixels_say_so(study_dataset, placed, exported):
    for image in read_manifest(exported).images:
        found = image_of(exported, image.name)
        target = study_dataset.read(image.name)
        pixels = np.array(Image.open(exported / "Images" / f"{image.file}.png"))
        for x, y in points(found.origin, 0)[::500]:
            point = found.at(x, y)
            assert (point["origin"], point["image"], point["x"], point["y"]) == ("real", image.name, x, y)
            assert np.array_equal(target.pixels[point["y"], point["x"]], pixels[y, x])
        for x, y in points(found.origin, 2):
            point = found.at(x, y)
            (change,) = (change for change in placed if change.id == point["change"])
            assert change.origin[y - change.row, x - change.col] == 2
            assert point["origin"] == "inpainted" and point["model"] == "gray" and "image" not in point


def test_the_whole_image(exported, placed):
    name = read_manifest(exported).images[0].name
    found = image_of(exported, name)
    here = [change for change in placed if change.image == name]
    assert found.kind == "synthetic" and found.facts["made"] == len(here)
    donor = sum(int((change.origin == 1).sum()) for change in here) / found.origin.size
    assert found.facts["shares"]["donor"] == pytest.approx(donor) and sum(found.facts["shares"].values()) == 1
    assert found.facts["decisions"] == {"approve": len(here)} and found.facts["decided_by"] == ["Dr. Ada"]
    assert found.facts["models"] == [] and found.facts["methods"] == ["Lay"] and found.facts["source"]["image"] == name
    assert explain(name, exported / "manifest.json").facts == found.facts, "by its name, too"
    for x, y in ((-1, 0), (0, found.origin.shape[0])):
        with pytest.raises(HistomixError, match="lies outside"):
            found.at(x, y)


def test_what_is_no_synthetic_image_of_an_export(study_dataset, placed, tmp_path):
    some = [change for change in placed if change.image == placed[0].image]
    exported = drain(export(study_dataset, some, tmp_path / "deep" / "out"))
    synthetic = {image.file for image in read_manifest(exported).images}
    bare = next(path for path in sorted((exported / "Images").iterdir()) if path.stem not in synthetic)
    real = explain(bare)
    assert real.kind == "real" and "nothing was placed in it" in real.sentence
    with pytest.raises(HistomixError, match="synthetic images of an export alone"):
        real.at(0, 0)
    alone = shutil.copy(exported / "Images" / f"{min(synthetic)}.png", tmp_path / "alone.png")
    assert explain(alone).kind == "flagged" and "no manifest" in explain(alone).sentence
    shutil.copy(bare, tmp_path / "bare.png")
    assert explain(tmp_path / "bare.png").kind == "unknown"
    with pytest.raises(HistomixError, match="no image of the export"):
        explain(exported / "class_counts.png")
    with pytest.raises(HistomixError, match="is not there"):
        explain(tmp_path / "nowhere.png")
    # A manifest of another program.
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    assert explain(alone).kind == "flagged"


def test_an_export_without_its_origin_maps_or_of_an_earlier_version_is_one_sentence(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "out"))
    image = read_manifest(folder).images[0]
    (folder / "origin" / f"{image.file}.png").unlink()
    with pytest.raises(HistomixError, match=f"{image.file}.png"):
        image_of(folder, image.file)
    content = json.loads((GOLDEN / "version-3-nuclei-manifest.json").read_text(encoding="utf-8"))
    del content["placements"][0]["provenance"]["changed"]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(HistomixError, match="earlier version"):
        image_of(folder, image.file)


def test_a_flag_in_a_tiff_is_seen(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint8), description=SYNTHETIC_NOTICE)
    assert explain(tmp_path / "a.tif").kind == "flagged"


def test_a_file_of_many_images_is_explained_by_name(study_dataset, placed, tmp_path):
    named = ("neoplastic", "inflammatory", "connective")  # PanNuke has classes of its own
    classes = tuple(replace(known, name=name) for known, name in zip(study_dataset.classes, named, strict=True))
    dataset = replace(study_dataset, classes=classes)
    out = drain(export(dataset, placed, tmp_path / "out", format="pannuke"))
    (file,) = out.rglob("images.npy")
    with pytest.raises(HistomixError, match=r"holds \d+ images; give the name of one"):
        explain(file)
    name = read_manifest(out).images[0].name
    assert {each.outcome for each in drain(replay(out, dataset)).compared} == {"identical"}
    found = explain(name, out / "manifest.json")
    x, y = points(found.origin, 1)[0]
    assert found.kind == "synthetic" and found.at(x, y)["origin"] == "donor"


def test_patches_that_overlap_are_told_apart_by_their_changed_pixels(study_dataset, placed, tmp_path):
    first = placed[0]
    # Its patch lies over that of the first one; their changed pixels do not meet.
    rows, cols = np.nonzero(first.origin == 0)
    origin = np.zeros_like(first.origin)
    origin[rows[0], cols[0]] = 2
    other = replace(first, id=99, origin=origin, labels=None, added={}, removed=())
    out = drain(export(study_dataset, [other, first], tmp_path / "out"))
    found = image_of(out, first.image)
    assert found.at(first.col + int(cols[0]), first.row + int(rows[0]))["change"] == 99
    rows, cols = np.nonzero(first.origin)
    assert found.at(first.col + int(cols[0]), first.row + int(rows[0]))["change"] == first.id


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> Path:
    """An export of derived and of new images with a class each. Never write into it."""
    root = tmp_path_factory.mktemp("tissue")
    dataset = tissue_of_sample(root / "tissue", ["kind 0", "kind 1"] * 2)
    changes = [*changes_of(BLEND, dataset, 1), *changes_of(FRESH, dataset, 1, first=1)]
    return drain(export(dataset, changes, root / "out", {0: "approve", 1: "approve"}))


def test_derived_and_new_images(tissue):
    derived, fresh = read_manifest(tissue).images
    found = explain(tissue / f"{derived.file}.png")
    assert found.kind == "synthetic" and found.facts["decisions"] == {"approve": 1}
    real = found.at(0, 0)
    assert (real["origin"], real["image"]) == ("real", derived.records[0].image)
    assert found.at(63, 5)["change"] == 0 and found.at(63, 5)["origin"] == "donor"
    found = explain(fresh.name, tissue / "manifest.json")
    assert found.at(3, 4) | {"change": 1, "method": "fresh", "origin": "inpainted"} == found.at(3, 4)
    assert found.facts["source"] == {"image": "", "patient": "", "slide": ""}
    assert explain(next((tissue / "train" / "kind 0").glob("0.png"))).kind == "real"


def test_the_origin_maps_of_earlier_versions_are_read_from_their_archive(tmp_path):
    shutil.copy(GOLDEN / "version-3-tissue-manifest.json", tmp_path / "manifest.json")
    manifest = read_manifest(tmp_path)
    origin = np.zeros((160, 160), np.uint8)
    with zipfile.ZipFile(tmp_path / "origins.zip", "w") as maps:
        for image in manifest.images:
            (tmp_path / image.file).parent.mkdir(exist_ok=True)
            Image.fromarray(np.zeros((160, 160, 3), np.uint8)).save(tmp_path / f"{image.file}.png")
            stream = io.BytesIO()
            Image.fromarray(origin).save(stream, "PNG")
            maps.writestr(f"{image.file}.png", stream.getvalue())
    (tmp_path / "dataset.json").write_text('{"mpp": 0.5}')
    found = explain(tmp_path / f"{manifest.images[1].file}.png")
    assert found.kind == "synthetic" and found.at(3, 4)["origin"] == "real"
    assert found.facts["decided_by"] == ["Bob"] and found.facts["methods"] == ["USegMix"]
    (tmp_path / "origins.zip").write_bytes(b"no archive")
    with pytest.raises(HistomixError, match=r"has no origin map"):
        explain(tmp_path / f"{manifest.images[1].file}.png")
