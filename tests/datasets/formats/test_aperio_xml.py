from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from format_samples import CLASSES, assert_same, real_consep, real_sample, small, written
from PIL import Image
from skimage import draw

from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.formats.aperio_xml import Writer, recognizes
from napari_histomix.records import HistomixError


def monusac_masks(path, shape):
    """The logic of MoNuSAC's n-ary_mask_generation: a map per class, the first and second children being what they
    are, and pixels whose centers are whole numbers."""
    root = ElementTree.parse(path).getroot()
    found, number = {}, 0
    for k in range(len(root)):
        label = next(x.attrib["Name"] for x in root[k][0])
        mask = found.setdefault(label, np.zeros(shape, int))
        for child in root[k]:
            for x in child:
                if x.tag == "Region":
                    vertices = x[1]
                    coords = np.zeros((len(vertices), 2))
                    for i, vertex in enumerate(vertices):
                        coords[i][0] = vertex.attrib["X"]
                        coords[i][1] = vertex.attrib["Y"]
                    number += 1
                    mask[draw.polygon(coords[:, 1], coords[:, 0], shape)] = number
    return found


@pytest.mark.parametrize("real", ["sample", "consep"])
def test_round_trip_on_real_images(tmp_path, request, real):
    dataset, image = real_sample() if real == "sample" else real_consep(request.getfixturevalue("shared"))
    root = written(Writer, tmp_path / "out", [image], dataset.classes)
    opened = open_dataset(root)
    assert opened.classes == dataset.classes and opened.name == "written" and not opened.problems
    found = opened.read(image.source.image)
    np.testing.assert_array_equal(found.pixels, image.pixels)
    np.testing.assert_array_equal(found.instances, image.instances)
    assert found.types == {number: image.types[number] for number in found.types} and found.mpp == image.mpp
    assert (found.source.patient, found.source.slide) == (image.source.patient, image.source.slide)
    [path] = root.rglob(f"{image.source.image}.xml")
    masks = monusac_masks(path, image.instances.shape)
    for label, mask in masks.items():
        kind = opened.class_number(label)
        wanted = np.isin(image.instances, [number for number, of in image.types.items() if of == kind])
        np.testing.assert_array_equal(mask > 0, wanted)
        assert len(np.unique(mask)) - 1 == image.counts()[kind]


def test_holes_and_parts_are_exact_for_both_readers(tmp_path):
    image = small()
    root = written(Writer, tmp_path / "out", [image])
    assert_same(open_dataset(root).read("a"), image)
    masks = monusac_masks(root / "a" / "a.xml", image.instances.shape)
    np.testing.assert_array_equal(masks["Tumor"] > 0, np.isin(image.instances, (1, 3)))
    np.testing.assert_array_equal(masks["immune cell"] > 0, image.instances == 2)


def test_patients_have_folders_and_come_back(tmp_path):
    images = [
        replace(small(name), source=replace(small(name).source, patient=patient))
        for name, patient in (("a", "P/1"), ("b", "P/1"), ("c", "train"), ("d", ""))
    ]
    root = written(Writer, tmp_path / "out", images, synthetic=True)
    found = {entry.source.image: entry.source.patient for entry in open_dataset(root).entries}
    assert found == {"a": "P-1", "b": "P-1", "c": "train-2", "d": ""}
    assert {entry.source.split for entry in open_dataset(root).entries} == {"train"}
    with tifffile.TiffFile(root / "P-1" / "a.tif") as tiff:
        assert tiff.pages[0].description == SYNTHETIC_NOTICE
    assert SYNTHETIC_NOTICE in (root / "P-1" / "a.xml").read_text()


def xml(*annotations, head='MicronsPerPixel="0.2520"'):
    """ImageScope's own way of writing."""
    text = ""
    for name, regions in annotations:
        attributes = f'<Attribute Name="{name}" Id="0" Value="" />' if name else ""
        text += (
            '<Annotation Id="1" Name="" ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" Incremental="0" Type="4">'
        )
        text += f"<Attributes>{attributes}</Attributes><Regions><RegionAttributeHeaders />"
        for number, (points, more) in enumerate(regions, start=1):
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in points)
            text += f'<Region Id="{number}" Type="0" Zoom="1" {more}><Attributes />'
            text += f"<Vertices>{vertices}</Vertices></Region>"
        text += "</Regions><Plots /></Annotation>"
    return f"<Annotations {head}>{text}</Annotations>"


