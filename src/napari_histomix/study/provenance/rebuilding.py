"""Synthetic images made again from their records, by the steps of each method."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing import DonorCrop, IndexedImage, cut_donor, plan_placement
from napari_histomix.compositing.exchanging import Swap, paste_all
from napari_histomix.compositing.replacement import Pose
from napari_histomix.datasets.run_lengths import mask_of
from napari_histomix.diffusion.windows import WindowedPlan, finished_placement, painted, windowed
from napari_histomix.records import (
    Candidate,
    Event,
    Job,
    LabeledImage,
    Location,
    Placement,
    Segment,
    TissueImage,
)
from napari_histomix.study.provenance.ingredients import Models, Place, Sources
from napari_histomix.study.provenance.recorded import Manifest, SyntheticImage, undamaged

if TYPE_CHECKING:
    from napari_histomix.diffusion.prompted import AnyModel

Remade = list[Placement] | str
"""Placements of an image, or why they cannot be made again."""


_RECIPE = ("model_sha256", "model_mpp", "model_windows", "prompt", "sampler_settings", "device", "threads")
"""What placements that are painted together have in common."""


def rebuild_placements(manifest: Manifest, sources: Sources, models: Models, device: str) -> Job[dict[str, Remade]]:
    """Make all placements again; a long job (see ``records.Job``).

    A placement depends on no other one: others could only have kept it from being made.

    Returns
    -------
    dict of str to list of Placement
        By image, in the order of their records; or why an image cannot be rebuilt.
    """
    found: dict[str, Remade] = {}
    groups: dict[str, list[tuple[Mapping[str, Any], WindowedPlan]]] = {}
    crops = yield from _cut_donors(manifest.images, sources, manifest.path)
    for done, image in enumerate(manifest.images):
        yield Event("Planning placements", done, len(manifest.images))
        target = IndexedImage(sources.read(image.target))
        for record in image.records:
            made = record["provenance"]
            with undamaged(manifest.path):
                plan = _planned(record, target, crops[_giver(record)], models.of(made))
            if isinstance(plan, str):
                found[image.name] = plan
                break
            groups.setdefault(json.dumps([made.get(part) for part in _RECIPE]), []).append((record, plan))
    placed: dict[int, Placement] = {}
    for group in groups.values():
        blended = yield from _painted(group, models, device)
        for (record, plan), pixels in zip(group, blended, strict=True):
            placed[id(record)] = finished_placement(plan, pixels, {})
    for image in manifest.images:
        found.setdefault(image.name, [placed[id(record)] for record in image.records if id(record) in placed])
    return found


def _giver(record: Mapping[str, Any]) -> tuple[str, int]:
    """Image and instance of a record's donor."""
    return record["provenance"]["sources"]["donor"]["image"], int(record["donor"]["instance"])


def _cut_donors(
    images: Iterable[SyntheticImage], sources: Sources, path: Path
) -> Job[dict[tuple[str, int], DonorCrop]]:
    """Every donor once, by image and instance; each image is read once for all of its donors."""
    by_image: dict[str, list[Mapping[str, Any]]] = {}
    with undamaged(path):
        for record in (record for image in images for record in image.records):
            by_image.setdefault(_giver(record)[0], []).append(record)
    crops: dict[tuple[str, int], DonorCrop] = {}
    for done, some in enumerate(by_image.values()):
        yield Event("Cutting donors", done, len(by_image))
        giver = IndexedImage(sources.read(some[0]["provenance"]["sources"]["donor"]))
        with undamaged(path):
            for record in some:
                crops.setdefault(_giver(record), cut_donor(giver, _location(record["donor"], giver.image)))
    return crops


def _painted(
    group: list[tuple[Mapping[str, Any], WindowedPlan]], models: Models, device: str
) -> Job[list[NDArray[np.uint8]]]:
    from napari_histomix.diffusion.environment import threads
    from napari_histomix.diffusion.inpainter import BATCH
    from napari_histomix.diffusion.samplers import Sampler

    made = group[0][0]["provenance"]
    place = Place.of(made, device)
    disc, ring = (Sampler.parse(made["sampler_settings"][stage]) for stage in ("disc", "ring"))
    with threads(place.threads):
        pixels = yield from painted(
            [plan for _, plan in group], models.of(made), disc, ring, device=place.device, batch=BATCH
        )
    return pixels


def _planned(record: Mapping[str, Any], target: IndexedImage, donor: DonorCrop, model: AnyModel) -> WindowedPlan | str:
    """The plan of a recorded placement, or why there is none any more."""
    made = record["provenance"]
    scores = float(record["log_likelihood"]), float(record["percentile"])
    candidate = Candidate(int(record["rank"]), _location(record["target"], target.image), donor.location, *scores)
    plan = plan_placement(
        target,
        candidate,
        donor,
        seed=int(record["seed"]),
        taken=np.zeros(target.image.instances.shape, bool),
        stain_matching=bool(made["stain_matching"]),
        symmetries=bool(made["symmetries"]),
    )
    fitted = plan if isinstance(plan, str) else windowed(plan, target.image, model)
    if isinstance(fitted, str):
        return f"nucleus {candidate.rank} can no longer be laid there: {fitted}"
    return replace(fitted, instance=int(record["instance"]))


def _location(place: Mapping[str, Any], image: LabeledImage) -> Location:
    """A location of a record. Its type is what the image says: records name classes, and names may change."""
    instance = int(place["instance"])
    kind = image.types.get(instance, 0) if instance else 0
    return Location(
        image.source.image, place["kind"], float(place["row"]), float(place["col"]), instance, kind, int(place["area"])
    )


def rebuild_tissue(
    image: SyntheticImage, manifest: Manifest, sources: Sources, models: Models, device: str
) -> Job[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Make a synthetic tissue image again: its pixels (H, W, 3) and its origin map (H, W); a long job."""
    from napari_histomix.diffusion.environment import threads
    from napari_histomix.diffusion.large_holes import fill_holes
    from napari_histomix.diffusion.samplers import Sampler

    (record,) = image.records
    made = record["provenance"]
    target: TissueImage = sources.read(image.target)
    donors = [sources.read(one) for one in made["donors"]]
    with undamaged(manifest.path):
        swaps = swaps_of(made)
    pixels, origin, _ = paste_all(target, swaps, donors, bool(made["stain_matching"]))
    hole = origin > 1
    if hole.any():
        place = Place.of(made, device)
        sampler = Sampler.parse(made["sampler_settings"]["large"])
        with threads(place.threads):
            pixels = yield from fill_holes(
                pixels,
                hole,
                target.mpp,
                models.of(made),
                sampler,
                int(record["seed"]),
                device=place.device,
                phase=f"Blending {image.name}",
            )
    return pixels, origin


def swaps_of(made: Mapping[str, Any]) -> list[Swap]:
    """The replacements that the provenance of a tissue image lists."""
    return [
        Swap(_segment(one["replaced_mask"]), _segment(one["segment_mask"]), _pose(one["pose"]))
        for one in made["donors"]
    ]


def _segment(text: Mapping[str, Any]) -> Segment:
    return Segment(0, int(text["row"]), int(text["col"]), mask_of(text))


def _pose(text: Mapping[str, Any]) -> Pose:
    first, second = (tuple(float(value) for value in row) for row in text["matrix"])
    return Pose((first, second), float(text["scale"]), float(text["angle"]), bool(text["mirrored"]))
