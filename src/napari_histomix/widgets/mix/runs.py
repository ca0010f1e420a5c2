"""What the Mix dock does in the background with many images: making, reading, counting and exporting them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from napari_histomix.datasets import Dataset
from napari_histomix.methods.usegmix import MixPlan, MixSettings, make_mix, plan_mixes, read_image
from napari_histomix.records import Event, HistomixError, Job, LabeledImage, MixedImage
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.study.export_plan import ExportPlan, plan_tissue
from napari_histomix.study.manifest import tissue_facts
from napari_histomix.study.mixes import Mixes
from napari_histomix.widgets.mix.jobs import loaded_model, plainly
from napari_histomix.widgets.preload import prepare_torch

FINE = 100
"""Parts that the bar of a batch has for each image."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A synthetic image of the study and the real one it was made of; None where that cannot be read any more."""

    number: int
    mix: MixedImage
    real: LabeledImage | None


@dataclass(frozen=True, eq=False)
class Batch:
    """How many images were made and asked for, and why some were not, by class and reason."""

    made: int
    wanted: int
    reasons: tuple[str, ...]


def batch_job(
    study: Study,
    pool: SegmentPool,
    dataset: Dataset,
    settings: MixSettings,
    made: list[MixPlan],
    model: Any = None,
    model_folder: Path | None = None,
) -> Callable[[], Job[Batch]]:
    """Plan and make images of every class; each is saved as soon as it is made, and then in ``made``."""

    def job() -> Job[Batch]:
        prepare_torch()
        yield Event("Choosing donors")
        curation = Curation(study, pool)
        # The classes of the dataset, as on the command line: the same seed gives the same images.
        members = {kind: curation.members(kind) for kind in dataset.kinds}
        planned = yield from plan_mixes(pool, members, settings, study.mix_names().values())
        counts = Counter(plan.kind for plan in planned.plans)
        short = {kind for kind in members if counts[kind] < settings.per_class}
        reasons = tuple(reason for reason in planned.refusals if reason.partition(": ")[0] in short)
        if not planned.plans:
            raise HistomixError(f"No image could be planned. {_sentences(reasons)}")
        recorded = {key: value for key, value in asdict(settings).items() if key != "device"}
        study.save_settings({"mix_settings": recorded, "mix_refusals": dict(sorted(planned.refusals.items()))})
        used, total = loaded_model(model, model_folder), len(planned.plans)
        for done, plan in enumerate(planned.plans):
            words = f"{done + 1} of {total}"
            yield Event(words, done * FINE, total * FINE)
            mix = yield from _within(make_mix(dataset, pool, plan, settings, used), words, done, total)
            study.add_mixes([mix])
            made.append(plan)
        return Batch(len(made), settings.per_class * len(members), reasons)

    return plainly(job, study.folder, dataset.root, model_folder)


def _sentences(reasons: Iterable[str]) -> str:
    return " ".join(f"{reason[:1].upper()}{reason[1:]}." for reason in reasons)


def _within(job: Job[MixedImage], words: str, done: int, total: int) -> Job[MixedImage]:
    """One image's job as a part of the batch's."""
    try:
        while True:
            event = next(job)
            part = round(FINE * event.done / event.total) if event.total else 0
            yield replace(event, phase=words, done=done * FINE + min(part, FINE), total=total * FINE)
    except StopIteration as end:
        mix: MixedImage = end.value
        return mix
    finally:
        job.close()


# Review and export.


def show_job(study: Study, pool: SegmentPool, dataset: Dataset, number: int) -> Callable[[], Job[Shown]]:
    """Read one synthetic image, and the real one."""

    def job() -> Job[Shown]:
        yield Event("Reading the synthetic image")
        mix = study.mix(number)
        yield Event("Reading the real image")
        try:
            real = read_image(dataset, pool, mix.target)
        except (HistomixError, OSError):
            # It was moved or changed since; what was made of it can still be reviewed.
            return Shown(number, mix, None)
        return Shown(number, mix, real if real.pixels.shape == mix.pixels.shape else None)

    return plainly(job, study.folder)


def kinds_job(study: Study, numbers: Iterable[int]) -> Callable[[], Job[dict[int, str]]]:
    """The classes of some synthetic images."""
    wanted = tuple(numbers)

    def job() -> Job[dict[int, str]]:
        found = {}
        for done, number in enumerate(wanted):
            yield Event("Counting", done, len(wanted))
            found[number] = study.mix(number).kind
        return found

    return plainly(job, study.folder)


def plan_job(study: Study, dataset: Dataset, numbers: Iterable[int], out: Path) -> Callable[[], Job[ExportPlan]]:
    """Find out what an export of some synthetic images would write."""
    chosen = sorted(numbers)
    return plainly(lambda: plan_tissue(dataset, Mixes(study, chosen), out), out, study.folder, dataset.root)


def export_job(
    study: Study, pool: SegmentPool, dataset: Dataset, numbers: Iterable[int], out: Path
) -> Callable[[], Job[Path]]:
    """Write the training images and some synthetic ones as a dataset of its own."""
    chosen = sorted(numbers)

    def job() -> Job[Path]:
        from napari_histomix.datasets.class_folders import export_tissue

        yield Event("Preparing")
        facts = tissue_facts(study, pool.signature)
        return (yield from export_tissue(dataset, Mixes(study, chosen), out, facts))

    return plainly(job, out, study.folder, dataset.root)
