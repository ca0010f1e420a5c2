"""What the Mix dock does in the background: an image and its segments, donors to choose from, one replacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.jobs import make_items
from napari_histomix.methods.segment_stage import read_image
from napari_histomix.methods.usegmix import METHOD, MixPlan, USegMixSettings, compose, donor_choice, plan_one
from napari_histomix.records import Change, Event, HistomixError, Job, LabeledImage, Segment
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.jobs import prepare_torch

SHOWN = 10
"""Donors to choose from."""
MARGIN = 0.25
"""What is shown around a segment, as a share of its longer side."""


@dataclass(frozen=True, eq=False)
class Target:
    """An image of the pool, its segments that nobody dropped (H, W), and their numbers in the pool by label."""

    image: LabeledImage
    labels: NDArray[np.int32]
    numbers: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Donor:
    """A segment that may replace the target: how likely, from where, and how it looks there before blending."""

    number: int
    probability: float
    image: str
    patient: str
    crop: NDArray[np.uint8]
    plan: MixPlan


@dataclass(frozen=True, eq=False)
class Tissue:
    """A study, its pool and its dataset."""

    study: Study
    pool: SegmentPool
    dataset: Any

    def job(self, make: Callable[[], Job[Any]]) -> Callable[[], Job[Any]]:
        """A job whose failures name files and no paths."""

        def job() -> Job[Any]:
            try:
                return (yield from make())
            except FileNotFoundError:
                raise HistomixError("A file of the study is no longer where it was; open the study again.") from None
            except HistomixError as error:
                sentence = str(error)
                for folder in (self.study.folder, self.dataset.root):
                    sentence = sentence.replace(str(folder), folder.name)
                raise HistomixError(sentence) from None

        return job

    def target_job(self, name: str) -> Callable[[], Job[Target]]:
        """Read an image and draw its segments that nobody dropped."""
        pool = self.pool

        def job() -> Job[Target]:
            yield Event("Reading the image")
            image = read_image(self.dataset, pool, name)
            yield Event("Reading its segments")
            curation = Curation(self.study, pool)
            indices = [index for index, one in enumerate(pool.images) if one.source.image == name]
            # An image that was divided again has two segments of a label: the later one counts.
            own = np.flatnonzero(np.isin(curation.image, indices))
            numbers = {int(pool.rows["number"][number]): int(number) for number in own}
            usable = curation.allowed()
            numbers = {label: number for label, number in numbers.items() if usable[number]}
            labels = np.zeros(image.pixels.shape[:2], np.int32)
            for label, number in sorted(numbers.items(), key=lambda item: -int(pool.rows["area"][item[1]])):
                # The large ones first: where segments overlap, the small ones can be clicked too.
                segment = pool.segment(number)
                labels[segment.window][segment.mask] = label
            return Target(image, labels, numbers)

        return self.job(job)

    def donors_job(
        self, target: Target, number: int, settings: USegMixSettings, found: list[Donor]
    ) -> Callable[[], Job[list[Donor]]]:
        """The likeliest donors of a segment, each pasted but not blended; ``found`` fills while they are made."""
        pool = self.pool

        def job() -> Job[list[Donor]]:
            yield Event("Looking for donors")
            # Read anew: a segment may have been dropped in the Pool dock since.
            curation = Curation(self.study, pool)
            kind = curation.kind_of(number)
            yield Event("Comparing segments")
            best = donor_choice(pool, curation.members(kind), kind, settings).likeliest(number, SHOWN)
            own, held = target.image.source.image, {}
            box = around(pool.segment(number), target.image.pixels.shape)
            for done, (donor, probability) in enumerate(best):
                yield Event("Preparing donors", done, len(best))
                source = pool.image(donor).source
                if source.image not in held:
                    # One at a time: ten large images would not fit into memory.
                    read = target.image if source.image == own else read_image(self.dataset, pool, source.image)
                    held = {source.image: read}
                plan = plan_one(pool, number, donor, probability, settings.seed)
                pixels, _, _ = compose(target.image, pool, plan.exchanges, held, settings.stain_matching)
                found.append(Donor(donor, probability, source.image, source.patient, pixels[box].copy(), plan))
            return found

        return self.job(job)

    def one_job(self, plan: MixPlan, settings: USegMixSettings, loaded: Any = None) -> Callable[[], Job[Change]]:
        """Carry out the plan that a person chose; its change is in the study then."""

        def job() -> Job[Change]:
            prepare_torch()
            yield Event("Preparing")
            taken, number = {*self.study.change_table().made_names, *self.dataset_names()}, 1
            while f"{plan.image} mix {number}" in taken:
                number += 1
            named = replace(plan, name=f"{plan.image} mix {number}")
            (made,) = yield from make_items(METHOD, self.dataset, settings, self.study, [named], loaded)
            return self.study.change(made)

        return self.job(job)

    def dataset_names(self) -> set[str]:
        """Names of the dataset's images."""
        return {entry.source.image for entry in self.dataset.entries}


def around(segment: Segment, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A square around a segment, as far as its image reaches."""
    longest = max(segment.mask.shape)
    side = longest + 2 * max(8, round(MARGIN * longest))
    rows, cols = (
        # At the border it is moved inward, not cut: all donors are shown at one size.
        (max(0, min((part.start + part.stop - side) // 2, size - side)), size)
        for part, size in zip(segment.window, shape[:2], strict=True)
    )
    return slice(rows[0], min(rows[1], rows[0] + side)), slice(cols[0], min(cols[1], cols[0] + side))
