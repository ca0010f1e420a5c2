"""Long jobs in a background thread: progress, Cancel, one clear notice; and what keeps the window free meanwhile."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import time
import weakref
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from threading import Event as Flag
from threading import Lock
from traceback import walk_tb
from typing import Any, Self

from napari.qt.threading import create_worker
from napari.utils import cancelable_progress
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QLabel, QWidget

from napari_histomix.logs import details
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.widgets.elements import later
from napari_histomix.widgets.turns import Turns

INTERVAL = 0.05
"""Seconds between two events that reach the main thread."""
PAUSED = 0.05
"""Seconds between two looks of a paused job at whether it goes on."""
LONG = 5.0
"""Seconds after which a job's end is worth giving memory back: that takes tenths of a second in its thread."""
RARELY = 50_000
"""New objects before young ones are collected, in place of Python's 700: a job may make a million that all stay."""

log = logging.getLogger(__name__)
_lock = Lock()
_paused: set[GcPause] = set()
_usual = gc.get_threshold()


class _Handle:
    """All that a worker is given. napari keeps workers' methods forever, so everything heavy is dropped at the end."""

    def __init__(self, make: Callable[[], Job[Any]], title: str, turns: Turns) -> None:
        self.make: Callable[[], Job[Any]] | None = make
        self.title, self.turns = title, turns
        self.stop = Flag()
        self.hold = Flag()
        self.unseen = False
        """Whether an event is on its way to the main thread."""
        self.gc_pause = GcPause()
        self.aborted: Callable[[], bool] = lambda: False
        self.outcome = "cancelled"
        self.result: Any = None
        self.sentence = ""
        self.unwanted = False

    @property
    def held(self) -> bool:
        return self.hold.is_set()


class _Named(partial):
    """A call that napari's status line can show in words."""

    title = ""

    def __repr__(self) -> str:
        return self.title


def sentence_of(error: BaseException) -> str:
    """What a person is told about an error: its own sentence, never a traceback."""
    text = " ".join(str(error).split())
    if isinstance(error, HistomixError):
        return text
    if isinstance(error, MemoryError):
        return "There is not enough memory for this; close other programs and try again."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'the disk'}."
    return f"Something unexpected went wrong ({type(error).__name__}: {text or 'nothing more is said'}); {details()}."


def _work(handle: _Handle) -> Generator[Event, None, None]:
    """Run a job; catch what it raises, pass on at most one event every ``INTERVAL``, and none before the last was seen.

    Otherwise events would pile up wherever the window needs longer for one than ``INTERVAL``. Changes that were made,
    messages and validation losses are always passed on. A paused job waits here and not in napari's own
    ``GeneratorWorker.pause``: that is blind to our Cancel, and a resume that comes before its pause took hold is lost.
    """
    job: Job[Any] | None = None
    began = time.monotonic()
    handle.gc_pause.begin()
    try:
        assert handle.make is not None
        job = handle.make()
        last, told = 0.0, ""
        while True:
            if handle.stop.is_set() or handle.aborted():
                return
            first = handle.turns.before(handle)
            if first is not None and first.title != told:
                told = first.title
                yield Event(f"Waiting for the end of {told}")
            if first is not None or handle.held:
                time.sleep(PAUSED)
                continue
            told = ""
            event = next(job)
            now = time.monotonic()
            due = now - last >= INTERVAL and not handle.unseen
            if due or event.made or event.message or "validation" in event.figures:
                last = now
                handle.unseen = True
                yield event
    except StopIteration as end:
        handle.result, handle.outcome = end.value, "finished"
    except GeneratorExit:
        raise
    except BaseException as error:
        _fail(handle, error)
    finally:
        try:
            if job is not None:
                # A training run keeps its best checkpoint here, which a full disk may refuse.
                job.close()
        except Exception as error:
            _fail(handle, error)
        handle.make = job = None
        if time.monotonic() - began > LONG:
            _give_memory_back()
        handle.turns.leave(handle)
        handle.gc_pause.end()


