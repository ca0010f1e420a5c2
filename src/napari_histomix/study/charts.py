"""Pictures for people: class counts before and after, and changes beside their donors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from napari_histomix.compositing import compose
from napari_histomix.records import Change, SourceRef

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_histomix.datasets import Dataset

CROP_UM = 10.0
"""Half width of a crop in the sheet of changes, in µm."""

Colors = Mapping[str, tuple[int, int, int]]


def class_chart(colors: Colors, before: Mapping[str, int], after: Mapping[str, int], unit: str) -> Figure:
    """Bar chart of nuclei or images (``unit``) per class, before (pale) and after (full), with their numbers."""
    figure = Figure(figsize=(6, 1.2 + 0.7 * len(colors)), layout="constrained")
    _draw_classes(figure.subplots(), colors, before, after, unit)
    return figure


def _draw_classes(axes: Axes, colors: Colors, before: Mapping[str, int], after: Mapping[str, int], unit: str) -> None:
    """The bars of ``class_chart``, on axes of a larger figure."""
    largest = max([1, *before.values(), *after.values()])
    for position, (name, rgb) in enumerate(colors.items()):
        color = tuple(channel / 255 for channel in rgb)
        for offset, count, alpha, what in (
            (-0.2, before.get(name, 0), 0.4, "before"),
            (0.2, after.get(name, 0), 1.0, "after"),
        ):
            axes.barh(position + offset, count, 0.36, color=color, alpha=alpha, edgecolor="0.3", linewidth=0.5)
            axes.text(count + 0.01 * largest, position + offset, f"{count:,} {what}", va="center", fontsize=8)
    axes.set_yticks(range(len(colors)), list(colors))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * largest)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)


def change_sheet(
    dataset: Dataset,
    changes: Sequence[Change],
    colors: Colors,
    before: Mapping[str, int],
    after: Mapping[str, int],
    unit: str,
) -> Figure:
    """Class counts, and up to twelve changes: donor, target before, target after."""
    shown = changes[:12]
    rows = -(-len(shown) // 2)
    top = 1.2 + 0.6 * len(colors)
    figure = Figure(figsize=(9, top + 1.6 * rows), layout="constrained")
    upper, lower = cast("Sequence[SubFigure]", figure.subfigures(2, 1, height_ratios=[top, 1.6 * rows]))
    _draw_classes(upper.subplots(), colors, before, after, unit)
    what = "nuclei" if all(change.in_place for change in changes) else "images"
    upper.suptitle(f"{dataset.name}: {len(changes)} synthetic {what}. Not for diagnosis.")
    axes = lower.subplots(rows, 6, squeeze=False)
    for frame in axes.flat:
        frame.set_axis_off()
    for number, change in enumerate(shown):
        for offset, (title, pixels) in enumerate(_panels(dataset, change)):
            frame = axes[number // 2, 3 * (number % 2) + offset]
            frame.imshow(pixels, interpolation="bicubic")
            frame.set_title(title, fontsize=7)
    return figure


def _panels(dataset: Dataset, change: Change) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What is shown of a change, with titles; of a nucleus its surroundings, of an image all of it."""
    donor = change.donor
    if donor is not None:
        giver = dataset.read(donor.image)
        yield "donor", _around(giver.pixels, donor, giver.mpp) if donor.area else giver.pixels
    if not change.image:
        yield "new", change.pixels
        return
    target = dataset.read(change.image)
    place = SourceRef(
        "target", change.image, row=change.row + change.shape[0] / 2, col=change.col + change.shape[1] / 2
    )
    for title, pixels in (("before", target.pixels), ("after", compose(target, [change]).image.pixels)):
        yield title, _around(pixels, place, target.mpp) if change.in_place else pixels


def _around(pixels: NDArray[np.uint8], place: SourceRef, mpp: float) -> NDArray[np.uint8]:
    """Square crop (2r + 1, 2r + 1, 3) around a place, mirrored beyond the image's edge."""
    r = max(1, round(CROP_UM / mpp))
    padded = np.pad(pixels, ((r, r), (r, r), (0, 0)), mode="symmetric")
    row = min(max(round(place.row), 0), pixels.shape[0] - 1)
    col = min(max(round(place.col), 0), pixels.shape[1] - 1)
    return padded[row : row + 2 * r + 1, col : col + 2 * r + 1]
