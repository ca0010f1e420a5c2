"""Tests that images and their label files are found whatever their folders and files are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from napari_histomix.datasets import open_any, open_dataset, survey
from napari_histomix.records import HistomixError, drain

IDS = np.zeros((12, 14), np.uint16)
IDS[1:4, 1:4], IDS[6:10, 5:11] = 3, 700


def put(path: Path, content: str = "color", shift: int = 0) -> None:
    """An image in color, or its ids moved to the right, with a suffix's kind of file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.roll(IDS, shift, 1)
    pixels = np.full((*IDS.shape, 3), (200, 100 + shift, 150), np.uint8)
    if path.suffix.casefold() == ".mat":
        scipy.io.savemat(path, {"inst_map": ids, "inst_type": [[1], [2]]})
    elif content == "color":
        Image.fromarray(pixels).save(path)
    elif path.suffix.casefold() in (".tif", ".tiff"):
        tifffile.imwrite(path, ids.astype(np.float32) if content == "float" else ids)
    else:
        Image.fromarray(ids).save(path)


def put_all(root: Path, files: Sequence[str]) -> Path:
    for shift, pair in enumerate(files):
        image, labels = pair.split(" | ")
        put(root / image, shift=shift)
        put(root / labels, "ids", shift)
    return root


def check(root: Path, expected: dict[str, str], **options) -> None:
    """Each image has the ids that were put beside it, told by its color, and its split."""
    dataset = open_dataset(root, mpp=0.5, **options)
    assert {entry.source.image: entry.source.split for entry in dataset.entries} == expected
    assert not [problem for problem in dataset.problems if problem.about != "types"]
    for entry in dataset.entries:
        image = dataset.read(entry)
        shift = int(image.pixels[0, 0, 1]) - 100
        assert np.array_equal(image.instances, np.roll(IDS, shift, 1)), entry.source.image
        assert not image.notes


@pytest.mark.parametrize("labels", ["labels", "Masks", "mask", "GT", "ground_truth", "Ground Truth", "instance_maps"])
@pytest.mark.parametrize("images", ["images", "Imgs", "image"])
def test_folders_by_their_names(tmp_path, images, labels):
    check(
        put_all(tmp_path, [f"{images}/a.png | {labels}/a.png", f"{images}/b.png | {labels}/b.tif"]),
        dict.fromkeys("ab", "train"),
    )


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("patches", "segmentations"),
        ("Tissue Images", "label masks"),
        ("TissueImages", "GroundTruth"),
        ("img", "inst"),
        ("Lizard_Images1", "Lizard_Labels/Labels"),
        ("slides", "nuclei"),
        ("images", "whatever"),
        ("H&E", "annotations"),
        (".", "gt"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_folders_by_what_is_in_them(tmp_path, images, labels, suffix):
    check(put_all(tmp_path, [f"{images}/a.png | {labels}/a.{suffix}"]), {"a": "train"})


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("a.png", "a_mask.png"),
        ("a.PNG", "a_masks.TIF"),
        ("a.png", "a_label.png"),
        ("a.png", "a_gt.png"),
        ("a.png", "a_instances.tif"),
        ("a.png", "a_instance_map.png"),
        ("a.png", "a-labels.png"),
        ("a.png", "A_cp_masks.tif"),
        ("a.png", "a.mat"),
        ("a.jpg", "a.png"),
    ],
)
def test_pairs_in_one_folder_and_in_two(tmp_path, image, labels):
    put_all(tmp_path / "one", [f"{image} | {labels}"])
    if not image.endswith("jpg"):
        check(tmp_path / "one", {"a": "train"})
    else:
        assert np.array_equal(open_dataset(tmp_path / "one", mpp=0.5).read("a").instances, IDS)
        return
    check(put_all(tmp_path / "two", [f"images/{image} | masks/{labels}"]), {"a": "train"})


def test_words_in_front_and_cellpose_names(tmp_path):
    check(put_all(tmp_path / "a", ["images/img_01.png | masks/mask_01.png", "images/img_02.png | masks/mask_02.png"]),
          {"img_01": "train", "img_02": "train"})  # fmt: skip
    check(
        put_all(tmp_path / "b", ["image1.png | mask1.png", "image2.png | mask2.png"]),
        {"image1": "train", "image2": "train"},
    )
    root = put_all(tmp_path / "c", ["001_img.png | 001_masks.png"])
    put(root / "001_img_cp_output.png")
    (root / "001_img_seg.npy").write_bytes(b"a pickle that is never read")
    check(root, {"001_img": "train"})
    assert open_dataset(root, mpp=0.5).format == "tiff-pairs"


