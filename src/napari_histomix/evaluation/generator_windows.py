"""What generators are tested with: windows of real images, held out and for training, and layouts to paint."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.entries import Entry
from napari_histomix.generation.layout import Layout
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, NucleusClass, instance_ids
from napari_histomix.scales import resized, resized_labels, same_scale, shape_at_scale

TRIES = 20
"""Places in an image at which a window with a nucleus is looked for."""

BLUR_UM = 1.0
"""Standard deviation, in µm, of the blur of the baseline that needs no network."""


class Window(NamedTuple):
    """A window of a real image: pixels (S, S, 3), the nuclei in them, and where nobody knows which there are (S, S).

    ``layout.source`` names the image.
    """

    pixels: NDArray[np.uint8]
    layout: Layout
    ignored: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RealImages:
    """Real images at the scale of a test, with their nuclei.

    Parameters
    ----------
    images : tuple of LabeledImage
    ignored : tuple of (H, W) bool
        Where nobody knows which nuclei there are; ``images`` have none there.
    classes : tuple of NucleusClass
        Those that have names; a nucleus of any other has no class.
    """

    images: tuple[LabeledImage, ...]
    ignored: tuple[NDArray[np.bool_], ...]
    classes: tuple[NucleusClass, ...]

    def windows(self, count: int, side: int, rng: np.random.Generator) -> list[Window]:
        """Windows with at least a nucleus at random places, as many of one image as of another.

        Raises
        ------
        HistomixError
            If no image is as large as a window, or none has a nucleus.
        """
        large = [pair for pair in zip(self.images, self.ignored, strict=True) if min(pair[1].shape) >= side]
        if not large:
            most = max((min(image.instances.shape) for image in self.images), default=0)
            raise HistomixError(
                f"No image holds a window of {side}×{side} pixels at {self.images[0].mpp:g} µm/px; "
                f"choose a side of at most {most}."
            )
        waiting = deque(rng.permutation(len(large)).tolist())
        windows: list[Window] = []
        while waiting and len(windows) < count:
            index = waiting.popleft()
            image, ignored = large[index]
            if (window := self._window(image, ignored, side, rng)) is not None:
                windows.append(window)
                waiting.append(index)
        if not windows:
            raise HistomixError("The images have no labeled nuclei; test with images whose nuclei are labeled.")
        return windows

    def _window(
        self, image: LabeledImage, ignored: NDArray[np.bool_], side: int, rng: np.random.Generator
    ) -> Window | None:
        extents = np.array(image.instances.shape) - side
        for number in range(TRIES + 1):
            corner = rng.integers(extents + 1)
            if number == TRIES and image.instances.any():
                # Nuclei are few: around one of them.
                nuclei = np.argwhere(image.instances)
                corner = np.clip(nuclei[rng.integers(len(nuclei))] - side // 2, 0, extents)
            row, col = corner.tolist()
            place = slice(row, row + side), slice(col, col + side)
            instances = np.ascontiguousarray(image.instances[place])
            if ids := instance_ids(instances):
                names = {known.number: known.name for known in self.classes}
                classes = {number: names.get(image.types[number], "") for number in ids}
                layout = Layout(instances, classes, image.mpp, image.source.image)
                return Window(np.ascontiguousarray(image.pixels[place]), layout, ignored[place])
        return None


def real_images(
    dataset: Dataset,
    entries: Sequence[Entry],
    mpp: float,
    most: int,
    ignore: Collection[str],
    rng: np.random.Generator,
    phase: str,
) -> Job[RealImages]:
    """Read images at a scale; a long job (see ``records.Job``).

    Images without labels, and those with synthetic nuclei, are left out, and so are those that cannot be read, which
    an event says. Of more than ``most``, a random choice. Nuclei of the classes to ``ignore`` count as unknown.
    """
    left_out = {name.casefold() for name in ignore}
    unknown = {known.number for known in dataset.classes if known.name.casefold() in left_out}
    real = [entry for entry in entries if entry.labels is not None and not entry.synthetic]
    images: list[LabeledImage] = []
    ignored: list[NDArray[np.bool_]] = []
    for done, index in enumerate(rng.permutation(len(real))[:most]):
        yield Event(phase, done, min(most, len(real)))
        try:
            image = dataset.read(real[index])
        except HistomixError as error:
            yield Event(phase, done, min(most, len(real)), message=f"Skipped: {error}")
            continue
        if not image.synthetic:
            scaled = _at_scale(image, mpp)
            ignored.append(np.isin(scaled.instances, [i for i, kind in scaled.types.items() if kind in unknown]))
            types = {number: kind for number, kind in scaled.types.items() if kind not in unknown}
            images.append(replace(scaled, instances=np.where(ignored[-1], np.int32(0), scaled.instances), types=types))
    without = unknown | {dataset.unclassified.number}
    return RealImages(
        tuple(images), tuple(ignored), tuple(known for known in dataset.classes if known.number not in without)
    )


def _at_scale(image: LabeledImage, mpp: float) -> LabeledImage:
    if same_scale(image.mpp, mpp):
        return image
    shape = shape_at_scale(image.instances.shape, image.mpp, mpp)
    instances = resized_labels(image.instances, shape)
    types = {number: image.types[number] for number in instance_ids(instances)}
    return LabeledImage(resized(image.pixels, shape), instances, types, mpp, image.source)


def mean_colors(windows: Sequence[Window]) -> dict[str | None, NDArray[np.float64]]:
    """Mean color (3,) of the nuclei of each class in windows, and of what is no nucleus (None)."""
    sums: dict[str | None, NDArray[np.float64]] = {}
    counts: dict[str | None, int] = {}
    for window in windows:
        for name, pixels in _parts(window.layout).items():
            if count := int(pixels.sum()):
                sums[name] = sums.get(name, np.zeros(3)) + window.pixels[pixels].sum(axis=0, dtype=float)
                counts[name] = counts.get(name, 0) + count
    return {name: total / counts[name] for name, total in sums.items()}


def colored(layout: Layout, colors: Mapping[str | None, NDArray[np.float64]]) -> NDArray[np.uint8]:
    """The baseline without a network: labels in the colors of their classes (`mean_colors`), blurred; (H, W, 3)."""
    nuclei = [color for name, color in colors.items() if name is not None]
    picture = np.full((*layout.shape, 3), 255.0)
    for name, pixels in _parts(layout).items():
        picture[pixels] = colors.get(name, np.mean(nuclei, axis=0) if nuclei else 0.0)
    blurred = cv2.GaussianBlur(picture, (0, 0), BLUR_UM / layout.mpp)
    return np.clip(np.rint(blurred), 0, 255).astype(np.uint8)


def _parts(layout: Layout) -> dict[str | None, NDArray[np.bool_]]:
    """Where the nuclei of each class are, (H, W), and what is no nucleus (None)."""
    by_class: dict[str, list[int]] = {}
    for number in instance_ids(layout.instances):
        by_class.setdefault(layout.classes[number], []).append(number)
    return {None: layout.instances == 0} | {name: np.isin(layout.instances, ids) for name, ids in by_class.items()}


def nucleus_places(layout: Layout, most: int, span: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centers (row, col) of up to ``most`` random nuclei, if possible of those with ``span`` µm around them inside."""
    ids = instance_ids(layout.instances)
    rows, cols = np.nonzero(layout.instances)
    order = np.searchsorted(ids, layout.instances[rows, cols])
    counts = np.maximum(np.bincount(order, minlength=len(ids)), 1)[:, None]
    centers = np.stack([np.bincount(order, axis, len(ids)) for axis in (rows, cols)], axis=1) / counts
    margin = span / layout.mpp / 2
    inside = ((centers >= margin) & (centers <= np.array(layout.shape) - 1 - margin)).all(axis=1)
    chosen = rng.permutation(centers[inside] if inside.any() else centers)[:most]
    return [(float(row), float(col)) for row, col in chosen]
