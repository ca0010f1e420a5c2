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
from napari_histomix.generation.inputs import (
    check_each,
    check_kind,
    check_pixels,
    check_seed,
    checked_mask,
    checked_stain,
)
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import GeneratorModel, class_of, remarks
from napari_histomix.generation.presets import DEFAULT, PRESETS, PaintSettings
from napari_histomix.generation.structure import condition_maps
from napari_histomix.records import Event, HistomixError, Job, instance_ids
from napari_histomix.scales import resized, resized_labels
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
    check_kind(model, "image")
    check_each(len(layouts), seeds=seeds, stains=stains)
    for seed in seeds:
        check_seed(seed)
    wanted = [None if stain is None else checked_stain(stain) for stain in stains or [None] * len(layouts)]
    place = choose_device(device)
    painted: list[U8] = []
    for message in remarks(layouts, model):
        yield Event("Painting", 0, len(layouts), message=message)
    for number, (layout, stain) in enumerate(zip(layouts, wanted, strict=True)):
        scaled = layout.at_scale(model.mpp)
        canvas, hole = np.zeros((*scaled.shape, 3), np.uint8), np.ones(scaled.shape, np.bool_)
        filling = _filled(model, scaled, canvas, hole, stain_vector(stain), (seeds[number],), settings, place)
        for done, total, shown in filling:
            yield Event("Painting", number * total + done, len(layouts) * total, preview=shown)
        canvas = resized(canvas, layout.shape)
        painted.append(canvas if stain is None else with_stain(canvas, stain))
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
    check_kind(model, "image")
    check_pixels(pixels, "image")
    check_seed(seed)
    if layout.shape != pixels.shape[:2]:
        raise HistomixError("The hole and the labels must have the image's size.")
    hole = checked_mask(hole, layout.shape, "hole")
    if not hole.any():
        raise HistomixError("Nothing is to be painted: draw a nucleus inside the image.")
    new = np.where(hole, layout.instances, 0)
    drawn = Layout(new, {number: layout.classes[number] for number in instance_ids(new)}, layout.mpp)
    for message in remarks([drawn], model):
        yield Event("Painting", message=message)
    place = choose_device(device)
    stain = stain_vector(stain_of(pixels))
    filled = pixels.copy()
    hue = hue_of(pixels, (layout.instances > 0) & ~hole)
    count, parts = cv2.connectedComponents(cv2.dilate(hole.astype(np.uint8), np.ones((9, 9), np.uint8)))
    for part in range(1, count):
        mine = hole & (parts == part)
        window = _around(mine, round(MARGIN * model.mpp / layout.mpp))
        cut = _cut(layout, window)
        scaled = cut.at_scale(model.mpp)
        made = resized(filled[window].copy(), scaled.shape)
        inside = resized_labels(mine[window], scaled.shape)
        if not inside.any():
            # So small that no center of a coarser pixel lies in it.
            inside = resized(255 * mine[window].astype(np.uint8), scaled.shape) > 0
        filling = _filled(model, scaled, made, inside, stain, (seed, part), settings, place)
        for done, total, _ in filling:
            yield Event("Painting", (part - 1) * total + done, (count - 1) * total)
        made = resized(made, cut.shape)
        if hue is not None:
            # With their rims, into which resampling carries them.
            nuclei = cv2.dilate((cut.instances > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
            made = with_hue(made, mine[window] & (nuclei > 0), hue)
        region = filled[window]
        region[mine[window]] = made[mine[window]]
    return filled


def _filled(
    model: GeneratorModel,
    layout: Layout,
    canvas: U8,
    hole: Mask,
    stain: NDArray[np.float32],
    seeds: tuple[int, ...],
    settings: PaintSettings,
    place: torch.device,
) -> Iterator[tuple[int, int, U8]]:
    """Fill a hole of a canvas tile by tile, in place; after each step how many of how many are done, and a preview."""
    network, hole = model.network.to(place), hole.copy()
    tiles = [tile for tile in _tiles(layout.shape) if hole[tile].any()]
    total = len(tiles) * settings.steps
    for index, tile in enumerate(tiles):
        seed = int(np.random.SeedSequence([*seeds, index]).generate_state(1)[0])
        steps = _denoised(network, model, _cut(layout, tile), canvas[tile], hole[tile], stain, seed, settings, place)
        for step, filled in enumerate(steps):
            shown = canvas.copy()
            shown[tile][hole[tile]] = filled[hole[tile]]
            yield index * settings.steps + step, total, shown
        canvas[tile] = shown[tile]
        # What is painted is known to the tiles beside it.
        hole[tile] = False


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
        coarse_start=settings.coarse_start,
        beside=beside,
        device=place,
    )
    for clean in steps:
        yield as_pixels(clean.cpu())[0][:height, :width]


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
