from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_samples import DIM, add_part, make_pool, make_study, segment

from napari_histomix.records import HistomixError, Source
from napari_histomix.segmentation.pool import ROW, PoolImage, SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation, Filters, _sorted


@pytest.fixture
def curation(tmp_path) -> Curation:
    return Curation(*make_pool(tmp_path / "study"))


def again(curation: Curation) -> Curation:
    """As another session finds it."""
    folder = curation.study.folder
    return Curation(Study.open(folder), SegmentPool(folder))


def state(curation: Curation) -> tuple:
    tags = [curation.tags_of(number) for number in range(len(curation))]
    return curation.decision.tolist(), [curation.kind_of(number) for number in range(len(curation))], tags


def test_what_was_decided_is_there_in_another_session(curation) -> None:
    assert curation.decide([0, 2], "keep").tolist() == [0, 2]
    curation.decide(np.arange(8) == 5, "drop")
    curation.decide([2], None)
    curation.relabel([1, 7], "grade 3")
    curation.tag([0, 1], "blurred, fold ")
    curation.untag([1], "fold")
    assert curation.decision.tolist() == [1, 0, 0, 0, 0, 2, 0, 0]
    assert curation.kind_of(7) == "grade 3"
    assert curation.tags_of(0) == ("blurred", "fold") and curation.tags_of(1) == ("blurred",)
    assert state(again(curation)) == state(curation)
    assert curation.tags() == ("blurred", "fold")
    assert curation.untag([0]).tolist() == [0] and curation.tags() == ("blurred",)


def test_undo_takes_back_one_change_after_the_other_whatever_they_were(curation) -> None:
    states = [state(curation)]
    for change in (
        lambda: curation.decide([0, 1], "keep"),
        lambda: curation.tag([1], "odd"),
        # Segments with other tags before: still one change.
        lambda: curation.tag([0, 1, 2], "fold"),
        lambda: curation.relabel([1], "grade 4"),
        lambda: curation.decide([1], "drop"),
    ):
        change()
        states.append(state(curation))
    assert len(set(map(str, states))) == 6
    # What changes nothing is nothing to undo.
    assert not len(curation.decide([1], "drop")) and not len(curation.tag([2], "fold"))
    assert not len(curation.relabel([1], "grade 4"))
    for expected, numbers in zip(states[-2::-1], ([1], [1], [0, 1, 2], [1], [0, 1]), strict=True):
        assert curation.undo().tolist() == numbers
        assert state(curation) == expected == state(again(curation))
    assert curation.undo().tolist() == []


def test_undo_reaches_into_an_earlier_session(curation) -> None:
    curation.decide([3], "keep")
    later = again(curation)
    assert later.undo().tolist() == [3] and later.decision[3] == 0


def test_nothing_changes_here_that_is_not_on_disk(curation, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise HistomixError("The disk is full.")

    before = state(curation)
    monkeypatch.setattr(Study, "act", full)
    for change in (
        lambda: curation.decide([0], "keep"),
        lambda: curation.relabel([0], "grade 3"),
        lambda: curation.tag([0], "odd"),
        lambda: curation.decide(curation.cut_off(), "drop"),
    ):
        with pytest.raises(HistomixError, match="full"):
            change()
        assert state(curation) == before


def test_a_class_that_the_pool_lacks_is_refused(curation) -> None:
    with pytest.raises(HistomixError, match=r"no class grade 9.*grade 2, grade 3, grade 4"):
        curation.relabel([0], "grade 9")
    with pytest.raises(HistomixError, match="Write"):
        curation.tag([0], " , ")


def test_dropping_the_border_leaves_what_was_kept(curation) -> None:
    assert np.flatnonzero(curation.border).tolist() == [3, 6]
    curation.decide([3], "keep")
    assert curation.decide(curation.cut_off(), "drop").tolist() == [6]
    assert curation.decision.tolist() == [0, 0, 0, 1, 0, 0, 2, 0]
    assert not curation.cut_off().any()
    assert np.flatnonzero(~curation.allowed()).tolist() == [6]


def test_members_follow_class_and_decision(curation) -> None:
    assert curation.members("grade 4").tolist() == [7]
    curation.relabel([0], "grade 4")
    curation.decide([7], "drop")
    assert curation.members("grade 4").tolist() == [0]
    assert curation.members("grade 2").tolist() == [1, 2, 3]
    assert curation.members("unknown").tolist() == []
    counts = curation.counts()
    assert (counts.total, counts.kept, counts.dropped, counts.border) == (8, 0, 1, 2)
    assert counts.kinds == {"grade 2": 3, "grade 3": 3, "grade 4": 1}


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (Filters(), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Filters(kind="grade 3"), [0, 5, 6]),
        (Filters(kind="unknown"), []),
        (Filters(image="g3/two"), [4, 5, 6]),
        (Filters(patient="Bob"), [4, 5, 6, 7]),
        (Filters(text="bob TWO"), [4, 5, 6]),
        (Filters(text="odd"), [2]),
        (Filters(low=196, high=400), [1, 5, 6]),
        (Filters(low=49, high=100, micrometers=True), [1, 5, 6]),
        (Filters(decision="keep"), [1, 2]),
        (Filters(decision="drop"), [4]),
        (Filters(decision="undecided", border=False), [0, 5, 7]),
        (Filters(border=True), [3, 6]),
        (Filters(tag="odd"), [2]),
        (Filters(tag="od"), []),
        (Filters(kind="grade 2", decision="keep", low=500), [2]),
    ],
)
def test_filters(curation, filters, numbers) -> None:
    curation.decide([1, 2], "keep")
    curation.decide([4], "drop")
    curation.relabel([0], "grade 3")
    curation.relabel([4], "grade 2")
    curation.tag([2], "odd, fold")
    assert curation.matching(filters).tolist() == numbers


