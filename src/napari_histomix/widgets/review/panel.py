"""Look at every synthetic nucleus and image, before and after; approve or reject it, and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from napari.layers import Points
from qtpy.QtCore import QSignalBlocker, QSize, Qt, QTimer
from qtpy.QtGui import QHideEvent, QResizeEvent, QShowEvent
from qtpy.QtWidgets import QWidget

from napari_histomix.records import Change
from napari_histomix.study.database import READ_ONLY
from napari_histomix.study.decision_log import REASONS
from napari_histomix.widgets.base import Panel
from napari_histomix.widgets.decisions import REJECT, UNDECIDED
from napari_histomix.widgets.elements import Note, Section
from napari_histomix.widgets.layer_making import RING_WIDTH, center
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.review.contents import ReviewContents
from napari_histomix.widgets.review.deciding import IMAGE, ONE, SHOWN
from napari_histomix.widgets.review.keylist import KeyList, ReviewKeys
from napari_histomix.widgets.review.queue import ReviewQueue
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.viewer import fit

GOAL, STAY = "review_goal", "review_stay"
"""Under which the study keeps them."""
THICK = 3 * RING_WIDTH


class ReviewPanel(Panel):
    """Changes one after the other beside what was there; decisions, filter, and what they come to."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        session = self.session
        self.queue = ReviewQueue(session.change)
        self._held = False
        self.canvas = ReviewCanvas(self.viewer, session, self.book)
        self.area = self.scroll()
        self.empty = Note("Make synthetic images first.")
        self.contents = ReviewContents(self)
        self.column.addWidget(self.empty)
        self.column.addWidget(self.contents)
        self.column.addStretch(1)
        self.sheet = KeyList(self)
        # A place for the keys to go to when a note is left.
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.keys = ReviewKeys(self)
        session.study_changed.connect(self._on_study)
        session.changes_changed.connect(self._on_changes)
        session.changes_made.connect(self._on_changes)
        session.changes_decided.connect(self._on_decided)
        session.reader.loaded.connect(self._on_loaded)
        self.book.settled.connect(self._on_settled)
        self._on_study()
        self._on_changes()

    def sizeHint(self) -> QSize:
        # Wide enough for two views side by side.
        return QSize(420, 860)

    # Moving.

    @property
    def current(self) -> Change | None:
        return self.queue.current

    def move_by(self, by: int) -> None:
        """Go to the next change that the filter leaves, or back; stops at the ends."""
        self._move(lambda: self.queue.step(by))

    def move_to(self, at: int) -> None:
        """Go to a change by its place among those the filter leaves."""
        self._move(lambda: self.queue.go_to(at))

    def move_to_row(self, row: int) -> None:
        self._move(lambda: self.queue.go(row))

    def move_on(self) -> None:
        """Go to the next undecided change that the filter leaves."""
        self._move(self.queue.step_undecided)

    def _move(self, step: Callable[[], Any]) -> None:
        self.contents.details.note.keep()
        before = self.queue.row
        step()
        if self.queue.row != before:
            self._arrive()

    def _arrive(self) -> None:
        self._fly()
        self.contents.show_all()

    def _fly(self) -> None:
        if self.current is not None and self.isVisible():
            parts = self.contents
            self.canvas.show(self.current, whole=parts.deciding.scope == IMAGE, real=parts.views.real.isChecked())

    # Deciding.

    def decide(self, decision: str) -> None:
        """Approve, reject, delete or clear (approve, reject, delete, undecided) what the scope says, and go on."""
        queue, deciding = self.queue, self.contents.deciding
        scope, ids = deciding.scope, queue.rows.table.ids[deciding.rows(queue)].tolist()
        if self.session.read_only or not ids:
            return
        self.contents.details.note.keep()
        with self._hold():
            self.session.decide("change", ids, None if decision == UNDECIDED else decision)
        # What could not be written is not decided: it stays in view.
        if queue.decision_of(ids[0]) == decision:
            self._go_on(scope, decision)
        self._arrive()

    def _go_on(self, scope: str, decision: str) -> None:
        queue, parts = self.queue, self.contents
        parts.note.say("")
        if scope == IMAGE:
            queue.step_undecided()
        elif scope == SHOWN:
            parts.deciding.set_scope(ONE)
        else:
            parts.goal.pace.tick()
            if decision == UNDECIDED or (decision == REJECT and parts.details.stay.isChecked()):
                return
            queue.step(1)
        if queue.at is None and not queue.step(1):
            queue.step(-1)

    def toggle_reason(self, reason: str) -> None:
        """Give the change under review a reason, or take it off."""
        given = self.queue.reasons
        self._write("change reasons", ", ".join(known for known in REASONS if (known in given) != (known == reason)))
        self.contents.show_all()

    def write_note(self, text: str) -> None:
        self._write("change note", text)

    def _write(self, subject: Any, text: str) -> None:
        if self.queue.id is not None and not self.session.read_only:
            self.session.decide(subject, [self.queue.id], text or None)

    def undo(self) -> None:
        """Take the last act back and return to the change it was about."""
        self._turn(self.session.undo, "There is nothing to undo.")

    def redo(self) -> None:
        self._turn(self.session.redo, "There is nothing to redo.")

    def _turn(self, turn: Callable[[Any], tuple[int, ...]], nothing: str) -> None:
        if self.session.read_only:
            return
        self.contents.details.note.keep()
        with self._hold():
            items = turn("change")
        self.contents.note.say("" if items else nothing)
        rows = self.queue.rows.table.rows(items)
        if len(rows) and self.queue.row not in rows:
            self.queue.go(int(rows[0]))
        self._arrive()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        """Do not show what is about to change again."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    # What a person chooses in the parts.

    def on_scope(self) -> None:
        self.canvas.forget()
        self._arrive()

    def on_filter(self) -> None:
        self.contents.details.note.keep()
        self.queue.filter(self.contents.filters.wanted)
        self._arrive()

    def on_order(self) -> None:
        self.queue.arrange(*self.contents.filters.by)
        self.contents.show_all()

    def keep_goal(self, goal: int) -> None:
        self.session.save_settings({GOAL: goal})
        self.contents.show_all()

    def keep_stay(self, stay: bool) -> None:
        self.session.save_settings({STAY: stay})

    # What the session says.

    def _on_study(self) -> None:
        study, parts = self.session.study, self.contents
        self.queue.forget()
        kept = study.settings() if study is not None else {}
        parts.goal.begin(kept.get(GOAL, 0))
        with QSignalBlocker(parts.details.stay):
            parts.details.stay.setChecked(kept.get(STAY, False))
        parts.details.reviewer.setText(self.session.reviewer)
        parts.note.say(READ_ONLY if self.session.read_only else "", "warning")

    def _on_changes(self, _ids: object = None) -> None:
        if not self.contents.details.note.hasFocus():
            self.contents.details.note.keep()
        before = self.queue.id
        self.contents.take_changes()
        self.contents.setVisible(len(self.queue.rows) > 0)
        self.empty.setVisible(not len(self.queue.rows))
        if self.queue.id != before:
            self._fly()
        self.contents.show_all()

    def _on_decided(self, ids: Sequence[int]) -> None:
        self.queue.update(ids, self.session.decisions)
        if not self._held:
            self.contents.show_all()

    def _on_loaded(self, name: str) -> None:
        change = self.current
        if change is not None and change.image == name and not self.contents.shows:
            self.contents.show_look()

    def _on_settled(self) -> None:
        if not self.contents.shows:
            self.contents.show_look()
        if self.isVisible():
            self.canvas.settle()

    # Sections and keys.

    def unfold(self, section: Section, first: QWidget | None = None) -> None:
        """Open a section, bring it into view and hand the keys to its first part; or close it."""
        section.toggle.toggle()
        if section.is_open:
            (first or section.toggle).setFocus(Qt.FocusReason.ShortcutFocusReason)
            QTimer.singleShot(0, lambda: self.area.ensureWidgetVisible(section))
        else:
            self.setFocus()

    def toggle_keys(self) -> None:
        self.sheet.set_open(not self.sheet.isVisible())

    def escape(self) -> None:
        """Close what is open, one thing after the other, and give the keys back to the panel."""
        if self.sheet.isVisible():
            self.toggle_keys()
        elif self.contents.deciding.scope != ONE and self.hasFocus():
            self.contents.deciding.set_scope(ONE)
        self.setFocus()

    # Keys only while the panel is to be seen.

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.keys.bind()
        self.canvas.forget()
        self._arrive()

    def hideEvent(self, event: QHideEvent) -> None:
        self.contents.details.note.keep()
        self.contents.goal.pace.rest()
        self.sheet.set_open(False)
        self.keys.release()
        super().hideEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self.sheet.isVisible():
            self.sheet.set_open(True)


class ReviewCanvas:
    """What the window shows of the change under review: its place, or its image with its ring among the others."""

    def __init__(self, viewer: Any, session: Session, book: LayerBook) -> None:
        self.viewer, self.session, self.book = viewer, session, book
        self._fitted = ""
        self._current: Change | None = None
        self._whole = False

    def forget(self) -> None:
        """Fit the image again when it is asked for next."""
        self._fitted = ""

    def show(self, change: Change, *, whole: bool, real: bool) -> None:
        """Go to a change, or to its image as a whole; with what is synthetic, or the real image."""
        self._current, self._whole = change, whole or not change.in_place
        self.book.show_synthetic(not real)
        if not self._whole:
            self.session.fly(change.name, *center(change))
        elif self.session.image != change.name:
            self.session.show(change.name)
        self.settle()

    def settle(self) -> None:
        """Fit the image and mark the change, as soon as the layers are there."""
        change = self._current
        if change is None:
            return
        name = change.name
        shown = self.book.layer(name, "image") or self.book.layer(name, "synthetic")
        # Fitted once: where a person goes then, they stay.
        if self._whole and shown is not None and name == self.session.image != self._fitted:
            self._fitted = name
            fit(self.viewer, shown)
        rings = self.book.layer(name, "changes")
        if isinstance(rings, Points) and len(rings.data):
            # In a whole image, the ring of the change under review is thicker than the others.
            this = rings.features["number"].to_numpy() == change.id
            widths = np.where(this & self._whole, THICK, RING_WIDTH)
            if not np.array_equal(widths, rings.border_width):
                rings.border_width = widths
