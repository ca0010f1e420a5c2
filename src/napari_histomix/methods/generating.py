"""What methods share that paint new images with a trained generator: settings, the model, and what it learned from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import few
from napari_histomix.generation.presets import DEFAULT, PRESETS, TITLES, PaintSettings
from napari_histomix.methods.record import plain_facts
from napari_histomix.records import INPAINTED, Change, Event, HistomixError, Job, SourceRef
from napari_histomix.settings import Device, Option, Seed

if TYPE_CHECKING:
    from napari_histomix.generation.layout import Layout
    from napari_histomix.generation.models import GeneratorModel, Kind


_network = partial(
    Option, "The network that paints: its folder.", label="Network", kind="model", automatic="the bundled one"
)
ImageNetwork = Annotated[str, _network(network="image")]
Pix2PixNetwork = Annotated[str, _network(network="pix2pix")]


@dataclass(frozen=True, kw_only=True)
class GeneratingSettings:
    """What all methods share that paint new images."""

    count: Annotated[int, Option("Synthetic images wanted.", low=1, high=10**6, flags=("-k",))] = 20
    model: ImageNetwork = ""
    device: Device = "auto"
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class ImageModelSettings:
    """What all methods share that paint with an image model."""

    preset: Annotated[str, Option("How many steps it takes, and how strictly labels are followed.", choices=TITLES)] = (
        DEFAULT
    )
    guidance: Annotated[
        float | None,
        Option(
            "How strictly labels and stain are followed, the paper's w.",
            low=0.0,
            high=20.0,
            automatic="as the preset says",
            advanced=True,
        ),
    ] = None
    steps: Annotated[
        int | None, Option("Denoising steps.", low=1, high=1000, automatic="as the preset says", advanced=True)
    ] = None

    def painting(self) -> PaintSettings:
        """What the preset means, with what is said otherwise."""
        preset = PRESETS[self.preset]
        return replace(
            preset,
            steps=preset.steps if self.steps is None else self.steps,
            guidance=preset.guidance if self.guidance is None else self.guidance,
        )


class Generating(Protocol):
    """Settings of whatever paints with a trained generator."""

    @property
    def model(self) -> str: ...

    @property
    def device(self) -> str: ...


@dataclass(frozen=True)
class NewImage:
    """A new image before any pixel of it: it has a name and no target.

    Everything random in it follows from the seed. ``labels`` and ``reference`` are the real images that its labels come
    from and whose stain it follows, empty where there are none; ``learned_from`` the images of the dataset that its
    network learned from.
    """

    id: int
    name: str
    seed: int
    labels: str = ""
    reference: str = ""
    learned_from: tuple[str, ...] = ()
    image: str = ""


def generator_of(settings: Generating, kind: Kind, loaded: object = None) -> GeneratorModel:
    """The generator that settings name; ``loaded`` in its place where somebody has loaded one of the kind already.

    Raises
    ------
    HistomixError
        If the device is missing, or the model is missing, damaged or of another kind.
    """
    from napari_histomix.devices import choose_device
    from napari_histomix.generation.models import GeneratorModel, load_generator

    choose_device(settings.device)
    if isinstance(loaded, GeneratorModel) and loaded.kind == kind:
        return loaded
    return load_generator(settings.model, kind)


def pixel_hashes(dataset: Dataset) -> Job[dict[str, str]]:
    """SHA-256 of the pixels of each image of a dataset that can be read, by name; a long job."""
    hashes: dict[str, str] = {}
    for done, entry in enumerate(dataset.entries):
        yield Event("Checking what the network learned from", done, len(dataset.entries))
        # Whoever reads an image that cannot be read hears of it.
        with suppress(HistomixError):
            hashes[entry.source.image] = pixels_sha256(dataset.files.pixels(entry))
    return hashes


def learned_from(
    dataset: Dataset, model: GeneratorModel, hashes: Mapping[str, str] | None = None
) -> Job[tuple[str, ...]]:
    """Names of the images of a dataset, of whatever split, that a model learned from; a long job.

    ``hashes`` are the dataset's ``pixel_hashes``, where they are known already.

    Raises
    ------
    HistomixError
        If one of them is not in the training split: pictures that the model paints would carry it there.
    """
    listed = set(model.card.get("training_pixels", ()))
    training = {entry.source.image for entry in dataset.training}
    if hashes is None:
        hashes = (yield from pixel_hashes(dataset)) if listed else {}
    seen = [name for name, sha256 in hashes.items() if sha256 in listed]
    if leaking := [name for name in seen if name not in training]:
        raise HistomixError(
            f"The network {model.name} learned from {few(leaking)}, which {dataset.name} keeps for validation or test; "
            "choose another network, or train one on the training split."
        )
    return tuple(seen)


def painted_image(
    item: NewImage,
    number: int,
    pixels: NDArray[np.uint8],
    layout: Layout,
    types: Mapping[int, int],
    *,
    method: str,
    sources: tuple[SourceRef, ...],
    facts: Mapping[str, Any],
    kind: str = "",
) -> Change:
    """The change that a painted layout is.

    Parameters
    ----------
    item : NewImage
    number : int
        The change's id.
    pixels : (H, W, 3) uint8
    layout : Layout
    types : mapping of int to int
        Class number in the dataset of every nucleus of the layout.
    method : str
        Name of the method.
    sources : tuple of SourceRef
    facts : mapping
        Provenance (``painting_facts``) and what else was drawn.
    kind : str
        Class of the image as a whole; empty where it has none.
    """
    provenance = {**facts, "item": item.id, "mpp": layout.mpp, "learned_from": list(item.learned_from)}
    shares = {kind: 1.0} if kind else None
    return Change(
        number, "", item.name, 0, 0, pixels, np.full(layout.shape, INPAINTED, np.uint8), layout.instances,
        {identity: types[identity] for identity in layout.classes}, (), shares, method, item.seed, sources,
        provenance=provenance,
    )  # fmt: skip


def painting_facts(title: str, settings: Generating, model: GeneratorModel) -> dict[str, Any]:
    """What is equal for all that a method of this title paints in one run."""
    from napari_histomix.diffusion.models import machine_facts

    return {**plain_facts(title, settings, {}), **model.facts, **machine_facts(model, settings.device)}
