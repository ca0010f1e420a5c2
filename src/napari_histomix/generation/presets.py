"""How the image model paints: the named choices, known before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PaintSettings:
    """How a layout is painted.

    Parameters
    ----------
    steps : int
        Passes of the sampler.
    guidance : float
        w of classifier-free guidance: how strictly labels are followed; it costs more passes.
    ancestral : bool
        DDPM's sampler, as in the paper.
    coarse_start : bool
        The first pass, at half the resolution, finds where which color is.
    """

    steps: int = 20
    guidance: float = 0.0
    ancestral: bool = False
    coarse_start: bool = False


PRESETS: Mapping[str, PaintSettings] = MappingProxyType(
    {
        "fast": PaintSettings(3, coarse_start=True),
        "standard": PaintSettings(6),
        "quality": PaintSettings(16, 0.5),
        "paper": PaintSettings(1000, 2.0, ancestral=True),
    }
)
"""By name: few steps, with less chromatin; the default; more; and NuDiff's 1,000 ancestral steps with w = 2."""
DEFAULT = "standard"

TITLES: Mapping[str, str] = MappingProxyType(
    {
        name: f"{'As in the paper' if name == 'paper' else name.capitalize()} ({preset.steps:,} steps)"
        for name, preset in PRESETS.items()
    }
)
"""What each is called in a form."""
