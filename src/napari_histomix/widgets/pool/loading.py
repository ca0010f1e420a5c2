"""Opening a segment pool: the job that reads, and what it hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.segmentation.pool import SegmentPool, has_pool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.study.database import Claim


@dataclass(frozen=True, eq=False)
class OpenedPool:
    """A study and its pool, or the sentence why there is none that can be used."""

    study: Study
    curation: Curation | None = None
    places: NDArray[np.float32] | None = None
    problem: str = ""
    missing: bool = False
    """Whether there is no pool at all."""


def pool_job(
    study: Study | Path,
    pool: SegmentPool | None = None,
    signature: Mapping[str, Any] | None = None,
    claim: Claim | None = None,
) -> Callable[[], Job[OpenedPool]]:
    """Open a study's pool with all decisions; refuse one that was not made by ``signature``, where that is given.

    ``claim`` is the window's right to write to that folder.
    """

    def job() -> Job[OpenedPool]:
        yield Event("Opening the study")
        folder = study if isinstance(study, Path) else study.folder
        try:
            opened = Study.open(study, claim) if isinstance(study, Path) else study
            opened.hold()
            yield Event("Reading the segments")
            try:
                found = pool or SegmentPool(opened.folder)
                if signature is not None:
                    found.check(signature)
            except HistomixError as error:
                missing = not has_pool(folder)
                return OpenedPool(opened, problem=_without_path(str(error), folder), missing=missing)
            yield Event("Reading decisions")
            try:
                return OpenedPool(opened, Curation(opened, found), found.places())
            except (OSError, ValueError):
                problem = f"The segment pool in {folder.name} is damaged; build it again."
                return OpenedPool(opened, problem=problem)
        except HistomixError as error:
            raise HistomixError(_without_path(str(error), folder)) from None

    return job


def _without_path(sentence: str, folder: Path) -> str:
    return sentence.replace(str(folder), folder.name)
