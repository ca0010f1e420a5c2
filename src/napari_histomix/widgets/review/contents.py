"""All parts of the review below one another, filled from what is under review."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_histomix.compositing.composing import Look, look, look_at_image
from napari_histomix.records import Change, HistomixError, LabeledImage
from napari_histomix.study.database import READ_ONLY
from napari_histomix.study.store import Decided
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, UNDECIDED, WORDS
from napari_histomix.widgets.elements import ACCENT, BAD, GOOD, SPACE, Note, rgb, row
from napari_histomix.widgets.jobs import JobRunner, sentence_of
from napari_histomix.widgets.layer_making import center
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.review.deciding import DecidingBox, DetailsBox, GoalBar, provenance, title_of
from napari_histomix.widgets.review.donors import CompareSection, DonorSection
from napari_histomix.widgets.review.filters import FilterSection, ListSection
from napari_histomix.widgets.review.queue import CODES, ChangeRows, ReviewQueue
from napari_histomix.widgets.review.summary import Classes, SummarySection
from napari_histomix.widgets.review.views import BLINK, SIDE_BY_SIDE, Comparison, ViewBar
from napari_histomix.widgets.session import Session

COLORS = {APPROVE: GOOD, REJECT: BAD, DELETE: "#8a8f99"}
ELIDED, NAME_WIDTH = Qt.TextElideMode.ElideMiddle, 130
"""Where and to how many pixels the names of images are shortened; the tooltip has them whole."""
DECISIONS = {code: decision for decision, code in CODES.items()}


class ReviewContents(QWidget):
    """Progress, views, decisions, details, and the sections that fold.

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
        self.filters, self.list = FilterSection(), ListSection(queue)
        self.donors, self.compare = DonorSection(session, runner), CompareSection(session)
        self.summary = SummarySection()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(row(self.counter, self.keys_button, stretch=0))
        for widget in (self.goal, self.note, self.view_bar, self.deciding, self.details):
            column.addWidget(widget)
        for section in (self.filters, self.list, self.donors, self.compare, self.summary):
            column.addWidget(section)
        self.shows = False
        """Whether the views show what is under review."""
        self._aimed: tuple[int, bool, tuple[int, int]] | None = None
        """Id of the change that the views are centered on, whether it is in place, and its size."""
        self._center = 0.0, 0.0
        self._factor = self.views.factor
        self._unreadable: set[str] = set()
        self.views.moved.connect(self._on_moved)
        self.compare.chosen.connect(self._on_compared)
        session.reader.failed.connect(self._on_unreadable)
        session.dataset_changed.connect(self._unreadable.clear)

    def _class_name(self, number: int) -> str:
        dataset = self.session.dataset
        return dataset.class_name(number) if dataset is not None else str(number)

    # What there is.

    def take_changes(self) -> None:
        """Show other changes than before."""
        session, queue = self.session, self.queue
        queue.set_changes(ChangeRows.of(session.table, self._class_name), session.said)
        self.filters.set_rows(queue.rows)
        self.list.set_rows()
        self.know_samplers()
        if self.filters.wanted != queue.wanted:
            # What had been chosen does not occur any more.
            queue.filter(self.filters.wanted)
        dataset, counted, candidates = session.dataset, session.survey, session.candidates
        if dataset is None or counted is None:
            return
        training = {entry.source.image for entry in dataset.training}
        classes: dict[int | str, tuple[str, tuple[int, int, int]]] = {}
        before: dict[int | str, int] = {}
        if dataset.has_nuclei:
            for each in dataset.classes:
                classes[each.number] = each.name, each.color
                counts = (counts[each.number] for name, counts in counted.counts.items() if name in training)
                before[each.number] = sum(counts)
        for kind in dataset.kinds:
            classes[kind] = kind, rgb(ACCENT)
            before[kind] = sum(entry.kind == kind for entry in dataset.training)
        shown: Classes = classes
        places = candidates.effective_sample_size if candidates is not None else None
        self.summary.set_work(queue.rows, queue.marks, shown, before, places)

    def know_samplers(self) -> None:
        """Read which sampler painted what, where a filter may want to know."""
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
        self.list.refresh()
        self.summary.refresh()
        self.show_look()
        self._show_marks()

    def _show_marks(self) -> None:
        queue, session = self.queue, self.session
        number, why_not = queue.id, READ_ONLY if session.read_only else ""
        self.deciding.show_scopes(queue)
        self.deciding.allow(len(self.deciding.rows(queue)), queue, why_not)
        self.details.allow(number is not None and not why_not, why_not)
        note = session.said["change note"].get(number, "") if number is not None else ""
        self.details.show_marks(number, queue.reasons, note)
        self._show_provenance()

    def concerned(self) -> list[int]:
        """Ids of the changes that a decision would concern."""
        return self.queue.rows.table.ids[self.deciding.rows(self.queue)].tolist()

    def _show_provenance(self) -> None:
        change, label = self.queue.current, self.details.provenance
        label.setText("")
        if change is None:
            return
        decision, metrics = DECISIONS[self.queue.decision], self.fontMetrics()
        try:
            sampler = str(change.provenance.get("sampler", ""))
            about = change, sampler, self._class_name, self._decided(change, decision), decision
            label.setToolTip(provenance(*about))
            label.setText(provenance(*about, lambda name: metrics.elidedText(name, ELIDED, NAME_WIDTH)))
        except (HistomixError, OSError) as error:
            label.setText(sentence_of(error))

    def _decided(self, change: Change, decision: str) -> Decided | None:
        study = self.session.study
        if study is None or decision == UNDECIDED:
            return None
        return study.decided("change", change.id).get(change.id)

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
        change, views = self.queue.current, self.views
        self.shows = False
        if change is None:
            views.show_nothing()
            return
        target = self.session.reader.get(change.image) or self.book.target(change.name) if change.image else None
        if change.image and target is None and (change.in_place or change.image not in self._unreadable):
            views.show_nothing("…")
            if change.image not in self._unreadable:
                self.session.reader.request(change.image)
            return
        self._aim(change)
        try:
            near, seen = self._look(change, target)
        except (HistomixError, OSError) as error:
            views.show_nothing()
            self.note.say(sentence_of(error), "error")
            return
        self.shows = True
        decision = DECISIONS[self.queue.decision]
        caption = "After" if decision == UNDECIDED else f"After: {WORDS[decision]}"
        nothing = "Before: unreadable" if change.image else "Before: nothing"
        views.show_look(seen, caption, COLORS.get(decision, ""), "Before" if target is not None else nothing)
        self.donors.show_change(change, near)
        self.compare.show_change(change, target, near)
        self._read_ahead()

    def _look(self, change: Change, target: LabeledImage | None) -> tuple[list[Change], Look]:
        side, place = self.views.side, self._center
        if not change.in_place:
            fits = target is not None and target.pixels.shape[:2] == change.shape
            return [change], look_at_image(target if fits else None, change, *place, side)
        assert target is not None
        top, left = (round(at) - side // 2 for at in place)
        near = self.queue.around(top, left, top + side, left + side)
        return near, look(target, *place, side, near)

    def _on_compared(self, title: str, changes: object) -> None:
        """Blink between the result of another method and the change under review; or stop that."""
        change, target = self.queue.current, self.book.target(self.session.image)
        if not title or change is None or target is None:
            self.views.set_mode(SIDE_BY_SIDE)
            self.show_look()
            return
        _, seen = self._look(change, target)
        other = look(target, *self._center, self.views.side, changes).after  # type: ignore[arg-type]
        self.views.show_look(Look(other, seen.after, seen.origin), title_of(change.method), earlier=title)
        self.views.set_mode(BLINK)

    def _read_ahead(self) -> None:
        """Have the next image read, so that going on need not wait for it."""
        following, reader, table = self.queue.following(), self.session.reader, self.queue.rows.table
        if following is not None:
            name = table.image_names[table.images[following]]
            if name and name not in self._unreadable and reader.get(name) is None:
                reader.request(name)
