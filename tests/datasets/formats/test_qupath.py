from __future__ import annotations

import json
import uuid
from dataclasses import replace

import numpy as np
import pytest
from format_samples import CLASSES, assert_same, real_consep, real_sample, small, written
from PIL import Image

from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.formats.qupath import (
    Writer,
    class_numbers,
    nuclei,
    read_features,
    recognizes,
    write_features,
)
from napari_histomix.datasets.formats.qupath import draw as drawn
from napari_histomix.records import HistomixError


def imported(path):
    """The rules by which QuPath takes objects from GeoJSON, each broken one raising as it does there."""
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    found = []
    for one in content["features"]:
        uuid.UUID(one["id"])
        geometry, properties = one["geometry"], one["properties"]
        polygons = {"Polygon": lambda c: [c], "MultiPolygon": lambda c: c}[geometry["type"]](geometry["coordinates"])
        for ring in (ring for polygon in polygons for ring in polygon):
            # JTS makes a LinearRing only of a closed line of at least four points.
            assert len(ring) >= 4 and ring[0] == ring[-1] and all(len(point) == 2 for point in ring)
        classification = properties["classification"]
        assert isinstance(classification["name"], str) and len(classification["color"]) == 3
        assert all(isinstance(value, (int, float)) for value in properties["measurements"].values())
        assert all(isinstance(value, str) for value in properties.get("metadata", {}).values())
        assert "isLocked" not in properties
        found.append((properties["objectType"], classification["name"], polygons, properties))
    return found


@pytest.mark.parametrize("real", ["sample", "consep"])
def test_round_trip_on_real_images(tmp_path, request, real):
    dataset, image = real_sample() if real == "sample" else real_consep(request.getfixturevalue("shared"))
    root = written(Writer, tmp_path / "out", [image], dataset.classes)
    opened = open_dataset(root)
    assert opened.classes == dataset.classes and opened.name == "written" and not opened.problems
    found = opened.read(image.source.image)
    assert_same(found, image)
    assert (found.source.patient, found.source.slide) == (image.source.patient, image.source.slide)
    (root / "dataset.json").unlink()
    dataset_by_files = open_dataset(root, mpp=image.mpp)
    present = {dataset.class_name(number): count for number, count in image.counts().items()}
    assert {one.name for one in dataset_by_files.classes} == set(present)
    assert {one.name: one.color for one in dataset_by_files.classes}.items() <= {
        one.name: one.color for one in dataset.classes
    }.items()
    again = dataset_by_files.read(image.source.image)
    assert {dataset_by_files.class_name(n): count for n, count in again.counts().items()} == present


def test_what_qupath_imports(tmp_path):
    image = replace(small(), synthetic=frozenset({2}))
    root = written(Writer, tmp_path / "out", [image], synthetic=True)
    assert_same(open_dataset(root).read("a"), image)
    objects = imported(root / "geojson" / "a.geojson")
    assert [(kind, name) for kind, name, *_ in objects] == [
        ("detection", "Tumor"),
        ("detection", "immune cell"),
        ("detection", "Tumor"),
    ]
    assert [len(polygons) for *_, polygons, _ in objects] == [1, 1, 2]
    assert len(objects[1][2][0]) == 2
    for number, (*_, polygons, properties) in enumerate(objects, start=1):
        area = (image.instances == number).sum() * image.mpp**2
        flag = {"Synthetic": 1} if number == 2 else {}
        assert properties["measurements"] == {"Nucleus: Area µm^2": pytest.approx(area), **flag}
        assert (SYNTHETIC_NOTICE in properties.get("metadata", {}).values()) is (number == 2)
        # The exterior rings of GeoJSON turn the other way than its holes.
        signs = [[np.sign(turn(ring)) for ring in polygon] for polygon in polygons]
        assert all(sign == [1] + [-1] * (len(sign) - 1) for sign in signs)
    with Image.open(root / "images" / "a.png") as picture:
        assert picture.info["Description"] == SYNTHETIC_NOTICE


def turn(ring):
    x, y = np.array(ring[:-1], float).T
    return np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)


