from __future__ import annotations

from glob import glob
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from round_trips import same, written

from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.datasets.formats.tiff_pairs import Writer
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.records import HistomixError


def test_what_was_written_is_read_back(tmp_path):
    dataset = load_sample()
    again = open_dataset(written(dataset, tmp_path / "out", "tiff-pairs"))
    assert again.classes == dataset.classes and not again.problems
    for entry in again.entries:
        same(again.read(entry), dataset.read(entry.source.image))


def test_consep_is_read_back(shared, tmp_path):
    dataset = open_dataset(shared / "data" / "consep-train")
    again = open_dataset(written(dataset, tmp_path / "out", "tiff-pairs", 1))
    same(again.read(again.entries[0]), dataset.read(again.entries[0].source.image))


def test_stardist_examples_open_it(tmp_path):
    """As in StarDist's 2D training notebook: sorted files, equal names, tifffile; a label image of whole numbers."""
    folder = written(load_sample(), tmp_path / "out", "tiff-pairs")
    images = sorted(glob(str(folder / "images" / "*.tif")))
    masks = sorted(glob(str(folder / "masks" / "*.tif")))
    assert images and all(Path(x).name == Path(y).name for x, y in zip(images, masks, strict=True))
    x, y = tifffile.imread(images[0]), tifffile.imread(masks[0])
    assert x.ndim == 3 and x.shape[-1] == 3 and x.dtype == np.uint8
    assert y.shape == x.shape[:2] and y.dtype == np.uint16


def test_a_synthetic_image_says_so_and_its_bytes_have_no_date(tmp_path):
    dataset = load_sample()
    folder, other = written(dataset, tmp_path / "a", "tiff-pairs"), written(dataset, tmp_path / "b", "tiff-pairs")
    descriptions = []
    for entry in dataset.entries[:2]:
        path = folder / "images" / f"{entry.source.image}.tif"
        with tifffile.TiffFile(path) as tiff:
            descriptions.append(tiff.pages.first.description)
        assert path.read_bytes() == (other / "images" / path.name).read_bytes()
    assert descriptions == [SYNTHETIC_NOTICE, ""]


def test_more_than_65535_ids(tmp_path):
    image = load_sample().read(load_sample().entries[0])
    ids = np.arange(1, 300 * 300 + 1, dtype=np.int32).reshape(300, 300)
    pixels = np.zeros((300, 300, 3), np.uint8)
    folder = tmp_path / "out"
    folder.mkdir()
    writer = Writer(folder, "many", load_sample().classes)
    many = type(image)(pixels, ids, dict.fromkeys(ids.ravel().tolist(), 2), 0.25, image.source)
    writer.add(many, synthetic=False)
    writer.finish()
    assert tifffile.imread(folder / "masks" / f"{image.source.image}.tif").dtype == np.int32
    same(open_dataset(folder).read(image.source.image), many)


def cellpose(folder: Path) -> Path:
    folder.mkdir(parents=True)
    ids = np.zeros((9, 8), np.uint16)
    ids[1:3, 1:3], ids[5:8, 4:7] = 4, 9
    for name in ("a", "b"):
        tifffile.imwrite(folder / f"{name}.tif", np.full((9, 8, 3), 200, np.uint8), photometric="rgb")
        Image.fromarray(ids).save(folder / f"{name}_masks.png")
    Image.fromarray(ids * 0).save(folder / "a_cp_masks.png")
    tifffile.imwrite(folder / "a_flows.tif", np.zeros((9, 8, 3), np.uint8))
    (folder / "a_seg.npy").write_bytes(b"a pickle that is never read")
    return folder


def test_cellpose_pairs_are_of_one_class(tmp_path):
    dataset = open_dataset(cellpose(tmp_path / "x"), mpp=0.5)
    assert [entry.source.image for entry in dataset.entries] == ["a", "b"] and not dataset.problems
    assert [one.name for one in dataset.classes] == ["nucleus"]
    assert dataset.read("a").counts() == {1: 2}


