"""The plain layout: ``images/``, ``labels/`` with one label image each, and a CSV that gives every nucleus its type."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from napari_histomix.datasets.entries import Problem, Row, checked_mpp, numbered_classes, palette, split_name
from napari_histomix.records import HistomixError, NucleusClass

TABLE = "types.csv"


def find_table(folder: Path) -> Path:
    """Find the CSV with the types: ``types.csv``, or the folder's only CSV.

    Raises
    ------
    HistomixError
        If there is none, or several and none of them is ``types.csv``.
    """
    tables = sorted(path for path in folder.iterdir() if path.suffix.casefold() == ".csv" and path.name[0] != ".")
    named = [path for path in tables if path.name.casefold() == TABLE]
    if named or len(tables) == 1:
        return (named or tables)[0]
    if tables:
        raise HistomixError(f"{folder} has {len(tables)} CSV files; name the one with the nucleus types {TABLE}.")
    raise HistomixError(
        f"{folder} has images and label images but nothing gives the nuclei a type; "
        f"add {TABLE} with the columns image, instance, type."
    )


def read_table(path: Path, problems: list[Problem], *, with_types: bool) -> dict[str, Row]:
    """Read a CSV about images and their nuclei; comma or semicolon, UTF-8.

    A row without instance and type speaks of its image alone. A row that cannot be right, or contradicts another,
    is reported as a problem of its image, and that image is left out of the result.

    Parameters
    ----------
    path : Path
        Columns ``image`` and, ``with_types``, ``instance`` and ``type``; optionally ``patient``, ``slide``, ``split``
        and ``mpp``.
    problems : list of Problem
        Added to.
    with_types : bool
        Whether the table must have the columns ``instance`` and ``type``.

    Returns
    -------
    dict of str to Row
        By image as written in the table, suffix included.

    Raises
    ------
    HistomixError
        If the file is not a readable CSV or lacks a needed column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise HistomixError(f"{path.name} in {path.parent} cannot be read; save it as a CSV in UTF-8.") from None
    lines = text.splitlines()
    header = lines[0] if lines else ""
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise HistomixError(f"{path.name} in {path.parent} is not a valid CSV ({error}); save it again.") from None
    needed = ("image", "instance", "type") if with_types else ("image",)
    missing = [name for name in needed if name not in reader.fieldnames]
    if missing:
        raise HistomixError(f"{path.name} in {path.parent} has no column {' and '.join(missing)}; add it.")
    drafts: dict[str, _Draft] = {}
    failed: set[str] = set()
    try:
        for cells in reader:
            row = {key: (value or "").strip() for key, value in cells.items() if isinstance(key, str)}
            image = row["image"]
            if not image or image in failed:
                continue
            sentence = drafts.setdefault(image, _Draft()).add(row)
            if sentence:
                failed.add(image)
                problems.append(Problem(image, f"{image}: {path.name}, line {reader.line_num}: {sentence}"))
    except csv.Error as error:
        raise HistomixError(f"{path.name} in {path.parent} is not a valid CSV ({error}); save it again.") from None
    return {image: draft.row() for image, draft in drafts.items() if image not in failed}


class _Draft:
    """What the rows read so far say about one image."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.types: dict[int, str] = {}

    def add(self, row: Mapping[str, str]) -> str:
        """Take one more row in; returns what is wrong with it, or an empty string."""
        for column in ("patient", "slide", "split", "mpp"):
            value = row.get(column, "")
            if column == "split":
                value = split_name(value)
            if value and self.said.setdefault(column, value) != value:
                return f"the {column} is {self.said[column]} above and {value} here; keep one."
        if self.said.get("mpp"):
            try:
                checked_mpp(self.said["mpp"], "it")
            except HistomixError as error:
                return str(error)
        instance, kind = row.get("instance", ""), row.get("type", "")
        if not instance and not kind:
            return ""
        number = whole_number(instance)
        if number is None or number < 1:
            return f"the instance {instance!r} is not a positive whole number."
        if kind and self.types.setdefault(number, kind) != kind:
            return f"instance {number} is of type {self.types[number]} above and {kind} here; keep one."
        return ""

    def row(self) -> Row:
        mpp = self.said.get("mpp")
        said = self.said
        return Row(
            said.get("patient", ""),
            said.get("slide", ""),
            said.get("split", ""),
            float(mpp) if mpp else None,
            self.types,
        )


def whole_number(text: str) -> int | None:
    """The whole number a cell holds, ``3`` or a spreadsheet's ``3.0``; None if it holds something else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def classes_of(kinds: set[str], table: Path) -> tuple[NucleusClass, ...]:
    """Classes of a table without ``type_info.json``.

    Types written as names are numbered from 1 in alphabetical order, so that the order of rows does not matter;
    types written as numbers keep them and are named "type 1", "type 2", …

    Raises
    ------
    HistomixError
        If the table mixes names and numbers.
    """
    numbers = {kind: whole_number(kind) for kind in kinds}
    found = {number for number in numbers.values() if number is not None}
    if found and len(numbers) > sum(number is not None for number in numbers.values()):
        raise HistomixError(
            f"{table.name} in {table.parent} writes some types as numbers and some as names; "
            "use one way, or add a type_info.json that lists both."
        )
    if found:
        return numbered_classes({number for number in found if number > 0})
    names: dict[str, str] = {}
    for kind in sorted(kinds):
        names.setdefault(kind.casefold(), kind)
    ordered = [names[key] for key in sorted(names)]
    return tuple(
        NucleusClass(number, name, color)
        for number, (name, color) in enumerate(zip(ordered, palette(len(ordered)), strict=True), start=1)
    )


def types_by_number(types: Mapping[int, str], classes: tuple[NucleusClass, ...]) -> dict[int, int]:
    """Class numbers of a table's types; type 0 means that the nucleus has none and is left out.

    Raises
    ------
    HistomixError
        If a type is not one of the classes.
    """
    known = {one.name.casefold(): one.number for one in classes}
    numbers = {one.number for one in classes}
    result: dict[int, int] = {}
    for instance, kind in types.items():
        number = known.get(kind.casefold(), whole_number(kind))
        if number == 0:
            continue
        if number not in numbers:
            names = ", ".join(one.name for one in classes)
            raise HistomixError(f"the type {kind!r} of instance {instance} is none of the classes ({names}).")
        result[instance] = number
    return result
