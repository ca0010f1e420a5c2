"""The table of candidates: which are shown at first, what was decided on each, and what runs made of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from qtpy.QtGui import QColor

from napari_histomix.records import Candidate
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.decisions import DROP, KEEP, UNDECIDED, WORDS
from napari_histomix.widgets.loading import Candidates
from napari_histomix.widgets.table_model import Column

STATES = (DROP, KEEP, UNDECIDED)
"""Decisions by their code in the table, in the order of their words."""
FIRST = 50
"""Candidates of the draw that are shown at first, beside those that were decided on."""
WIDTHS = (42, 80, 86, 66, 36, 72, 120, 100, 130)
"""Of the columns, in pixels."""
_DECISION = 5
"""Place of the column of decisions."""


def table_columns(
    candidates: Candidates, decisions: Mapping[int, str], outcomes: Mapping[int, int | str] | None = None
) -> list[Column]:
    """The columns of a table of candidates, with a code of the decision on each, and what runs made of it."""
    codes = np.full(len(candidates.items), STATES.index(UNDECIDED), np.int8)
    for state in (DROP, KEEP):
        codes[[rank for rank, decision in decisions.items() if decision == state]] = STATES.index(state)
    columns = list(candidates.columns)
    colors = [QColor("#c0392b"), QColor("#27ae60"), None]
    shown = [WORDS[state] for state in STATES]
    decision = Column("decision", "Decision", "Yours: kept, dropped or undecided.", codes, shown.__getitem__)
    decision.color = lambda rank: colors[codes[rank]]
    values = outcome_values(candidates, outcomes or {})
    outcome = Column("outcome", "Outcome", "What runs made of it: which nucleus, or why none.", values)
    outcome.hover = lambda rank: str(outcome.values[rank])
    outcome.color = lambda rank: QColor(ui.CARE) if str(outcome.values[rank]).startswith("refused") else None
    columns[_DECISION:_DECISION] = [decision, outcome]
    return columns


def outcome_values(candidates: Candidates, outcomes: Mapping[int, int | str]) -> NDArray[np.object_]:
    """What the column of outcomes says of each candidate."""
    values = np.full(len(candidates.items), "", object)
    for rank in candidates.by_hand:
        values[rank] = "placed by hand"
    for rank, outcome in outcomes.items():
        if rank < len(values):
            values[rank] = f"made as #{outcome + 1}" if isinstance(outcome, int) else f"refused: {outcome}"
    return values


def outcome_sentence(candidate: Candidate, outcome: int | str | None) -> str:
    """What became of a candidate that a person looks at; empty where nothing is to be told."""
    if isinstance(outcome, str):
        return f"A run refused it: {outcome}."
    if outcome is None and candidate.placed_by is not None:
        return f"Placed by hand{f' by {candidate.placed_by}' if candidate.placed_by else ''}; Make makes it first."
    return ""


def listed(candidates: Candidates, decisions: Mapping[int, str], first: bool) -> NDArray[np.intp]:
    """Ranks that are listed: all that are there, or the ``first`` of the draw and those that were decided on."""
    ranks = np.arange(len(candidates.items))
    if first:
        ranks = np.union1d(ranks[:FIRST], [rank for rank in decisions if rank < len(ranks)])
    undone = [rank for rank in candidates.by_hand if rank not in decisions]
    return np.setdiff1d(ranks, undone).astype(np.intp)
