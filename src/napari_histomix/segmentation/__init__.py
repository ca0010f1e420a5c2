"""Tissue into segments: superpixels, prompters that answer points with masks, anchor segments. Loads no torch."""

from __future__ import annotations

from napari_histomix.segmentation.anchors import AnchorSettings, find_segments, segment_map, segments_of
from napari_histomix.segmentation.prompting import Prompter, Proposals, open_prompter
from napari_histomix.segmentation.region_tree import RegionTree, RegionTreePrompter
from napari_histomix.segmentation.superpixels import superpixels

__all__ = [
    "AnchorSettings",
    "Prompter",
    "Proposals",
    "RegionTree",
    "RegionTreePrompter",
    "find_segments",
    "open_prompter",
    "segment_map",
    "segments_of",
    "superpixels",
]
