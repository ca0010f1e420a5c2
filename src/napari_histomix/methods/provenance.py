"""What both methods write down of how they made something: enough to make it again (docs/provenance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_histomix.datasets.run_lengths import mask_text
from napari_histomix.records import Segment
from napari_histomix.settings import plain

if TYPE_CHECKING:
    from napari_histomix.diffusion.prompted import AnyModel
    from napari_histomix.diffusion.samplers import Sampler


def search_facts(settings: Mapping[str, Any], encoder: str, temperature: float) -> dict[str, Any]:
    """How candidates were found: the settings of the search (as by ``asdict``), and the encoder and temperature used.

    All three are kept by a study's ``settings()``: candidate_settings, encoder, temperature.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return {**plain, "encoder": encoder, "temperature": temperature}


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
    from napari_histomix.diffusion.environment import versions

    recorded = plain(settings, recorded_only=True)
    return {"method": method, "settings": recorded, "sources": dict(sources), "versions": versions()}


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