SQUARE = [(2, 3), (8, 3), (8, 9), (2, 9)]
INNER = [(4, 5), (6, 5), (6, 7), (4, 7)]
OTHER = [(20.2, 10.1), (25.7, 10.3), (22.1, 18.8)]


def picture(path, suffix=".tif"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 120, 160)).save(path.with_suffix(suffix), "TIFF" if suffix == ".svs" else None)


def test_monusac(tmp_path):
    folder = tmp_path / "TCGA-5P-A9K0-01Z-00-DX1"
    for number, suffix in ((1, ".tif"), (1, ".svs"), (2, ".svs")):
        name = folder / f"TCGA-5P-A9K0-01Z-00-DX1_{number}"
        picture(name, suffix)
        name.with_suffix(".xml").write_text(
            xml(("Lymphocyte", [(SQUARE, ""), (OTHER, "")]), ("Epithelial", [(INNER, "")]))
        )
    picture(tmp_path / "patient 7" / "x")
    (tmp_path / "patient 7" / "x.xml").write_text(xml(("macrophage", [(SQUARE, "")]), ("Odd", [(OTHER, "")])))
    dataset = open_dataset(tmp_path)
    assert [one.name for one in dataset.classes] == ["Epithelial", "Lymphocyte", "macrophage", "Odd"]
    assert [entry.source.patient for entry in dataset.entries] == ["TCGA-5P-A9K0", "TCGA-5P-A9K0", "patient 7"]
    assert dataset.entries[0].source.slide == "TCGA-5P-A9K0-01Z-00-DX1"
    assert dataset.entries[0].image.suffix == ".tif" and dataset.entries[1].image.suffix == ".svs"
    image = dataset.read(dataset.entries[1])
    assert image.mpp == 0.252 and image.counts() == {1: 1, 2: 2}
    # The nested one is drawn over the other and takes nothing else of it.
    assert (image.instances == image.instances[5, 4]).sum() == 4 and image.types[image.instances[5, 4]] == 1


@pytest.mark.parametrize("together", [False, True])
def test_monuseg_and_kumar(tmp_path, together):
    images, labels = (tmp_path, tmp_path) if together else (tmp_path / "Tissue Images", tmp_path / "Annotations")
    labels.mkdir(exist_ok=True)
    for name in ("TCGA-18-5592-01Z-00-DX1", "TCGA-21-5784-01Z-00-DX1"):
        picture(images / name)
        (labels / f"{name}.xml").write_text(xml(("", [(SQUARE, ""), (INNER, 'NegativeROA="1"'), (OTHER, "")])))
    (tmp_path / "images.csv").write_text("image,split,mpp\nTCGA-18-5592-01Z-00-DX1.tif,val,0.5\n")
    dataset = open_dataset(tmp_path)
    assert [one.name for one in dataset.classes] == ["nucleus"]
    assert [entry.source.patient for entry in dataset.entries] == ["TCGA-18-5592", "TCGA-21-5784"]
    assert [(entry.source.split, entry.mpp) for entry in dataset.entries] == [("val", 0.5), ("train", 0.252)]
    image = dataset.read(dataset.entries[0])
    assert (image.instances[3:9, 2:8] == 1).sum() == 32 and image.instances[5, 4] == 0 and set(image.types) == {1, 3}


def test_splits_by_folder_and_names_twice(tmp_path):
    for folder in ("Training/p1", "Training/p2", "Testing/p3"):
        picture(tmp_path / folder / "1")
        (tmp_path / folder / "1.xml").write_text(xml(("Epithelial", [(SQUARE, "")])))
    found = {entry.source.image: (entry.source.split, entry.source.patient) for entry in open_dataset(tmp_path).entries}
    assert found == {"p1-1": ("train", "p1"), "p2-1": ("train", "p2"), "p3-1": ("test", "p3")}


