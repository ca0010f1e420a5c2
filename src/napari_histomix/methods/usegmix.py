"""USegMix: tissue segments replaced by similar ones of their class (Wang & Kwak, arXiv 2502.16160).

``segment_stage`` is the paper's phase 1. Its phase 2 is ``mixing``, which draws a segment, a similar one and its place,
and this file: ``make_mix`` pastes it and lets a diffusion model paint what lies between. Where the paper is silent or
its form does not work on real data, docs/usegmix.md says what is done instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.replacement import Swap, lay_all, paste_all
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.methods.base import Ingredients, Method, Needs, Plan, Work
from napari_histomix.methods.mixing import Exchange, MixPlan, USegMixSettings, plan_mixes
from napari_histomix.methods.record import Record, making_facts, mask_facts, painter, painter_facts
from napari_histomix.methods.segment_stage import SegmentPoolStage, read_image
from napari_histomix.records import INPAINTED, Change, Event, HistomixError, Job, LabeledImage, SourceRef, within
from napari_histomix.segmentation.pool import SegmentPool, decided, drawable

if TYPE_CHECKING:
    from napari_histomix.diffusion.models import AnyModel

STAGES = {"exemplars": "exemplars", "diffusion": "large"}
"""What ``fill`` is in the record of a sampler."""
EXEMPLARS = 3
"""Images beside the target's in which tissue for holes is looked for, at most."""


class USegMix(Method[USegMixSettings, MixPlan]):
    """The method."""

    name = "usegmix"
    title = "USegMix"
    makes = (
        "tissue segments of real images exchanged for similar ones of their class, what lies between painted by a "
        "diffusion model."
    )
    citation = "Wang & Kwak, USegMix: unsupervised segment mix for pathology images, arXiv 2502.16160"
    needs = Needs(kinds=True)
    settings = USegMixSettings
    stage = SegmentPoolStage()
    seconds = 4.5

    def plan(self, work: Work, settings: USegMixSettings) -> Job[Plan[MixPlan]]:
        """Draw targets and donors for every class, of the segments that nobody has dropped."""
        pool = SegmentPool(work.store.folder)
        decision, kind = decided(pool, work.decisions)
        members = {name: drawable(pool, decision, kind, name) for name in work.dataset.kinds}
        taken = {entry.source.image for entry in work.dataset.entries} | {change.name for change in work.before()}
        return (yield from plan_mixes(work.dataset, pool, members, settings, taken))

    def make(self, work: Work, items: Sequence[MixPlan], settings: USegMixSettings) -> Job[None]:
        """Make one image after the other."""
        pool = SegmentPool(work.store.folder)
        model = painter(settings, work.loaded)
        for done, item in enumerate(items):
            phase = f"Blending {item.name}"
            making = make_mix(work.dataset, pool, item, settings, model)
            change = yield from within(making, phase, done, len(items))
            change = replace(change, id=work.first + item.id)
            yield Event(phase, done + 1, len(items), change.pixels, made=(change,))

    def remake(self, records: Sequence[Record], ingredients: Ingredients) -> Job[list[Change | str]]:
        """Lay the recorded masks of the donors again, and paint with the recorded sampler."""
        from napari_histomix.diffusion.samplers import Sampler

        # Segments have no type.
        places = [field.name for field in fields(SourceRef)]
        remade: list[Change | str] = []
        for record in records:
            made = record.provenance
            target = ingredients.read(made["sources"]["target"])
            donors = [ingredients.read(facts) for facts in made["donors"]]
            swaps = [Swap.of(facts) for facts in made["donors"]]
            pasted, origin, _ = paste_all(target, swaps, donors, bool(made["stain_matching"]))
            model, device = ingredients.model(made), ingredients.device(made)
            ((stage, spec),) = made["sampler_settings"].items()
            with ingredients.threads(made):
                how = (model, Sampler.parse(spec), record.seed)
                painting = _painted(stage, pasted, origin, target, donors, *how, device=device)
                pixels = yield from within(painting, f"Blending {record.name}", len(remade), len(records))
            sources = tuple(SourceRef(*(source.get(key, 0) for key in places)) for source in record.sources)
            shares = record.class_shares or {target.kind: 1.0}
            change = _change(record.name, shares, target, pixels, origin, record.seed, sources, made)
            remade.append(replace(change, id=record.id))
        return remade

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """Which replacement a pixel belongs to; a donor's pixel with its place in the donor's image."""
        made = record.provenance
        swaps = [Swap.of(facts) for facts in made["donors"]]
        _, _, height, width = record.window
        laid, _ = lay_all(swaps, (height, width))
        number = next((index for index, part in enumerate(laid) if part.donor[row, col] or part.hole[row, col]), None)
        if number is None:
            raise HistomixError(
                f"No record of {record.name} covers ({col}, {row}), which its origin map marks; copy both again."
            )
        if painted:
            (stage,) = made["sampler_settings"]
            return {"replacement": number, "fill": stage, **painter_facts(made)}
        donor, segment = made["donors"][number], swaps[number].donor
        back = cv2.invertAffineTransform(np.array(swaps[number].pose.matrix))
        x, y = (round(float(value), 2) for value in back @ (col, row, 1))
        at = round(y), round(x)
        inside = all(0 <= place < size for place, size in zip(at, segment.mask.shape, strict=True))
        return {
            "replacement": number,
            **{key: str(donor[key]) for key in ("image", "patient", "slide")},
            "part": "segment" if inside and segment.mask[at] else "surroundings",
            "x": segment.col + x,
            "y": segment.row + y,
            "segment": donor["segment"],
            "stain": donor["stain"],
        }


