"""Pixels: contours, donors, stain matching, placing, and changes put together."""
