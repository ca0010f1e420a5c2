"""ASAP's and HALO's XML, and that each XML is taken for what it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.formats import recognized
from napari_histomix.datasets.opening import is_label_file, read_label_file
from napari_histomix.records import HistomixError

SQUARE = [(2, 3), (8, 3), (8, 9), (2, 9)]
INNER = [(4, 5), (6, 5), (6, 7), (4, 7)]
OTHER = [(20, 10), (26, 10), (26, 18), (20, 18)]


def asap(*annotations):
    """ASAP's own way of writing: type, group and points of each."""
    text = ""
    for number, (kind, group, points) in enumerate(annotations):
        corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}" />\n' for n, (x, y) in enumerate(points))
        text += f'<Annotation Name="Annotation {number}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        text += f"<Coordinates>\n{corners}</Coordinates></Annotation>\n"
    groups = '<Group Name="Tumor" PartOfGroup="None" Color="#C80000"><Attributes /></Group>'
    return (
        f'<?xml version="1.0"?>\n<ASAP_Annotations>\n\t<Annotations>{text}</Annotations>'
        f"<AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )


def halo(*layers):
    """HALO's own way of writing: name and regions of each layer, these with type, further attributes and points."""
    text = ""
    for name, regions in layers:
        text += f'<Annotation LineColor="200" Name="{name}" Visible="True"><Regions>'
        for kind, more, points in regions:
            corners = "".join(f'<V X="{x}" Y="{y}" />' for x, y in points)
            text += f'<Region Type="{kind}" HasEndcaps="0" {more}><Vertices>{corners}</Vertices><Comments /></Region>'
        text += "</Regions></Annotation>"
    return f"<Annotations>{text}</Annotations>"


def folder(root, text, file="a.xml"):
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 120, 160)).save(root / "a.png")
    (root / file).write_text(text, encoding="utf-8")
    return root


def read(root):
    """The masks by class name, and what is told."""
    dataset = open_dataset(root, mpp=0.5)
    image = dataset.read("a")
    masks = {}
    for number, kind in sorted(image.types.items()):
        masks.setdefault(dataset.class_name(kind), []).append(image.instances == number)
    return masks, [note.sentence.partition(": ")[2] for note in image.notes]


def filled(*boxes, without=()):
    """A mask of boxes: columns and rows from, below."""
    mask = np.zeros((30, 40), bool)
    for (left, right, above, below), value in [*((box, True) for box in boxes), *((box, False) for box in without)]:
        mask[above:below, left:right] = value
    return mask


def test_asap(tmp_path):
    text = asap(
        ("Polygon", "Tumor", SQUARE),
        ("Rectangle", "None", OTHER),
        ("Spline", "tumor", [("30,6", "20,6"), ("35,6", "20,6"), ("35,6", "25,6"), ("30,6", "25,6")]),
        ("Dot", "Tumor", [(3, 3)]),
        ("PointSet", "Tumor", [(3, 3), (4, 4)]),
        ("Measurement", "None", [(3, 3), (14, 4)]),
        ("Polygon", "Tumor", []),
        ("Nonsense", "Tumor", SQUARE),
    )
    masks, notes = read(folder(tmp_path, text))
    assert set(masks) == {"Tumor", "unclassified"}
    np.testing.assert_array_equal(masks["Tumor"], [filled((2, 8, 3, 9)), filled((31, 36, 21, 26))])
    np.testing.assert_array_equal(masks["unclassified"], [filled((20, 26, 10, 18))])
    assert set(notes) == {
        "3 of 9 objects are drawn as a point, which is not read, 1 is drawn as a ruler, which is not read, 1 has no "
        "outline, 1 is drawn as 'Nonsense', which is not read; they are left out.",
        "1 spline was read as a polygon through its points.",
    }
    dataset = open_dataset(tmp_path, mpp=0.5)
    assert {known.name: known.color for known in dataset.classes}["Tumor"] == (200, 0, 0)
    assert recognized(tmp_path).name == "asap-xml"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_one_group_in_any_encoding(tmp_path, encoding):
    folder(tmp_path, "")
    (tmp_path / "a.xml").write_bytes(asap(("Polygon", "Tümör", SQUARE)).replace("\n", "\r\n").encode(encoding))
    assert set(read(tmp_path)[0]) == {"Tümör"}


def test_asap_sorts_by_order(tmp_path):
    text = asap(("Polygon", "Tumor", SQUARE))
    lines = text.split("\n")
    place = next(number for number, line in enumerate(lines) if 'Order="0"' in line or "<Coordinates>" in line) + 1
    lines[place], lines[place + 1] = lines[place + 1], lines[place]
    masks, _ = read(folder(tmp_path, "\n".join(lines)))
    np.testing.assert_array_equal(masks["Tumor"], [filled((2, 8, 3, 9))])


