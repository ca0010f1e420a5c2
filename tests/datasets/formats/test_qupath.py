from __future__ import annotations

import gzip
import json
import uuid
from dataclasses import replace

import numpy as np
import pytest
from format_samples import CLASSES, assert_same, real_consep, real_sample, small, written
from PIL import Image

from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.formats.qupath import Writer, read_drawing, read_objects, recognizes, write_features
from napari_histomix.datasets.formats.side_files import class_numbers
from napari_histomix.datasets.formats.side_files import draw as drawn
from napari_histomix.datasets.opening import read_label_file
from napari_histomix.datasets.text_files import read_json
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
    features, _ = read_objects(tmp_path / "x.geojson")
    assert [one.kind for one in features] == [kind] * 3
    assert [(one.name, one.color) for one in features][1] == ("immune cell", (1, 2, 3))
    assert features[1].measurements["Nucleus: Area µm^2"] == pytest.approx(50 * 0.0625)
    labels = drawn(read_drawing(tmp_path / "x.geojson"), image.instances.shape, class_numbers(CLASSES))
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
    found, _ = read_objects(folder(tmp_path, text) / "a.geojson")
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
    for number, content in enumerate(
        (
            {"mag": 40, "nuc": {"1": {"contour": SQUARE, "type": 1}}},
            {"images": [], "annotations": [{"segmentation": [[1, 2]]}], "categories": [{"name": "Feature"}]},
            {"shapes": [{"label": "x", "points": SQUARE, "shape_type": "polygon"}], "imagePath": "a.png"},
        )
    ):
        assert not recognizes(folder(tmp_path / str(number), content, file="a.json"))
    # Label images say more than what lies beside them.
    folder(tmp_path / "x", collection(feature(polygon(SQUARE))))
    (tmp_path / "x" / "Labels").mkdir()
    assert not recognizes(tmp_path / "x")


def shifted(ring, x, y):
    return [[a + x, b + y] for a, b in ring]


def square(x, y, side=4):
    return shifted([[0, 0], [side, 0], [side, side], [0, side], [0, 0]], x, y)


def several(*outlines, kind="annotation", classification="Tumor", **more):
    parts = [outline if isinstance(outline[0][0], list) else [outline] for outline in outlines]
    return feature({"type": "MultiPolygon", "coordinates": parts}, kind, classification, **more)


def masks(root, **keywords):
    """Boxes (row, col, rows, cols) of all nuclei by class, for nuclei that fill their boxes, and the notes."""
    dataset = open_dataset(root, mpp=0.5, **keywords)
    image = dataset.read("a")
    found = {}
    for number, kind in sorted(image.types.items()):
        rows, cols = np.nonzero(image.instances == number)
        box = (rows.min(), cols.min(), np.ptp(rows) + 1, np.ptp(cols) + 1)
        assert rows.size == box[2] * box[3]
        found.setdefault(dataset.class_name(kind), []).append(tuple(int(side) for side in box))
    return found, [note.sentence.partition(": ")[2] for note in image.notes]


PACKED = [(".geojson", "utf-8"), (".json", "utf-8"), (".geojson.gz", "utf-8"), (".JSON.GZ", "utf-8-sig")]


@pytest.mark.parametrize(("suffix", "encoding"), PACKED)
@pytest.mark.parametrize("place", ["", "geojson", "annotations", "Labels", "json", "my outlines", "train", "images"])
@pytest.mark.parametrize("name", ["a", "a.png"])
def test_one_file_by_many_names(tmp_path, suffix, encoding, place, name):
    content = json.dumps([feature(polygon(square(3, 5)), classification="Tumor")]).encode(encoding)
    content = gzip.compress(content) if suffix.casefold().endswith(".gz") else content
    pictures = tmp_path / {"": "", "train": "train", "images": "images/val"}.get(place, "images")
    files = tmp_path / ("outlines/Val" if place == "images" else place)
    for path in (pictures, files):
        path.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(pictures / "a.png")
    (files / f"{name}{suffix}").write_bytes(content)
    (files / "settings.json").write_text('{"some": "settings"}')
    found, notes = masks(tmp_path)
    assert found == {"Tumor": [(5, 3, 4, 4)]} and not notes
    [entry] = open_dataset(tmp_path, mpp=0.5).entries
    assert entry.source.split == ("val" if place == "images" else "train")
    if place == "":
        read = read_label_file(files / f"{name}{suffix}")
        assert read.instances.shape == (30, 40) and (read.instances[5:9, 3:7] == 1).all()
        assert [known.name for known in read.classes] == ["Tumor"] and read.name == name


