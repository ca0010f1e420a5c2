"""Exemplars of tissue beside each other, described in cells, and looked through for what fits a place.

Cells of 4 µm say what the eye sees first: stain, lumen, density of nuclei, sharpness, direction of fibers. All places
of all exemplars are compared at once, by Fourier transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.stain import match_tissue
from napari_histomix.scales import resampled, same_scale
from napari_histomix.stains import GLASS, optical_density, stain_density

T = TypeVar("T", bound=np.generic)
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

Turn = tuple[bool, int]
"""Whether a piece is mirrored, and by how many quarters it is turned then."""
TURNS: tuple[Turn, ...] = tuple(product((False, True), range(4)))
CELL = 4.0
"""µm: a cell of a map."""
BLUR = 12.0
"""µm: standard deviation over which is averaged what surroundings let expect."""
NUCLEI, SHARPNESS, FIBERS = 6.0, 5.0, 10.0
"""µm: standard deviations over which dark nuclei, sharpness and fibers are averaged."""
LEAST = (0.03, 0.03, 0.1, 0.05, 0.2, 0.15, 0.15)
"""Differences in a map's channels that count one, where an image differs by less in itself: density of hematoxylin and
eosin, share of lumen and of dark nuclei, logarithm of sharpness, coherence of fibers."""
FIELD = 300.0
"""µm around a hole, and half the side of another exemplar, in which pieces are looked for."""


def in_cells(values: F32 | Mask, step: int) -> F32:
    """Means over squares of ``step`` pixels, of which an image's sides are multiples."""
    size = values.shape[1] // step, values.shape[0] // step
    return np.asarray(cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32)


def dark_from(pixels: U8, known: Mask) -> float:
    """Density of hematoxylin from which a pixel counts as one of a nucleus."""
    hematoxylin = stain_density(pixels)[..., 0][known & (optical_density(pixels).sum(axis=-1) >= 3 * GLASS)]
    return float(hematoxylin.mean() + hematoxylin.std()) if hematoxylin.size else 1.0


def tissue_cells(pixels: U8, known: Mask, step: int, dark: float) -> tuple[F32, Mask]:
    """What an image (H, W, 3) shows in cells (h, w, 7), and which of the cells are known; others count for nothing.

    The channels are density of hematoxylin and of eosin, share of lumen and of pixels with more hematoxylin than
    ``dark``, logarithm of sharpness, and coherence of fibers times the cosine and the sine of twice their angle.
    """
    weight = in_cells(known, step)
    # What is unknown begins with an edge that is none.
    solid = cv2.erode(known.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=1) > 0

    def averaged(values: F32, micrometers: float = 0.0, where: Mask = known) -> F32:
        parts = [in_cells(values * where, step), in_cells(where, step)]
        if micrometers:
            parts = [np.asarray(cv2.GaussianBlur(part, (0, 0), micrometers / CELL), np.float32) for part in parts]
        return np.asarray(parts[0] / np.maximum(parts[1], 1e-3), np.float32)

    stains = stain_density(pixels)
    clear = (optical_density(pixels).sum(axis=-1) < 3 * GLASS).astype(np.float32)
    hematoxylin, eosin = (np.where(clear > 0, 0, stains[..., stain]) for stain in (0, 1))
    gray = cv2.GaussianBlur(np.ascontiguousarray(stains[..., :2].sum(axis=-1)), (0, 0), 0.7)
    edges = np.asarray(np.abs(cv2.Laplacian(gray, cv2.CV_32F)), np.float32)
    # Over half a micrometer: finer than that, noise has directions of its own.
    gray = cv2.GaussianBlur(gray, (0, 0), max(0.7, 0.5 * step / CELL))
    down, right = (cv2.Sobel(gray, cv2.CV_32F, *order, scale=0.125) for order in ((0, 1), (1, 0)))
    across, along, both = (averaged(part, FIBERS, solid) for part in (right * right, down * down, right * down))
    energy = across + along + 1e-4
    channels = [
        averaged(hematoxylin),
        averaged(eosin),
        averaged(clear),
        averaged(np.asarray(hematoxylin > dark, np.float32), NUCLEI),
        np.log(averaged(edges, SHARPNESS, solid) + 0.01),
        (across - along) / energy,
        2 * both / energy,
    ]
    cells = weight > 0.999
    return np.where(cells[..., None], np.stack(channels, axis=-1), 0).astype(np.float32), cells


def channel_scale(maps: F32, cells: Mask) -> F32:
    """By how much each channel varies in an image, (7,)."""
    spread = maps[cells].std(axis=0) if cells.any() else np.zeros(len(LEAST))
    spread[5:] = np.sqrt((spread[5:] ** 2).mean())
    return np.maximum(spread, LEAST).astype(np.float32)


def blurred(maps: F32, weight: F32) -> F32:
    """Maps (h, w, c) averaged over ``BLUR`` with a weight (h, w)."""
    sums, shares = (cv2.GaussianBlur(each, (0, 0), BLUR / CELL) for each in (maps * weight[..., None], weight))
    return np.asarray(sums / np.maximum(shares, 1e-4)[..., None], np.float32)


def turned(values: NDArray[T], turn: Turn) -> NDArray[T]:
    """What lies in a square (n, n, …) of an exemplar, as a turn lays it."""
    mirrored, quarters = turn
    return np.ascontiguousarray(np.rot90(values[:, ::-1] if mirrored else values, quarters))


