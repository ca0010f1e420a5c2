from __future__ import annotations

import pytest

from napari_histomix.datasets.formats.foreign import refusal


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("a.xml", "<annotation><filename>a.png</filename><object><bndbox><xmin>1", "Pascal VOC's XML of boxes"),
        ("a.xml", "<annotation><filename>a.png</filename><object><polygon><pt>", "the XML of Pascal VOC or LabelMe"),
        ("a.xml", '<?xml version="1.0"?>\n<annotations>\n  <version>1.1</version>\n  <meta>', "CVAT's own XML"),
        ("a.ndpa", '<?xml version="1.0"?><annotations>\n<ndpviewstate id="1">', "NDP.view"),
        ("a.json", '{"version": "5.2.1", "flags": {}, "shapes": [{"label": "x", "points": [[1, 2]]}]}', "LabelMe's"),
        ("a.json", '{"a.png1": {"filename": "a.png", "regions": [{"shape_attributes": {}}]}}', "VGG Image Annotator"),
        ("a.json", '[{"id": 1, "annotations": [{"result": [{"from_name": "label"}]}]}]', "Label Studio's own JSON"),
        ("a.roi", "Iout\0", "ROIs of ImageJ"),
    ],
)
def test_files_of_other_tools_are_named(tmp_path, file, content, what):
    (tmp_path / file).write_text(content)
    said = refusal(tmp_path / file)
    assert said.startswith(f"{file} is ") and what in said and "which is not read; " in said and said.endswith(".")


@pytest.mark.parametrize(
    "content",
    [
        "",
        '<Annotations><Annotation Name="x"/></Annotations>',
        "<ASAP_Annotations><Annotations/></ASAP_Annotations>",
        '{"type": "FeatureCollection", "features": []}',
        '{"mag": 40, "nuc": {}}',
        '{"images": [], "annotations": [], "categories": []}',
    ],
)
def test_what_is_read_is_not_foreign(tmp_path, content):
    (tmp_path / "a").write_text(content)
    assert refusal(tmp_path / "a") == ""
