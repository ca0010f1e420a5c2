"""What napari opens and saves with the package, through the manifest as napari does it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import tifffile
from napari.components import LayerList, ViewerModel
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from npe2 import PluginManager
from npe2.io_utils import read
from PIL import Image as Picture

from napari_histomix.datasets import SYNTHETIC_NOTICE, load_sample, open_dataset, sample_folder
from napari_histomix.datasets.dataset_writer import convert
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.datasets.opening import read_label_file
from napari_histomix.records import HistomixError, drain
from napari_histomix.widgets.layer_making import nuclei_layer
from napari_histomix.widgets.readers import file_reader, folder_reader
from napari_histomix.widgets.writers import write_coco, write_geojson, write_mat, write_pair

PLUGIN = "napari-histomix"
FILES = {
    "qupath": "geojson/*.geojson",
    "hovernet-json": "json/*.json",
    "hovernet": "Labels/*.mat",
    "aperio-xml": "*.xml",
}


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """The sample in some format, made once; never write into it."""
    made: dict[str, Path] = {}

    def get(format: str) -> Path:
        if format not in made:
            made[format] = tmp_path_factory.mktemp("formats") / format
            drain(convert(load_sample(), made[format], format))
        return made[format]

    return get


def label_file(folder: Path, format: str) -> Path:
    return min(path for path in folder.rglob(FILES[format].rpartition("/")[2]) if path.name != "dataset.json")


def commands(manager: PluginManager, path: Path) -> set[str]:
    return {one.command for one in manager.iter_compatible_readers([str(path)]) if one.plugin_name == PLUGIN}


@pytest.fixture
def manager(qapp) -> PluginManager:
    from napari.plugins import _initialize_plugins

    _initialize_plugins()
    return PluginManager.instance()


@pytest.mark.parametrize("format", [one.name for one in FORMATS.values() if one.writes and one.holds == "nuclei"])
def test_a_folder_of_every_format_opens_as_its_first_image_and_nuclei(manager, converted, format):
    folder = converted(format)
    assert f"{PLUGIN}.read_folder" in commands(manager, folder)
    begun = time.monotonic()
    image, nuclei = read([str(folder)], stack=False, plugin_name=PLUGIN)
    assert time.monotonic() - begun < 5
    expected = load_sample().read(load_sample().entries[0])
    assert image[1]["name"] == expected.source.image and image[1]["metadata"]["histomix"]["image"] == image[1]["name"]
    np.testing.assert_array_equal(image[0], expected.pixels)
    assert image[1]["scale"] == pytest.approx((0.5, 0.5)) and image[1]["units"] == ("um", "um")
    assert ((nuclei[0] > 0) == (expected.instances > 0)).mean() > 0.999
    viewer = ViewerModel()
    layer = viewer._add_layer_from_data(*nuclei)[0]
    assert len(layer.features) == len(expected.types) and set(layer.features.columns) == {"index", "class"}


@pytest.mark.parametrize("format", FILES)
def test_a_label_file_opens_as_labels_with_classes_and_scale(manager, converted, format, tmp_path):
    path = label_file(converted(format), format)
    image = load_sample().read(path.stem)
    ((data, keywords, kind),) = read([str(path)], stack=False, plugin_name=PLUGIN)
    assert (
        kind == "labels"
        and keywords["name"] == f"{path.stem} nuclei"
        and keywords["scale"] == pytest.approx((0.5, 0.5))
    )
    np.testing.assert_array_equal(data > 0, image.instances > 0)
    classes = dict(zip(keywords["features"]["index"], keywords["features"]["class"], strict=True))
    names = {one.number: one.name for one in load_sample().classes}
    for number, kind in image.types.items():
        inside = np.unique(data[image.instances == number])
        assert {classes[int(one)] for one in inside} == {names[kind]}
    # The same in the colors of the classes, and with the size that the nuclei reach where the image is not there.
    color = {one.name: np.array([*one.color, 255]) / 255 for one in load_sample().classes}
    if format in ("qupath", "hovernet"):
        for number, name in classes.items():
            np.testing.assert_allclose(keywords["colormap"].color_dict[number], color[name], atol=1e-6)
    alone = Path(shutil.copy(path, tmp_path))
    ((data, keywords, _),) = read([str(alone)], stack=False, plugin_name=PLUGIN)
    rows, cols = data.shape
    np.testing.assert_array_equal(data > 0, image.instances[:rows, :cols] > 0)
    assert not image.instances[rows:].any() and not image.instances[:, cols:].any()


def test_qupath_annotations_of_a_person_open(tmp_path):
    """Holes, a class of several words, and an object without a class."""
    square = [[2, 2], [12, 2], [12, 12], [2, 12], [2, 2]]
    hole = [[4, 4], [4, 8], [8, 8], [8, 4], [4, 4]]
    properties = {"objectType": "annotation", "classification": {"name": "Immune cells", "color": [9, 8, 7]}}
    objects = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square, hole]}, "properties": properties},
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[20, 20], [25, 20], [25, 30], [20, 20]]]},
            "properties": {"objectType": "annotation"},
        },
    ]
    path = tmp_path / "slide.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": objects}))
    found = read_label_file(path)
    assert found.instances.shape == (30, 25) and found.mpp is None
    assert (found.instances == 1).sum() == 100 - 16
    assert [one.name for one in found.classes] == ["Immune cells", "unclassified"]
    assert found.classes[0].color == (9, 8, 7)


def test_what_is_not_ours_is_left_to_others(manager, tmp_path):
    (tmp_path / "a.json").write_text('{"some": "settings"}')
    (tmp_path / "a.xml").write_text("<svg/>")
    scipy.io.savemat(tmp_path / "a.mat", {"voltage": np.zeros(3)})
    (tmp_path / "b.mat").write_bytes(b"text")
    (tmp_path / "a.geojson").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "Images").mkdir()
    for name in ("a.json", "a.xml", "a.mat", "b.mat", "a.geojson", "nothing.json"):
        assert file_reader(str(tmp_path / name)) is None, name
    for folder in (tmp_path, tmp_path / "empty", tmp_path / "nothing"):
        assert folder_reader(str(folder)) is None
    assert file_reader([str(tmp_path / "a.json")]) is None and folder_reader([str(sample_folder())]) is None


@pytest.mark.parametrize("format", FILES)
def test_damaged_files_are_one_sentence_about_them(converted, format, tmp_path):
    source = label_file(converted(format), format)
    content = source.read_bytes()
    path = tmp_path / source.name
    # What stands at the end of a .mat, the centroids, nothing here needs.
    for size in (200, len(content) // 3, len(content) // 2 if format == "hovernet" else len(content) - 20):
        path.write_bytes(content[:size])
        reader = file_reader(str(path))
        assert reader is not None
        with pytest.raises(HistomixError) as caught:
            reader(str(path))
        said = str(caught.value)
        assert path.name in said and "histomix-" not in said and said.endswith(".") and "\n" not in said


def test_nuclei_that_reach_too_far_are_refused(tmp_path):
    ring = [[0, 0], [4_000_000, 0], [4_000_000, 4_000_000], [0, 0]]
    one = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    path = tmp_path / "slide.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [one]}))
    with pytest.raises(HistomixError, match=r"slide\.geojson has 4000000×4000000 pixels"):
        read_label_file(path)


# Writing.


@pytest.fixture
def layer() -> Labels:
    """The nuclei of an image of the sample, as the dock shows them."""
    dataset = load_sample()
    image = dataset.read(dataset.entries[1])
    return nuclei_layer("shown", image, image.types, dataset.classes, {"scale": (0.5, 0.5), "units": ("um", "um")})


def save(layer, path: Path) -> Path:
    assert layer.save(str(path), plugin=PLUGIN) == [str(path)]
    return path


@pytest.mark.parametrize("suffix", [".geojson", ".mat"])
def test_nuclei_are_saved_and_open_again(manager, layer, tmp_path, suffix):
    path = save(layer, tmp_path / f"saved{suffix}")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    found = read_label_file(path)
    rows, cols = found.instances.shape
    np.testing.assert_array_equal(found.instances > 0, layer.data[:rows, :cols] > 0)
    image = load_sample().read(load_sample().entries[1])
    assert len(found.types) == len(image.types)
    if suffix == ".geojson":
        names = {one.number: (one.name, one.color) for one in found.classes}
        assert set(names.values()) == {(one.name, one.color) for one in load_sample().classes}
        by_name = {names[kind][0]: list(found.types.values()).count(kind) for kind in names}
        assert by_name == {one.name: image.counts()[one.number] for one in load_sample().classes}
        assert "Area µm^2" in path.read_text(encoding="utf-8")
    else:
        np.testing.assert_array_equal(found.instances, image.instances)
        assert found.types == image.types


def test_coco_for_the_image_of_the_layer(manager, layer, tmp_path):
    content = json.loads(save(layer, tmp_path / "saved.json").read_text(encoding="utf-8"))
    image = load_sample().read(load_sample().entries[1])
    (one,) = content["images"]
    assert one["file_name"] == f"{image.source.image}.png" and (one["height"], one["width"]) == image.instances.shape
    assert {category["id"]: category["name"] for category in content["categories"]} == {
        one.number: one.name for one in load_sample().classes
    }
    assert len(content["annotations"]) == len(image.types)
    assert sum(one["area"] for one in content["annotations"]) == (image.instances > 0).sum()


def test_labels_without_classes_or_with_numbers_or_names(manager, tmp_path):
    data = np.zeros((20, 30), int)
    data[2:6, 3:9], data[10:15, 20:28] = 4, 9
    plain = save(Labels(data), tmp_path / "plain.geojson")
    assert [one.name for one in read_label_file(plain).classes] == ["nucleus"]
    assert "Area" not in plain.read_text(encoding="utf-8")
    numbered = Labels(data, features=pd.DataFrame({"index": [4, 9], "type": [3.0, 1.0]}))
    assert [one.name for one in read_label_file(save(numbered, tmp_path / "n.geojson")).classes] == ["type 1", "type 3"]
    labels = scipy.io.loadmat(save(numbered, tmp_path / "n.mat"))
    assert labels["inst_type"].ravel().tolist() == [3, 1] and labels["inst_map"].dtype == np.int32
    named = Labels(data, features=pd.DataFrame({"index": [4, 9, 12], "class": ["b", None, "c"]}))
    found = read_label_file(save(named, tmp_path / "named.geojson"))
    assert sorted(one.name for one in found.classes) == ["b", "nucleus"]
    # A table of two rows for labels 1 and 2 has none for the background.
    rows = Labels(np.where(data == 9, 2, np.minimum(data, 1)), features=pd.DataFrame({"class": ["first", "second"]}))
    found = read_label_file(save(rows, tmp_path / "rows.geojson"))
    assert sorted(one.name for one in found.classes) == ["first", "second"]


@pytest.mark.parametrize("largest", [200, 70_000])
@pytest.mark.parametrize("synthetic", [False, True])
def test_a_tiff_of_ids_with_scale_and_flag(manager, tmp_path, largest, synthetic):
    data = np.zeros((20, 30), int)
    data[2:6, 3:9] = largest
    about = {"histomix": {"synthetic": True}} if synthetic else {}
    path = save(Labels(data, scale=(0.25, 0.25), units=("um", "um"), metadata=about), tmp_path / "ids.tif")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        np.testing.assert_array_equal(page.asarray(), data)
        assert page.dtype == (np.uint16 if largest < 2**16 else np.int32)
        assert (page.description == SYNTHETIC_NOTICE) is synthetic
    from napari_histomix.datasets import read_mpp

    assert read_mpp(path) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("synthetic", [False, True])
def test_an_image_keeps_scale_and_flag(manager, tmp_path, suffix, synthetic):
    from napari_histomix.datasets import read_mpp, read_pixels

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    about = {"histomix": {"synthetic": True}} if synthetic else {}
    layer = Image(pixels, rgb=True, scale=(0.5, 0.5), units=("um", "um"), metadata=about)
    path = save(layer, tmp_path / f"image{suffix}")
    np.testing.assert_array_equal(read_pixels(path), pixels)
    assert read_mpp(path) == pytest.approx(0.5, rel=1e-4)
    if suffix == ".png":
        said = Picture.open(path).info.get("Description", "")
    else:
        said = tifffile.TiffFile(path).pages.first.description
    assert (said == SYNTHETIC_NOTICE) is synthetic


def test_what_cannot_be_saved_is_one_sentence(manager, tmp_path):
    with pytest.raises(HistomixError, match="no RGB image"):
        Image(np.zeros((5, 5)), name="gray").save(str(tmp_path / "a.png"), plugin=PLUGIN)
    with pytest.raises(HistomixError, match="more than one plane"):
        Labels(np.zeros((3, 5, 5), int), name="stack").save(str(tmp_path / "a.geojson"), plugin=PLUGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ours_first", [False, True])
def test_napari_still_saves_with_its_own_writers_by_default(manager, ours_first):
    # Plugins are found in the order in which the disk lists them.
    found = PluginManager()
    for manifest in sorted(manager.iter_manifests(), key=lambda one: (one.name == PLUGIN) is not ours_first):
        found.register(manifest)
    for path, kind in (("a.png", "image"), ("a.tif", "image"), ("a.tiff", "labels"), ("a.tif", "labels")):
        assert found.get_writer(path, [kind])[0].plugin_name == "napari"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_image_and_its_labels_are_saved_as_a_pair(manager, layer, tmp_path, suffix):
    image = load_sample().read(load_sample().entries[1])
    shown = Image(image.pixels, rgb=True, scale=(0.5, 0.5), units=("um", "um"))
    path = tmp_path / f"saved{suffix}"
    LayerList([layer, shown]).save(str(path))
    assert {one.name for one in tmp_path.iterdir()} == {path.name, "saved_masks.tif"}
    (entry,) = open_dataset(tmp_path).entries
    again = open_dataset(tmp_path).read(entry)
    np.testing.assert_array_equal(again.pixels, image.pixels)
    np.testing.assert_array_equal(again.instances, image.instances)
    assert again.mpp == pytest.approx(0.5, rel=1e-4)


def test_a_pair_gets_an_ending_and_replaces_no_labels_that_nobody_was_asked_about(manager, layer, tmp_path):
    image = load_sample().read(load_sample().entries[1])
    layers = [(image.pixels, {"name": "a", "rgb": True}, "image"), (layer.data, {"name": "a"}, "labels")]
    assert [Path(file).name for file in write_pair(str(tmp_path / "a.b"), layers)] == ["a.b.tif", "a.b_masks.tif"]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # napari asks about the name that was typed, which is none of these.
    for typed in ("a.b", "a.b.png"):
        with pytest.raises(HistomixError, match=r"a\.b(_masks)?\.tif exists already"):
            write_pair(str(tmp_path / typed), layers)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    layers[1][0][:5] = 0
    write_pair(str(tmp_path / "a.b.tif"), layers)
    assert (tmp_path / "a.b_masks.tif").read_bytes() != before["a.b_masks.tif"], "replaced with its image"


def test_labels_get_the_ending_of_their_format(manager, layer, tmp_path):
    meta = {"name": "a", "features": layer.features, "metadata": layer.metadata}
    for write, ending in ((write_geojson, ".geojson"), (write_coco, ".json"), (write_mat, ".mat")):
        assert write(str(tmp_path / "labels"), layer.data, meta) == [str(tmp_path / f"labels{ending}")]
        assert (tmp_path / f"labels{ending}").is_file()


def test_of_a_pair_that_cannot_be_saved_nothing_is(manager, tmp_path):
    shown = Image(np.zeros((5, 5, 3), np.uint8), rgb=True)
    with pytest.raises(HistomixError, match="more than one plane"):
        LayerList([shown, Labels(np.zeros((3, 5, 5), int))]).save(str(tmp_path / "a.png"), plugin=PLUGIN)
    assert list(tmp_path.iterdir()) == []


def test_nuclei_layers_are_colored_as_before(layer):
    image = load_sample().read(load_sample().entries[1])
    assert isinstance(layer.colormap, DirectLabelColormap)
    colors = {one.number: np.array([*one.color, 255]) / 255 for one in load_sample().classes}
    for number, kind in image.types.items():
        np.testing.assert_allclose(layer.colormap.color_dict[number], colors[kind], atol=1e-6)
    assert open_dataset(sample_folder()).classes == load_sample().classes
