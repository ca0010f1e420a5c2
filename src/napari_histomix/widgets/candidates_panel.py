"""Step 2: find the places where a rare nucleus would fit, look at them, keep or drop them."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QItemSelection, QItemSelectionModel, Qt, QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_histomix.compositing.composing import crop
from napari_histomix.methods.base import Stage
from napari_histomix.records import Candidate, Location
from napari_histomix.widgets.candidate_table import COLUMNS, CandidateTable
from napari_histomix.widgets.decisions import DROP, KEEP, UNDECIDED, WORDS
from napari_histomix.widgets.elements import BAD, GOOD, SPACE, CropView, Note, row
from napari_histomix.widgets.plan_panel import PlanPage
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer import PanelKeys

CROP_MICROMETERS = 32.0


class CandidatesPanel(PlanPage):
    """Settings, the search, the table of candidates, the donor beside its target."""

    run_text, run_tip = "Find candidates", "Look for the places where a rare nucleus would fit."

    def __init__(self, napari_viewer: Any, session: Session | None = None, stage: Stage | None = None) -> None:
        super().__init__(napari_viewer, session, stage)
        self.keys = PanelKeys(
            self,
            self.viewer,
            {"K": lambda: self.decide(KEEP), "D": lambda: self.decide(DROP), "U": self.undo, "Y": self.redo},
        )
        self.session.candidates_changed.connect(self._on_candidates)
        self.session.candidates_decided.connect(self._on_decided)
        self.session.reader.loaded.connect(lambda _name: self._show_pair())
        self._on_candidates()

    def words(self) -> str:
        """How many were kept and dropped."""
        session = self.session
        if session.candidates is None:
            return ""
        return f"{session.decided(KEEP):,} kept · {session.decided(DROP):,} dropped"

    def build_results(self) -> None:
        """Add the table of candidates, and the donor beside its target."""
        self.results = QWidget()
        column = QVBoxLayout(self.results)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        self.draw = Note()
        column.addWidget(self.draw)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Filter: image, class, donor …")
        self.search.setClearButtonEnabled(True)
        self.kind, self.type, self.decision = QComboBox(), QComboBox(), QComboBox()
        self.percentile = QSpinBox()
        self.percentile.setRange(0, 100)
        self.percentile.setPrefix("Fit ≥ ")
        self.percentile.setToolTip("Show only places whose surroundings are at least this rare-like (percentile).")
        for box, text, values in (
            (self.kind, "Any kind", ("major", "background")),
            (self.type, "Any class", ()),
            (self.decision, "Any decision", (WORDS[KEEP], WORDS[DROP], UNDECIDED)),
        ):
            box.addItem(text, "")
            for value in values:
                box.addItem(value, value)
            box.setMinimumContentsLength(7)
            box.currentIndexChanged.connect(self._filter)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(200)
        self._typing.timeout.connect(self._filter)
        self.search.textChanged.connect(lambda _text: self._typing.start())
        self.percentile.valueChanged.connect(lambda _value: self._typing.start())
        column.addLayout(row(self.search, self.percentile, stretch=0))
        filters = row(self.kind, self.type, self.decision)
        for index in range(3):
            filters.setStretch(index, 1)
        column.addLayout(filters)
        self.table = CandidateTable(self)
        self.view = QTableView()
        self.view.setModel(self.table)
        self.view.setSortingEnabled(True)
        self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.view.setWordWrap(False)
        self.view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.view.setShowGrid(False)
        self.view.verticalHeader().hide()
        self.view.verticalHeader().setDefaultSectionSize(22)
        header = self.view.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for index, width in enumerate((42, 80, 86, 66, 36, 72, 100, 130)):
            self.view.setColumnWidth(index, width)
        self.view.setMinimumHeight(190)
        self.view.setToolTip(
            "A click flies to the place. K keeps, D drops, U undoes, Y redoes; Shift and Ctrl select several."
        )
        self.view.selectionModel().currentRowChanged.connect(lambda _now, _before: self._fly())
        column.addWidget(self.view, 1)
        self.keep_button = QPushButton("Keep (K)")
        self.drop_button = QPushButton("Drop (D)")
        self.undo_button = QPushButton("Undo (U)")
        self.redo_button = QPushButton("Redo (Y)")
        self.keep_button.setToolTip("Keep the selected candidates.")
        self.drop_button.setToolTip("Drop the selected candidates: no nucleus is placed there.")
        self.undo_button.setToolTip("Take the last decision back.")
        self.redo_button.setToolTip("Make the decision again that was taken back last.")
        self.keep_button.clicked.connect(lambda: self.decide(KEEP))
        self.drop_button.clicked.connect(lambda: self.decide(DROP))
        self.undo_button.clicked.connect(self.undo)
        self.redo_button.clicked.connect(self.redo)
        buttons = row(self.keep_button, self.drop_button, self.undo_button, self.redo_button)
        for index in range(4):
            buttons.setStretch(index, 1)
        column.addLayout(buttons)
        self.count = QLabel()
        column.addWidget(self.count)
        self.target_view, self.donor_view = CropView("Target"), CropView("Donor")
        pair = row(self.target_view, self.donor_view)
        for view in (self.target_view, self.donor_view):
            view.smooth = True
            view.setFixedHeight(150)
        column.addLayout(pair)
        self.column.addWidget(self.results, 10)

    # The table.

    def _on_candidates(self) -> None:
        candidates = self.session.candidates
        self.results.setVisible(candidates is not None)
        self.table.set_rows(candidates.rows if candidates else None, self.session.candidate_decisions)
        self.target_view.show_pixels(None, "Target")
        self.donor_view.show_pixels(None, "Donor")
        if candidates is None:
            return
        kinds = candidates.frame["type"].unique().tolist()
        self.type.blockSignals(True)
        self.type.clear()
        self.type.addItem("Any class", "")
        for name in sorted(kinds):
            self.type.addItem(name, name)
        self.type.blockSignals(False)
        size = candidates.effective_sample_size
        worth = f"{len(candidates.items):,} candidates"
        if size is not None:
            worth += f", drawn as if from {size:,.0f} equally likely places"
        self.draw.say(
            ". ".join([worth, *(one.rstrip(".") for one in candidates.warnings)]) + ".",
            "warning" if candidates.warnings else "info",
        )
        self.draw.setToolTip("The effective sample size: how many different places the draw really chooses from.")
        self._recount()

    def _filter(self) -> None:
        self.table.set_filter(
            self.search.text(),
            self.kind.currentData() or "",
            self.type.currentData() or "",
            self.decision.currentData() or "",
            float(self.percentile.value()),
        )
        self._recount()

    def selected(self) -> list[int]:
        """Ranks of the selected candidates."""
        return self.table.ranks(index.row() for index in self.view.selectionModel().selectedRows())

    def current(self) -> Candidate | None:
        """The candidate that was clicked last."""
        index = self.view.currentIndex()
        if self.session.candidates is None or not index.isValid():
            return None
        return self.session.candidates.items[self.table.ranks([index.row()])[0]]

    def decide(self, decision: str) -> None:
        """Keep or drop the selected candidates, and go on to the next one."""
        ranks = self.selected()
        if not ranks:
            return
        last = max(index.row() for index in self.view.selectionModel().selectedRows())
        self.session.decide("candidate", ranks, decision)
        if last + 1 < self.table.rowCount():
            self.view.selectRow(last + 1)

    def undo(self) -> None:
        """Take the last decision back and select what it concerned."""
        self.select(self.session.undo("candidate"))

    def redo(self) -> None:
        """Make the decision again that was taken back last, and select what it concerns."""
        self.select(self.session.redo("candidate"))

    def select(self, ranks: Any) -> None:
        """Select candidates by rank, those that the filter shows."""
        rows = [found for found in map(self.table.row_of, list(ranks)[:1000]) if found is not None]
        if not rows:
            return
        model = self.view.selectionModel()
        selection = QItemSelection()
        for found in rows:
            selection.select(self.table.index(found, 0), self.table.index(found, len(COLUMNS) - 1))
        model.setCurrentIndex(self.table.index(rows[0], 0), QItemSelectionModel.SelectionFlag.NoUpdate)
        model.select(selection, QItemSelectionModel.SelectionFlag.ClearAndSelect)
        self.view.scrollTo(self.table.index(rows[0], 0))

    def _on_decided(self, _ranks: Any) -> None:
        self.table.set_decisions(self.session.candidate_decisions)
        self._recount()
        self._show_pair()

    def _recount(self) -> None:
        kept, dropped = self.session.decided(KEEP), self.session.decided(DROP)
        total = len(self.session.candidates.items) if self.session.candidates else 0
        shown = self.table.rowCount()
        hidden = f" · {shown:,} shown" if shown != total else ""
        self.count.setText(f"<b>{kept:,} kept · {dropped:,} dropped</b> · {total - kept - dropped:,} undecided{hidden}")

    # The place and its donor.

    def _fly(self) -> None:
        candidate = self.current()
        if candidate is None:
            return
        place = candidate.target
        self.book.show_synthetic(False)
        self.session.fly(place.image, place.row, place.col)
        for location in (candidate.donor, candidate.target):
            self.session.reader.request(location.image)
        self._show_pair()

    def _show_pair(self) -> None:
        candidate = self.current()
        if candidate is None:
            return
        decision = self.session.candidate_decisions.get(candidate.rank)
        frame = {KEEP: GOOD, DROP: BAD}.get(decision or "", "")
        what = "background" if candidate.target.kind == "background" else f"replaces {self._name(candidate.target)}"
        self._show_crop(self.target_view, candidate.target, f"Target: {what}", frame)
        self._show_crop(self.donor_view, candidate.donor, f"Donor: {self._name(candidate.donor)}", "")

    def _name(self, location: Location) -> str:
        return self.session.dataset.class_name(location.type) if self.session.dataset and location.type else "nothing"

    def _show_crop(self, view: CropView, location: Location, caption: str, frame: str) -> None:
        image = self.session.reader.get(location.image)
        if image is None:
            view.show_pixels(None, f"{caption} …")
            return
        side = max(24, round(CROP_MICROMETERS / image.mpp))
        view.show_pixels(crop(image.pixels, location.row, location.col, side), caption, frame)

    # Keys only while the panel is to be seen.

    def showEvent(self, event: QShowEvent) -> None:
        """Take the keys over."""
        self.keys.bind()
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:
        """Give the keys back."""
        self.keys.release()
        super().hideEvent(event)
