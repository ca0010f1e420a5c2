"""What if a nucleus were there: shapes of rare nuclei at vetted places of real images, painted anew and not copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histomix.compositing import planning
from napari_histomix.compositing.composing import compose_window, cut, window_around
from napari_histomix.compositing.donors import cut_donor, dilate
from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.compositing.placing import check_candidates
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layout_board import centered, turned_pixels
from napari_histomix.generation.unlabeled import UnlabeledNuclei, load_segmenter
from napari_histomix.methods.base import Ingredients, Plan, Work
from napari_histomix.methods.candidate_stage import CANDIDATES
from napari_histomix.methods.generating import (
    ImageModelSettings,
    ImageNetwork,
    generator_of,
    learned_from,
    painting_facts,
)
from napari_histomix.methods.nucleimix import HELD, HOLDS_NUCLEUS, CheckFreePlaces
from napari_histomix.methods.painting_by_hand import (
    DrawnNuclei,
    is_drawn,
    make_drawn,
    parted,
    recall_drawn,
    sentence_of,
    trace_drawn,
)
from napari_histomix.methods.pasting import CandidateDonorSettings, Check, Pasting, Site, in_place, inside
from napari_histomix.methods.record import Record
from napari_histomix.records import (
    INPAINTED,
    KEEP,
    REAL,
    Candidate,
    Change,
    Event,
    HistomixError,
    Job,
    SourceRef,
    relayed,
)
from napari_histomix.sampling import item_seed
from napari_histomix.settings import Device

if TYPE_CHECKING:
    from napari_histomix.generation.models import GeneratorModel

RIM_UM = 1.0
"""Width in µm of the rim around a nucleus, old or new, that is painted with it."""

CONTEXT_UM = 24.0
"""Surroundings of a change in µm that the network may see, of which it takes as much as it needs."""


@dataclass(frozen=True, kw_only=True)
class PaintedNucleiSettings(CandidateDonorSettings, ImageModelSettings):
    """How new nuclei are painted."""

    model: ImageNetwork = ""
    device: Device = "auto"
    check_free_places: CheckFreePlaces = True


@dataclass(frozen=True)
class PaintedSite(Site):
    """A shape and its place.

    ``learned_from`` are the images of the dataset that the network learned from, ``segmenter_sha256`` the weights that
    found no nucleus at the place; empty where nobody looked.
    """

    learned_from: tuple[str, ...] = ()
    segmenter_sha256: str = ""


class PaintedNuclei(Pasting[PaintedNucleiSettings]):
    """The shape of each candidate's donor, turned, at the candidate's place; only there is the image painted."""

    name, title = "painted-nuclei", "Painted nuclei"
    makes = "rare nuclei painted by a diffusion model at candidate locations, in the shapes of real ones."
    citation = "After NuDiff, Yu et al., MICCAI 2023, arXiv 2310.14197"
    settings, stage = PaintedNucleiSettings, CANDIDATES
    seconds = 0.31

    def sites(self, work: Work, settings: PaintedNucleiSettings, images: ImageCache) -> Job[Sequence[Site]]:
        """The candidates by rank."""
        yield from ()
        return [
            Site(
                candidate.rank,
                candidate.target,
                candidate.donor,
                item_seed(settings.seed, candidate.rank),
                placed_by=candidate.placed_by,
            )
            for candidate in self.kept_candidates(work, settings.kept_only)
        ]

    def check(self, settings: PaintedNucleiSettings) -> Check | None:
        """No free place where a nucleus lies that nobody labeled."""
        if not settings.check_free_places:
            return None
        unlabeled = UnlabeledNuclei(load_segmenter(), settings.device)

        def flaw(site: Site, target: IndexedImage, laid: Change) -> str:
            if site.target.instance:
                return ""
            held = unlabeled.within(target.image, laid.window)[laid.origin != REAL].mean()
            return HOLDS_NUCLEUS if held > HELD else ""

        return flaw

    def plan(self, work: Work, settings: PaintedNucleiSettings) -> Job[Plan[Site]]:
        """As ``Pasting.plan``; a network that learned from test images is refused."""
        model = generator_of(settings, "image", work.loaded)
        seen = yield from learned_from(work.dataset, model)
        plan = yield from super().plan(work, settings)
        looked = load_segmenter().sha256 if settings.check_free_places else ""
        return replace(
            plan, items=[PaintedSite(**vars(site), learned_from=seen, segmenter_sha256=looked) for site in plan.items]
        )

    def lay(
        self, site: Site, target: IndexedImage, giver: IndexedImage, settings: PaintedNucleiSettings
    ) -> Change | str:
        """The labels with the new nucleus, and the pixels that will be painted, as they are before that."""
        image, rng = target.image, np.random.default_rng(site.seed)
        donor = cut_donor(giver, site.donor).at_scale(image.mpp)
        if not donor.nucleus.any():
            return planning.TOO_SMALL
        degrees, mirrored = round(float(rng.uniform(0, 360)), 3), bool(rng.integers(2))
        shape = turned_pixels(centered(np.argwhere(donor.nucleus))[1], degrees, mirrored)
        pixels = shape + np.rint([site.target.row, site.target.col]).astype(np.int64)
        (top, left), (bottom, right) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
        box = slice(top, bottom + 1), slice(left, right + 1)
        if not inside(box, image.instances.shape):
            return planning.CROSSES_EDGE
        replaced = site.target.instance
        rim = max(1, round(RIM_UM / image.mpp))
        boxes = [box, target.boxes[replaced]] if replaced else [box]
        window = window_around(boxes, rim, image.instances.shape)
        there = image.instances[window]
        nucleus = np.zeros(there.shape, bool)
        nucleus[tuple((pixels - [window[0].start, window[1].start]).T)] = True
        others = (there != 0) & (there != replaced) if replaced else there != 0
        if (nucleus & others).any():
            return planning.COVERS_NEIGHBOR
        rims = dilate(nucleus | (there == replaced) if replaced else nucleus, rim)
        if np.count_nonzero(rims & others) > planning.CLIPPED_AT_MOST * np.count_nonzero(rims & ~nucleus):
            return planning.TOO_CLIPPED
        origin = np.where(rims & ~others, INPAINTED, REAL).astype(np.uint8)
        labels = np.where(nucleus, site.instance, KEEP).astype(np.int32)
        return in_place(
            site, target, (window[0].start, window[1].start), image.pixels[window], origin, labels,
            {site.instance: site.donor.type}, {"degrees": degrees, "mirrored": mirrored},
            removed=[replaced] if replaced else [],
        )  # fmt: skip

    def make(self, work: Work, items: Sequence[Site | DrawnNuclei], settings: PaintedNucleiSettings) -> Job[None]:
        """Paint each; the images are gone through one after the other. What a person drew is made as it was drawn."""
        model = generator_of(settings, "image", work.loaded)
        drawn, own = parted(items)
        if drawn:
            names = {"method": self.name, "title": self.title}
            yield from make_drawn(work, drawn, settings, **names, model=model, painting=settings.painting())
        images = ImageCache(work.dataset.read)
        for done, site in enumerate(sorted(own, key=lambda site: (site.image, site.id))):
            laid = self._made(work, site, images, settings)
            if isinstance(laid, str):
                raise HistomixError(f"{site.image}: a planned nucleus cannot be placed any more: {laid}.")
            painting = self._painted(work, site, laid, images, settings, model)
            progress = {"phase": "Painting nuclei", "done": done, "total": len(own)}
            change = yield from relayed(painting, lambda event, at=progress: replace(event, **at))  # type: ignore[misc]
            yield Event("Painting nuclei", done + 1, len(own), preview=change.pixels, made=(change,))

    def place(self, work: Work, sites: Sequence[Candidate], settings: PaintedNucleiSettings) -> Job[list[Change | str]]:
        check_candidates(work.dataset, sites)
        model = generator_of(settings, "image", work.loaded)
        seen = yield from learned_from(work.dataset, model)
        laid = yield from super().place(work, sites, settings)
        images = ImageCache(work.dataset.read)
        placed: list[Change | str] = []
        for candidate, change in zip(sites, laid, strict=True):
            if isinstance(change, Change):
                seed = item_seed(settings.seed, candidate.rank)
                site = PaintedSite(candidate.rank, candidate.target, candidate.donor, seed, learned_from=seen)
                images.require(candidate.target.image)
                change = yield from self._painted(work, site, change, images, settings, model)
            placed.append(change)
        return placed

    def _painted(
        self,
        work: Work,
        site: Site,
        change: Change,
        images: ImageCache,
        settings: PaintedNucleiSettings,
        model: GeneratorModel,
    ) -> Job[Change]:
        """A change whose pixels are painted."""
        from napari_histomix.generation.image_model import paint_inside

        image = images.require(site.image).image
        window = window_around([change.window], round(CONTEXT_UM / image.mpp), image.instances.shape)
        made, _ = compose_window(image, window, [change])
        layout = Layout.of(made.image, work.dataset.all_classes)
        corner = window[0].start, window[1].start
        hole = made.origin == INPAINTED
        painting = settings.painting()
        filled = yield from paint_inside(
            image.pixels[window], layout, hole, model, site.seed, painting, device=settings.device
        )
        facts = {
            **change.provenance,
            **painting_facts(self.title, settings, model),
            "sources": change.provenance["sources"],
            "painting": asdict(painting),
            "learned_from": list(site.learned_from) if isinstance(site, PaintedSite) else [],
            "segmenter_sha256": site.segmenter_sha256 if isinstance(site, PaintedSite) else "",
        }
        shape = SourceRef.of("labels", site.donor)
        sources = (change.sources[0], shape)
        return replace(change, pixels=cut(filled, change.window, corner), sources=sources, provenance=facts)

    def recall(self, record: Record, ingredients: Ingredients) -> Any:
        if is_drawn(record):
            return recall_drawn(record, ingredients)
        target, donor = (record.location(role, ingredients.dataset) for role in ("target", "labels"))
        made = record.provenance
        seen, looked = tuple(made["learned_from"]), made.get("segmenter_sha256", "")
        by_hand = made.get("placed_by")
        return PaintedSite(int(made["rank"]), target, donor, record.seed, min(record.added), by_hand, seen, looked)

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """The new nucleus, and the real one whose shape it has, where nobody drew it."""
        if is_drawn(record):
            return trace_drawn(record, row, col)
        ((number, nucleus),) = record.added.items()
        shape = record.source("labels")
        return {
            "instance": number,
            "class": nucleus["class"],
            "shape_of": {"image": shape["image"], "instance": shape["item"]},
        }

    def sentence(self, records: Sequence[Record]) -> str:
        """How they were made, and how many a person drew."""
        return sentence_of(self.title, super().sentence(records), records)


METHOD = PaintedNuclei()
