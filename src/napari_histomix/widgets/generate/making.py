"""What the tab *By hand* runs in the background: layouts sampled, layouts painted, nuclei painted into real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import LayoutSettings, Recombiner
from napari_histomix.generation.presets import DEFAULT, PRESETS, PaintSettings
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, within
from napari_histomix.settings import plain
from napari_histomix.widgets.jobs import prepare_torch
from napari_histomix.widgets.viewer_layers import Picture

IMAGES = 24
"""Training images that layouts are recombined of, at most: to read all of a large dataset takes too long."""
RING = 1.5
"""µm around a drawn nucleus that are painted with it."""
SURROUNDINGS = 32.0
"""µm around a drawn nucleus that the network sees."""


@dataclass(frozen=True)
class PaintOptions:
    """How a person wants a layout painted: network, preset of the image model, guidance (None: the preset's), seed."""

    kind: str = "image"
    model: str = ""
    preset: str = DEFAULT
    guidance: float | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Sampled:
    """A layout, and how it was made."""

    layout: Layout
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture (H, W, 3) of a layout, and how it was made."""

    pixels: NDArray[np.uint8]
    layout: Layout
    facts: dict[str, Any]


class Networks:
    """Opens networks in a worker's thread, and keeps the last one of each kind."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}

    def open(self, kind: Any, folder: str) -> Any:
        from napari_histomix.generation.models import load_generator

        card = Path(folder, "histomix.json").expanduser()
        key = folder, card.stat().st_mtime_ns if folder and card.is_file() else 0
        if self._kept.get(kind, (None,))[0] != key:
            self._kept.pop(kind, None)
            self._kept[kind] = key, load_generator(folder, kind)
        return self._kept[kind][1]


class Layouts:
    """Layouts recombined of a dataset's images, which are read once."""

    def __init__(self) -> None:
        self._dataset: Dataset | None = None
        self._recombiner: Recombiner | None = None

    def recombined(self, dataset: Dataset, settings: LayoutSettings, seed: int) -> Job[Layout]:
        if self._recombiner is None or self._dataset is not dataset:
            entries = [entry for entry in dataset.training if entry.labels is not None]
            if len(entries) > IMAGES:
                chosen = np.random.default_rng(0).choice(len(entries), IMAGES, replace=False)
                entries = [entries[at] for at in sorted(chosen.tolist())]
            images: list[LabeledImage] = []
            for done, entry in enumerate(entries):
                yield Event("Reading images", done, len(entries))
                images.append(dataset.read(entry))
            self._dataset, self._recombiner = dataset, Recombiner(images, dataset.classes)
        yield Event("Laying out nuclei")
        return self._recombiner.layout(settings, seed)


def recombine_job(layouts: Layouts, dataset: Dataset, settings: LayoutSettings, seed: int) -> Job[Sampled]:
    """A layout recombined of a dataset's training images."""
    layout = yield from layouts.recombined(dataset, settings, seed)
    facts = {"seed": seed, "settings": plain(settings), "source": layout.source, "donors": list(layout.donors)}
    return Sampled(layout, facts)


def draw_job(networks: Networks, folder: str, settings: LayoutSettings, seed: int, device: str) -> Job[Sampled]:
    """A layout drawn by a structure network; of raised classes it is asked for their share."""
    prepare_torch()
    yield Event("Opening the network")
    from napari_histomix.generation.models import class_of
    from napari_histomix.generation.structure_model import sample

    model = networks.open("structure", folder)
    raised = [class_of(name, model.classes) for name in settings.raised]
    if "" in raised:
        name = settings.raised[raised.index("")]
        raise HistomixError(f"{model.name} draws no '{name}'; its classes are {', '.join(model.classes)}.")
    (layout,) = yield from sample(
        1, settings.side, model, [seed], shares=_shares(model.classes, raised, settings.share), device=device
    )
    return Sampled(layout, {"seed": seed, "settings": plain(settings), **model.facts})


def _shares(classes: Sequence[str], raised: Sequence[str], share: float) -> dict[str, float] | None:
    """Share of every class, where some are to have a share together; the others have the rest in equal parts."""
    others = [name for name in classes if name not in raised]
    if not raised:
        return None
    share = share if others else 1.0
    return {name: share / len(raised) if name in raised else (1 - share) / len(others) for name in classes}


def _facts(options: PaintOptions, model: Any) -> dict[str, Any]:
    """How a picture was made, as its layers' metadata keep it."""
    settings = {name: value for name, value in asdict(options).items() if name != "model"}
    return {"synthetic": True, "seed": options.seed, "settings": settings, **model.facts}


def _image_settings(options: PaintOptions) -> PaintSettings:
    settings = PRESETS[options.preset]
    return settings if options.guidance is None else replace(settings, guidance=options.guidance)


def paint_job(networks: Networks, layout: Layout, options: PaintOptions, reference: Picture | None) -> Job[Painted]:
    """Paint a layout, in the stain of a reference where there is one."""
    prepare_torch()
    yield Event("Opening the network")
    from napari_histomix.generation import image_model, pix2pix
    from napari_histomix.stains import stain_of

    if not layout.classes:
        raise HistomixError("The layout holds no nucleus; add some, or sample a layout.")
    model = networks.open(options.kind, options.model)
    stains = [None if reference is None else stain_of(reference.pixels())]
    if options.kind == "image":
        settings = _image_settings(options)
        painting = image_model.paint([layout], model, [options.seed], settings, stains=stains, device=options.device)
    else:
        painting = pix2pix.render([layout], model, stains=stains, seeds=[options.seed], device=options.device)
    (pixels,) = yield from painting
    stain = {} if reference is None else {"stain_of": reference.name}
    sources = {"source": layout.source} if layout.source else {}
    return Painted(pixels, layout, {**_facts(options, model), **stain, **sources})


@dataclass(frozen=True, eq=False)
class Drawing:
    """Nuclei of a real image, and what a person drew beside them."""

    picture: Picture
    mpp: float
    real: NDArray[np.int32]
    """The nuclei that were there (H, W), which stay."""

    def layout(self, drawn: Layout) -> tuple[Layout, list[int]]:
        """The real nuclei with those that were drawn where there was none, and the ids of these."""
        if drawn.shape != self.real.shape:
            (rows, cols), (height, width) = drawn.shape, self.real.shape
            raise HistomixError(f"The drawing is {cols}×{rows} pixels but the image is {width}×{height}.")
        real = set(np.unique(self.real).tolist())
        new = [number for number in drawn.classes if number not in real]
        instances = np.where(self.real > 0, self.real, np.where(np.isin(drawn.instances, new), drawn.instances, 0))
        left = set(np.unique(instances).tolist())
        classes = {number: drawn.classes.get(number, "") for number in left if number}
        return Layout(instances, classes, self.mpp), [number for number in new if number in left]


@dataclass(eq=False)
class WhatIf:
    """Nuclei that are drawn into an image layer, and what came of it."""

    image: Any
    nuclei: Any
    drawing: Drawing
    space: dict[str, Any]
    layer: Any
    """The Labels layer in which they are drawn."""
    painted: Any = None
    """The Image layer that shows them painted."""


def what_if_job(networks: Networks, drawing: Drawing, drawn: Layout, options: PaintOptions) -> Job[Painted]:
    """Paint drawn nuclei into a real image, one after another; all else comes back bit for bit.

    A nucleus depends on the image, its own shape and class, the seed, and those with a lower id.
    """
    prepare_torch()
    layout, new = drawing.layout(drawn)
    if not new:
        raise HistomixError("Nothing is drawn where there was no nucleus; add a nucleus inside the image first.")
    yield Event("Opening the network")
    model = networks.open(options.kind, options.model)
    yield Event("Reading the image")
    pixels = drawing.picture.pixels()
    height, width = layout.shape
    margin = round(SURROUNDINGS / drawing.mpp)
    # Those that are not painted yet are not there yet.
    instances = np.where(np.isin(layout.instances, new), 0, layout.instances).astype(np.int32)
    for done, number in enumerate(new):
        rows, cols = np.nonzero(layout.instances == number)
        window = (
            slice(max(int(rows.min()) - margin, 0), min(int(rows.max()) + margin + 1, height)),
            slice(max(int(cols.min()) - margin, 0), min(int(cols.max()) + margin + 1, width)),
        )
        instances[rows, cols] = number
        hole = hole_of(layout.instances[window], number, drawing.mpp)
        ids = np.unique(instances[window])
        near = Layout(instances[window].copy(), {int(i): layout.classes[int(i)] for i in ids if i}, drawing.mpp)
        part = replace(options, seed=int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0]))
        phase = f"Painting nucleus {done + 1} of {len(new)}"
        made = yield from within(_inside(pixels[window].copy(), near, hole, model, part), phase, done, len(new))
        pixels[window][hole] = made[hole]
    return Painted(pixels, layout, {**_facts(options, model), "drawn": new})


