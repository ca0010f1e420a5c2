"""Which changes are reviewed, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from qtpy.QtCore import QModelIndex, QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QGridLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QSpinBox,
    QTableView,
)

from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.decision_log import REASONS
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, UNDECIDED, WORDS
from napari_histomix.widgets.elements import BAD, GOOD, SPACE, Section, narrow, row
from napari_histomix.widgets.review.deciding import title_of
from napari_histomix.widgets.review.queue import (
    ANY,
    BEST_FIRST,
    BY_DONOR,
    BY_IMAGE,
    CODES,
    NO_REASON,
    NOTED,
    RANDOM,
    WORST_FIRST,
    ChangeRows,
    ReviewQueue,
    Wanted,
)
from napari_histomix.widgets.table_model import ArrayTableModel, Column

ORDERS = (
    ("Order: by image", BY_IMAGE),
    ("Order: best fit first", BEST_FIRST),
    ("Order: worst fit first", WORST_FIRST),
    ("Order: by donor", BY_DONOR),
    ("Order: at random", RANDOM),
)
PAUSE = 200
"""Milliseconds after the last change of a number before it counts."""
ALL_DONORS = "0 "
"""Donors are known by number and image; number 0 stands for all donors of an image."""


class FilterSection(Section):
    """Decision, class, image, donor, reason, method, sampler, fit; order and its seed."""

    filtered = Signal()
    ordered = Signal()

    def __init__(self) -> None:
        super().__init__("Filter and order (F)", "Review only some of them, or in another order.", opened=False)
        self.decision, self.kind, self.image, self.donor, self.reason, self.method, self.sampler, self.order = (
            QComboBox() for _ in range(8)
        )
        self._boxes = (self.decision, self.kind, self.image, self.donor, self.reason, self.method, self.sampler)
        self._fill(
            self.decision,
            ("Any decision", ""),
            *((WORDS[state].capitalize(), state) for state in (UNDECIDED, APPROVE, REJECT, DELETE)),
            ("Any, with deleted", ANY),
        )
        self._fill(
            self.reason,
            ("Any reason", ""),
            *((reason.capitalize(), reason) for reason in REASONS),
            ("No reason given", NO_REASON),
            ("With a note", NOTED),
        )
        self._fill(self.sampler, ("Any sampler", ""))
        self._fill(self.order, *ORDERS)
        self.low, self.high, self.seed = QSpinBox(), QSpinBox(), QSpinBox()
        for box, value in ((self.low, 0), (self.high, 100)):
            box.setRange(0, 100)
            box.setValue(value)
        self.seed.setRange(0, 999_999)
        self.seed.setPrefix("Seed ")
        for box, name, tip in (
            (self.decision, "Decision", "Show only those with this decision."),
            (self.kind, "Class", "Show only those of this class."),
            (self.image, "Image", "Show only those in this image."),
            (self.donor, "Donor", "Show only copies of this donor, or of donors from this image."),
            (self.method, "Method", "Show only those that this method made."),
            (self.reason, "Reason", "Show only those with this reason."),
            (self.sampler, "Sampler", "Show only those in which this sampler painted."),
            (self.order, "Order", "What comes next."),
            (self.low, "Lowest fit", "How well they fit where they are, at least (0 to 100)."),
            (self.high, "Highest fit", "How well they fit where they are, at most (0 to 100)."),
            (self.seed, "Seed", "The same seed gives the same random order."),
        ):
            box.setToolTip(tip)
            box.setAccessibleName(name)
            if isinstance(box, QComboBox):
                narrow(box)
                box.setMinimumContentsLength(6)
        self.clear_button = QPushButton("Show all")
        self.clear_button.setToolTip("Leave nothing out.")
        self._build()
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(PAUSE)
        self._connect()
        self._on_order()

    def _build(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(SPACE - 2)
        for place, box in enumerate(self._boxes):
            grid.addWidget(box, place // 2, place % 2)
        fits = row(QLabel("Fit from"), self.low, QLabel("to"), self.high)
        fits.addStretch(1)
        grid.addWidget(self.order, 3, 1)
        grid.addLayout(fits, 4, 0, 1, 2)
        grid.addLayout(row(self.seed, self.clear_button, stretch=1), 5, 0, 1, 2)
        for column in range(2):
            grid.setColumnStretch(column, 1)
        self.body.addLayout(grid)

    def _connect(self) -> None:
        for box in self._boxes:
            box.currentIndexChanged.connect(lambda _index: self.filtered.emit())
        self.order.currentIndexChanged.connect(lambda _index: self._on_order())
        for box in (self.low, self.high):
            box.valueChanged.connect(lambda _value: self._late.start())
        self.seed.valueChanged.connect(lambda _value: self.ordered.emit())
        self._late.timeout.connect(self.filtered)
        self.clear_button.clicked.connect(self.clear)

    def _on_order(self) -> None:
        self.seed.setVisible(self.order.currentData() == RANDOM)
        self.ordered.emit()

    # What is wanted.

    @property
    def wanted(self) -> Wanted:
        """What the boxes say."""
        instance, _, image = (self.donor.currentData() or ALL_DONORS).partition(" ")
        return Wanted(
            self.decision.currentData(),
            self.kind.currentData() or "",
            self.image.currentData() or "",
            image,
            int(instance),
            self.reason.currentData(),
            self.sampler.currentData() or "",
            self.low.value(),
            self.high.value(),
            self.method.currentData() or "",
        )

    @property
    def by(self) -> tuple[str, int]:
        """The order and its seed."""
        return self.order.currentData(), self.seed.value()

    def clear(self) -> None:
        """Leave nothing out."""
        blockers = [QSignalBlocker(box) for box in (*self._boxes, self.low, self.high)]
        for box in self._boxes:
            box.setCurrentIndex(0)
        self.low.setValue(0)
        self.high.setValue(100)
        del blockers
        self.filtered.emit()

    def choose_donor(self, image: str, instance: int) -> None:
        """Show only copies of one donor."""
        self.clear()
        self.donor.setCurrentIndex(self.donor.findData(f"{instance} {image}"))

    def say(self, queue: ReviewQueue) -> None:
        """Say how many are shown."""
        total = len(queue.rows)
        self.state.setText(f"{len(queue):,} of {total:,}" if len(queue) < total else f"all {total:,}")
        self.clear_button.setEnabled(queue.wanted != Wanted())

    # What there is to choose from.

    def set_rows(self, rows: ChangeRows) -> None:
        """Offer the classes, images, donors and methods that occur; what was chosen stays where it can."""
        table = rows.table
        counts = np.bincount(table.names, minlength=len(table.made_names)).tolist()
        images = [(f"{name}  ({count:,})", name) for name, count in zip(table.made_names, counts, strict=True)]
        self._fill(self.kind, ("Any class", ""), *((name, name) for name in sorted(set(rows.class_names)) if name))
        self._fill(self.image, ("Any image", ""), *images)
        self._fill(self.donor, ("Any donor", ALL_DONORS), *_donors(table))
        self._fill(self.method, ("Any method", ""), *((title_of(name), name) for name in table.method_names))
        self.method.setEnabled(len(table.method_names) > 1)

    def set_samplers(self, names: Iterable[str]) -> None:
        """Offer the samplers that occur."""
        self._fill(self.sampler, ("Any sampler", ""), *((name.capitalize(), name) for name in names if name))

    @staticmethod
    def _fill(box: QComboBox, *entries: tuple[str, object]) -> None:
        chosen = box.currentData()
        with QSignalBlocker(box):
            box.clear()
            for text, value in entries:
                box.addItem(text, value)
            values = [value for _, value in entries]
            box.setCurrentIndex(values.index(chosen) if chosen in values else 0)


def _donors(table: ChangeTable) -> list[tuple[str, str]]:
    """All donors of an image, then each of them, with how often they occur."""
    pairs, counts = np.unique(np.stack([table.donor_images, table.donors], axis=1), axis=0, return_counts=True)
    by_image: dict[str, list[tuple[int, int]]] = {}
    for (image, number), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        by_image.setdefault(table.donor_image_names[image], []).append((number, count))
    entries: list[tuple[str, str]] = []
    for name, donors in sorted(by_image.items()):
        if name:
            entries.append((f"{name}  ({sum(count for _, count in donors):,})", f"0 {name}"))
            entries += [
                (f"    #{number} of {name}  ({count:,})", f"{number} {name}") for number, count in donors if number
            ]
    return entries


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
