"""Rebuilt images beside the exported ones: bit for bit, or within a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import open_any
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.records import REAL, HistomixError
from napari_histomix.study.provenance.recorded import SyntheticImage

LEVELS, SHARE = 8, 0.01
"""Tolerance: at most this share of an image's changed pixels may differ by more than this many of 255 levels; of the
others none at all. docs/provenance.md says what was measured."""

Outcome = Literal["identical", "close", "different", "rebuilt"]


@dataclass(frozen=True, slots=True)
class Compared:
    """One synthetic image beside its rebuilt self.

    Parameters
    ----------
    image : str
        Its name.
    outcome : str
        ``identical``: bit for bit; ``close``: within the tolerance; ``different``: neither, or there is nothing to
        compare; ``rebuilt``: made, and not to be compared.
    reason : str
        Of a difference, in words.
    largest : int
        Largest difference of a channel, of 255.
    share : float
        Share of the changed pixels that differ at all.
    """

    image: str
    outcome: Outcome
    reason: str = ""
    largest: int = 0
    share: float = 0.0


class Exported:
    """The images of an export.

    Parameters
    ----------
    folder : Path
        Where they lie.

    Raises
    ------
    HistomixError
        If there is no dataset.
    """

    def __init__(self, folder: Path) -> None:
        self._dataset = open_any(folder)
        self._entries = {entry.source.image: entry for entry in self._dataset.entries}

    def pixels(self, image: SyntheticImage) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) of an exported image. Raises HistomixError if it is not there or cannot be read."""
        entry = self._entries.get(image.file)
        if entry is None:
            raise HistomixError(f"{self._dataset.root} has no image {image.file!r}")
        return self._dataset.layout.pixels(entry)

    def compare(
        self, image: SyntheticImage, pixels: NDArray[np.uint8], origin: NDArray[np.uint8], exact: bool
    ) -> Compared:
        """An exported image beside its rebuilt pixels (H, W, 3) and origin map (H, W); ``exact``: bit for bit."""
        try:
            exported = self.pixels(image)
        except HistomixError as error:
            return Compared(image.name, "different", f"the exported image cannot be compared ({error})")
        if pixels_sha256(exported) != image.sha256:
            as_it_was = " Rebuilt, it is what was exported." if pixels_sha256(pixels) == image.sha256 else ""
            return Compared(
                image.name, "different", f"somebody changed the exported image {image.file} since.{as_it_was}"
            )
        return compare(image.name, exported, pixels, origin, exact)


def compare(
    name: str, exported: NDArray[np.uint8], rebuilt: NDArray[np.uint8], origin: NDArray[np.uint8], exact: bool
) -> Compared:
    """Compare pixels (H, W, 3) with rebuilt ones of an origin map (H, W); ``exact``: nothing but the same bits will do.

    Real pixels must be the same in any case.
    """
    if exported.shape != rebuilt.shape:
        sizes = " and ".join(f"{pixels.shape[1]}×{pixels.shape[0]}" for pixels in (exported, rebuilt))
        return Compared(name, "different", f"exported and rebuilt image are of different sizes ({sizes}).")
    apart = np.abs(exported.astype(np.int16) - rebuilt).max(axis=2)
    changed = apart[origin != REAL]
    largest, share = int(apart.max()), float((changed > 0).mean()) if changed.size else 0.0
    if largest == 0:
        return Compared(name, "identical")
    if real := int(np.count_nonzero(apart[origin == REAL])):
        reason = f"{real:,} pixels that should be the source's own differ from it."
    elif exact or (changed > LEVELS).mean() > SHARE:
        reason = f"{share:.1%} of its changed pixels differ, by up to {largest} of 255 levels."
    else:
        return Compared(name, "close", "", largest, share)
    return Compared(name, "different", reason, largest, share)
