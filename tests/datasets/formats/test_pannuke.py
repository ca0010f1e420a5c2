from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from format_samples import assert_same, real_consep, real_sample, small, written
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.datasets import SYNTHETIC_NOTICE, open_dataset
from napari_histomix.datasets.formats import pannuke
from napari_histomix.datasets.formats.pannuke import Writer, cut, open_npy, pannuke_class, recognizes
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, Source

KINDS = (
    NucleusClass(2, "Tumor", (9, 8, 7)),
    NucleusClass(7, "lymphocyte", (1, 2, 3)),
    NucleusClass(9, "DEAD", (0, 0, 0)),
)


def to_hovernet(images, masks, index):
    """The logic by which PanNuke is turned into HoVer-Net's patches: image, ids without gaps, types."""
    image, mask = np.array(images[index], np.int16), masks[index]
    inst = np.zeros((256, 256))
    types = np.zeros((256, 256))
    for j in range(5):
        inst = np.where(mask[:, :, j] != 0, mask[:, :, j], inst)
        types = np.where((mask[:, :, j] != 0) & (types == 0), j + 1, types)
    return image, np.unique(inst, return_inverse=True)[1].reshape(256, 256), types


def loaded(root, fold=1):
    folder = root / f"Fold {fold}"
    return (
        np.load(folder / "images" / f"fold{fold}" / "images.npy", mmap_mode="r"),
        np.load(folder / "masks" / f"fold{fold}" / "masks.npy", mmap_mode="r"),
        np.load(folder / "images" / f"fold{fold}" / "types.npy"),
    )


def renamed(image, dataset, opened):
    """The image with the class numbers of PanNuke."""
    return replace(image, types={i: pannuke_class(dataset.class_name(n)) for i, n in image.types.items()})


