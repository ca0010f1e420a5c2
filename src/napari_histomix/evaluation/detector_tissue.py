"""What a detector of tissue is shown: crops along what was changed, and real tissue of the very same places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import compose
from napari_histomix.compositing.donors import Mask
from napari_histomix.datasets import Dataset
from napari_histomix.evaluation.crops import LEAST_TISSUE, NOT_READ, TRIES, Square
from napari_histomix.evaluation.detector_windows import TISSUE, Crop, CropGroups, Crops, drawn_at_most, synthetic_crop
from napari_histomix.methods import method_of
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, INPAINTED, REAL, Change, Event, Job, LabeledImage
from napari_histomix.scales import same_scale
from napari_histomix.stains import is_tissue

if TYPE_CHECKING:
    from napari_histomix.evaluation.detector import DetectorSettings

U8 = NDArray[np.uint8]
Read = Callable[[str], LabeledImage]

NO_EDGE = "no crop of it shows tissue and an edge of what was changed"
TOO_SMALL = "its image is smaller than a crop"
PAIRS = 8
"""Synthetic crops, each with a real one, that a network learns from in one step."""
HELD = 32
"""Images that are held in memory at once."""


def tissue_crops(dataset: Dataset, changes: Sequence[Change], settings: DetectorSettings) -> Job[Crops]:
    """Crops of derived images, each with real ones of the same tissue; a long job.

    A synthetic crop is centered on an edge of what was changed; where a method changes a whole image, on any pixel.
    Beside it are the target's own pixels of that place and, where the method can tell what the donor's pixels are, the
    donor's image around them, if it is at the target's scale. So all tissue of a synthetic crop is seen in a real one
    too: neither what is replaced nor what comes in its place tells anything, only how they meet, and what was painted.
    The three lie in one fold (``group``), belong together (``pair``) and share their donors (``parts``).

    At most ``per_image`` synthetic crops of an image; no two share more than half their side.
    """
    side = settings.tissue_side
    rng = np.random.default_rng([settings.seed, 2])
    refusals: Counter[str] = Counter()
    groups = CropGroups(dataset)
    read: Read = lru_cache(HELD)(dataset.read)
    known = {entry.source.image for entry in dataset.training}
    crops: list[Crop] = []
    drawn = drawn_at_most(changes, -(-settings.most // settings.per_image), rng)
    for number, change in enumerate(drawn):
        yield Event("Cutting crops", number, len(drawn))
        if change.image not in known:
            refusals[NOT_READ] += 1
            continue
        if min(change.shape) < side:
            refusals[TOO_SMALL] += 1
            continue
        image = read(change.image)
        shares = change.class_shares or {image.kind: 1.0}
        kind = max(shares, key=shares.__getitem__)
        squares = _squares(change, compose(image, [change]).image.pixels, side, settings.per_image, rng)
        if not squares:
            refusals[NO_EDGE] += 1
        for square in squares:
            made = synthetic_crop(image, change, square, kind, groups)
            origin, own = change.origin[square.window].copy(), image.pixels[square.window].copy()
            alike, unfitted = [(change.image, own)], None
            donor = _donor_square(dataset, change, square, image.mpp, known, read)
            if donor is not None:
                given = read(donor.image).pixels[donor.window].copy()
                alike.append((donor.image, given))
                unfitted = np.where(origin[..., None] == DONOR, given, own) if (origin == REAL).any() else None
            made = replace(made, origin=origin, unfitted=unfitted, pair=len(crops))
            crops.append(made)
            crops += [
                replace(made, pixels=pixels, image=name, change=None, pasted=None, unfitted=None, origin=None)
                for name, pixels in alike
            ]
    return Crops(TISSUE, crops, refusals)


def signs(origin: U8, *, pasted: bool) -> Mask:
    """What of a synthetic crop gives it away, from its origin map (S, S): the edges of what was changed, and paint.

    Everything that was changed, where the crop shows no edge of it; ``pasted`` is of the same without blending.
    """
    changed = origin == DONOR if pasted else origin != REAL
    edges = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) != 0
    if not pasted:
        edges |= origin == INPAINTED
    return np.asarray(edges if edges.any() else changed)


def _squares(change: Change, pixels: U8, side: int, most: int, rng: np.random.Generator) -> list[Square]:
    """Crops within a derived image (H, W, 3) that are centered on edges of what was changed."""
    new = change.origin != REAL
    edges = cv2.morphologyEx(new.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) != 0
    places = np.argwhere(edges if edges.any() else new) - side // 2
    places = places[((places >= 0) & (places <= np.array(new.shape) - side)).all(axis=1)]
    squares: list[Square] = []
    for place in rng.integers(len(places), size=TRIES) if len(places) else ():
        square = Square(change.name, int(places[place][0]), int(places[place][1]), side)
        apart = all(max(abs(square.row - each.row), abs(square.col - each.col)) * 2 >= side for each in squares)
        if apart and len(squares) < most and is_tissue(pixels[square.window]).mean() >= LEAST_TISSUE:
            squares.append(square)
    return squares


def _donor_square(
    dataset: Dataset, change: Change, square: Square, mpp: float, known: set[str], read: Read
) -> Square | None:
    """A crop of a donor's image with the donor's pixel nearest to a synthetic crop's middle at the same place in it.

    None where there is no such pixel, or no such crop at the target's scale.
    """
    side = square.side
    donors = np.argwhere(change.origin[square.window] == DONOR)
    if not len(donors):
        return None
    nearest = donors[np.abs(donors - side // 2).sum(axis=1).argmin()]
    row, col = (nearest + np.array([square.row, square.col])).tolist()
    traced = method_of(change.method).trace(Record.of(change, dataset.class_name), row, col, painted=False)
    name = str(traced.get("image", ""))
    if name not in known:
        return None
    donor = read(name)
    room = np.array(donor.pixels.shape[:2]) - side
    if (room < 0).any() or not same_scale(donor.mpp, mpp):
        return None
    row, col = np.clip(np.round([float(traced["y"]), float(traced["x"])]) - nearest, 0, room).astype(int).tolist()
    return Square(name, row, col, side)
