from __future__ import annotations

import pytest

from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.splits import (
    check_splits,
    read_splits,
    shared,
    units,
    with_chosen_splits,
    with_splits,
    write_splits,
)
from napari_histomix.records import HistomixError


@pytest.fixture
def opened(labeled_image, dataset_folder, tmp_path):
    def make(*sources: tuple[str, str, str]):
        images = [
            labeled_image([], shape=(8, 8), name=f"i{number}", split=split, patient=patient, slide=slide)
            for number, (split, patient, slide) in enumerate(sources)
        ]
        return open_dataset(dataset_folder(tmp_path / "data", images))

    return make


def test_patients_and_slides_of_one_split_each_are_fine(opened):
    sources = ("train", "a", "a1"), ("train", "a", "a2"), ("test", "b", "b1"), ("test", "", ""), ("", "", "")
    check_splits(opened(*sources))


@pytest.mark.parametrize("other", ["test", "val"])
def test_a_patient_on_two_sides_is_refused_with_its_images_on_both(opened, other):
    dataset = opened(("train", "a", ""), ("train", "b", ""), (other, "b", ""), (other, "c", ""), ("", "c", ""))
    with pytest.raises(
        HistomixError, match=rf"patients.*: b \(train: i1; {other}: i2\), c \(train: i4; {other}: i3\);"
    ):
        check_splits(dataset)


def test_a_slide_on_two_sides_is_refused_by_name(opened):
    with pytest.raises(HistomixError, match=r"slides.*: s1 \(train: i0; test: i1\)"):
        check_splits(opened(("train", "", "s1"), ("test", "", "s1")))


def test_splits_that_are_not_exported_may_share(opened):
    dataset = opened(("train", "a", ""), ("test", "b", ""), ("val", "b", ""))
    check_splits(dataset)
    assert [(one.what, one.name, dict(one.sides)) for one in shared(dataset)] == [
        ("patient", "b", {"val": ("i2",), "test": ("i1",)})
    ]


def test_many_offenders_are_counted(opened):
    sources = [(split, f"p{number:02}", "") for number in range(12) for split in ("train", "test")]
    with pytest.raises(HistomixError, match=r"p09 \(.*\) and 2 more"):
        check_splits(opened(*sources))


def test_images_belong_together_by_patient_slide_or_copy_and_through_each_other(opened):
    dataset = opened(
        ("train", "p1", ""), ("train", "", "s1"), ("train", "p1", "s1"), ("train", "", ""), ("train", "", "s2")
    )
    found = [(one.what, one.name, one.images) for one in units(dataset)]
    assert found == [("image", "i3", ("i3",)), ("patient", "p1", ("i0", "i1", "i2")), ("slide", "s2", ("i4",))]
    joined = units(dataset, together=[("i3", "i4"), ("i4", "not there")])
    assert [one.images for one in joined] == [("i0", "i1", "i2"), ("i3", "i4")]


def test_what_is_written_is_read_back_and_applied(opened, tmp_path):
    dataset = opened(("train", "a", "a1"), ("train", "b", ""), ("test", "c", ""))
    splits = {"i0": "test", "i1": "train", "i2": "val"}
    path = tmp_path / "splits.csv"
    write_splits(path, dataset, splits)
    assert path.read_text().splitlines()[:2] == ["image,split,patient,slide", "i0,test,a,a1"]
    chosen = with_splits(dataset, read_splits(path))
    assert {one.source.image: one.source.split for one in chosen.entries} == splits
    assert [one.source.image for one in chosen.training] == ["i1"]
    assert [one.source.patient for one in chosen.entries] == ["a", "b", "c"]
    assert chosen.read("i0").source.split == "test"
    with pytest.raises(HistomixError, match="already exists"):
        write_splits(path, dataset, splits)
    assert list(tmp_path.glob(".*")) == []


def test_splits_that_do_not_list_an_image_are_refused_by_name(opened):
    dataset = opened(("train", "", ""), ("train", "", ""))
    with pytest.raises(HistomixError, match="do not list i1; add it"):
        with_splits(dataset, {"i0": "train", "gone": "test"})


def test_an_image_that_a_study_does_not_know_keeps_its_split(opened):
    dataset = opened(("train", "", ""), ("test", "", ""))
    chosen = with_chosen_splits(dataset, {"splits": {"i0": "val", "gone": "train"}})
    assert [one.source.split for one in chosen.entries] == ["val", "test"]
    assert with_chosen_splits(dataset, {}).entries == dataset.entries


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,fold\na,1\n", "no column split"),
        ("image,split\na,\n", "line 2: a has no split"),
        ("image,split\na,train\na,test\n", "line 3: a is train above and test here"),
        ("image,split\n", "lists no image"),
        ("", "no column image and split"),
    ],
)
def test_a_broken_table_is_refused_with_what_is_wrong(tmp_path, text, sentence):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(HistomixError, match=sentence):
        read_splits(path)


def test_a_spreadsheets_table_is_understood(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("Image;Split;Remark\na;Training;x\nb;Validation;\n\n", encoding="utf-8-sig")
    assert read_splits(path) == {"a": "train", "b": "val"}
