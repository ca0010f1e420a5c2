"""Edge pix2pix: labels of real images, as they are or in another shape, painted anew along their edges.

The paper trains pix2pix from label images with Canny edges to tissue, and paints the labels again (replica, G0) or
turned, mirrored, enlarged and cropped with their edges (shape, G1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np

from napari_histomix.compositing.indexed_image import ImageCache
from napari_histomix.methods.base import Ingredients, Method, Needs, Plan, Work, whole_images
from napari_histomix.methods.deriving import fresh_name
from napari_histomix.methods.generating import (
    GeneratingSettings,
    NewImage,
    Pix2PixNetwork,
    generator_of,
    learned_from,
    painted_image,
    painting_facts,
)
from napari_histomix.methods.painting_by_hand import (
    DrawnNuclei,
    is_drawn,
    make_drawn,
    parted,
    recall_drawn,
    sentence_of,
    trace_drawn,
)
from napari_histomix.methods.record import Record
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, SourceRef, relayed
from napari_histomix.sampling import item_seed
from napari_histomix.settings import Option

MODES = {"shape": "Shape (G1): turned, mirrored, enlarged", "replica": "Replica (G0): the same labels"}
STAINS = {"own": "Of the labels' own image", "other": "Of another training image"}


@dataclass(frozen=True, kw_only=True)
class EdgePix2PixSettings(GeneratingSettings):
    """How labels are painted anew."""

    mode: Annotated[str, Option("Labels in another shape, the paper's G1, or as they are, its G0.", choices=MODES)] = (
        "shape"
    )
    side: Annotated[
        int | None,
        Option("Side of a new image, cut at random.", low=32, high=4096, unit="px", automatic="all of the labels"),
    ] = None
    edges: Annotated[
        bool, Option("Follow the edges of the real image; otherwise all but the labels is the network's own.")
    ] = True
    stain: Annotated[str, Option("The stain to follow.", choices=STAINS)] = "own"
    model: Pix2PixNetwork = ""


class EdgePix2Pix(Method[EdgePix2PixSettings, NewImage]):
    """Labels of training images, painted anew by pix2pix."""

    name, title = "edge-pix2pix", "Edge pix2pix"
    makes = "new images painted by a generator from labels of training images and the edges in them."
    citation = "Generative synthetic augmentation using edge feature; Isola et al., CVPR 2017, arXiv 1611.07004"
    needs, settings = Needs(instances=True), EdgePix2PixSettings

    def plan(self, work: Work, settings: EdgePix2PixSettings) -> Job[Plan[NewImage]]:
        """The labels of every image once in random order, then all again, until as many as wanted are painted."""
        model = generator_of(settings, "pix2pix", work.loaded)
        seen = yield from learned_from(work.dataset, model)
        images = ImageCache(work.dataset.read)
        pool = [entry.source.image for entry in whole_images(work.dataset) if entry.labels is not None]
        if not pool:
            raise HistomixError(f"{work.dataset.name} has no real training image with labels; only these are painted.")
        if settings.stain == "other" and len(pool) < 2:
            raise HistomixError(
                "There is no other training image whose stain could be followed; follow the labels' own."
            )
        names = {entry.source.image for entry in work.dataset.entries}
        rng = np.random.default_rng([settings.seed, work.first])
        items: list[NewImage] = []
        while pool and len(items) < settings.count:
            for name in rng.permutation(pool).tolist():
                if len(items) == settings.count:
                    break
                yield Event("Choosing labels", len(items), settings.count)
                if images.get(name) is None:
                    continue
                others = [other for other in pool if other != name]
                reference = name if settings.stain == "own" else others[int(rng.integers(len(others)))]
                number = work.first + len(items)
                fresh = fresh_name(names, f"{name} {self.name} {number + 1}")
                seed = item_seed(settings.seed, number)
                items.append(NewImage(len(items), fresh, seed, name, reference, seen))
            pool = [name for name in pool if name not in images.problems]
        if not items and images.problems:
            raise HistomixError(next(iter(images.problems.values())).sentence)
        return Plan(items, settings.count, problems=tuple(images.problems.values()))

    def make(self, work: Work, items: Sequence[NewImage | DrawnNuclei], settings: EdgePix2PixSettings) -> Job[None]:
        """Paint each; those of one image follow each other. What a person drew is made as it was drawn."""
        from napari_histomix.generation.edges import Shape
        from napari_histomix.generation.layout import Layout
        from napari_histomix.generation.pix2pix import render
        from napari_histomix.stains import stain_of

        model = generator_of(settings, "pix2pix", work.loaded)
        drawn, own = parted(items)
        if drawn:
            yield from make_drawn(work, drawn, settings, method=self.name, title=self.title, model=model)
        facts = painting_facts(self.title, settings, model)
        images = ImageCache(work.dataset.read)
        for done, item in enumerate(sorted(own, key=lambda item: (item.labels, item.id))):
            source, reference = images.require(item.labels).image, images.require(item.reference).image
            rng = np.random.default_rng(item.seed)
            part, corner = _cut(source, settings.side, rng)
            shape = Shape() if settings.mode == "replica" else Shape.draw(part.instances.shape, rng)
            layout, pixels = shape.layout(Layout.of(part, work.dataset.all_classes)), shape.pixels(part.pixels)
            painting = render(
                [layout],
                model,
                references=[pixels],
                hidden=None if settings.edges else [np.ones(layout.shape, np.bool_)],
                stains=None if item.reference == item.labels else [stain_of(reference.pixels)],
                seeds=[item.seed],
                device=settings.device,
            )
            progress = {"phase": "Painting images", "done": done, "total": len(own)}
            (painted,) = yield from relayed(painting, lambda event, at=progress: replace(event, **at))  # type: ignore[misc]
            sources = {"labels": images.facts[item.labels], "reference": images.facts[item.reference]}
            change = painted_image(
                item,
                work.first + item.id,
                painted,
                layout,
                source.types,
                method=self.name,
                sources=(SourceRef("labels", item.labels), SourceRef("reference", item.reference)),
                facts={**facts, "sources": sources, "corner": corner, "shape": asdict(shape)},
                kind=source.kind,
            )
            yield Event("Painting images", done + 1, len(own), preview=painted, made=(change,))

    def recall(self, record: Record, ingredients: Ingredients) -> Any:
        if is_drawn(record):
            return recall_drawn(record, ingredients)
        made = record.provenance
        labels, reference = (str(record.source(role)["image"]) for role in ("labels", "reference"))
        seen = tuple(made["learned_from"])
        return NewImage(int(made["item"]), record.name, record.seed, labels, reference, seen)

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """Where the label of a pixel lay in its real image, and whose stain was followed."""
        if is_drawn(record):
            return trace_drawn(record, row, col)
        from napari_histomix.generation.edges import Shape

        made, (height, width) = record.provenance, record.window[2:]
        y, x = Shape(**made["shape"]).source(row, col, (height, width))
        top, left = made["corner"]
        place = {"image": record.source("labels")["image"], "x": round(x + left, 2), "y": round(y + top, 2)}
        return {"labels": place, "reference": record.source("reference")["image"]}

    def sentence(self, records: Sequence[Record]) -> str:
        """How they were made, and how many a person drew."""
        return sentence_of(self.title, super().sentence(records), records)


def _cut(image: LabeledImage, side: int | None, rng: np.random.Generator) -> tuple[LabeledImage, list[int]]:
    """A square of an image at a random place, as far as it reaches, and its upper left corner."""
    height, width = image.instances.shape
    rows, cols = (min(side or have, have) for have in (height, width))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - cols + 1))
    window = slice(top, top + rows), slice(left, left + cols)
    part = replace(image, pixels=np.ascontiguousarray(image.pixels[window]), instances=image.instances[window].copy())
    return part, [top, left]


METHOD = EdgePix2Pix()
