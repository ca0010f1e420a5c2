"""Every format, with files as people have them, read against truth arrays: masks, classes, pixels and what is said."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image
from skimage.draw import ellipse

from napari_histomix.datasets import Dataset, open_dataset, survey
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.datasets.formats.polygons import mask_text
from napari_histomix.records import LabeledImage, NucleusClass, Source, drain
from tests.datasets.formats.format_samples import written

CLASSES = tuple(
    NucleusClass(number, name, (40 * number, 200, 10))
    for number, name in enumerate(("neoplastic", "inflammatory", "connective"), start=1)
)
NAME = unicodedata.normalize("NFC", "Präparat Ångström é 1")
SHAPE = (96, 128)


def scene(seed: int, count: int) -> LabeledImage:
    """Up to ``count`` ellipses that do not touch, of random sizes and classes, on noise."""
    rng = np.random.default_rng(seed)
    instances, types = np.zeros(SHAPE, np.int32), {}
    for _ in range(50 * count):
        if len(types) == count:
            break
        row, col, height, width = rng.integers((8, 8, 3, 3), (SHAPE[0] - 8, SHAPE[1] - 8, 8, 8)).tolist()
        near = instances[max(row - height - 2, 0) : row + height + 3, max(col - width - 2, 0) : col + width + 3]
        if not near.any():
            types[len(types) + 1] = int(rng.integers(1, 4))
            instances[ellipse(row, col, height, width, SHAPE)] = len(types)
    pixels = rng.integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    return LabeledImage(pixels, instances, types, 0.25, Source("people", NAME))


Truth = list[tuple[bytes, str]]


def nuclei_of(image: LabeledImage, names: dict[int, str]) -> Truth:
    """Mask and class name of each nucleus, in an order of its own: ids do not matter."""
    masks = ((image.instances == number, names[kind]) for number, kind in image.types.items())
    return sorted((np.packbits(mask).tobytes(), name) for mask, name in masks if mask.any())


def read(folder: Path) -> tuple[Dataset, LabeledImage, Truth]:
    dataset = open_dataset(folder, mpp=0.25)
    [entry] = dataset.entries
    image = dataset.read(entry)
    return dataset, image, nuclei_of(image, {known.number: known.name for known in dataset.all_classes})


def files(folder: Path, *suffixes: str) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.casefold() in suffixes)
    assert found, suffixes
    return found


TEXTS = (".json", ".geojson", ".xml", ".txt", ".csv", ".yaml")
IMAGES = (".png", ".tif")


def with_bom(folder: Path) -> None:
    for path in files(folder, *TEXTS):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def with_crlf(folder: Path) -> None:
    for path in files(folder, *TEXTS):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def decomposed(folder: Path) -> None:
    """Names in the labels' files, and the labels' own names, as macOS writes them."""
    other = unicodedata.normalize("NFD", NAME)
    for path in files(folder, *TEXTS, ".mat", *IMAGES):
        if path.suffix in TEXTS:
            path.write_bytes(path.read_bytes().replace(NAME.encode(), other.encode()))
            path.write_bytes(
                path.read_bytes().replace(json.dumps(NAME)[1:-1].encode(), json.dumps(other)[1:-1].encode())
            )
        if path.stem == NAME and "images" not in str(path).casefold() and path.suffix != ".tif":
            path.rename(path.with_name(other + path.suffix))


def upper_case(folder: Path) -> None:
    """Folders and the suffixes of images and labels in upper case."""
    for path in files(folder, *IMAGES, ".mat", ".xml", ".geojson", ".txt"):
        path.rename(path.with_suffix(path.suffix.upper()))
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.upper()))


def turned(folder: Path) -> None:
    """The image as a camera that was held upright stores it, its labels as a person drew them."""
    image = next(path for path in files(folder, *IMAGES) if Image.open(path).mode == "RGB")
    pixels = np.rot90(np.asarray(Image.open(image)), 1)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.ascontiguousarray(pixels)).save(image, exif=exif)


def as_crowd(folder: Path) -> None:
    """Every nucleus as a mask with ``iscrowd``, as CVAT writes brush strokes."""
    [path] = files(folder / "annotations", ".json")
    content = json.loads(path.read_text())
    instances = scene(3, 6).instances
    for annotation in content["annotations"]:
        annotation["segmentation"] = mask_text(instances == annotation["id"])
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(content))


def edited(change: Callable[[Any], None], *suffixes: str) -> Callable[[Path], None]:
    """A change of what lies in the JSON files of these suffixes that hold nuclei."""

    def edit(folder: Path) -> None:
        for path in files(folder, *suffixes):
            if path.name not in ("dataset.json", "type_info.json"):
                content = json.loads(path.read_text())
                change(content)
                path.write_text(json.dumps(content))

    return edit


def replaced(pattern: str, text: str, *suffixes: str, count: int = 1) -> Callable[[Path], None]:
    """A change of the first places in text files where a pattern is."""

    def edit(folder: Path) -> None:
        for path in files(folder, *suffixes):
            changed, times = re.subn(pattern, text, path.read_text(), count=count, flags=re.DOTALL)
            if times:
                path.write_text(changed)
                return
        raise AssertionError(pattern)

    return edit


def without_row(folder: Path) -> None:
    """The first nucleus has no row in the table of types."""
    [path] = files(folder, ".csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if f"{NAME},1," not in line))


def without_type(folder: Path) -> None:
    [path] = files(folder, ".mat")
    content = {key: value for key, value in scipy.io.loadmat(path).items() if not key.startswith("__")}
    content["inst_type"][0] = 0
    content.pop("type_map")
    scipy.io.savemat(path, content)


def unlabeled_property(folder: Path) -> None:
    for path in folder.rglob(".zattrs"):
        content = json.loads(path.read_text())
        if "image-label" in content:
            del content["image-label"]["properties"][0]
            path.write_text(json.dumps(content))


def _shift_json(content: Any) -> None:
    nucleus = content["nuc"]["1"]
    nucleus["contour"] = [[x + 5000, y] for x, y in nucleus["contour"]]


def _shift_coco(content: Any) -> None:
    ring = content["annotations"][0]["segmentation"][0]
    content["annotations"][0]["segmentation"] = [[value + 5000 * (place % 2 == 0) for place, value in enumerate(ring)]]


def _shift_geojson(content: Any) -> None:
    geometry = content["features"][0]["geometry"]
    geometry["coordinates"] = [[[x + 5000, y] for x, y in ring] for ring in geometry["coordinates"]]


UNTYPED = {
    "hovernet": without_type,
    "hovernet-json": edited(lambda content: content["nuc"]["1"].update(type=None), ".json"),
    "qupath": edited(lambda content: content["features"][0]["properties"].pop("classification"), ".geojson"),
    "plain": without_row,
    "tiff-pairs": without_row,
    "ome-zarr": unlabeled_property,
}
OUTSIDE = {
    "hovernet-json": edited(_shift_json, ".json"),
    "qupath": edited(_shift_geojson, ".geojson"),
    "coco": edited(_shift_coco, ".json"),
    "aperio-xml": replaced(
        r"(<Vertices>.*?)</Vertices>",
        r'<Vertices><Vertex X="900" Y="1" /><Vertex X="905" Y="1" /><Vertex X="905" Y="9" /></Vertices>',
        ".xml",
    ),
}
"""How the first nucleus loses its class, or comes to lie outside the image."""

ANYWHERE = {"bom": with_bom, "crlf": with_crlf, "nfd": decomposed, "upper case": upper_case, "exif": turned}
NOT_THERE = {
    *((name, "pannuke") for name in ("nfd", "upper case", "exif")),  # arrays, whose names are PanNuke's
    *((name, "ome-zarr") for name in ("bom", "crlf", "nfd", "upper case", "exif")),  # folders that programs write
}
NUCLEI = [name for name, format in FORMATS.items() if format.holds == "nuclei" and format.writes]


def stored(folder: Path, format: str, image: LabeledImage) -> Path:
    return written(FORMATS[format].writer(), folder / "data", [image], CLASSES)


def truth_of(image: LabeledImage) -> Truth:
    return nuclei_of(image, {known.number: known.name for known in CLASSES})


@pytest.mark.parametrize("count", [0, 1, 12])
@pytest.mark.parametrize("format", NUCLEI)
def test_none_one_and_many(tmp_path, format, count):
    image = scene(count, count)
    dataset, found, nuclei = read(stored(tmp_path, format, image))
    assert nuclei == truth_of(image) and not dataset.problems and not found.notes
    np.testing.assert_array_equal(found.pixels[: SHAPE[0], : SHAPE[1]], image.pixels)


@pytest.mark.parametrize(
    ("format", "way"), [(format, way) for format in NUCLEI for way in ANYWHERE if (way, format) not in NOT_THERE]
)
def test_the_same_in_other_bytes(tmp_path, format, way):
    image = scene(3, 6)
    folder = stored(tmp_path, format, image)
    if way == "bom" and not any(path.suffix in TEXTS for path in folder.rglob("*")):
        pytest.skip("no text files")
    ANYWHERE[way](folder)
    dataset, found, nuclei = read(folder)
    assert nuclei == truth_of(image) and not dataset.problems
    np.testing.assert_array_equal(found.pixels, image.pixels)
    assert found.source.image == NAME and found.source.split == "train"


@pytest.mark.parametrize("format", UNTYPED)
def test_a_nucleus_without_a_class_is_unclassified(tmp_path, format):
    image = scene(3, 6)
    folder = stored(tmp_path, format, image)
    UNTYPED[format](folder)
    names = {known.number: known.name for known in CLASSES}
    masks = ((image.instances == n, "unclassified" if n == 1 else names[kind]) for n, kind in image.types.items())
    assert read(folder)[2] == sorted((np.packbits(mask).tobytes(), name) for mask, name in masks)


@pytest.mark.parametrize("format", OUTSIDE)
def test_a_nucleus_outside_the_image_is_counted(tmp_path, format):
    image = scene(3, 6)
    folder = stored(tmp_path, format, image)
    OUTSIDE[format](folder)
    dataset, found, nuclei = read(folder)
    assert len(nuclei) == 5 and set(nuclei) < set(truth_of(image))
    [note] = found.notes
    assert "1 of 6 objects lies outside the image" in note.sentence and note.about == "objects"
    assert note in drain(survey(dataset)).problems


def test_crowds_of_brush_strokes_are_nuclei(tmp_path):
    image = scene(3, 6)
    folder = stored(tmp_path, "coco", image)
    as_crowd(folder)
    assert read(folder)[2] == truth_of(image)


@pytest.mark.parametrize("format", [name for name in NUCLEI if name not in ("ome-zarr", "pannuke")])
@pytest.mark.parametrize("kind", ["gray", "float", "nan"])
def test_images_that_are_no_colors_are_never_black(tmp_path, format, kind):
    folder = stored(tmp_path, format, scene(3, 6))
    path = next(path for path in files(folder, *IMAGES) if Image.open(path).mode == "RGB")
    pixels = np.asarray(Image.open(path)).astype(np.float32) / 255
    if kind == "gray":
        Image.fromarray(np.asarray(Image.open(path).convert("L"))).save(path)
    elif path.suffix == ".png":
        pytest.skip("PNG files hold no floating point")
    else:
        pixels[0, 0] = np.nan if kind == "nan" else 0
        tifffile.imwrite(path, pixels, photometric="rgb")
    problems = drain(survey(open_dataset(folder, mpp=0.25))).problems
    if kind == "float":
        assert not problems
        assert read(folder)[1].pixels.max() > 200
    else:
        assert "color" in problems[0].sentence
