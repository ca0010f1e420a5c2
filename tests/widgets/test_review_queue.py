from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_histomix.study.changes import ChangeTable
from napari_histomix.widgets.review.deciding import Pace, to_look_at
from napari_histomix.widgets.review.queue import (
    ANY,
    BEST_FIRST,
    BY_DONOR,
    BY_IMAGE,
    DETECTABLE_FIRST,
    NO_REASON,
    NOTED,
    RANDOM,
    WORST_FIRST,
    ReviewQueue,
    Wanted,
)
from napari_histomix.widgets.review.sections import DonorUse, after_review

CLASSES = {1: "rare"}.__getitem__


class Light:
    """Changes of which only what is cheap may be asked; counts how often one is made into an object."""

    def __init__(self, rows: list[tuple[str, tuple[str, int], float, int]], ids: list[int] | None = None) -> None:
        self.asked = 0
        columns = []
        for number, (image, donor, score, row) in zip(ids or range(len(rows)), rows, strict=True):
            replaced = 2 if number % 3 else 0
            about = number, image, image, donor[0], "stamps", donor[1], replaced, 1, "", score, row, 0, 10, 10
            columns.append(about)
        self.table = ChangeTable.of_rows(columns)

    def change_of(self, number: int) -> Any:
        self.asked += 1
        return SimpleNamespace(id=number)


def queue_of(light: Light, decisions=None, reasons=None, notes=None) -> ReviewQueue:
    queue = ReviewQueue(light.change_of)
    queue.set_changes(light.table, CLASSES, said(decisions, reasons, notes))
    return queue


def said(decisions=None, reasons=None, notes=None) -> dict[str, dict[int, str]]:
    return {"change": decisions or {}, "change reasons": reasons or {}, "change note": notes or {}}


def some(count: int = 12) -> Light:
    """Images in turn, three donors, fits that fall."""
    donors = [("z", 1), ("y", 20), ("y", 3)]
    return Light([("ab"[at % 2], donors[at % 3], 90.0 - at, 20 * at) for at in range(count)])


def ids(queue: ReviewQueue) -> list[int]:
    return queue.table.ids[queue.shown].tolist()


