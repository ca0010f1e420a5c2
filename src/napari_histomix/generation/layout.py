"""A layout: the nuclei of an image before it has pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, instance_ids
from napari_histomix.scales import resized_labels, same_scale, shape_at_scale


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Nuclei with their classes, for a generator to paint.

    Parameters
    ----------
    instances : (H, W) int32
        Instance map, 0 = background.
    classes : mapping of int to str
        Class name of every instance id that occurs; "" where no class is known.
    mpp : float
        Micrometers per pixel.
    source : str
        Name of the real image whose nuclei these are or were; empty where there is none.
    donors : tuple of str
        Names of further real images that nuclei were taken from.

    Raises
    ------
    HistomixError
        If the map has another dtype or shape, an instance has no entry in ``classes``, or the scale is no scale.

    Examples
    --------
    >>> instances = np.zeros((8, 8), np.int32)
    >>> instances[2:4, 2:4] = 7
    >>> Layout(instances, {7: "lymphocyte"}, 0.5).counts()
    Counter({'lymphocyte': 1})
    """

    instances: NDArray[np.int32]
    classes: Mapping[int, str]
    mpp: float
    source: str = ""
    donors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.instances.dtype != np.int32 or self.instances.ndim != 2 or not self.instances.size:
            raise HistomixError(
                f"A layout's instance map must be (H, W) int32, not {self.instances.shape} {self.instances.dtype}."
            )
        if self.instances.min() < 0:
            raise HistomixError("A layout's instance map holds negative ids; number its nuclei from 1.")
        if not (np.isfinite(self.mpp) and self.mpp > 0):
            raise HistomixError(f"A layout's µm/px must be a positive number, not {self.mpp}.")
        if missing := [number for number in instance_ids(self.instances) if number not in self.classes]:
            raise HistomixError(f"{len(missing)} nuclei of a layout have no class (ids {missing[0]}, …).")

    @classmethod
    def of(cls, image: LabeledImage, classes: Sequence[NucleusClass]) -> Layout:
        """The nuclei of a labeled image; class numbers that ``classes`` does not list count as no class."""
        names = {known.number: known.name for known in classes}
        return cls(
            image.instances,
            {number: names.get(kind, "") for number, kind in image.types.items()},
            image.mpp,
            image.source.image,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.instances.shape
        return height, width

    def at_scale(self, mpp: float) -> Layout:
        """The layout at another scale, itself where that is its own; nuclei that become too small for a pixel are gone.

        Raises
        ------
        HistomixError
            Where it would be enlarged beyond reason.
        """
        if same_scale(self.mpp, mpp):
            return self
        instances = resized_labels(self.instances, shape_at_scale(self.shape, self.mpp, mpp))
        left = {number: self.classes[number] for number in instance_ids(instances)}
        return replace(self, instances=instances, classes=left, mpp=mpp)

    def counts(self) -> Counter[str]:
        """Number of nuclei by class name."""
        return Counter(self.classes[number] for number in instance_ids(self.instances))
