"""CSV, JSON and XML files: read within limits, whoever wrote them, or refused in a sentence; tables are written."""

from __future__ import annotations

import csv
import gc
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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

_MAX_TABLE = 2**28
_LOOKED_AT = 20
"""Files that are looked into to recognize a format: one that is damaged should not hide the others."""

_DECLARATION = 200
"""Bytes in which an XML file says its encoding."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
_GZIP_BITS = 16 + zlib.MAX_WBITS
_PIECE = 64
"""Bytes that are unpacked at a time where what comes before some damage is to be seen."""

_lock = Lock()
_readers, _collecting = 0, True


def check_size(shape: tuple[int, int], name: str) -> None:
    """Refuse an image that is too large to be worked on, before memory is taken for it."""
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
            head = stream.read(size)
        if head.startswith(_GZIP):
            head = _inflated(head, size)
        if head.startswith(_UTF_16):
            head = decoded(head).encode()
        if mark.search(head):
            return True
    return False


def about(name: str, error: HistomixError) -> str:
    """What is wrong, with the name of an image or a file in front where the sentence does not begin with it."""
    sentence = str(error)
    return sentence if sentence.startswith(name) else f"{name}: {sentence}"


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a name in front of errors; see ``about``."""
    try:
        yield
    except HistomixError as error:
        raise HistomixError(about(name, error)) from None


@contextmanager
def readable(name: Path | str) -> Iterator[None]:
    """Say in a sentence what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise HistomixError(f"{name} cannot be read ({error.strerror or error}); check that you may open it.") from None


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say in a sentence what the disk refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise HistomixError(f"{path} could not be written ({reason}); free space or choose another place.") from None


def gone(name: str) -> HistomixError:
    """The error about a file that was there when its dataset was opened."""
    return HistomixError(f"{name} is no longer there; put it back or open the dataset again.")


def whole_id(text: str) -> int:
    """The id of an instance as a file writes it, a whole number from 1 to 2³¹ − 1; 0 if it is none."""
    number = int(text) if text.isdecimal() and len(text) <= 10 else 0
    return number if number < 2**31 else 0


def _inflated(content: bytes, size: int) -> bytes:
    """The first bytes, ``size`` at most, of what is in gzip's format, as far as it is whole."""
    packed, found = zlib.decompressobj(_GZIP_BITS), b""
    with suppress(zlib.error):
        for start in range(0, len(content), _PIECE):
            found += packed.decompress(content[start : start + _PIECE], size)
            if len(found) >= size:
                break
    return found[:size]


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file."""
    with readable(path.name):
        if not path.is_file():
            raise gone(path.name)
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    if len(content) > limit:
        raise HistomixError(f"{path.name} is larger than {limit >> 20} MB, too large to be read; split it.")
    return content


def read_unpacked(path: Path, limit: int) -> bytes:
    """The content of a file, unpacked where gzip has packed it; ``limit`` holds for either."""
    content = read_bytes(path, limit)
    if not content.startswith(_GZIP):
        return content
    packed = zlib.decompressobj(_GZIP_BITS)
    try:
        content = packed.decompress(content, limit + 1)
    except zlib.error:
        raise HistomixError(f"{path.name} is damaged: gzip cannot unpack it; copy or export it again.") from None
    if len(content) > limit:
        raise HistomixError(f"{path.name} holds more than {limit >> 20} MB, too much to be read; split it.")
    if not packed.eof:
        raise HistomixError(f"{path.name} is cut off: gzip finds no end in it; copy or export it again.")
    return content


def decoded(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with its byte order mark, or in what Windows used before (cp1252, else Latin-1)."""
    if content.startswith(_UTF_16):
        return content.decode("utf-16", "replace")
    for encoding in ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return content.decode("latin-1")


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_json(path: Path, limit_bytes: int = MAX_JSON, *, not_a_number: bool = False) -> Any:
    """Read a JSON file in UTF-8, or in what Windows used before."""

    def refuse(word: str) -> float:
        raise ValueError(f"{word} is no number in JSON")

    content = read_unpacked(path, limit_bytes)
    try:
        text = content.decode("utf-8-sig") if content.startswith(_UTF_16) else decoded(content)
        with uncollected():
            return json.loads(text) if not_a_number else json.loads(text, parse_constant=refuse)
    except UnicodeDecodeError:
        reason = ": it is not UTF-8 text"
    except RecursionError:
        reason = ": it is nested too deeply"
    except json.JSONDecodeError as error:
        reason = f" at line {error.lineno}" if _is_utf_8(content) else ": it is not UTF-8 text"
    except ValueError as error:  # numbers of thousands of digits, and what is no number
        reason = f" ({str(error).partition(';')[0]})"
    raise HistomixError(f"{path.name} in {path.parent} is not valid JSON{reason}; mend it or export it again.")


