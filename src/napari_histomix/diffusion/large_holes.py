"""Holes of whole images, larger than what a model sees at once.

``fill_from_exemplars`` fills them with real tissue, and lets a model paint along its joints alone. ``fill_holes`` lets
a model paint everything, from coarse to fine, in overlapping tiles. What a hole holds as a whole is painted where it is
small enough for one window of the model, on a reduced copy. Twice that size, and again twice, the model then paints
over the enlarged result from a truncated start: what is there steers, what is missing is added. Within a level all
tiles are denoised together, so there is no seam between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.exemplars import quilt
from napari_histomix.compositing.seams import WIDTH
from napari_histomix.diffusion.inpainter import BATCH, Window, inpaint
from napari_histomix.diffusion.models import AnyModel, PromptedModel
from napari_histomix.diffusion.narrow_holes import fill_narrow
from napari_histomix.diffusion.random_field import fill_smoothly
from napari_histomix.diffusion.samplers import Sampler
from napari_histomix.records import HistomixError, Job

CONTEXT = 32
"""Pixels of the model that are kept around a hole."""
REFINED = 500
"""Timestep that finer levels begin at, at the latest: before it, places are decided; after it, texture."""
GUESSED = 96
"""Side in pixels at which the first guess is made; a smooth one needs no more."""


def fill_holes(
    pixels: NDArray[np.uint8],
    hole: NDArray[np.bool_],
    mpp: float,
    model: AnyModel,
    sampler: Sampler,
    seed: int,
    *,
    device: str = "auto",
    batch: int = BATCH,
    phase: str = "Blending",
) -> Job[NDArray[np.uint8]]:
    """Fill holes of any size in an image; a long job (see ``records.Job``).

    The arguments are those of ``inpaint``, with ``mpp`` in micrometers per pixel. The sampler is for the coarsest
    level; finer ones take half its steps from ``REFINED`` on. Outside the hole, ``pixels`` stay bit for bit.

    Raises
    ------
    HistomixError
        If there is no hole or nothing else, or as ``inpaint``.
    """
    if not hole.any():
        raise HistomixError("A hole without a pixel cannot be inpainted.")
    if hole.all():
        raise HistomixError("A hole that covers the whole image leaves nothing to go by; replace less of it.")
    low, high = model.mpp
    factor = mpp / min(max(mpp, low), high)
    side = _side(hole, factor, model)
    box = _around(hole, round(side / factor))
    inner, inner_hole = _squared(pixels[box], hole[box], round(side / factor))
    guess = _first_guess(inner, inner_hole)
    sides = levels(side, model)
    steps = max(2, sampler.steps // 2)
    finer = replace(sampler, start=max(steps, min(sampler.start, REFINED)), steps=steps, visits=1)
    for number, level in enumerate(sides):
        settings = finer if number else sampler
        if level != sides[-1]:
            settings = replace(settings, grain=False)
        words = phase if len(sides) == 1 else f"{phase}, {level} px"
        window = Window(inner, inner_hole, seed + number, level, guess)
        (guess,) = yield from inpaint([window], model, settings, device=device, batch=batch, phase=words)
    filled = pixels.copy()
    rows, cols = hole[box].shape
    filled[box][hole[box]] = guess[:rows, :cols][hole[box]]
    return filled


def fill_from_exemplars(
    pixels: NDArray[np.uint8],
    hole: NDArray[np.bool_],
    mpp: float,
    model: AnyModel,
    sampler: Sampler,
    seed: int,
    *,
    others: Sequence[tuple[NDArray[np.uint8], float]] = (),
    device: str = "auto",
    batch: int = BATCH,
    phase: str = "Blending",
) -> Job[NDArray[np.uint8]]:
    """Fill holes of any size with real tissue of the same image, and of others; a long job (see ``records.Job``).

    The arguments are those of ``fill_holes``; ``sampler`` is one for seams. ``others`` are further exemplars, each with
    its µm per pixel (``exemplars.quilt``). A hole so narrow that it is all joints is painted as a seam. Outside the
    hole, ``pixels`` stay bit for bit.

    Raises
    ------
    HistomixError
        If there is no hole, nothing else, or too little else to take tissue from; or as ``inpaint``.

    Examples
    --------
    >>> from napari_histomix import load_sample
    >>> from napari_histomix.diffusion.model_files import load_model
    >>> from napari_histomix.diffusion.samplers import PRESETS
    >>> from napari_histomix.records import drain
    >>> from napari_histomix.weights import bundled
    >>> data = load_sample()
    >>> image = data.read(data.entries[0])
    >>> hole = np.zeros(image.instances.shape, bool)
    >>> hole[80:140, 90:160] = True
    >>> filling = fill_from_exemplars(image.pixels, hole, image.mpp, load_model(bundled()), PRESETS["fast"].seam, 0)
    >>> filled = drain(filling)
    >>> bool((filled[~hole] == image.pixels[~hole]).all())
    True
    """
    width = max(WIDTH[1], WIDTH[0] * 0.25 / mpp)
    seams = hole
    if hole.any() and not hole.all() and _depth(hole) > width:
        quilted = yield from quilt(pixels, hole, mpp, others, seed, phase=phase)
        pixels, seams = quilted.pixels, hole & (_distance(~quilted.joints) < width)
        if not seams.any():
            return pixels
    return (yield from fill_narrow(pixels, seams, mpp, model, sampler, seed, device=device, batch=batch, phase=phase))


def _depth(hole: NDArray[np.bool_]) -> float:
    """Pixels from the innermost pixel of a hole to the nearest that is known."""
    return float(_distance(hole).max())


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance in pixels of each pixel of a mask (H, W) from what is outside of it."""
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def levels(side: int, model: AnyModel) -> list[int]:
    """Sides of the levels from the coarsest, which fits into a window of the model, to ``side``."""
    largest = max(model.windows)
    if isinstance(model, PromptedModel):
        return [min(side, largest)]
    sides = [side]
    while sides[0] > largest:
        sides.insert(0, _on_grid(sides[0] / 2, model))
    return sides