BOMB = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]>'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<Annotations",
        "<Annotations><Annotation>",
        BOMB + xml(("Epithelial", [(SQUARE, "")])).replace("Epithelial", "&c;"),
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">' + xml(("Epithelial", [(SQUARE, "")])),
        '<?xml version="1.0" encoding="nonsense"?>' + xml(("Epithelial", [(SQUARE, "")])),
        xml(("Epithelial", [([("a", 1)], "")])),
        xml(("Epithelial", [([("nan", 1), (2, 2), (3, 3)], "")])),
        xml(("Epithelial", [([("inf", 1), (2, 2), (3, 3)], "")])),
        xml(("Epithelial", [([("1e40", 1), (2, 2), (3, 3)], "")])),
        xml(("Epithelial", [(SQUARE, "")])).replace('X="2"', ""),
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, text):
    for name in ("a", "b"):
        picture(tmp_path / name)
        (tmp_path / f"{name}.xml").write_text(xml(("Epithelial", [(SQUARE, "")])))
    (tmp_path / "a.xml").write_text(text)
    dataset = open_dataset(tmp_path)
    dataset.read("b")
    if "a" in [problem.image for problem in dataset.problems]:
        return
    with pytest.raises(HistomixError, match=r"a\.xml"):
        dataset.read("a")


def test_odd_files_are_read_for_what_they_are(tmp_path):
    regions = [([], ""), ([(1, 1), (5, 5)], ""), ([(-9, -9), (2, -9), (2, 2), (-9, 2)], 'Id="x"'), (SQUARE[:3], "")]
    picture(tmp_path / "a")
    (tmp_path / "a.xml").write_text(xml(("Epithelial", regions), head='MicronsPerPixel="0"').replace('Id="x"', ""))
    dataset = open_dataset(tmp_path, mpp=0.5)
    image = dataset.read("a")
    assert (image.instances[:2, :2] == image.instances[0, 0]).all() and len(image.types) == 2
    (tmp_path / "dataset.json").write_text('{"classes": {"4": ["Lymphocyte", [1, 2, 3]]}}')
    with pytest.raises(HistomixError, match="'Epithelial', which the dataset does not list"):
        open_dataset(tmp_path, mpp=0.5).read("a")
    picture(tmp_path / "lonely")
    assert [problem.image for problem in open_dataset(tmp_path).problems] == ["lonely"]


def test_other_xml_files_are_not_taken_for_annotations(tmp_path):
    picture(tmp_path / "a")
    (tmp_path / "a.xml").write_text("<annotation><object/></annotation>")
    assert not recognizes(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "sub")
    assert not recognizes(tmp_path)


def test_names_cannot_leave_the_folder(tmp_path):
    with pytest.raises(HistomixError, match="cannot be the name"):
        written(Writer, tmp_path / "out", [small("../x")], CLASSES)
    image = small()
    written(Writer, tmp_path / "out", [replace(image, source=replace(image.source, patient="../../etc"))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def layers(*named, head='MicronsPerPixel="0.25"'):
    """Layers as ImageScope has them: own name, first attribute and its value, and regions (type, further, points)."""
    text = ""
    for own, (attribute, value), regions in named:
        text += f'<Annotation Id="1" Name="{own}" Type="4" Visible="1"><Attributes>'
        text += (
            f'<Attribute Name="{attribute}" Id="0" Value="{value}" /></Attributes><Regions><RegionAttributeHeaders />'
        )
        for number, (kind, more, points) in enumerate(regions, start=1):
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in points)
            text += f'<Region Id="{number}" Type="{kind}" {more}><Vertices>{vertices}</Vertices></Region>'
        text += "</Regions></Annotation>"
    return f"<Annotations {head}>{text}</Annotations>"


FAR = [(30, 20), (36, 20), (36, 26), (30, 26)]
DEFAULT = ("Description", "")


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ([("Tumor", DEFAULT), ("Stroma", DEFAULT)], ["Tumor", "Stroma"]),
        ([("Tumor", DEFAULT), ("tumor ", DEFAULT)], ["Tumor", "Tumor"]),
        ([("Tumor", ("Cell", "")), ("Stroma", ("Cell", ""))], ["Tumor", "Stroma"]),
        ([("", ("Epithelial", "")), ("", ("Lymphocyte", ""))], ["Epithelial", "Lymphocyte"]),
        ([("x", ("Epithelial", "")), ("x", ("Lymphocyte", ""))], ["Epithelial", "Lymphocyte"]),
        ([("", ("Description", "Tumor")), ("", ("Description", "Stroma"))], ["Tumor", "Stroma"]),
        ([("Tumor", DEFAULT), ("", DEFAULT)], ["Tumor", "nucleus"]),
        ([("", DEFAULT), ("", DEFAULT)], ["nucleus", "nucleus"]),
        ([("None", DEFAULT), ("Tumor", DEFAULT)], ["unclassified", "Tumor"]),
    ],
)
def test_classes_of_layers(tmp_path, named, wanted):
    picture(tmp_path / "a")
    parts = [(*names, [("0", "", ring)]) for names, ring in zip(named, (SQUARE, FAR), strict=True)]
    (tmp_path / "a.xml").write_text(layers(*parts))
    dataset = open_dataset(tmp_path)
    image = dataset.read("a")
    for (row, col), name in zip(((4, 4), (22, 32)), wanted, strict=True):
        assert dataset.class_name(image.types[image.instances[row, col]]) == name
    notes = [note.sentence for note in image.notes]
    said = "a: 2 layers without a name were read as one class, 'nucleus'; name them if they are several."
    assert notes == ([said] if wanted == ["nucleus", "nucleus"] else [])
    if "nucleus" in wanted:
        (tmp_path / "type_info.json").write_text('{"1": ["Tumor", [1, 2, 3]]}')
        dataset = open_dataset(tmp_path)
        kinds = [dataset.class_name(kind) for kind in dataset.read("a").types.values()]
        assert kinds == ["unclassified" if name == "nucleus" else name for name in wanted]


