"""Review: every synthetic image of the study in a list, one of them on the screen; what is decided, and why."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, QPersistentModelIndex, QSignalBlocker, Qt, QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QCheckBox, QListView, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_histomix.study.lock import READ_ONLY
from napari_histomix.study.store import REASONS
from napari_histomix.widgets.base import BAD, GOOD, Note, Panel, row
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.keys import PanelKeys
from napari_histomix.widgets.mix.layers import MIX, MixLayers
from napari_histomix.widgets.mix.runs import Shown, show_job
from napari_histomix.widgets.mix.work import MixWork
from napari_histomix.widgets.review.details import REASON_KEYS, DetailsBox, who_and_when
from napari_histomix.widgets.sections import Section
from napari_histomix.widgets.tables import APPROVE, DELETE, REJECT, UNDECIDED, WORDS

BLINK = 500
"""Milliseconds before the blinking view changes."""
MARKS = {APPROVE: "✓  ", REJECT: "✗  ", DELETE: "–  "}
COLORS = {APPROVE: GOOD, REJECT: BAD, DELETE: "#8a8f99"}
DECISIONS = {"A": APPROVE, "1": APPROVE, "R": REJECT, "2": REJECT, "3": UNDECIDED, "4": DELETE}
Index = QModelIndex | QPersistentModelIndex


class MixList(QAbstractListModel):
    """Names and decisions; no image is read for it."""

    def __init__(self, work: MixWork, parent: QWidget) -> None:
        super().__init__(parent)
        self.work = work
        self.numbers: list[int] = []

    def reset(self) -> None:
        """Take what the study holds now; what is only added leaves place and selection as they are."""
        new = self.work.numbers
        if new[: len(self.numbers)] == self.numbers and self.numbers:
            if len(new) > len(self.numbers):
                self.beginInsertRows(QModelIndex(), len(self.numbers), len(new) - 1)
                self.numbers = new
                self.endInsertRows()
            return
        self.beginResetModel()
        self.numbers = new
        self.endResetModel()

    def rowCount(self, parent: Index | None = None) -> int:
        """One for each image."""
        return 0 if parent is not None and parent.isValid() else len(self.numbers)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A name, its decision before it."""
        if not index.isValid() or index.row() >= len(self.numbers):
            return None
        number = self.numbers[index.row()]
        decision = self.work.decisions.get(number, UNDECIDED)
        name = self.work.names.get(number, "")
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{MARKS.get(decision, '·  ')}{name}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{name} · {WORDS[decision]}"
        if role == Qt.ItemDataRole.ForegroundRole and decision in COLORS:
            return QColor(COLORS[decision])
        return None

    def changed(self, numbers: tuple[int, ...]) -> None:
        """Show other decisions."""
        known = {number: place for place, number in enumerate(self.numbers)}
        for number in numbers:
            if number in known:
                at = self.index(known[number])
                self.dataChanged.emit(at, at)


