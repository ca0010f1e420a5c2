"""Which donor fits a tissue segment, tried on the pixels of both images: turn, stain, and the seam between them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.fitting import MARGIN, Fit, TissueMap, fit_donor
from napari_histomix.compositing.replacement import Swap, moved_image
from napari_histomix.compositing.seams import find_seam
from napari_histomix.compositing.stain import KIND_SHIFT, match_tissue
from napari_histomix.records import LabeledImage
from napari_histomix.segmentation.anchors import segments_of
from napari_histomix.segmentation.pool import SegmentPool

SHORT = "no turn brings enough of the donor there"
DIFFERENT = "the tissue around the donor is different (setting: mismatch)"
UNLIKE = "the donor is unlike the target"
UNSHARP = "the donor's image is sharper or less sharp"
OFF_STAIN = "the donor's stain is too far from the target's (setting: stain matching)"
SEEN = "a seam would be seen (setting: seam)"
SHARPNESS = 2.5
"""Most that the sharpness of one image may be of the other's."""
NO_TISSUE = "hardly any tissue is in it"
LEAST_TISSUE = 0.4
"""Share of a target that is neither lumen nor glass, below which there is nothing to replace."""
MOST_UNLIKE = 0.5
"""Most that a donor may differ from its target on the whole, as ``Fit.unlike`` counts it."""
HELD = 32
"""Images that are held in memory at once."""


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

    ``mismatch`` and ``seam`` bound what may differ around a target and along the seam; ``tries`` is how many donors a
    plan tries for a target.
    """

    def __init__(
        self,
        pool: SegmentPool,
        read: Callable[[str], LabeledImage],
        *,
        tries: int,
        mismatch: float,
        seam: float,
        stain_matching: bool,
    ) -> None:
        self.pool, self.read = pool, read
        self.tries, self.stain_matching = tries, stain_matching
        self.mismatch, self.seam = mismatch, seam
        self._images: OrderedDict[str, LabeledImage] = OrderedDict()
        self._maps: dict[str, TissueMap] = {}
        self._fits: dict[tuple[int, int], Fit | str] = {}

    def best(self, target: int, donors: Sequence[int], free: Mask) -> tuple[FittedSwap | None, Counter[str]]:
        """The donor, of several, that fits a segment best, and how many were refused for what reason.

        ``free`` (H, W) are the pixels of the target's image that may change.
        """
        refusals: Counter[str] = Counter()
        if self._map(target).tissue(self.pool.segment(target)) < LEAST_TISSUE:
            return None, Counter([NO_TISSUE])
        fits: list[tuple[Fit, int]] = []
        for donor in donors:
            fit = self.fit(target, donor)
            if isinstance(fit, str):
                refusals[fit] += 1
            else:
                fits.append((fit, donor))
        for fit, donor in sorted(fits, key=lambda one: one[0].cost):
            fitted = self.cut(target, donor, fit, free)
            if not isinstance(fitted, str):
                return fitted, refusals
            refusals[fitted] += 1
        return None, refusals

    def fit(self, target: int, donor: int) -> Fit | str:
        """The pose of a donor that agrees best with a target's surroundings, or why none will do."""
        if (target, donor) not in self._fits:
            self._fits[target, donor] = self._fit(target, donor)
        return self._fits[target, donor]

    def _fit(self, target: int, donor: int) -> Fit | str:
        ground, source = self._map(target), self._map(donor)
        sharper = source.sharpness / ground.sharpness
        if not 1 / SHARPNESS <= sharper <= SHARPNESS:
            return UNSHARP
        fit = fit_donor(self.pool.segment(target), ground, self.pool.segment(donor), source, self.mismatch)
        if fit is None:
            return SHORT
        if fit.mismatch > self.mismatch:
            return DIFFERENT
        return UNLIKE if fit.unlike > MOST_UNLIKE else fit

    def cut(self, target: int, donor: int, fit: Fit, free: Mask) -> FittedSwap | str:
        """A donor's image cut out along a seam around a target, or why that will not do."""
        ground, source = self._image(target), self._image(donor)
        segment, given = self.pool.segment(target), self.pool.segment(donor)
        core, band = (part & free for part in seam_room(segment.in_image(free.shape), ground.mpp))
        (room,) = segments_of((core | band).astype(np.uint8))
        window = room.window
        core, band, own = core[window], band[window], ground.pixels[window]
        moved = moved_image(source.pixels, given, fit.pose, window)
        stain: dict[str, list[float]] = {}
        if self.stain_matching:
            moved, stain = match_tissue(moved, (moved, band), (own, band))
            if any(abs(shift) >= KIND_SHIFT for kind in ("nuclei", "rest") for shift in stain.get(kind, ())):
                return OFF_STAIN
        found = find_seam(own, moved, core, band, ground.mpp)
        if found.cost > self.seam:
            return SEEN
        (cut,) = segments_of(found.mask.astype(np.uint8))
        cut = replace(cut, row=cut.row + room.row, col=cut.col + room.col)
        return FittedSwap(donor, Swap(segment, given, fit.pose, cut, stain), fit, found.cost)

    def _image(self, number: int) -> LabeledImage:
        """The image that a segment comes from; those used last are held in memory."""
        name = self.pool.image(number).source.image
        if name not in self._images:
            self._images[name] = self.read(name)
            while len(self._images) > HELD:
                self._images.popitem(last=False)
        self._images.move_to_end(name)
        return self._images[name]

    def _map(self, number: int) -> TissueMap:
        """The map of the image that a segment comes from, a hundredth of its size."""
        name = self.pool.image(number).source.image
        if name not in self._maps:
            image = self._image(number)
            self._maps[name] = TissueMap.of(image.pixels, image.mpp)
        return self._maps[name]


def seam_room(mask: Mask, mpp: float) -> tuple[Mask, Mask]:
    """What of a segment (H, W) is replaced in any case, and where around its outline a seam may run."""
    # Beyond the image's border the segment goes on: no seam is needed there.
    wide = np.pad(mask, 1, mode="edge").astype(np.uint8)
    inside, outside = (
        cv2.distanceTransform(np.asarray(side, np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        for side in (wide, 1 - wide)
    )
    margin = MARGIN / mpp
    core = mask & (inside > min(margin, 0.5 * float(inside.max())))
    return core, (mask | (outside <= margin)) & ~core
