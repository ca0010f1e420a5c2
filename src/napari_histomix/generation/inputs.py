"""What networks are given is checked before any work is done: a sentence, in place of a library's error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import HistomixError

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel, Kind

MOST_SEED = 2**63
"""Seeds lie below."""


def check_kind(model: GeneratorModel, kind: Kind) -> None:
    """Raise HistomixError for a model of another kind."""
    if model.kind != kind:
        raise HistomixError(f"{model.name} is of the kind '{model.kind}', not '{kind}'; choose another model.")


def check_pixels(pixels: NDArray[Any], what: str) -> None:
    """Raise HistomixError for what is no 8-bit RGB image (H, W, 3)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise HistomixError(f"The {what} must be 8-bit RGB, (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}.")


def checked_mask(mask: NDArray[Any], shape: tuple[int, int], what: str) -> NDArray[np.bool_]:
    """A mask of that shape, true where it is not 0. Raises HistomixError for another shape."""
    if mask.shape != shape:
        sizes = "×".join(map(str, mask.shape[::-1]))
        raise HistomixError(f"The {what} is {sizes} pixels but its layout {shape[1]}×{shape[0]}; make them one size.")
    return np.asarray(mask != 0)


def checked_stain(stain: NDArray[Any]) -> NDArray[np.float32]:
    """A stain (6,). Raises HistomixError for another shape, or where a value is no number."""
    given = np.asarray(stain, np.float32)
    if given.shape != (6,) or not np.isfinite(given).all():
        raise HistomixError("A stain is mean and spread of three channels' optical density: six numbers ('stain_of').")
    return given


def check_seed(seed: int) -> None:
    """Raise HistomixError for a seed that no generator of random numbers takes."""
    if not 0 <= seed < MOST_SEED:
        raise HistomixError(f"A seed is a whole number from 0 up, below 2⁶³, not {seed}.")


def check_each(count: int, **given: Sequence[Any] | None) -> None:
    """Raise HistomixError where lists, by what they hold, do not have one item for each layout."""
    for what, values in given.items():
        if values is not None and len(values) != count:
            raise HistomixError(f"There are {count} layouts but {len(values)} {what}; give one for each.")