def _inside(
    pixels: NDArray[np.uint8], layout: Layout, hole: NDArray[np.bool_], model: Any, options: PaintOptions
) -> Job[NDArray[np.uint8]]:
    from napari_histomix.generation import image_model, pix2pix

    if options.kind == "image":
        settings = _image_settings(options)
        return (
            yield from image_model.paint_inside(
                pixels, layout, hole, model, options.seed, settings, device=options.device
            )
        )
    (picture,) = yield from pix2pix.render(
        [layout], model, references=[pixels], hidden=[hole], seeds=[options.seed], device=options.device
    )
    return picture


def hole_of(instances: NDArray[np.int32], number: int, mpp: float) -> NDArray[np.bool_]:
    """The pixels that are painted with a nucleus: its own and a ring around it, without those of other nuclei."""
    radius = max(1, round(RING / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    own = instances == number
    grown = cv2.dilate(own.astype(np.uint8), disc) > 0
    return np.asarray(grown & (own | (instances == 0)))


def counted(layout: Layout) -> str:
    """How many nuclei of which class, in words."""
    counts: Mapping[str, int] = layout.counts()
    parts = [f"{name or 'no class'} {count:,}" for name, count in sorted(counts.items())]
    total = sum(counts.values())
    words = f"{total:,} {'nucleus' if total == 1 else 'nuclei'}"
    if counts.keys() == {""}:
        return f"{words} without a class"
    return f"{words}: {', '.join(parts)}" if parts else words
