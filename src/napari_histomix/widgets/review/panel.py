"""Look at every synthetic nucleus and image, before and after; approve or reject it, and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Points
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtGui import QHideEvent, QMouseEvent, QResizeEvent, QShowEvent
from qtpy.QtWidgets import QFrame, QScrollArea, QWidget

from napari_histomix.records import Change
from napari_histomix.study.database import READ_ONLY
from napari_histomix.study.decision_log import REASONS, Entry
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import REDO_KEYS, UNDO_KEYS, Panel, PanelKeys, add_shortcut
from napari_histomix.widgets.camera import fit
from napari_histomix.widgets.decisions import APPROVE, DELETE, REJECT, UNDECIDED
from napari_histomix.widgets.layer_making import center, ring_widths
from napari_histomix.widgets.layers import LayerBook
from napari_histomix.widgets.review.contents import ReviewContents
from napari_histomix.widgets.review.deciding import IMAGE, ONE, REASON_KEYS, SELECTED, SHOWN, STAY
from napari_histomix.widgets.review.grid import LOWEST
from napari_histomix.widgets.review.queue import ReviewQueue
from napari_histomix.widgets.review.views import SIDE_BY_SIDE, SWIPE
from napari_histomix.widgets.session import Session

NOTHING = "Make synthetic images first."
LEAST_SEEN = 240
"""Pixels of the panel, from above to below, in which something can be seen and decided."""
TOO_LOW = "Nothing was decided: there is too little room to see it. Make the dock higher."
GOAL = "review_goal"
"""Under which the study keeps it."""


class ReviewPanel(Panel):
    """Changes one after the other beside what was there; decisions, filter, and what they come to."""

    # Wide enough for two views side by side.
    preferred_size = (420, 860)

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        session = self.session
        self.queue = ReviewQueue(session.change)
        self._held = False
        self.canvas = ReviewCanvas(self.viewer, session, self.book)
        self.area = self.scroll()
        self.empty = ui.Note(NOTHING)
        self.contents = ReviewContents(self)
        lead = self.lead("Make some →", "make/making", "Go to the methods that make them.", beside=self.empty)
        ui.add(self.column, self.empty, lead, self.contents)
        self.column.addStretch(1)
        # A place for the keys to go to when a note is left.
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        table = key_table(self)
        self.sheet = KeySheet(self, table)
        actions = {key: action for lines in table.values() for *_, keys in lines for key, action in keys.items()}
        self.keys = PanelKeys(self, self.viewer, {**actions, "F1": self.toggle_keys, "Escape": self.escape})
        self.while_shown.append(self.keys)
        self.badge = self.keys.badge("Review")
        self.contents.top.insertWidget(0, self.badge)
        # napari's keys for the canvas cannot tell signs apart that need Shift on some keyboard. Qt hears these in the
        # whole window, as long as the panel is to be seen.
        add_shortcut(self, "?", self.toggle_keys, Qt.ShortcutContext.WindowShortcut)
        add_shortcut(self, "+", partial(self.contents.views.zoom, 1), Qt.ShortcutContext.WindowShortcut)
        self.contents.grid.visited.connect(self.move_to_row)
        self.contents.grid.selection.changed.connect(self._on_selected)
        self.contents.grid_button.toggled.connect(lambda _on: self.fit_grid())
        session.study_changed.connect(self._on_study)
        session.changes_changed.connect(self._on_changes)
        session.changes_made.connect(self._on_changes)
        session.changes_decided.connect(self._on_decided)
        session.reader.loaded.connect(self._on_loaded)
        self.book.settled.connect(self._on_settled)
        self._on_study()
        self._on_changes()

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
            self.contents.note.say(READ_ONLY if self.session.read_only else "", "warning")
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
        scope, rows = deciding.scope, deciding.rows(queue)
        ids = queue.table.ids[rows].tolist()
        if self.session.read_only or not ids:
            return
        if self.isVisible() and self.height() < LEAST_SEEN:
            self.contents.note.say(TOO_LOW, "warning")
            return
        self.contents.details.note.keep()
        with self._hold():
            self.session.decide("change", ids, None if decision == UNDECIDED else decision)
        # What could not be written is not decided: it stays in view.
        if self.session.decisions["change"].get(ids[0], UNDECIDED) == decision:
            if scope == SELECTED:
                queue.go(int(rows[-1]))
            self._go_on(scope, decision, len(ids))
            self.contents.name_box.ask()
        self._arrive()

    def _go_on(self, scope: str, decision: str, count: int) -> None:
        queue, parts = self.queue, self.contents
        parts.note.say("")
        if scope == IMAGE:
            queue.step_undecided()
        elif scope == SHOWN:
            parts.deciding.set_scope(ONE)
        elif count > 1:
            queue.step(1)
        else:
            parts.goal.pace.tick()
            if decision == UNDECIDED or (decision == REJECT and parts.details.stay.isChecked()):
                return
            queue.step(1)
        if queue.at is None and not queue.step(1):
            queue.step(-1)

    def toggle_reason(self, reason: str) -> None:
        """Give what is under review a reason, or take it off; in the grid, all that is selected, as one act."""
        queue, deciding = self.queue, self.contents.deciding
        if queue.row is None or self.session.read_only:
            return
        gives = reason not in queue.reasons
        rows = deciding.rows(queue).tolist() if deciding.scope == SELECTED else [queue.row]
        entries: list[Entry] = []
        for row in rows:
            given = queue.reasons_of(row)
            kept = (known for known in REASONS if (gives if known == reason else known in given))
            entries.append(("change reasons", int(queue.table.ids[row]), ", ".join(kept) or None))
        self.session.act(entries)
        self.contents.show_all()

    def write(self, subject: Any, text: str) -> None:
        """Write a note on the change under review."""
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
        rows = self.queue.table.rows(items)
        if len(rows) and self.queue.row not in rows:
            self.queue.go(int(rows[0]))
        self._arrive()
        if len(rows) and self.queue.row is not None and self.contents.deciding.grid is not None:
            # What came back together can be decided on together.
            self.contents.grid.select(rows, self.queue.row)

    @contextmanager
    def _hold(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False

    # What a person chooses in the parts.

    def _on_selected(self) -> None:
        parts = self.contents
        if parts.deciding.grid is not None:
            parts.deciding.refresh(self.queue, READ_ONLY if self.session.read_only else "")

    def fit_grid(self) -> None:
        """Give the grid the room that is left between the counter and the last thing to press."""
        parts, area = self.contents, self.area.viewport()
        if parts.grid_button.isChecked():
            around = (parts.counter, parts.goal, parts.note, parts.deciding, parts.name_box, parts.export)
            heights = [parts.top.sizeHint().height(), *(height_of(part) for part in around if not part.isHidden())]
            gaps = len(heights) * parts.layout().spacing() + 2 * ui.SPACE
            parts.grid.setFixedHeight(max(LOWEST, area.height() - sum(heights) - gaps))

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

    # What the session says.

    def _on_study(self) -> None:
        study, parts = self.session.study, self.contents
        self.queue.row = None
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
        self.contents.setVisible(len(self.queue.table) > 0)
        self.empty.say("" if len(self.queue.table) else NOTHING)
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

    def unfold(self, section: ui.Section, first: QWidget | None = None) -> None:
        """Open a section, bring it into view and hand the keys to its first part; or close it."""
        section.toggle.toggle()
        if section.is_open:
            (first or section.toggle).setFocus(Qt.FocusReason.ShortcutFocusReason)
            QTimer.singleShot(0, lambda: self.area.ensureWidgetVisible(section))
        else:
            self.setFocus()

    def bring_up(self, what: str) -> None:
        """Show the next ``undecided`` one, the ``detector`` test, or a change by its id, as in ``3`` or ``nearest/3``.

        With ``nearest`` its donor and the nearest real one are shown beside it.
        """
        parts = self.contents
        if what == "undecided":
            if self.queue.decision != UNDECIDED:
                self._move(self.queue.step_undecided)
            return
        if what == "detector":
            parts.detector.bring_up()
            return
        nearest, _, number = what.rpartition("/")
        for row in self.queue.table.rows([int(number)]).tolist():
            parts.grid_button.setChecked(False)
            self.move_to_row(row)
            ui.reveal(parts.views)
            if nearest:
                parts.donors.bring_up()

    def toggle_keys(self) -> None:
        self.sheet.set_open(not self.sheet.isVisible())

    def escape(self) -> None:
        """Close what is open, one thing after the other, and give the keys back to the panel."""
        grid, button = self.contents.grid, self.contents.grid_button
        at_home = self.hasFocus() or grid.hasFocus()
        if self.sheet.isVisible():
            self.toggle_keys()
        elif at_home and button.isChecked():
            button.setChecked(False)
        elif at_home:
            self.contents.deciding.set_scope(ONE)
        self.setFocus()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.canvas.forget()
        self.contents.grid.set_theme(self.viewer.theme)
        self.fit_grid()
        self._arrive()

    def hideEvent(self, event: QHideEvent) -> None:
        self.contents.details.note.keep()
        self.contents.goal.pace.rest()
        self.sheet.set_open(False)
        super().hideEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.fit_grid()
        if self.sheet.isVisible():
            self.sheet.set_open(True)


def height_of(part: QWidget) -> int:
    """Pixels that a part of the panel takes from above to below."""
    return part.heightForWidth(part.width()) if part.hasHeightForWidth() else part.sizeHint().height()


Actions = Mapping[str, Callable[[], Any]]
"""What keys do."""


def key_table(panel: ReviewPanel) -> dict[str, tuple[tuple[str, str, Actions], ...]]:
    """The keys of the review by what they are for: as people read them, what they do, and the keys themselves."""
    parts, views, decide = panel.contents, panel.contents.views, panel.decide
    set_scope, focus = parts.deciding.set_scope, Qt.FocusReason.ShortcutFocusReason
    approve, reject = partial(decide, APPROVE), partial(decide, REJECT)
    return {
        "Decide": (
            ("A or 1", "approve", {"A": approve, "1": approve}),
            ("R or 2", "reject", {"R": reject, "2": reject}),
            ("3", "clear: undecided again", {"3": partial(decide, UNDECIDED)}),
            ("4", "delete", {"4": partial(decide, DELETE)}),
            ("Z, U or Ctrl+Z", "undo", dict.fromkeys(("Z", *UNDO_KEYS), panel.undo)),
            ("Y or Ctrl+Y", "redo", dict.fromkeys(REDO_KEYS, panel.redo)),
            (
                "E · I · G",
                "one · whole image · all shown",
                {"E": partial(set_scope, ONE), "I": partial(set_scope, IMAGE), "G": partial(set_scope, SHOWN)},
            ),
        ),
        "Say why": (
            (
                " · ".join(REASON_KEYS.values()),
                " · ".join(REASON_KEYS),
                {key: partial(panel.toggle_reason, reason) for reason, key in REASON_KEYS.items()},
            ),
            ("N", "note; Enter keeps, Escape forgets", {"N": partial(parts.details.note.setFocus, focus)}),
            ("K", "stay after a rejection", {"K": parts.details.stay.toggle}),
            ("P", "your name", {"P": partial(parts.details.reviewer.setFocus, focus)}),
        ),
        "Move": (
            ("← · →", "previous · next", {"Left": partial(panel.move_by, -1), "Right": partial(panel.move_by, 1)}),
            (
                "Home · End",
                "first · last",
                {"Home": partial(panel.move_to, 0), "End": lambda: panel.move_to(len(panel.queue) - 1)},
            ),
            ("J", "next undecided", {"J": panel.move_on}),
            (
                "F",
                "filter; Tab goes on, Escape returns",
                {"F": partial(panel.unfold, parts.filters, parts.filters.decision)},
            ),
        ),
        "Look": (
            (
                "V · B · W",
                "side by side · blink · swipe",
                {
                    "V": partial(views.set_mode, SIDE_BY_SIDE),
                    "B": views.toggle_blink,
                    "W": partial(views.set_mode, SWIPE),
                },
            ),
            (
                "Shift+← · Shift+→",
                "move the divider",
                {"Shift+Left": partial(views.swipe_by, -1), "Shift+Right": partial(views.swipe_by, 1)},
            ),
            ("0", "grid: decide on many; Escape leaves it", {"0": parts.grid_button.toggle}),
            ("Ctrl+A", "all of the grid", {"Ctrl+A": parts.select_all}),
            ("+ · −", "zoom", {"=": partial(views.zoom, 1), "-": partial(views.zoom, -1)}),
            ("O · M", "origin · smooth", {"O": views.origin.toggle, "M": views.smooth.toggle}),
            ("X", "real image in the window", {"X": views.real.toggle}),
            (
                "D · Q",
                "donor and nearest · summary",
                {"D": partial(panel.unfold, parts.donors), "Q": partial(panel.unfold, parts.summary)},
            ),
        ),
    }


class KeySheet(QScrollArea):
    """The keys of the review on a sheet that covers the panel; a click closes it."""

    def __init__(self, panel: ReviewPanel, table: Mapping[str, Sequence[tuple[str, str, Actions]]]) -> None:
        super().__init__(panel)
        self.panel = panel
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        form = ui.form()
        form.setContentsMargins(ui.SPACE, ui.SPACE, ui.SPACE, ui.SPACE)
        form.addRow(ui.hint("They work here and over the image. A click, ? or Escape closes this list."))
        for title, lines in table.items():
            form.addRow(ui.heading(title))
            for keys, action, _ in lines:
                form.addRow(ui.label(keys, wrap=False, style="font-weight: 600;"), ui.label(action, wrap=False))
        self.setWidget(ui.box(form))
        self.hide()

    def set_open(self, opened: bool) -> None:
        if opened:
            self.setGeometry(self.panel.rect())
            self.raise_()
        self.setVisible(opened)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.panel.toggle_keys()


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
            widths = ring_widths(this & self._whole, rings.features["halo"].to_numpy())
            if not np.array_equal(widths, rings.border_width):
                rings.border_width = widths
