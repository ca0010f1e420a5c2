from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from format_samples import CLASSES, small
from round_trips import same, written

from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.datasets.formats.ome_zarr import Writer
from napari_histomix.datasets.formats.zarr_arrays import open_array
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = Writer(tmp_path, "three", CLASSES)
    writer.add(small(), synthetic=True)
    writer.finish()
    return tmp_path


def edited(path: Path, place: tuple, value) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))


def test_what_was_written_is_read_back(tmp_path):
    dataset = load_sample()
    again = open_dataset(written(dataset, tmp_path / "out", "ome-zarr"))
    assert again.classes == dataset.classes and not again.problems
    for entry in again.entries:
        same(again.read(entry), dataset.read(entry.source.image))


def test_consep_is_read_back(shared, tmp_path):
    dataset = open_dataset(shared / "data" / "consep-train")
    again = open_dataset(written(dataset, tmp_path / "out", "ome-zarr", 1))
    same(again.read(again.entries[0]), dataset.read(again.entries[0].source.image))


def test_one_image_alone_says_its_classes_and_their_colors(folder):
    dataset = open_dataset(folder / "a.zarr")
    assert [(one.number, one.name, one.color) for one in dataset.classes] == [
        (1, "immune cell", (1, 2, 3)),
        (2, "Tumor", (255, 0, 0)),
    ]
    image = dataset.read("a")
    assert dict(image.types) == {1: 2, 2: 1, 3: 2} and image.mpp == 0.25
    assert np.array_equal(image.instances, small().instances)


def test_the_zarr_library_reads_what_napari_ome_zarr_asks_for(folder):
    """As in ``napari_ome_zarr.ome_zarr_reader``: multiscales, omero, labels, colors and properties by label value."""
    zarr = pytest.importorskip("zarr")
    image = small()
    group = zarr.open_group(folder / "a.zarr", mode="r")
    multiscales = group.attrs["multiscales"][0]
    assert multiscales["version"] == "0.4" and [axis["type"] for axis in multiscales["axes"]] == ["channel"] + 2 * [
        "space"
    ]
    assert {axis["unit"] for axis in multiscales["axes"][1:]} == {"micrometer"}
    assert multiscales["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 0.25, 0.25]}]
    assert np.array_equal(np.moveaxis(group["0"][:], 0, -1), image.pixels)
    assert len(group.attrs["omero"]["channels"]) == 3
    assert group.attrs["histomix"] == {"synthetic": True, "notice": SYNTHETIC_NOTICE}
    [name] = group["labels"].attrs["labels"]
    label = group["labels"][name]
    assert label["0"].dtype == np.uint16 and np.array_equal(label["0"][:], image.instances)
    described = label.attrs["image-label"]
    assert (Path("/a.zarr/labels/nuclei") / described["source"]["image"]).resolve() == Path("/a.zarr")
    assert {one["label-value"]: one["class"] for one in described["properties"]} == {
        1: "Tumor",
        2: "immune cell",
        3: "Tumor",
    }
    assert {one["label-value"]: one["rgba"] for one in described["colors"]}[2] == [1, 2, 3, 255]


def test_images_larger_than_a_chunk(tmp_path):
    zarr = pytest.importorskip("zarr")
    image = small(shape=(1030, 2100))
    Writer(tmp_path, "large", CLASSES).add(image, synthetic=False)
    assert np.array_equal(zarr.open_group(tmp_path / "a.zarr")["labels/nuclei/0"][:], image.instances)
    assert np.array_equal(open_dataset(tmp_path).read("a").pixels, image.pixels)


def rewritten(folder: Path, version: int, **options) -> Path:
    """The same image as the zarr library writes it: version 2 as OME-Zarr 0.4, version 3 as 0.5."""
    zarr = pytest.importorskip("zarr")
    source, target = zarr.open_group(folder / "a.zarr", mode="r"), folder / "b.zarr"
    for path in ("", "labels", "labels/nuclei"):
        found = source[path] if path else source
        attributes = dict(found.attrs)
        group = zarr.open_group(target / path, mode="w" if not path else "a", zarr_format=version)
        group.attrs.update({"ome": {"version": "0.5", **attributes}} if version == 3 else attributes)
        if path != "labels":
            array = found["0"][:]
            here = {key: value(array) if callable(value) else value for key, value in options.items()}
            group.create_array("0", data=array, **{"chunks": (*array.shape[:-2], 8, 6), **here})
    shutil.rmtree(folder / "a.zarr")
    return folder


def codecs(name: str):
    import numcodecs
    from zarr import codecs

    return {
        "v2 none": (2, {"compressors": None}),
        "v2 blosc": (2, {"compressors": numcodecs.Blosc("lz4", shuffle=2)}),
        "v2 blosc zstd": (2, {"compressors": numcodecs.Blosc("zstd")}),
        "v2 zstd": (2, {"compressors": numcodecs.Zstd()}),
        "v2 gzip": (2, {"compressors": numcodecs.GZip()}),
        "v2 fortran": (2, {"order": "F", "compressors": numcodecs.Zlib()}),
        "v2 one chunk": (2, {"chunks": lambda array: tuple(side + 3 for side in array.shape)}),
        "v3 default": (3, {}),
        "v3 gzip and checksum": (3, {"compressors": [codecs.GzipCodec(), codecs.Crc32cCodec()]}),
        "v3 none": (3, {"compressors": None}),
        "v3 checksum": (3, {"compressors": [codecs.Crc32cCodec()]}),
        "v3 blosc": (3, {"compressors": codecs.BloscCodec(typesize=1)}),
        "v3 big endian": (3, {"serializer": codecs.BytesCodec(endian="big")}),
        "v3 transposed": (3, {"filters": lambda array: [codecs.TransposeCodec(order=tuple(range(array.ndim))[::-1])]}),
        "v3 shards": (3, {"shards": lambda array: (*array.shape[:-2], 16, 12)}),
        "v3 old keys": (3, {"chunk_key_encoding": {"name": "v2", "separator": "."}}),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "v2 none",
        "v2 blosc",
        "v2 blosc zstd",
        "v2 zstd",
        "v2 gzip",
        "v2 fortran",
        "v2 one chunk",
        "v3 default",
        "v3 gzip and checksum",
        "v3 none",
        "v3 checksum",
        "v3 blosc",
        "v3 big endian",
        "v3 transposed",
        "v3 shards",
        "v3 old keys",
    ],
)
def test_what_the_zarr_library_writes_is_read(folder, name):
    pytest.importorskip("zarr")
    version, options = codecs(name)
    dataset = open_dataset(rewritten(folder, version, **options))
    assert (folder / "b.zarr" / ("zarr.json" if version == 3 else ".zattrs")).is_file()
    same(dataset.read("b"), small())


