"""Changes to a curation, one after the other: small ones at once, large ones in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_histomix.records import HistomixError
from napari_histomix.widgets.jobs import JobRunner, single

AT_ONCE = 2_000
"""Segments that are decided on while the window waits."""
READ_AT_ONCE = 20_000
"""Decisions that a study may hold for that: it reads them all to write one."""

Act = Callable[[], Any]


class PoolActs(QObject):
    """Runs acts in the order they were asked for; those made while a large one is written wait for it.

    An act is a call that changes a curation and returns the segments it changed.
    """

    done = Signal(object, str)
    """Numbers of the segments that changed, and what was done to them ("decision", "class", "tags", "undo")."""
    failed = Signal(str)
    """One sentence; nothing was changed."""
    busy_changed = Signal(bool)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._waiting: deque[tuple[Act, str]] = deque()
        self._what = ""
        # Without a window: a bar in napari's activity dock for every key that was pressed would be no help.
        self._runner = JobRunner(self)
        self._runner.running_changed.connect(self.busy_changed)
        self._runner.finished.connect(self._on_done)
        self._runner.failed.connect(self._on_failed)
        self._runner.cancelled.connect(self._next)

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._runner.running

    def do(self, act: Act, what: str, size: int, stored: int) -> None:
        """Do an act that concerns so many segments, in a study that holds so many decisions."""
        if size <= AT_ONCE and stored <= READ_AT_ONCE and not self.busy:
            try:
                changed: NDArray[Any] = act()
            except (HistomixError, OSError) as error:
                self.failed.emit(str(error))
            else:
                self.done.emit(changed, what)
        else:
            self._waiting.append((act, what))
            self._next()

    def forget(self) -> None:
        """Another pool is coming: what still waits is not done. What is being written comes to its end."""
        self._waiting.clear()
        self._runner.discard()

    def _next(self) -> None:
        if self._waiting and not self.busy:
            act, self._what = self._waiting.popleft()
            self._runner.start(single(act, "Writing"), "writing decisions")

    def _on_done(self, changed: Any) -> None:
        self.done.emit(changed, self._what)
        self._next()

    def _on_failed(self, sentence: str) -> None:
        # Those that waited may have been meant to follow this one.
        self._waiting.clear()
        self.failed.emit(sentence)
