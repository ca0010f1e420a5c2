"""Columns of values as a table model: sorted and filtered with numpy, so that 100,000 rows never hold the window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from napari.settings import get_settings
from napari.utils.theme import get_theme
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QTableView

from napari_histomix.widgets.docking import for_letters, letter_points

DARKER = 190
"""Percent by which colors that stand out on a dark ground are darker on a light one."""
RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)


@dataclass(eq=False)
class Column:
    """A column of a table: its name in the code, the header that people read and what it means, a value of each item.

    Whether a person may change a value (``editable``), or tick it on and off (``checkable``), is told by the model's
    signal ``edited``.
    """

    name: str
    header: str
    tip: str = ""
    values: Sequence[Any] | NDArray[Any] = ()
    shown: Callable[[Any], str] = str
    """A value as text."""
    right: bool = False
    """Aligned as numbers are."""
    color: Callable[[int], QColor | None] | None = None
    hover: Callable[[int], str] | None = None
    """Color and tooltip of an item's cell."""
    editable: bool = False
    checkable: bool = False
    _ranks: NDArray[Any] | None = field(default=None, init=False, repr=False)

    def ranks(self) -> NDArray[Any]:
        """Numbers (N,) in the order of the column."""
        if self._ranks is None:
            values = np.asarray(self.values)
            numbers = values.dtype.kind in "iuf"
            self._ranks = values if numbers else pd.factorize(values.astype(object), sort=True)[0]
        return self._ranks


