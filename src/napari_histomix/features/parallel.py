"""One function over many items in a few threads, with the result independent of how many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None) -> list[Result]:
    """Apply ``function`` to every item and return the results in the items' order.

    OpenCV lets go of the interpreter lock, so threads use the cores without copying images between processes.
    OpenCV's own threads are left as they are: its routines do not split images as small as a patch, and setting their
    number would change it for the whole process.

    Parameters
    ----------
    function : callable
        Must depend on its item alone.
    items : sequence
    workers : int, optional
        Threads; one per core by default.

    Returns
    -------
    list
    """
    workers = min(workers or os.cpu_count() or 1, len(items))
    if workers <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))