def test_types_of_regions(tmp_path):
    picture(tmp_path / "a")
    regions = [
        ("1", "", SQUARE),
        ("1", "", [(36, 26), (30, 20)]),
        ("2", 'NegativeROA="0"', [("10,0", "2,0"), ("20,0", "8,0")]),
        ("3", "", [(1, 1), (5, 5)]),
        ("4", "", [(1, 1), (5, 5)]),
        ("5", "", [(1, 1)]),
        ("0", "", [(1, 1)]),
        ("0", "", [(1, 1), (5, 5)]),
        ("0", "", []),
        ("2", 'NegativeROA="1"', []),
    ]
    (tmp_path / "a.xml").write_text(layers(("Tumor", DEFAULT, regions)))
    image = open_dataset(tmp_path).read("a")
    y, x = np.mgrid[:30, :40] + 0.5
    wanted = np.zeros((30, 40), int)
    wanted[3:9, 2:8], wanted[20:26, 30:36] = 1, 2
    wanted[((x - 15) / 5) ** 2 + ((y - 5) / 3) ** 2 < 1] = 3
    np.testing.assert_array_equal(image.instances, wanted)
    assert [note.sentence for note in image.notes] == [
        "a: 1 of 9 objects is drawn as an arrow, which is not read, 1 is drawn as a ruler, which is not read, 1 is "
        "drawn as a pin, which is not read, 1 is drawn as a point, which is not read, 1 is drawn as a line, which is "
        "not read, 1 has no outline; they are left out."
    ]
    (tmp_path / "a.xml").write_text(layers(("Tumor", DEFAULT, regions[3:4])))
    with pytest.raises(HistomixError, match="none of the 1 objects can be read: 1 is drawn as an arrow"):
        open_dataset(tmp_path).read("a")


def test_one_patient_in_two_splits(tmp_path):
    for place in ("Train/p1/1", "Test/p1/1"):
        picture(tmp_path / place)
        (tmp_path / f"{place}.xml").write_text(xml(("Epithelial", [(SQUARE, "")])))
    found = {entry.source.image: entry.source.split for entry in open_dataset(tmp_path).entries}
    assert found == {"p1-1": "train", "Test-p1-1": "test"}


def test_files_of_asap_and_halo_are_not_taken_for_imagescope(tmp_path):
    picture(tmp_path / "a")
    for text in (
        '<ASAP_Annotations><Annotations><Annotation Type="Polygon"/></Annotations></ASAP_Annotations>',
        '<Annotations><Annotation Name="x"><Regions><Region Type="Polygon"/></Regions></Annotation></Annotations>',
        '<Annotations><Annotation Name="x"><Vertices><V X="1" Y="2"/></Vertices></Annotation></Annotations>',
    ):
        (tmp_path / "a.xml").write_text(text)
        assert not recognizes(tmp_path)
