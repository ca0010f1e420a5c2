"""The HistoMix dock: five panels as numbered steps in order, for every method."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QFrame, QToolButton, QWidget

from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.base import Panel
from napari_histomix.widgets.data_panel import DataPanel
from napari_histomix.widgets.decisions import APPROVE, REJECT
from napari_histomix.widgets.export_panel import ExportPanel
from napari_histomix.widgets.make_panel import MakePanel
from napari_histomix.widgets.plan_panel import PlanPanel, chosen, data_problem
from napari_histomix.widgets.review.panel import ReviewPanel
from napari_histomix.widgets.session import Session

COLORS = {"waiting": "#8a8f99", "open": ui.ACCENT, "done": ui.GOOD}
"""Of the circle around a step's number, by state."""


class Step(QFrame):
    """A header with number, title and what has been done, and a panel below that opens and closes."""

    toggled = Signal(object)

    def __init__(self, number: int, title: str, panel: Panel) -> None:
        super().__init__()
        self.number, self.title, self.panel = number, title, panel
        self.open = False
        self.state = ""
        self.badge = ui.label(wrap=False)
        self.badge.setFixedSize(22, 22)
        self.badge.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.title_label = ui.label(title, wrap=False, style="font-weight: 600; font-size: 14px;")
        self.state_label = ui.label(wrap=False, right=True, yields=True)
        self.arrow = QToolButton()
        self.arrow.setArrowType(Qt.ArrowType.RightArrow)
        self.arrow.setAutoRaise(True)
        self.arrow.setAccessibleName(f"Open the step {title}")
        self.arrow.clicked.connect(lambda: self.toggled.emit(self))
        line = ui.row(self.badge, self.title_label, self.state_label, self.arrow, stretch=2)
        line.setContentsMargins(6, 5, 4, 5)
        self.header = ui.box(line)
        self.header.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setLayout(ui.column(self.header, panel, space=0, stretch=1))
        panel.hide()
        self.setObjectName("HistoMixStep")
        self.setStyleSheet("QFrame#HistoMixStep { border: none; border-top: 1px solid rgba(128, 128, 128, 90); }")

    def set_open(self, opened: bool) -> None:
        self.open = opened
        self.panel.setVisible(opened)
        self.arrow.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)

    def set_state(self, state: str, text: str) -> None:
        """Show how far the step is (waiting, open, done), and what has been done in a few words."""
        if state != self.state:
            self.state = state
            self.badge.setText("✓" if state == "done" else str(self.number))
            self.badge.setStyleSheet(
                f"QLabel {{ background-color: {COLORS[state]}; color: white; font-weight: 700; border-radius: 11px; }}"
            )
        self.state_label.setText(text)
        self.setEnabled(state != "waiting")

    def mousePressEvent(self, event: QMouseEvent) -> None:
        # A click anywhere on the header opens or closes the step.
        if self.isEnabled() and self.header.geometry().contains(event.pos()):
            self.toggled.emit(self)
        else:
            super().mousePressEvent(event)


class HistoMixDock(QWidget):
    """All five steps, one open at a time; a step can be opened when the one before has something for it."""

    def __init__(self, napari_viewer: Any, session: Session | None = None) -> None:
        super().__init__()
        self.data = DataPanel(napari_viewer, session)
        self.session = session = self.data.session
        self.plan = PlanPanel(napari_viewer, session)
        self.make = MakePanel(napari_viewer, session)
        self.review = ReviewPanel(napari_viewer, session)
        self.export = ExportPanel(napari_viewer, session)
        titles = ("Data", "Plan", "Make", "Review", "Export")
        panels = (self.data, self.plan, self.make, self.review, self.export)
        self.steps = [
            Step(number, title, panel)
            for number, (title, panel) in enumerate(zip(titles, panels, strict=True), start=1)
        ]
        for step in self.steps:
            step.toggled.connect(self._on_toggled)
            step.panel.running_changed.connect(self._update)
        self._column = ui.column(*self.steps, space=0)
        self._column.addStretch(1)
        self.scroll = ui.scrolled(ui.box(self._column))
        self.setLayout(ui.column(self.scroll))
        self.setMinimumWidth(400)
        for signal in (
            session.dataset_changed,
            session.classes_changed,
            session.method_changed,
            session.study_changed,
            session.candidates_changed,
            session.candidates_decided,
            session.pool_changed,
            session.changes_changed,
            session.changes_made,
            session.changes_decided,
        ):
            signal.connect(self._update)
        self._update()
        self.open_step(0)

    def sizeHint(self) -> QSize:
        # Wide enough for two crops side by side.
        return QSize(420, 760)

    def open_step(self, index: int) -> None:
        """Open one step and close the others."""
        for number, step in enumerate(self.steps):
            step.set_open(number == index)
            self._column.setStretch(number, 1000 if number == index else 0)
        self.scroll.ensureWidgetVisible(self.steps[index].header)

    def _on_toggled(self, step: Step) -> None:
        index = self.steps.index(step)
        if step.open:
            step.set_open(False)
            self._column.setStretch(index, 0)
        else:
            self.open_step(index)

    def _update(self, *_: object) -> None:
        session, method = self.session, chosen(self.session)
        usable = not data_problem(session, method)
        planned = usable and self.plan.ready
        total, approved = len(session.table), session.decided(APPROVE)
        decided = approved + session.decided(REJECT)
        stage = method.stage if method is not None else None
        self.steps[1].title_label.setText(stage.title if stage is not None else "Plan")
        states = (
            (True, usable, session.dataset.name if session.dataset else ""),
            (session.dataset is not None and not session.dataset.missing_scale, planned, self.plan.words()),
            (planned, total > 0, f"{total:,} made" if total else ""),
            (total > 0, 0 < total == decided, f"{decided:,} of {total:,} reviewed" if total else ""),
            (approved > 0, False, f"{approved:,} approved" if approved else ""),
        )
        for step, (possible, done, text) in zip(self.steps, states, strict=True):
            if step.panel.runner.running:
                step.set_state("open", "working …")
            else:
                step.set_state("waiting" if not possible else "done" if done else "open", text)
