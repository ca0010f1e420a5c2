"""All parts of the review below one another, filled from what is under review."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_histomix.compositing.composing import Look, look, look_at_image
from napari_histomix.records import Change, HistomixError, LabeledImage
from napari_histomix.study import Study
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.decisions import UNDECIDED, WORDS
from napari_histomix.widgets.jobs import sentence_of
from napari_histomix.widgets.layer_making import center
from napari_histomix.widgets.review.deciding import (
    COLORS,
    DecidingBox,
    DetailsBox,
    GoalBar,
    NameBox,
    provenance,
    title_of,
)
from napari_histomix.widgets.review.detecting import DetectorSection
from napari_histomix.widgets.review.donors import CompareSection, DonorSection
from napari_histomix.widgets.review.grid import ReviewGrid
from napari_histomix.widgets.review.queue import DETECTABLE_FIRST
from napari_histomix.widgets.review.sections import FilterSection, ListSection, SummarySection
from napari_histomix.widgets.review.views import BLINK, SIDE_BY_SIDE, Comparison

if TYPE_CHECKING:
    from napari_histomix.widgets.review.panel import ReviewPanel

GRID_TIP = (
    "All that the filter leaves, side by side: select several, and decide on them at once (0). "
    "A double click or Enter looks closer at one."
)
ELIDED, NAME_WIDTH = Qt.TextElideMode.ElideMiddle, 130
"""Where and to how many pixels the names of images are shortened; the tooltip has them whole."""


class ReviewContents(QWidget):
    """Progress, views, decisions, details, and the sections that fold."""

    def __init__(self, panel: ReviewPanel) -> None:
        super().__init__()
        self.session, self.book, self.queue = panel.session, panel.book, panel.queue
        self.counter, self.note = ui.label(wrap=False, style="font-weight: 600;", yields=True), ui.Note()
        self.grid_button = ui.button("Grid (0)", GRID_TIP, checkable=True)
        self.grid_button.toggled.connect(self.show_grid)
        keys_button = ui.button("Keys (?)", "All keys of the review (? or F1).", lambda: panel.toggle_keys())
        self.views = Comparison(self.show_look, self.book.show_synthetic)
        self.goal, self.deciding, self.details = GoalBar(panel), DecidingBox(panel), DetailsBox(panel)
        self.filters, self.list = FilterSection(panel), ListSection(panel)
        self.donors, self.compare = DonorSection(panel.session, panel.runner), CompareSection(panel.session)
        self.detector, self.summary = DetectorSection(panel), SummarySection(panel, self.filters.choose_donor)
        tip = "Everything is decided: go on to write the approved work as a dataset."
        self.export = panel.lead("Export what is approved →", "results/export", tip, primary=True)
        self.grid = ReviewGrid(self.session, self.queue, panel.viewer.theme)
        self.grid.hide()
        self._fit_grid = panel.fit_grid
        self.grid.opened.connect(lambda _row: self.grid_button.setChecked(False))
        self.name_box = NameBox(panel)
        parts = (self.goal, self.note, self.views, self.grid, self.deciding, self.name_box, self.export, self.details)
        sections = (self.filters, self.list, self.donors, self.compare, self.detector, self.summary)
        self.top = ui.row(self.grid_button, keys_button)
        self.top.insertStretch(0, 1)
        self.setLayout(ui.column(self.top, self.counter, *parts, *sections, space=ui.SPACE - 2))
        ui.narrowable(self)
        self.shows = False
        """Whether the views show what is under review."""
        self._aimed: tuple[int, bool, tuple[int, int]] | None = None
        """Id of the change that the views are centered on, whether it is in place, and its size."""
        self._center = 0.0, 0.0
        self._factor = self.views.factor
        self._unreadable: set[str] = set()
        self.views.moved.connect(self._on_moved)
        self.filters.toggled.connect(self.read_more)
        self.compare.chosen.connect(self._on_compared)
        self.session.reader.failed.connect(self._on_unreadable)
        self.session.dataset_changed.connect(self._unreadable.clear)

    def _class_name(self, number: int) -> str:
        dataset = self.session.dataset
        return dataset.class_name(number) if dataset is not None else str(number)

    # What there is.

    def take_changes(self) -> None:
        """Show other changes than before."""
        queue = self.queue
        queue.set_changes(self.session.table, self._class_name, self.session.decisions)
        self.filters.set_rows()
        self.list.set_rows()
        self.grid.set_rows()
        self.read_more()
        if self.filters.wanted != queue.wanted:
            # What had been chosen does not occur any more.
            queue.filter(self.filters.wanted)

    def read_more(self) -> None:
        """Read which sampler painted what and how detectable it is, where a filter or an order may want to know.

        What was chosen in the section stays chosen when changes are added.
        """
        study, queue = self.session.study, self.queue
        chosen = queue.wanted.sampler or queue.wanted.detectable or queue.by == DETECTABLE_FIRST
        if queue.samplers is None and study is not None and (self.filters.is_open or chosen):
            samplers = study.samplers()
            queue.set_samplers(samplers)
            self.filters.set_samplers(sorted(set(samplers.values())))
            self.read_detectability(study)

    def read_detectability(self, study: Study) -> None:
        """Read how easily a detector told changes from what is real, to order and filter by it."""
        percentiles = study.detectability()
        self.queue.set_detectability(percentiles)
        self.filters.set_detectability(bool(percentiles))

    # What is shown.

    def show_all(self) -> None:
        """Show how far the review is, and what is under review."""
        queue, session = self.queue, self.session
        undecided, approved, rejected, deleted = queue.counts()
        place = f"{queue.at + 1:,} of {len(queue):,}" if queue.at is not None else f"{len(queue):,}"
        shown = "" if len(queue) == len(queue.table) - deleted else " shown"
        out = " · this one is not" if queue.at is None and queue.row is not None else ""
        gone = f" · {deleted:,} deleted" if deleted else ""
        self.counter.setText(f"{place}{shown}{out} · {approved:,} approved · {rejected:,} rejected{gone}")
        self.goal.show_counts(undecided, approved, rejected)
        self.export.setVisible(bool(approved) and not undecided)
        self._fit_grid()
        self.filters.show_count(queue)
        self.list.refresh()
        if self.grid_button.isChecked():
            self.grid.refresh()
        self.detector.refresh()
        self.summary.redraw.start()
        self.show_look()
        why_not = READ_ONLY if session.read_only else ""
        self.deciding.refresh(queue, why_not)
        note = session.decisions["change note"].get(queue.id, "") if queue.id is not None else ""
        self.details.refresh(queue, note, why_not)
        self._show_provenance()

    def _show_provenance(self) -> None:
        change, shown, study = self.queue.current, self.details.provenance, self.session.study
        shown.setText("")
        if change is None or study is None:
            return
        decision, metrics = self.queue.decision, self.fontMetrics()
        try:
            decided = study.decided("change", change.id).get(change.id) if decision != UNDECIDED else None
            about = change, self._class_name, decided, decision
            shown.setToolTip(provenance(*about))
            shown.setText(provenance(*about, lambda name: metrics.elidedText(name, ELIDED, NAME_WIDTH)))
        except (HistomixError, OSError) as error:
            shown.setText(sentence_of(error))

    def show_grid(self, shown: bool) -> None:
        """Show all that the filter leaves in place of the one under review, which is the current one among them."""
        self.views.setVisible(not shown)
        self.grid.setVisible(shown)
        self.deciding.choose_in(self.grid if shown else None)
        self.show_all()
        if shown:
            self.grid.reveal(self.grid.selection.current)
            self.grid.setFocus(Qt.FocusReason.OtherFocusReason)
            # The page may be scrolled to the filters below.
            ui.reveal(self.counter)

    def select_all(self) -> None:
        """Select all that the grid shows."""
        if self.grid_button.isChecked():
            self.grid.selection.select(self.grid.numbers)

    # Before and after.

    def _on_unreadable(self, name: str, _sentence: str) -> None:
        self._unreadable.add(name)
        if self.queue.current is not None and self.queue.current.image == name:
            self.show_look()

    def _on_moved(self, rows: float, cols: float) -> None:
        self._center = self._center[0] + rows, self._center[1] + cols
        self.show_look()

    def _aim(self, change: Change) -> None:
        """Center the views on another change than before; an image of its own is seen as a whole at first."""
        before, self._aimed = self._aimed, (change.id, change.in_place, change.shape)
        if before == self._aimed:
            return
        self._center = center(change)
        if before is not None and before[1] != change.in_place and change.in_place:
            self.views.set_factor(self._factor)
        elif not change.in_place and (before is None or before[1:] != self._aimed[1:]):
            self._factor = self.views.factor if before is None or before[1] else self._factor
            self.views.fit(*change.shape)

    def show_look(self) -> None:
        """Show before and after of what is under review, or that they are still being read."""
        change, views, reader = self.queue.current, self.views, self.session.reader
        self.shows = False
        if change is None:
            views.show_nothing()
            return
        target = reader.get(change.image) or self.book.target(change.name) if change.image else None
        unreadable = change.image in self._unreadable
        if change.image and target is None and (change.in_place or not unreadable):
            views.show_nothing("…")
            if not unreadable:
                reader.request(change.image)
            return
        views.set_alone(not change.image)
        self._aim(change)
        try:
            near, seen = self._look(change, target)
        except (HistomixError, OSError) as error:
            views.show_nothing()
            self.note.say(sentence_of(error), "error")
            return
        self.shows = True
        decision = self.queue.decision
        after = "After" if change.image else "New image"
        caption = after if decision == UNDECIDED else f"{after}: {WORDS[decision]}"
        before = "Before" if target is not None else "Before: unreadable"
        views.show_look(seen, caption, COLORS.get(decision, ""), before)
        for section in (self.donors, self.compare):
            section.show_change(change, target, near)
        # Going on need not wait for the next image.
        following, table = self.queue.following(), self.queue.table
        name = table.image_names[table.images[following]] if following is not None else ""
        if name and name not in self._unreadable and reader.get(name) is None:
            reader.request(name)

    def _look(self, change: Change, target: LabeledImage | None) -> tuple[list[Change], Look]:
        side, place = self.views.side, self._center
        if not change.in_place:
            fits = target is not None and target.pixels.shape[:2] == change.shape
            return [change], look_at_image(target if fits else None, change, *place, side)
        assert target is not None
        top, left = (round(at) - side // 2 for at in place)
        near = self.queue.around(top, left, top + side, left + side)
        return near, look(target, *place, side, near)

    def _on_compared(self, title: str, changes: Sequence[Change]) -> None:
        """Blink between the result of another method and the change under review; or stop that."""
        change, target = self.queue.current, self.book.target(self.session.image)
        if not title or change is None or target is None:
            self.views.set_mode(SIDE_BY_SIDE)
            self.show_look()
            return
        _, seen = self._look(change, target)
        other = look(target, *self._center, self.views.side, changes).after
        self.views.show_look(Look(other, seen.after, seen.origin), title_of(change.method), earlier=title)
        self.views.set_mode(BLINK)