SPLITS = [
    ["Train/images/a.png | Train/masks/a.png", "Test/images/a.png | Test/masks/a.png", "val/imgs/b.png | val/gt/b.png"],
    [
        "images/train/a.png | masks/train/a.png",
        "images/test/a.png | masks/Test/a.png",
        "images/val/b.png | masks/valid/b.png",
    ],
    [
        "train_images/a.png | train_masks/a.png",
        "test_images/a.png | test_masks/a.png",
        "val_images/b.png | val_masks/b.png",
    ],
    ["train2017/a.png | train2017/a_masks.png", "TestSet/a.png | TestSet/a_masks.png", "val/b.png | val/b_mask.png"],
    ["TrainImages/a.png | TrainMasks/a.png", "TestImages/a.png | TestMasks/a.png", "val-images/b.png | val-gt/b.png"],
    ["train/a.png | train/a_masks.png", "test/a.png | test/a_masks.png", "val/b.png | val/b_mask.png"],
    [
        "Train/Images/a.png | Train/Labels/a.mat",
        "Test/Images/a.png | Test/Labels/a.mat",
        "Val/Images/b.png | Val/Labels/b.mat",
    ],
]


@pytest.mark.parametrize("files", SPLITS)
def test_splits_keep_images_of_one_name_apart(tmp_path, files):
    check(put_all(tmp_path, files), {"a": "train", "test-a": "test", "b": "val"})


@pytest.mark.parametrize("files", SPLITS[:2])
@pytest.mark.parametrize("names", [("train/a.png", "test/a.png"), ("a", "test-a"), (r"C:\x\Train\a.png", r"Test\a")])
def test_a_table_in_the_root_names_images_of_two_splits(tmp_path, files, names):
    root = put_all(tmp_path, files)
    rows = [f"{names[0]},3,tumor", f"{names[0]},700,stroma", f"{names[1]},3,stroma", f"{names[1]},700,tumor"]
    (root / "types.csv").write_text("\n".join(["image,instance,type", *rows, "b,3,stroma", "b,700,stroma"]))
    dataset = open_dataset(root, mpp=0.5)
    assert not dataset.problems
    assert dict(dataset.read("a").types) == {3: 2, 700: 1}
    assert dict(dataset.read("test-a").types) == {3: 1, 700: 2}
    assert dict(dataset.read("b").types) == {3: 1, 700: 1}


def test_a_table_that_means_two_images_is_told_so(tmp_path):
    root = put_all(tmp_path, SPLITS[0])
    (root / "types.csv").write_text("image,instance,type\na.png,3,tumor\na.png,700,tumor\nb,3,tumor\nb,700,tumor\n")
    dataset = open_dataset(root, mpp=0.5)
    assert [problem.sentence for problem in dataset.problems] == [
        "a.png: types.csv lists it and 2 images have that name; write their folders too, as in test/a.png."
    ]
    assert [dataset.class_name(kind) for kind in dataset.read("a").counts()] == ["unclassified"]


