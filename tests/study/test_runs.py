"""Changes that are added while a run is planned, or made, have ids and places of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from napari_histomix import jobs
from napari_histomix.methods import method_of
from napari_histomix.methods.base import Work
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.methods.copy_paste import CopyPasteSettings
from napari_histomix.records import drain
from napari_histomix.study import Study

METHOD, SETTINGS = method_of("copypaste"), CopyPasteSettings(count=2)


@pytest.fixture
def study(study_dataset, tmp_path) -> Study:
    study = Study.create(tmp_path / "study", study_dataset.root, study_dataset.name)
    drain(jobs.prepare(METHOD, study_dataset, study, CandidateSettings(rare=("rare",))))
    return study


def test_what_is_added_while_a_run_is_planned_keeps_its_ids_and_places(study, study_dataset) -> None:
    planned = jobs.run(METHOD, study_dataset, SETTINGS, study)
    while not study.runs():
        next(planned)
    added = drain(jobs.run(METHOD, study_dataset, SETTINGS, study))
    made = drain(planned)
    assert len(added.ids) == len(made.ids) == 2 and min(made.ids) > max(added.ids)
    places = [(change.donor.image, change.donor.item, change.image, change.row) for change in study.changes()]
    assert len(set(places)) == 4


def test_what_is_added_by_hand_keeps_its_ids_while_a_run_begins(study, study_dataset) -> None:
    sites = drain(METHOD.plan(Work(study_dataset, study), SETTINGS)).items
    items = [replace(site, id=number) for number, site in enumerate(sites)]
    adding = jobs.make_items(METHOD, study_dataset, SETTINGS, study, items)
    next(adding)
    began = study.begin_run("x", {})
    assert began.first == 2
    assert drain(adding) == (0, 1)
    # Nobody takes up what was added by hand; the run that began is the one that is unfinished.
    assert jobs.unfinished(study) == began and study.runs()[0].past is None
