"""NuDiff: layouts of nuclei, looked at and kept by a person, painted by a diffusion model (arXiv 2310.14197).

The paper draws nuclei structures with a diffusion model, turns them into instance maps, and paints those with a second
one that follows them through SPADE blocks and classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np

from napari_histomix.compositing.indexed_image import ImageCache
from napari_histomix.datasets.pixels import labels_sha256
from napari_histomix.datasets.splits import check_training
from napari_histomix.generation.layout import Layout
from napari_histomix.methods.base import Ingredients, Method, Needs, Plan, Work, whole_images
from napari_histomix.methods.deriving import fresh_name
from napari_histomix.methods.generating import (
    GeneratingSettings,
    ImageModelSettings,
    NewImage,
    generator_of,
    learned_from,
    painted_image,
    painting_facts,
)
from napari_histomix.methods.layout_stage import LayoutBook, LayoutStage, map_of, map_text
from napari_histomix.methods.painting_by_hand import (
    DrawnImage,
    is_drawn,
    make_drawn,
    parted,
    recall_drawn,
    sentence_of,
    trace_drawn,
)
from napari_histomix.methods.record import Record
from napari_histomix.records import Event, HistomixError, Job, SourceRef, relayed
from napari_histomix.sampling import item_seed
from napari_histomix.settings import Option

STAINS = {"own": "Of the layout's own image", "other": "Of another training image"}


@dataclass(frozen=True, kw_only=True)
class NuDiffSettings(GeneratingSettings, ImageModelSettings):
    """How layouts are painted."""

    stain: Annotated[
        str, Option("The stain to follow; a drawn layout follows that of any training image.", choices=STAINS)
    ] = "own"


@dataclass(frozen=True)
class LayoutImage(NewImage):
    """A layout that will be painted: ``number`` in its study, or ``given`` itself where it is painted again.

    ``about`` is what provenance says of it beside its map.
    """

    number: int = 0
    kind: str = ""
    given: Layout | None = None
    about: Mapping[str, Any] | None = None


class NuDiff(Method[NuDiffSettings, LayoutImage]):
    """Kept layouts, painted by an image model."""

    name, title = "nudiff", "NuDiff"
    makes = "new images painted by a diffusion model from layouts of nuclei."
    citation = "Yu et al., MICCAI 2023, arXiv 2310.14197"
    needs, settings = Needs(instances=True), NuDiffSettings
    stage = LayoutStage()
    seconds = 4.8

    def plan(self, work: Work, settings: NuDiffSettings) -> Job[Plan[LayoutImage]]:
        """Every kept layout once in random order, then all again, until as many as wanted are painted."""
        model = generator_of(settings, "image", work.loaded)
        seen = yield from learned_from(work.dataset, model)
        book, decided = LayoutBook(work.store.folder), work.decisions.get("layout", {})
        kept = [number for number in range(len(book)) if decided.get(number) != "drop"]
        if not kept:
            raise HistomixError("No layout is kept; keep one that was dropped, or make further ones.")
        for number in kept:
            facts = book.facts(number)
            origins = {facts.source, *facts.donors, *facts.made.get("learned_from", ())} - {""}
            check_training(work.dataset, origins, "give it back to that split, or drop the layouts made of it")
        images = ImageCache(work.dataset.read)
        stains = [entry.source.image for entry in whole_images(work.dataset) if entry.labels is not None]
        kinds = {entry.source.image: entry.kind for entry in work.dataset.entries}
        names = set(kinds)
        rng = np.random.default_rng([settings.seed, work.first])
        items: list[LayoutImage] = []
        while len(items) < settings.count:
            for number in rng.permutation(kept).tolist():
                if len(items) == settings.count:
                    break
                yield Event("Choosing layouts", len(items), settings.count)
                facts = book.facts(number)
                reference = self._reference(facts.source, stains, images, settings, rng)
                change = work.first + len(items)
                fresh = fresh_name(names, f"{facts.source or 'layout'} {self.name} {change + 1}")
                taught = tuple(dict.fromkeys([*seen, *facts.made.get("learned_from", ())]))
                seed, kind = item_seed(settings.seed, change), kinds.get(facts.source, "")
                about = len(items), fresh, seed, facts.source, reference, taught
                items.append(LayoutImage(*about, number=number, kind=kind))
        return Plan(items, settings.count, problems=tuple(images.problems.values()))

    def _reference(
        self, source: str, stains: Sequence[str], images: ImageCache, settings: NuDiffSettings, rng: np.random.Generator
    ) -> str:
        """Name of the image whose stain a layout follows."""
        if settings.stain == "own" and source and images.get(source) is not None:
            return source
        others = [name for name in stains if name != source and name not in images.problems]
        while others:
            name = others.pop(int(rng.integers(len(others))))
            if images.get(name) is not None:
                return name
        if images.problems:
            raise HistomixError(next(iter(images.problems.values())).sentence)
        raise HistomixError("There is no other training image whose stain could be followed; follow the layouts' own.")

    def make(self, work: Work, items: Sequence[LayoutImage | DrawnImage], settings: NuDiffSettings) -> Job[None]:
        from napari_histomix.generation.image_model import paint
        from napari_histomix.stains import stain_of

        model, painting = generator_of(settings, "image", work.loaded), settings.painting()
        drawn, own = parted(items)
        if drawn:
            names = {"method": self.name, "title": self.title}
            yield from make_drawn(work, drawn, settings, **names, model=model, painting=painting)
        facts = {**painting_facts(self.title, settings, model), "painting": asdict(painting)}
        images, book = ImageCache(work.dataset.read), LayoutBook(work.store.folder)
        numbers: dict[str, int] = {}
        for done, item in enumerate(sorted(own, key=lambda item: item.id)):
            layout, about = _layout(item, book)
            for name in set(layout.classes.values()) - numbers.keys():
                numbers[name] = work.dataset.class_number(name or work.dataset.unclassified.name)
            stain = stain_of(images.require(item.reference).image.pixels)
            job = paint([layout], model, [item.seed], painting, stains=[stain], device=settings.device)
            progress = {"phase": "Painting layouts", "done": done, "total": len(own)}
            (painted,) = yield from relayed(job, lambda event, at=progress: replace(event, **at))  # type: ignore[misc]
            change = painted_image(
                item,
                work.first + item.id,
                painted,
                layout,
                {number: numbers[name] for number, name in layout.classes.items()},
                method=self.name,
                sources=tuple(_sources(layout, item.reference)),
                facts={
                    **facts,
                    "sources": {"reference": images.facts[item.reference]},
                    "layout": {**about, **map_text(layout.instances)},
                },
                kind=item.kind,
            )
            yield Event("Painting layouts", done + 1, len(own), preview=painted, made=(change,))

    def recall(self, record: Record, ingredients: Ingredients) -> Any:
        """From the layout in the record: the study that it was kept in is not needed."""
        if is_drawn(record):
            return recall_drawn(record, ingredients)
        made = record.provenance
        labels = [str(source["image"]) for source in record.sources if source["role"] == "labels"]
        reference = str(record.source("reference")["image"])
        about = {key: value for key, value in made["layout"].items() if key not in ("size", "map")}
        classes = {number: str(facts["class"]) for number, facts in record.added.items()}
        layout = Layout(
            map_of(made["layout"]), classes, float(made["mpp"]), str(about["source"]),
            tuple(name for name in labels if name != about["source"]),
        )  # fmt: skip
        return LayoutImage(
            int(made["item"]), record.name, record.seed, layout.source, reference, tuple(made["learned_from"]),
            kind=next(iter(record.class_shares or ()), ""), given=layout, about=about,
        )  # fmt: skip

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """Which layout a pixel was painted from, the nucleus there, whose nuclei those are, and whose stain it has."""
        if is_drawn(record):
            return trace_drawn(record, row, col)
        layout = record.provenance["layout"]
        number = int(map_of(layout)[row, col])
        nucleus = {"instance": number, "class": record.added[number]["class"]} if number else {}
        labels = [source["image"] for source in record.sources if source["role"] == "labels"]
        return {
            "layout": int(layout["number"]) + 1,
            "layout_edited": layout["edited"],
            "layout_of": labels,
            **nucleus,
            "reference": record.source("reference")["image"],
        }

    def sentence(self, records: Sequence[Record]) -> str:
        """How the images were made, with what their layouts were made of."""
        made = [record.provenance["layout"] for record in records if not is_drawn(record)]
        if not made:
            return sentence_of(self.title, super().sentence(records), records)
        layouts = len({layout["sha256"] for layout in made})
        edited = len({layout["sha256"] for layout in made if layout["edited"]})
        words = f"{self.title}: {self.makes.rstrip('.')} ({len(made):,} of {layouts:,} layouts"
        words = f"{words}, {edited:,} of them edited by hand)." if edited else f"{words})."
        return sentence_of(self.title, words, records)


def _layout(item: LayoutImage, book: LayoutBook) -> tuple[Layout, Mapping[str, Any]]:
    """The layout of an item, and what provenance says of it beside its map."""
    if item.given is not None:
        return item.given, item.about or {}
    layout, facts = book.read(item.number), book.facts(item.number)
    about = {"number": item.number, "source": facts.source, "edited": facts.edited, "made": dict(facts.made)}
    return layout, {**about, "sha256": labels_sha256(layout.instances)}


def _sources(layout: Layout, reference: str) -> Iterator[SourceRef]:
    for name in (layout.source, *layout.donors):
        if name:
            yield SourceRef("labels", name)
    yield SourceRef("reference", reference)


METHOD = NuDiff()
