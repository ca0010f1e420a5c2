"""A study's pool as the Segments dock uses it: an image of it shown, corrections taken in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset, open_tissue
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, Segment
from napari_histomix.segmentation import segment_map, segments_of
from napari_histomix.segmentation.pool import PoolImage, SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.study.database import READ_ONLY, Claim
from napari_histomix.widgets.jobs import prepare_torch
from napari_histomix.widgets.segments.layers import Divided, Picture, features_of, pathless

SETTINGS = "pool_settings"
"""Key in a study under which the settings of its pool are kept."""


@dataclass(frozen=True, eq=False)
class OpenPool:
    """A study with its pool, and its images where they can be read."""

    study: Study
    pool: SegmentPool
    dataset: Dataset | None


def open_pool_job(folder: Path, claim: Claim) -> Callable[[], Job[OpenPool]]:
    """Open a study that has a pool; ``claim`` is the window's right to write to it."""

    def opened() -> Job[OpenPool]:
        yield Event("Opening the study")
        study = Study.open(folder, claim)
        study.hold()
        pool = SegmentPool(folder)
        try:
            dataset = with_chosen_splits(open_tissue(study.dataset_root, mpp=study.mpp), study.settings())
        except (HistomixError, OSError):
            # The images may have been moved; what lies open in the viewer can be corrected all the same.
            dataset = None
        return OpenPool(study, pool, dataset)

    return pathless(opened, folder)


# One image of the pool.


def pool_image(pool: SegmentPool, told: Mapping[str, Any]) -> PoolImage | None:
    """The image of a pool that a layer's metadata speaks of: the one with its pixels, or else of its name."""
    if told.get("sha256"):
        return next((one for one in pool.images if one.sha256 == told["sha256"]), None)
    return next((one for one in pool.images if one.source.image == told.get("image")), None)


def numbers_of(curation: Curation, image: PoolImage) -> dict[int, list[int]]:
    """For every label of an image the numbers of its segments in the pool, those not dropped last, then by age."""
    pool = curation.pool
    same = [index for index, one in enumerate(pool.images) if one.source.image == image.source.image]
    found: dict[int, list[int]] = {}
    for number in np.flatnonzero(np.isin(pool.rows["image"], same)).tolist():
        found.setdefault(int(pool.rows["number"][number]), []).append(number)
    allowed = curation.allowed()
    return {label: sorted(numbers, key=lambda one: (allowed[one], one)) for label, numbers in found.items()}


def divided_of(curation: Curation, image: PoolImage) -> Divided:
    """The segments of an image that a pool holds, without the dropped ones; a label made twice is the newer one."""
    pool, allowed = curation.pool, curation.allowed()
    current = [some[-1] for some in numbers_of(curation, image).values() if allowed[some[-1]]]
    segments = [pool.segment(number) for number in current]
    features = features_of(segments, image.shape, image.mpp, [curation.kind_of(number) for number in current])
    told = {
        "image": image.source.image,
        "class": image.kind,
        "prompter": pool.signature.get("prompter", ""),
        "settings": dict(pool.signature.get("anchors", {})),
        "segments": len(segments),
        "sha256": image.sha256,
    }
    return Divided(segment_map(segments, image.shape), features, told)


@dataclass(frozen=True, eq=False)
class Shown:
    """An image of a pool with its segments."""

    image: LabeledImage
    divided: Divided


def show_job(opened: OpenPool, name: str) -> Callable[[], Job[Shown]]:
    """Read an image of the pool, and its segments as they are now."""

    def show() -> Job[Shown]:
        yield Event("Reading the image")
        pool = SegmentPool(opened.study.folder)
        image = next((one for one in pool.images if one.source.image == name), None)
        if image is None:
            raise HistomixError(f"The pool has no image {name}.")
        if opened.dataset is None:
            raise HistomixError("The images of this study are no longer where they were; put them back.")
        read = opened.dataset.read(name)
        if pixels_sha256(read.pixels) != image.sha256:
            raise HistomixError(f"The image {name} is not the one that the pool was made of; build the pool again.")
        return Shown(
            LabeledImage.of_kind(read.pixels, image.kind, image.mpp, image.source), divided_of(_now(opened), image)
        )

    return pathless(show, opened.study.folder)


# Corrections.


