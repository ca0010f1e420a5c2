"""Masks as short text: COCO's compressed run lengths, which pycocotools and most tools for instance masks read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import HistomixError

LARGEST = 2**28
"""Pixels of a mask that is read; a few characters could ask for more memory than there is."""

_MOST_BITS = 40
"""Bits of one run length: without an end, each character would take longer than the one before it."""


def mask_text(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (h, w) as ``{"size": [h, w], "counts": "…"}``, plain JSON values.

    The counts are the lengths of runs of 0 and 1 in turn, column by column, from the third on as the difference to the
    one before the last, in groups of five bits (COCO API, ``rleToString``).
    """
    flat = np.concatenate([[False], np.asarray(mask, bool).ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    # A mask that ends in 1 would get an empty run of 0 at its end.
    if len(lengths) > 1 and lengths[-1] == 0:
        lengths.pop()
    text = []
    for place, length in enumerate(lengths):
        value = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + (bits | 32 if more else bits)))
    return {"size": list(mask.shape), "counts": "".join(text)}


def mask_of(text: Any) -> NDArray[np.bool_]:
    """The mask (h, w) of what ``mask_text`` writes.

    Raises
    ------
    HistomixError
        If it is something else, or the runs do not fill the mask.
    """
    try:
        height, width = (int(side) for side in text["size"])
        lengths = lengths_of(str(text["counts"]))
    except (KeyError, TypeError, ValueError):
        raise HistomixError("A mask is not written as COCO's run lengths; write it again.") from None
    if min(height, width, *lengths) < 0 or height * width > LARGEST or sum(lengths) != height * width:
        raise HistomixError("The run lengths of a mask do not fill its size; write it again.")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape((height, width), order="F")


def lengths_of(text: str) -> list[int]:
    """The run lengths of the text in ``counts``, of 0 and 1 in turn.

    Raises
    ------
    ValueError
        If it is not such a text. What is no length, since it is negative, is returned as it is.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no run length")
        value |= (bits & 31) << shift
        shift += 5
        if shift > _MOST_BITS:
            raise ValueError("a run is longer than any mask")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the last run length is cut off")
    return lengths
