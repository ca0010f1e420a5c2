"""Training: one loop for all networks, and a recipe for each kind: what it learns from, its loss, how it is checked.

What is asked of training runs before torch is loaded is here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from napari_histomix.records import HistomixError
from napari_histomix.weights import bundled_model

SUMMARY = "run.json"

_RECIPES = {
    "inpainter": "inpainting:Inpainter",
    "autoencoder": "inpainting:Autoencoder",
    "latent": "inpainting:LatentInpainter",
    "structure": "structure_model:StructureRecipe",
    "image": "image_model:ImageRecipe",
    "segmenter": "segmenting:SegmenterRecipe",
    "pix2pix": "pix2pix:Pix2PixRecipe",
}
"""The recipe of each kind of network, by module and class."""

KINDS = MappingProxyType(
    {
        "inpainter": "The network that fills holes, on pixels.",
        "autoencoder": "An autoencoder, which a latent network works on.",
        "latent": "The network that fills holes, on an autoencoder's latents.",
        "structure": "The network that draws nuclei structures, from which layouts are read.",
        "image": "The network that paints layouts, whole or inside a real image.",
        "segmenter": "The network that finds nuclei and their classes.",
        "pix2pix": "The generator that paints labels along the edges of a real image.",
    }
)
"""Kinds of networks that can be trained, and what each is."""
BUNDLED_SIZE = "small"
"""Size of the bundled networks, where a kind has several."""


def recipe_class(kind: str) -> Any:
    """The recipe of a kind of network. Raises HistomixError for an unknown kind."""
    if kind not in _RECIPES:
        raise HistomixError(f"There is no network '{kind}'; choose one of {', '.join(_RECIPES)}.")
    module, _, name = _RECIPES[kind].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)


def settings_class(kind: str) -> type:
    """The settings of a kind of network: a dataclass of annotated settings, importable without torch."""
    from napari_histomix.training import settings

    classes: Mapping[str, type] = settings.BY_KIND
    return classes[kind]


def learns_labels(kind: str) -> bool:
    """Whether a kind of network learns from labeled nuclei, not from images alone."""
    from napari_histomix.training.settings import LabeledSettings

    return issubclass(settings_class(kind), LabeledSettings)


def bundled_start(kind: str) -> Path | None:
    """Bundled weights that a network of a kind may begin with; None where there are none."""
    folder = bundled_model("he-inpaint" if kind == "inpainter" else f"he-{kind}")
    return folder if folder.is_dir() else None


def state_folder(out: Path) -> Path:
    """Where a run that writes ``out`` keeps what is needed to take it up again."""
    return out.with_name(out.name + ".training")


def unfinished(out: Path) -> dict[str, Any] | None:
    """``step``, ``minutes``, ``saved`` (ISO date) and ``kind`` of a run that can go on, None without one."""
    try:
        summary = json.loads((state_folder(out) / SUMMARY).read_text(encoding="utf-8"))
        return {key: summary[key] for key in ("step", "minutes", "saved", "kind")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
