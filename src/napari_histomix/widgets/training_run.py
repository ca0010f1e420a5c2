"""Training as the dock asks for it, and what it left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Event, Job
from napari_histomix.widgets.preload import prepare_torch
from napari_histomix.widgets.tissue import Source


def training_job(kind: str, gather: Callable[[], Sequence[Source]], out: Path, **how: Any) -> Callable[[], Job[Path]]:
    """Train as the dock asks; ``how`` has minutes and seed, and the keywords of ``diffusion.training.train``."""
    minutes, seed = how.pop("minutes"), how.pop("seed")

    def job() -> Job[Path]:
        prepare_torch()
        yield Event("Preparing")
        from napari_histomix.diffusion.training import DEFAULTS, train

        # Whoever watches wants a first sample soon; a checkpoint costs seconds.
        save_minutes = min(max(minutes / 10, 0.5), 2.0)
        settings = replace(DEFAULTS[kind], minutes=minutes, seed=seed, save_minutes=save_minutes)  # type: ignore[index]
        return (yield from train(kind, gather(), out, settings=settings, **how))  # type: ignore[arg-type]

    return job


def read_history(out: Path | None) -> dict[str, Any] | None:
    """The card of a trained model with its ``history`` and ``best``; None where there is none."""
    if out is None:
        return None
    try:
        card = json.loads((out / "histomix.json").read_text(encoding="utf-8"))
        return card if {"history", "best"} <= card.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def first_rows(sheet: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """The rows of a contact sheet of square windows that fit into three quarters of its width, at least one."""
    side = sheet.shape[1] // columns
    rows = max(int(0.75 * sheet.shape[1]) // side, 1)
    return sheet[: rows * side]
