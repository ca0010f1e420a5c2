"""Where networks compute."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from napari_histomix.preferences import preferences
from napari_histomix.records import HistomixError


def choose_device(name: str = "auto") -> torch.device:
    """The device for a name (auto, cpu, cuda, mps). Raises HistomixError where it is not there.

    auto is the device that a person prefers; where they prefer none, a graphics card if there is one.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = preferences().device if name == "auto" else name
    if wanted == "auto":
        wanted = next(kind for kind, here in present.items() if here)
    if not present.get(wanted, False):
        remedy = "choose another default device in the preferences" if name == "auto" else "choose auto or cpu"
        raise HistomixError(f"This machine has no '{wanted}' device that torch can use; {remedy}.")
    return torch.device(wanted)


def out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it; the processor's allocator and MPS only a sentence."""
    reason = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in reason or "allocate memory" in reason


@contextmanager
def memory_error(sentence: str) -> Iterator[None]:
    """Turn running out of memory into an error that a person understands."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise HistomixError(sentence) from None


def free_memory(device: torch.device) -> None:
    """Give back what tensors that are no longer used hold."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use this many threads of the processor, as it did when something was made; None: as many as now."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
