"""The bundled sample with a lymphocyte in each of its first four images, and a study of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sample_changes import study_of
from toy_methods import LAY, changes_of

from napari_histomix.datasets import Dataset, load_sample
from napari_histomix.records import Change
from napari_histomix.study import Study


def placed_sample() -> tuple[Dataset, tuple[Change, ...]]:
    """The sample and four changes, each in an image of its own."""
    dataset, first = load_sample(), {}
    for change in changes_of(LAY, dataset, 200):
        first.setdefault(change.image, change)
    return dataset, tuple(replace(change, id=number) for number, change in enumerate(list(first.values())[:4]))


def placed_study(folder: Path) -> Study:
    """A study of the sample: two changes are approved, one is rejected, one is undecided."""
    dataset, changes = placed_sample()
    study = study_of(folder, dataset, changes)
    study.set_plan(study.runs()[0].id, 4, {"no room": 3})
    study.reviewer = "Ann"
    study.decide("change", [0, 2], "approve")
    study.decide("change", [1], "reject")
    return study