def _give_memory_back() -> None:
    """Let the system have what is free again: glibc keeps it, a gigabyte after a network was trained."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _fail(handle: _Handle, error: BaseException) -> None:
    if not isinstance(error, HistomixError):
        log.error("A job failed", exc_info=error)
    handle.sentence, handle.outcome = sentence_of(error), "failed"


def log_errors() -> None:
    """Have the log tell what napari shows of errors outside of jobs, where our code had a part in them."""
    notification_manager.notification_ready.connect(_log_error)


def _log_error(notification: Any) -> None:
    error = getattr(notification, "exception", None)
    if error is None or isinstance(error, HistomixError):
        return
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    if any(name.startswith("napari_histomix") for name in modules):
        log.error("The window failed", exc_info=error)


def _stop_all(handles: list[_Handle], *_: object) -> None:
    # A closing window leaves a worker where it stands: nothing in its thread may come to an end of its own.
    for handle in handles:
        handle.stop.set()
        handle.turns.leave(handle)
        handle.gc_pause.end()


class JobRunner(QObject):
    """Runs one long job at a time in a background thread; all its signals come on the main thread.

    The end of ``parent`` cancels the job; the activity dock of ``window`` shows it.
    """

    progressed = Signal(object)
    """An ``Event`` that carries changes, a message or a validation loss; of others, what the window keeps up with."""
    finished = Signal(object)
    failed = Signal(str)
    """One sentence for a person."""
    cancelled = Signal()
    running_changed = Signal(bool)
    paused_changed = Signal(bool)

    def __init__(self, parent: QObject | None = None, window: QWidget | None = None) -> None:
        super().__init__(parent)
        # Weakly: napari deletes a window by letting go of it.
        self._window = weakref.ref(window) if window is not None else None
        self._handle: _Handle | None = None
        self._worker: Any = None
        self._bar: cancelable_progress | None = None
        self._bar_time = 0.0
        self.discarded = False
        """Whether the job that came to its end last was discarded: nobody is to be asked about it."""
        self.title = ""
        """What the job that was started last is called."""
        self.said: Event | None = None
        """What the job that is under way said last, without what it had made."""
        self.turns = Turns()
        """Where its jobs take their turn; a row of its own unless it is given one that others stand in, too."""
        self._live: list[_Handle] = []
        self._next: tuple[Callable[[], Job[Any]], str] | None = None
        self._again = later(self, 0, self._start_next)
        # In a turn of its own: the last event may just have shown what was made.
        self._end = later(self, 0, self._on_end)
        self.destroyed.connect(partial(_stop_all, self._live))

    def on(self, **slots: Callable[..., Any]) -> Self:
        """Connect signals by their names, such as ``finished=show, failed=complain``; returns the runner itself."""
        for signal, slot in slots.items():
            getattr(self, signal).connect(slot)
        return self

    @property
    def running(self) -> bool:
        return self._handle is not None

    @property
    def busy(self) -> bool:
        """Whether a job is under way, or waits for the end of the one that it replaces."""
        return self.running or self._next is not None

    @property
    def paused(self) -> bool:
        return self._handle is not None and self._handle.hold.is_set()

    def start(self, make: Callable[[], Job[Any]], title: str) -> bool:
        """Start the job that ``make`` returns in a background thread; False where another is under way already.

        ``title`` is what the activity dock and the status line call it. What ``make`` holds is let go at the end.
        """
        if self.running:
            return False
        # A worker that computes in Python gives the interpreter up only when asked; every event of the window asks
        # several times. At Python's own 5 ms that adds up to a visible stutter, at 1 ms it does not.
        sys.setswitchinterval(min(sys.getswitchinterval(), 0.001))
        handle = _Handle(make, title, self.turns)
        self.turns.join(handle)
        self.title, self.said = title, None
        call = _Named(_work)
        call.title = f"HistoMix: {title}"
        worker = create_worker(call, handle, _start_thread=False)
        handle.aborted = lambda: worker.abort_requested
        worker.yielded.connect(self._on_event)
        worker.finished.connect(self._end.start)
        self._handle, self._worker = handle, worker
        self._live[:] = [handle]
        self.running_changed.emit(True)
        if self._window is not None:
            self._open_bar(title)
        worker.start()
        return True

    def replace(self, make: Callable[[], Job[Any]], title: str) -> None:
        """Start a job; one that is under way is discarded, and of several that wait only the last is started."""
        self.discard()
        self._next = make, title
        self._start_next()

    def _start_next(self) -> None:
        if self._next is not None and self.start(*self._next):
            self._next = None

    def pause(self, paused: bool = True) -> None:
        """Hold the job after its next event, or let it go on."""
        handle = self._handle
        if handle is not None and paused != self.paused and not handle.stop.is_set():
            (handle.hold.set if paused else handle.hold.clear)()
            self.paused_changed.emit(paused)

    @property
    def waiting(self) -> bool:
        """Whether the job waits for its turn."""
        return self._handle is not None and self.turns.before(self._handle) is not None

    def advance(self) -> None:
        """Have the job done first: the one whose turn it is waits."""
        if self._handle is not None:
            self.turns.advance(self._handle)

    def cancel(self) -> None:
        """Stop the job at its next event."""
        if self._handle is not None:
            self._handle.stop.set()

    def discard(self) -> None:
        """Stop the job and take nothing from it, not even a result that is ready already."""
        self._next = None
        if self._handle is not None:
            self._handle.stop.set()
            self._handle.unwanted = True

    def _on_event(self, event: Event) -> None:
        handle = self._handle
        if handle is None:
            return
        # What was made before the job heard that it is to stop is made.
        if not handle.unwanted and (event.made or not handle.stop.is_set()):
            self.said = replace(event, made=())
            self.progressed.emit(event)
            self._feed_bar(event)
        handle.unseen = False

    def _on_end(self) -> None:
        handle, self._handle, self._worker = self._handle, None, None
        if handle is None:
            return
        self._close_bar()
        self.discarded = handle.unwanted
        outcome, result = "cancelled" if handle.unwanted else handle.outcome, handle.result
        handle.make = handle.result = None
        handle.aborted = lambda: True
        self._live.clear()
        if self._next is not None:
            # Only after the signals of this end.
            self._again.start()
        self.running_changed.emit(False)
        if outcome == "finished":
            self.finished.emit(result)
        elif outcome == "failed":
            self.failed.emit(handle.sentence)
        else:
            self.cancelled.emit()

    # napari's activity dock: a QWidget, so built and fed here, on the main thread. Every update runs processEvents(),
    # so the job may end inside one: nothing is touched after it.

    def _open_bar(self, title: str) -> None:
        self._bar = cancelable_progress(total=100, desc=title, gui=True)
        self._bar_time = 0.0
        # napari's turning wheel repaints the window, canvas included, 30 times a second. Without a graphics driver that
        # takes all cores: a job that needs 5 s takes 25.
        window = self._window() if self._window is not None else None
        for label in window.findChildren(QLabel) if window is not None else ():
            if label.movie() is not None:
                label.movie().setPaused(True)

    def _feed_bar(self, event: Event) -> None:
        bar, now = self._bar, time.monotonic()
        if bar is None or now - self._bar_time < 0.25:
            return
        self._bar_time = now
        if bar.is_canceled:
            self.cancel()
            return
        value = int(100 * event.done / event.total) if event.total else 0
        if value > bar.n:
            bar.update(value - bar.n)

    def _close_bar(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            # Not from inside the bar's own update, whose processEvents() may have brought us here.
            QTimer.singleShot(0, bar.close)


def single(function: Callable[[], Any], phase: str) -> Callable[[], Job[Any]]:
    """A job of one step from a plain function, for short work that should still leave the main thread alone."""

    def job() -> Job[Any]:
        yield Event(phase)
        return function()

    return job


class GcPause:
    """While at least one of these has begun, full collections pass over what existed before.

    Walking through all of napari and torch takes half a second in which no thread moves; done in a worker's thread it
    may also destroy what belongs to the window. New garbage is still collected, old garbage when all have ended.
    """

    def begin(self) -> None:
        global _usual
        with _lock:
            if not _paused:
                gc.freeze()
                _usual = gc.get_threshold()
                gc.set_threshold(RARELY, *_usual[1:])
            _paused.add(self)

    def end(self) -> None:
        with _lock:
            if self in _paused:
                _paused.remove(self)
                if not _paused:
                    gc.set_threshold(*_usual)
                    gc.unfreeze()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()