def test_orders(curation) -> None:
    everyone = np.arange(8)
    assert curation.ordered(everyone, "size").tolist() == [7, 2, 1, 6, 5, 4, 0, 3]
    assert curation.ordered(everyone, "size", reverse=True).tolist() == [0, 3, 4, 5, 6, 1, 2, 7]
    assert curation.ordered(everyone, "vote share").tolist() == [2, 3, 4, 5, 6, 7, 0, 1]
    assert curation.ordered(everyone, "stability").tolist() == [1, 0, 2, 3, 4, 5, 6, 7]
    assert curation.ordered([5, 3, 4], "added").tolist() == [3, 4, 5]
    assert curation.ordered([3, 5], "added", reverse=True).tolist() == [5, 3]
    assert curation.ordered(everyone, "uses").tolist() == list(range(8))
    curation.set_uses({6: 3, 2: 1})
    assert curation.ordered(everyone, "uses").tolist()[:3] == [6, 2, 0]
    curation.set_uses(np.arange(8))
    assert curation.ordered(everyone, "uses").tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def test_similar_ones_of_the_same_class_come_first(tmp_path) -> None:
    features = np.zeros((6, DIM), np.float32)
    features[:, 0] = [0, 5, 1, 3, 0.1, 9]
    features[:, 1] = [0, 0, 0, 0, 4, 0]
    images = [
        ("a", "x", "", [segment(1), segment(2), segment(3), segment(4)]),
        ("b", "y", "", [segment(1), segment(2)]),
    ]
    study = Study.create(tmp_path / "study", tmp_path, "tiny")
    add_part(study.folder, images, features)
    curation = Curation(study, SegmentPool(study.folder))
    assert curation.ordered(np.arange(6), "similarity", 0).tolist()[:4] == [0, 2, 3, 1]
    assert curation.ordered(np.arange(6), "similarity", 1).tolist()[:4] == [1, 3, 2, 0]
    places = curation.pool.places()
    others = sorted((4, 5), key=lambda number: float(np.linalg.norm(places[number] - places[0])))
    assert curation.ordered(np.arange(6), "similarity", 0).tolist()[4:] == others
    # A class of one has nothing of its own to be compared with.
    assert sorted(curation.ordered(np.array([1, 4]), "similarity", 4).tolist()) == [1, 4]
    assert curation.ordered(np.arange(6), "similarity").tolist() == list(range(6))


@given(st.lists(st.floats(0, 1e6, width=32), max_size=40), st.booleans())
def test_sorting_is_stable_and_right(keys, descending) -> None:
    values = np.array(keys, np.float32)
    expected = np.argsort(-values if descending else values, kind="stable")
    assert _sorted(np.arange(len(keys)), values, descending).tolist() == expected.tolist()


def test_a_segment_is_found_by_its_image_and_label(curation) -> None:
    assert curation.find("g3/two", 7) == 6
    assert curation.find("g3/two", 4) is None and curation.find("unknown", 1) is None
    add_part(curation.study.folder, [("g3/two", "grade 3", "Bob", [segment(7, 18)])])
    later = again(curation)
    assert later.find("g3/two", 7) == 8 and later.find("g3/two", 1) == 4


def test_decisions_that_mean_nothing_here_are_passed_over(tmp_path) -> None:
    study = make_study(tmp_path / "study")
    study.decide("segment", [2, 8, 500], "keep")
    study.decide("segment class", [1], "grade 9")
    study.decide("segment tags", [99], "odd")
    curation = Curation(study, SegmentPool(study.folder))
    assert curation.decision.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert curation.kind_of(1) == "grade 2" and curation.tags() == ()


def test_time_grows_with_the_number_of_segments_alone(tmp_path) -> None:
    few, many = (_seconds(tmp_path / str(count), count) for count in (10_000, 100_000))
    # Ten times as many take about ten times as long; a hundred times where each is compared with all others.
    assert many < 40 * few


def _seconds(folder: Path, count: int) -> float:
    """How long acts on all of many segments take."""
    folder.mkdir()
    rows = np.zeros(count, ROW)
    rows["border"][::2] = True
    image = PoolImage(Source("big", "one"), "x", (9, 9), 1.0, "0" * 64)
    pool = SimpleNamespace(
        rows=rows, images=(image,), kinds=("x",), image_kinds=np.zeros(count, np.intp), __len__=lambda: count
    )
    curation = Curation(Study.create(folder / "study", folder, "big"), _Sized(pool, count))
    began = time.thread_time()
    curation.decide(np.arange(count), "keep")
    curation.undo()
    curation.decide(curation.cut_off(), "drop")
    curation.tag(np.arange(count), "odd")
    taken = time.thread_time() - began
    assert curation.counts().dropped == count // 2 and curation.tags_of(count - 1) == ("odd",)
    return taken


class _Sized:
    """A pool of which only the rows are asked for."""

    def __init__(self, pool: SimpleNamespace, count: int) -> None:
        self._pool, self._count = pool, count

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)