def test_missing_chunks_are_background(folder):
    shutil.rmtree(folder / "a.zarr" / "labels" / "nuclei" / "0" / "0")
    assert open_dataset(folder).read("a").counts() == {}


def test_labels_without_classes_are_nuclei(folder):
    (folder / "dataset.json").unlink()
    edited(folder / "a.zarr/labels/nuclei/.zattrs", ("image-label",), {})
    dataset = open_dataset(folder)
    assert [one.name for one in dataset.classes] == ["nucleus"] and dataset.read("a").counts() == {1: 3}


LABELS = "a.zarr/labels/nuclei/"


@pytest.mark.parametrize(
    ("file", "place", "value", "words"),
    [
        ("a.zarr/.zattrs", ("multiscales",), [], "does not describe its image"),
        ("a.zarr/.zattrs", ("multiscales", 0, "axes"), None, "does not describe its image"),
        ("a.zarr/.zattrs", ("multiscales", 0, "datasets", 0, "path"), "../../x", "leads to no part"),
        ("a.zarr/.zattrs", ("multiscales", 0, "datasets", 0, "path"), "/etc", "leads to no part"),
        ("a.zarr/.zattrs", ("multiscales", 0, "datasets", 0, "path"), "..", "leads to no part"),
        ("a.zarr/.zattrs", ("multiscales", 0, "datasets", 0, "path"), "x" * 300, "leads to no part"),
        ("a.zarr/.zattrs", ("multiscales", 0, "datasets", 0, "path"), 0, "leads to no part"),
        ("a.zarr/labels/.zattrs", ("labels",), ["../../b"], "leads to no part"),
        ("a.zarr/labels/.zattrs", ("labels",), [], "has no labels"),
        ("a.zarr/labels/.zattrs", ("labels",), ["x", "y"], "name the one with the nuclei"),
        ("a.zarr/labels/.zattrs", ("labels",), ["x"], "is no Zarr group"),
        (LABELS + ".zattrs", ("image-label", "properties"), 7, "metadata of nuclei are damaged"),
        (LABELS + ".zattrs", ("image-label", "properties", 0, "label-value"), [], "metadata of nuclei are damaged"),
        (LABELS + ".zattrs", ("image-label", "properties", 0, "class"), "other", "none of the classes"),
        (LABELS + ".zattrs", ("image-label", "colors", 0), "red", "metadata of nuclei are damaged"),
    ],
)
def test_what_is_wrong_is_said_when_the_folder_is_opened(folder, file, place, value, words):
    edited(folder / file, place, value)
    with pytest.raises(HistomixError, match=words):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("file", "place", "value", "words"),
    [
        ("a.zarr/.zattrs", ("multiscales", 0, "datasets", 0, "path"), "1", "no longer there"),
        ("a.zarr/.zattrs", ("multiscales", 0, "axes", 0, "name"), "t", "save it with c, y, x alone"),
        (LABELS + ".zattrs", ("multiscales", 0, "axes"), ["z", "y", "x"], "axes in its metadata"),
        (LABELS + "0/.zarray", ("shape",), [24, 20], "labels are 20×24 pixels"),
        (LABELS + "0/.zarray", ("shape",), [2**30, 2**30], "too large"),
        (LABELS + "0/.zarray", ("shape",), [2**16, 2**16], "too large"),
        (LABELS + "0/.zarray", ("shape",), [-1, 20], "are damaged"),
        (LABELS + "0/.zarray", ("shape",), [20], "are damaged"),
        (LABELS + "0/.zarray", ("shape",), [20, True], "are damaged"),
        (LABELS + "0/.zarray", ("shape",), "20", "are damaged"),
        (LABELS + "0/.zarray", ("chunks",), [0, 24], "are damaged"),
        (LABELS + "0/.zarray", ("chunks",), [2**30, 2**20], "too large"),
        (LABELS + "0/.zarray", ("chunks",), [10, 24], "another size"),
        (LABELS + "0/.zarray", ("dtype",), "|O", "plain numbers"),
        (LABELS + "0/.zarray", ("dtype",), [["a", "<u2"]], "plain numbers"),
        (LABELS + "0/.zarray", ("dtype",), "<U4", "plain numbers"),
        (LABELS + "0/.zarray", ("dtype",), "<f4", "another size"),
        (LABELS + "0/.zarray", ("filters",), [{"id": "pickle"}], "plain numbers"),
        (LABELS + "0/.zarray", ("compressor", "id"), "pickle", "compressed with 'pickle'"),
        (LABELS + "0/.zarray", ("compressor",), "zlib", "are damaged"),
        (LABELS + "0/.zarray", ("compressor",), None, "another size"),
        (LABELS + "0/.zarray", ("fill_value",), 1e30, "are damaged"),
        (LABELS + "0/.zarray", ("dimension_separator",), "/../", "are damaged"),
    ],
)
def test_what_is_wrong_is_said_when_an_image_is_read(folder, file, place, value, words):
    dataset = open_dataset(folder)
    edited(folder / file, place, value)
    with pytest.raises(HistomixError, match=words):
        dataset.read("a")


