"""All parts of the review below one another, filled from what is under review."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_histomix.compositing.windowed import look
from napari_histomix.records import HistomixError, Placement
from napari_histomix.study.lock import READ_ONLY
from napari_histomix.study.store import Decided
from napari_histomix.widgets.base import BAD, GOOD, SPACE, Note, row
from napari_histomix.widgets.jobs import JobRunner, sentence_of
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.review.deciding import DecidingBox
from napari_histomix.widgets.review.details import DetailsBox, provenance
from napari_histomix.widgets.review.donors import DonorSection
from napari_histomix.widgets.review.filters import FilterSection
from napari_histomix.widgets.review.goal import GoalBar
from napari_histomix.widgets.review.queue import ReviewQueue
from napari_histomix.widgets.review.rows import CODES
from napari_histomix.widgets.review.summary import SummarySection
from napari_histomix.widgets.review.toolbar import ViewBar
from napari_histomix.widgets.review.views import Comparison
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT, UNDECIDED, WORDS

COLORS = {APPROVE: GOOD, REJECT: BAD, DELETE: "#8a8f99"}
ELIDED, NAME_WIDTH = Qt.TextElideMode.ElideMiddle, 130
"""Where and to how many pixels the names of images are shortened; the tooltip has them whole."""
DECISIONS = {code: decision for decision, code in CODES.items()}


class ReviewContents(QWidget):
    """Progress, views, decisions, details, and the three sections that fold.

    Parameters
    ----------
    session : Session
    book : LayerBook
    runner : JobRunner
        For the description of the training patches.
    queue : ReviewQueue
    """

    def __init__(self, session: Session, book: LayerBook, runner: JobRunner, queue: ReviewQueue) -> None:
        super().__init__()
        self.session, self.book, self.queue = session, book, queue
        self.counter, self.note = QLabel(), Note()
        self.counter.setStyleSheet("QLabel { font-weight: 600; }")
        self.counter.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.keys_button = QPushButton("Keys (?)")
        self.keys_button.setToolTip("All keys of the review (? or F1).")
        self.goal, self.views, self.deciding, self.details = GoalBar(), Comparison(), DecidingBox(), DetailsBox()
        self.view_bar = ViewBar(self.views)
        self.filters, self.donors, self.summary = FilterSection(), DonorSection(session, runner), SummarySection()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(row(self.counter, self.keys_button, stretch=0))
        for widget in (self.goal, self.note, self.view_bar, self.deciding, self.details):
            column.addWidget(widget)
        for section in (self.filters, self.donors, self.summary):
            column.addWidget(section)
        self.shows = False
        """Whether the views show what is under review."""

    def _class_name(self) -> Callable[[int], str]:
        dataset = self.session.dataset
        return dataset.class_name if dataset is not None else str

    # What there is.

    def take_placements(self) -> None:
        """Show other placements than before."""
        session, rows = self.session, self.queue.rows
        self.filters.set_rows(rows, self._class_name())
        self.know_samplers()
        if self.filters.wanted != self.queue.wanted:
            # What had been chosen does not occur any more.
            self.queue.filter(self.filters.wanted)
        dataset, counted, found = session.dataset, session.survey, session.candidates
        if dataset is None or counted is None:
            return
        training = {entry.source.image for entry in dataset.training}
        before = {
            one.number: sum(counts[one.number] for name, counts in counted.counts.items() if name in training)
            for one in dataset.classes
        }
        places = found.effective_sample_size if found is not None else None
        self.summary.set_work(rows, self.queue.marks, dataset.classes, before, places)

    def know_samplers(self) -> None:
        """Read which sampler made what, where a filter may want to know."""
        study, queue = self.session.study, self.queue
        if queue.samplers is not None or study is None or not (self.filters.is_open or queue.wanted.sampler):
            return
        samplers = study.samplers()
        queue.set_samplers(samplers)
        self.filters.set_samplers(sorted(set(samplers.values())))

    # What is shown.

    def show_all(self) -> None:
        """Show how far the review is, and what is under review."""
        queue = self.queue
        undecided, approved, rejected, deleted = queue.marks.counts()
        left = len(queue.rows) - deleted
        at = queue.at
        place = f"{at + 1:,} of {len(queue):,}" if at is not None else f"{len(queue):,}"
        shown = "" if len(queue) == left else " shown"
        out = " · this one is not" if at is None and queue.row is not None else ""
        gone = f" · {deleted:,} deleted" if deleted else ""
        self.counter.setText(f"{place}{shown}{out} · {approved:,} approved · {rejected:,} rejected{gone}")
        self.goal.show_counts(undecided, approved, rejected)
        self.filters.say(queue)
        self.summary.refresh()
        self.show_look()
        self._show_marks()

    def _show_marks(self) -> None:
        queue, session = self.queue, self.session
        rank, why_not = queue.rank, READ_ONLY if session.read_only else ""
        self.deciding.allow(len(self.deciding.rows(queue)), queue, why_not)
        self.details.allow(rank is not None and not why_not, why_not)
        note = session.placement_notes.get(rank, "") if rank is not None else ""
        self.details.show_marks(rank, queue.reasons, note)
        self._show_provenance()

    def concerned(self) -> list[int]:
        """Numbers of the placements that a decision would concern."""
        return self.queue.rows.ranks[self.deciding.rows(self.queue)].tolist()

    def _show_provenance(self) -> None:
        one, label = self.queue.current, self.details.provenance
        label.setText("")
        if one is None:
            return
        decision, metrics = DECISIONS[self.queue.decision], self.fontMetrics()
        try:
            sampler = str(one.provenance.get("sampler", ""))
            about = one, sampler, self._class_name(), self._decided(one, decision), decision
            label.setToolTip(provenance(*about))
            label.setText(provenance(*about, lambda name: metrics.elidedText(name, ELIDED, NAME_WIDTH)))
        except (HistomixError, OSError) as error:
            label.setText(sentence_of(error))

    def _decided(self, one: Placement, decision: str) -> Decided | None:
        study = self.session.study
        if study is None or decision == UNDECIDED:
            return None
        return study.decided("placement", one.candidate.rank).get(one.candidate.rank)

    def show_look(self) -> None:
        """Show before and after of what is under review, or that they are still being read."""
        one, queue, views = self.queue.current, self.queue, self.views
        self.shows = False
        if one is None:
            views.show_nothing()
            return
        place, name = one.candidate.target, one.candidate.target.image
        target = self.book.target(name)
        if target is None:
            views.show_nothing("…")
            self.session.reader.request(name)
            return
        decision, side = DECISIONS[queue.decision], views.side
        top, left = round(place.row) - side // 2, round(place.col) - side // 2
        near = queue.around(top, left, top + side, left + side)
        try:
            found = look(target, place.row, place.col, side, near)
        except (HistomixError, OSError) as error:
            views.show_nothing()
            self.note.say(sentence_of(error), "error")
            return
        self.shows = True
        caption = "After" if decision == UNDECIDED else f"After: {WORDS[decision]}"
        views.show_look(found, caption, COLORS.get(decision, ""))
        self.donors.show_placement(one, near)
        self._read_ahead()

    def _read_ahead(self) -> None:
        """Have the next image read, so that going on need not wait for it."""
        following, reader = self.queue.following(), self.session.reader
        if following is not None and reader.get(following.candidate.target.image) is None:
            reader.request(following.candidate.target.image)
