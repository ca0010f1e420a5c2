"""Trained generators and segmenters on disk: loaded with their card, fitted to other classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from napari_histomix.diffusion.model_files import CARD_FILE, SCHEDULE_FILE, load_part, read_card, read_json, scale_of
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.structure import CONDITION_MAPS
from napari_histomix.records import HistomixError
from napari_histomix.scales import same_scale
from napari_histomix.weights import bundled_model

Kind = Literal["segmenter", "structure", "image", "pix2pix"]

NETWORKS: Mapping[str, str] = {
    "segmenter": "segmenter:SegmenterNetwork",
    "structure": "networks:ConditionedUNet",
    "image": "networks:ConditionedUNet",
    "pix2pix": "pix2pix:Generator",
}
"""Class of each kind's network, in this room."""

SYNONYMS: Mapping[str, str] = {
    "inflammatory": "lymphocyte",
    "lymphocytes": "lymphocyte",
    "epithelial": "tumor",
    "epithelium": "tumor",
    "neoplastic": "tumor",
    "neoplastic epithelial": "tumor",
    "malignant epithelial": "tumor",
    "tumour": "tumor",
    "spindle": "stromal",
    "spindle-shaped": "stromal",
    "connective": "stromal",
    "fibroblast": "stromal",
    "stroma": "stromal",
}
"""Classes of public datasets, and what the bundled networks call them."""


@dataclass(frozen=True, eq=False)
class GeneratorModel:
    """A trained network with what must be known to use it.

    Parameters
    ----------
    kind : {"segmenter", "structure", "image", "pix2pix"}
    network : Module
        In evaluation mode, on the processor.
    schedule : mapping
        diffusers scheduler configuration; empty where nothing is denoised.
    classes : tuple of str
        Names of the nucleus classes it knows, in the order of its channels.
    mpp : float
        µm per pixel it works at; images of another scale are resampled.
    name, sha256 : str
        Identity, for provenance.
    card : mapping
        All that ``histomix.json`` says.
    """

    kind: Kind
    network: Any
    schedule: Mapping[str, Any]
    classes: tuple[str, ...]
    mpp: float
    name: str
    sha256: str
    card: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """Which model it was, as provenance keeps it."""
        return {"model": self.name, "model_kind": self.kind, "model_sha256": self.sha256}


def load_generator(path: Path | str, kind: Kind) -> GeneratorModel:
    """Load a trained network of a kind.

    Parameters
    ----------
    path : Path or str
        A model folder that ``histomix train`` made; empty: the bundled one.
    kind : {"segmenter", "structure", "image", "pix2pix"}

    Raises
    ------
    HistomixError
        For a folder that is missing, damaged, or holds another kind of network.
    """
    folder = Path(path).expanduser() if str(path) else bundled_model(f"he-{kind}")
    if not folder.is_dir():
        raise HistomixError(f"There is no model folder '{folder}'; check the path.")
    card = read_card(folder)
    if not card:
        raise HistomixError(f"{folder} has no {CARD_FILE}; choose a folder that 'histomix train {kind}' made.")
    if card.get("kind") != kind:
        named = card.get("kind") or "another network"
        raise HistomixError(f"{folder.name} is of the kind '{named}', not '{kind}'; choose another model folder.")
    module, _, name = NETWORKS[kind].partition(":")
    network_class = getattr(import_module(f"napari_histomix.generation.{module}"), name)
    network, sha256 = load_part(network_class, folder, card.get("sha256"))
    if "mpp" not in card:
        raise HistomixError(f"{folder.name}/{CARD_FILE} does not say how many µm a pixel is; add mpp: [low, high].")
    mpp = scale_of(card, folder, (64,))[0]
    schedule = _schedule(folder) if kind in ("image", "structure") else {}
    classes = card.get("classes")
    count = CLASS_COUNTS[kind](network.config)
    if not isinstance(classes, list) or len(set(map(str, classes))) != count:
        raise HistomixError(f"{folder.name}/{CARD_FILE} must name the {count} classes that its network knows.")
    network = network.float().eval().requires_grad_(False)
    name = str(card.get("name", folder.name))
    return GeneratorModel(kind, network, schedule, tuple(map(str, classes)), sum(mpp) / 2, name, sha256, card)