def test_folders_for_splits(tmp_path):
    cellpose(tmp_path / "train")
    cellpose(tmp_path / "test")
    # Of one name in two splits, that of the training split keeps it.
    assert {e.source.image: e.source.split for e in open_dataset(tmp_path, mpp=0.5).entries} == {
        "a": "train",
        "b": "train",
        "test-a": "test",
        "test-b": "test",
    }
    for path in (tmp_path / "test").iterdir():
        path.rename(path.with_name(f"t{path.name}"))
    dataset = open_dataset(tmp_path, mpp=0.5)
    assert {e.source.image: e.source.split for e in dataset.entries} == {
        "a": "train",
        "b": "train",
        "ta": "test",
        "tb": "test",
    }


def test_types_beside_cellpose_pairs(tmp_path):
    folder = cellpose(tmp_path / "x")
    (folder / "types.csv").write_text(
        "image,instance,type\na,4,tumor\na.tif,9,stroma\nb,4,tumor\nb,9,tumor\n../b,1,x\n"
    )
    dataset = open_dataset(folder, mpp=0.5)
    assert [problem.image for problem in dataset.problems] == ["../b"]
    assert dict(dataset.read("a").types) == {4: 2, 9: 1}
    (folder / "types.csv").write_text("image,instance,type\na,4,tumor\na,9,stroma\n")
    dataset = open_dataset(folder, mpp=0.5)
    assert dict(dataset.read("a").types) == {4: 2, 9: 1}
    assert [dataset.class_name(kind) for kind in dataset.read("b").counts()] == ["unclassified"]


def test_several_classes_need_a_table(tmp_path):
    folder = cellpose(tmp_path / "x")
    (folder / "type_info.json").write_text('{"3": ["mitosis", [1, 2, 3]]}')
    assert open_dataset(folder, mpp=0.5).read("a").counts() == {3: 2}
    (folder / "type_info.json").write_text('{"3": ["mitosis", [1, 2, 3]], "4": ["other", [1, 2, 3]]}')
    with pytest.raises(HistomixError, match=r"2 classes but nothing says .* add types\.csv"):
        open_dataset(folder, mpp=0.5)


def test_half_pairs_are_reported(tmp_path):
    folder = cellpose(tmp_path / "x")
    (folder / "b.tif").unlink()
    dataset = open_dataset(folder, mpp=0.5)
    assert [problem.image for problem in dataset.problems] == ["b"]
    for path in folder.glob("a*"):
        path.unlink()
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    with pytest.raises(HistomixError, match=r"x has no images .* and no labels in its folders"):
        open_dataset(folder, mpp=0.5)


def test_the_plain_layout_stays_what_it_was(tmp_path):
    for part in ("images", "labels", "masks"):
        (tmp_path / part).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.full((9, 8, 3), 200, np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "labels" / "a.tif", np.ones((9, 8), np.uint16))
    tifffile.imwrite(tmp_path / "masks" / "a.tif", np.full((9, 8), 255, np.uint8))
    (tmp_path / "types.csv").write_text("image,instance,type\na,1,tumor\n")
    assert open_dataset(tmp_path, mpp=0.5).read("a").counts() == {1: 1}


def test_bad_files_are_one_sentence(tmp_path):
    folder = written(load_sample(), tmp_path / "out", "tiff-pairs", 1)
    name = load_sample().entries[0].source.image
    mask = folder / "masks" / f"{name}.tif"
    content = mask.read_bytes()
    for bad, words in (
        (content[: len(content) // 2], "cannot be read as a label image"),
        (b"PK\3\4", "cannot be read as a label image"),
    ):
        mask.write_bytes(bad)
        with pytest.raises(HistomixError, match=words):
            open_dataset(folder).read(name)
    for array, words in (
        (np.zeros((9, 8), np.uint16), "labels are 8×9 pixels"),
        (np.full((9, 8), 0.5, np.float32), "whole numbers from 0"),
        (np.ones((2, 9, 8), np.uint16), "more than one image"),
    ):
        tifffile.imwrite(mask, array, photometric="minisblack")
        with pytest.raises(HistomixError, match=words):
            open_dataset(folder).read(name)
