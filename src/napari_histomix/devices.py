"""Where networks compute."""

from __future__ import annotations

import torch

from napari_histomix.records import HistomixError


def choose_device(name: str = "auto") -> torch.device:
    """The device for a name (auto, cpu, cuda, mps). Raises HistomixError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(name, False):
        raise HistomixError(f"This machine has no '{name}' device that torch can use; choose auto or cpu.")
    return torch.device(name)


def out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it; the processor's allocator and MPS only a sentence."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "allocate memory" in said
