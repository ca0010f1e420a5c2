"""Pixels: contours, donors, stain matching, placing, and changes put together."""

from napari_histomix.compositing.composing import Synthetic, compose, new_image
from napari_histomix.compositing.donors import DonorCrop, cut_donor, donor_flaw
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.compositing.planning import plan_placement

__all__ = [
    "DonorCrop",
    "ImageCache",
    "IndexedImage",
    "Synthetic",
    "compose",
    "cut_donor",
    "donor_flaw",
    "new_image",
    "plan_placement",
]
