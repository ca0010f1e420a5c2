"""What the Mix dock does in the background: opening, an image and its segments, donors to choose from, one mix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset, open_tissue
from napari_histomix.datasets.splits import with_chosen_splits
from napari_histomix.methods.usegmix import (
    MixPlan,
    MixSettings,
    compose,
    donor_choice,
    make_mix,
    plan_one,
    read_image,
)
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, MixedImage, Segment
from napari_histomix.segmentation.pool import SegmentPool, has_pool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.study.decision_log import Subject
from napari_histomix.study.lock import Claim
from napari_histomix.widgets.preload import prepare_torch

SHOWN = 10
"""Donors to choose from."""
MARGIN = 0.25
"""What is shown around a segment, as a share of its longer side."""


MIX: tuple[Subject, ...] = ("mix", "mix note", "mix reasons")


@dataclass(frozen=True, eq=False)
class OpenedMix:
    """A study with its pool and its images, or the sentence why its images are not there."""

    study: Study
    pool: SegmentPool
    curation: Curation | None = None
    dataset: Dataset | None = None
    names: Mapping[int, str] | None = None
    said: Mapping[Subject, Mapping[int, str]] | None = None
    """Decisions, notes and reasons of the synthetic images."""
    problem: str = ""


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


def without_paths(sentence: str, *folders: Path | None) -> str:
    """A sentence in which folders go by their names."""
    for folder in folders:
        if folder is not None:
            for one in {str(folder), str(Path(folder).resolve())}:
                sentence = sentence.replace(one, Path(folder).name)
    return sentence


def plainly(make: Callable[[], Job[Any]], *folders: Path | None) -> Callable[[], Job[Any]]:
    """A job whose failures name no path."""

    def job() -> Job[Any]:
        try:
            return (yield from make())
        except FileNotFoundError:
            raise HistomixError("A file of the study is no longer where it was; open the study again.") from None
        except OSError as error:
            where = Path(str(error.filename)).name if error.filename else "the disk"
            raise HistomixError(f"{error.strerror or error}: {where}.") from None
        except HistomixError as error:
            raise HistomixError(without_paths(str(error), *folders)) from None

    return job


# Opening.


def open_job(
    study: Study | Path,
    pool: SegmentPool | None = None,
    dataset: Dataset | Path | None = None,
    claim: Claim | None = None,
) -> Callable[[], Job[OpenedMix]]:
    """Open a study's pool and its tissue dataset, which is given where it is open already or has moved.

    ``claim`` is the window's right to write to that folder.
    """
    folder = study if isinstance(study, Path) else study.folder

    def job() -> Job[OpenedMix]:
        yield Event("Opening the study")
        opened = Study.open(study, claim) if isinstance(study, Path) else study
        opened.hold()
        if pool is None and not has_pool(folder):
            raise HistomixError(f"The study {folder.name} has no segment pool yet; build one first.")
        yield Event("Reading the segments")
        found = pool or SegmentPool(opened.folder)
        yield Event("Opening the images")
        images = dataset
        if not isinstance(images, Dataset):
            settings = opened.settings()
            root = dataset or opened.dataset_root
            if not root.exists():
                return OpenedMix(opened, found, problem=f"The images of {folder.name} are not where they were.")
            try:
                images = with_chosen_splits(open_tissue(root, settings["mpp"]), settings)
            except HistomixError as error:
                return OpenedMix(opened, found, problem=without_paths(str(error), root))
        names = {entry.source.image for entry in images.training}
        if not any(one.source.image in names for one in found.images):
            problem = f"None of the images of {folder.name} is among the training images of {images.name}."
            return OpenedMix(opened, found, problem=problem)
        if isinstance(dataset, Path):
            opened.locate(images.root)
        yield Event("Reading decisions")
        said = {subject: opened.decisions(subject) for subject in MIX}
        return OpenedMix(opened, found, Curation(opened, found), images, opened.mix_names(), said)

    return plainly(job, folder, dataset if isinstance(dataset, Path) else None)


# One target.


def target_job(study: Study, pool: SegmentPool, dataset: Dataset, name: str) -> Callable[[], Job[Target]]:
    """Read an image and draw its segments that nobody dropped."""

    def job() -> Job[Target]:
        yield Event("Reading the image")
        image = read_image(dataset, pool, name)
        yield Event("Reading its segments")
        curation = Curation(study, pool)
        indices = [index for index, one in enumerate(pool.images) if one.source.image == name]
        # An image that was divided again has two segments of a label: the later one counts.
        numbers = {int(pool.rows["number"][one]): int(one) for one in np.flatnonzero(np.isin(curation.image, indices))}
        usable = curation.allowed()
        numbers = {label: number for label, number in numbers.items() if usable[number]}
        labels = np.zeros(image.pixels.shape[:2], np.int32)
        for label, number in sorted(numbers.items(), key=lambda item: -int(pool.rows["area"][item[1]])):
            # The large ones first: where segments overlap, the small ones can be clicked too.
            segment = pool.segment(number)
            labels[segment.window][segment.mask] = label
        return Target(image, labels, numbers)

    return plainly(job, study.folder, dataset.root)


def around(segment: Segment, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A square around a segment, as far as its image reaches."""
    longest = max(segment.mask.shape)
    side = longest + 2 * max(8, round(MARGIN * longest))
    found = []
    for part, size in zip(segment.window, shape[:2], strict=True):
        # At the border it is moved inward, not cut: all donors are shown at one size.
        start = max(0, min((part.start + part.stop - side) // 2, size - side))
        found.append(slice(start, min(size, start + side)))
    return found[0], found[1]


def donors_job(
    study: Study,
    pool: SegmentPool,
    dataset: Dataset,
    target: Target,
    number: int,
    settings: MixSettings,
    found: list[Donor],
) -> Callable[[], Job[list[Donor]]]:
    """The likeliest donors of a segment, each pasted but not blended; ``found`` fills while they are made."""

    def job() -> Job[list[Donor]]:
        yield Event("Looking for donors")
        # Read anew: a segment may have been dropped in the Pool dock since.
        curation = Curation(study, pool)
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
                held = {source.image: target.image if source.image == own else read_image(dataset, pool, source.image)}
            plan = plan_one(pool, number, donor, probability, settings.seed)
            pixels, _, _ = compose(target.image, pool, plan.exchanges, held, settings.stain_matching)
            found.append(Donor(donor, probability, source.image, source.patient, pixels[box].copy(), plan))
        return found

    return plainly(job, study.folder, dataset.root)


def loaded_model(model: Any, folder: Path | None) -> Any:
    """The model to paint with; None for the bundled one."""
    if model is not None or folder is None:
        return model
    from napari_histomix.diffusion.model_files import load_model

    return load_model(folder)


def free_name(image: str, taken: Iterable[str]) -> str:
    """A name for a synthetic image that no other one has."""
    names, number = set(taken), 1
    while f"{image} mix {number}" in names:
        number += 1
    return f"{image} mix {number}"


def one_job(
    study: Study,
    pool: SegmentPool,
    dataset: Dataset,
    plan: MixPlan,
    settings: MixSettings,
    model: Any = None,
    model_folder: Path | None = None,
) -> Callable[[], Job[tuple[int, MixedImage]]]:
    """Carry out the plan that a person chose, and save it; its number in the study."""

    def job() -> Job[tuple[int, MixedImage]]:
        prepare_torch()
        yield Event("Preparing")
        named = replace(plan, name=free_name(plan.image, study.mix_names().values()))
        used = loaded_model(model, model_folder)
        mix: MixedImage = yield from make_mix(dataset, pool, named, settings, used)
        study.add_mixes([mix])
        return next(number for number, name in study.mix_names().items() if name == mix.name), mix

    return plainly(job, study.folder, dataset.root, model_folder)
