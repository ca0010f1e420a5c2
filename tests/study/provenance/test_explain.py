"""Explain: every pixel of an exported image is traced to where it came from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mix_samples import make_mix_study
from napari_histomix.datasets.class_folders import export_tissue
from PIL import Image

from napari_histomix.compositing.replacement import Pose
from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset, open_tissue
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.methods.nucleimix import SynthesisSettings, synthesize
from napari_histomix.methods.usegmix import Exchange, MixPlan, MixSettings, make_mix, plan_one
from napari_histomix.records import HistomixError, drain
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study.export import export
from napari_histomix.study.provenance.explain import Explanation, explain
from napari_histomix.study.provenance.recorded import read_manifest
from napari_histomix.study.provenance.replay import replay


@pytest.fixture(scope="module")
def placed(study_dataset, found, small_model_folder):
    """Placements whose donors keep their own colors."""
    settings = SynthesisSettings(count=6, device="cpu", stain_matching=False)
    made = drain(synthesize(study_dataset, found.candidates, settings, load_model(small_model_folder)))
    return made.placements


@pytest.fixture(scope="module")
def exported(study_dataset, placed, tmp_path_factory) -> Path:
    decisions = {one.candidate.rank: "approve" for one in placed}
    review = {"decided_by": "Dr. Ada", "decided": "2026-01-02T03:04:05+00:00"}
    reviews = dict.fromkeys(decisions, review)
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
            (one,) = (one for one in placed if one.candidate.rank == point["placement"])
            assert (one.candidate.target.image, one.candidate.donor.image) == (image.name, point["image"])
            assert one.candidate.donor.instance == point["donor_instance"] and point["instance"] == one.instance
            nucleus = bool(one.nucleus[y - one.row, x - one.col])
            assert (there.instances[point["y"], point["x"]] == point["donor_instance"]) == nucleus
            assert point["patient"] == there.source.patient and point["class"] == "rare"
            assert (point["decision"], point["decided_by"]) == ("approve", "Dr. Ada")
            seen += 1
    assert seen > 300 and len({(one.provenance["quarter_turns"], one.provenance["mirrored"]) for one in placed}) > 3


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
            (one,) = (one for one in placed if one.candidate.rank == point["placement"])
            assert one.origin[y - one.row, x - one.col] == 2
            assert point["origin"] == "inpainted" and point["model"] == "small" and "image" not in point


def test_a_donor_of_another_scale_is_traced_to_fractions_of_a_pixel(
    labeled_image, location, dataset_folder, small_model_folder, tmp_path
):
    from napari_histomix.records import Candidate

    near = labeled_image([(60, 60, 5, 7, 1)], name="near", patient="a", mpp=0.25)
    far = labeled_image([(60, 60, 9, 9, 2)], name="far", patient="b", mpp=0.5, seed=3)
    dataset = open_dataset(dataset_folder(tmp_path / "data", [near, far]))
    some = [Candidate(0, location(far, row=100, col=100), location(near, 1), 0.0, 50.0)]
    settings = SynthesisSettings(count=1, device="cpu", stain_matching=False)
    made = drain(synthesize(dataset, some, settings, load_model(small_model_folder)))
    (one,) = made.placements
    assert one.provenance["scale"] == 0.5
    drain(export(dataset, made.placements, tmp_path / "out"))
    found = image_of(tmp_path / "out", "far")
    rows, cols = np.nonzero(near.instances == 1)
    places = [found.at(x, y) for x, y in points(found.origin, 1)]
    nuclear = [found.at(one.col + int(col), one.row + int(row)) for row, col in np.argwhere(one.nucleus)]
    inside = [place for place in nuclear if near.instances[round(place["y"]), round(place["x"])] == 1]
    assert len(inside) > 0.9 * len(nuclear)
    assert np.mean([place["y"] for place in places]) == pytest.approx(rows.mean(), abs=0.6)
    assert np.mean([place["x"] for place in places]) == pytest.approx(cols.mean(), abs=0.6)


def test_the_whole_image(exported, placed):
    name = read_manifest(exported).images[0].name
    found = image_of(exported, name)
    here = [one for one in placed if one.candidate.target.image == name]
    assert found.kind == "synthetic" and found.facts["made"] == len(here)
    donor = sum(int((one.origin == 1).sum()) for one in here) / found.origin.size
    assert found.facts["shares"]["donor"] == pytest.approx(donor) and sum(found.facts["shares"].values()) == 1
    assert found.facts["decisions"] == {"approve": len(here)} and found.facts["decided_by"] == ["Dr. Ada"]
    assert found.facts["models"][0]["name"] == "small" and found.facts["source"]["image"] == name
    assert explain(name, exported / "manifest.json").facts == found.facts, "by its name, too"
    for x, y in ((-1, 0), (0, found.origin.shape[0])):
        with pytest.raises(HistomixError, match="lies outside"):
            found.at(x, y)


def test_what_is_no_synthetic_image_of_an_export(study_dataset, placed, tmp_path):
    some = [one for one in placed if one.candidate.target.image == placed[0].candidate.target.image]
    exported = drain(export(study_dataset, some, tmp_path / "deep" / "out"))
    synthetic = {one.file for one in read_manifest(exported).images}
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
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del content["placements"][0]["provenance"]["changed"]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(HistomixError, match="earlier version"):
        image_of(folder, image.file)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory, small_model_folder) -> Path:
    """An export of two tissue images: one whose donor was only moved, and one whose donor was turned and enlarged."""
    root = tmp_path_factory.mktemp("tissue")
    study = make_mix_study(root / "study")
    dataset, pool = open_tissue(root / "tissue"), SegmentPool(study.folder)
    moved = Pose(((1.0, 0.0, 12.0), (0.0, 1.0, 9.0)), 1.0, 0.0, False)
    plans = [
        MixPlan("moved", "grade 2", pool.images[0].source.image, 1, (Exchange(0, 4, 0.5, moved),)),
        replace(plan_one(pool, 1, 3, 0.5, seed=2), name="turned"),
    ]
    settings, model = MixSettings(device="cpu", stain_matching=False), load_model(small_model_folder)
    mixes = [drain(make_mix(dataset, pool, plan, settings, model)) for plan in plans]
    decisions = {"moved": {"decision": "approve", "decided_by": "Dr. Ada", "decided": "2026-01-02T03:04:05+00:00"}}
    return drain(export_tissue(dataset, mixes, root / "out", {"decisions": decisions}))


def test_a_moved_segments_pixels_are_found_where_they_lay(tissue):
    manifest = read_manifest(tissue)
    dataset = open_tissue(tissue.parent / "tissue")
    found = explain(tissue / manifest.images[0].file)
    pixels = np.array(Image.open(tissue / manifest.images[0].file))
    places = points(found.origin, 1)
    assert len(places) > 100
    for x, y in places[::7]:
        point = found.at(x, y)
        there = dataset.read(point["image"]).pixels
        assert np.array_equal(there[int(point["y"]), int(point["x"])], pixels[y, x])
        assert point["replacement"] == 0 and point["segment"] == 4 and point["decision"] == "approve"
    for value in (0, 2):
        x, y = points(found.origin, value)[5]
        assert found.at(x, y)["origin"] == ("real", "", "inpainted")[value]
    assert found.facts["decisions"] == {"approve": 1} and found.facts["made"] == 1
    real = explain(tissue / "grade 3" / "four.png")
    assert real.kind == "real"


def test_a_turned_segments_pixels_are_found_between_pixels(tissue):
    manifest = read_manifest(tissue)
    dataset = open_tissue(tissue.parent / "tissue")
    found = explain("turned", tissue / "manifest.json")
    pixels = np.array(Image.open(tissue / manifest.images[1].file)).astype(float)
    places = points(found.origin, 1)[::11]
    traced = [found.at(x, y) for x, y in places]
    donor = dataset.read(traced[0]["image"]).pixels
    xs, ys = (np.array([[one[axis] for one in traced]], np.float32) for axis in "xy")
    expected = cv2.remap(donor, xs, ys, cv2.INTER_CUBIC)[0].astype(float)
    got = np.array([pixels[y, x] for x, y in places])
    assert len(places) > 20 and np.abs(expected - got).mean() < 4
    elsewhere = cv2.remap(donor, xs + 3, ys, cv2.INTER_CUBIC)[0].astype(float)
    assert np.abs(elsewhere - got).mean() > 2 * np.abs(expected - got).mean(), "three pixels off would show"


def test_a_flag_in_a_tiff_is_seen(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint8), description=SYNTHETIC_NOTICE)
    assert explain(tmp_path / "a.tif").kind == "flagged"


def test_a_file_of_many_images_is_explained_by_name(study_dataset, placed, small_model_folder, tmp_path):
    named = ("neoplastic", "inflammatory", "connective")  # PanNuke has classes of its own
    classes = tuple(replace(one, name=name) for one, name in zip(study_dataset.classes, named, strict=True))
    dataset = replace(study_dataset, classes=classes)
    out = drain(export(dataset, placed, tmp_path / "out", format="pannuke"))
    (file,) = out.rglob("images.npy")
    with pytest.raises(HistomixError, match=r"holds \d+ images; give the name of one"):
        explain(file)
    name = read_manifest(out).images[0].name
    assert {one.outcome for one in drain(replay(out, dataset, [small_model_folder])).compared} == {"identical"}
    found = explain(name, out / "manifest.json")
    x, y = points(found.origin, 1)[0]
    assert found.kind == "synthetic" and found.at(x, y)["origin"] == "donor"