def test_tables_in_the_folders_of_splits_and_in_the_root(tmp_path):
    root = put_all(tmp_path, SPLITS[0])
    for folder, kinds in (("Train", ("tumor", "stroma")), ("Test", ("stroma", "tumor")), ("val", ("tumor", "tumor"))):
        name = "b" if folder == "val" else "a"
        (root / folder / "types.csv").write_text(
            f"image,instance,type\n{name},3,{kinds[0]}\n{name}.png,700,{kinds[1]}\n"
        )
    (root / "images.csv").write_text("image,patient\nTrain/a.png,P1\nTest/a.png,P2\nb.png,P3\n")
    dataset = open_dataset(root, mpp=0.5)
    assert not dataset.problems
    assert dict(dataset.read("a").types) == {3: 2, 700: 1} and dict(dataset.read("test-a").types) == {3: 1, 700: 2}
    assert {entry.source.image: entry.source.patient for entry in dataset.entries} == {
        "a": "P1",
        "test-a": "P2",
        "b": "P3",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_as_spreadsheets_write_them(tmp_path, encoding, separator):
    root = put_all(tmp_path, ["images/Pr\u00e4parat.png | labels/Pra\u0308parat.png"])
    number = '"3,0"' if separator == "," else "3,0"
    lines = [("Image", "Instance", "Type"), ("Pr\u00e4parat.PNG", number, "Tumör"), ("Präparat.png", "700", "Stroma")]
    text = "\r\n".join(separator.join(line) for line in lines)
    (root / "types.csv").write_bytes(text.encode(encoding))
    (root / "images.csv").write_bytes(f"image{separator}patient\r\nPr\u00e4parat{separator}Müller".encode(encoding))
    dataset = open_dataset(root, mpp=0.5)
    [entry] = dataset.entries
    assert dict(dataset.read(entry).types) == {3: 2, 700: 1} and not dataset.problems
    assert entry.source.patient == "Müller"
    assert [known.name for known in dataset.classes] == ["Stroma", "Tumör"]


def test_class_maps_beside_instances_are_left_aside(tmp_path):
    root = put_all(tmp_path, ["images/a.png | instances/a.png"])
    for other in ("class_maps", "overlay", "binary_masks"):
        put(root / other / "a.png", "ids", 5)
    check(root, {"a": "train"})


def test_class_folders_are_none(tmp_path):
    put(tmp_path / "tumor" / "a.png")
    put(tmp_path / "stroma" / "a.png")
    assert open_any(tmp_path, mpp=0.5).format == "class-folders"


def test_values_of_label_images(tmp_path):
    root = put_all(tmp_path, ["images/a.png | gt/a.png"])
    path = root / "gt" / "a.png"
    palette = Image.fromarray((IDS > 0).astype(np.uint8) + (IDS > 3))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(path)
    assert np.array_equal(open_dataset(root, mpp=0.5).read("a").instances > 0, IDS > 0)
    assert open_dataset(root, mpp=0.5).read("a").counts() == {1: 2}
    Image.fromarray(IDS > 0).save(path)
    image = open_dataset(root, mpp=0.5).read("a")
    assert np.array_equal(image.instances, IDS > 0)
    Image.fromarray(((IDS > 0) * 255).astype(np.uint8)).save(path)
    assert open_dataset(root, mpp=0.5).read("a").counts() == {1: 1}
    assert open_dataset(root, mpp=0.5, split_parts=True).read("a").counts() == {1: 2}
    Image.fromarray(np.dstack([IDS > 0, IDS > 3, IDS < 0]).astype(np.uint8) * 255).save(path)
    [problem] = [one for one in drain(survey(open_dataset(root, mpp=0.5))).problems if one.image == "a"]
    assert "marks nuclei by colors" in problem.sentence
    path.unlink()
    tifffile.imwrite(path.with_suffix(".tif"), np.where(IDS > 0, IDS, np.nan).astype(np.float32))
    with pytest.raises(HistomixError, match="ids must be whole numbers"):
        open_dataset(root, mpp=0.5).read("a")
    put(path.with_suffix(".tif"), "float")
    check(root, {"a": "train"})


def test_nothing_types_them_is_said(tmp_path):
    dataset = open_dataset(put_all(tmp_path, ["images/a.png | labels/a.png"]), mpp=0.5)
    [problem] = dataset.problems
    assert problem.about == "types" and "so all nuclei are of one class, nucleus" in problem.sentence
    assert dataset.read("a").counts() == {1: 2} and dataset.format == "plain"


def test_an_image_without_labels_beside_others(tmp_path):
    root = put_all(tmp_path, ["a.png | a_mask.png"])
    put(root / "b.png")
    [problem] = open_dataset(root, mpp=0.5).problems
    assert problem.sentence.startswith("b: there is no label file")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a_seg.npy", "a.png"], r"Cellpose's _seg\.npy .* are pickles, which are not opened"),
        (["fold_1.zip"], r"fold_1\.zip is an archive; unpack"),
        (["a.svs"], r"whole slides \(a\.svs\) are not read"),
        (["a.png", "a.json"], r"holds 1 image, 1 \.json file, but no labels in a form that is read"),
        (["a.png", "b.png"], r"holds images but no labels \(2 images\)"),
        (["x/images/x.png", "x/masks/1.png", "x/masks/2.png"], "x has a mask file for each nucleus"),
    ],
)
def test_an_unknown_folder_is_told_what_it_holds(tmp_path, files, words):
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            put(path, "ids" if "masks" in file or "gt" in file else "color")
        else:
            path.write_bytes(b"PK\3\4 {}")
    for opened in (open_dataset, open_any):
        with pytest.raises(HistomixError, match=rf"{words}.*read are HoVer-Net.*COCO"):
            opened(tmp_path)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["data"], r"its folder data holds them \(StarDist, Cellpose \(TIFF pairs\)\); choose that one\.$"),
        (["batch1", "batch2"], r"its folders batch1 and batch2 hold them; choose one of them, or name .* splits\.$"),
    ],
)
def test_the_folder_around_datasets_is_told_which_to_choose_and_no_more(tmp_path, folders, words):
    for folder in folders:
        for inner, kind in (("images", "color"), ("masks", "ids")):
            path = tmp_path / folder / inner / "a.png"
            path.parent.mkdir(parents=True)
            put(path, kind)
    for opened in (open_dataset, open_any):
        with pytest.raises(HistomixError, match=words):
            opened(tmp_path)


def test_label_folders_with_other_files_are_told_so(tmp_path):
    put(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "a.npy", IDS)
    with pytest.raises(
        HistomixError, match=r"labels has no label files that are read .* but a\.npy; save the labels as"
    ):
        open_any(tmp_path)
    (tmp_path / "labels" / "a.json").write_text('{"shapes": [{"points": [[1, 2]]}], "imagePath": "a.png"}')
    with pytest.raises(HistomixError, match=r"a\.json is LabelMe's JSON, which is not read"):
        open_any(tmp_path)
