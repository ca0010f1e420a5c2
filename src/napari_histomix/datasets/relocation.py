"""Where a dataset lies, as seen from what was made of it: written down without telling where on the disk that is."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from napari_histomix.datasets.sample import sample_folder

HOMES = ("home", "users")
"""Folders that people's own folders lie in."""
BUNDLED = "histomix:sample"
"""Stands for the bundled sample, wherever the package is installed."""


def way_to(root: Path, folder: Path) -> str:
    """The way from a folder to a dataset's root, for a file in that folder; empty where it may not be told.

    It is relative, and it is not told where it would pass through a person's own folder: exports travel, and such a way
    names people.
    """
    root, folder = Path(root).resolve(), Path(folder).resolve()
    if root == sample_folder():
        return BUNDLED
    try:
        shared, way = Path(os.path.commonpath([root, folder])), Path(os.path.relpath(root, folder))
    except ValueError:  # Windows knows no way from one drive to another
        return ""
    passed = {part.casefold() for part in (shared.name, *way.parts)}
    personal = passed & set(HOMES) or Path.home().name.casefold() in passed - {shared.name.casefold()}
    return "" if personal else way.as_posix()


def dataset_at(way: object, folder: Path) -> Path | None:
    """The folder that ``way_to`` led to from ``folder``; None where no way was told, or there is nothing any more."""
    if way == BUNDLED:
        return sample_folder()
    if (
        not isinstance(way, str)
        or not way
        or "\0" in way
        or PurePosixPath(way).is_absolute()
        or Path(way).is_absolute()
    ):
        return None
    found = Path(os.path.normpath(Path(folder).resolve() / PurePosixPath(way)))
    return found if found.is_dir() else None
