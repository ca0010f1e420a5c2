"""The log: one file that people can open, with what failed and where, and without what their data is called.

A window and the command line begin it (`begin`); in a notebook nothing is written. It holds versions, the beginnings of
programs, and errors that nobody foresaw, as places in the code. Texts of errors go through `redacted` first.
"""

from __future__ import annotations

import builtins
import getpass
import hashlib
import logging
import platform
import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import CodeType, TracebackType

from napari_histomix import __version__
from napari_histomix.preferences import user_folder
from napari_histomix.records import HistomixError

LARGEST, OLDER = 500_000, 2
"""Bytes of a log file before a new one is begun, and how many older ones stay."""

_MARK = r"<[0-9a-f]{8}(?:\.\w+)?>"
_NAMES = re.compile(
    rf"(?P<mark>{_MARK})"
    r"""
    |(?<!\w)(?P<open>['"‘“])(?P<quoted>.+?)['"’”](?!\w)
    |(?<![\w.<>/\\])(?P<absolute>(?:file:/+|[A-Za-z]:[\\/]|~[\\/]|\\\\|/(?=\w)).*)
    |(?P<file>[^\s'"(),;:=<>]*[^\s'"(),;:=<>.]\.[A-Za-z][A-Za-z0-9]{1,9}\b|[^\s'"(),;:=<>]+[\\/][^\s'"(),;:=<>]+)""",
    re.VERBOSE,
)
"""What may be a name: what is in quotation marks, a path to the end of its line, what looks like a file."""


def log_file() -> Path:
    """The file that is written to."""
    return user_folder("log") / "histomix.log"


def log_files() -> list[Path]:
    """The log files that are there, the newest first."""
    newest = log_file()
    names = [newest, *(newest.with_name(f"{newest.name}.{number}") for number in range(1, OLDER + 1))]
    return [path for path in names if path.is_file()]


def begin(what: str) -> None:
    """Write to the log from now on, if this process does not do so yet; ``what`` begins, such as "window".

    Nothing of it goes to standard error. Where the file cannot be written, there is no log: `details` says so.
    """
    logger = logging.getLogger("napari_histomix")
    wanted = str(log_file())
    for handler in list(logger.handlers):
        if isinstance(handler, _LogFile):
            if handler.baseFilename == wanted:
                return
            logger.removeHandler(handler)
            handler.close()
    try:
        log_file().parent.mkdir(parents=True, exist_ok=True)
        made = _LogFile(wanted)
    except OSError:
        # Without any handler logging would write to standard error.
        logger.addHandler(logging.NullHandler())
        return
    logger.addHandler(made)
    logger.setLevel(logging.INFO)
    logger.info("%s: napari-histomix %s, Python %s, %s", what, __version__, platform.python_version(), sys.platform)


def details() -> str:
    """Where the details of an error are, as the end of a sentence that a person reads."""
    handlers = logging.getLogger("napari_histomix").handlers
    if written := next((handler.baseFilename for handler in handlers if isinstance(handler, _LogFile)), None):
        return f"the details are in {written}"
    return f"no details were kept, as {log_file()} cannot be written"


class _LogFile(RotatingFileHandler):
    """The handler of the file; a disk that is full must not add an error to an error."""

    def __init__(self, name: str) -> None:
        super().__init__(name, maxBytes=LARGEST, backupCount=OLDER, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""


class _Formatter(logging.Formatter):
    """Lines without names of a person's files; errors as places in the code."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, and below it the error where there is one."""
        message = redacted(record.getMessage())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message}"
        error = record.exc_info[1] if record.exc_info else None
        return line if error is None else f"{line}\n{described(error)}"


def described(error: BaseException) -> str:
    """An error and what caused it: modules, lines and functions, and its text without names; of our own only places."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        # Our own sentences are for people, and name their files.
        said = "" if isinstance(current, HistomixError) else redacted(str(current), _words(current.__traceback__))
        lines = [
            f"  {frame.f_globals.get('__name__', '?')}:{number} in {frame.f_code.co_name}"
            for frame, number in traceback.walk_tb(current.__traceback__)
        ]
        parts.append("\n".join([*lines, f"{type(current).__qualname__}{f': {said}' if said else ''}"]))
        hidden = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or hidden
    return "\ncaused by\n".join(parts)


def redacted(text: str, known: Collection[str] = ()) -> str:
    """A text without the names of files, folders, persons and machines; marks made of their hash stand for them.

    Words in quotation marks stay where they are ``known`` or Python's own.
    """

    def replaced(found: re.Match[str]) -> str:
        whole, quoted = found[0], found["quoted"]
        if quoted:
            keeps = quoted in known or hasattr(builtins, quoted) or re.fullmatch(_MARK, quoted)
            return whole if keeps else f"{whole[0]}{mark(quoted)}{whole[-1]}"
        module = found["file"] is not None and whole.split(".")[0] in sys.modules
        return whole if found["mark"] or module else mark(whole)

    return _NAMES.sub(replaced, without_names(text))


def without_names(text: str, names: Collection[str] = ()) -> str:
    """A text with marks in place of some names, the person's and the machine's own among them, wherever they stand."""
    for name in sorted({*names, *_own_names()}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", mark(name), text)
    return text


def mark(name: str) -> str:
    """What stands for a name: the same for the same name; a file keeps its suffix."""
    suffix = re.search(r"\.[A-Za-z0-9]{1,5}$", name)
    return f"<{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}{suffix[0] if suffix else ''}>"


def _own_names() -> Iterator[str]:
    """Names of the person and the machine."""
    with suppress(Exception):
        yield from (name for name in (getpass.getuser(), platform.node()) if len(name) > 2 and name != "root")


def _words(trace: TracebackType | None) -> set[str]:
    """Words of the code of packages that an error came through: its names and the texts in it."""
    words: set[str] = set()
    for frame, _ in traceback.walk_tb(trace):
        code: CodeType = frame.f_code
        # A person's own script may name their files.
        if frame.f_globals.get("__name__") != "__main__":
            texts = (text for text in code.co_consts if isinstance(text, str) and re.fullmatch(r"[\w-]+", text))
            words.update(code.co_names, code.co_varnames, texts)
    return words
