"""Which donor fits a tissue segment, tried on the pixels of both images: turn, stain, and the seam between them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.fitting import INSIDE, OUTSIDE, Donor, Fit, Look, Surroundings
from napari_histomix.compositing.replacement import Swap, moved_image
from napari_histomix.compositing.seams import find_seam, seen_along
from napari_histomix.compositing.stain import KIND_SHIFT, match_tissue
from napari_histomix.compositing.tissue_map import TissueMap
from napari_histomix.records import LabeledImage, Segment
from napari_histomix.segmentation.anchors import segments_of
from napari_histomix.segmentation.pool import SegmentPool

SHORT = "no turn brings enough of the donor there"
DIFFERENT = "the tissue around the donor is different (setting: mismatch)"
UNLIKE = "the donor is unlike the target (setting: unlike)"
UNSHARP = "the donor's image is sharper or less sharp"
OFF_STAIN = "the donor's stain is too far from the target's (setting: stain matching)"
SEEN = "a seam would be seen (setting: seam)"
SHARPNESS = 2.5
"""Most that the sharpness of one image may be of the other's."""
NO_TISSUE = "hardly any tissue is in it"
LEAST_TISSUE = 0.4
"""Share of a target that is neither lumen nor glass, below which there is nothing to replace."""
CLOSE = 6
"""Donors that are tried on closely, of those that a quick look finds best."""
DOUBT = 1.5
"""How many times as unlike as asked for a donor may seem before it is looked at."""
HELD, MAPPED = 32, 1024
"""Images, and maps of images, that are held in memory at once."""


Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class FittedSwap:
    """A replacement along a seam, with how well the donor fits, and the mean cost of a pixel of the seam."""

    donor: int
    swap: Swap
    fit: Fit
    seam: float

    @property
    def facts(self) -> dict[str, float]:
        """How well it fits, for provenance."""
        values = {"cover": self.fit.cover, "mismatch": self.fit.mismatch, "unlike": self.fit.unlike, "seam": self.seam}
        return {name: round(value, 4) for name, value in values.items()}


