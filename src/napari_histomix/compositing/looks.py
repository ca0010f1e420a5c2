"""What surrounds a nucleus within a few micrometers, in numbers: real ones at home, and donors as they would lie.

The candidate stage compares places by 56 µm around them with their center erased. What gives a synthetic nucleus away
is nearer: a light ring of the donor's own tissue, or tissue that is more even than where such nuclei are.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import Window, cut, window_around
from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.planning import Plan
from napari_histomix.records import Location
from napari_histomix.sampling import TISSUE_DENSITY
from napari_histomix.stains import optical_density, stain_density

RIM_UM, NEAR_UM, BAND_UM, FAR_UM = (0.25, 0.75), (0.5, 1.75), (0.75, 2.5), (2.5, 6.0)
"""Rings around a nucleus, in µm from it: what layers 2 and 3 are; what a collar brings along; beyond, as far as a
detector of nuclei sees."""


def look_of_nucleus(home: IndexedImage, nucleus: Location) -> NDArray[np.float64]:
    """What surrounds a real nucleus of an image, as ``look_around`` measures it."""
    image = home.image
    frame = _frame(home.boxes[nucleus.instance], image.mpp, image.instances.shape)
    own = image.instances[frame] == nucleus.instance
    others = (image.instances[frame] != 0) & ~own
    return look_around(image.pixels[frame], own, others, np.ones_like(own), image.mpp)


def look_of_plan(target: IndexedImage, plan: Plan) -> NDArray[np.float64]:
    """What would surround a donor that is laid in an image, before anything is painted (``look_around``)."""
    image, corner = target.image, (plan.row, plan.col)
    frame = _frame(plan.window, image.mpp, image.instances.shape)
    nucleus, donor, erased = (cut(mask, frame, corner) for mask in (plan.nucleus, plan.donor, plan.erased))
    pixels, instances = image.pixels[frame].copy(), image.instances[frame]
    pixels[donor] = cut(plan.donor_pixels, frame, corner)[donor]
    replaced = (instances == plan.candidate.target.instance) & (instances != 0)
    others = (instances != 0) & ~replaced & ~nucleus
    return look_around(pixels, nucleus, others, donor | ~(erased | replaced), image.mpp)


def look_around(pixels: NDArray[np.uint8], nucleus: Mask, others: Mask, known: Mask, mpp: float) -> NDArray[np.float64]:
    """Measure what surrounds a nucleus.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        RGB, with at least 6 µm around the nucleus where its image goes on.
    nucleus, others : (h, w) bool
        The nucleus, and all other labeled ones.
    known : (h, w) bool
        Which pixels are what will be seen; others do not count.
    mpp : float
        µm per pixel.

    Returns
    -------
    (13,) float64
        Green optical densities: mean and spread in the rim; mean in what is near; spread, darkest against the mean,
        lightest and slope in the band around; mean and slope in what is far. Of the latter, also the share of glass and
        lumen, hematoxylin's darkest and mean, and eosin's mean. Other nuclei count in the rim and in the means of green
        density alone. None depends on how the image is turned.
    """
    away = cv2.distanceTransform((~nucleus).astype(np.uint8), cv2.DIST_L2, 5) * mpp
    green = optical_density(pixels)[..., 1]
    stains = stain_density(pixels)
    slope = np.hypot(*(cv2.Sobel(green, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1))))

    def ring(reach: tuple[float, float], free: bool) -> Mask:
        everything = (away > reach[0]) & (away <= reach[1]) & known
        between = everything & ~others
        # Where neighbors fill it, they are what is seen.
        return between if free and between.any() else everything if everything.any() else ~nucleus

    rim, near, all_far = ring(RIM_UM, False), ring(NEAR_UM, False), ring(FAR_UM, False)
    band, far = ring(BAND_UM, True), ring(FAR_UM, True)
    lightest, darkest = np.quantile(green[band], (0.05, 0.95))
    return np.array(
        [
            green[rim].mean(),
            green[rim].std(),
            green[near].mean(),
            green[band].std(),
            darkest - green[band].mean(),
            lightest,
            slope[band].mean(),
            green[all_far].mean(),
            slope[far].mean(),
            (green[far] < TISSUE_DENSITY).mean(),
            np.quantile(stains[far][:, 0], 0.95),
            *stains[far][:, :2].mean(axis=0),
        ],
        np.float64,
    )


def _frame(box: Window, mpp: float, shape: tuple[int, ...]) -> Window:
    return window_around([box], round(FAR_UM[1] / mpp) + 1, shape)
