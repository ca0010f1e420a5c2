"""Find the places where a rare nucleus would fit, look at them, keep or drop them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QItemSelection, QItemSelectionModel, Qt
from qtpy.QtGui import QColor

from napari_histomix.methods.base import Stage
from napari_histomix.records import Candidate, Location
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import PanelKeys
from napari_histomix.widgets.decisions import DROP, KEEP, UNDECIDED, WORDS
from napari_histomix.widgets.loading import Candidates
from napari_histomix.widgets.plan_panel import PlanPage
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.table_model import ArrayTableModel, Column, table_view
from napari_histomix.widgets.viewer_layers import Clicks

CROP_MICROMETERS = 32.0
TYPING = 200
"""Milliseconds after a key before the table is filtered."""
STATES = (DROP, KEEP, UNDECIDED)
"""Decisions by their code in the table, in the order of their words."""
BEST = 50
"""Candidates that are shown at first: the most likely ones, and those that were decided on."""
DECISION = 5
"""Place of the column of decisions."""


def table_columns(candidates: Candidates, decisions: dict[int, str]) -> list[Column]:
    """The columns of a table of candidates, with a code of the decision on each."""
    codes = np.full(len(candidates.items), STATES.index(UNDECIDED), np.int8)
    for state in (DROP, KEEP):
        codes[[rank for rank, decision in decisions.items() if decision == state]] = STATES.index(state)
    columns = list(candidates.columns)
    colors = [QColor("#c0392b"), QColor("#27ae60"), None]
    shown = [WORDS[state] for state in STATES]
    decision = Column("decision", "Decision", "Yours: kept, dropped or undecided.", codes, shown.__getitem__)
    decision.color = lambda rank: colors[codes[rank]]
    columns.insert(DECISION, decision)
    return columns


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
        self.clicks = Clicks(self.viewer, self)
        self.clicks.clicked.connect(self._on_clicked)
        self.while_shown += [self.keys, self.clicks]
        self.column.insertWidget(0, self.keys.note())
        self.session.candidates_changed.connect(self._on_candidates)
        self.session.candidates_decided.connect(self._on_decided)
        self.session.reader.loaded.connect(lambda _name: self._show_pair())
        self._on_candidates()

    def words(self) -> str:
        if self.session.candidates is None:
            return ""
        return f"{self.session.decided(KEEP):,} kept · {self.session.decided(DROP):,} dropped"

    def build_results(self) -> None:
        self.draw = ui.Note()
        self.draw.setToolTip("The effective sample size: how many different places the draw really chooses from.")
        self._typing = ui.later(self, TYPING, self._filter)
        typed = self._typing.start
        self.search = ui.line("Filter: image, class, donor …", changed=lambda _text: typed())
        self.search.setClearButtonEnabled(True)
        tip = "Show only places whose surroundings are at least this rare-like (percentile)."
        self.percentile = ui.number(0, 100, 0, prefix="Fit ≥ ", tip=tip, changed=lambda _value: typed())
        kinds = [("Any kind", None), ("major", "major"), ("background", "background")]
        decisions = [
            ("Any decision", None),
            *((WORDS[state], STATES.index(state)) for state in (KEEP, DROP, UNDECIDED)),
        ]
        self.kind, self.type, self.decision = (
            ui.choice(items, changed=self._filter, letters=7) for items in (kinds, [("Any class", None)], decisions)
        )
        tip = f"The {BEST} most likely places and those you decided on, or all of them; also as points over the tissue."
        self.extent = ui.choice([(f"Best {BEST}", True), ("All", False)], tip, changed=self._filter, letters=7)
        self.filters = ui.Section("Filter", "Show only some of them, in the table and over the tissue.", False)
        ui.add(
            self.filters.body,
            ui.row(self.search, self.percentile, stretch=0),
            ui.even_row(self.kind, self.type, self.decision),
        )
        self.table = ArrayTableModel(self)
        self.view = table_view(self.table)
        self.view.setSortingEnabled(True)
        self.view.setShowGrid(False)
        self.view.setMinimumHeight(190)
        self.view.setToolTip(
            "A click flies to the place. K keeps, D drops, U undoes, Y redoes; Shift and Ctrl select several."
        )
        self.view.selectionModel().currentRowChanged.connect(lambda _now, _before: self._fly())
        self.keep_button = ui.button("Keep (K)", "Keep the selected candidates.", lambda: self.decide(KEEP))
        self.drop_button = ui.button(
            "Drop (D)", "Drop the selected candidates: no nucleus is placed there.", lambda: self.decide(DROP)
        )
        self.undo_button = ui.button("Undo (U)", "Take the last decision back.", self.undo)
        self.redo_button = ui.button("Redo (Y)", "Make the decision again that was taken back last.", self.redo)
        self.count = ui.label(wrap=False)
        self.target_view, self.donor_view = (
            ui.CropView(caption, smooth=True, height=150) for caption in ("Target", "Donor")
        )
        parts = (
            self.draw,
            self.extent,
            self.view,
            ui.even_row(self.keep_button, self.drop_button, self.undo_button, self.redo_button),
            self.count,
            ui.row(self.target_view, self.donor_view),
            self.filters,
        )
        self.results = ui.box(ui.column(*parts, stretch=parts.index(self.view)))
        self.column.addWidget(self.results, 10)

    # The table.

    def _on_candidates(self) -> None:
        candidates = self.session.candidates
        self.results.setVisible(candidates is not None)
        self.target_view.show_pixels(None, "Target")
        self.donor_view.show_pixels(None, "Donor")
        if candidates is None:
            self.table.set_columns(())
            return
        first = not self.table.columns
        self.table.set_columns(table_columns(candidates, self.session.decisions["candidate"]), candidates.text)
        if first:
            for place, width in enumerate((42, 80, 86, 66, 36, 72, 100, 130)):
                self.view.setColumnWidth(place, width)
            self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        kinds = sorted(candidates.frame["type"].unique())
        ui.offer(self.type, [("Any class", None), *((kind, kind) for kind in kinds)])
        worth = f"{len(candidates.items):,} candidates"
        if candidates.effective_sample_size is not None:
            worth += f", drawn as if from {candidates.effective_sample_size:,.0f} equally likely places"
        sentences = filter(None, [f"{worth}.", candidates.told_apart, *candidates.warnings])
        self.draw.say(" ".join(sentences), "warning" if candidates.warnings else "info")
        self._filter()

    def _filter(self, *_: object) -> None:
        filters = {"kind": self.kind, "type": self.type, "decision": self.decision}
        equal = {name: filter.currentData() for name, filter in filters.items() if filter.currentData() is not None}
        least = {"percentile": self.percentile.value()} if self.percentile.value() else {}
        self.table.set_filter(self.search.text(), self._best(), equal=equal, least=least)
        self.book.show_candidates(self.table.items())
        self._recount()

    def _best(self) -> NDArray[np.intp] | None:
        """Those that are shown at first; None where all are wanted."""
        if not self.extent.currentData():
            return None
        decided = [rank for rank in self.session.decisions["candidate"] if rank < len(self.table)]
        return np.union1d(np.arange(min(BEST, len(self.table))), decided).astype(np.intp)

    def _on_clicked(self, event: Any) -> None:
        rank = self.book.candidate_at(event.position)
        if rank is not None:
            self.select([rank])

    def selected(self) -> list[int]:
        """Ranks of the selected candidates."""
        return self.table.items(index.row() for index in self.view.selectionModel().selectedRows())

    def current(self) -> Candidate | None:
        """The candidate that was clicked last."""
        index = self.view.currentIndex()
        if self.session.candidates is None or not index.isValid():
            return None
        return self.session.candidates.items[self.table.items([index.row()])[0]]

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
        self.select(self.session.undo("candidate"))

    def redo(self) -> None:
        self.select(self.session.redo("candidate"))

    def select(self, ranks: Iterable[int]) -> None:
        """Select candidates by rank, those that the filter shows."""
        ranks = list(ranks)
        if self.extent.currentData() and ranks and all(self.table.row_of(rank) is None for rank in ranks):
            self.extent.setCurrentIndex(1)
        rows = [row for row in map(self.table.row_of, ranks[:1000]) if row is not None]
        if not rows:
            return
        first = self.table.index(rows[0], 0)
        selection = QItemSelection()
        for place in rows:
            selection.select(self.table.index(place, 0), self.table.index(place, self.table.columnCount() - 1))
        model = self.view.selectionModel()
        model.setCurrentIndex(first, QItemSelectionModel.SelectionFlag.NoUpdate)
        model.select(selection, QItemSelectionModel.SelectionFlag.ClearAndSelect)
        self.view.scrollTo(first)

    def _on_decided(self, ranks: Iterable[int]) -> None:
        codes, decisions = self.table.columns[DECISION].values, self.session.decisions["candidate"]
        for rank in ranks:
            codes[rank] = STATES.index(decisions.get(rank, UNDECIDED))
        self.table.set_values("decision", codes)
        self._recount()
        self._show_pair()

    def _recount(self) -> None:
        kept, dropped = self.session.decided(KEEP), self.session.decided(DROP)
        total, shown = len(self.table), self.table.rowCount()
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
        decision = self.session.decisions["candidate"].get(candidate.rank)
        frame = {KEEP: ui.GOOD, DROP: ui.BAD}.get(decision or "", "")
        what = "background" if candidate.target.kind == "background" else f"replaces {self._name(candidate.target)}"
        donor = f"Donor: {self._name(candidate.donor)}"
        for view, place, caption, color in (
            (self.target_view, candidate.target, f"Target: {what}", frame),
            (self.donor_view, candidate.donor, donor, ""),
        ):
            image = self.session.reader.get(place.image)
            view.show_place(image, caption, place.row, place.col, CROP_MICROMETERS, color)

    def _name(self, location: Location) -> str:
        return self.session.dataset.class_name(location.type) if self.session.dataset and location.type else "nothing"
