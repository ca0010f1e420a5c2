"""Pixels: contours, donors, stain matching, placing, and putting placements together."""

from napari_histomix.compositing.composing import Synthetic, compose
from napari_histomix.compositing.donors import DonorCrop, contrast, cut_donor, donor_flaw
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.compositing.planning import Plan, plan_placement
from napari_histomix.compositing.stain import match_stain

__all__ = [
    "DonorCrop",
    "ImageCache",
    "IndexedImage",
    "Plan",
    "Synthetic",
    "compose",
    "contrast",
    "cut_donor",
    "donor_flaw",
    "match_stain",
    "plan_placement",
]
