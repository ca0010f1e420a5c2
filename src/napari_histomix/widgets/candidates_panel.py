"""Find the places where a rare nucleus would fit, look at them, keep or drop them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qtpy.QtCore import QItemSelection, QItemSelectionModel, Qt

from napari_histomix.methods.base import Stage
from napari_histomix.records import Candidate, Location
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import PanelKeys, turning_keys
from napari_histomix.widgets.candidate_table import (
    FIRST,
    STATES,
    WIDTHS,
    listed,
    outcome_sentence,
    outcome_values,
    table_columns,
)
from napari_histomix.widgets.crops import CropView
from napari_histomix.widgets.decisions import DROP, KEEP, UNDECIDED, WORDS
from napari_histomix.widgets.hand_placing import HandPlacing
from napari_histomix.widgets.heat_map import HeatMap
from napari_histomix.widgets.jobs import JobRunner, single
from napari_histomix.widgets.plan_panel import PlanPage
from napari_histomix.widgets.regions_box import RegionsBox
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.table_model import ArrayTableModel, set_widths, table_view
from napari_histomix.widgets.viewer_layers import Clicks

CROP_MICROMETERS = 32.0
TYPING = 200
"""Milliseconds after a key before the table is filtered."""
SOON = 300
"""Milliseconds after changes were made before the table says which candidates became them."""


class CandidatesPanel(PlanPage):
    """Settings, the search, the table of candidates, the donor beside its target."""

    run_text, run_tip = "Find candidates", "Look for the places where a rare nucleus would fit."

    def __init__(self, napari_viewer: Any, session: Session | None = None, stage: Stage | None = None) -> None:
        super().__init__(napari_viewer, session, stage)
        self.keys = PanelKeys(
            self,
            self.viewer,
            {"K": lambda: self.decide(KEEP), "D": lambda: self.decide(DROP)} | turning_keys(self.undo, self.redo),
        )
        self.clicks = Clicks(self.viewer, self)
        self.clicks.clicked.connect(self._on_clicked)
        self.while_shown += [self.keys, self.clicks, self.placing]
        self.column.insertWidget(0, self.keys.badge("Candidates"))
        self._outcomes: dict[int, int | str] = {}
        self._still = False
        """Whether the camera stays where it is."""
        self._reading = JobRunner(self).on(finished=self._on_outcomes)
        self._read_soon = ui.later(self, SOON, self._read_outcomes)
        for signal in (self.session.outcomes_changed, self.session.changes_made, self.session.changes_changed):
            signal.connect(lambda *_: self._read_soon.start())
        self.session.dataset_changed.connect(lambda: self._outcomes.clear())
        self.session.dataset_changed.connect(self._reading.discard)
        self.session.study_changed.connect(self._on_study)
        self.runner.on(running_changed=self._on_running)
        self.session.candidates_changed.connect(self._on_candidates)
        self.session.candidates_decided.connect(self._on_decided)
        self.session.reader.loaded.connect(lambda _name: self._show_pair())
        self._on_study()
        self._on_candidates()

    def words(self) -> str:
        if self.session.candidates is None:
            return ""
        kept = self.session.decided(KEEP)
        return f"{kept:,} kept" if kept else f"{len(self.session.candidates.items):,} found"

    def build_results(self) -> None:
        self.draw = ui.Note()
        self.draw.setToolTip("The effective sample size: how many different places the draw really chooses from.")
        self._typing = ui.later(self, TYPING, self._filter)
        typed = self._typing.start
        self.search = ui.line(
            "Filter: image, class, donor …", "Words that a row must hold.", changed=lambda _text: typed()
        )
        self.search.setClearButtonEnabled(True)
        tip = "Show only places whose surroundings are at least this rare-like (percentile)."
        self.percentile = ui.number(0, 100, 0, prefix="Fit ≥ ", tip=tip, changed=lambda _value: typed())
        kinds = [("Any kind", None), ("major", "major"), ("background", "background")]
        decisions = [
            ("Any decision", None),
            *((WORDS[state], STATES.index(state)) for state in (KEEP, DROP, UNDECIDED)),
        ]
        classes = [("Any class", None)]
        self.kind, self.type, self.decision = (
            ui.choice(items, tip, self._filter, letters=7)
            for items, tip in (
                (kinds, "Show only nuclei that would be replaced, or free places."),
                (classes, "Show only those that replace a nucleus of this class."),
                (decisions, "Show only those that you kept, dropped, or have not decided on."),
            )
        )
        tip = f"The first {FIRST} places of the draw and those you decided on, or all; also as points over the tissue."
        self.extent = ui.choice([(f"First {FIRST}", True), ("All", False)], tip, changed=self._filter, letters=5)
        self.heat = HeatMap(self, self.viewer, self.session, self.book)
        self.filters = ui.Section("Filter", "Show only some of them, in the table and over the tissue.", False)
        ui.add(
            self.filters.body,
            ui.row(self.search, self.percentile, stretch=0),
            ui.even_row(self.kind, self.type, self.decision),
        )
        self.regions = RegionsBox(self.viewer, self.session, self.book)
        tip = "Shapes drawn on an image: candidates outside of them are dropped."
        self.region_section = ui.Section("Only in regions", tip, False)
        self.region_section.body.addWidget(self.regions)
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
        self.count = ui.label()
        self.placing = HandPlacing(self, self.viewer, self.session, self.book)
        self.placing.placed.connect(self._select_here)
        self.told = ui.Note()
        self.told.setToolTip("What became of the selected candidate.")
        self.target_view, self.donor_view = (
            CropView(caption, smooth=True, height=150) for caption in ("Target", "Donor")
        )
        parts = (
            self.draw,
            ui.row(self.extent, self.heat.button, self.placing.button, stretch=0),
            self.placing.note,
            self.heat.legend,
            self.view,
            ui.even_row(self.keep_button, self.drop_button, self.undo_button, self.redo_button),
            self.count,
            self.told,
            ui.row(self.target_view, self.donor_view),
            self.region_section,
            self.filters,
        )
        self.results = ui.box(ui.column(*parts, stretch=parts.index(self.view)))
        self.column.addWidget(self.results, 10)

    # The table.

    def _on_study(self) -> None:
        read_only = self.session.read_only
        parts = self.keep_button, self.drop_button, self.undo_button, self.redo_button, self.placing.button
        for part in parts:
            part.setEnabled(not read_only)
        self.note.say(READ_ONLY if read_only else "", "warning")

    def _on_running(self, running: bool) -> None:
        # With a decision on those of before, what is found now could not come in their place.
        self.results.setEnabled(not running or self.session.worked)

    @property
    def _decides(self) -> bool:
        return self.results.isEnabled() and not self.session.read_only

    def _on_candidates(self) -> None:
        candidates = self.session.candidates
        self.results.setVisible(candidates is not None)
        self.target_view.show_pixels(None, "Target")
        self.donor_view.show_pixels(None, "Donor")
        if candidates is None:
            self.table.set_columns(())
            return
        first = not self.table.columns
        self._read_soon.start()
        columns = table_columns(candidates, self.session.decisions["candidate"], self._outcomes)
        self.table.set_columns(columns, candidates.text)
        if first:
            set_widths(self.view, WIDTHS)
            self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        kinds = sorted(candidates.frame["type"].unique())
        ui.offer(self.type, [("Any class", None), *((kind, kind) for kind in kinds)])
        worth = f"{len(candidates.items) - len(candidates.by_hand):,} candidates"
        if candidates.effective_sample_size is not None:
            worth += f", drawn as if from {candidates.effective_sample_size:,.0f} equally likely places"
        sentences = filter(None, [f"{worth}.", candidates.told_apart, *candidates.warnings])
        self.draw.say(" ".join(sentences), "warning" if candidates.warnings else "info")
        self._filter()

    def _filter(self, *_: object) -> None:
        filters = {"kind": self.kind, "type": self.type, "decision": self.decision}
        equal = {name: filter.currentData() for name, filter in filters.items() if filter.currentData() is not None}
        least = {"percentile": self.percentile.value()} if self.percentile.value() else {}
        candidates = self.session.candidates
        ranks = (
            listed(candidates, self.session.decisions["candidate"], self.extent.currentData()) if candidates else None
        )
        self.table.set_filter(self.search.text(), ranks, equal=equal, least=least)
        self.book.dots.show(self.table.items())
        self._recount()

    def _on_clicked(self, event: Any) -> None:
        rank = self.book.dots.at(event.position)
        if rank is not None:
            self._select_here(rank)

    def _select_here(self, rank: int) -> None:
        """Select a candidate whose place is on the screen already: the camera stays where it is."""
        self._still = True
        self.select([rank])
        self._fly()
        self._still = False

    def _read_outcomes(self) -> None:
        study = self.session.study
        if study is None:
            return
        if not self._reading.start(single(study.outcomes, "Reading outcomes"), "reading outcomes"):
            self._read_soon.start()

    def _on_outcomes(self, outcomes: dict[int, int | str]) -> None:
        candidates = self.session.candidates
        if candidates is not None and self.table.columns:
            self._outcomes = outcomes
            self.table.set_values("outcome", outcome_values(candidates, outcomes))
            self._show_pair()

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
        if not ranks or not self._decides:
            return
        last = max(index.row() for index in self.view.selectionModel().selectedRows())
        self.session.decide("candidate", ranks, decision)
        if last + 1 < self.table.rowCount():
            self.view.selectRow(last + 1)

    def undo(self) -> None:
        if self._decides:
            self.select(self.session.undo("candidate"))

    def redo(self) -> None:
        if self._decides:
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
        ranks, candidates = list(ranks), self.session.candidates
        if candidates is None:
            return
        decisions = self.session.decisions["candidate"]
        codes = self.table.columns[self.table.column("decision")].values
        for rank in ranks:
            codes[rank] = STATES.index(decisions.get(rank, UNDECIDED))
        self.table.set_values("decision", codes)
        if not {*ranks}.isdisjoint(candidates.by_hand):
            # One whose placement was taken back is not there any more.
            self._filter()
        self._recount()
        self._show_pair()

    def _recount(self) -> None:
        kept, dropped = self.session.decided(KEEP), self.session.decided(DROP)
        candidates, decisions = self.session.candidates, self.session.decisions["candidate"]
        total, shown = len(listed(candidates, decisions, False)) if candidates else 0, self.table.rowCount()
        hidden = f" · {shown:,} shown" if shown != total else ""
        self.count.setText(f"<b>{kept:,} kept · {dropped:,} dropped</b> · {total - kept - dropped:,} undecided{hidden}")

    # The place and its donor.

    def _fly(self) -> None:
        candidate = self.current()
        if candidate is None:
            return
        place = candidate.target
        self.book.show_synthetic(False)
        if not self._still:
            self.session.fly(place.image, place.row, place.col)
        for location in (candidate.donor, candidate.target):
            self.session.reader.request(location.image)
        self._show_pair()

    def _show_pair(self) -> None:
        candidate = self.current()
        self.told.say("")
        if candidate is None:
            return
        outcome = self._outcomes.get(candidate.rank)
        said = outcome_sentence(candidate, outcome)
        self.told.say(said, "warning" if isinstance(outcome, str) else "info")
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