def read_xml(path: Path, limit_bytes: int = MAX_XML) -> ElementTree.Element:
    """Read an XML file without a document type, so without entities that grow or reach for other files."""
    content = read_unpacked(path, limit_bytes)
    if not content.startswith(_UTF_16) and b"encoding" not in content[:_DECLARATION]:
        # Without a declaration it should be UTF-8, and is not where Windows programs write accents.
        content = decoded(content).encode()
    try:
        _check_prolog(content, path.name)
        with uncollected():
            return ElementTree.fromstring(content)
    except (ElementTree.ParseError, expat.ExpatError) as error:
        place = f" at line {error.position[0]}" if isinstance(error, ElementTree.ParseError) else ""
        raise HistomixError(f"{path.name} is not valid XML{place}; export it again.") from None
    except (ValueError, LookupError):
        # An encoding that Python does not know, or not as one for XML.
        raise HistomixError(f"{path.name} is in an encoding that cannot be read; save it as UTF-8.") from None


@contextmanager
def uncollected() -> Iterator[None]:
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


def _check_prolog(content: bytes, name: str) -> None:
    """Refuse a document type, which can only stand before the first element."""

    def refuse(*_: object) -> None:
        raise HistomixError(f"{name} declares a document type (DOCTYPE), which is not read; remove it.")

    def begin(*_: object) -> None:
        # The document's own element is reached.
        raise StopIteration

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = begin
    with suppress(StopIteration):
        parser.Parse(content, True)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it was read."""

    path: Path
    columns: frozenset[str]  # in lower case
    rows: tuple[tuple[int, dict[str, str]], ...]  # the line that a row ends in, its cells by column; none is all empty

    @property
    def where(self) -> str:
        """Name and folder, for messages."""
        return f"{self.path.name} in {self.path.parent}"

    def missing(self, *columns: str) -> list[str]:
        """Those of these columns that it does not have."""
        return [name for name in columns if name not in self.columns]

    def require(self, *columns: str) -> None:
        """Raise HistomixError if one of these columns is missing."""
        if missing := self.missing(*columns):
            raise HistomixError(f"{self.where} has no column {' and '.join(missing)}; add it.")


def read_table(path: Path, *columns: str) -> Table:
    """Read a CSV file, separated by commas, semicolons or tabs, in any encoding that spreadsheets write."""
    if not path.exists():
        raise HistomixError(f"{path} is not there; name a CSV file.")
    try:
        text = decoded(read_bytes(path, _MAX_TABLE))
    except HistomixError:
        raise HistomixError(f"{path.name} in {path.parent} cannot be read; save it as a CSV in UTF-8.") from None
    if "\0" in text:
        raise HistomixError(f"{path.name} in {path.parent} is no text; save it as a CSV in UTF-8.")
    header = text.lstrip().partition("\n")[0]
    # Not line by line: a cell in quotes may hold a line break.
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
        for cells in reader:
            row = {key: (value or "").strip() for key, value in cells.items() if isinstance(key, str)}
            if any(row.values()):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise HistomixError(f"{path.name} in {path.parent} is not a valid CSV ({error}); save it again.") from None
    table = Table(path, frozenset(reader.fieldnames), tuple(rows))
    table.require(*columns)
    return table


def has_columns(path: Path, *columns: str) -> bool:
    """Whether a file is a table with these columns; one that cannot be read has none."""
    try:
        return not read_table(path).missing(*columns)
    except HistomixError:
        return False


def whole_number(text: str) -> int | None:
    """The whole number a cell holds, ``3`` or a spreadsheet's ``3.0`` or ``3,0``; None if it holds something else."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in UTF-8 with plain line ends, into a folder that is there."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_new_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], *, replace: bool = False) -> None:
    """Write a CSV file complete or not at all."""
    if path.exists() and not replace:
        raise HistomixError(f"{path} already exists; name a new file.")
    part = path.with_name(f".{path.name}.part")
    try:
        with writable(path):
            write_table(part, header, rows)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
