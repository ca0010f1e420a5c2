"""What methods that paint have in common: their model, and what they write down to make a change again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import cv2

from napari_histomix import __version__
from napari_histomix.datasets.run_lengths import mask_text
from napari_histomix.records import Segment
from napari_histomix.settings import PaintingSettings, plain

if TYPE_CHECKING:
    from napari_histomix.diffusion.prompted import AnyModel
    from napari_histomix.diffusion.samplers import Sampler


LIBRARIES = ("numpy", "scikit-image", "scipy")
"""What shapes pixels without a model, by the names it is installed under; OpenCV says its version itself."""


def painter(settings: PaintingSettings, loaded: AnyModel | None = None) -> AnyModel:
    """The model that settings name; ``loaded`` in its place where somebody has loaded one already.

    Raises
    ------
    HistomixError
        If the device is missing, or the weights are missing, damaged or of unknown scale.
    """
    from napari_histomix.devices import choose_device
    from napari_histomix.diffusion.model_files import load_model
    from napari_histomix.weights import bundled

    choose_device(settings.device)
    if loaded is not None:
        return loaded
    scale = (min(settings.model_mpp), max(settings.model_mpp)) if settings.model_mpp else None
    return load_model(settings.model or bundled(), mpp=scale, prompt=settings.prompt)


def plain_facts(method: str, settings: Any, sources: Mapping[str, Any]) -> dict[str, Any]:
    """How something was made without a model.

    Parameters
    ----------
    method : str
        The method's title.
    settings : object
        The method's settings.
    sources : mapping
        Facts of the source images, by role (``datasets.image_facts``).
    """
    recorded = plain(settings, recorded_only=True)
    # Without torch: what has nothing to do with a network need not wait for it.
    versions = {"napari-histomix": __version__, "python": platform.python_version(), "opencv": cv2.__version__}
    versions |= {name: version(name) for name in LIBRARIES}
    return {"method": method, "settings": recorded, "sources": dict(sources), "versions": versions}


def making_facts(
    method: str, sampler: str, stages: Mapping[str, Sampler], model: AnyModel, device: str
) -> dict[str, Any]:
    """What is equal for all that one run makes.

    Parameters
    ----------
    method : str
        The paper's name.
    sampler : str
        Name of the preset.
    stages : mapping of str to Sampler
        What the preset means, for each kind of hole: presets may change with versions.
    model : InpaintingModel or PromptedModel
    device : str
        auto, cpu, cuda or mps.

    Raises
    ------
    HistomixError
        If the device is missing.
    """
    from napari_histomix.diffusion.environment import machine_facts, model_facts

    return {
        "method": method,
        "sampler": sampler,
        "sampler_settings": {stage: one.written for stage, one in stages.items()},
        **model_facts(model),
        **machine_facts(model, device),
    }


def mask_facts(segment: Segment) -> dict[str, Any]:
    """Where a segment lies, without its pool: by the numbers alone nobody could find it again."""
    return {"row": segment.row, "col": segment.col, **mask_text(segment.mask)}


def painter_facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What inpainted the pixels of a change, by its provenance."""
    return {key: provenance[key] for key in ("model", "model_sha256", "sampler")}
