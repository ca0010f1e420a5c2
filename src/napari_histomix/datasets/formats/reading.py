"""JSON and XML files that somebody else wrote: read within limits, or refused in a sentence."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from napari_histomix.records import HistomixError

MAX_PIXELS = 2**26
"""Pixels of the largest image that is read, 8,192 squared: decoding and counting take seconds, and less than 2 GB."""

MAX_JSON = 96 * 2**20
"""Bytes of a JSON file: Python needs up to thirty times as much memory for what is in it."""

MAX_XML = 48 * 2**20
"""Bytes of an XML file, which takes up to fifty times as much memory."""

_lock = Lock()
_readers, _collecting = 0, True
_LOOKED_AT = 20
"""Files that are looked into to recognize a format: one that is damaged should not hide the others."""


def check_size(shape: tuple[int, int], name: str) -> None:
    """Refuse an image that is too large to be worked on, before memory is taken for it.

    Raises
    ------
    HistomixError
        If it has more than `MAX_PIXELS` pixels, or none.
    """
    rows, cols = shape
    if rows < 1 or cols < 1:
        raise HistomixError(f"{name} has no pixels; export it again.")
    if rows * cols > MAX_PIXELS:
        raise HistomixError(
            f"{name} has {cols}×{rows} pixels and at most {MAX_PIXELS:,} are read; cut it into smaller images."
        )


def begins_with(paths: Iterable[Path], mark: re.Pattern[bytes], size: int = 4096) -> bool:
    """Whether the beginning of any of the first files holds a mark, by which a format is recognized."""
    for path in sorted(paths)[:_LOOKED_AT]:
        with path.open("rb") as stream:
            if mark.search(stream.read(size)):
                return True
    return False


def whole_id(text: str) -> int:
    """The id of an instance as a file writes it, a whole number from 1 to 2³¹ − 1; 0 if it is none."""
    number = int(text) if text.isdecimal() and len(text) <= 10 else 0
    return number if number < 2**31 else 0


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file.

    Raises
    ------
    HistomixError
        If it is missing, cannot be read, or is larger than ``limit`` bytes.
    """
    try:
        if not path.is_file():
            raise HistomixError(f"{path.name} is no longer there; put it back or open the dataset again.")
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise HistomixError(
            f"{path.name} cannot be read ({error.strerror or error}); check that you may open it."
        ) from None
    if len(content) > limit:
        raise HistomixError(f"{path.name} is larger than {limit >> 20} MB, too large to be read; split it.")
    return content


def read_json(path: Path, limit_bytes: int = MAX_JSON, *, not_a_number: bool = False) -> Any:
    """Read a JSON file in UTF-8.

    Parameters
    ----------
    path : Path
    limit_bytes : int
        A larger file is refused unread.
    not_a_number : bool
        Whether NaN and Infinity, which are not JSON, are read as Python writes and reads them.

    Raises
    ------
    HistomixError
        If the file is missing, too large, not UTF-8 or not JSON, or nested too deeply.
    """

    def refuse(word: str) -> float:
        raise ValueError(f"{word} is no number in JSON")

    content = read_bytes(path, limit_bytes)
    try:
        text = content.decode("utf-8-sig")
        with _uncollected():
            return json.loads(text) if not_a_number else json.loads(text, parse_constant=refuse)
    except UnicodeDecodeError:
        reason = ": it is not UTF-8 text"
    except RecursionError:
        reason = ": it is nested too deeply"
    except json.JSONDecodeError as error:
        reason = f" at line {error.lineno}"
    except ValueError as error:  # numbers of thousands of digits, and what is no number
        reason = f" ({str(error).partition(';')[0]})"
    raise HistomixError(f"{path.name} in {path.parent} is not valid JSON{reason}; mend it or export it again.")


def read_xml(path: Path, limit_bytes: int = MAX_XML) -> ElementTree.Element:
    """Read an XML file without a document type, so without entities that grow or reach for other files.

    Raises
    ------
    HistomixError
        If the file is missing, too large, not valid XML, or declares a document type.
    """
    content = read_bytes(path, limit_bytes)
    try:
        _check_prolog(content, path.name)
        with _uncollected():
            return ElementTree.fromstring(content)
    except (ElementTree.ParseError, expat.ExpatError) as error:
        place = f" at line {error.position[0]}" if isinstance(error, ElementTree.ParseError) else ""
        raise HistomixError(f"{path.name} is not valid XML{place}; export it again.") from None
    except (ValueError, LookupError):
        # An encoding that Python does not know, or not as one for XML.
        raise HistomixError(f"{path.name} is in an encoding that cannot be read; save it as UTF-8.") from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collections meanwhile: over the millions of new objects of a large file they take most of the time."""
    global _readers, _collecting
    with _lock:
        if _readers == 0:
            _collecting = gc.isenabled()
            gc.disable()
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0 and _collecting:
                gc.enable()


class _BegunError(Exception):
    """The document's own element was reached."""


def _check_prolog(content: bytes, name: str) -> None:
    """Refuse a document type, which can only stand before the first element."""

    def refuse(*_: object) -> None:
        raise HistomixError(f"{name} declares a document type (DOCTYPE), which is not read; remove it.")

    def begin(*_: object) -> None:
        raise _BegunError

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = begin
    try:
        parser.Parse(content, True)
    except _BegunError:
        return
