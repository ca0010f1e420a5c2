"""Tables in CSV files: read as spreadsheets save them, written in one way."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_histomix.datasets.formats.reading import read_bytes
from napari_histomix.records import HistomixError

_MAX_TABLE = 2**28
"""Bytes of a table that is read."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it was read.

    Parameters
    ----------
    path : Path
    columns : frozenset of str
        In lower case.
    rows : tuple of (int, dict of str to str)
        Number of the line that a row ends in, and its cells by column, without spaces around them; rows whose cells
        are all empty are left out.
    """

    path: Path
    columns: frozenset[str]
    rows: tuple[tuple[int, dict[str, str]], ...]

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
    """Read a CSV file in UTF-8, with or without a byte order mark, separated by commas or semicolons.

    Parameters
    ----------
    path : Path
    *columns : str
        Columns that it must have, in lower case.

    Returns
    -------
    Table

    Raises
    ------
    HistomixError
        If the file cannot be read, is no CSV, or lacks one of the columns.
    """
    try:
        text = read_bytes(path, _MAX_TABLE).decode("utf-8-sig")
    except (UnicodeDecodeError, HistomixError):
        raise HistomixError(f"{path.name} in {path.parent} cannot be read; save it as a CSV in UTF-8.") from None
    header = text.partition("\n")[0]
    # Not line by line: a cell in quotes may hold a line break.
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in header and "," not in header else ","
    )
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


def whole_number(text: str) -> int | None:
    """The whole number a cell holds, ``3`` or a spreadsheet's ``3.0``; None if it holds something else."""
    try:
        value = float(text)
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
    """Write a CSV file complete or not at all.

    Raises
    ------
    HistomixError
        If the file is there already (unless ``replace``) or cannot be written.
    """
    if path.exists() and not replace:
        raise HistomixError(f"{path} already exists; name a new file.")
    part = path.with_name(f".{path.name}.part")
    try:
        write_table(part, header, rows)
        part.replace(path)
    except OSError as error:
        raise HistomixError(
            f"{path} could not be written ({error.strerror or error}); free space or choose another place."
        ) from None
    finally:
        part.unlink(missing_ok=True)