CLASS_COUNTS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "segmenter": lambda config: len(config["classes"]),
    "structure": lambda config: int(config["vector_channels"]) - 2,
    "image": lambda config: int(config["map_channels"]) - CONDITION_MAPS,
    "pix2pix": lambda config: len(config["classes"]),
}
"""How many classes a network of a kind knows, by its configuration."""


def _schedule(folder: Path) -> Mapping[str, Any]:
    """The noise schedule of a network that denoises. Raises HistomixError where there is none, or nonsense."""
    schedule = read_json(folder / SCHEDULE_FILE, "a diffusers scheduler configuration")
    try:
        DDPMScheduler.from_config(dict(schedule))
        if int(schedule["num_train_timesteps"]) < 1 or schedule["prediction_type"] not in ("v_prediction", "sample"):
            raise ValueError("the prediction must be v_prediction or sample")
    except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise HistomixError(f"{folder / SCHEDULE_FILE} describes no noise schedule ({error}).") from None
    return schedule


def class_of(name: str, known: Sequence[str]) -> str:
    """The class of a model that a class of a dataset is: of the same name, or by ``SYNONYMS``; else "".

    Examples
    --------
    >>> class_of("Inflammatory", ("lymphocyte", "tumor"))
    'lymphocyte'
    """
    plain = {each.casefold(): each for each in known}
    wanted = name.strip().casefold()
    return plain.get(wanted) or plain.get(SYNONYMS.get(wanted, ""), "")


def unknown_classes(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Those of a dataset's classes that a model does not know."""
    return sorted({name for name in names if name and not class_of(name, known)})


def remarks(layouts: Sequence[Layout], model: GeneratorModel) -> list[str]:
    """What a person is told before a model paints layouts: classes that it does not know, other scales."""
    names = {name for layout in layouts for name in layout.classes.values()}
    said = [
        f"{model.name} does not know the class {name}: such nuclei are painted without a class."
        for name in unknown_classes(names, model.classes)
    ]
    scales = sorted({layout.mpp for layout in layouts if not same_scale(layout.mpp, model.mpp)})
    said += [f"Painted at {model.mpp:g} µm/px, the scale of {model.name}, and resampled to {mpp:g}." for mpp in scales]
    return said


def class_origins(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """For each new class the index of the old one that it is a synonym of; None: it is new.

    Examples
    --------
    >>> class_origins(("lymphocyte", "tumor"), ("mitosis", "inflammatory"))
    [None, 0]
    """
    known = [class_of(name, old) for name in new]
    return [list(old).index(name) if name else None for name in known]


def picked(weights: Tensor, axis: int, order: Sequence[int | None]) -> Tensor:
    """Weights with other channels along an axis: these of the old ones, zeros for None."""
    index = torch.tensor([0 if at is None else at for at in order], device=weights.device)
    chosen = weights.index_select(axis, index)
    chosen.movedim(axis, 0)[[at is None for at in order]] = 0
    return chosen


def adapted(network: Any, old: Sequence[str], new: Sequence[str]) -> Any:
    """A ``ConditionedUNet`` whose class maps are those of ``new`` classes, with the weights of one for ``old``.

    A class that is new begins with the weights of the old class it is a synonym of, else at zero.
    """
    if tuple(old) == tuple(new):
        return network
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    other = type(network).from_config(config | {"map_channels": config["map_channels"] - len(old) + len(new)})
    # Origin of each map channel; the semantic map stands before the classes.
    order = [0, *(None if at is None else 1 + at for at in class_origins(old, new))]
    order += range(1 + len(old), config["map_channels"])
    state = network.state_dict()
    for key, value in state.items():
        # The input sees the maps behind the image; SPADE blocks see the maps alone.
        skip = int(config["in_channels"]) if key.endswith("conv_in.weight") else 0
        if skip or (key.startswith("shared.") and key.endswith(".weight")):
            state[key] = picked(value, 1, [*range(skip), *(None if at is None else skip + at for at in order)])
    other.load_state_dict(state)
    return other
