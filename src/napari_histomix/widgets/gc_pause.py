"""Keeping Python's garbage collector from stalling the window."""

from __future__ import annotations

import gc
from threading import Lock

_lock = Lock()
_busy = 0
_usual = gc.get_threshold()
RARELY = 50_000
"""New objects before young ones are collected, in place of Python's 700: a job may make a million that all stay."""


class GcPause:
    """While at least one of these has begun, full collections pass over what existed before.

    Walking through all of napari and torch takes half a second in which no thread moves; done in a worker's thread it
    may also destroy what belongs to the window. New garbage is still collected, old garbage when all have ended.
    """

    def __init__(self) -> None:
        self._on = False

    def begin(self) -> None:
        """Leave what exists alone from now on."""
        self._set(True)

    def end(self) -> None:
        """Back to normal, when no other pause goes on."""
        self._set(False)

    def _set(self, on: bool) -> None:
        global _busy, _usual
        with _lock:
            if on == self._on:
                return
            self._on = on
            _busy += 1 if on else -1
            if on and _busy == 1:
                gc.freeze()
                _usual = gc.get_threshold()
                gc.set_threshold(RARELY, *_usual[1:])
            elif not _busy:
                gc.set_threshold(*_usual)
                gc.unfreeze()
