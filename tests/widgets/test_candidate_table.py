import time

from qtpy.QtCore import Qt

from napari_histomix.widgets.candidate_table import COLUMNS, CandidateTable
from napari_histomix.widgets.loading import CandidateRows

COLUMN = {name: number for number, (name, _, _) in enumerate(COLUMNS)}


def test_rows_follow_sort_and_filter(qapp, frame) -> None:
    table = CandidateTable()
    table.set_rows(CandidateRows.of(frame), {3: "keep", 4: "drop"})
    assert table.rowCount() == 30_000
    table.sort(COLUMN["rank"], Qt.SortOrder.DescendingOrder)
    assert table.ranks([0, 1]) == [29_999, 29_998]
    table.sort(COLUMN["percentile"], Qt.SortOrder.DescendingOrder)
    assert table.ranks([0, 1]) == [0, 101]
    table.sort(COLUMN["rank"])
    table.set_filter(kind="background")
    assert table.ranks([0, 1]) == [0, 3]
    table.set_filter(decision="kept")
    assert table.ranks(range(table.rowCount())) == [3]
    table.set_filter(text="B common", percentile=50)
    shown = table.ranks(range(table.rowCount()))
    assert shown and all(frame["image"][rank] == "b" and frame["percentile"][rank] >= 50 for rank in shown)
    assert all(frame["type"][rank] == "common" for rank in shown)
    assert table.row_of(shown[5]) == 5 and table.row_of(0) is None


def test_a_decision_shows_at_once_and_keeps_the_row(qapp, frame) -> None:
    table = CandidateTable()
    table.set_rows(CandidateRows.of(frame), {})
    table.set_filter(decision="undecided")
    changed = []
    table.dataChanged.connect(lambda *_: changed.append(True))
    table.set_decisions({0: "keep"})
    assert changed and table.index(0, COLUMN["decision"]).data() == "kept"
    table.refresh()
    assert table.ranks([0]) == [1]


def test_cells_read_as_words(qapp, frame) -> None:
    table = CandidateTable()
    table.set_rows(CandidateRows.of(frame), {})
    assert [table.index(0, COLUMN[name]).data() for name in ("rank", "type", "decision")] == [
        "1",
        "nothing",
        "undecided",
    ]
    table.set_rows(None, {})
    assert table.rowCount() == 0


def test_thirty_thousand_rows_hold_the_window_briefly(qapp, frame) -> None:
    table = CandidateTable()
    table.set_rows(CandidateRows.of(frame), dict.fromkeys(range(0, 30000, 2), "keep"))
    begun = time.perf_counter()
    for column in range(len(COLUMNS)):
        table.sort(column)
    assert (time.perf_counter() - begun) / len(COLUMNS) < 0.25