def test_packed_files_are_bounded(tmp_path, monkeypatch):
    good = gzip.compress(json.dumps(feature(polygon(square(3, 5)))).encode())
    folder(tmp_path, "", file="b.geojson")
    (tmp_path / "b.geojson").unlink()
    for damaged, said in (
        (good[:-9], "is cut off: gzip finds no end in it"),
        (good[:-8] + bytes(8), "is damaged: gzip cannot unpack it"),
        (gzip.compress(b'{"type": "Feature", "x": "' + bytes(10**6)), "holds more than 0 MB"),
    ):
        (tmp_path / "a.geojson.gz").write_bytes(damaged)
        monkeypatch.setattr(read_json, "__defaults__", (10**5,))
        with pytest.raises(HistomixError, match=said):
            open_dataset(tmp_path, mpp=0.5)


def test_same_names_in_two_splits(tmp_path):
    for split, x in (("Train", 3), ("Test", 13)):
        folder(tmp_path / split, feature(polygon(square(x, 5)), classification="Tumor"))
    dataset = open_dataset(tmp_path, mpp=0.5)
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == {"a": "train", "Test-a": "test"}
    assert dataset.read("a").instances[5, 3] and dataset.read("Test-a").instances[5, 13]


def test_one_object_for_each_class_is_many_nuclei(tmp_path):
    tumor, stroma = several(square(0, 0), square(20, 0), square(5, 0)), several(square(0, 20), classification="Stroma")
    found, notes = masks(folder(tmp_path, [tumor, stroma]))
    assert found == {"Tumor": [(0, 0, 4, 4), (0, 20, 4, 4), (0, 5, 4, 4)], "Stroma": [(20, 0, 4, 4)]}
    assert notes == ["1 object of several outlines was read as 3 nuclei."]
    # Parts that lie near count as well where another class shows what kind of file this is.
    near = several(square(0, 20), square(5, 20), classification="Stroma")
    found, notes = masks(folder(tmp_path, [tumor, near]))
    assert len(found["Stroma"]) == 2 and notes == ["2 objects of several outlines were read as 5 nuclei."]
    collected = feature(
        {"type": "GeometryCollection", "geometries": [polygon(square(0, 0)), polygon(square(20, 0))]}, None, "Tumor"
    )
    assert masks(folder(tmp_path, [collected]))[0] == {"Tumor": [(0, 0, 4, 4), (0, 20, 4, 4)]}
    detections = [several(square(0, y), square(20, y), kind="detection", classification=f"{y}") for y in (0, 20)]
    found, notes = masks(folder(tmp_path, detections))
    assert found["0"] == [(0, 0, 4, 4), (0, 20, 4, 4)] and len(found["20"]) == 2
    assert notes == ["2 objects of several outlines were read as 4 nuclei."]


