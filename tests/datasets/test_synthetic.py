"""Tests that what is synthetic in an exported dataset is known when it is opened again, in every format."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import SYNTHETIC_NOTICE, load_sample, open_any, open_dataset, survey, synthetic_notes
from napari_histomix.datasets.dataset import Mark, inner_pixels
from napari_histomix.datasets.dataset_writer import WrittenDataset, convert
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.datasets.formats.polygons import mask_text
from napari_histomix.evaluation.real_nuclei import find_real_nuclei
from napari_histomix.records import LabeledImage, Source, drain
from napari_histomix.sampling import nucleus_locations

NUCLEI_FORMATS = [name for name, format in FORMATS.items() if format.writes and format.holds == "nuclei"]
CHOSEN = 5


@pytest.fixture(scope="module")
def sample() -> tuple[tuple, list[LabeledImage]]:
    """Classes of the sample, and two images: of one, some nuclei are synthetic; of the other, none."""
    dataset = load_sample()
    first, second = (dataset.read(entry) for entry in dataset.entries[:2])
    ids = [number for number in np.unique(first.instances).tolist() if number]
    return dataset.classes, [replace(first, synthetic=frozenset(ids[3 :: len(ids) // CHOSEN])), second]


def write(sample, folder: Path, format: str) -> Path:
    classes, images = sample
    folder.mkdir()
    written = WrittenDataset(folder, "made", classes, format)
    for image in images:
        written.add(image, synthetic=bool(image.synthetic))
    written.finish()
    return folder


def masks(image: LabeledImage, ids: frozenset[int]) -> np.ndarray:
    return np.isin(image.instances, list(ids))


def agree(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / max(1, np.count_nonzero(one | other))


@pytest.mark.parametrize("format", NUCLEI_FORMATS)
def test_synthetic_nuclei_are_known_again(sample, tmp_path, format):
    first, second = sample[1]
    dataset = open_dataset(write(sample, tmp_path / "made", format))
    one, other = (dataset.read(image.source.image) for image in (first, second))
    assert len(one.synthetic) == len(first.synthetic)
    assert agree(masks(one, one.synthetic), masks(first, first.synthetic)) > 0.95
    assert not other.synthetic and [entry.synthetic for entry in dataset.entries] == [True, False]
    # None of them is a donor, or anything else that stands for a real nucleus.
    numbers = {kind.number for kind in dataset.classes}
    found = {place.instance for place in nucleus_locations(one, numbers, ())}
    assert found == set(np.unique(one.instances).tolist()) - {0} - one.synthetic
    counted = drain(survey(dataset))
    assert counted.synthetic_total.total() == len(first.synthetic)
    assert synthetic_notes(dataset, counted) == (
        f"Contains {len(first.synthetic)} synthetic nuclei among all {counted.total.total()}; they are never donors.",
    )


@pytest.mark.parametrize("format", ["hovernet", "coco", "qupath"])
def test_converting_keeps_what_is_synthetic(sample, tmp_path, format):
    first = sample[1][0]
    made = open_dataset(write(sample, tmp_path / "made", "plain"))
    drain(convert(made, tmp_path / "converted", format))
    again = open_dataset(tmp_path / "converted").read(first.source.image)
    assert agree(masks(again, again.synthetic), masks(first, first.synthetic)) > 0.95


def without_list(folder: Path) -> dict:
    """Take the list of synthetic nuclei out of dataset.json, as earlier exports have none."""
    described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    del described["synthetic"]
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return described


@pytest.mark.parametrize("format", ["plain", "hovernet", "coco", "qupath"])
def test_images_csv_says_it_where_the_images_lost_their_metadata(sample, tmp_path, format):
    folder = write(sample, tmp_path / "made", format)
    without_list(folder)
    for path in folder.rglob("*.png"):
        if Image.open(path).mode == "RGB":
            Image.fromarray(np.asarray(Image.open(path))).save(path)
    assert [entry.synthetic for entry in open_dataset(folder).entries] == [True, False]


@pytest.mark.parametrize("format", ["hovernet", "coco"])
@pytest.mark.parametrize("version", ["placements", "changes"])
def test_manifests_say_it_too(sample, tmp_path, format, version):
    first = sample[1][0]
    folder = write(sample, tmp_path / "made", format)
    without_list(folder)
    records = []
    for number, (row, col) in zip(sorted(first.synthetic), inner_pixels(first), strict=True):
        if version == "changes":
            added = {str(number): {"class": "any", "at": [row, col]}}
            records.append({"image": "source", "at": [row, col], "added": added})
            continue
        rows, cols = np.nonzero(first.instances == number)
        top, left = rows.min(), cols.min()
        mask = first.instances[top : rows.max() + 1, left : cols.max() + 1] == number
        changed = {"row": int(top), "col": int(left), **mask_text(mask)}
        records.append({"image": "source", "instance": number, "provenance": {"changed": changed}})
    manifest = {"notice": SYNTHETIC_NOTICE, "synthetic_images": {"source": {"file": first.source.image}}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {version: records}), encoding="utf-8")
    dataset = open_dataset(folder)
    image = dataset.read(first.source.image)
    assert len(image.synthetic) == len(first.synthetic)
    assert agree(masks(image, image.synthetic), masks(first, first.synthetic)) > 0.95


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        "no JSON",
        '{"notice": "something else", "placements": []}',
        json.dumps({"notice": SYNTHETIC_NOTICE, "placements": [{"image": "x"}, 3, None]}),
        json.dumps({"notice": SYNTHETIC_NOTICE, "changes": {"a": 1}, "synthetic_images": []}),
    ],
)
def test_where_nothing_lists_them_all_nuclei_of_a_synthetic_image_count(sample, tmp_path, manifest):
    first, second = sample[1]
    folder = write(sample, tmp_path / "made", "hovernet")
    without_list(folder)
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest, encoding="utf-8")
    dataset = open_dataset(folder)
    image = dataset.read(first.source.image)
    assert image.synthetic == frozenset(image.types) and not dataset.read(second.source.image).synthetic
    assert "Nothing lists the synthetic nuclei of 1 synthetic image;" in synthetic_notes(dataset)[0]


def test_a_damaged_record_counts_for_its_image_alone(sample, tmp_path):
    first = sample[1][0]
    folder = write(sample, tmp_path / "made", "hovernet")
    described = without_list(folder)
    described["synthetic"] = {first.source.image: [[1, "x"]], "other": [[1, 2]]}
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    image = open_dataset(folder).read(first.source.image)
    assert image.synthetic == frozenset(image.types)


def test_an_image_says_it_itself_where_no_table_does(sample, tmp_path):
    folder = write(sample, tmp_path / "made", "hovernet")
    (folder / "images.csv").unlink()
    without_list(folder)
    assert [entry.synthetic for entry in open_dataset(folder).entries] == [True, False]


def test_geojson_flags_each_synthetic_object_and_no_other(sample, tmp_path):
    first = sample[1][0]
    folder = write(sample, tmp_path / "made", "qupath")
    without_list(folder)
    image = open_dataset(folder).read(first.source.image)
    assert agree(masks(image, image.synthetic), masks(first, first.synthetic)) > 0.99
    features = json.loads((folder / "geojson" / f"{first.source.image}.geojson").read_text(encoding="utf-8"))[
        "features"
    ]
    flagged = [one["properties"] for one in features if one["properties"]["measurements"].get("Synthetic")]
    assert len(flagged) == len(first.synthetic)
    assert all(SYNTHETIC_NOTICE in one["metadata"].values() for one in flagged)
    # Before version 0.5, QuPath drops metadata.
    for one in features:
        one["properties"].pop("metadata", None)
    path = folder / "geojson" / f"{first.source.image}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    assert open_dataset(folder).read(first.source.image).synthetic == image.synthetic


def test_class_folders_know_their_synthetic_images(tmp_path):
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (12, 10, 3), dtype=np.uint8) for name in ("a", "b", "made")}
    (tmp_path / "a.jpg").write_bytes(b"")
    Image.fromarray(images["a"]).save(tmp_path / "a.jpg")
    folder = tmp_path / "out"
    folder.mkdir()
    written = WrittenDataset(folder, "tissue", (), "class-folders", ("tumor", "stroma"))
    names = []
    for name, kind in (("a", "tumor"), ("b", "stroma"), ("made", "tumor")):
        image = LabeledImage.of_kind(images[name], kind, 0.5, Source("tissue", name, "train", f"P {name}"))
        original = tmp_path / "a.jpg" if name == "a" else None
        names.append(written.add(image, synthetic=name == "made", original=original))
    written.finish()
    assert names == ["train/tumor/a.jpg", "train/stroma/b.png", "train/tumor/synthetic-made.png"]
    assert (folder / "train" / "tumor" / "a.jpg").read_bytes() == (tmp_path / "a.jpg").read_bytes()
    with (folder / "images.csv").open(newline="", encoding="utf-8") as stream:
        columns = ["image", "class", "patient", "slide", "split", "mpp", "synthetic"]
        assert next(csv.reader(stream)) == columns
    dataset = open_any(folder)
    assert {entry.source.image: entry.synthetic for entry in dataset.entries} == {
        "train/stroma/b": False,
        "train/tumor/a": False,
        "train/tumor/synthetic-made": True,
    }
    assert [entry.source.image for entry in dataset.real_training] == ["train/stroma/b", "train/tumor/a"]
    assert synthetic_notes(dataset) == ("Contains 1 synthetic image among all 3; it is never a donor.",)
    # Without the table, the image's own description says it.
    (folder / "images.csv").unlink()
    assert [entry.source.image for entry in open_any(folder).entries if entry.synthetic] == ["tumor/synthetic-made"]


def test_real_crops_show_no_synthetic_nucleus(sample):
    first = sample[1][0]
    dataset = load_sample()
    marks = {first.source.image: tuple(Mark.at(place) for place in inner_pixels(first))}
    dataset = replace(dataset, entries=(dataset.entry(first.source.image),), marks=marks)
    side = 48
    looked = drain(find_real_nuclei(dataset, {kind.number for kind in dataset.classes}, (), side))
    synthetic = masks(first, first.synthetic)
    nuclei = [place for places in looked.nuclei.values() for place in places]
    for place in nuclei:
        row, col = round(place.row), round(place.col)
        assert not synthetic[max(0, row - side) : row + side, max(0, col - side) : col + side].any()
    everything = drain(
        find_real_nuclei(replace(dataset, marks={}), {kind.number for kind in dataset.classes}, (), side)
    )
    assert len(nuclei) < sum(map(len, everything.nuclei.values()))