@dataclass(frozen=True, eq=False)
class Corrected:
    """How many segments were replaced, added and dropped; the pool as it is now, and the image's features."""

    replaced: int
    added: int
    dropped: int
    opened: OpenPool
    features: pd.DataFrame

    def words(self) -> str:
        """What happened, in a sentence."""
        said = {"replaced": self.replaced, "added": self.added, "dropped": self.dropped}
        parts = [f"{count:,} {what}" for what, count in said.items() if count]
        if not parts:
            return "Nothing differs from the pool."
        first, _, rest = parts[0].partition(" ")
        parts[0] = f"{first} segment{'' if first == '1' else 's'} {rest}"
        return ", ".join(parts) + "."


def correct_job(
    opened: OpenPool, told: Mapping[str, Any], labels: NDArray[np.int32], pictures: Sequence[Picture], encoder: str
) -> Callable[[], Job[Corrected]]:
    """Take what a person painted into the pool: changed and new segments are added, what they replace is dropped.

    Parameters
    ----------
    opened : OpenPool
    told : mapping
        The layer's metadata.
    labels : (H, W) int32
    pictures : sequence of Picture
        Open images, asked where the dataset cannot be read.
    encoder : str
        What the pool was made with, where the study does not say.
    """

    def correct() -> Job[Corrected]:
        from napari_histomix.methods.segment_stage import correct_pool

        yield Event("Comparing segments")
        if opened.study.read_only:
            raise HistomixError(READ_ONLY)
        curation = _now(opened)
        image = pool_image(curation.pool, told)
        if image is None:
            raise HistomixError(f"The image {told.get('image', '')} is not the one that the pool was made of.")
        if labels.shape != image.shape:
            (rows, cols), (height, width) = labels.shape, image.shape
            raise HistomixError(f"The labels are {cols}×{rows} pixels but the image is {width}×{height}.")
        known, allowed = numbers_of(curation, image), curation.allowed()
        before = {one.number: one for one in segments_of(divided_of(curation, image).labels)}
        drawn = {one.number: one for one in segments_of(labels)}
        new = []
        for label, one in drawn.items():
            # One that was dropped stays dropped as long as nobody paints on it.
            there = before.get(label) or (curation.pool.segment(known[label][-1]) if label in known else None)
            if there is None or not _same(one, there):
                new.append(one)
        olds = {one.number: known[one.number][-1] for one in new if one.number in known}
        replaced = [label for label, number in olds.items() if allowed[number]]
        gone = [known[label][-1] for label in before.keys() - drawn.keys()]
        # An older one of the same label may be left where an earlier time was interrupted.
        over = [number for numbers in known.values() for number in numbers[:-1] if allowed[number]]
        over += gone
        places: dict[int, int] = {}
        if new:
            spec = opened.study.settings().get(SETTINGS, {}).get("encoder", encoder)
            if spec != "texture":
                prepare_torch()
            tissue = _read(opened, image, pictures)
            first = yield from correct_pool(opened.study.folder, tissue, new, spec)
            curation = _now(opened)
            places = {olds[one.number]: at for at, one in enumerate(new, start=first) if one.number in replaced}
        curation.correct(places, over)
        counts = len(replaced), len(new) - len(replaced), len(gone)
        now = OpenPool(opened.study, curation.pool, opened.dataset)
        return Corrected(*counts, now, divided_of(curation, image).features)

    return pathless(correct, opened.study.folder)


def _now(opened: OpenPool) -> Curation:
    """The pool with everything that was decided so far, in whatever window."""
    return Curation(opened.study, SegmentPool(opened.study.folder))


def _same(one: Segment, other: Segment) -> bool:
    return (one.row, one.col) == (other.row, other.col) and np.array_equal(one.mask, other.mask)


def _read(opened: OpenPool, image: PoolImage, pictures: Sequence[Picture]) -> LabeledImage:
    """The image that segments were drawn in, from its dataset or from an open layer."""
    name = image.source.image

    def from_dataset() -> NDArray[np.uint8] | None:
        try:
            return opened.dataset.read(name).pixels if opened.dataset is not None else None
        except HistomixError:
            return None

    for read in (from_dataset, *(one.pixels for one in pictures)):
        pixels = read()
        if pixels is not None and pixels_sha256(pixels) == image.sha256:
            return LabeledImage.of_kind(pixels, image.kind, image.mpp, image.source)
    raise HistomixError(
        f"The image {name} is neither in the study's folder of images nor open as it was when the pool was made."
    )