@pytest.mark.parametrize("file", ["a.xml", "a.annotations"])
def test_halo(tmp_path, file):
    hole = ("Polygon", 'NegativeROA="1"', INNER)
    text = halo(
        ("Tumor", [("Polygon", 'NegativeROA="0"', SQUARE), hole, ("Rectangle", "", [(26, 18), (20, 10)])]),
        ("", [("Polygon", 'NegativeROA="0"', [(30, 20), (36, 20), (36, 26), (30, 26)])]),
        ("tumor", [("Ellipse", 'NegativeROA="0"', [(10, 2), (20, 8)]), ("Ruler", "", [(1, 1), (9, 9)])]),
        ("Layer 4", [("Pin", "", [(3, 3)]), ("Polygon", "", []), ("Arrow", "", [(1, 1), (2, 2)])]),
    )
    masks, notes = read(folder(tmp_path, text, file))
    y, x = np.mgrid[:30, :40] + 0.5
    ellipse = ((x - 15) / 5) ** 2 + ((y - 5) / 3) ** 2 < 1
    wanted = [filled((2, 8, 3, 9), without=[(4, 6, 5, 7)]), filled((20, 26, 10, 18)), ellipse]
    np.testing.assert_array_equal(masks["Tumor"], wanted)
    np.testing.assert_array_equal(masks["unclassified"], [filled((30, 36, 20, 26))])
    assert notes == [
        "1 of 8 objects is drawn as a ruler, which is not read, 1 is drawn as a pin, which is not read, 1 has no "
        "outline, 1 is drawn as an arrow, which is not read; they are left out."
    ]
    assert {known.name: known.color for known in open_dataset(tmp_path, mpp=0.5).classes}["Tumor"] == (200, 0, 0)
    assert recognized(tmp_path).name == "halo-xml"


@pytest.mark.parametrize(
    ("format", "text", "file"),
    [
        ("asap", asap(("Polygon", "Tumor", SQUARE)), "a.xml"),
        ("halo", halo(("Tumor", [("Polygon", 'NegativeROA="0"', SQUARE)])), "a.xml"),
        ("halo", halo(("Tumor", [("Polygon", 'NegativeROA="0"', SQUARE)])), "a.annotations"),
    ],
)
def test_single_files_and_folders_of_labels(tmp_path, format, text, file):
    folder(tmp_path / "images", text, f"../{file}")
    (tmp_path / "Annotations").mkdir()
    path = (tmp_path / file).rename(tmp_path / "Annotations" / file)
    masks, notes = read(tmp_path)
    np.testing.assert_array_equal(masks["Tumor"], [filled((2, 8, 3, 9))])
    assert not notes and is_label_file(path)
    found = read_label_file(path)
    np.testing.assert_array_equal(found.instances, filled((2, 8, 3, 9)))
    assert [known.name for known in found.classes] == ["Tumor"] and found.name == "a"
    alone = path.rename(tmp_path / file)
    assert read_label_file(alone).instances.sum() == 36
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "b.png")
    assert read_label_file(alone).instances.shape == (9, 8)


@pytest.mark.parametrize(
    "text",
    [
        asap(("Polygon", "Tumor", [("a", 1), (2, 2), (3, 3)])),
        asap(("Polygon", "Tumor", [("nan", 1), (2, 2), (3, 3)])),
        halo(("Tumor", [("Polygon", "", [("inf", 1), (2, 2), (3, 3)])])),
        halo(("Tumor", [("Polygon", "", [("1e40", 1), (2, 2), (3, 3)])])),
        asap(("Polygon", "Tumor", SQUARE))[:-30],
        halo(("Tumor", [("Polygon", "", SQUARE)]))[:-30],
        "<!DOCTYPE a [<!ENTITY b 'bb'>]>" + halo(("&b;", [("Polygon", "", SQUARE)])),
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, text):
    with pytest.raises(HistomixError, match=r"a\.xml") as caught:
        open_dataset(folder(tmp_path, text), mpp=0.5)
    assert "\n" not in str(caught.value)
    with pytest.raises(HistomixError, match=r"^a\.xml"):
        read_label_file(tmp_path / "a.xml")


def test_a_file_of_another_program_among_the_others_is_named(tmp_path):
    texts = {
        "asap": asap(("Polygon", "Tumor", SQUARE)),
        "halo": halo(("Tumor", [("Polygon", "", SQUARE)])),
        "voc": "<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>",
    }
    for good in ("asap", "halo"):
        for other in texts.keys() - {good}:
            root = folder(tmp_path / f"{good} {other}", texts[good])
            Image.new("RGB", (40, 30)).save(root / "b.png")
            (root / "b.xml").write_text(texts[other])
            dataset = open_dataset(root, mpp=0.5)
            [problem], [entry] = dataset.problems, dataset.entries
            assert {problem.image, entry.source.image} == {"a", "b"}
            assert ("Pascal VOC's" if other == "voc" else "as the other files are") in problem.sentence
    assert recognized(folder(tmp_path / "voc", texts["voc"])) is None
    with pytest.raises(HistomixError, match=r"a\.xml is Pascal VOC's XML of boxes, which is not read"):
        read_label_file(tmp_path / "voc" / "a.xml")
