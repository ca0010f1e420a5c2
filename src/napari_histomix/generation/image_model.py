"""Paint layouts: H&E pixels from nuclei with their classes, as whole images or inside real ones (NuDiff, step 4).

The network works in one pass on images up to ``ONE_PASS`` pixels a side. Larger ones are painted tile by tile: each
tile sees what is painted already beside it, as if it were a real image with a hole, so that no seam arises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from napari_histomix.devices import choose_device
from napari_histomix.diffusion.inpainter import as_pixels
from napari_histomix.generation.denoising import denoise
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import GeneratorModel, class_of, unknown_classes
from napari_histomix.generation.presets import DEFAULT, PRESETS, PaintSettings
from napari_histomix.generation.structure import condition_maps
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.stains import hue_of, stain_of, with_hue, with_stain

U8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]

VECTOR = 7
"""Mean and spread of three channels' optical density, and whether they are given."""
GRID = 4
"""Sides that the network sees are multiples of this."""
ONE_PASS = 384
"""Longest side in pixels that is painted in one pass."""
OVERLAP = 64
"""How much of what is painted already a tile sees on each side, in pixels."""
MARGIN = 32
"""Surroundings of a hole that the network sees, in pixels at its scale."""
SAME_SCALE = 0.03
"""Relative difference of µm/px that counts as none."""


