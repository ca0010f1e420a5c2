"""Whose turn it is among jobs that take the computer to themselves: one is under way, the others wait in a row."""

from __future__ import annotations

from threading import Lock
from typing import Protocol


class Waiting(Protocol):
    """A job that takes its turn."""

    title: str

    @property
    def held(self) -> bool:
        """Whether a person paused it: others go on meanwhile."""


class Turns:
    """A row of jobs, asked from their threads: the first that nobody paused is under way.

    Example:
        >>> turns = Turns()
        >>> turns.join(job)
        >>> turns.before(job)  # None: its turn
    """

    def __init__(self) -> None:
        self._row: list[Waiting] = []
        self._lock = Lock()

    def join(self, job: Waiting) -> None:
        """Stand at the end of the row."""
        with self._lock:
            self._row.append(job)

    def leave(self, job: Waiting) -> None:
        """Make room, whether it was its turn or not."""
        with self._lock:
            if job in self._row:
                self._row.remove(job)

    def advance(self, job: Waiting) -> None:
        """Put a job first: the one that is under way waits from its next event on."""
        with self._lock:
            if job in self._row:
                self._row.remove(job)
                self._row.insert(0, job)

    def before(self, job: Waiting) -> Waiting | None:
        """The job that this one waits for; None where it is its turn."""
        with self._lock:
            first = next((other for other in self._row if other is job or not other.held), None)
        return None if first is job else first
