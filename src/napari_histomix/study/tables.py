"""Candidates as a CSV table that people open in a spreadsheet, and the way back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, fields, replace
from pathlib import Path

from napari_histomix.datasets.text_files import read_table, write_new_table
from napari_histomix.records import Candidate, HistomixError, Location
from napari_histomix.study.decision_log import DECISIONS, Entry

PLACE = [field.name for field in fields(Location)]
HEADER = ["rank", *PLACE, "log_likelihood", "percentile", *("donor_" + name for name in PLACE), "decision"]


def write_candidates(path: Path, candidates: Iterable[Candidate], *, replace: bool = False) -> None:
    """Write candidates by rank, with an empty ``decision`` column to fill with keep or drop: all of them, or no file.

    Raises HistomixError if the file is there already (unless ``replace``) or cannot be written.
    """
    rows = (
        [
            candidate.rank,
            *astuple(candidate.target),
            f"{candidate.log_likelihood:.6f}",
            f"{candidate.percentile:.3f}",
            *astuple(candidate.donor),
            "",
        ]
        for candidate in candidates
    )
    write_new_table(path, HEADER, rows, replace=replace)


def read_candidates(path: Path) -> tuple[list[Candidate], list[Entry]]:
    """Read candidates back by rank, and what the ``decision`` of each says; HistomixError if that is not such a table.

    All ranks from 0 are there: where lines were deleted, those behind them are numbered anew.
    """
    table = read_table(path)
    if missing := table.missing(*HEADER[:-1]):
        raise _not_a_candidate(path, 1, f"there is no column {missing[0]!r}")
    read: dict[int, tuple[Candidate, str]] = {}
    for line, cells in table.rows:
        try:
            target, donor = (_location(cells, prefix) for prefix in ("", "donor_"))
            scores = float(cells["log_likelihood"]), float(cells["percentile"])
            candidate = Candidate(int(cells["rank"]), target, donor, *scores)
            if candidate.rank in read:
                raise ValueError(f"there is another of rank {candidate.rank}")
        except ValueError as error:
            raise _not_a_candidate(path, line, error) from None
        read[candidate.rank] = candidate, cells.get("decision", "").casefold()
    candidates: list[Candidate] = []
    decisions: list[Entry] = []
    for rank, known in enumerate(sorted(read)):
        candidate, decision = read[known]
        candidates.append(replace(candidate, rank=rank))
        if decision in DECISIONS["candidate"]:
            decisions.append(("candidate", rank, decision))
    return candidates, decisions


def _not_a_candidate(path: Path, line: int, reason: object) -> HistomixError:
    return HistomixError(
        f"{path}, line {line}, is not a candidate ({reason}); use a file made by 'histomix candidates'."
    )


def _location(row: dict[str, str], prefix: str) -> Location:
    kind = row[prefix + "kind"]
    if kind not in ("rare", "major", "background"):
        raise ValueError(f"kind {kind!r}")
    whole = {name: int(row[prefix + name]) for name in ("instance", "type", "area")}
    return Location(row[prefix + "image"], kind, float(row[prefix + "row"]), float(row[prefix + "col"]), **whole)  # type: ignore[arg-type]