def _side(hole: NDArray[np.bool_], factor: float, model: AnyModel) -> int:
    """Side at the model's scale of the square that is looked at: the smallest window of the model that holds the hole
    and its surroundings, or what it takes."""
    extent = max(int(np.ptp(places)) + 1 for places in np.nonzero(hole))
    side = extent * factor + 2 * CONTEXT
    fitting = [window for window in model.windows if window >= side]
    return min(fitting) if fitting else _on_grid(side, model)


def _on_grid(side: float, model: AnyModel) -> int:
    return ceil(side / model.grid - 1e-6) * model.grid


def _around(hole: NDArray[np.bool_], size: int) -> tuple[slice, slice]:
    """A square of ``size`` pixels around a hole, moved into the image; what does not fit is cut off."""
    window = []
    for places, length in zip(np.nonzero(hole), hole.shape, strict=True):
        start = (int(places.min()) + int(places.max()) + 1 - size) // 2
        start = min(max(start, 0), max(length - size, 0))
        window.append(slice(start, min(length, start + size)))
    return window[0], window[1]


def _squared(
    pixels: NDArray[np.uint8], hole: NDArray[np.bool_], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Made a square of ``size`` pixels by mirroring below and to the right, where the image is smaller than that."""
    rows, cols = size - hole.shape[0], size - hole.shape[1]
    wide = np.pad(pixels, ((0, rows), (0, cols), (0, 0)), mode="symmetric")
    # A mirrored hole is a hole: nothing is known under it.
    return wide, np.pad(hole, ((0, rows), (0, cols)), mode="symmetric")


def _first_guess(pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A smooth fill of a large hole, made on a small copy."""
    if len(pixels) <= GUESSED:
        return fill_smoothly(pixels, hole)
    known = (~hole).astype(np.float32)
    # Averages of known pixels only; a small pixel with none of them is a hole.
    sums, weights = (
        cv2.resize(values, (GUESSED, GUESSED), interpolation=cv2.INTER_AREA)
        for values in (pixels * known[..., None], known)
    )
    unknown = weights < 1e-3
    if unknown.all():
        unknown[np.unravel_index(weights.argmax(), weights.shape)] = False
    small = np.rint(sums / np.maximum(weights, 1e-3)[..., None]).clip(0, 255).astype(np.uint8)
    if unknown.any():
        small = fill_smoothly(small, unknown)
    return np.asarray(cv2.resize(small, hole.shape[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
