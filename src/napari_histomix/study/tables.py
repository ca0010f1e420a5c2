"""Candidates as a CSV table that people open in a spreadsheet, and the way back."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path

from napari_histomix.records import Candidate, HistomixError, Location

PLACE = [field.name for field in fields(Location)]
HEADER = ["rank", *PLACE, "log_likelihood", "percentile", *("donor_" + name for name in PLACE), "decision"]


def write_candidates(path: Path, candidates: Iterable[Candidate], *, replace: bool = False) -> None:
    """Write candidates by rank, with an empty ``decision`` column to fill with keep or drop: all of them, or no file.

    Raises
    ------
    HistomixError
        If the file is there already (unless ``replace``) or cannot be written.
    """
    if path.exists() and not replace:
        raise HistomixError(f"{path} already exists; name a new file.")
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(HEADER)
            for one in candidates:
                scores = f"{one.log_likelihood:.6f}", f"{one.percentile:.3f}"
                writer.writerow([one.rank, *astuple(one.target), *scores, *astuple(one.donor), ""])
        part.replace(path)
    except OSError as error:
        raise HistomixError(f"{path} could not be written ({error.strerror}); choose another place.") from None
    finally:
        part.unlink(missing_ok=True)


def read_candidates(path: Path) -> list[Candidate]:
    """Read candidates back, without those whose ``decision`` is drop.

    Raises
    ------
    HistomixError
        If the file cannot be read or is not such a table.
    """
    found = []
    ranks: set[int] = set()
    reader: csv.DictReader[str] | None = None
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if missing := sorted(set(HEADER[:-1]) - set(reader.fieldnames or ())):
                raise ValueError(f"there is no column {missing[0]!r}")
            for row in reader:
                target, donor = (_location(row, prefix) for prefix in ("", "donor_"))
                candidate = Candidate(
                    int(row["rank"]), target, donor, float(row["log_likelihood"]), float(row["percentile"])
                )
                if candidate.rank in ranks:
                    raise ValueError(f"there is another of rank {candidate.rank}")
                ranks.add(candidate.rank)
                if (row.get("decision") or "").strip().lower() != "drop":
                    found.append(candidate)
    except OSError as error:
        raise HistomixError(f"{path} cannot be read ({error.strerror}).") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise HistomixError(
            f"{path}, line {reader.line_num if reader else 1}, is not a candidate ({error}); "
            "use a file made by 'histomix candidates'."
        ) from None
    return found


def _location(row: dict[str, str], prefix: str) -> Location:
    kind = row[prefix + "kind"]
    if kind not in ("rare", "major", "background"):
        raise ValueError(f"kind {kind!r}")
    whole = {name: int(row[prefix + name]) for name in ("instance", "type", "area")}
    return Location(row[prefix + "image"], kind, float(row[prefix + "row"]), float(row[prefix + "col"]), **whole)  # type: ignore[arg-type]
