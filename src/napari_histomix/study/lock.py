"""Who may write to a study: one window or command at a time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "study.lock"
READ_ONLY = "This study is open in another window, or cannot be written: here it can be looked at, not changed."


class Claim:
    """The right to write to a study's folder. The system takes it back from a process that dies.

    Parameters
    ----------
    folder : Path
        The study's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Jobs write from threads of their own: the claim is the window's, not a thread's.
        self._lock = FileLock(folder / LOCK, thread_local=False)
        self._turn = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether it is ours now."""
        return bool(self._lock.is_locked)

    def take(self, wait: float = 0.0) -> bool:
        """Take the right, waiting some seconds for it; False where another has it or the folder cannot be written."""
        if not os.access(self.folder, os.W_OK):
            return False
        with self._turn:
            try:
                self._lock.acquire(timeout=wait)
            except (Timeout, OSError):
                return False
            return True

    def release(self, *, force: bool = False) -> None:
        """Give it back: once for each time it was taken, or altogether."""
        with self._turn:
            self._lock.release(force=force)
