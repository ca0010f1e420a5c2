import time

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from widgets_samples import candidate

from napari_histomix.widgets.candidate_table import STATES, table_columns
from napari_histomix.widgets.loading import Candidates
from napari_histomix.widgets.table_model import ArrayTableModel, Column, legible

DESCENDING = Qt.SortOrder.DescendingOrder


@pytest.fixture
def model(qapp) -> ArrayTableModel:
    columns = (
        Column("name", "Name", "What it is.", ["pear", "Apple", "fig", "Apple"], hover=lambda item: f"item {item}"),
        Column("size", "Size", values=np.array([3.0, 1.0, 2.0, 5.0]), shown=lambda size: f"{size:.0f} cm", right=True),
        Column("split", "Split", values=["a", "b", "a", "b"], color=lambda item: QColor("red"), editable=True),
        Column("on", "On", values=np.array([True, False, True, False]), checkable=True),
    )
    table = ArrayTableModel()
    table.set_columns(columns, np.array(["pear tree", "apple tree", "fig", "apple"], object))
    return table


def test_rows_follow_sort_and_filter(model) -> None:
    assert model.items() == [0, 1, 2, 3] and model.rowCount() == len(model) == 4
    model.sort(0)
    assert model.items() == [1, 3, 2, 0]
    model.sort(1, DESCENDING)
    assert model.items() == [3, 0, 2, 1]
    model.set_filter("TREE")
    assert model.items() == [0, 1] and model.row_of(1) == 1 and model.row_of(3) is None
    model.sort(-1)
    model.set_filter(items=np.array([2, 0, 3]))
    assert model.items() == [2, 0, 3] and model.items([0, 2]) == [2, 3]
    model.set_filter("apple", np.array([3, 1, 0]))
    assert model.items() == [3, 1]
    model.set_filter("apple", equal={"split": "b"}, least={"size": 2.0})
    assert model.items() == [3]
    model.set_values("size", np.array([3.0, 2.0, 2.0, 5.0]))
    model.refresh()
    assert model.items() == [1, 3]


def test_cells_show_what_their_column_says(model) -> None:
    assert [model.index(0, column).data() for column in range(3)] == ["pear", "3 cm", "a"]
    assert model.index(1, 0).data(Qt.ItemDataRole.ToolTipRole) == "item 1"
    assert model.index(1, 2).data(Qt.ItemDataRole.ForegroundRole) == QColor("red")
    assert Qt.CheckState(model.index(0, 3).data(Qt.ItemDataRole.CheckStateRole)) == Qt.CheckState.Checked
    assert model.headerData(0, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole) == "What it is."
    changed = []
    model.dataChanged.connect(lambda first, last, *_: changed.append((first.column(), last.row())))
    model.set_values("size", np.array([9.0, 8.0, 7.0, 6.0]))
    assert changed == [(1, 3)] and model.index(0, 1).data() == "9 cm"


def test_a_choice_is_told_and_not_taken(model) -> None:
    told = []
    model.edited.connect(lambda *what: told.append(what))
    model.sort(1)
    assert model.setData(model.index(0, 2), "c") and model.setData(model.index(0, 3), 2, Qt.ItemDataRole.CheckStateRole)
    assert told == [(1, "split", "c"), (1, "on", True)]
    assert model.index(0, 2).data() == "b" and not model.setData(model.index(0, 0), "kiwi")
    editable = Qt.ItemFlag.ItemIsEditable
    assert model.flags(model.index(0, 2)) & editable and not model.flags(model.index(0, 1)) & editable
    model.locked = True
    assert not model.flags(model.index(0, 2)) & editable


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    items = [candidate(rank, "ab"[rank % 2], ("major", "background")[rank % 3 == 0]) for rank in range(100_000)]
    return Candidates.of(items, {1: "rare", 2: "common"}.__getitem__)


@pytest.fixture
def listed(qapp, candidates) -> ArrayTableModel:
    """The candidates as a table; rank 3 is kept, and 4 dropped."""
    table = ArrayTableModel()
    table.set_columns(table_columns(candidates, {3: "keep", 4: "drop"}), candidates.text)
    return table


def test_candidates_follow_sort_and_filter(listed, candidates) -> None:
    assert listed.rowCount() == 100_000
    listed.sort(listed.column("rank"), DESCENDING)
    assert listed.items([0, 1]) == [99_999, 99_998]
    listed.sort(listed.column("percentile"), DESCENDING)
    assert listed.items([0, 1]) == [0, 101]
    listed.sort(listed.column("rank"))
    listed.set_filter(equal={"kind": "background"})
    assert listed.items([0, 1]) == [0, 3]
    listed.set_filter(equal={"decision": STATES.index("keep")})
    assert listed.items() == [3]
    listed.set_filter("B common", least={"percentile": 50})
    shown, frame = listed.items(), candidates.frame
    assert shown and all(frame["image"][rank] == "b" and frame["percentile"][rank] >= 50 for rank in shown)
    assert all(frame["type"][rank] == "common" for rank in shown)
    assert listed.row_of(shown[5]) == 5 and listed.row_of(0) is None


def test_a_decision_shows_at_once_and_keeps_the_row(listed) -> None:
    decision = listed.column("decision")
    codes = listed.columns[decision].values
    listed.set_filter(equal={"decision": STATES.index("undecided")})
    changed = []
    listed.dataChanged.connect(lambda *_: changed.append(True))
    codes[0] = STATES.index("keep")
    listed.set_values("decision", codes)
    assert changed and listed.index(0, decision).data() == "kept"
    listed.refresh()
    assert listed.items([0]) == [1]


def test_candidates_read_as_words(listed) -> None:
    cells = {column.name: listed.index(0, place).data() for place, column in enumerate(listed.columns)}
    assert (cells["rank"], cells["type"], cells["decision"]) == ("1", "nothing", "undecided")
    listed.set_filter("b", equal={"kind": "major"}, least={"percentile": 50})
    listed.set_columns(())
    assert listed.rowCount() == 0


def test_a_hundred_thousand_candidates_hold_the_window_briefly(listed) -> None:
    begun = time.perf_counter()
    for column in range(listed.columnCount()):
        listed.sort(column)
    assert (time.perf_counter() - begun) / listed.columnCount() < 0.25


def test_a_hundred_thousand_rows_hold_the_window_briefly(qapp) -> None:
    rng = np.random.default_rng(0)
    names = [f"image {number % 300}" for number in range(100_000)]
    columns = (Column("name", "Name", values=names), Column("fit", "Fit", values=rng.random(100_000)))
    table = ArrayTableModel(columns=columns)
    begun = time.perf_counter()
    for column in (0, 1, 0, 1):
        table.sort(column, DESCENDING)
    assert (time.perf_counter() - begun) / 4 < 0.5


def test_colored_words_stand_out_from_a_light_ground_as_from_a_dark_one(model, monkeypatch) -> None:
    cell = model.index(0, 2)
    for theme, ground in (("dark", "#262930"), ("light", "#d6d0ce")):
        monkeypatch.setattr(get_settings().appearance, "theme", theme)
        color = model.data(cell, Qt.ItemDataRole.ForegroundRole)
        assert abs(color.lightness() - QColor(ground).lightness()) > 60, theme
    assert color.hue() == QColor("red").hue() and legible(None) is None
