from __future__ import annotations

import gc
import math
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
from format_samples import small, written

from napari_histomix.datasets.text_files import MAX_PIXELS, check_size, read_bytes, read_json, read_xml, whole_id
from napari_histomix.records import HistomixError, NucleusClass


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1"),
        (b'{"a":\n1,}', "line 2"),
        ("é".encode("latin-1"), "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"9" * 10_000, "not valid JSON"),
        (b" " * 2000, "too large"),
    ],
)
def test_json_that_is_refused(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(HistomixError, match=words):
        read_json(path, 1000 if words == "too large" else 10**7)


def test_json_that_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"ä": [1, 2.5, null]}', encoding="utf-8")
    assert read_json(path) == {"ä": [1, 2.5, None]}
    path.write_text("[NaN, Infinity]")
    assert math.isnan(read_json(path, not_a_number=True)[0])
    with pytest.raises(HistomixError, match="no longer there"):
        read_json(tmp_path / "b.json")
    with pytest.raises(HistomixError, match="no longer there"):
        read_bytes(tmp_path, 10)


def test_collections_go_on_after_reading(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + "[]," * 100_000 + "1]")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_json, [path] * 8))
    assert gc.isenabled()
    gc.disable()
    try:
        read_json(path)
        assert not gc.isenabled()
    finally:
        gc.enable()


LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid XML"),
        (b"<a><b></a>", "line 1"),
        (b"plain text", "not valid XML"),
        (f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]><a>&a9;</a>'.encode(), "DOCTYPE"),
        (f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]><a>&a9;</a>'.encode("utf-16"), "DOCTYPE"),
        (b'<?xml version="1.0"?>\n<!-- x --><!DOCTYPE a SYSTEM "http://example.org/a.dtd"><a/>', "DOCTYPE"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "DOCTYPE"),
        (b"<a>&b;</a>", "not valid XML"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "XML|encoding"),
        (b'<?xml version="1.0" encoding="utf-7"?><a/>', "XML|encoding"),
        (b"<a>" * 1000, "too large"),
    ],
)
def test_xml_that_is_refused(tmp_path, content, words):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(HistomixError, match=words):
        read_xml(path, 1000 if words == "too large" else 10**7)


def test_xml_that_is_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes('<?xml version="1.0" encoding="utf-16"?><a b="ü&amp;"/>'.encode("utf-16"))
    assert read_xml(path).get("b") == "ü&"
    path.write_bytes(b"<a>" * 100_000 + b"</a>" * 100_000)
    assert sum(1 for _ in read_xml(path).iter("a")) == 100_000


def test_sizes_and_ids():
    check_size((MAX_PIXELS, 1), "a")
    with pytest.raises(HistomixError, match="cut it into smaller"):
        check_size((MAX_PIXELS, 2), "a")
    with pytest.raises(HistomixError, match="no pixels"):
        check_size((0, 5), "a")
    assert [
        whole_id(text) for text in ("7", "007", "2147483647", "2147483648", "-1", "1.0", "", "٣", "9" * 5000, "²")
    ] == [7, 7, 2147483647, 0, 0, 0, 0, 3, 0, 0]


@pytest.mark.parametrize("module", ["hovernet_json", "aperio_xml", "qupath", "pannuke"])
def test_writers_refuse_a_nucleus_of_no_class(tmp_path, module):
    classes = (NucleusClass(1, "Tumor", (0, 0, 0)),)
    with pytest.raises(HistomixError, match="the type 3, which is none of the classes"):
        written(
            import_module(f"napari_histomix.datasets.formats.{module}").Writer, tmp_path / "out", [small()], classes
        )
