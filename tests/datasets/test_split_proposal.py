from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histomix.datasets.splits import propose_splits, shared, shortcomings, units
from napari_histomix.records import HistomixError, Source


def listed(*sources: tuple[str, str], split: str = "train") -> SimpleNamespace:
    """A listing of images i0, i1, … of these patients and slides."""
    entries = [
        SimpleNamespace(kind="", source=Source("made up", f"i{number}", split, patient, slide))
        for number, (patient, slide) in enumerate(sources)
    ]
    return SimpleNamespace(entries=tuple(entries))


def with_(dataset: SimpleNamespace, splits: dict[str, str]) -> SimpleNamespace:
    entries = [
        SimpleNamespace(
            kind="", source=Source("", one.source.image, splits[one.source.image], one.source.patient, one.source.slide)
        )
        for one in dataset.entries
    ]
    return SimpleNamespace(entries=tuple(entries))


ORIGINS = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.sampled_from(["", "s", "t", "u"])), min_size=1
)


@given(ORIGINS, st.integers(0, 5), st.data())
@settings(max_examples=30, deadline=None)
def test_no_patient_or_slide_is_divided_and_every_image_is_there_once(origins, seed, data):
    dataset = listed(*origins)
    counts = {f"i{number}": {1: data.draw(st.integers(0, 9))} for number in range(len(origins))}
    splits = propose_splits(dataset, seed=seed, counts=counts)
    assert list(splits) == [one.source.image for one in dataset.entries]
    assert set(splits.values()) <= {"train", "val", "test"}
    assert shared(with_(dataset, splits)) == ()
    assert "train" in splits.values()
    again = SimpleNamespace(entries=dataset.entries[::-1])
    assert propose_splits(again, seed=seed, counts=counts) == splits, "the order of the images must not matter"


def test_shares_are_met_and_a_rare_class_is_on_every_side():
    rng = np.random.default_rng(0)
    dataset = listed(*((f"p{number // 3}", "") for number in range(120)))
    counts = {f"i{number}": {1: int(rng.integers(50, 150)), 2: 0} for number in range(120)}
    for number in (3, 40, 77, 110):
        counts[f"i{number}"][2] = 5
    splits = propose_splits(dataset, counts=counts, seed=1)
    images = Counter(splits.values())
    nuclei, rare = Counter(), Counter()
    for image, split in splits.items():
        nuclei[split] += counts[image][1]
        rare[split] += counts[image][2]
    for split, share in {"train": 0.7, "val": 0.15, "test": 0.15}.items():
        assert abs(images[split] / 120 - share) < 0.05
        assert abs(nuclei[split] / nuclei.total() - share) < 0.05
    assert rare == {"train": 10, "val": 5, "test": 5}
    assert [note for note in shortcomings(dataset, splits, counts) if "does not occur" in note] == []


def test_the_only_patient_with_rare_nuclei_is_for_training_and_that_is_said():
    dataset = listed(*((f"p{number}", "") for number in range(10)))
    counts = {f"i{number}": {1: 20, 2: 30 if number == 4 else 0} for number in range(10)}
    for seed in range(5):
        splits = propose_splits(dataset, seed=seed, counts=counts)
        assert splits["i4"] == "train"
    assert shortcomings(dataset, splits, counts, {1: "common", 2: "rare"}) == (
        "rare does not occur in val and test: of all patients only 1 has any (p4).",
    )


def test_two_patients_with_rare_nuclei_serve_training_and_test():
    dataset = listed(*((f"p{number}", "") for number in range(10)))
    counts = {f"i{number}": {1: 20, 2: 30 if number in (4, 7) else 0} for number in range(10)}
    splits = propose_splits(dataset, counts=counts)
    assert {splits["i4"], splits["i7"]} == {"train", "test"}


def test_images_of_unknown_origin_are_pointed_out():
    dataset = listed(("", ""), ("p", ""), ("", ""))
    (sentence,) = shortcomings(dataset, {"i0": "train", "i1": "test", "i2": "val"})
    assert sentence.startswith("2 of 3 images name no patient and no slide")
    assert shortcomings(dataset, dict.fromkeys(["i0", "i1", "i2"], "train")) == ()


def test_copies_stay_together():
    dataset = listed(*[("", "")] * 30)
    together = [("i0", "i1"), ("i1", "i2"), ("i10", "i20")]
    for seed in range(4):
        splits = propose_splits(dataset, seed=seed, together=together)
        assert splits["i0"] == splits["i1"] == splits["i2"]
        assert splits["i10"] == splits["i20"]


def test_a_published_test_split_stays_and_what_belongs_to_it_comes_to_it():
    train = listed(*((f"p{number}", "") for number in range(20)))
    test = [SimpleNamespace(kind="", source=Source("", f"t{number}", "test", f"p{number}")) for number in range(2, 5)]
    dataset = SimpleNamespace(entries=(*train.entries, *test))
    splits = propose_splits(dataset, {"train": 0.8, "val": 0.2}, keep=("test",))
    assert {image for image, split in splits.items() if split == "test"} == {"t2", "t3", "t4", "i2", "i3", "i4"}
    assert Counter(splits.values()) == {"train": 14, "val": 3, "test": 6}


def test_images_of_tissue_are_stratified_by_their_class():
    entries = [
        SimpleNamespace(kind=kind, source=Source("", f"{kind}{number}", patient=f"{kind}{number}"))
        for kind, count in (("common", 40), ("rare", 6))
        for number in range(count)
    ]
    splits = propose_splits(SimpleNamespace(entries=tuple(entries)))
    rare = Counter(split for image, split in splits.items() if image.startswith("rare"))
    assert rare == {"train": 4, "val": 1, "test": 1}


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_patients_than_splits_serve_training_first_then_test(count):
    splits = propose_splits(listed(*((f"p{number}", "") for number in range(count))))
    assert set(splits.values()) == set(("train", "test")[:count])


@pytest.mark.parametrize("shares", [{"train": 0, "val": 1}, {"train": 1, "val": -1}, {}])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares):
    with pytest.raises(HistomixError, match="training split"):
        propose_splits(listed(("a", "")), shares)


def test_a_thousand_patients_get_exact_shares():
    dataset = listed(*((f"p{number}", "") for number in range(1000)))
    splits = propose_splits(dataset)
    assert Counter(splits.values()) == {"train": 700, "val": 150, "test": 150}
    assert len(units(dataset)) == 1000