def test_a_bomb_is_refused_before_it_is_inflated(folder):
    chunk = folder / LABELS / "0" / "0" / "0"
    chunk.write_bytes(zlib.compress(bytes(2**26), 9))
    with pytest.raises(HistomixError, match="another size"):
        open_dataset(folder).read("a")
    blosc = pytest.importorskip("numcodecs").blosc
    bomb = blosc.compress(bytes(2**26), b"zstd", 9)
    for name, content in (
        ("blosc", bomb),
        ("blosc", bomb[:4] + (960).to_bytes(4, "little") + bomb[8:]),
        ("zstd", pytest.importorskip("numcodecs").zstd.compress(bytes(2**26))),
    ):
        edited(folder / LABELS / "0" / ".zarray", ("compressor",), {"id": name})
        chunk.write_bytes(content)
        with pytest.raises(HistomixError, match="is damaged"):
            open_dataset(folder).read("a")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
@pytest.mark.parametrize("what", ["0", "labels/nuclei/0/0/0", ".zattrs", "labels"])
def test_links_out_of_the_folder_are_not_followed(folder, tmp_path_factory, what):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    path = folder / "a.zarr" / what
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(HistomixError, match="leads out of"):
        open_dataset(folder).read("a")


def test_two_images_of_one_name_and_a_folder_without_an_image(folder):
    shutil.copytree(folder / "a.zarr", folder / "a.ome.zarr")
    (folder / "empty.zarr").mkdir()
    (folder / "empty.zarr" / ".zgroup").write_text("{}")
    dataset = open_dataset(folder)
    assert [entry.source.image for entry in dataset.entries] == ["a"]
    assert ["second image of that name" in one.sentence for one in dataset.problems] == [True, False]


