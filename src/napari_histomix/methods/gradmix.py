"""GradMix: rare nuclei in larger common ones, blended by distance (Doan et al., arXiv 2210.12938, MICCAI 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import window_around
from napari_histomix.compositing.donors import Mask, dilate
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.compositing.planning import CLIPPED_AT_MOST, COVERS_NEIGHBOR, TOO_CLIPPED
from napari_histomix.methods.base import Work
from napari_histomix.methods.candidate_stage import CANDIDATES
from napari_histomix.methods.pasting import CandidateDonorSettings, LaidDonor, Pasting, Site, lay_donor, put_nucleus
from napari_histomix.records import Change, Event, Job, Location
from napari_histomix.sampling import item_seed
from napari_histomix.settings import Option

REACH = 2
"""Pixels that a replaced nucleus, and a donor, are grown by: what lies there is blended."""

RADIUS = 5
"""Of the fast marching that paints over a replaced nucleus, in pixels."""


@dataclass(frozen=True, kw_only=True)
class GradMixSettings(CandidateDonorSettings):
    """Which donors go into which nuclei; as published, each donor is placed once."""

    uses: Annotated[int, Option("How often one donor may be used.", label="Uses of a donor", low=1, high=10**6)] = 1
    share: Annotated[
        float, Option("Share of the common nuclei, the smallest first, that may be replaced.", low=0.01, high=1.0)
    ] = 0.8
    room: Annotated[
        float,
        Option("Least area of a replaced nucleus, grown by two pixels, over that of its donor.", low=1.0, high=100.0),
    ] = 2.3


class GradMix(Pasting[GradMixSettings]):
    """A common nucleus painted over, and a smaller rare one blended in with a mask that falls off around it."""

    name, title = "gradmix", "GradMix"
    makes = "rare nuclei blended into the place of larger common ones, with a mask that falls off with distance."
    citation = "Doan et al., GradMix, MICCAI 2022, arXiv 2210.12938"
    settings, stage = GradMixSettings, CANDIDATES

    def sites(self, work: Work, settings: GradMixSettings, images: ImageCache) -> Job[Iterable[Site]]:
        """Pairs of a common nucleus and the first donor that fits into it, in random order."""
        candidates = self.kept_candidates(work, settings.kept_only)
        scale = {entry.source.image: float(entry.mpp or 0) for entry in work.dataset.training}
        majors = [each for each in candidates if each.target.kind == "major"]
        majors.sort(key=lambda each: (each.target.area * scale[each.target.image] ** 2, each.rank))
        donors = list(dict.fromkeys(each.donor for each in candidates))
        areas = np.array([donor.area * scale[donor.image] ** 2 for donor in donors])
        uses = np.zeros(len(donors), int)
        pairs = []
        for number, major in enumerate(majors[: int(settings.share * len(majors))]):
            if number % 200 == 0:
                yield Event("Pairing nuclei", number, len(majors))
            target = images.get(major.target.image)
            if target is None or not target.holds(major.target):
                continue
            room = np.count_nonzero(grown(target, major.target)) * target.image.mpp**2
            fitting = np.flatnonzero((room >= settings.room * areas) & (uses < settings.uses))
            if len(fitting):
                # The first of those that were used least: each once, before any is used again.
                chosen = int(fitting[np.argmin(uses[fitting])])
                uses[chosen] += 1
                pairs.append(Site(major.rank, major.target, donors[chosen], item_seed(settings.seed, major.rank)))
        order = np.random.default_rng(settings.seed).permutation(len(pairs))
        return [pairs[index] for index in order]

    def lay(self, site: Site, target: IndexedImage, giver: IndexedImage, settings: GradMixSettings) -> Change | str:
        """Paint over the nucleus, fit the donor's color, and blend."""
        laid = lay_donor(site, target, giver, symmetries=False)
        if isinstance(laid, str):
            return laid
        image = target.image
        replaced = site.target.instance
        boxes = [laid.box, *([target.boxes[replaced]] if replaced else ())]
        margin = 2 * RADIUS + int(np.sqrt(settings.room * site.donor.area))
        window = window_around(boxes, margin, image.instances.shape)
        pixels, instances = image.pixels[window], image.instances[window]
        nucleus = laid.within(window, laid.crop.nucleus)
        old = (instances == replaced) & (instances != 0)
        others = (instances != 0) & ~old

        # The zone that may change: the replaced nucleus and the donor, both grown; around a free place as much as
        # the area rule asks for.
        zone = dilate(old, REACH) | dilate(nucleus, REACH)
        while not replaced and zone.sum() < settings.room * nucleus.sum():
            zone = dilate(zone, 1)
        if np.any(dilate(nucleus, 1) & others):
            return COVERS_NEIGHBOR
        blended = zone & ~nucleus & ~others
        if blended.sum() < (1 - CLIPPED_AT_MOST) * (zone & ~nucleus).sum():
            return TOO_CLIPPED

        clean = painted_over(pixels, dilate(old, REACH), others) if replaced else pixels
        donor = colored(laid, target, window, old)
        weight = falloff(nucleus, blended, laid.within(window, laid.crop.surroundings))[..., None]
        mixed = np.rint(weight * donor + (1 - weight) * clean).astype(np.uint8)
        mixed[~(nucleus | blended)] = pixels[~(nucleus | blended)]
        mixed[blended] = cv2.medianBlur(mixed, 3)[blended]
        gone = (replaced,) if replaced else ()
        return put_nucleus(site, target, window, laid, mixed, blended, removed=gone)


def colored(laid: LaidDonor, target: IndexedImage, window: tuple[slice, slice], old: Mask) -> NDArray[np.float32]:
    """The donor's pixels in a window, moved to the mean of its own mean color and that of the nucleus that it replaces.

    Where no nucleus is replaced, the target's color is that of all nuclei of its image.
    """
    crop, image = laid.pixels.astype(np.float32), target.image
    here = image.pixels[window][old] if old.any() else image.pixels[image.instances != 0]
    if len(here):
        shift = (here.mean(axis=0) - crop[laid.crop.nucleus].mean(axis=0)) / 2
        crop[laid.crop.nucleus] += shift.astype(np.float32)
    return laid.within(window, np.clip(crop, 0, 255))


def grown(target: IndexedImage, location: Location) -> Mask:
    """A nucleus grown by ``REACH``, in its bounding box with room for that; beyond the image's edge, too."""
    box = target.boxes[location.instance]
    return dilate(np.pad(target.image.instances[box] == location.instance, REACH), REACH)


def painted_over(pixels: NDArray[np.uint8], hole: Mask, others: Mask) -> NDArray[np.uint8]:
    """Pixels (h, w, 3) with a hole painted by fast marching, from tissue alone: other nuclei count as unknown, too."""
    near = others & dilate(hole, 2 * RADIUS)
    return np.asarray(cv2.inpaint(pixels, (hole | near).astype(np.uint8), RADIUS, cv2.INPAINT_TELEA), np.uint8)


def falloff(nucleus: Mask, blended: Mask, surroundings: Mask) -> NDArray[np.float32]:
    """Weight (h, w) of a donor's pixels: 1 in its nucleus, falling with the chamfer distance from it.

    At the edge of the zone it comes to 0, and so it does where the donor's own image has another nucleus or ends.
    """
    own = nucleus | (blended & surroundings)
    away = cv2.distanceTransform((~nucleus).astype(np.uint8), cv2.DIST_L2, 3)
    left = cv2.distanceTransform(np.pad(own, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.where(nucleus, 1, np.where(own, left / np.maximum(away + left, 1e-6), 0)).astype(np.float32)


METHOD = GradMix()
