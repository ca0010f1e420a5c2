"""Where a study's images are, also after study and images moved to another machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any


def kept_root(folder: Path, root: Path) -> dict[str, str]:
    """What a study in ``folder`` keeps of where its dataset is: the path, and the way there from the study."""
    root, folder = Path(root).resolve(), Path(folder).resolve()
    kept = {"dataset_root": str(root), "dataset_from_study": ""}
    # Windows knows no way from one drive to another.
    with suppress(ValueError):
        kept["dataset_from_study"] = Path(os.path.relpath(root, folder)).as_posix()
    return kept


def find_root(folder: Path, kept: Mapping[str, Any]) -> Path:
    """Where the dataset is by what a study keeps: the way from the study first, which a copy keeps with it."""
    absolute = Path(kept["dataset_root"])
    way = kept.get("dataset_from_study", "")
    if way:
        beside = Path(os.path.normpath(Path(folder).resolve() / PurePosixPath(way)))
        if beside.is_dir():
            return beside
    return absolute