def test_one_nucleus_in_parts_stays_one(tmp_path):
    near = several(square(0, 0), square(6, 0))
    donut = several([square(10, 10, 16), square(12, 12, 12)[::-1]], square(16, 16))
    speck = several(square(30, 20), square(20, 0, 2))
    image = open_dataset(folder(tmp_path, [near, donut, speck]), mpp=0.5).read("a")
    assert len(image.types) == 3 and image.instances[17, 17] == image.instances[10, 10] == 2
    # Detections are whole as long as there are several of a class, and whatever somebody measured is.
    two = [several(square(0, y), square(20, y), kind="detection") for y in (0, 20)]
    image = open_dataset(folder(tmp_path, two), mpp=0.5).read("a")
    assert len(image.types) == 2 and "2 ids cover 4 shapes that lie apart" in image.notes[0].sentence
    for kind in ("annotation", "detection", "cell"):
        one = several(square(0, 0), square(20, 0), kind=kind, measurements={"Nucleus: Area": 32})
        assert len(open_dataset(folder(tmp_path, one), mpp=0.5).read("a").types) == 1


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("kind", ["annotation", "detection"])
def test_what_is_written_of_a_nucleus_in_parts_comes_back(tmp_path, kind, measured):
    image = replace(small(), instances=np.where(small().instances == 3, 3, 0).astype(np.int32), types={3: 1})
    write_features(folder(tmp_path, "") / "a.geojson", image, CLASSES, kind=kind, measured=measured)
    again = open_dataset(tmp_path, mpp=0.5).read("a")
    np.testing.assert_array_equal(again.instances[:20, :24] == 1, image.instances == 3)


def test_what_has_no_area_is_counted(tmp_path):
    shapes = [
        feature(polygon(square(0, 0)), "annotation"),
        feature({"type": "Point", "coordinates": [3, 3]}, "annotation"),
        feature({"type": "MultiPoint", "coordinates": [[3, 3], [4, 4]]}, "annotation"),
        feature({"type": "LineString", "coordinates": SQUARE}, "annotation"),
        feature(None, "annotation"),
        feature({"type": "Polygon", "coordinates": []}, "annotation"),
        feature(polygon(BIG), "tile"),
        feature(polygon(BIG), "root"),
    ]
    assert masks(folder(tmp_path, shapes))[1] == [
        "3 of 7 objects are drawn as a point, which is not read, 1 is drawn as a line, which is not read, 2 have no "
        "outline; they are left out."
    ]
    with pytest.raises(HistomixError, match="none of the 3 objects can be read: 3 are drawn as a point"):
        open_dataset(folder(tmp_path, shapes[1:3]), mpp=0.5).read("a")


def test_annotations_beside_detections(tmp_path):
    region, cell = feature(polygon(BIG), "annotation"), feature(polygon(square(0, 0, 6)), classification="Tumor")
    assert masks(folder(tmp_path, [region, cell])) == ({"Tumor": [(0, 0, 6, 6)]}, [])
    drawn_too = [feature(polygon(square(20, y)), "annotation", "Tumor") for y in (0, 10)]
    found, notes = masks(folder(tmp_path, [region, cell, *drawn_too]))
    assert found == {"Tumor": [(0, 0, 6, 6)]}
    assert notes == ["2 annotations were left aside beside detections; make detections of those that are nuclei."]


@pytest.mark.parametrize("none", [None, "", "null", "None", {"name": "NULL"}, {"name": None}, {"names": []}])
def test_untyped_objects_are_unclassified(tmp_path, none):
    features = [feature(polygon(square(0, 0)), classification="Tumor"), feature(polygon(square(20, 0)))]
    features[1]["properties"]["classification"] = none
    wanted = {"Tumor": [(0, 0, 4, 4)], "unclassified": [(0, 20, 4, 4)]}
    assert masks(folder(tmp_path, features))[0] == wanted
    (tmp_path / "dataset.json").write_text('{"classes": {"1": ["TUMOR", [1, 2, 3]]}}')
    assert masks(tmp_path)[0] == {"TUMOR": wanted["Tumor"], "unclassified": wanted["unclassified"]}
    (tmp_path / "dataset.json").rename(tmp_path / "x.json")
    (tmp_path / "type_info.json").write_text('{"1": ["tumor", [1, 2, 3]]}')
    read = read_label_file(tmp_path / "a.geojson")
    names = {known.number: known.name for known in read.classes}
    assert [names[kind] for kind in read.types.values()] == ["tumor", "unclassified"]