@pytest.mark.parametrize("kind", ["annotation", "detection", "cell"])
def test_single_files(tmp_path, kind):
    image = small()
    write_features(tmp_path / "x.geojson", image, CLASSES, kind=kind)
    features = read_features(tmp_path / "x.geojson")
    assert [one.kind for one in features] == [kind] * 3
    assert [(one.name, one.color) for one in features][1] == ("immune cell", (1, 2, 3))
    assert features[1].measurements["Nucleus: Area µm^2"] == pytest.approx(50 * 0.0625)
    labels = drawn(nuclei(features), image.instances.shape, class_numbers(CLASSES))
    np.testing.assert_array_equal(labels.instances, image.instances)
    assert labels.types == image.types and not labels.lost
    with pytest.raises(HistomixError, match="no type of QuPath's objects"):
        write_features(tmp_path / "x.geojson", image, CLASSES, kind="nucleus")
    with pytest.raises(HistomixError, match="none of the classes"):
        write_features(tmp_path / "x.geojson", image, CLASSES[:1])


SQUARE = [[2, 3], [8, 3], [8, 9], [2, 9], [2, 3]]
HOLE = [[4, 5], [4, 7], [6, 7], [6, 5], [4, 5]]
FAR = [[20.25, 10.5], [26, 10.5], [26, 14], [20.25, 14], [20.25, 10.5]]
BIG = [[0, 0], [40, 0], [40, 30], [0, 30], [0, 0]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry, kind="detection", classification=None, **more):
    properties = {"objectType": kind, **more}
    if classification is not None:
        properties["classification"] = classification
    return {"type": "Feature", "id": "PathDetectionObject", "geometry": geometry, "properties": properties}