class ReviewSection(Section):
    """Previous and next, approve and reject, undo; real and synthetic in the same place."""

    def __init__(self, panel: Panel, work: MixWork, layers: MixLayers) -> None:
        super().__init__("Review", "Look at every synthetic image, and approve or reject it.")
        self.panel, self.work, self.layers = panel, work, layers
        self.shown: Shown | None = None
        self._seen = False
        self.loader = JobRunner(self)
        self._build()
        self._blinking = QTimer(self)
        self._blinking.setInterval(BLINK)
        self._blinking.timeout.connect(self.real.toggle)
        actions = {
            **{key: lambda decision=decision: self.decide(decision) for key, decision in DECISIONS.items()},
            **{key: lambda reason=reason: self.toggle_reason(reason) for reason, key in REASON_KEYS.items()},
            **dict.fromkeys(("U", "Z"), self.undo),
            "Y": self.redo,
            "K": self.details.stay.toggle,
            "N": lambda: self.details.note.setFocus(Qt.FocusReason.ShortcutFocusReason),
            "P": lambda: self.details.reviewer.setFocus(Qt.FocusReason.ShortcutFocusReason),
            "Left": lambda: self.move_by(-1),
            "Right": lambda: self.move_by(1),
            "X": self.real.toggle,
            "B": self.blink.toggle,
            "O": self.origin.toggle,
        }
        self.keys = PanelKeys(self, panel.viewer, actions)
        self.details.reason_toggled.connect(self.toggle_reason)
        self.details.note_kept.connect(self._on_note)
        self.details.note_left.connect(panel.setFocus)
        self.details.named.connect(panel.session.set_reviewer)
        panel.session.reviewer_changed.connect(self.details.reviewer.setText)
        self.loader.finished.connect(self._on_shown)
        self.loader.failed.connect(lambda sentence: panel.complain(self.note, sentence))
        layers.view_changed.connect(self._on_view)
        work.opened.connect(self._on_opened)
        work.mixes_changed.connect(self._on_mixes)
        work.decided.connect(self._on_decided)
        work.failed.connect(lambda sentence: panel.complain(self.note, sentence))
        self._on_mixes()

    def _build(self) -> None:
        self.empty = Note("Make synthetic images first.")
        self.body.addWidget(self.empty)
        self.decided_bar = QProgressBar()
        self.decided_bar.setTextVisible(False)
        self.decided_bar.setFixedHeight(6)
        self.decided_bar.setToolTip("How many images are decided on.")
        self.model = MixList(self.work, self)
        self.list = QListView()
        self.list.setModel(self.model)
        self.list.setUniformItemSizes(True)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setStyleSheet("QListView::item { padding: 3px 2px; }")
        self.list.setFixedHeight(132)
        self.list.setToolTip("All synthetic images of the study; the one you click is shown.")
        self.list.setAccessibleName("Synthetic images")
        self.list.selectionModel().currentChanged.connect(lambda _now, _before: self._load())
        self.list.clicked.connect(lambda _index: self._load())
        self.approve_button = _button("Approve (A, 1)", "This image may be exported.", lambda: self.decide(APPROVE))
        self.reject_button = _button("Reject (R, 2)", "This image is never exported.", lambda: self.decide(REJECT))
        self.clear_button = _button("Clear (3)", "Undecided again.", lambda: self.decide(UNDECIDED))
        self.delete_button = _button("Delete (4)", "It counts no more; Clear undoes that.", lambda: self.decide(DELETE))
        for button, color in ((self.approve_button, "#1e8449"), (self.reject_button, "#b03a2e")):
            button.setStyleSheet(
                f"QPushButton {{ background-color: {color}; color: white; font-weight: 600; padding: 7px;"
                " border-radius: 4px; }"
                "QPushButton:disabled { background-color: #7a808a; color: #d5d8dc; }"
            )
        self.undo_button = _button("Undo (Z)", "Take the last decision, reason or note back (Z or U).", self.undo)
        self.redo_button = _button("Redo (Y)", "Do again what was taken back last.", self.redo)
        self.previous_button = _button("◀ Previous (←)", "The image before.", lambda: self.move_by(-1))
        self.next_button = _button("Next (→) ▶", "The next image.", lambda: self.move_by(1))
        self.real = QCheckBox("Real (X)")
        self.real.setToolTip("Show the real image in place of the synthetic one.")
        self.real.toggled.connect(lambda real: self.layers.show_synthetic(not real))
        self.blink = QCheckBox("Blink (B)")
        self.blink.setToolTip("Change between real and synthetic by itself.")
        self.blink.toggled.connect(self._on_blink)
        self.origin = QCheckBox("Origin (O)")
        self.origin.setChecked(True)
        self.origin.setToolTip("Outline what comes from donors (blue) and what was painted (amber).")
        self.origin.toggled.connect(self.layers.show_origin)
        decide = row(self.approve_button, self.reject_button)
        moves = row(self.previous_button, self.next_button)
        turns = row(self.clear_button, self.delete_button, self.undo_button, self.redo_button)
        for line in (decide, moves, turns):
            for index in range(line.count()):
                line.setStretch(index, 1)
        options = row(self.real, self.blink, self.origin)
        options.addStretch(1)
        self.details = DetailsBox("image")
        self.about = self.details.provenance
        self.results = QWidget()
        inner = QVBoxLayout(self.results)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(self.body.spacing())
        inner.addWidget(self.decided_bar)
        inner.addWidget(self.list)
        inner.addLayout(options)
        inner.addLayout(decide)
        inner.addLayout(turns)
        inner.addLayout(moves)
        inner.addWidget(self.details)
        self.body.addWidget(self.results)
        self.note = Note()
        self.body.addWidget(self.note)

    # Moving.

    @property
    def current(self) -> int | None:
        """Number of the image that is chosen in the list."""
        at = self.list.currentIndex()
        return self.model.numbers[at.row()] if at.isValid() and at.row() < len(self.model.numbers) else None

    def go(self, number: int) -> None:
        """Choose an image by its number, and show it."""
        if number in self.model.numbers:
            at = self.model.index(self.model.numbers.index(number))
            if at == self.list.currentIndex():
                self._load()
            else:
                self.list.setCurrentIndex(at)

    def move_by(self, by: int) -> None:
        """Go to the next image, or back; stops at the ends."""
        if not self.model.numbers:
            return
        at = self.list.currentIndex()
        place = at.row() + by if at.isValid() else 0
        self.go(self.model.numbers[min(max(place, 0), len(self.model.numbers) - 1)])

    def _load(self) -> None:
        number, work = self.current, self.work
        self._update()
        if number is None or work.study is None or work.pool is None or work.dataset is None:
            return
        if self.shown is not None and self.shown.number == number and not self.loader.busy:
            self._show(self.shown)
            return
        self.about.setText("Reading …")
        self.loader.replace(show_job(work.study, work.pool, work.dataset, number), "reading a synthetic image")

    def _on_shown(self, shown: Shown) -> None:
        if shown.number == self.current:
            self.shown = shown
            self.work.learn({shown.number: shown.mix.kind})
            self.note.say("")
            self._show(shown)

    def _show(self, shown: Shown) -> None:
        dataset = self.work.dataset
        known = {entry.source.image: entry.mpp for entry in dataset.training} if dataset is not None else {}
        self.layers.show_mix(shown, shown.real.mpp if shown.real is not None else known.get(shown.mix.target) or 1.0)
        with QSignalBlocker(self.real):
            self.real.setChecked(False)
        self.layers.show_synthetic(True)
        self._update()

    # Deciding.

    @property
    def visible_number(self) -> int | None:
        """Number of the image that is on the screen: no one decides on what they do not see."""
        shown = self.shown
        if shown is None or self.layers.view != MIX or shown.number != self.current:
            return None
        return shown.number if self.layers.layer("synthetic") is not None else None

    def decide(self, decision: str) -> None:
        """Approve, reject, delete or clear the image on the screen, and go on to the next where that is wanted."""
        number = self.visible_number
        if number is None:
            return
        self.details.note.keep()
        stays = decision == UNDECIDED or (decision == REJECT and self.details.stay.isChecked())
        if self.work.decide(number, None if decision == UNDECIDED else decision) and not stays:
            self.move_by(1)

    def toggle_reason(self, reason: str) -> None:
        """Give the image on the screen a reason, or take it off."""
        number = self.visible_number
        if number is not None:
            kept = [one for one in REASONS if (one in self._reasons(number)) != (one == reason)]
            self.work.say("mix reasons", number, ", ".join(kept) or None)
        self._update()

    def _reasons(self, number: int) -> list[str]:
        return [one for one in self.work.said["mix reasons"].get(number, "").split(", ") if one]

    def _on_note(self, text: str) -> None:
        number = self.visible_number
        if number is not None:
            self.work.say("mix note", number, text or None)

    def undo(self) -> None:
        """Take the last decision back, and go to the image it was about."""
        self._turned(self.work.undo(), "undo")

    def redo(self) -> None:
        """Make the decision again that was taken back last, and go to the image it is about."""
        self._turned(self.work.redo(), "redo")

    def _turned(self, items: tuple[int, ...] | None, what: str) -> None:
        if items == ():
            self.note.say(f"There is nothing to {what}.")
        elif items:
            self.note.say("")
            self.go(items[0])

    def _on_decided(self, numbers: tuple[int, ...]) -> None:
        self.model.changed(numbers)
        self._update()

    # What is shown.

    def _on_opened(self) -> None:
        self.loader.discard()
        self.shown = None
        self.note.say("")
        self.details.reviewer.setText(self.panel.session.reviewer)
        self._on_mixes()

    def _on_mixes(self) -> None:
        self.model.reset()
        some = bool(self.model.numbers)
        self.empty.setVisible(not some)
        self.results.setVisible(some)
        if some and not self.list.currentIndex().isValid():
            left = [place for place, one in enumerate(self.model.numbers) if one not in self.work.decisions]
            # Chosen, not shown: the person may be about to click a target.
            with QSignalBlocker(self.list.selectionModel()):
                self.list.setCurrentIndex(self.model.index(left[0] if left else 0))
        self._update()

    def _on_view(self) -> None:
        if self.layers.view != MIX:
            self.blink.setChecked(False)
            with QSignalBlocker(self.real):
                self.real.setChecked(False)
        self._bind()
        self._update()

    def _on_blink(self, blinking: bool) -> None:
        if blinking and self.real.isEnabled():
            self._blinking.start()
        else:
            self._blinking.stop()
            self.real.setChecked(False)

    def _update(self) -> None:
        approved, rejected, left, deleted = self.work.counts()
        some = approved + rejected + left
        gone = f" · {deleted} deleted" if deleted else ""
        self.state.setText(f"{approved} approved · {rejected} rejected · {left} left{gone}" if some + deleted else "")
        self.decided_bar.setMaximum(max(some, 1))
        self.decided_bar.setValue(approved + rejected)
        seen = self.visible_number
        why_not = READ_ONLY if self.work.study is not None and self.work.study.read_only else ""
        for button in (self.approve_button, self.reject_button, self.clear_button, self.delete_button):
            button.setEnabled(seen is not None and not why_not)
        for button in (self.undo_button, self.redo_button):
            button.setEnabled(not why_not)
        self.details.allow(seen is not None and not why_not, why_not)
        reasons, notes = (self._reasons(seen), self.work.said["mix note"]) if seen is not None else ([], {})
        self.details.show_marks(seen, reasons, notes.get(seen, "") if seen is not None else "")
        place = self.list.currentIndex().row()
        self.previous_button.setEnabled(place > 0)
        self.next_button.setEnabled(place < len(self.model.numbers) - 1)
        has_real = seen is not None and self.shown is not None and self.shown.real is not None
        for box in (self.real, self.blink):
            box.setEnabled(has_real)
        self.origin.setEnabled(seen is not None)
        if seen is None:
            if not self.loader.busy:
                self.about.setText("Click an image in the list to see it.")
            return
        assert self.shown is not None
        mix = self.shown.mix
        donors = len(mix.provenance.get("donors", ()))
        gone = "" if has_real else " · its real image cannot be read any more"
        decided = self.work.decided_by(seen)
        self.about.setText(
            f"{mix.kind} · {donors} replacement{'' if donors == 1 else 's'} · {mix.new_area:.0%} new · "
            f"{mix.provenance.get('sampler', '')} sampler · {who_and_when(decided) if decided else UNDECIDED}{gone}"
        )

    # Keys only while a synthetic image is on the screen and the panel is to be seen.

    def set_active(self, active: bool) -> None:
        """The panel is shown, or hidden."""
        self._seen = active
        if not active:
            self.blink.setChecked(False)
        self._bind()

    def _bind(self) -> None:
        if self._seen and self.layers.view == MIX:
            self.keys.bind()
        else:
            self.keys.release()


def _button(text: str, tip: str, action: Any) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.clicked.connect(lambda _checked=False: action())
    return button