def test_classes_as_other_programs_write_them(tmp_path):
    content = [
        {"type": "Feature", "geometry": polygon(square(x, 0)), "properties": {key: "Tumor", "prob": 0.5}}
        for x, key in ((0, "type"), (10, "class"), (20, "label"))
    ]
    assert masks(folder(tmp_path, content))[0] == {"Tumor": [(0, 0, 4, 4), (0, 10, 4, 4), (0, 20, 4, 4)]}


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_point_that_is_nowhere_is_named(tmp_path, bad):
    text = json.dumps([feature(polygon(square(0, 0))), feature(polygon(square(20, 0)))]).replace("24", bad)
    folder(tmp_path, feature(polygon(square(0, 0))), "b", "b.geojson")
    [problem] = open_dataset(folder(tmp_path, text), mpp=0.5).problems
    assert problem.sentence.startswith("a.geojson, object 2: a polygon has a point at infinity")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_one_name_in_any_encoding(tmp_path, encoding):
    text = json.dumps([feature(polygon(square(3, 5)), classification="Tümör")], ensure_ascii=False, indent=1)
    folder(tmp_path, "")
    (tmp_path / "a.geojson").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert masks(tmp_path)[0] == {"Tümör": [(5, 3, 4, 4)]}
    (tmp_path / "a.geojson").write_bytes(text.encode("utf-16"))
    with pytest.raises(HistomixError, match=r"a\.geojson .* it is not UTF-8 text"):
        open_dataset(tmp_path, mpp=0.5)


@pytest.mark.parametrize("content", [[], {"type": "FeatureCollection", "features": []}])
def test_an_image_without_nuclei(tmp_path, content):
    assert masks(folder(tmp_path, content)) == ({}, [])


def test_geometries_without_features(tmp_path):
    for content in (polygon(square(3, 5)), [{"type": "GeometryCollection", "geometries": [polygon(square(3, 5))]}]):
        assert masks(folder(tmp_path, content))[0] == {"unclassified": [(5, 3, 4, 4)]}


def test_folders_are_told_apart(tmp_path):
    one = feature(polygon(square(3, 5)), classification="Tumor")
    for name in ("first", "second"):
        folder(tmp_path / "apart" / name, one)
    assert not recognizes(tmp_path / "apart")
    folder(tmp_path / "pair" / "tissue", one, file="../a.geojson")
    (tmp_path / "pair" / "drawn").mkdir()
    (tmp_path / "pair" / "a.geojson").rename(tmp_path / "pair" / "drawn" / "a.geojson")
    assert masks(tmp_path / "pair")[0] == {"Tumor": [(5, 3, 4, 4)]}
    (tmp_path / "pair" / "masks").mkdir()
    assert not recognizes(tmp_path / "pair")


@pytest.mark.parametrize(
    ("case", "image"),
    [
        ("01-cellvit-one-feature-per-class", "slide1"),
        ("05-qupath-geojson-named-json", "slide1"),
        ("07-self-intersecting-and-donut", "slide1"),
        ("10-asap-xml", "slide1"),
        ("13-imagescope-layer-names-with-description", "a"),
    ],
)
def test_cases_of_people(shared, case, image):
    folder = shared / "cases" / case
    if not folder.is_dir():
        pytest.skip("the cases are not here")
    with np.load(folder / "truth" / f"{image}.npz") as truth:
        wanted = [(kind, truth["inst"] == int(number)) for number, kind in json.loads(str(truth["types"])).items()]
    dataset = open_dataset(folder / "in", mpp=0.25)
    [entry] = dataset.entries
    found = dataset.read(entry)
    assert len(found.types) == len(wanted)
    for kind, mask in wanted:
        number = int(found.instances[mask][0])
        np.testing.assert_array_equal(found.instances == number, mask)
        assert dataset.class_name(found.types[number]) == kind
