"""Under which conditions pixels were computed, for provenance: model, device, number format, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import torch

from napari_histomix import __version__
from napari_histomix.devices import choose_device
from napari_histomix.diffusion.models import fast_dtype
from napari_histomix.diffusion.prompted import AnyModel, PromptedModel

LIBRARIES = ("diffusers", "numpy", "scikit-image", "scipy")
"""By the names they are installed under; torch and OpenCV say theirs themselves."""


def model_facts(model: AnyModel) -> dict[str, Any]:
    """Which model it was, and what it was told beside its weights."""
    facts: dict[str, Any] = {
        "model": model.name,
        "model_sha256": model.sha256,
        "model_mpp": list(model.mpp),
        "model_windows": list(model.windows),
    }
    return facts | ({"prompt": model.prompt} if isinstance(model, PromptedModel) else {})


def machine_facts(model: AnyModel, device: str) -> dict[str, Any]:
    """Where a model computes on this machine when told to use ``device`` (auto, cpu, cuda or mps), and with what.

    ``threads`` counts on a processor alone: sums over several of them are rounded in another order.
    """
    place = choose_device(device)
    # Pipelines keep their own number format on a processor (``inpainter``).
    number = fast_dtype(place)
    if isinstance(model, PromptedModel) and place.type == "cpu":
        number = model.pipeline.dtype
    facts: dict[str, Any] = {"device": place.type, "precision": str(number).removeprefix("torch.")}
    if place.type == "cpu":
        facts |= {"processor": processor(), "threads": torch.get_num_threads()}
    elif place.type == "cuda":
        facts["device"] = f"cuda {torch.cuda.get_device_name(place)}"
    return facts | {"versions": versions()}


def processor() -> str:
    """The processor's name, and the widest instructions that torch uses on it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, "") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, str]:
    """Versions of everything that shapes pixels."""
    own = {"napari-histomix": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return own | {"opencv": cv2.__version__} | {name: version(name) for name in LIBRARIES}


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
