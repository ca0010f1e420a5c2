"""All changes that the filter leaves as a list; the one that is clicked comes under review."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QModelIndex, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_histomix.widgets.elements import BAD, GOOD, Section
from napari_histomix.widgets.review.details import title_of
from napari_histomix.widgets.review.queue import ReviewQueue
from napari_histomix.widgets.review.rows import CODES
from napari_histomix.widgets.table_model import ArrayTableModel, Column
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT, WORDS

COLORS = {CODES[APPROVE]: QColor(GOOD), CODES[REJECT]: QColor(BAD), CODES[DELETE]: QColor("#8a8f99")}
STATES = {code: WORDS[decision] for decision, code in CODES.items()}
HEIGHT = 180


class ListSection(Section):
    """Number, image, class, fit, method and decision of each change; filled only while it is open.

    Parameters
    ----------
    queue : ReviewQueue
    """

    wanted = Signal(int)
    """Row of the change that a person clicked."""

    def __init__(self, queue: ReviewQueue) -> None:
        super().__init__("List", "All that the filter leaves; click to go there.", opened=False)
        self.queue, self.model, self.view = queue, ArrayTableModel(self), QTableView()
        self._listed: Any = None
        self.view.setModel(self.model)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.view.setSortingEnabled(True)
        self.view.setWordWrap(False)
        self.view.verticalHeader().hide()
        self.view.verticalHeader().setDefaultSectionSize(22)
        self.view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.view.setFixedHeight(HEIGHT)
        self.view.setAccessibleName("Changes")
        # The keys of the panel go on working after a click.
        self.view.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.view.clicked.connect(self._on_clicked)
        self.body.addWidget(self.view)
        self.toggled.connect(lambda _opened: self.refresh())

    def set_rows(self) -> None:
        """List other changes."""
        rows, marks = self.queue.rows, self.queue.marks
        table = rows.table
        names, titles = table.made_names, [title_of(name) for name in table.method_names]
        columns = (
            Column("number", "#", "In the order they were made.", table.ids, lambda value: f"{value + 1}", right=True),
            Column("image", "Image", "In which it is seen.", table.names, names.__getitem__),
            Column("class", "Class", "", table.classes, rows.class_names.__getitem__),
            Column("fit", "Fit", "How well it fits, 0 to 100.", table.scores, _fit, right=True),
            Column("method", "Method", "", table.methods, titles.__getitem__),
            Column("decision", "Decision", "", marks.decisions, STATES.__getitem__),
        )
        columns[1].hover = lambda row: names[table.names[row]]
        columns[5].color = lambda row: COLORS.get(int(marks.decisions[row]))
        self.model.set_columns(columns)
        self._listed = None
        for column in range(self.model.columnCount()):
            mode = QHeaderView.ResizeMode.Stretch if column == 1 else QHeaderView.ResizeMode.ResizeToContents
            self.view.horizontalHeader().setSectionResizeMode(column, mode)
        self.view.horizontalHeader().setResizeContentsPrecision(50)

    def refresh(self) -> None:
        """Show what the filter leaves, and mark what is under review."""
        if not self.is_open:
            return
        shown = self.queue.shown
        if self._listed is None or not np.array_equal(shown, self._listed):
            self._listed = shown
            self.model.set_filter(items=shown)
        else:
            self.model.set_values("decision", self.queue.marks.decisions)
        self.state.setText(f"{len(shown):,}")
        at = self.model.row_of(self.queue.row) if self.queue.row is not None else None
        with QSignalBlocker(self.view.selectionModel()):
            self.view.clearSelection()
            if at is not None:
                self.view.selectRow(at)
        if at is not None:
            self.view.scrollTo(self.model.index(at, 0))

    def _on_clicked(self, index: QModelIndex) -> None:
        (row,) = self.model.items([index.row()])
        self.wanted.emit(row)


def _fit(score: float) -> str:
    return "" if np.isnan(score) else f"{score:.0f}"