def turned_back(values: NDArray[T], turn: Turn) -> NDArray[T]:
    """What a turn would lay as ``values`` (n, n, …), as it lies in an exemplar."""
    mirrored, quarters = turn
    back = np.rot90(values, -quarters)
    return np.ascontiguousarray(back[:, ::-1] if mirrored else back)


def signs_of(turn: Turn) -> F32:
    """What a turn does to a map's channels: a quarter turn doubles to half a circle, a mirror changes the sine."""
    mirrored, quarters = turn
    cosine = -1.0 if quarters % 2 else 1.0
    return np.array([1, 1, 1, 1, 1, cosine, -cosine if mirrored else cosine], np.float32)


class Spectra:
    """Maps (h, w, c) in which templates are looked for, as Fourier transforms."""

    def __init__(self, maps: F32, side: int) -> None:
        self.found = maps.shape[0] - side + 1, maps.shape[1] - side + 1
        self.size = [fft.next_fast_len(length, real=True) for length in maps.shape[:2]]
        self.maps, self.squares = self._of(np.moveaxis(maps, -1, 0)), self._of((maps**2).sum(axis=-1))

    def _of(self, values: F32) -> NDArray[np.complex64]:
        return np.asarray(fft.rfft2(values, self.size, axes=(-2, -1)), np.complex64)

    def differences(self, template: F32, weight: F32) -> F32:
        """Squared differences to a template (side, side, c), weighted (side, side) and summed, at each place."""
        weighted = np.moveaxis(template * weight[..., None], -1, 0)
        products = self.squares * self._of(weight).conj() - 2 * (self.maps * self._of(weighted).conj()).sum(axis=0)
        return self._at_places(products) + np.float32((weighted * np.moveaxis(template, -1, 0)).sum())

    def counts(self, weight: F32) -> F32:
        """Of one map: sums over what a weight (side, side) marks, at each place."""
        return self._at_places(self.maps[0] * self._of(weight).conj())

    def _at_places(self, products: NDArray[np.complex64]) -> F32:
        rows, cols = self.found
        return np.asarray(fft.irfft2(products, self.size)[:rows, :cols], np.float32)


class Atlas:
    """Exemplars, each with what is known of it, side by side, so that they are looked through at once.

    ``pixels`` and ``known`` are all of them, ``maps`` and ``cells`` the same in cells of ``step`` pixels; ``used``
    counts how often a cell was taken.
    """

    def __init__(self, exemplars: Sequence[tuple[U8, Mask]], step: int) -> None:
        self.step, self._dark = step, dark_from(*exemplars[0])
        whole = [whole_cells(*each, step) for each in exemplars]
        self._scale = channel_scale(*tissue_cells(*whole[0], step, self._dark))
        height = max(len(known) for _, known in whole)
        # A column of cells between two of them is known of neither.
        parts = [
            (np.pad(pixels, (*around, (0, 0))), np.pad(known, around))
            for pixels, known in whole
            for around in [((0, height - len(known)), (0, step))]
        ]
        self.pixels, self.known = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
        self.maps, self.cells = self.described(self.pixels, self.known)
        self.used = np.zeros(self.cells.shape, np.float32)
        self._low = blurred(self.maps, self.cells.astype(np.float32))
        self._spectra: dict[int, tuple[Spectra, Spectra, Spectra]] = {}

    def described(self, pixels: U8, known: Mask) -> tuple[F32, Mask]:
        """An image in cells, as ``tissue_cells`` has them; one is as much as the first exemplar differs in itself."""
        maps, cells = tissue_cells(pixels, known, self.step, self._dark)
        return maps / self._scale, cells

    def spectra(self, side: int) -> tuple[Spectra, Spectra, Spectra]:
        """Of the maps, of the blurred maps, and of what is unknown; for templates of a side."""
        if side not in self._spectra:
            unknown = (~self.cells).astype(np.float32)[..., None]
            self._spectra[side] = (Spectra(self.maps, side), Spectra(self._low, side), Spectra(unknown, side))
        return self._spectra[side]


def exemplar_of(other: U8, scale: float, pixels: U8, known: Mask, mpp: float) -> tuple[U8, Mask]:
    """The middle of another image, at the scale and in the stain of the one that is filled."""
    half = round(FIELD / scale)
    middle = tuple(slice(max(0, length // 2 - half), length // 2 + half) for length in other.shape[:2])
    part = other[middle]
    if not same_scale(scale, mpp):
        part = resampled(part, scale / mpp)
    everywhere = np.ones(part.shape[:2], bool)
    # One pixel in sixteen tells as much of a whole image's staining.
    own, target = ((image[::4, ::4], where[::4, ::4]) for image, where in ((part, everywhere), (pixels, known)))
    return match_tissue(part, own, target)[0], everywhere


def whole_cells(pixels: U8, known: Mask, step: int) -> tuple[U8, Mask]:
    """An image and what is known of it, without the rest of a cell at the lower and right border; at least a cell."""
    short = tuple((0, max(0, step - length)) for length in known.shape)
    pixels, known = np.pad(pixels, (*short, (0, 0)), mode="symmetric"), np.pad(known, short)
    height, width = (length // step * step for length in known.shape)
    return pixels[:height, :width], known[:height, :width]
