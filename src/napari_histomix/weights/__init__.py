"""Weights that come with the package, and where they lie."""

from pathlib import Path

INPAINTER = "he-inpaint"


def bundled(name: str = INPAINTER) -> Path:
    """Folder of a bundled model."""
    return Path(__file__).parent / name