class ArrayTableModel(QAbstractTableModel):
    """A table that sorts and filters by itself; items are numbered from 0 in the order of the columns' values.

    A proxy model would call back into Python for every comparison: half a second for 30,000 rows. Here a sort or a
    filter is one numpy expression.
    """

    edited = Signal(int, str, object)
    """Item, name of the column, and the value that a person chose; the model keeps what it had."""

    def __init__(self, parent: Any = None, columns: Sequence[Column] = ()) -> None:
        super().__init__(parent)
        self.columns: tuple[Column, ...] = tuple(columns)
        self.locked = False
        """Whether nothing can be edited for now."""
        self._text: NDArray[Any] | None = None
        self._items: NDArray[np.intp] | None = None
        self._words = ""
        self._equal: Mapping[str, Any] = {}
        self._least: Mapping[str, float] = {}
        self._order: tuple[int, bool] | None = None
        self._rows = np.zeros(0, np.intp)
        self.refresh()

    def __len__(self) -> int:
        """How many items there are, shown or not."""
        return len(self.columns[0].values) if self.columns else 0

    def column(self, name: str) -> int:
        return next(place for place, column in enumerate(self.columns) if column.name == name)

    def set_columns(self, columns: Sequence[Column], text: NDArray[Any] | None = None) -> None:
        """Show other items; ``text`` (N,) is what a search looks through, in lower case."""
        self.beginResetModel()
        self.columns, self._text, self._items = tuple(columns), text, None
        self._rows = self._arranged()
        self.endResetModel()

    def set_values(self, name: str, values: Sequence[Any] | NDArray[Any]) -> None:
        """Other values of a column, in the rows as they stand; sorted and filtered again by ``refresh`` only."""
        place = self.column(name)
        self.columns[place].values, self.columns[place]._ranks = values, None
        if len(self._rows):
            self.dataChanged.emit(self.index(0, place), self.index(len(self._rows) - 1, place))

    def set_filter(
        self,
        words: str = "",
        items: NDArray[np.intp] | None = None,
        *,
        equal: Mapping[str, Any] | None = None,
        least: Mapping[str, float] | None = None,
    ) -> None:
        """Show only items whose text has all words, and whose columns have these values, or at least these.

        Of ``items`` alone, in their order, where they are given.
        """
        self._words, self._items, self._equal, self._least = words, items, equal or {}, least or {}
        self.refresh()

    def refresh(self) -> None:
        self.beginResetModel()
        self._rows = self._arranged()
        self.endResetModel()

    def items(self, rows: Iterable[int] | None = None) -> list[int]:
        """Items in some of the rows shown, or in all of them."""
        shown: list[int] = (self._rows if rows is None else self._rows[list(rows)]).tolist()
        return shown

    def row_of(self, item: int) -> int | None:
        places = np.flatnonzero(self._rows == item)
        return int(places[0]) if len(places) else None

    def _arranged(self) -> NDArray[np.intp]:
        rows = np.arange(len(self)) if self._items is None else self._items
        if not self.columns:
            return rows
        for name, value in self._equal.items():
            rows = rows[np.asarray(self.columns[self.column(name)].values)[rows] == value]
        for name, lowest in self._least.items():
            rows = rows[np.asarray(self.columns[self.column(name)].values)[rows] >= lowest]
        if self._text is not None:
            for word in self._words.casefold().split():
                rows = rows[np.fromiter((word in text for text in self._text[rows]), bool, len(rows))]
        if self._order is None or self._order[0] >= len(self.columns):
            return rows
        column, descending = self._order
        keys = self.columns[column].ranks()[rows]
        # Stable both ways: equal keys stay in the order of the items.
        return rows[np.argsort(-keys.astype(float) if descending else keys, kind="stable")]

    # Qt's side.

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or section >= len(self.columns):
            return None
        column = self.columns[section]
        return {Qt.ItemDataRole.DisplayRole: column.header, Qt.ItemDataRole.ToolTipRole: column.tip}.get(role)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or index.row() >= len(self._rows):
            return None
        item, column = int(self._rows[index.row()]), self.columns[index.column()]
        if role == Qt.ItemDataRole.CheckStateRole and column.checkable:
            return Qt.CheckState.Checked if column.values[item] else Qt.CheckState.Unchecked
        if role == Qt.ItemDataRole.DisplayRole and not column.checkable:
            return column.shown(column.values[item])
        if role == Qt.ItemDataRole.EditRole:
            return column.values[item]
        if role == Qt.ItemDataRole.TextAlignmentRole and column.right:
            return RIGHT
        if role == Qt.ItemDataRole.ForegroundRole and column.color is not None:
            return legible(column.color(item))
        if role == Qt.ItemDataRole.ToolTipRole and column.hover is not None:
            return column.hover(item)
        return None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        flags = super().flags(index)
        if index.isValid() and not self.locked:
            column = self.columns[index.column()]
            if column.editable:
                flags |= Qt.ItemFlag.ItemIsEditable
            if column.checkable:
                flags |= Qt.ItemFlag.ItemIsUserCheckable
        return flags

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        item, column = int(self._rows[index.row()]), self.columns[index.column()]
        if role == Qt.ItemDataRole.CheckStateRole and column.checkable:
            value = Qt.CheckState(value) == Qt.CheckState.Checked
        elif role != Qt.ItemDataRole.EditRole or not column.editable:
            return False
        if value == column.values[item]:
            return False
        self.edited.emit(item, column.name, value)
        return True

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        # A header without a sorted column says -1.
        self._order = (column, order == Qt.SortOrder.DescendingOrder) if column >= 0 else None
        self.refresh()


def table_view(model: QAbstractTableModel, widths: Sequence[int] = (), row_height: int = 22) -> QTableView:
    """A table whose rows are selected as a whole."""
    view = QTableView()
    view.setModel(model)
    view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
    view.setWordWrap(False)
    view.verticalHeader().hide()
    # napari gives letters of the size that a person chose to most parts of a window, but not to tables.
    view.setStyleSheet(f"QTableView, QHeaderView {{ font-size: {letter_points()}pt; }}")
    view.verticalHeader().setDefaultSectionSize(for_letters(row_height))
    set_widths(view, widths)
    return view


def legible(color: QColor | None) -> QColor | None:
    """A color of text that reads on napari's theme, too, where that is light."""
    return color.darker(DARKER) if color is not None and _is_light(get_settings().appearance.theme) else color


@lru_cache
def _is_light(theme: str) -> bool:
    return bool(QColor(get_theme(theme).background.as_hex()).lightness() > 128)


def set_widths(view: QTableView, widths: Sequence[int]) -> None:
    """Give the columns of a table their widths, in pixels for letters of napari's own size."""
    for column, width in enumerate(widths):
        view.setColumnWidth(column, for_letters(width))
