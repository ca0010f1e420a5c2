"""Candidates and changes as tables: what the table view, the Points layers and the summaries read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histomix.records import Candidate, Change

UNDECIDED = "undecided"
KEEP, DROP = "keep", "drop"
APPROVE, REJECT, DELETE = "approve", "reject", "delete"
WORDS = {
    KEEP: "kept",
    DROP: "dropped",
    APPROVE: "approved",
    REJECT: "rejected",
    DELETE: "deleted",
    UNDECIDED: UNDECIDED,
}
"""What a decision is called on the screen."""


def candidate_frame(candidates: Sequence[Candidate], class_name: Callable[[int], str]) -> pd.DataFrame:
    """One row for each candidate, in order of rank.

    Columns: rank, image, row, col, kind, type (name of the class replaced, or "background"), log_likelihood,
    percentile, donor (its image and instance id). Takes a while for tens of thousands: not for the main thread.
    """
    names: dict[int, str] = {}

    def named(number: int) -> str:
        if number not in names:
            names[number] = class_name(number) if number else "background"
        return names[number]

    return pd.DataFrame(
        {
            "rank": np.array([one.rank for one in candidates], dtype=np.int64),
            "image": np.array([one.target.image for one in candidates], dtype=object),
            "row": np.array([one.target.row for one in candidates], dtype=float),
            "col": np.array([one.target.col for one in candidates], dtype=float),
            "kind": np.array([one.target.kind for one in candidates], dtype=object),
            "type": np.array([named(one.target.type) for one in candidates], dtype=object),
            "log_likelihood": np.array([one.log_likelihood for one in candidates], dtype=float),
            "percentile": np.array([one.percentile for one in candidates], dtype=float),
            "donor": np.array([f"{one.donor.image} #{one.donor.instance}" for one in candidates], dtype=object),
        }
    )


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """A candidate frame made ready for sorting and filtering; takes a while too.

    ``columns`` holds what a cell shows, ``keys`` numbers in the order of each column, ``text`` (N,) what a search
    looks through, in lower case.
    """

    columns: dict[str, list[Any]]
    keys: dict[str, NDArray[Any]]
    text: NDArray[Any]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Self:
        """The rows of a frame; row i has rank i."""
        columns, keys = {}, {}
        for name in ("rank", "image", "kind", "type", "percentile", "log_likelihood", "donor"):
            values = frame[name].to_numpy()
            columns[name] = values.tolist()
            keys[name] = values if values.dtype != object else pd.factorize(values, sort=True)[0]
        joined = frame["image"] + " " + frame["kind"] + " " + frame["type"] + " " + frame["donor"]
        return cls(columns, keys, joined.str.casefold().to_numpy(dtype=object))

    def __len__(self) -> int:
        return len(self.text)


def change_frame(
    changes: Sequence[Change], decisions: Mapping[int, str], class_name: Callable[[int], str]
) -> pd.DataFrame:
    """One row for each change in place: number, class, replaced, fit, donor, method, seed, decision."""
    donors = [change.donor for change in changes]
    return pd.DataFrame(
        {
            "number": [change.id for change in changes],
            "class": [", ".join(map(class_name, dict.fromkeys(change.added.values()))) for change in changes],
            "replaced": [", ".join(map(str, change.removed)) for change in changes],
            "fit": [change.score for change in changes],
            "donor": [f"{donor.image} #{donor.item}" if donor is not None else "" for donor in donors],
            "method": [change.method for change in changes],
            "seed": [str(change.seed) for change in changes],
            "decision": [WORDS[decisions.get(change.id, UNDECIDED)] for change in changes],
        }
    )
