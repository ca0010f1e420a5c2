"""Datasets in folders of folders: masks, splits and names, or the sentence that says what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from napari_histomix.datasets import open_dataset, survey
from napari_histomix.datasets.opening import open_any
from napari_histomix.records import HistomixError, drain

TRUTH = np.zeros((32, 40), np.int32)
TRUTH[3:11, 4:15], TRUTH[16:28, 20:33] = 1, 2
CORNERS = [[(4, 3), (15, 3), (15, 11), (4, 11)], [(20, 16), (33, 16), (33, 28), (20, 28)]]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path)))
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*TRUTH.shape, 3)).astype(np.uint8)).save(path)


def geojson(path: Path) -> None:
    shapes = [{"type": "Polygon", "coordinates": [[*corners, corners[0]]]} for corners in CORNERS]
    path.write_text(json.dumps([{"type": "Feature", "geometry": shape, "properties": {}} for shape in shapes]))


def imagescope(path: Path) -> None:
    regions = ""
    for corners in CORNERS:
        vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
        regions += f"<Region Type='0'><Vertices>{vertices}</Vertices></Region>"
    path.write_text(f"<Annotations><Annotation Id='1'><Regions>{regions}</Regions></Annotation></Annotations>")


def hovernet_json(path: Path) -> None:
    contours = [[(4, 3), (14, 3), (14, 10), (4, 10)], [(20, 16), (32, 16), (32, 27), (20, 27)]]
    nuclei = {str(number): {"contour": contour, "type": 1} for number, contour in enumerate(contours, start=1)}
    path.write_text(json.dumps({"mag": 40, "nuc": nuclei}))


def label_image(path: Path) -> None:
    Image.fromarray(TRUTH.astype(np.uint16)).save(path)


def mat(path: Path) -> None:
    scipy.io.savemat(path, {"inst_map": TRUTH})


WAYS = {
    "qupath": ("geojson", ".geojson", geojson),
    "qupath elsewhere": ("outlines", ".json", geojson),
    "aperio-xml": ("Annotations", ".xml", imagescope),
    "hovernet-json": ("json", ".json", hovernet_json),
    "plain": ("gt", ".png", label_image),
    "hovernet": ("Labels", ".mat", mat),
}


def put(root: Path, image: str, labels: str, write: Callable[[Path], None]) -> None:
    picture(root / image)
    (root / labels).parent.mkdir(parents=True, exist_ok=True)
    write(root / labels)


def read(root: Path) -> dict[str, str]:
    """The split of each image of a folder, all of whose masks are right."""
    dataset = open_dataset(root, mpp=0.25)
    for entry in dataset.entries:
        found = dataset.read(entry).instances
        assert {np.equal(found, number).tobytes() for number in np.unique(found)} == {
            np.equal(TRUTH, number).tobytes() for number in range(3)
        }
    return {entry.source.image.casefold(): entry.source.split for entry in dataset.entries}


@pytest.mark.parametrize("way", WAYS)
def test_folders_in_those_of_images_and_labels(tmp_path, way):
    labels, suffix, write = WAYS[way]
    for inner in ("TRAIN", "Validation", "site 1"):
        put(tmp_path, f"images/{inner}/{inner[0]}.png", f"{labels}/{inner}/{inner[0]}{suffix}", write)
    # ImageScope's folders are those of patients.
    other = "train" if way == "aperio-xml" else "site 1"
    assert read(tmp_path) == {"t": "train", "v": "val", "s": other}
    said = [problem.sentence for problem in open_dataset(tmp_path).problems if problem.image == "split 'site 1'"]
    assert bool(said) == (other == "site 1")
    (tmp_path / "dataset.json").write_text('{"splits": {"Site 1": "test"}}')
    assert read(tmp_path)["s"] == other.replace("site 1", "test")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "aperio-xml"])
def test_folders_of_patients_in_those_of_splits(tmp_path, way):
    labels, suffix, write = WAYS[way]
    for split in ("Train", "Test"):
        put(tmp_path / split, f"images/P1/{split[1]}.png", f"{labels}/P1/{split[1]}{suffix}", write)
    assert read(tmp_path) == {"r": "train", "e": "test"}


def test_splits_that_are_words_of_monuseg_s_folders(tmp_path):
    for folder, name in (("MoNuSeg 2018 Training Data", "a"), ("MoNuSegTestData", "b")):
        put(tmp_path / folder, f"Tissue Images/{name}.tif", f"Annotations/{name}.xml", imagescope)
    put(tmp_path / "MoNuSAC Testing Data and Annotations", "P1/c.tif", "P1/c.xml", imagescope)
    assert read(tmp_path) == {"a": "train", "b": "test", "c": "test"}
    patients = {entry.source.image: entry.source.patient for entry in open_dataset(tmp_path).entries}
    assert patients == {"a": "", "b": "", "c": "P1"}


@pytest.mark.parametrize("labels", ["", "predictions/"])
def test_json_of_hovernet_wherever_it_lies(tmp_path, labels):
    put(tmp_path, "a.png", f"{labels}a.json", hovernet_json)
    (tmp_path / "type_info.json").write_text('{"1": ["tumor", [9, 9, 9]]}')
    assert read(tmp_path) == {"a": "train"}
    found = drain(survey(open_dataset(tmp_path)))
    assert found.total == {1: 2} and not found.problems


@pytest.mark.parametrize("write", [geojson, hovernet_json, imagescope])
def test_folders_of_patients_are_no_classes(tmp_path, write):
    suffix = ".xml" if write == imagescope else ".json"
    for patient in ("P1", "P2"):
        put(tmp_path, f"{patient}/tile.png", f"{patient}/tile{suffix}", write)
    if write == imagescope:
        assert read(tmp_path) == {"p1-tile": "train", "p2-tile": "train"}
        return
    with pytest.raises(HistomixError, match="its folders P1 and P2 hold them"):
        open_any(tmp_path)
    (tmp_path / "P2" / f"tile{suffix}").unlink()
    # One labeled image among those of classes changes nothing.
    assert open_any(tmp_path).kinds == ("P1", "P2")


def test_what_is_listed_but_has_no_pixel_is_counted(tmp_path):
    put(tmp_path, "images/a.png", "labels/a.png", label_image)
    (tmp_path / "types.csv").write_text("image,instance,type\na,1,x\na,2,x\na,3,x\na,9,x\n")
    [problem] = drain(survey(open_dataset(tmp_path))).problems
    assert problem.sentence == "a: 2 nuclei are listed but have no pixel in the labels; they are left out."
    put(tmp_path / "mat", "Images/a.png", "Labels/a.mat", mat)
    content = {"inst_map": TRUTH, "inst_uid": [[1], [5], [2]], "inst_type": [[1], [2], [3]]}
    scipy.io.savemat(tmp_path / "mat" / "Labels" / "a.mat", content)
    found = drain(survey(open_dataset(tmp_path / "mat")))
    [problem] = found.problems
    assert problem.sentence == "a: 1 nucleus is listed but has no pixel in the labels; it is left out."
    assert found.total == {1: 1, 3: 1}


def test_what_is_packed_or_cellvit_s_is_refused_by_name(tmp_path):
    picture(tmp_path / "a.png")
    packed = tmp_path / "instances_train.json.gz"
    packed.write_bytes(gzip.compress(b'{"images": [], "annotations": [], "categories": []}'))
    with pytest.raises(HistomixError, match=r"instances_train\.json\.gz is compressed; unpack it;"):
        open_any(tmp_path)
    packed.unlink()
    (tmp_path / "a.json").write_text('{"wsi_metadata": {}, "type_map": {}, "cells": [{"bbox": [[1, 2], [3, 4]]}]}')
    with pytest.raises(HistomixError, match=r"a\.json is CellViT's own JSON, which is not read; let it write GeoJSON"):
        open_any(tmp_path)


@pytest.mark.parametrize("folder", ["", "outlines/"])
def test_outlines_are_called_as_ome_tiff_without_any_suffix(tmp_path, folder):
    put(tmp_path, "a.ome.tif", f"{folder}a.geojson", geojson)
    assert read(tmp_path) == {"a.ome": "train"}
