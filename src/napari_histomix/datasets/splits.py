"""The leakage guard: nothing of one patient on two sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from napari_histomix.records import HistomixError, Source


class _Entry(Protocol):
    @property
    def source(self) -> Source: ...


class _Listed(Protocol):
    @property
    def entries(self) -> Sequence[_Entry]: ...


def check_splits(dataset: _Listed) -> None:
    """Refuse a dataset whose training split shares a patient or a slide with another split.

    Raises
    ------
    HistomixError
        With the offenders.
    """
    for what in ("patient", "slide"):
        splits: dict[str, set[str]] = {}
        for source in (entry.source for entry in dataset.entries):
            if name := getattr(source, what):
                splits.setdefault(name, set()).add(source.split or "train")
        if mixed := sorted(name for name, found in splits.items() if "train" in found and len(found) > 1):
            shown = ", ".join(mixed[:10]) + (f" and {len(mixed) - 10} more" if len(mixed) > 10 else "")
            raise HistomixError(
                f"The training split shares {what}s with another split ({shown}); move each {what} to one split."
            )
