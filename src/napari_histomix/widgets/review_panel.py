"""Step 4: look at every synthetic nucleus, before and after; approve or reject it."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QHideEvent, QResizeEvent, QShowEvent
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_histomix.records import Placement
from napari_histomix.widgets.frames import APPROVE, REJECT, UNDECIDED, WORDS
from napari_histomix.widgets.keys import PanelKeys
from napari_histomix.widgets.parts import BAD, GOOD, SPACE, CropView, Note, Panel, hint, row
from napari_histomix.widgets.rewriting import look
from napari_histomix.widgets.session import Session

FACTOR = 4
"""Screen pixels for each image pixel."""
BLINK = 500
"""Milliseconds before the blinking view changes."""
_COLORS = {APPROVE: GOOD, REJECT: BAD}


class ReviewPanel(Panel):
    """Synthetic nuclei one after the other, side by side with what was there."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__(napari_viewer, session)
        self._order: tuple[Placement, ...] = ()
        self._at = 0
        self._blink_after = False
        self.empty = Note("Synthesize nuclei first.")
        self.column.addWidget(self.empty)
        self._build()
        self.column.addStretch(1)
        self._blinking = QTimer(self)
        self._blinking.setInterval(BLINK)
        self._blinking.timeout.connect(self._on_blink)
        actions = {
            "A": lambda: self.decide(APPROVE),
            "R": lambda: self.decide(REJECT),
            "U": self.undo,
            "Left": lambda: self.move_by(-1),
            "Right": lambda: self.move_by(1),
            "B": self.blink.toggle,
        }
        self.keys = PanelKeys(self, self.viewer, actions)
        self.session.placements_changed.connect(self._on_placements)
        self.session.placements_decided.connect(lambda _numbers: self._show())
        self.session.reader.loaded.connect(lambda _name: self._show())
        self.book.settled.connect(self._on_settled)
        self._on_placements()

    def _build(self) -> None:
        self.contents = QWidget()
        column = QVBoxLayout(self.contents)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE)
        self.counter = QLabel()
        self.counter.setStyleSheet("QLabel { font-weight: 600; }")
        self.decided_bar = QProgressBar()
        self.decided_bar.setTextVisible(False)
        self.decided_bar.setFixedHeight(6)
        self.before, self.after = CropView("Before", FACTOR), CropView("After", FACTOR)
        pair = QHBoxLayout()
        pair.setSpacing(2)
        pair.addWidget(self.before, 1)
        pair.addWidget(self.after, 1)
        for view in (self.before, self.after):
            view.setFixedHeight(210)
        self.blink = QCheckBox("Blink (B)")
        self.blink.setToolTip("Show before and after in the same place, one after the other.")
        self.blink.toggled.connect(self._on_blink_toggled)
        self.smooth = QCheckBox("Smooth")
        self.smooth.setToolTip("Smooth the magnified pixels instead of showing each as a square.")
        self.smooth.toggled.connect(self._on_smooth)
        options = row(self.blink, self.smooth)
        options.addStretch(1)
        self.approve_button = QPushButton("Approve (A)")
        self.reject_button = QPushButton("Reject (R)")
        self.undo_button = QPushButton("Undo (U)")
        self.previous_button = QPushButton("◀ Previous (←)")
        self.next_button = QPushButton("Next (→) ▶")
        self.approve_button.setToolTip("This nucleus may be exported.")
        self.reject_button.setToolTip("Take this nucleus out: the image's own pixels and labels return at once.")
        self.undo_button.setToolTip("Take the last decision back.")
        for button, color in ((self.approve_button, "#1e8449"), (self.reject_button, "#b03a2e")):
            button.setStyleSheet(
                f"QPushButton {{ background-color: {color}; color: white; font-weight: 600; padding: 7px;"
                " border-radius: 4px; }"
                "QPushButton:disabled { background-color: #7a808a; }"
            )
        self.approve_button.clicked.connect(lambda: self.decide(APPROVE))
        self.reject_button.clicked.connect(lambda: self.decide(REJECT))
        self.undo_button.clicked.connect(self.undo)
        self.previous_button.clicked.connect(lambda: self.move_by(-1))
        self.next_button.clicked.connect(lambda: self.move_by(1))
        self.provenance = hint("")
        column.addWidget(self.counter)
        column.addWidget(self.decided_bar)
        column.addLayout(pair)
        column.addLayout(options)
        column.addLayout(row(self.approve_button, self.reject_button, stretch=0))
        column.itemAt(column.count() - 1).layout().setStretch(1, 1)
        column.addLayout(row(self.previous_button, self.undo_button, self.next_button, stretch=1))
        column.addWidget(self.provenance)
        self.column.addWidget(self.contents)

    # Moving and deciding.

    @property
    def current(self) -> Placement | None:
        """The placement under review."""
        return self._order[self._at] if self._order else None

    def move_by(self, by: int) -> None:
        """Go to the next placement, or back; stops at the ends."""
        self.move_to(self._at + by)

    def move_to(self, at: int) -> None:
        """Go to a placement by its place in the order of review."""
        if self._order:
            self._at = min(max(at, 0), len(self._order) - 1)
            self._fly()
            self._show()

    def decide(self, decision: str) -> None:
        """Approve or reject the placement under review and go on to the next."""
        placement = self.current
        if placement is not None:
            self.session.decide("placement", [placement.candidate.rank], decision)
            self.move_by(1)

    def undo(self) -> None:
        """Take the last decision back and return to the placement it was about."""
        items = self.session.undo("placement")
        places = [at for at, one in enumerate(self._order) if one.candidate.rank in items]
        if places:
            self.move_to(places[0])

    def _on_placements(self) -> None:
        placements = self.session.placements
        rank = self.current.candidate.rank if self.current else None
        images = list(dict.fromkeys(one.candidate.target.image for one in placements))
        self._order = tuple(sorted(placements, key=lambda one: images.index(one.candidate.target.image)))
        ranks = [one.candidate.rank for one in self._order]
        decisions = self.session.placement_decisions
        open_ones = [at for at, one in enumerate(ranks) if one not in decisions]
        self._at = ranks.index(rank) if rank in ranks else (open_ones[0] if open_ones else 0)
        self.contents.setVisible(bool(self._order))
        self.empty.setVisible(not self._order)
        if self.isVisible():
            self._fly()
        self._show()

    def _fly(self) -> None:
        placement = self.current
        if placement is not None:
            place = placement.candidate.target
            self.book.show_synthetic(True)
            self.session.fly(place.image, place.row, place.col)

    # Showing.

    def _on_settled(self) -> None:
        if self.before.pixels is None:
            self._show()

    def _show(self) -> None:
        placement = self.current
        if placement is None:
            return
        decisions = self.session.placement_decisions
        approved, rejected = self.session.decided(APPROVE), self.session.decided(REJECT)
        self.counter.setText(f"{self._at + 1} of {len(self._order)} · {approved} approved · {rejected} rejected")
        self.decided_bar.setMaximum(len(self._order))
        self.decided_bar.setValue(approved + rejected)
        self.previous_button.setEnabled(self._at > 0)
        self.next_button.setEnabled(self._at < len(self._order) - 1)
        decision = decisions.get(placement.candidate.rank, UNDECIDED)
        self.provenance.setText(self._describe(placement, WORDS[decision]))
        frame = _COLORS.get(decision, "")
        after_caption = "After" if decision == UNDECIDED else f"After: {WORDS[decision]}"
        name = placement.candidate.target.image
        target = self.book.target(name)
        if target is None:
            self.before.show_pixels(None, "Before …")
            self.after.show_pixels(None, "After …")
            self.session.reader.request(name)
            return
        others = [one for one in self.session.placements_of(name) if one.candidate.rank != placement.candidate.rank]
        place = placement.candidate.target
        side = max(16, max(self.before.width(), self.after.width(), self.before.height()) // FACTOR + 2)
        before, after = look(target, place.row, place.col, side, [*others, placement])
        self._pair = before, after, frame, after_caption
        self.before.show_pixels(before, "Before")
        self.after.show_pixels(after, after_caption, frame)
        if self.blink.isChecked():
            self._on_blink(turn=False)

    def _describe(self, placement: Placement, decision: str) -> str:
        one, dataset = placement.candidate, self.session.dataset
        if dataset is None:
            return ""
        name = dataset.class_name
        if one.target.kind == "background":
            where = "on free tissue"
        else:
            where = f"in place of {name(one.target.type)} #{one.target.instance}"
        made = placement.provenance.get("sampler", "")
        return (
            f"{name(one.donor.type)} #{placement.instance} {where}, {one.target.image} · "
            f"donor #{one.donor.instance} of {one.donor.image} · fit {one.percentile:.0f} · "
            f"{f'{made} sampler · ' if made else ''}candidate {one.rank + 1} · {decision}"
        )

    def _on_smooth(self, smooth: bool) -> None:
        for view in (self.before, self.after):
            view.smooth = smooth
            view.update()

    def _on_blink_toggled(self, blinking: bool) -> None:
        self.before.setVisible(not blinking)
        if blinking and self.isVisible():
            self._blinking.start()
        else:
            self._blinking.stop()
        self._show()

    def _on_blink(self, turn: bool = True) -> None:
        if turn:
            self._blink_after = not self._blink_after
        if self.current is None or self.before.pixels is None:
            return
        before, after, frame, caption = self._pair
        if self._blink_after:
            self.after.show_pixels(after, caption, frame)
        else:
            self.after.show_pixels(before, "Before")

    # Keys only while the panel is to be seen.

    def showEvent(self, event: QShowEvent) -> None:
        """Take the keys over and go to the placement under review."""
        self.keys.bind()
        if self.blink.isChecked():
            self._blinking.start()
        self._fly()
        self._show()
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:
        """Give the keys back."""
        self.keys.release()
        self._blinking.stop()
        super().hideEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as much around the nucleus as there is room for."""
        super().resizeEvent(event)
        self._show()