def compose(
    target: LabeledImage,
    pool: SegmentPool,
    exchanges: Sequence[Exchange],
    donors: Mapping[str, LabeledImage],
    stain_matching: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, Any]]]:
    """The target with its donors pasted in, not yet blended: as ``paste_all``, with the provenance of each replacement.

    ``donors`` are the donors' images by name.
    """
    swaps = [exchange.swap for exchange in exchanges]
    given = [donors[pool.image(exchange.donor).source.image] for exchange in exchanges]
    pixels, origin, stains = paste_all(target, swaps, given, stain_matching)
    facts = [
        {
            **image_facts(image),
            "segment": exchange.donor,
            "replaced_segment": exchange.target,
            "probability": round(exchange.probability, 6),
            "pose": swap.pose.facts(),
            "stain": dict(stain),
            "segment_mask": mask_facts(swap.donor),
            "replaced_mask": mask_facts(swap.target),
            **_seam_facts(swap, exchange.fit),
        }
        for exchange, swap, image, stain in zip(exchanges, swaps, given, stains, strict=True)
    ]
    return pixels, origin, facts


def _seam_facts(swap: Swap, fit: Mapping[str, float]) -> dict[str, Any]:
    """What a replacement along a seam adds to the provenance of one."""
    painted = mask_facts(swap.painted) if swap.painted else None
    return {"cut": mask_facts(swap.cut), "painted_mask": painted, "fit": dict(fit)} if swap.cut else {}


def make_mix(
    dataset: Dataset, pool: SegmentPool, plan: MixPlan, settings: USegMixSettings, model: AnyModel
) -> Job[Change]:
    """Carry one plan out: paste the donors, let the diffusion model paint what lies between; a long job.

    HistomixError is raised if an image is not the one that the pool was made of, or is of another split.
    """
    from napari_histomix.diffusion.samplers import PRESETS

    stage = STAGES[settings.fill]
    if any(exchange.swap.cut for exchange in plan.exchanges):
        stage = "seam"
    preset = PRESETS[settings.sampler]
    sampler = preset.large if stage == "large" else preset.seam
    how = making_facts(USegMix.title, settings, {stage: sampler}, model)
    needed = {plan.image, *(pool.image(exchange.donor).source.image for exchange in plan.exchanges)}
    images = {name: read_image(dataset, pool, name) for name in sorted(needed)}
    target = images[plan.image]
    pasted, origin, facts = compose(target, pool, plan.exchanges, images, settings.stain_matching)
    where = {"device": settings.device, "batch": settings.batch}
    donors = [images[fact["image"]] for fact in facts]
    pixels = yield from _painted(stage, pasted, origin, target, donors, model, sampler, plan.seed, **where)
    provenance = {
        **how,
        "sources": {"target": image_facts(target)},
        "donors": facts,
        "new_area": round(float(np.count_nonzero(origin) / origin.size), 4),
        "painted": round(float(np.count_nonzero(origin == INPAINTED) / origin.size), 4),
        "signature": dict(pool.signature),
        "temperature": plan.temperature,
        "stain_matching": settings.stain_matching,
    }
    sources = SourceRef("target", plan.image), *(_donor(pool, exchange.donor) for exchange in plan.exchanges)
    return _change(plan.name, {plan.kind: 1.0}, target, pixels, origin, plan.seed, sources, provenance)


def _painted(
    stage: str,
    pasted: NDArray[np.uint8],
    origin: NDArray[np.uint8],
    target: LabeledImage,
    donors: Sequence[LabeledImage],
    *how: Any,
    **where: Any,
) -> Job[NDArray[np.uint8]]:
    """Pixels (H, W, 3) with what the origin map marks as inpainted filled in: a seam, or large holes.

    Large ones are painted, or filled with tissue of the target's and the donors' images.
    """
    from napari_histomix.diffusion.large_holes import fill_from_exemplars, fill_holes
    from napari_histomix.diffusion.narrow_holes import fill_narrow

    hole = origin == INPAINTED
    if not hole.any():
        return pasted
    if stage == "exemplars":
        others = {one.source.image: (one.pixels, one.mpp) for one in donors if one.source.image != target.source.image}
        where["others"] = tuple(others.values())[:EXEMPLARS]
        return (yield from fill_from_exemplars(pasted, hole, target.mpp, *how, **where))
    return (yield from (fill_narrow if stage == "seam" else fill_holes)(pasted, hole, target.mpp, *how, **where))


def _donor(pool: SegmentPool, number: int) -> SourceRef:
    """A segment of a pool as a source: its number, the center of its bounding box and its area."""
    row = pool.rows[number]
    center = float(row["row"] + row["height"] / 2), float(row["col"] + row["width"] / 2)
    return SourceRef("donor", pool.image(number).source.image, number, 0, *center, int(row["area"]))


def _change(
    name: str,
    class_shares: Mapping[str, float],
    target: LabeledImage,
    pixels: NDArray[np.uint8],
    origin: NDArray[np.uint8],
    seed: int,
    sources: tuple[SourceRef, ...],
    provenance: Mapping[str, Any],
) -> Change:
    """A derived image; nuclei that a replacement touches are labeled no longer, the others stay."""
    touched = np.unique(target.instances[origin != 0])
    removed = tuple(touched[touched != 0].tolist())
    return Change(
        *(0, target.source.image, name, 0, 0, pixels, origin, None, {}, removed, class_shares, USegMix.name, seed),
        sources=sources,
        provenance=provenance,
    )


METHOD = USegMix()
