"""Drawn nuclei and layouts, painted: which of them are painted together, where, and what the network sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import window_around
from napari_histomix.compositing.donors import Mask, dilate
from napari_histomix.compositing.planning import GUARD
from napari_histomix.generation.layout import Layout
from napari_histomix.records import Job, within
from napari_histomix.sampling import nucleus_boxes

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel
    from napari_histomix.generation.presets import PaintSettings

RING = 1.5
"""µm around a drawn nucleus that are painted with it."""
SURROUNDINGS = 32.0
"""µm around a drawn nucleus that the network sees."""


def hole_of(instances: NDArray[np.int32], number: int, mpp: float) -> Mask:
    """The pixels that are painted with a nucleus: its own and a ring around it, without those of other nuclei."""
    radius = ring_of(mpp)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    own = instances == number
    grown = cv2.dilate(own.astype(np.uint8), disc) > 0
    return np.asarray(grown & (own | (instances == 0)))


def ring_of(mpp: float) -> int:
    """Pixels around a drawn nucleus that are painted with it."""
    return max(1, round(RING / mpp))


def groups_of(instances: NDArray[np.int32], new: Iterable[int], mpp: float) -> list[tuple[int, ...]]:
    """Ids of drawn nuclei of an instance map (H, W), those near each other together: what is one change."""
    near = np.zeros(instances.shape, bool)
    places: dict[int, tuple[int, int]] = {}
    boxes = nucleus_boxes(np.where(np.isin(instances, list(new)), instances, 0).astype(np.int32))
    for number, box in boxes.items():
        window = window_around([box], ring_of(mpp) + GUARD, instances.shape)
        near[window] |= dilate(hole_of(instances[window], number, mpp), GUARD)
        row, col = np.argwhere(instances[box] == number)[0].tolist()
        places[number] = box[0].start + row, box[1].start + col
    _, parts = cv2.connectedComponents(near.astype(np.uint8))
    groups: dict[int, list[int]] = {}
    for number, place in places.items():
        groups.setdefault(int(parts[place]), []).append(number)
    return [tuple(group) for group in groups.values()]


def surroundings(instances: NDArray[np.int32], numbers: Iterable[int], mpp: float) -> tuple[slice, slice]:
    """The window of an instance map (H, W) that the network sees of nuclei near each other."""
    boxes = nucleus_boxes(np.where(np.isin(instances, list(numbers)), instances, 0).astype(np.int32))
    return window_around(list(boxes.values()), round(SURROUNDINGS / mpp), instances.shape)


def paint_nuclei(
    pixels: NDArray[np.uint8],
    layout: Layout,
    numbers: Sequence[int],
    model: GeneratorModel,
    seed: int,
    painting: PaintSettings | None,
    device: str,
) -> Job[tuple[NDArray[np.uint8], Mask]]:
    """Paint nuclei into the window of a real image that is their ``surroundings``, one after another; a long job.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    layout : Layout
        The real nuclei there and the new ones.
    numbers : sequence of int
        Ids of the new ones, in ascending order.
    model : GeneratorModel
        An image model, or pix2pix.
    seed : int
    painting : PaintSettings, optional
        Of an image model; None for pix2pix.
    device : str

    Returns
    -------
    (H, W, 3) uint8, (H, W) bool
        The painted window, and its pixels that were painted: all others are as they were.
    """
    made, painted = pixels.copy(), np.zeros(layout.shape, np.bool_)
    margin = round(SURROUNDINGS / layout.mpp)
    # Those that are not painted yet are not there yet.
    there = np.where(np.isin(layout.instances, numbers), 0, layout.instances).astype(np.int32)
    for done, number in enumerate(numbers):
        own = layout.instances == number
        there[own] = number
        rows, cols = np.nonzero(own)
        box = slice(int(rows.min()), int(rows.max()) + 1), slice(int(cols.min()), int(cols.max()) + 1)
        window = window_around([box], margin, layout.shape)
        hole = hole_of(layout.instances[window], number, layout.mpp)
        near = Layout(there[window].copy(), layout.classes, layout.mpp)
        drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        job = _inside(made[window].copy(), near, hole, model, drawn, painting, device)
        filled = yield from within(job, "Painting nuclei", done, len(numbers))
        made[window][hole] = filled[hole]
        painted[window] |= hole
    return made, painted


def _inside(
    pixels: NDArray[np.uint8],
    layout: Layout,
    hole: Mask,
    model: GeneratorModel,
    seed: int,
    painting: PaintSettings | None,
    device: str,
) -> Job[NDArray[np.uint8]]:
    from napari_histomix.generation import image_model, pix2pix

    if painting is not None:
        return (yield from image_model.paint_inside(pixels, layout, hole, model, seed, painting, device=device))
    (picture,) = yield from pix2pix.render(
        [layout], model, references=[pixels], hidden=[hole], seeds=[seed], device=device
    )
    return picture


def paint_layout(
    layout: Layout,
    model: GeneratorModel,
    seed: int,
    stain: NDArray[np.float32] | None,
    painting: PaintSettings | None,
    device: str,
) -> Job[NDArray[np.uint8]]:
    """Paint a layout as a new image (H, W, 3), in a stain (6,) or as the network likes; a long job.

    ``painting`` is that of an image model; None for pix2pix.
    """
    from napari_histomix.generation import image_model, pix2pix

    if painting is not None:
        job = image_model.paint([layout], model, [seed], painting, stains=[stain], device=device)
    else:
        job = pix2pix.render([layout], model, stains=[stain], seeds=[seed], device=device)
    (pixels,) = yield from job
    return pixels
