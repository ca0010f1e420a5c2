"""The synthetic tissue images of a study, read one at a time where a list of them is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from napari_histomix.records import MixedImage
from napari_histomix.study.store import Study


class Mixes(Sequence[MixedImage]):
    """Some of a study's synthetic tissue images: hundreds of them would not fit into memory.

    Parameters
    ----------
    study : Study
    numbers : sequence of int
    """

    def __init__(self, study: Study, numbers: Sequence[int]) -> None:
        self.study, self.numbers = study, list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> MixedImage: ...

    @overload
    def __getitem__(self, index: slice) -> Mixes: ...

    def __getitem__(self, index: int | slice) -> MixedImage | Mixes:
        if isinstance(index, slice):
            return Mixes(self.study, self.numbers[index])
        return self.study.mix(self.numbers[index])