def test_metadata_of_version_3_that_are_not_read(folder):
    pytest.importorskip("zarr")
    rewritten(folder, 3)
    dataset, path = open_dataset(folder), folder / "b.zarr" / "labels" / "nuclei" / "0" / "zarr.json"
    content = path.read_text()
    for place, value, words in (
        (("codecs", 0, "name"), "vlen-bytes", "encoded as 'vlen-bytes'"),
        (("codecs",), [{"name": "bytes"}, {"name": "gzip"}, {"name": "gzip"}], "several times over"),
        (("codecs",), [], "are damaged"),
        (("codecs",), 3, "are damaged"),
        (("codecs",), [{"name": "transpose", "configuration": {"order": [0, 0]}}, {"name": "bytes"}], "are damaged"),
        (("data_type",), "string", "plain numbers"),
        (("data_type",), {"name": "fixed_length_utf32"}, "plain numbers"),
        (("chunk_grid", "name"), "rectilinear", "not read"),
        (("node_type",), "group", "not read"),
    ):
        edited(path, place, value)
        with pytest.raises(HistomixError, match=words):
            dataset.read("b")
        path.write_text(content)


def test_shards_whose_index_lies(folder):
    pytest.importorskip("zarr")
    version, options = codecs("v3 shards")
    rewritten(folder, version, **options)
    dataset = open_dataset(folder)
    for chunk in (folder / "b.zarr" / "labels" / "nuclei" / "0" / "c").rglob("*"):
        if chunk.is_file():
            content = chunk.read_bytes()
            chunk.write_bytes(content[:-40] + (2**40).to_bytes(8, "little") + content[-32:])
    with pytest.raises(HistomixError, match="beyond the end"):
        dataset.read("b")


def test_an_array_of_many_small_chunks_is_refused(folder):
    path = folder / "a.zarr" / "0" / ".zarray"
    edited(path, ("shape",), [3, 4096, 4096])
    edited(path, ("chunks",), [1, 1, 1])
    with pytest.raises(HistomixError, match="in 50,331,648 chunks is too large"):
        open_array(path.parent, folder)


def group(folder: Path, attributes: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text(json.dumps(attributes))


@pytest.mark.parametrize("count", [1, 2])
def test_series_of_bioformats2raw(folder, count):
    store = folder / "b" / "x.zarr"
    group(store, {"bioformats2raw.layout": 3})
    group(store / "OME", {"series": [str(number) for number in range(count)]})
    (store / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    for number in range(count):
        shutil.copytree(folder / "a.zarr", store / str(number))
    for root in (store, store.parent):
        dataset = open_dataset(root)
        assert [entry.source.image for entry in dataset.entries] == (["x"] if count == 1 else ["x-0", "x-1"])
        assert not dataset.problems
        for entry in dataset.entries:
            same(dataset.read(entry), replace(small(), types={1: 2, 2: 1, 3: 2}))


def test_fields_of_a_plate(folder):
    store = folder / "b" / "p.zarr"
    group(store, {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}, {"path": "C/3"}]}})
    for well in ("A/1", "B/2"):
        group(store / well, {"well": {"images": [{"path": "0"}, {"path": "1"}]}})
        shutil.copytree(folder / "a.zarr", store / well / "0")
        shutil.copytree(folder / "a.zarr", store / well / "1")
    shutil.rmtree(store / "B" / "2" / "1" / "labels")
    dataset = open_dataset(store.parent)
    assert [entry.source.image for entry in dataset.entries] == ["p-A-1-0", "p-A-1-1", "p-B-2-0"]
    assert sorted(problem.sentence for problem in dataset.problems) == [
        "p-B-2-1: p.zarr/B/2/1 has no labels; add a label image to it.",
        "p-C-3: p.zarr/C/3 is no Zarr group with OME-Zarr's metadata; export it as OME-Zarr.",
    ]
    same(dataset.read("p-B-2-0"), replace(small(), types={1: 2, 2: 1, 3: 2}))


def test_stores_of_one_name_in_two_splits(folder):
    root = folder / "b"
    for split in ("Train", "Test"):
        shutil.copytree(folder / "a.zarr", root / split / "a.zarr")
    dataset = open_dataset(root)
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == {"a": "train", "test-a": "test"}
    shutil.rmtree(root / "Test" / "a.zarr" / "labels")
    dataset = open_dataset(root)
    assert [entry.source.image for entry in dataset.entries] == ["a"] and len(dataset.problems) == 1


def test_an_array_alone_is_refused_by_name(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.save_array(str(tmp_path / "x.zarr"), np.zeros((4, 4), np.uint8))
    with pytest.raises(HistomixError, match=r"x\.zarr is no Zarr group with OME-Zarr's metadata"):
        open_dataset(tmp_path)
