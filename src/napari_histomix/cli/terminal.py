"""What a command has to do with its process: signals that end it, and streams that may not take what it says.

This loads nothing but small modules of the standard library.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a command in good order."""
CANCELLED = 128 + signal.SIGINT
"""Exit code after Ctrl-C: that of a process which SIGINT ends."""
CLOSED = 128 + 13
"""Exit code where nobody reads the output any more: that of a process which SIGPIPE ends."""
CANCELLED_WORDS = "Cancelled."

_GONE = {errno.EPIPE, errno.EIO, errno.ESHUTDOWN, *((errno.EINVAL,) if os.name == "nt" else ())}
"""Errors of a stream whose other end is gone."""

_PLAIN = {"█": "#", "→": "->", "…": "...", "µ": "u", "μ": "u", "×": "x", "–": "-", "—": "-", "≥": ">=", "≤": "<="}
"""What stands for characters that a terminal's encoding does not have; others become a question mark."""


class Stopped(KeyboardInterrupt):
    """A signal asked for the end; ``code`` is the exit code that tells so."""

    def __init__(self, number: int) -> None:
        super().__init__(CANCELLED_WORDS)
        self.code = 128 + number


class StreamError(Exception):
    """Output could not be written; ``closed`` where nobody reads it any more."""

    def __init__(self, sentence: str, closed: bool) -> None:
        super().__init__(sentence)
        self.closed = closed


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, be it right or wrong; argparse takes the beginning of an option as well."""
    options = words[: words.index("--")] if "--" in words else words
    return any(len(word) > 2 and "--json".startswith(word) for word in options)


class _Signals:
    """While a command runs: a signal becomes `Stopped`, or ends the process at once where nothing is at stake."""

    def __init__(self) -> None:
        self.stopped: Stopped | None = None
        self._json = self._working = False
        self._before: dict[int, Any] = {}

    def take(self, json: bool) -> None:
        self.stopped, self._json, self._working = None, json, False
        if threading.current_thread() is not threading.main_thread():
            return
        # A process that is told to ignore a signal goes on ignoring it.
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, before in self._before.items():
            if before not in (signal.SIG_IGN, None):
                signal.signal(number, self._handle)

    def give_back(self, whole_process: bool) -> None:
        for number, before in self._before.items():
            if before is not None:
                # What is said and done is not unsaid while Python tidies up.
                signal.signal(number, signal.SIG_IGN if whole_process else before)
        self._before = {}

    def work(self) -> None:
        """All is loaded: from now on a signal lets the work be left in good order."""
        self._working = True

    def _handle(self, number: int, _: object) -> None:
        if not self._working or self.stopped is not None:
            # A module that is half loaded may take an exception for its own, and a second signal means now.
            if self._json:
                _write_at_once(1, f'{{"error": "{CANCELLED_WORDS}"}}\n')
            _write_at_once(2, f"histomix: {CANCELLED_WORDS}\n")
            os._exit(128 + number)
        self.stopped = Stopped(number)
        raise self.stopped

    def check(self) -> None:
        """Raise `Stopped` again where something on the way took it for its own."""
        if self.stopped is not None:
            raise self.stopped


signals = _Signals()
"""Those of this process."""


def _write_at_once(file: int, text: str) -> None:
    with suppress(OSError):
        os.write(file, text.encode())


@contextmanager
def taken(words: Sequence[str], *, whole_process: bool) -> Iterator[None]:
    """While a command runs: signals end it in good order, and streams take every character.

    After the ``whole_process`` they stay so until Python has tidied up.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = _without_stopped(hook)
    signals.take(wants_json(words))
    try:
        _prepare_streams()
        yield
    finally:
        # Raised in a callback of Python's own, it could not leave that; the command was told by `check`.
        if not whole_process:
            sys.unraisablehook = hook
        signals.give_back(whole_process)


def _without_stopped(hook: Callable[[Any], object]) -> Callable[[Any], None]:
    def report(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            hook(unraisable)

    return report


def _prepare_streams() -> None:
    codecs.register_error("histomix", _replaced)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed before the process began; print would take the other one.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="histomix")


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written for characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def write(stream: TextIO, *lines: str) -> None:
    """Write lines; StreamError where the stream does not take them."""
    try:
        for line in lines:
            print(line, file=stream, flush=True)
    except OSError as error:
        raise _refusal(stream, error) from None


def write_json(content: Mapping[str, Any]) -> None:
    """Write a line of JSON to standard output, whose encoding may hold plain letters alone."""
    import json

    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content)
    write(sys.stdout, text)


def flush() -> None:
    """Write what streams still hold; StreamError where one does not take it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            raise _refusal(stream, error) from None


def _refusal(stream: TextIO, error: OSError) -> StreamError:
    _mute(stream)
    what = "Standard output" if stream is sys.stdout else "Standard error"
    sentence = f"{what} cannot be written ({error.strerror or error}); free space, or send it elsewhere."
    return StreamError(sentence, error.errno in _GONE)


def _mute(stream: TextIO) -> None:
    """Let what a stream holds and will be told go nowhere: Python tries again at its end, and complains."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