def test_the_orders_and_what_a_seed_means() -> None:
    queue = queue_of(some())
    assert ids(queue) == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    queue.arrange(BEST_FIRST)
    assert ids(queue) == list(range(12))
    queue.arrange(WORST_FIRST)
    assert ids(queue) == list(range(12))[::-1]
    queue.arrange(BY_DONOR)
    # By the name of the donor's image, then by its number.
    assert ids(queue) == [2, 5, 8, 11, 1, 4, 7, 10, 0, 3, 6, 9]
    queue.arrange(DETECTABLE_FIRST)
    queue.set_detectability({4: 60.0, 9: 80.0})
    # What no detector has scored comes last.
    assert ids(queue) == [9, 4, 0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    queue.arrange(RANDOM, 1)
    first = ids(queue)
    queue.arrange(RANDOM, 2)
    assert sorted(first) == sorted(ids(queue)) == list(range(12)) and ids(queue) != first
    # More changes take their places between those that were there, which keep theirs.
    queue.arrange(RANDOM, 1)
    queue.set_changes(some(20).table, CLASSES, said())
    assert [number for number in ids(queue) if number < 12] == first


@pytest.mark.parametrize(
    "wanted, expected",
    [
        (Wanted(), {0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11}),
        (Wanted(ANY), set(range(12))),
        (Wanted("undecided"), {1, 3, 4, 6, 7, 8, 9, 10, 11}),
        (Wanted("approve"), {0}),
        (Wanted("delete"), {5}),
        (Wanted(image="a"), {0, 2, 4, 6, 8, 10}),
        (Wanted(donor_image="y"), {1, 2, 4, 7, 8, 10, 11}),
        (Wanted(donor_image="y", donor=3), {2, 8, 11}),
        (Wanted(donor_image="nowhere"), set()),
        (Wanted(low=85, high=88), {2, 3, 4}),
        (Wanted(reason="seam"), {2, 3}),
        (Wanted(reason="label"), {3}),
        (Wanted(reason=NO_REASON), {0, 1, 4, 6, 7, 8, 9, 10, 11}),
        (Wanted(reason=NOTED), {7}),
        (Wanted(kind="common"), set()),
        (Wanted(kind="rare", image="b"), {1, 3, 7, 9, 11}),
        (Wanted(method="stamps", image="a"), {0, 2, 4, 6, 8, 10}),
        (Wanted(method="cutmix"), set()),
        (Wanted(sampler="paper", image="b"), {7, 9, 11}),
        (Wanted(detectable=90.0), {2, 7}),
    ],
)
def test_the_filter_leaves_what_agrees_with_all_that_is_wanted(wanted, expected) -> None:
    decisions = {0: "approve", 2: "reject", 5: "delete"}
    queue = queue_of(some(), decisions=decisions, reasons={2: "seam", 3: "seam, label"}, notes={7: "look again"})
    queue.set_samplers({rank: "fast" if rank < 6 else "paper" for rank in range(12)})
    queue.set_detectability({2: 100.0, 3: 50.0, 7: 90.0})
    queue.filter(wanted)
    assert set(ids(queue)) == expected and len(queue) == len(expected)
    assert (queue.row is None) == (not expected) and (queue.id in expected or not expected)


def test_a_decision_that_takes_the_current_one_out_of_the_filter_leaves_it_in_view_until_the_next_step() -> None:
    queue = queue_of(some())
    queue.filter(Wanted("undecided"))
    queue.go_to(2)
    assert queue.id == 4 and queue.at == 2
    queue.update([4], said({4: "approve"}))
    assert queue.id == 4 and queue.at is None and len(queue) == 11
    assert queue.step(1) and queue.id == 6 and queue.at == 2
    queue.update([4], said())
    assert queue.step(-1) and queue.id == 4
    # Back from outside the filter too.
    queue.update([4], said({4: "approve"}))
    assert queue.step(-1) and queue.id == 2
    queue.go_to(99)
    assert queue.id == 11 and not queue.step(1) and queue.following() is None


def test_the_next_undecided_one_is_looked_for_from_here_and_then_from_the_start() -> None:
    queue = queue_of(some(6), decisions=dict.fromkeys((0, 4, 1), "approve"))
    assert ids(queue) == [0, 2, 4, 1, 3, 5]
    assert queue.id == 2  # the first that is undecided
    assert queue.step_undecided() and queue.id == 3
    assert queue.step_undecided() and queue.id == 5
    assert queue.step_undecided() and queue.id == 2
    queue.update([3, 5], said(dict.fromkeys((0, 4, 1, 3, 5), "reject")))
    assert not queue.step_undecided() and queue.id == 2


def test_around_a_place_are_its_neighbors_but_for_those_taken_out() -> None:
    rows = [("a", ("d", 1), 50.0, 8 * at) for at in range(4)] + [("b", ("d", 1), 50.0, 0)]
    queue = queue_of(Light(rows), decisions={0: "reject", 2: "reject", 3: "delete"})
    queue.go(2)
    # The current one is shown whatever was decided on it.
    assert [change.id for change in queue.around(0, 0, 40, 40)] == [1, 2]
    assert [change.id for change in queue.around(18, 0, 40, 40)] == [2]


def test_what_has_no_fit_comes_last_and_is_left_out_where_a_fit_is_wanted() -> None:
    nan = float("nan")
    queue = queue_of(Light([("a", ("d", 1), score, 0) for score in (nan, 10.0, 90.0, nan)]))
    for by, expected in ((BEST_FIRST, [2, 1, 0, 3]), (WORST_FIRST, [1, 2, 0, 3])):
        queue.arrange(by)
        assert ids(queue) == expected
    queue.filter(Wanted(low=5))
    assert set(ids(queue)) == {1, 2}


def test_a_hundred_thousand_changes_are_looked_at_by_their_arrays_alone() -> None:
    light = Light([(f"i{at % 300}", ("d", at % 77), at % 101, at) for at in range(100_000)])
    queue = queue_of(light, dict.fromkeys(range(0, 100000, 7), "approve"))
    for by in (BY_IMAGE, BEST_FIRST, BY_DONOR, RANDOM):
        queue.arrange(by)
        queue.filter(Wanted("undecided", image="i5", low=10))
        queue.filter(Wanted())
    for _ in range(20):
        queue.step(1)
        queue.step_undecided()
        queue.undecided_here()
        queue.update([queue.id], said({queue.id: "reject"}))
        assert queue.following() is not None
    DonorUse.of(queue.table, queue.decisions == 1)
    assert light.asked == 0


def test_donors_are_worth_their_number_only_where_all_are_used_equally_often() -> None:
    table = some().table
    every = np.ones(12, bool)
    use = DonorUse.of(table, every)
    assert use.counts.tolist() == [4, 4, 4] and use.worth == pytest.approx(3)
    assert use.histogram() == [("used once", 0), ("twice", 0), ("3 times", 0), ("4 times", 3)]
    one_sided = np.isin(table.ids, [0, 3, 6, 1])
    use = DonorUse.of(table, one_sided)
    assert use.worth == pytest.approx(16 / 10) and use.most == ("z", 1)
    nothing = DonorUse.of(table, ~every)
    assert nothing.worth == 0 and nothing.most is None and nothing.histogram() == []


def test_classes_after_are_before_plus_added_minus_replaced() -> None:
    queue, every = queue_of(some()), np.ones(12, bool)
    assert after_review({1: 5, 2: 100}, queue.table, every) == {1: 17, 2: 92}
    derived = [(0, "a", "a mixed", "b", "mixup", 0, 0, 0, "tumor", None, 0, 0, 9, 9)]
    images = ReviewQueue(lambda _id: None)
    images.set_changes(ChangeTable.of_rows(derived), str, said())
    assert after_review({1: 5, "tumor": 3, "benign": 4}, images.table, every[:1]) == {1: 5, "tumor": 4, "benign": 4}
    assert queue.words == ("nucleus", "nuclei") and images.words == ("image", "images") and images.noun == "image"


def test_the_pace_is_the_median_without_pauses() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    for gap in (0, 4, 4, 500, 5):
        now[0] += gap
        pace.tick()
    assert pace.seconds == 4
    pace.rest()
    now[0] += 30
    pace.tick()
    assert pace.seconds == 4
    assert Pace().seconds is None


def test_what_is_left_follows_from_the_share_approved_so_far() -> None:
    assert to_look_at(0, 500, 10, 10) == 500
    assert to_look_at(100, 500, 50, 50) == 100
    assert to_look_at(100, 60, 50, 50) == 60
    assert to_look_at(100, 500, 0, 7) == 500
