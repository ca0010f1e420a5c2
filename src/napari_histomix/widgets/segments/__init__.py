"""Tissue segments: divide images into segments, build a pool, take corrections into it."""
