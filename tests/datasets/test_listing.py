from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from napari_histomix.datasets.entries import Row, dataset_name, described_classes
from napari_histomix.datasets.listing import Listing, subfolder
from napari_histomix.records import HistomixError, NucleusClass


@pytest.fixture
def files(tmp_path: Path) -> dict[str, tuple[Path, Path]]:
    found = {}
    for name in ("a10", "a2", "TCGA-AR-A1AS-01Z-00-DX1_x"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png", dpi=(50_800, 50_800))
        found[name] = (tmp_path / f"{name}.png", tmp_path / f"{name}.txt")
    return found


def listed(root, files, mpp=None, said=None):
    listing = Listing(root, mpp)
    for image, pair in files.items():
        listing.add(image, pair, (said or {}).get(image))
    return listing.dataset((), None)


def test_what_is_said_nearest_counts(tmp_path, files):
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "set", "mpp": 0.75, "split": {"test": ["a10", "a2"]}}))
    (tmp_path / "images.csv").write_text("image,patient,slide,split,mpp\na2.png,P2,,val,0.3\na10,,S10,,\n")
    said = {"a10": Row("Q", "T", "val", 0.4), "a2": Row("Q", "T", "test", 0.4, index=3)}
    dataset = listed(tmp_path, files, said=said)
    entries = dataset.entries
    assert [entry.source.image for entry in entries] == ["a2", "a10", "TCGA-AR-A1AS-01Z-00-DX1_x"]
    first, second, third = entries
    assert (first.source.patient, first.source.slide, first.source.split, first.mpp) == ("P2", "T", "val", 0.3)
    assert (second.source.patient, second.source.slide, second.source.split, second.mpp) == ("Q", "S10", "val", 0.75)
    assert (third.source.patient, third.source.slide) == ("TCGA-AR-A1AS", "TCGA-AR-A1AS-01Z-00-DX1")
    assert third.source.split == "train" and first.source.dataset == "set"
    assert (first.index, second.index, first.labels.name) == (3, 0, "a2.txt")
    assert not dataset.problems
    assert {entry.mpp for entry in listed(tmp_path, files, 2.0).entries} == {2.0}
    (tmp_path / "dataset.json").unlink()
    assert [entry.mpp for entry in listed(tmp_path, files, said=said).entries] == [0.3, 0.4, 0.5]


def test_a_table_that_is_wrong_about_an_image_leaves_it_out(tmp_path, files):
    (tmp_path / "images.csv").write_text("image,mpp\na2,none\nother,1\n../a10,1\na10.png,1\na10,1\n")
    dataset = listed(tmp_path, files)
    assert [entry.source.image for entry in dataset.entries] == ["a10", "TCGA-AR-A1AS-01Z-00-DX1_x"]
    assert {problem.image for problem in dataset.problems} == {"a2", "other", "../a10"}
    with pytest.raises(HistomixError, match="no image that could be used; the first: a2: "):
        listed(tmp_path, {"a2": files["a2"]})


def test_pairs_of_one_name(tmp_path):
    listing = Listing(tmp_path, None)
    images = {"a": tmp_path / "a.png", "b": tmp_path / "b.png"}
    labels = {"b": tmp_path / "b.xml", "c": tmp_path / "c.xml"}
    assert listing.pairs(images, labels) == {"b": (images["b"], labels["b"])}
    assert [problem.image for problem in listing.problems] == ["a", "c"]
    assert not listing.pairs(images, {})
    assert [problem.image for problem in listing.problems] == ["a", "c", "b"]


def test_classes_beside_the_data(tmp_path):
    said = {"classes": {"2": ["b", [4, 5, 6]], "1": ["a", [1, 2, 3]]}}
    wanted = (NucleusClass(1, "a", (1, 2, 3)), NucleusClass(2, "b", (4, 5, 6)))
    assert described_classes(tmp_path, said) == wanted
    assert described_classes(tmp_path, {}) == ()
    for wrong in ([], {"x": ["a", [1, 2, 3]]}, {"1": "a"}, {"1": ["a", [1, 2, 300]]}, {"1e400": ["a", [1, 2, 3]]}):
        with pytest.raises(HistomixError, match=r"dataset\.json"):
            described_classes(tmp_path, {"classes": wrong})
    (tmp_path / "type_info.json").write_text('{"7": ["c", [7, 8, 9]]}')
    assert described_classes(tmp_path, said) == (NucleusClass(7, "c", (7, 8, 9)),)


def test_names_and_folders(tmp_path):
    for name in ("images", "Labels", "GeoJSON"):
        (tmp_path / name).mkdir()
    (tmp_path / "json").write_text("")
    assert subfolder(tmp_path, "json", "geojson", "labels") == tmp_path / "GeoJSON"
    assert subfolder(tmp_path, "json") is None
    assert dataset_name(tmp_path, {"name": " x "}) == "x"
    assert dataset_name(tmp_path, {"name": 7}) == tmp_path.name