def stain_vector(stain: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """What the network sees of a stain (6,): about zero mean and unit spread over slides, then 1; zeros for None."""
    if stain is None:
        return np.zeros(VECTOR, np.float32)
    scaled = np.concatenate([(stain[:3] - 0.25) / 0.15, (stain[3:] - 0.12) / 0.06])
    return np.append(scaled, 1).astype(np.float32)


def paint(
    layouts: Sequence[Layout],
    model: GeneratorModel,
    seeds: Sequence[int],
    settings: PaintSettings = PRESETS[DEFAULT],
    *,
    stains: Sequence[NDArray[np.float32] | None] | None = None,
    device: str = "auto",
) -> Job[list[U8]]:
    """Paint whole images from layouts; a long job whose events show the image that is being painted.

    Parameters
    ----------
    layouts : sequence of Layout
        Nuclei of classes that the model does not know are painted as nuclei without a class.
    model : GeneratorModel
        Of the kind "image".
    seeds : sequence of int
        One for each layout: a picture depends on its layout, stain, seed and the settings alone.
    settings : PaintSettings
    stains : sequence, optional
        For each layout the stain of a reference image (`stain_of`), or None: as the model likes. The network is told
        of it, and what it misses of mean and spread is put right in the finished picture (`with_stain`).
    device : str

    Returns
    -------
    list of (H, W, 3) uint8
        In the layouts' own sizes.
    """
    place = choose_device(device)
    network = model.network.to(place)
    painted: list[U8] = []
    for number, layout in enumerate(layouts):
        for message in _warnings(layout, model):
            yield Event("Painting", number, len(layouts), message=message)
        scaled = _at_scale(layout, model.mpp)
        wanted = stains[number] if stains is not None else None
        stain = stain_vector(wanted)
        canvas = np.zeros((*scaled.shape, 3), np.uint8)
        known = np.zeros(scaled.shape, np.bool_)
        tiles = list(_tiles(scaled.shape))
        for index, tile in enumerate(tiles):
            seed = np.random.SeedSequence([seeds[number], index]).generate_state(1)[0]
            part = _cut(scaled, tile)
            steps = _denoised(network, model, part, canvas[tile], ~known[tile], stain, int(seed), settings, place)
            filled = canvas[tile]
            for step, filled in enumerate(steps):
                shown = canvas.copy()
                shown[tile] = filled
                done = (number * len(tiles) + index) * settings.steps + step
                yield Event("Painting", done, len(layouts) * len(tiles) * settings.steps, preview=shown)
            canvas[tile] = np.where(known[tile][..., None], canvas[tile], filled)
            known[tile] = True
        if canvas.shape[:2] != layout.shape:
            height, width = layout.shape
            canvas = np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        painted.append(canvas if wanted is None else with_stain(canvas, wanted))
    return painted


def paint_inside(
    pixels: U8,
    layout: Layout,
    hole: Mask,
    model: GeneratorModel,
    seed: int,
    settings: PaintSettings = PRESETS[DEFAULT],
    *,
    device: str = "auto",
) -> Job[U8]:
    """Paint the hole of a real image as its layout says; everything else comes back bit for bit. A long job.

    New nuclei get the hue of the real ones, be they as dark as the network made them.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    layout : Layout
        Of the whole image, as it shall be afterwards.
    hole : (H, W) bool
        The pixels that may change; a drawn nucleus and a little around it.
    model : GeneratorModel
        Of the kind "image".
    seed : int

    Raises
    ------
    HistomixError
        For an empty hole, or one of another size than the image.
    """
    if hole.shape != pixels.shape[:2] or layout.shape != hole.shape:
        raise HistomixError("The hole and the labels must have the image's size.")
    if not hole.any():
        raise HistomixError("Nothing is to be painted: draw a nucleus inside the image.")
    for message in _warnings(layout, model):
        yield Event("Painting", message=message)
    place = choose_device(device)
    network = model.network.to(place)
    stain = stain_vector(stain_of(pixels))
    filled = pixels.copy()
    hue = hue_of(pixels, (layout.instances > 0) & ~hole)
    count, parts = cv2.connectedComponents(cv2.dilate(hole.astype(np.uint8), np.ones((9, 9), np.uint8)))
    for part in range(1, count):
        mine = hole & (parts == part)
        window = _around(mine, round(MARGIN * model.mpp / layout.mpp))
        cut = _cut(layout, window)
        scaled = _at_scale(cut, model.mpp)
        height, width = scaled.shape
        small = filled[window] if scaled is cut else _resized(filled[window], (height, width))
        inside = mine[window].astype(np.uint8)
        if scaled is not cut:
            inside = np.asarray(cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
        part_seed = int(np.random.SeedSequence([seed, part]).generate_state(1)[0])
        steps = _denoised(network, model, scaled, small, inside > 0, stain, part_seed, settings, place)
        made = small
        for step, estimate in enumerate(steps):
            made = estimate
            yield Event("Painting", (part - 1) * settings.steps + step, (count - 1) * settings.steps)
        if scaled is not cut:
            made = _resized(made, cut.shape)
        if hue is not None:
            # With their rims, into which resampling carries them.
            nuclei = cv2.dilate((cut.instances > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
            made = with_hue(made, mine[window] & (nuclei > 0), hue)
        region = filled[window]
        region[mine[window]] = made[mine[window]]
    return filled


def _denoised(
    network: Any,
    model: GeneratorModel,
    layout: Layout,
    pixels: U8,
    hole: Mask,
    stain: NDArray[np.float32],
    seed: int,
    settings: PaintSettings,
    place: torch.device,
) -> Iterator[U8]:
    """Estimates of a window's pixels, one a step; the window is padded to the network's grid."""
    height, width = layout.shape
    below, right = -height % GRID, -width % GRID
    instances = np.pad(layout.instances, ((0, below), (0, right)))
    names = {number: class_of(name, model.classes) for number, name in layout.classes.items()}
    maps = condition_maps(Layout(instances, names, layout.mpp), model.classes)
    known = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
    hidden = np.pad(hole, ((0, below), (0, right)), constant_values=True)
    mask = torch.from_numpy(hidden.astype(np.float32))[None]
    image = torch.from_numpy(known).permute(2, 0, 1).float() / 127.5 - 1
    beside = torch.cat([image * (1 - mask), mask])[None]
    steps = denoise(
        network,
        model.schedule,
        (3, *hidden.shape),
        torch.from_numpy(maps)[None],
        torch.from_numpy(stain)[None],
        [seed],
        steps=settings.steps,
        guidance=settings.guidance,
        ancestral=settings.ancestral,
        beside=beside,
        device=place,
    )
    for clean in steps:
        yield as_pixels(clean.cpu())[0][:height, :width]


def _warnings(layout: Layout, model: GeneratorModel) -> Iterator[str]:
    if unknown := unknown_classes(layout.classes.values(), model.classes):
        yield f"{model.name} does not know the class {', '.join(unknown)}: such nuclei are painted without a class."
    if abs(layout.mpp / model.mpp - 1) > SAME_SCALE:
        yield f"Painted at {model.mpp:g} µm/px, the scale of {model.name}, and resampled to {layout.mpp:g}."


def _at_scale(layout: Layout, mpp: float) -> Layout:
    """A layout at another scale; itself where it has that scale already."""
    factor = layout.mpp / mpp
    if abs(factor - 1) <= SAME_SCALE:
        return layout
    size = max(round(layout.shape[1] * factor), 1), max(round(layout.shape[0] * factor), 1)
    instances = np.asarray(cv2.resize(layout.instances, size, interpolation=cv2.INTER_NEAREST), np.int32)
    return Layout(instances, layout.classes, mpp, layout.source)


def _resized(pixels: U8, shape: tuple[int, int]) -> U8:
    smooth = cv2.INTER_AREA if shape[0] < pixels.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, shape[::-1], interpolation=smooth), np.uint8)


def _cut(layout: Layout, window: tuple[slice, slice]) -> Layout:
    return Layout(np.ascontiguousarray(layout.instances[window]), layout.classes, layout.mpp, layout.source)


def _around(mask: Mask, margin: int) -> tuple[slice, slice]:
    """The bounding box of a mask and a margin, within the image."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + margin + 1),
        slice(max(int(cols[0]) - margin, 0), int(cols[-1]) + margin + 1),
    )


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Windows that cover an image, each of at most ``ONE_PASS`` pixels a side, overlapping where there are several."""
    for rows in _spans(shape[0]):
        for cols in _spans(shape[1]):
            yield rows, cols


def _spans(length: int) -> list[slice]:
    if length <= ONE_PASS:
        return [slice(0, length)]
    count = -(-(length - OVERLAP) // (ONE_PASS - OVERLAP))
    starts = np.linspace(0, length - ONE_PASS, count).round().astype(int).tolist()
    return [slice(start, start + ONE_PASS) for start in starts]
