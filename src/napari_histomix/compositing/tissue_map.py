"""What an image of tissue shows, on a map of a few micrometers a cell, by which donors are tried on.

Stain, lumen, density of nuclei, and the direction of fibers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft2

from napari_histomix.compositing.donors import Mask
from napari_histomix.records import Segment
from napari_histomix.stains import GLASS, optical_density, stain_density

CELL = 2.0
"""µm: a cell of a map."""
FINE = 0.5
"""µm/px that a map is computed at, where an image is as fine."""
FIBERS = 12.0
"""µm: standard deviation over which the direction of fibers is averaged."""
COLOR = 4.0
"""µm: standard deviation over which stain and lumen are averaged: single nuclei need not meet their likes."""
CONTRAST = 3.0
"""µm: standard deviation of the window that contrast is taken in."""
DENSITY = 8.0
"""µm: standard deviation over which nuclei are counted."""
WEIGHTS = np.array((1.5, 1.5, 3, 1, 2, 2, 1.5, 1), np.float32)
"""Of the channels of a map: a third more or less of lumen counts one, and so do fibers, half coherent, that cross."""
CLEAR = 2
"""Of the channels, that of lumen and glass."""
TENTH = 0.1
"""Optical density that counts one."""
CROWDED = 0.2
"""Share of dark nuclei in tissue that counts one."""
QUICK = 2
"""Cells of a map in a row that are one for a quick look."""
PADDED = 16
"""Maps are padded to multiples of so many of these, so that most have transforms of one size."""


@dataclass(frozen=True, eq=False)
class TissueMap:
    """What an image shows, in cells of ``CELL`` µm.

    ``channels`` (h, w, 8): hematoxylin and eosin in tenths of optical density; share of lumen and glass; density of
    dark nuclei; coherence of fibers times the cosine and the sine of twice their angle; what is neither hematoxylin nor
    eosin, and the contrast within some micrometers, both in tenths of optical density. ``shape`` is (H, W) of the
    image, ``mpp`` its µm/px, and ``sharpness`` the mean absolute Laplacian of its stains at 0.5 µm/px or its own scale.
    """

    channels: NDArray[np.float32]
    shape: tuple[int, int]
    mpp: float
    sharpness: float

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], mpp: float) -> TissueMap:
        """The map of an image (H, W, 3)."""
        height, width = pixels.shape[:2]
        fine = min(1.0, mpp / FINE)
        half = np.asarray(cv2.resize(pixels, None, fx=fine, fy=fine, interpolation=cv2.INTER_AREA), np.uint8)
        stains = stain_density(half)
        clear = (optical_density(half).sum(axis=-1) < 3 * GLASS).astype(np.float32)
        tissue = clear == 0
        hematoxylin, eosin, residual = (np.where(tissue, stains[..., stain], 0) for stain in range(3))
        seen = hematoxylin[tissue]
        dark = (hematoxylin > seen.mean() + 1.5 * seen.std()) if seen.size else np.zeros_like(tissue)
        size = max(1, round(width * mpp / CELL)), max(1, round(height * mpp / CELL))

        def in_cells(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)

        def averaged(values: NDArray[np.float32], micrometers: float) -> NDArray[np.float32]:
            return np.asarray(cv2.GaussianBlur(values, (0, 0), micrometers / CELL), np.float32)

        gray = np.ascontiguousarray(stains[..., :2].sum(axis=-1))
        spread = averaged(in_cells(gray * gray), CONTRAST) - averaged(in_cells(gray), CONTRAST) ** 2
        edges = np.abs(cv2.Laplacian(gray, cv2.CV_32F))[tissue]
        gray = cv2.GaussianBlur(gray, (0, 0), 1.0)
        down, right = (cv2.Sobel(gray, cv2.CV_32F, *order, scale=0.125) for order in ((0, 1), (1, 0)))
        tensor = [averaged(in_cells(part), FIBERS) for part in (right * right, down * down, right * down)]
        energy = tensor[0] + tensor[1] + 1e-4
        channels = [
            averaged(in_cells(hematoxylin), COLOR) / TENTH,
            averaged(in_cells(eosin), COLOR) / TENTH,
            averaged(in_cells(clear), COLOR),
            averaged(in_cells(dark.astype(np.float32)), DENSITY) / CROWDED,
            (tensor[0] - tensor[1]) / energy,
            2 * tensor[2] / energy,
            averaged(in_cells(residual), COLOR) / TENTH,
            np.sqrt(np.maximum(spread, 0)) / TENTH,
        ]
        sharpness = max(float(edges.mean()) if edges.size else 0.0, 1e-4)
        return cls(np.stack(channels, axis=-1) * WEIGHTS, (height, width), mpp, sharpness)

    @cached_property
    def quick(self) -> NDArray[np.float32]:
        """The channels (h / ``QUICK``, w / ``QUICK``, 8) in larger cells."""
        return in_large_cells(self.channels)

    @property
    def padded(self) -> tuple[int, int]:
        """Size (H, W) of what ``spectra`` are of."""
        rows, cols = (-(-size // PADDED) * PADDED for size in self.quick.shape[:2])
        return rows, cols

    @cached_property
    def spectra(self) -> NDArray[np.complex64]:
        """Fourier transforms (9, H, W / 2 + 1) of the channels of ``quick`` and of the sum of their squares."""
        channels = self.quick.transpose(2, 0, 1)
        planes = np.zeros((len(channels) + 1, *self.padded), np.float32)
        within = np.s_[:, : channels.shape[1], : channels.shape[2]]
        planes[:-1][within], planes[-1:][within] = channels, (channels**2).sum(axis=0)
        return np.asarray(rfft2(planes), np.complex64)

    def cells(self, segment: Segment) -> Mask:
        """Cells (h, w) of the image whose centers lie in a segment."""
        cells = self.channels.shape[:2]
        places: list[NDArray[np.intp]] = []
        for axis, first in enumerate((segment.row, segment.col)):
            centers = ((np.arange(cells[axis]) + 0.5) * self.shape[axis] / cells[axis]).astype(np.intp) - first
            seen = np.flatnonzero((centers >= 0) & (centers < segment.mask.shape[axis]))
            places += [seen, centers[seen]]
        inside = np.zeros(cells, bool)
        inside[np.ix_(*places[::2])] = segment.mask[np.ix_(*places[1::2])]
        return inside

    def tissue(self, segment: Segment) -> float:
        """Share of a segment that is neither lumen nor glass."""
        inside = self.cells(segment)
        return float(1 - self.channels[inside, CLEAR].mean() / WEIGHTS[CLEAR]) if inside.any() else 1.0


def in_large_cells(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means (h / ``QUICK``, w / ``QUICK``, …) of values (h, w, …) of cells; the last row and column are repeated."""
    rows, cols = (-(-size // QUICK) for size in values.shape[:2])
    missing = [(0, QUICK * whole - size) for whole, size in zip((rows, cols), values.shape[:2], strict=True)]
    whole = np.pad(values, [*missing, *[(0, 0)] * (values.ndim - 2)], mode="edge")
    return np.asarray(whole.reshape(rows, QUICK, cols, QUICK, *values.shape[2:]).mean(axis=(1, 3)), np.float32)
