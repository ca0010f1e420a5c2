"""How far the review is, how fast it goes, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

from qtpy.QtCore import QSignalBlocker, QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QSpinBox, QVBoxLayout, QWidget

from napari_histomix.widgets.elements import SPACE

BREAK = 60.0
"""Seconds without a decision after which a person is taken to have paused."""
LATEST = 30
"""Decisions that the pace is taken from."""
FEW = 3


class Pace:
    """Seconds that a person takes for each decision: the median of the latest ones.

    Parameters
    ----------
    clock : callable
        Seconds since any time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=LATEST)

    def tick(self) -> None:
        """A decision was made."""
        now = self._clock()
        if self._last is not None and now - self._last < BREAK:
            self._gaps.append(now - self._last)
        self._last = now

    def rest(self) -> None:
        """The person turns to something else."""
        self._last = None

    @property
    def seconds(self) -> float | None:
        """For each decision; None as long as there were too few."""
        return median(self._gaps) if len(self._gaps) >= FEW else None


class GoalBar(QWidget):
    """A bar of progress, the number wanted, and the pace."""

    goal_changed = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.pace = Pace()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.goal = QSpinBox()
        self.goal.setRange(0, 1_000_000)
        self.goal.setSpecialValueText("all reviewed")
        self.goal.setSuffix(" approved")
        self.goal.setToolTip("How many approved ones you want. At 0, the bar shows how many are reviewed.")
        self.goal.setAccessibleName("Goal")
        self.goal.setKeyboardTracking(False)
        self.words = QLabel()
        line = QHBoxLayout()
        line.setSpacing(SPACE - 2)
        line.addWidget(QLabel("Goal"))
        line.addWidget(self.goal)
        line.addStretch(1)
        line.addWidget(self.words)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACE - 2)
        column.addWidget(self.bar)
        column.addLayout(line)
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(300)
        self._late.timeout.connect(lambda: self.goal_changed.emit(self.goal.value()))
        self.goal.valueChanged.connect(lambda _value: self._late.start())

    def begin(self, goal: int) -> None:
        """Begin with another study, for which a goal may have been set before."""
        self.pace = Pace()
        with QSignalBlocker(self.goal):
            self.goal.setValue(goal)

    def show_counts(self, undecided: int, approved: int, rejected: int) -> None:
        """Show how far the review is."""
        goal = self.goal.value()
        done, total = (approved, goal) if goal else (approved + rejected, undecided + approved + rejected)
        self.bar.setMaximum(max(total, 1))
        self.bar.setValue(min(done, max(total, 1)))
        self.words.setText(self._words(goal, undecided, approved, rejected))

    def _words(self, goal: int, undecided: int, approved: int, rejected: int) -> str:
        if goal and approved >= goal:
            return "Goal reached"
        if not undecided:
            return f"{goal - approved:,} more needed" if goal else "All reviewed"
        seconds = self.pace.seconds
        if seconds is None:
            return f"{undecided:,} undecided"
        left = to_look_at(goal, undecided, approved, rejected)
        return f"{seconds:.1f} s each, about {duration(left * seconds)} left"


def to_look_at(goal: int, undecided: int, approved: int, rejected: int) -> int:
    """How many undecided ones have to be looked at until the goal is reached, as many being approved as so far."""
    if not goal or not approved:
        return undecided
    share = approved / (approved + rejected)
    return min(round((goal - approved) / share), undecided)


def duration(seconds: float) -> str:
    """A time in the words of a person."""
    if seconds < 60:
        return "a minute"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
