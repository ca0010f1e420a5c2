from __future__ import annotations

import pytest

from napari_histomix.datasets import open_dataset
from napari_histomix.datasets.splits import check_splits
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
def test_a_patient_on_two_sides_is_refused_by_name(opened, other):
    with pytest.raises(HistomixError, match=r"patients.*\(b, c\)"):
        check_splits(opened(("train", "a", ""), ("train", "b", ""), (other, "b", ""), (other, "c", ""), ("", "c", "")))


def test_a_slide_on_two_sides_is_refused_by_name(opened):
    with pytest.raises(HistomixError, match=r"slides.*\(s1\)"):
        check_splits(opened(("train", "", "s1"), ("test", "", "s1")))


def test_splits_that_are_not_exported_may_share(opened):
    check_splits(opened(("train", "a", ""), ("test", "b", ""), ("val", "b", "")))


def test_many_offenders_are_counted(opened):
    sources = [(split, f"p{number:02}", "") for number in range(12) for split in ("train", "test")]
    with pytest.raises(HistomixError, match="p09 and 2 more"):
        check_splits(opened(*sources))
