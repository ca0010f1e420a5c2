"""Small parts of the Mix dock: sections that fold, a run bar with a tooltip, the latest of several jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_histomix.records import Job
from napari_histomix.widgets.jobs import JobRunner
from napari_histomix.widgets.parts import SPACE, RunBar


class Latest(QObject):
    """Runs jobs in the background, of which only the last one that was asked for matters."""

    progressed = Signal(object)
    finished = Signal(object)
    failed = Signal(str)
    running_changed = Signal(bool)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._next: tuple[Callable[[], Job[Any]], str] | None = None
        # Without a window: what takes a moment needs no bar in napari's activity dock.
        self._runner = JobRunner(self)
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.timeout.connect(self._start)
        self._runner.progressed.connect(self.progressed)
        self._runner.finished.connect(self.finished)
        self._runner.failed.connect(self.failed)
        self._runner.running_changed.connect(self._on_running)

    @property
    def busy(self) -> bool:
        """Whether a job is under way or waits."""
        return self._runner.running or self._next is not None

    def ask(self, make: Callable[[], Job[Any]], title: str) -> None:
        """Run a job; an earlier one that is under way is given up."""
        self._next = make, title
        self._runner.discard()
        self._start()

    def drop(self) -> None:
        """Give up what is under way."""
        self._next = None
        self._runner.discard()

    def _start(self) -> None:
        if self._next is not None and self._runner.start(*self._next):
            self._next = None

    def _on_running(self, running: bool) -> None:
        if not running:
            # Only after the signals of the end that has just come.
            self._again.start()
        self.running_changed.emit(running)


class MixBar(RunBar):
    """A run bar whose button says what it does."""

    def __init__(self, text: str, tip: str, runner: JobRunner, stop_tip: str = "") -> None:
        self._tip = tip
        super().__init__(text, runner)
        self.run_button.setToolTip(tip)
        if stop_tip:
            self.cancel_button.setToolTip(stop_tip)

    def allow(self, can_run: bool, why_not: str = "") -> None:
        """Whether Run can be pressed, and why it cannot."""
        super().allow(can_run, why_not)
        self.run_button.setToolTip(self._tip if can_run else f"{self._tip}\n{why_not}".strip())


class Section(QFrame):
    """A heading with a few words on how things stand, and contents that fold away.

    Parameters
    ----------
    title : str
    tip : str
    opened : bool
    """

    def __init__(self, title: str, tip: str, opened: bool = True) -> None:
        super().__init__()
        self.toggle = QToolButton()
        self.toggle.setText(title)
        self.toggle.setToolTip(tip)
        self.toggle.setCheckable(True)
        self.toggle.setAutoRaise(True)
        self.toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.toggle.setStyleSheet("QToolButton { font-weight: 600; border: none; background: transparent; }")
        self.state = QLabel()
        self.state.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.state.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        header = QHBoxLayout()
        header.setContentsMargins(0, 4, 0, 0)
        header.addWidget(self.toggle)
        header.addWidget(self.state, 1)
        self.contents = QWidget()
        self.body = QVBoxLayout(self.contents)
        self.body.setContentsMargins(0, 0, 0, 4)
        self.body.setSpacing(SPACE)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addLayout(header)
        column.addWidget(self.contents)
        self.setObjectName("MixSection")
        self.setStyleSheet("QFrame#MixSection { border: none; border-top: 1px solid rgba(128, 128, 128, 90); }")
        self.toggle.toggled.connect(self._on_toggled)
        self.toggle.setChecked(opened)
        self._on_toggled(opened)

    def _on_toggled(self, opened: bool) -> None:
        self.contents.setVisible(opened)
        self.toggle.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)


def many(count: int, what: str) -> str:
    """A number of things in words."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