def folder(root, content, name="a", file="a.geojson"):
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 120, 160)).save(root / f"{name}.png")
    (root / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.mark.parametrize("form", ["collection", "list", "single"])
def test_forms_of_geojson(tmp_path, form):
    one = feature(polygon(SQUARE, HOLE), classification={"name": "Tumor", "color": [200, 0, 0]})
    content = {"collection": collection(one), "list": [one], "single": one}[form]
    dataset = open_dataset(folder(tmp_path, content), mpp=0.5)
    assert [(one.name, one.color) for one in dataset.classes] == [("Tumor", (200, 0, 0))]
    image = dataset.read("a")
    assert (image.instances == 1).sum() == 32 and image.instances[5, 4] == 0


def test_classifications_of_all_versions(tmp_path):
    said = [
        {"name": "Tumor", "colorRGB": -3670016},
        "stroma",
        {"names": ["Tumor", "Positive"], "color": [1, 2, 3, 255]},
        {"name": "Negative", "parentClass": {"name": "Tumor"}, "colorRGB": -1},
        {},
        None,
        {"name": "TUMOR", "color": [9, 9, 9]},
    ]
    squares = [[[5 * i, 0], [5 * i + 3, 0], [5 * i + 3, 3], [5 * i, 3], [5 * i, 0]] for i in range(len(said))]
    features = [feature(polygon(ring), classification=one) for ring, one in zip(squares, said, strict=True)]
    dataset = open_dataset(folder(tmp_path, collection(*features)), mpp=0.5)
    assert {one.name: one.color for one in dataset.classes if one.name.startswith("Tumor")} == {
        "Tumor": (200, 0, 0),
        "Tumor: Negative": (255, 255, 255),
        "Tumor: Positive": (1, 2, 3),
    }
    assert [one.name for one in dataset.classes] == [
        "stroma",
        "Tumor",
        "Tumor: Negative",
        "Tumor: Positive",
        "unclassified",
    ]
    image = dataset.read("a")
    assert [dataset.class_name(image.types[n]) for n in range(1, 8)] == [
        "Tumor",
        "stroma",
        "Tumor: Positive",
        "Tumor: Negative",
        "unclassified",
        "unclassified",
        "Tumor",
    ]


def test_cells_detections_annotations_and_the_rest(tmp_path):
    cell = {**feature(polygon(FAR), "cell"), "nucleusGeometry": polygon(SQUARE)}
    region = feature(polygon(BIG), "annotation", {"name": "Region", "color": [1, 1, 1]}, childObjects=[cell])
    others = [
        feature({"type": "Point", "coordinates": [3, 3]}),
        feature({"type": "LineString", "coordinates": SQUARE}),
        feature(polygon(BIG), "tile"),
        feature(None),
        feature(
            {"type": "MultiPolygon", "coordinates": [[FAR], [[[30, 20, 1], [34, 20, 1], [34, 24, 1], [30, 24, 1]]]]}
        ),
    ]
    dataset = open_dataset(folder(tmp_path, collection(region, *others)), mpp=0.5)
    assert [one.name for one in dataset.classes] == ["unclassified"]
    image = dataset.read("a")
    assert (image.instances == 1).sum() == 36 and image.instances[3, 2] == 1
    assert (image.instances == 2).sum() == 6 * 4 + 16
    # Without detections, annotations are the nuclei.
    dataset = open_dataset(
        folder(tmp_path, [feature(polygon(SQUARE), "annotation"), {"type": "Feature", "geometry": polygon(FAR)}]),
        mpp=0.5,
    )
    assert len(dataset.read("a").types) == 2


def test_measurements_of_all_versions(tmp_path):
    text = json.dumps(
        [
            feature(polygon(SQUARE), measurements={"Area": 3.5, "Circularity": float("nan"), "x": None}),
            feature(polygon(SQUARE), measurements=[{"name": "Area", "value": 3}, {"name": "Max", "value": "NaN"}]),
            feature(polygon(SQUARE), measurements=7),
        ]
    )
    assert "NaN" in text
    found = read_features(folder(tmp_path, text) / "a.geojson")
    assert [dict(one.measurements) for one in found] == [{"Area": 3.5}, {"Area": 3.0}, {}]


@pytest.mark.parametrize("labels", ["annotations", "geojson"])
def test_folders_and_names(tmp_path, labels):
    one = feature(polygon(SQUARE))
    folder(tmp_path / "images", one, file="x")
    (tmp_path / "images" / "x").unlink()
    (tmp_path / labels).mkdir()
    for name in ("a.png", "lonely"):
        (tmp_path / labels / f"{name}.geojson").write_text(json.dumps(one))
    (tmp_path / "images.csv").write_text("image,patient,mpp\na,P4,0.5\n")
    dataset = open_dataset(tmp_path)
    assert dataset.read("a").source.patient == "P4"
    assert [problem.image for problem in dataset.problems] == ["lonely"]
    (tmp_path / labels / "a.geojson").write_text(json.dumps(one))
    with pytest.raises(HistomixError, match="two label files of one image"):
        open_dataset(tmp_path)


def test_objects_that_leave_the_image_or_cross_themselves(tmp_path):
    bow = [[10, 10], [18, 18], [18, 10], [10, 18], [10, 10]]
    far = [[-5, -5], [2, -5], [2, 2], [-5, 2], [-5, -5]]
    out = [[100, 100], [110, 100], [110, 110], [100, 100]]
    features = [feature(polygon(ring)) for ring in (bow, far, out, [[1, 1], [1, 1]], [])]
    image = open_dataset(folder(tmp_path, collection(*features)), mpp=0.5).read("a")
    assert len(image.types) == 2 and (image.instances[:2, :2] == 2).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        '"Feature"',
        '{"type": "FeatureCollection"}',
        '{"type": "FeatureCollection", "features": {}}',
        '{"type": "FeatureCollection", "features": [1]}',
        '[{"type": "Other"}]',
        "[" * 100_000 + "]" * 100_000,
        json.dumps([feature(7)]),
        json.dumps([feature({"type": "Polygon"})]),
        json.dumps([feature({"type": "Polygon", "coordinates": 7})]),
        json.dumps([feature({"type": "Polygon", "coordinates": [7]})]),
        json.dumps([feature({"type": "MultiPolygon", "coordinates": [7]})]),
        json.dumps([feature(polygon([[1, 2], [3, "a"], [4, 5]]))]),
        json.dumps([feature(polygon([[1, 2], [3], [4, 5]]))]),
        json.dumps([feature(polygon([[1, 2], [float("nan"), 3], [4, 5]]))]),
        json.dumps([feature(polygon([[1, 2], [1e300, 3], [4, 5]]))]),
        json.dumps([feature(polygon(SQUARE), childObjects=[1])]),
        json.dumps([feature(polygon(SQUARE), classification="other")]),
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, text):
    folder(tmp_path, collection(feature(polygon(SQUARE), classification="Tumor")), "b", "b.geojson")
    folder(tmp_path, text)
    dataset = open_dataset(tmp_path, mpp=0.5)
    assert "a" in {problem.image for problem in dataset.problems} or "other" in text
    dataset.read("b")
    (tmp_path / "dataset.json").write_text('{"classes": {"1": ["tumor", [1, 2, 3]]}}')
    with pytest.raises(HistomixError, match="a"):
        open_dataset(tmp_path, mpp=0.5).read("a")


def test_other_json_is_not_taken_for_qupath(tmp_path):
    assert not recognizes(folder(tmp_path, "{}"))
    assert not recognizes(folder(tmp_path / "x", collection(feature(polygon(SQUARE))), file="a.json"))
