from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from napari_histomix.records import Candidate, Location
from napari_histomix.widgets.review.goal import Pace, duration, to_look_at
from napari_histomix.widgets.review.queue import ReviewQueue
from napari_histomix.widgets.review.rows import (
    ANY,
    BEST_FIRST,
    BY_DONOR,
    BY_IMAGE,
    NO_REASON,
    NOTED,
    RANDOM,
    WORST_FIRST,
    Wanted,
)
from napari_histomix.widgets.review.summary import DonorUse, after_review


class Light:
    """A placement of which only what is cheap may be asked; counts how often it is."""

    asked: ClassVar[int] = 0

    def __init__(self, rank: int, image: str, donor: tuple[str, int], percentile: float, row: int = 0) -> None:
        target = Location(image, "major", row + 5.0, 5.0, rank % 3, 2 if rank % 3 else 0)
        self._candidate = Candidate(rank, target, Location(donor[0], "rare", 5, 5, donor[1], 1), 0.0, percentile)
        self.row, self.col, self.shape, self.instance, self.provenance = row, 0, (10, 10), rank, {}

    @property
    def candidate(self) -> Candidate:
        Light.asked += 1
        return self._candidate


def queue_of(*lights: Light, decisions=None, reasons=None, notes=None) -> ReviewQueue:
    queue = ReviewQueue()
    queue.set_placements(lights, decisions or {}, reasons or {}, notes or {})
    return queue


def some(count: int = 12) -> list[Light]:
    """Images in turn, three donors, percentiles that fall."""
    donors = [("z", 1), ("y", 20), ("y", 3)]
    return [Light(rank, "ab"[rank % 2], donors[rank % 3], 90.0 - rank, 20 * rank) for rank in range(count)]


def ranks(queue: ReviewQueue) -> list[int]:
    return queue.rows.ranks[queue.shown].tolist()


def test_the_orders_and_what_a_seed_means() -> None:
    queue = queue_of(*some())
    assert ranks(queue) == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    queue.arrange(BEST_FIRST)
    assert ranks(queue) == list(range(12))
    queue.arrange(WORST_FIRST)
    assert ranks(queue) == list(range(12))[::-1]
    queue.arrange(BY_DONOR)
    # By the name of the donor's image, then by its number.
    assert ranks(queue) == [2, 5, 8, 11, 1, 4, 7, 10, 0, 3, 6, 9]
    queue.arrange(RANDOM, 1)
    first = ranks(queue)
    queue.arrange(RANDOM, 2)
    assert sorted(first) == sorted(ranks(queue)) == list(range(12)) and ranks(queue) != first
    # More placements take their places between those that were there, which keep theirs.
    queue.arrange(RANDOM, 1)
    queue.set_placements(some(20), {}, {}, {})
    assert [one for one in ranks(queue) if one < 12] == first


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
        (Wanted(type=9), set()),
        (Wanted(sampler="paper", image="b"), {7, 9, 11}),
    ],
)
def test_the_filter_leaves_what_agrees_with_all_that_is_wanted(wanted, expected) -> None:
    decisions = {0: "approve", 2: "reject", 5: "delete"}
    queue = queue_of(*some(), decisions=decisions, reasons={2: "seam", 3: "seam, label"}, notes={7: "look again"})
    queue.set_samplers({rank: "fast" if rank < 6 else "paper" for rank in range(12)})
    queue.filter(wanted)
    assert set(ranks(queue)) == expected and len(queue) == len(expected)
    assert (queue.row is None) == (not expected) and (queue.rank in expected or not expected)


def test_a_decision_that_takes_the_current_one_out_of_the_filter_leaves_it_in_view_until_the_next_step() -> None:
    queue = queue_of(*some())
    queue.filter(Wanted("undecided"))
    queue.go_to(2)
    assert queue.rank == 4 and queue.at == 2
    queue.update([4], {4: "approve"}, {}, {})
    assert queue.rank == 4 and queue.at is None and len(queue) == 11
    assert queue.step(1) and queue.rank == 6 and queue.at == 2
    queue.update([4], {}, {}, {})
    assert queue.step(-1) and queue.rank == 4
    # Back from outside the filter too.
    queue.update([4], {4: "approve"}, {}, {})
    assert queue.step(-1) and queue.rank == 2
    queue.go_to(99)
    assert queue.rank == 11 and not queue.step(1) and not queue.can_step(1)


