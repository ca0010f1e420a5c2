"""Pictures for people: class counts before and after, and placements beside their donors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from napari_histomix.compositing import compose
from napari_histomix.records import Location, NucleusClass, Placement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_histomix.datasets import Dataset

CROP_UM = 10.0
"""Half width of a crop in the placement sheet, in µm."""


def class_chart(classes: Sequence[NucleusClass], before: Mapping[int, int], after: Mapping[int, int]) -> Figure:
    """Bar chart of nuclei per class, before (pale) and after (full), with their numbers."""
    figure = Figure(figsize=(6, 1.2 + 0.7 * len(classes)), layout="constrained")
    draw_classes(figure.subplots(), classes, before, after)
    return figure


def draw_classes(
    axes: Axes, classes: Sequence[NucleusClass], before: Mapping[int, int], after: Mapping[int, int]
) -> None:
    """The bars of ``class_chart``, on axes of a larger figure."""
    largest = max([1, *before.values(), *after.values()])
    for position, one in enumerate(classes):
        color = tuple(channel / 255 for channel in one.color)
        for offset, count, alpha, what in (
            (-0.2, before.get(one.number, 0), 0.4, "before"),
            (0.2, after.get(one.number, 0), 1.0, "after"),
        ):
            axes.barh(position + offset, count, 0.36, color=color, alpha=alpha, edgecolor="0.3", linewidth=0.5)
            axes.text(count + 0.01 * largest, position + offset, f"{count:,} {what}", va="center", fontsize=8)
    axes.set_yticks(range(len(classes)), [one.name for one in classes])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * largest)
    axes.set_xlabel("nuclei")
    axes.spines[["top", "right"]].set_visible(False)


def placement_sheet(
    dataset: Dataset, placements: Sequence[Placement], before: Mapping[int, int], after: Mapping[int, int]
) -> Figure:
    """Class counts, and up to twelve placements: donor, target before, target after."""
    shown = placements[:12]
    rows = -(-len(shown) // 2)
    top = 1.2 + 0.6 * len(dataset.classes)
    figure = Figure(figsize=(9, top + 1.6 * rows), layout="constrained")
    upper, lower = cast("Sequence[SubFigure]", figure.subfigures(2, 1, height_ratios=[top, 1.6 * rows]))
    draw_classes(upper.subplots(), dataset.classes, before, after)
    upper.suptitle(f"{dataset.name}: {len(placements)} synthetic nuclei. Not for diagnosis.")
    axes = lower.subplots(rows, 6, squeeze=False)
    for frame in axes.flat:
        frame.set_axis_off()
    for number, one in enumerate(shown):
        target, donor = dataset.read(one.candidate.target.image), dataset.read(one.candidate.donor.image)
        result = compose(target, [one]).image
        for offset, (image, place, title) in enumerate(
            (
                (donor, one.candidate.donor, "donor"),
                (target, one.candidate.target, "before"),
                (result, one.candidate.target, "after"),
            )
        ):
            frame = axes[number // 2, 3 * (number % 2) + offset]
            frame.imshow(crop_around(image.pixels, place, CROP_UM / image.mpp), interpolation="bicubic")
            frame.set_title(title, fontsize=7)
    return figure


def crop_around(pixels: NDArray[np.uint8], place: Location, reach: float) -> NDArray[np.uint8]:
    """Square crop (2r + 1, 2r + 1, 3) around a location, mirrored beyond the image's edge; ``reach`` in pixels."""
    r = max(1, round(reach))
    padded = np.pad(pixels, ((r, r), (r, r), (0, 0)), mode="symmetric")
    row = min(max(round(place.row), 0), pixels.shape[0] - 1)
    col = min(max(round(place.col), 0), pixels.shape[1] - 1)
    return padded[row : row + 2 * r + 1, col : col + 2 * r + 1]