@pytest.mark.parametrize("real", ["sample", "consep"])
def test_round_trip_on_real_images(tmp_path, request, real):
    dataset, image = real_sample() if real == "sample" else real_consep(request.getfixturevalue("shared"))
    if real == "consep":
        with pytest.raises(HistomixError, match="'miscellaneous' is none of PanNuke's"):
            Writer(tmp_path, "x", dataset.classes)
        classes = tuple(
            replace(one, name="dead" if one.name == "miscellaneous" else one.name) for one in dataset.classes
        )
        dataset = replace(dataset, classes=classes)
    root = written(Writer, tmp_path / "out", [image, small("b")], (*dataset.classes, *KINDS[:0]))
    opened = open_dataset(root)
    assert not opened.problems and [one.name for one in opened.classes] == [one.name for one in pannuke.CLASSES]
    found = opened.read(image.source.image)
    assert_same(found, renamed(image, dataset, opened))
    assert (found.source.patient, found.source.slide) == (image.source.patient, image.source.slide)
    # Tile by tile, as others read it.
    images, masks, types = loaded(root)
    rows, cols = image.instances.shape
    count = -(-rows // 256) * -(-cols // 256)
    assert len(images) == len(masks) == len(types) == count + 1
    for index in (0, count - 1):
        pixels, instances, kinds = to_hovernet(images, masks, index)
        row, col = divmod(index, -(-cols // 256))
        part = slice(row * 256, row * 256 + 256), slice(col * 256, col * 256 + 256)
        h, w = image.instances[part].shape
        np.testing.assert_array_equal(pixels[:h, :w], image.pixels[part])
        np.testing.assert_array_equal(instances[:h, :w] > 0, image.instances[part] > 0)
        wanted = np.vectorize(lambda i: pannuke_class(dataset.class_name(image.types[i])) if i else 0)
        np.testing.assert_array_equal(kinds[:h, :w], wanted(image.instances[part]))
        np.testing.assert_array_equal(masks[index][..., 5], instances == 0)
        assert h == 256 or (pixels[h] == pixels[h - 1]).all()


def test_names_scales_and_splits(tmp_path):
    assert [pannuke_class(name) for name in ("Neoplastic", "Lymphocyte", " stromal", "necrotic", "Epithelial")] == [
        *range(1, 6)
    ]
    instances = np.zeros((20, 24), np.int32)
    instances[1:3, 1:3], instances[5:9, 5:9], instances[12:15, 2:9] = 1, 2, 3
    pixels = np.zeros((20, 24, 3), np.uint8)
    images = [
        LabeledImage(pixels, instances, {1: 2, 2: 7, 3: 9}, mpp, Source("d", name, split))
        for name, split, mpp in (("a", "train", 0.25), ("b", "test", 0.5), ("c", "odd", 0.25), ("d", "train", 0.25))
    ]
    root = written(Writer, tmp_path / "out", images, KINDS, synthetic=True)
    assert sorted(path.name for path in root.iterdir()) == ["Fold 1", "Fold 3", "Fold 4", "dataset.json", "tiles.csv"]
    said = json.loads((root / "dataset.json").read_text())
    assert said["notice"] == SYNTHETIC_NOTICE and "mpp" not in said
    assert said["written_as"] == {"Tumor": "neoplastic", "lymphocyte": "inflammatory", "DEAD": "dead"}
    (root / "images.csv").write_text("image,patient,split\na,P1,train\nb,P2,test\n")
    dataset = open_dataset(root)
    assert [(e.source.image, e.source.patient, e.source.split, e.mpp) for e in dataset.entries] == [
        ("a", "P1", "train", 0.25),
        ("b", "P2", "test", 0.5),
        ("c", "", "train", 0.25),
        ("d", "", "train", 0.25),
    ]
    assert dict(dataset.read("b").types) == {1: 1, 2: 2, 3: 4}
    assert dataset.classes[0].color == (9, 8, 7) and dataset.classes[2] == pannuke.CLASSES[2]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_tiles_are_the_image_and_its_mirror_image(rows, cols, seed):
    rng = np.random.default_rng(seed)
    instances = rng.integers(0, 4, (rows, cols)).astype(np.int32)
    pixels = rng.integers(0, 255, (rows, cols, 3)).astype(np.uint8)
    seen = set()
    for row, col, tile_pixels, tile, original in cut(pixels, instances, 16):
        assert tile_pixels.shape == (16, 16, 3) and tile.shape == original.shape == (16, 16)
        h, w = min(16, rows - row), min(16, cols - col)
        np.testing.assert_array_equal(tile[:h, :w], instances[row : row + h, col : col + w])
        np.testing.assert_array_equal(tile > 0, original > 0)
        new = set(np.unique(tile).tolist()) - set(np.unique(instances).tolist())
        assert not new & seen
        seen |= new


def arrays(root, count=3, dtype=np.float64, layout="Fold 2", side=256):
    """PanNuke as it is distributed."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, side, side, 3)).astype(dtype)
    masks = np.zeros((count, side, side, 6), dtype)
    masks[:, 10:20, 10:20, 0], masks[:, 50:60, 50:60, 2], masks[:, 52:54, 55:65, 4] = 7, 3, 12
    masks[0, 100:110, 100:110, 4] = 7
    masks[..., 5] = masks[..., :5].max(axis=-1) == 0
    if layout == "flat":
        places = dict.fromkeys(("images", "masks", "types"), root)
    else:
        base = root / layout / "images" / "fold2"
        places = {"images": base, "types": base, "masks": root / layout / "masks" / "fold2"}
    for name, array in (("images", images), ("masks", masks), ("types", np.array(["Breast"] * count))):
        places[name].mkdir(parents=True, exist_ok=True)
        np.save(places[name] / f"{name}.npy", array)
    return images, masks


@pytest.mark.parametrize(("layout", "dtype"), [("Fold 2", np.float64), ("flat", np.uint8), ("fold_2", np.int16)])
def test_distributed_files(tmp_path, layout, dtype):
    images, _ = arrays(tmp_path, dtype=dtype, layout=layout)
    dataset = open_dataset(tmp_path)
    first = "image_00000" if layout == "flat" else "fold2_00000"
    assert dataset.entries[0].source.image == first and len(dataset.entries) == 3
    image = dataset.read(first)
    assert image.mpp == 0.25 and image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, images[0])
    # 3 connective, 7 neoplastic, 7 epithelial, 12 epithelial; where two overlap, the first class has the pixel.
    assert dict(image.types) == {1: 3, 2: 1, 3: 5, 4: 5}
    assert (image.instances == 1).sum() == 100 and (image.instances == 4).sum() == 10
    assert dataset.read(dataset.entries[2]).counts() == {1: 1, 3: 1, 5: 1}


def damaged(root, name, change):
    path = next(root.rglob(f"{name}.npy"))
    change(path)


def header(path, **values):
    """A file whose header says something else than it holds."""
    array = np.load(path)
    said = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **values}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, said)
        stream.write(array.tobytes())


def _pickle(path):
    np.save(path, np.array([{"a": 1}] * 3, object), allow_pickle=True)


CHANGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "header only": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "text": lambda path: path.write_text("not an array"),
    "bare pickle": lambda path: path.write_bytes(pickle.dumps([1, 2, 3])),
    "objects": _pickle,
    "huge": lambda path: header(path, shape=(3, 256, 256, 10**9)),
    "more": lambda path: header(path, shape=(10**12, 256, 256, 3)),
    "many tiny ones": lambda path: header(path, shape=(3 * 256 * 256, 1, 1, 3)),
    "negative": lambda path: header(path, shape=(-3, 256, 256, 3)),
    "no shape": lambda path: header(path, shape="abc"),
    "strings": lambda path: header(path, descr="<U10"),
    "object header": lambda path: header(path, descr="|O"),
    "records": lambda path: header(path, descr=[("a", "<f8")]),
    "complex": lambda path: header(path, descr="<c16"),
    "nonsense": lambda path: header(path, descr="nonsense"),
    "swapped": lambda path: np.save(path, np.moveaxis(np.load(path), -1, 1)),
    "fewer": lambda path: np.save(path, np.load(path)[:2]),
    "flat": lambda path: np.save(path, np.load(path).ravel()),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["images", "masks"])
def test_bad_arrays_are_refused_in_a_sentence(tmp_path, name, change):
    arrays(tmp_path, dtype=np.uint8, layout="Fold 2")
    damaged(tmp_path, name, CHANGES[change])
    with pytest.raises(HistomixError):
        open_dataset(tmp_path)


@pytest.mark.parametrize("value", [np.nan, -1, 0.5, 1e300])
@pytest.mark.parametrize("name", ["images", "masks"])
def test_bad_values_leave_the_other_images_readable(tmp_path, name, value):
    arrays(tmp_path)
    path = next(tmp_path.rglob(f"{name}.npy"))
    array = np.load(path)
    array[1, 4, 4, 1] = value
    np.save(path, array)
    dataset = open_dataset(tmp_path)
    dataset.read("fold2_00000")
    if name == "images" and value == 0.5:
        return
    with pytest.raises(HistomixError):
        dataset.read("fold2_00001")


def test_fortran_order_and_foreign_bytes(tmp_path):
    arrays(tmp_path)
    before = open_dataset(tmp_path).read("fold2_00001")
    for path in tmp_path.rglob("*s.npy"):
        if path.name != "types.npy":
            np.save(path, np.asfortranarray(np.load(path).astype(">f4")))
    assert_same(open_dataset(tmp_path).read("fold2_00001"), before)


def test_a_pickle_is_never_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "x.npy", np.array([Bad()], object), allow_pickle=True)
    for ndim in (1, 4):
        with pytest.raises(HistomixError):
            open_npy(tmp_path / "x.npy", ndim)
    assert not (tmp_path / "ran").exists()


def test_folds_that_are_not_whole(tmp_path):
    arrays(tmp_path)
    shutil.copytree(tmp_path / "Fold 2", tmp_path / "Fold 3")
    next((tmp_path / "Fold 3").rglob("masks.npy")).write_bytes(b"")
    dataset = open_dataset(tmp_path)
    assert [problem.image for problem in dataset.problems] == ["fold3"] and len(dataset.entries) == 3
    for path in (tmp_path / "Fold 2").rglob("masks.npy"):
        path.unlink()
    assert not recognizes(tmp_path / "Fold 2")


@pytest.mark.parametrize(
    "row",
    [
        "fold1,0,x,0,0,256",
        "fold1,0,x,0,0,256,9999999999",
        "fold1,-1,x,0,0,1,1",
        "fold1,nan,x,0,0,1,1",
        "fold1,0,x,5,0,10,10",
        "fold1,0,x,0,0,1000,1000",
        "fold1,0,x,0,0,2147483647,1",
        "fold1,0,a,0,0,20,24",
        "fold1,0,x,0,0,20,24,-1",
        "fold9,0,x,0,0,20,24",
        "fold1,7,x,0,0,20,24",
    ],
)
def test_bad_tables_of_tiles(tmp_path, row):
    image = replace(small(), types={1: 2, 2: 7, 3: 2})
    root = written(Writer, tmp_path / "out", [image], KINDS)
    text = (root / "tiles.csv").read_text()
    (root / "tiles.csv").write_text(f"{text}{row}\n")
    try:
        dataset = open_dataset(root)
        dataset.read("a")
        assert [problem.image for problem in dataset.problems] == ["x"] or dataset.read("x")
    except HistomixError:
        return
    assert row.startswith(("fold9", "fold1,7"))


def test_reading_one_tile_takes_no_more_memory_than_a_tile(tmp_path):
    arrays(tmp_path, count=40)
    code = (
        "import resource, sys; from napari_histomix.datasets import open_dataset;"
        "d = open_dataset(sys.argv[1]); m = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "b = m(); d.read('fold2_00039'); print(m() - b)"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 60_000


def tiles(folder, images, masks):
    """Two tiles: ids 4 and 9 of the classes inflammatory and epithelial in the first."""
    pixels = np.random.default_rng(1).integers(2, 256, (2, 256, 256, 3)).astype(np.uint8)
    maps = np.zeros((2, 256, 256, 6))
    maps[0, 10:20, 30:50, 1], maps[0, 100:110, 100:105, 4] = 4, 9
    for path in (folder / images, folder / masks):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, array in ((folder / images, pixels), (folder / masks, maps)):
        with path.open("wb") as stream:
            np.save(stream, array)
    return pixels, maps


@pytest.mark.parametrize(
    ("images", "masks", "name"),
    [
        ("Images/images.npy", "Masks/masks.npy", "image"),
        ("archive/Part 2/Images/images.npy", "archive/Part 2/Masks/masks.npy", "fold2"),
        ("part 1/Images/images.npy", "part 1/Masks/masks.npy", "fold1"),
        ("Fold 3/images.npy", "Fold 3/masks.npy", "fold3"),
        ("FOLD 3/IMAGES/FOLD3/IMAGES.NPY", "FOLD 3/MASKS/FOLD3/MASKS.NPY", "fold3"),
    ],
)
def test_copies_of_pannuke(tmp_path, images, masks, name):
    pixels, maps = tiles(tmp_path, images, masks)
    dataset = open_dataset(tmp_path)
    assert dataset.format == "pannuke" and [entry.source.image for entry in dataset.entries] == [
        f"{name}_00000",
        f"{name}_00001",
    ]
    image = dataset.read(f"{name}_00000")
    assert np.array_equal(image.pixels, pixels[0])
    types = np.vectorize({0: 0, **image.types}.get)(image.instances)
    assert np.array_equal(types, np.where(maps[0, ..., 1] > 0, 2, 0) + np.where(maps[0, ..., 4] > 0, 5, 0))


def test_colors_from_0_to_1(tmp_path):
    pixels, _ = tiles(tmp_path, "images.npy", "masks.npy")
    np.save(tmp_path / "images.npy", (pixels / 255).astype(np.float32))
    assert np.array_equal(open_dataset(tmp_path).read("image_00001").pixels, pixels[1])
    # One tile that is nearly black does not say how far colors reach.
    pixels[1] = 1
    np.save(tmp_path / "images.npy", pixels.astype(np.float64))
    assert np.array_equal(open_dataset(tmp_path).read("image_00001").pixels, pixels[1])


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.5])
def test_masks_that_are_no_ids(tmp_path, value):
    _, maps = tiles(tmp_path, "images.npy", "masks.npy")
    maps[0, 0, 0, 0] = value
    np.save(tmp_path / "masks.npy", maps)
    with pytest.raises(HistomixError, match="ids must be whole numbers"):
        open_dataset(tmp_path).read("image_00000")


def test_arrays_in_folders_for_splits(tmp_path):
    expected = {}
    for place, name, split in (
        ("Test", "Test", "test"),
        ("Training", "Training", "train"),
        ("Training/Fold 2", "Training-fold2", "train"),
    ):
        (tmp_path / place).mkdir(parents=True)
        tiles(tmp_path / place, "images.npy", "masks.npy")
        expected |= dict.fromkeys((f"{name}_00000", f"{name}_00001"), split)
    dataset = open_dataset(tmp_path)
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == expected
    assert not dataset.problems and dataset.read("Test_00000").instances.any()
