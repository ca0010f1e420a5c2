"""Candidates as a table model: sorted and filtered with numpy, so that 30,000 rows never hold the window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QColor

from napari_histomix.widgets.decisions import DROP, KEEP, UNDECIDED, WORDS
from napari_histomix.widgets.loading import CandidateRows

COLUMNS = (
    ("rank", "#", "Order in which the places were drawn; synthesis takes them in this order."),
    ("image", "Image", "The image with the place."),
    ("kind", "Kind", "major: a nucleus would be replaced. background: a free place."),
    ("type", "Replaces", "Class of the nucleus that would be replaced."),
    ("percentile", "Fit", "How rare-like the surroundings are: percentile among those of real rare nuclei."),
    ("decision", "Decision", "Yours: kept, dropped or undecided."),
    ("log_likelihood", "Log-likelihood", "Of the surroundings, under the model of rare surroundings."),
    ("donor", "Donor", "The rare nucleus that would be placed here: its image and number."),
)
"""Column of the frame, header, and what it means."""

_COLORS = {KEEP: QColor("#27ae60"), DROP: QColor("#c0392b")}


class CandidateTable(QAbstractTableModel):
    """A table of candidates that sorts and filters by itself.

    A proxy model would call back into Python for every comparison: half a second for 30,000 rows. Here the columns come
    ranked, and a sort or a filter is one numpy expression.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._all: CandidateRows | None = None
        self._decisions: dict[int, str] = {}
        self._rows = np.array([], dtype=np.int64)
        self._order: tuple[int, bool] = (0, False)
        self._filter: dict[str, Any] = {}

    # What is in it.

    def set_rows(self, rows: CandidateRows | None, decisions: Mapping[int, str]) -> None:
        """Show other candidates."""
        self._decisions = dict(decisions)
        self._all = rows
        self.refresh()

    def set_decisions(self, decisions: Mapping[int, str]) -> None:
        """Show other decisions, in the rows as they stand; a filter on decisions is not applied again by itself."""
        self._decisions = dict(decisions)
        if len(self._rows):
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._rows) - 1, len(COLUMNS) - 1))

    def set_filter(
        self, text: str = "", kind: str = "", type: str = "", decision: str = "", percentile: float = 0.0
    ) -> None:
        """Show only the candidates that agree with all that is given."""
        self._filter = {"text": text, "kind": kind, "type": type, "decision": decision, "percentile": percentile}
        self.refresh()

    def refresh(self) -> None:
        """Filter and sort again."""
        self.beginResetModel()
        self._rows = self._arranged()
        self.endResetModel()

    def ranks(self, rows: Iterable[int]) -> list[int]:
        """Ranks of the candidates in some of the rows shown."""
        return [int(self._rows[row]) for row in rows]

    def row_of(self, rank: int) -> int | None:
        """The row a candidate is shown in."""
        found = np.flatnonzero(self._rows == rank)
        return int(found[0]) if len(found) else None

    def _arranged(self) -> NDArray[np.int64]:
        if self._all is None:
            return np.array([], dtype=np.int64)
        size = len(self._all)
        keep = np.ones(size, dtype=bool)
        wanted = self._filter
        for name in ("kind", "type"):
            if wanted.get(name):
                keep &= np.fromiter((one == wanted[name] for one in self._all.columns[name]), bool, size)
        if wanted.get("percentile"):
            keep &= self._all.keys["percentile"] >= wanted["percentile"]
        if wanted.get("decision"):
            keep &= self._decision_words(size) == wanted["decision"]
        for word in str(wanted.get("text", "")).casefold().split():
            keep &= np.fromiter((word in one for one in self._all.text), bool, size)
        rows = np.flatnonzero(keep)
        column, descending = self._order
        name = COLUMNS[column][0]
        keys = self._decision_words(size) if name == "decision" else self._all.keys[name]
        keys = keys[rows]
        if keys.dtype == object:
            keys = pd.factorize(keys, sort=True)[0]
        # Stable both ways: equal keys stay in order of rank.
        return rows[np.argsort(-keys if descending else keys, kind="stable")]

    def _decision_words(self, size: int) -> NDArray[Any]:
        words = np.full(size, UNDECIDED, dtype=object)
        for rank, decision in self._decisions.items():
            if rank < size:
                words[rank] = WORDS[decision]
        return words

    # Qt's side.

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008
        """Rows that the filter leaves."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008
        """Number of columns."""
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Headers, and what a column means as a tooltip."""
        if orientation == Qt.Orientation.Horizontal:
            if role == Qt.ItemDataRole.DisplayRole:
                return COLUMNS[section][1]
            if role == Qt.ItemDataRole.ToolTipRole:
                return COLUMNS[section][2]
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell shows."""
        if not index.isValid() or self._all is None:
            return None
        rank = int(self._rows[index.row()])
        name = COLUMNS[index.column()][0]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._shown(self._all, rank, name)
        if role == Qt.ItemDataRole.TextAlignmentRole and name in ("rank", "percentile", "log_likelihood"):
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.ForegroundRole and name == "decision":
            return _COLORS.get(self._decisions.get(rank, ""))
        if role == Qt.ItemDataRole.ToolTipRole and name in ("image", "donor"):
            return self._all.columns[name][rank]
        return None

    def _shown(self, rows: CandidateRows, rank: int, name: str) -> str:
        if name == "decision":
            return WORDS[self._decisions.get(rank, UNDECIDED)]
        value = rows.columns[name][rank]
        if name == "rank":
            return str(value + 1)
        if name == "percentile":
            return f"{value:.0f}"
        if name == "log_likelihood":
            return f"{value:.1f}"
        if name == "type" and value == "background":
            return "nothing"
        return str(value)

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; called by the view's header."""
        self._order = column, order == Qt.SortOrder.DescendingOrder
        self.refresh()
