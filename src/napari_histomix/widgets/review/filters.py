"""Which changes are reviewed, and in which order; and these changes as a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QGridLayout, QHeaderView, QTableView

from napari_histomix.study.changes import ChangeTable
from napari_histomix.study.decision_log import REASONS
from napari_histomix.widgets.decisions import WORDS
from napari_histomix.widgets.elements import SPACE, Section, button, choice, label, later, number, row
from napari_histomix.widgets.review.deciding import COLORS, title_of
from napari_histomix.widgets.review.queue import (
    ANY,
    BEST_FIRST,
    BY_DONOR,
    BY_IMAGE,
    DECISIONS,
    NO_REASON,
    NOTED,
    RANDOM,
    WORST_FIRST,
    ChangeRows,
    ReviewQueue,
    Wanted,
)
from napari_histomix.widgets.table_model import ArrayTableModel, Column

if TYPE_CHECKING:
    from napari_histomix.widgets.review.panel import ReviewPanel

STATES = (
    ("Any decision", ""),
    *((WORDS[decision].capitalize(), decision) for decision in DECISIONS),
    ("Any, with deleted", ANY),
)
GIVEN_REASONS = (
    ("Any reason", ""),
    *((reason.capitalize(), reason) for reason in REASONS),
    ("No reason given", NO_REASON),
    ("With a note", NOTED),
)
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
LIST_HEIGHT = 180
LIST_COLORS = {decision: QColor(color) for decision, color in COLORS.items()}


class FilterSection(Section):
    """Decision, class, image, donor, reason, method, sampler, fit; order and its seed."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__("Filter and order (F)", "Review only some of them, or in another order.", opened=False)
        self.panel = panel
        self.decision = _choice("Decision", "Show only those with this decision.", *STATES)
        self.kind = _choice("Class", "Show only those of this class.")
        self.image = _choice("Image", "Show only those in this image.")
        self.donor = _choice("Donor", "Show only copies of this donor, or of donors from this image.")
        self.reason = _choice("Reason", "Show only those with this reason.", *GIVEN_REASONS)
        self.method = _choice("Method", "Show only those that this method made.")
        self.sampler = _choice("Sampler", "Show only those in which this sampler painted.", ("Any sampler", ""))
        self.order = _choice("Order", "What comes next.", *ORDERS)
        self._choices = (self.decision, self.kind, self.image, self.donor, self.reason, self.method, self.sampler)
        self._late = later(self, PAUSE, panel.on_filter)
        self.low = number(0, 100, 0, tip="How well they fit where they are, at least (0 to 100).")
        self.high = number(0, 100, 100, tip="How well they fit where they are, at most (0 to 100).")
        self.seed = number(0, 999_999, 0, prefix="Seed ", tip="The same seed gives the same random order.")
        for field, name in ((self.low, "Lowest fit"), (self.high, "Highest fit"), (self.seed, "Seed")):
            field.setAccessibleName(name)
        self.seed.hide()
        self.clear_button = button("Show all", "Leave nothing out.", self.clear)
        grid = QGridLayout()
        grid.setSpacing(SPACE - 2)
        for place, field in enumerate((*self._choices, self.order)):
            grid.addWidget(field, place // 2, place % 2)
        fits = row(label("Fit from", wrap=False), self.low, label("to", wrap=False), self.high)
        fits.addStretch(1)
        grid.addLayout(fits, 4, 0, 1, 2)
        grid.addLayout(row(self.seed, self.clear_button, stretch=1), 5, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        self.body.addLayout(grid)
        for field in self._choices:
            field.currentIndexChanged.connect(lambda _index: panel.on_filter())
        self.order.currentIndexChanged.connect(self._on_order)
        for field in (self.low, self.high):
            field.valueChanged.connect(lambda _value: self._late.start())
        self.seed.valueChanged.connect(lambda _value: panel.on_order())

    def _on_order(self) -> None:
        self.seed.setVisible(self.order.currentData() == RANDOM)
        self.panel.on_order()

    # What is wanted.

    @property
    def wanted(self) -> Wanted:
        donor, _, image = (self.donor.currentData() or ALL_DONORS).partition(" ")
        return Wanted(
            decision=self.decision.currentData(),
            kind=self.kind.currentData() or "",
            image=self.image.currentData() or "",
            donor_image=image,
            donor=int(donor),
            reason=self.reason.currentData(),
            sampler=self.sampler.currentData() or "",
            low=self.low.value(),
            high=self.high.value(),
            method=self.method.currentData() or "",
        )

    @property
    def by(self) -> tuple[str, int]:
        """The order and its seed."""
        return self.order.currentData(), int(self.seed.value())

    def clear(self) -> None:
        blockers = [QSignalBlocker(field) for field in (*self._choices, self.low, self.high)]
        for field in self._choices:
            field.setCurrentIndex(0)
        self.low.setValue(0)
        self.high.setValue(100)
        del blockers
        self.panel.on_filter()

    def choose_donor(self, image: str, instance: int) -> None:
        self.clear()
        self.donor.setCurrentIndex(self.donor.findData(f"{instance} {image}"))

    def show_count(self, queue: ReviewQueue) -> None:
        total = len(queue.rows)
        self.state.setText(f"{len(queue):,} of {total:,}" if len(queue) < total else f"all {total:,}")
        self.clear_button.setEnabled(queue.wanted != Wanted())

    # What there is to choose from.

    def set_rows(self, rows: ChangeRows) -> None:
        """Offer the classes, images, donors and methods that occur; what was chosen stays where it can."""
        table = rows.table
        counts = np.bincount(table.names, minlength=len(table.made_names)).tolist()
        images = ((f"{name}  ({count:,})", name) for name, count in zip(table.made_names, counts, strict=True))
        _fill(self.kind, ("Any class", ""), *((name, name) for name in sorted(set(rows.class_names)) if name))
        _fill(self.image, ("Any image", ""), *images)
        _fill(self.donor, ("Any donor", ALL_DONORS), *_donors(table))
        _fill(self.method, ("Any method", ""), *((title_of(name), name) for name in table.method_names))
        self.method.setEnabled(len(table.method_names) > 1)

    def set_samplers(self, names: Iterable[str]) -> None:
        _fill(self.sampler, ("Any sampler", ""), *((name.capitalize(), name) for name in names if name))


def _choice(name: str, tip: str, *entries: tuple[str, str]) -> QComboBox:
    made = choice(entries, tip, name=name)
    made.setMinimumContentsLength(6)
    return made


def _fill(field: QComboBox, *entries: tuple[str, str]) -> None:
    """Offer other entries; what was chosen stays where it is among them."""
    chosen = field.currentData()
    with QSignalBlocker(field):
        field.clear()
        for text, value in entries:
            field.addItem(text, value)
        field.setCurrentIndex(max(field.findData(chosen), 0))


def _donors(table: ChangeTable) -> list[tuple[str, str]]:
    """All donors of an image, then each of them, with how often they occur."""
    pairs, counts = np.unique(np.stack([table.donor_images, table.donors], axis=1), axis=0, return_counts=True)
    by_image: dict[str, list[tuple[int, int]]] = {}
    for (image, donor), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        by_image.setdefault(table.donor_image_names[image], []).append((donor, count))
    entries: list[tuple[str, str]] = []
    for name, donors in sorted(by_image.items()):
        if name:
            entries.append((f"{name}  ({sum(count for _, count in donors):,})", f"0 {name}"))
            entries += [(f"    #{donor} of {name}  ({count:,})", f"{donor} {name}") for donor, count in donors if donor]
    return entries


class ListSection(Section):
    """Number, image, class, fit, method and decision of each change; filled only while it is open."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__("List", "All that the filter leaves; click to go there.", opened=False)
        self.queue, self.model, self.view = panel.queue, ArrayTableModel(self), QTableView()
        self._listed: NDArray[np.intp] | None = None
        view = self.view
        view.setModel(self.model)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        view.setSortingEnabled(True)
        view.setWordWrap(False)
        view.verticalHeader().hide()
        view.verticalHeader().setDefaultSectionSize(22)
        view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        view.setFixedHeight(LIST_HEIGHT)
        view.setAccessibleName("Changes")
        # The keys of the panel go on working after a click.
        view.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        view.clicked.connect(lambda index: panel.move_to_row(*self.model.items([index.row()])))
        self.body.addWidget(view)
        self.toggled.connect(self.refresh)

    def set_rows(self) -> None:
        rows, marks = self.queue.rows, self.queue.marks
        table = rows.table
        names, titles = table.made_names, [title_of(name) for name in table.method_names]
        columns = (
            Column("number", "#", "In the order they were made.", table.ids, lambda value: f"{value + 1}", right=True),
            Column("image", "Image", "In which it is seen.", table.names, names.__getitem__),
            Column("class", "Class", "", table.classes, rows.class_names.__getitem__),
            Column("fit", "Fit", "How well it fits, 0 to 100.", table.scores, _fit, right=True),
            Column("method", "Method", "", table.methods, titles.__getitem__),
            Column("decision", "Decision", "", marks.decisions, lambda code: WORDS[DECISIONS[code]]),
        )
        columns[1].hover = lambda row: names[table.names[row]]
        columns[5].color = lambda row: LIST_COLORS.get(DECISIONS[marks.decisions[row]])
        self.model.set_columns(columns)
        self._listed = None
        header = self.view.horizontalHeader()
        for place in range(len(columns)):
            mode = QHeaderView.ResizeMode.Stretch if place == 1 else QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(place, mode)
        header.setResizeContentsPrecision(50)

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


def _fit(score: float) -> str:
    return "" if np.isnan(score) else f"{score:.0f}"
