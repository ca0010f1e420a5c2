"""What the tab *By hand* runs in the background: layouts sampled, layouts painted, nuclei painted into real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.generation.drawn import groups_of, paint_layout, paint_nuclei, surroundings
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layouts import LayoutSettings, Recombiner
from napari_histomix.generation.presets import DEFAULT, PRESETS, PaintSettings
from napari_histomix.methods.painting_by_hand import PaintedByHand
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, relayed
from napari_histomix.settings import plain
from napari_histomix.widgets.loading_ahead import prepare_torch
from napari_histomix.widgets.viewer_layers import Picture

IMAGES = 24
"""Training images that layouts are recombined of, at most: to read all of a large dataset takes too long."""

MADE = ("seed", "settings", "model", "model_kind", "model_sha256")
"""What the layer of a layout says of how that was made."""


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
    """A picture (H, W, 3) of a layout, and how it was made; ``by_hand`` is what a study can take over of it."""

    pixels: NDArray[np.uint8]
    layout: Layout
    facts: dict[str, Any]
    options: PaintOptions
    by_hand: PaintedByHand


class Networks:
    """Opens networks in a worker's thread, and keeps the last one of each kind."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}
        self.opened: dict[str, Any] = {}
        """What the card says of each network that was opened, by its SHA-256."""

    def open(self, kind: Any, folder: str) -> Any:
        from napari_histomix.generation.models import load_generator

        card = Path(folder, "histomix.json").expanduser()
        key = folder, card.stat().st_mtime_ns if folder and card.is_file() else 0
        if self._kept.get(kind, (None,))[0] != key:
            self._kept.pop(kind, None)
            self._kept[kind] = key, load_generator(folder, kind)
            self.opened[self._kept[kind][1].sha256] = self._kept[kind][1].card
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


def _image_settings(options: PaintOptions) -> PaintSettings | None:
    """Those of the image model; None for a network that has none."""
    if options.kind != "image":
        return None
    settings = PRESETS[options.preset]
    return settings if options.guidance is None else replace(settings, guidance=options.guidance)


def paint_job(
    networks: Networks,
    layout: Layout,
    options: PaintOptions,
    reference: Picture | None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Job[Painted]:
    """Paint a layout, in the stain of a reference where there is one; ``about`` is what its layer says of it."""
    prepare_torch()
    yield Event("Opening the network")
    from napari_histomix.stains import stain_of

    if not layout.classes:
        raise HistomixError("The layout holds no nucleus; add some, or sample a layout.")
    model = networks.open(options.kind, options.model)
    stain = None if reference is None else stain_of(reference.pixels())
    pixels = yield from paint_layout(layout, model, options.seed, stain, _image_settings(options), options.device)
    named = {} if reference is None else {"stain_of": reference.name}
    lineage = {"source": layout.source, "donors": list(about.get("donors", ()))}
    sources = {name: value for name, value in lineage.items() if value}
    # A painted layout may be painted again: how it came about stays known.
    made = about.get("layout_made") or {name: about[name] for name in MADE if name in about}
    own = "" if about.get("synthetic") else str(about.get("image", ""))
    by_hand = PaintedByHand(
        pixels,
        layout,
        options.seed,
        stain=stain,
        reference="" if reference is None else reference.name,
        origins=tuple(dict.fromkeys(filter(None, (layout.source, *about.get("donors", ()), own)))),
        made=made,
    )
    facts = {**_facts(options, model), **named, **sources, "layout_made": made}
    return Painted(pixels, layout, facts, options, by_hand)


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
    """Paint drawn nuclei into a real image; all else comes back bit for bit.

    A nucleus depends on the image, its own shape and class, the seed, and those that are drawn near it.
    """
    prepare_torch()
    layout, new = drawing.layout(drawn)
    if not new:
        raise HistomixError("Nothing is drawn where there was no nucleus; add a nucleus inside the image first.")
    yield Event("Opening the network")
    model = networks.open(options.kind, options.model)
    yield Event("Reading the image")
    original = drawing.picture.pixels()
    pixels, done = original.copy(), 0
    for group in groups_of(layout.instances, new, layout.mpp):
        others = [number for number in new if number not in group]
        window = surroundings(layout.instances, group, layout.mpp)
        instances = np.ascontiguousarray(layout.instances[window])
        near = Layout(np.where(np.isin(instances, others), 0, instances).astype(np.int32), layout.classes, layout.mpp)
        job = paint_nuclei(original[window], near, group, model, options.seed, _image_settings(options), options.device)

        def of_all(event: Event, before: int = done) -> Event:
            at = before + event.done
            return replace(event, phase=f"Painting nucleus {at + 1} of {len(new)}", done=at, total=len(new))

        made, hole = yield from relayed(job, of_all)
        pixels[window][hole] = made[hole]
        done += len(group)
    by_hand = PaintedByHand(pixels, layout, options.seed, drawing.picture.name, tuple(new))
    return Painted(pixels, layout, {**_facts(options, model), "drawn": new}, options, by_hand)


def counted(layout: Layout) -> str:
    """How many nuclei of which class, in words."""
    counts: Mapping[str, int] = layout.counts()
    parts = [f"{name or 'no class'} {count:,}" for name, count in sorted(counts.items())]
    total = sum(counts.values())
    words = f"{total:,} {'nucleus' if total == 1 else 'nuclei'}"
    if counts.keys() == {""}:
        return f"{words} without a class"
    return f"{words}: {', '.join(parts)}" if parts else words