class SegmentFits:
    """Donors of a pool tried on targets, whose images ``read`` gives by name.

    ``mismatch``, ``unlike`` and ``seam`` bound what may differ around a target, in it and along the seam, which is
    painted where it differs by ``visible``; ``tries`` is how many donors a plan looks at for a target.
    """

    def __init__(
        self,
        pool: SegmentPool,
        read: Callable[[str], LabeledImage],
        *,
        tries: int,
        mismatch: float,
        unlike: float,
        seam: float,
        visible: float,
        stain_matching: bool,
    ) -> None:
        self.pool, self.read = pool, read
        self.tries, self.stain_matching = tries, stain_matching
        self.mismatch, self.unlike, self.seam, self.visible = mismatch, unlike, seam, visible
        self._images: OrderedDict[str, LabeledImage] = OrderedDict()
        self._maps: OrderedDict[str, TissueMap] = OrderedDict()
        self._donors: OrderedDict[int, Donor] = OrderedDict()
        self._around: tuple[int, Surroundings] | None = None

    def best(self, target: int, donors: Sequence[int], free: Mask) -> tuple[FittedSwap | None, Counter[str]]:
        """The donor, of several, that fits a segment best, and how many were refused for what reason.

        A quick look at all of them finds the ``CLOSE`` that are tried on. ``free`` (H, W) are the pixels of the
        target's image that may change.
        """
        refusals: Counter[str] = Counter()
        if self._map(target).tissue(self.pool.segment(target)) < LEAST_TISSUE:
            return None, Counter([NO_TISSUE])
        looks: list[tuple[Look, int]] = []
        for donor in donors:
            look = self._look(target, donor)
            if isinstance(look, str):
                refusals[look] += 1
            else:
                looks.append((look, donor))
        looks.sort(key=lambda one: one[0].cost)
        fits: list[tuple[Fit, int]] = []
        for look, donor in looks[:CLOSE]:
            fit = self._fit(target, donor, look)
            if isinstance(fit, str):
                refusals[fit] += 1
            else:
                fits.append((fit, donor))
        for fit, donor in sorted(fits, key=lambda one: one[0].cost):
            fitted = self.cut(target, donor, fit, free)
            if not isinstance(fitted, str):
                return fitted, refusals
            refusals[fitted] += 1
        # Those that were not tried on differ more.
        refusals[DIFFERENT] += len(looks[CLOSE:])
        return None, +refusals

    def _look(self, target: int, donor: int) -> Look | str:
        """A quick look at a donor, or why it will not do."""
        ground, source = self._map(target), self._map(donor)
        if not 1 / SHARPNESS <= source.sharpness / ground.sharpness <= SHARPNESS:
            return UNSHARP
        around = self._surroundings(target)
        if around.unlike(self._donor(donor)) > DOUBT * self.unlike:
            return UNLIKE
        return around.look(self._donor(donor)) or SHORT

    def _fit(self, target: int, donor: int, look: Look) -> Fit | str:
        """The pose of a donor that agrees best with a target's surroundings, or why none will do."""
        fit = self._surroundings(target).fit(self._donor(donor), look)
        if fit is None:
            return SHORT
        if fit.mismatch > self.mismatch:
            return DIFFERENT
        return UNLIKE if fit.unlike > self.unlike else fit

    def _surroundings(self, target: int) -> Surroundings:
        """What donors of a target have to agree with; that of the last one is kept."""
        if self._around is None or self._around[0] != target:
            self._around = target, Surroundings(self.pool.segment(target), self._map(target))
        return self._around[1]

    def cut(self, target: int, donor: int, fit: Fit, free: Mask) -> FittedSwap | str:
        """A donor's image cut out along a seam around a target, or why that will not do."""
        ground, source = self._image(target), self._image(donor)
        segment, given = self.pool.segment(target), self.pool.segment(donor)
        core, band, window = seam_room(segment, free.shape, ground.mpp)
        core, band, own = core & free[window], band & free[window], ground.pixels[window]
        moved = moved_image(source.pixels, given, fit.pose, window)
        stain: dict[str, list[float]] = {}
        if self.stain_matching:
            moved, stain = match_tissue(moved, (moved, band), (own, band))
            if any(abs(shift) >= KIND_SHIFT for kind in ("nuclei", "rest") for shift in stain.get(kind, ())):
                return OFF_STAIN
        found = find_seam(own, moved, core, band, ground.mpp)
        if found.cost > self.seam:
            return SEEN
        seen = seen_along(own, moved, found.mask, ground.mpp, self.visible)
        cut, painted = (_segment_at(mask, window) for mask in (found.mask, seen))
        return FittedSwap(donor, Swap(segment, given, fit.pose, cut, stain, painted), fit, found.cost)

    def _image(self, number: int) -> LabeledImage:
        """The image that a segment comes from."""
        name = self.pool.image(number).source.image
        return _held(self._images, name, lambda: self.read(name), HELD)

    def _map(self, number: int) -> TissueMap:
        """The map of the image that a segment comes from, an eighth of its size."""

        def made() -> TissueMap:
            image = self._image(number)
            return TissueMap.of(image.pixels, image.mpp)

        return _held(self._maps, self.pool.image(number).source.image, made, MAPPED)

    def _donor(self, number: int) -> Donor:
        return _held(self._donors, number, lambda: Donor(self.pool.segment(number), self._map(number)), 4 * MAPPED)


def _segment_at(mask: Mask, window: tuple[slice, slice]) -> Segment | None:
    """A mask (h, w) in a window of an image as a segment of it, if there is anything in it."""
    for found in segments_of(mask.astype(np.uint8)):
        return replace(found, row=found.row + window[0].start, col=found.col + window[1].start)
    return None


def _held(known: OrderedDict[Key, Value], key: Key, made: Callable[[], Value], most: int) -> Value:
    """What is held for a key, else what is made for it; those used last are held, at most so many."""
    if key not in known:
        known[key] = made()
        while len(known) > most:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key]


def seam_room(segment: Segment, shape: tuple[int, int], mpp: float) -> tuple[Mask, Mask, tuple[slice, slice]]:
    """What of a segment is replaced in any case, and where around its outline a seam may run, in a window of an image.

    The two (h, w) lie in the window of an image (H, W) that is returned with them.
    """
    away = int(np.ceil(OUTSIDE / mpp)) + 1
    window = tuple(
        slice(max(0, first - away), min(size, first + length + away))
        for first, length, size in zip((segment.row, segment.col), segment.mask.shape, shape, strict=True)
    )
    mask = np.zeros([part.stop - part.start for part in window], bool)
    row, col = segment.row - window[0].start, segment.col - window[1].start
    mask[row : row + segment.mask.shape[0], col : col + segment.mask.shape[1]] = segment.mask
    # Beyond the image's border the segment goes on: no seam is needed there.
    wide = np.pad(mask, 1, mode="edge").astype(np.uint8)
    inside, outside = (
        cv2.distanceTransform(np.asarray(side, np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        for side in (wide, 1 - wide)
    )
    core = mask & (inside > min(INSIDE / mpp, 0.5 * float(inside.max())))
    return core, (mask | (outside <= OUTSIDE / mpp)) & ~core, (window[0], window[1])