def test_the_next_undecided_one_is_looked_for_from_here_and_then_from_the_start() -> None:
    queue = queue_of(*some(6), decisions=dict.fromkeys((0, 4, 1), "approve"))
    assert ranks(queue) == [0, 2, 4, 1, 3, 5]
    assert queue.rank == 2  # the first that is undecided
    assert queue.step_undecided() and queue.rank == 3
    assert queue.step_undecided() and queue.rank == 5
    assert queue.step_undecided() and queue.rank == 2
    queue.update([3, 5], dict.fromkeys((0, 4, 1, 3, 5), "reject"), {}, {})
    assert not queue.step_undecided() and queue.rank == 2


def test_around_a_place_are_its_neighbors_but_for_those_taken_out() -> None:
    lights = [Light(rank, "a", ("d", 1), 50, 8 * rank) for rank in range(4)] + [Light(9, "b", ("d", 1), 50)]
    queue = queue_of(*lights, decisions={0: "reject", 2: "reject", 3: "delete"})
    queue.go(2)
    # The current one is shown whatever was decided on it.
    assert [one.candidate.rank for one in queue.around(0, 0, 40, 40)] == [1, 2]
    assert [one.candidate.rank for one in queue.around(18, 0, 40, 40)] == [2]


def test_a_hundred_thousand_placements_are_looked_at_once_and_never_again() -> None:
    lights = [Light(rank, f"i{rank % 300}", ("d", rank % 77), rank % 101, rank) for rank in range(100_000)]
    Light.asked = 0
    queue = ReviewQueue()
    queue.set_placements(lights, dict.fromkeys(range(0, 100000, 7), "approve"), {}, {})
    assert Light.asked <= len(lights)
    Light.asked = 0
    for by in (BY_IMAGE, BEST_FIRST, BY_DONOR, RANDOM):
        queue.arrange(by)
        queue.filter(Wanted("undecided", image="i5", low=10))
        queue.filter(Wanted())
    for _ in range(50):
        queue.step(1)
        queue.step_undecided()
        queue.undecided_here()
        queue.update([queue.rank], {queue.rank: "reject"}, {}, {})
        assert queue.current is not None and queue.following() is not None
    DonorUse.of(queue.rows, queue.marks.decisions == 1)
    assert Light.asked == 0


def test_donors_are_worth_their_number_only_where_all_are_used_equally_often() -> None:
    rows = queue_of(*some()).rows
    every = np.ones(12, bool)
    use = DonorUse.of(rows, every)
    assert use.counts.tolist() == [4, 4, 4] and use.worth == pytest.approx(3)
    assert use.histogram() == [("used once", 0), ("twice", 0), ("3 times", 0), ("4 times", 3)]
    one_sided = np.isin(rows.ranks, [0, 3, 6, 1])
    use = DonorUse.of(rows, one_sided)
    assert use.worth == pytest.approx(16 / 10) and use.most == ("z", 1)
    nothing = DonorUse.of(rows, ~every)
    assert nothing.worth == 0 and nothing.most is None and nothing.histogram() == []


def test_classes_after_are_before_plus_placed_minus_replaced() -> None:
    from napari_histomix.records import NucleusClass

    classes = [NucleusClass(1, "rare", (0, 0, 0)), NucleusClass(2, "common", (0, 0, 0))]
    rows = queue_of(*some()).rows
    assert after_review({1: 5, 2: 100}, rows, np.ones(12, bool), classes) == {1: 17, 2: 92}


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
    assert (duration(20), duration(720), duration(9000)) == ("a minute", "12 min", "2.5 h")
