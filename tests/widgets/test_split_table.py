"""The splits of the Data panel without a window: what the table shows, what the session keeps, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_histomix.datasets import load_sample, survey
from napari_histomix.datasets.splits import with_splits
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.widgets.loading import Opened, study_job
from napari_histomix.widgets.session import Session
from napari_histomix.widgets.splits_box import IMAGES, NAME, SPLIT, SplitsBox


@pytest.fixture
def session(qtbot, tmp_path):
    one = Session(home=tmp_path / "home")
    yield one
    one.release()


@pytest.fixture
def box(session, qtbot):
    made = SplitsBox(ViewerModel(), session)
    qtbot.addWidget(made)
    return made


def opened(**sources):
    """The sample, with other sources of some images."""
    sample = load_sample()
    entries = tuple(
        replace(one, source=replace(one.source, **sources.get(f"i{number}", {})))
        for number, one in enumerate(sample.entries)
    )
    dataset = replace(sample, entries=entries)
    return Opened(dataset, drain(survey(dataset)))


def text(box, row, column):
    return box.model.index(row, column).data()


def test_patients_are_rows_and_a_choice_moves_all_their_images(session, box):
    session.take_opened(opened(i1={"patient": "TCGA-A7-A3RF"}))
    assert box.model.rowCount() == 4
    assert [text(box, 0, column) for column in (NAME, SPLIT, IMAGES)] == ["TCGA-A7-A3RF", "train", "2"]
    assert box.model.headerData(NAME, Qt.Orientation.Horizontal) == "Patient"
    assert box.model.setData(box.model.index(0, SPLIT), "test")
    assert [one.source.split for one in session.dataset.entries] == ["test", "test", "train", "train", "train"]
    assert text(box, 0, SPLIT) == "test"
    assert "2 <span" in box.counts.text() and "40%" in box.counts.text()
    assert box.state.text() == "3 train · 2 test"
    assert len(session.dataset.training) == 3


def test_a_patient_that_the_dataset_divides_is_pointed_out_until_a_split_is_chosen(session, box):
    same = {"patient": "p", "slide": ""}
    session.take_opened(opened(i0=same, i1=same | {"split": "test"}))
    row = next(row for row in range(box.model.rowCount()) if text(box, row, NAME) == "p")
    assert text(box, row, SPLIT) == "train + test"
    assert box.warning.kind == "error" and "The patient p (train:" in box.warning.text()
    box.table.selectRow(row)
    box.movers["val"].click()
    assert text(box, row, SPLIT) == "val"
    assert "The patient p" not in box.warning.text()


def test_choices_wait_for_the_study_and_are_there_when_it_is_opened_again(session, box, qtbot, tmp_path):
    session.take_opened(opened())
    box.model.setData(box.model.index(4, SPLIT), "test")
    job = session.stage_job(CandidateSettings(rare=(session.dataset.class_name(1),), background_share=0.2))
    found = drain(job())
    held = session.dataset.entries[4].source.image
    assert held not in {place.image for one in found.work.candidates.items for place in (one.donor, one.target)}
    # Chosen while the search was under way.
    box.model.setData(box.model.index(3, SPLIT), "val")
    session.take_stage(found)
    assert "find them again" in box.warning.text()
    assert Study.open(session.study.folder).settings()["splits"] == session.splits
    box.model.setData(box.model.index(3, SPLIT), "train")
    again = drain(study_job(session.study.folder))
    assert [one.source.split for one in again.dataset.entries] == ["train"] * 4 + ["test"]
    second = Session(home=tmp_path)
    other = SplitsBox(ViewerModel(), second)
    qtbot.addWidget(other)
    second.take_opened(again)
    assert second.splits == session.splits and text(other, 4, SPLIT) == "test"
    # The first window holds the study.
    assert second.read_only and not other.propose_button.isEnabled()
    assert not other.model.flags(other.model.index(4, SPLIT)) & Qt.ItemFlag.ItemIsEditable
    second.release()


def test_a_proposal_and_a_search_for_copies_run_in_the_background(session, box, qtbot):
    sample = opened()
    first = sample.dataset.entries[0]
    copy = replace(first, source=replace(first.source, image="copy", patient="other", slide="other", split="test"))
    dataset = replace(sample.dataset, entries=(*sample.dataset.entries, copy))
    session.take_opened(Opened(dataset, drain(survey(dataset))))
    box.check()
    qtbot.waitUntil(lambda: box.copies is not None, timeout=30_000)
    assert box.copies_note.kind == "error" and "copy (test)" in box.copies_note.text()
    assert box.model.rowCount() == 5, "copies are one row"
    with qtbot.waitSignal(session.splits_changed, timeout=30_000):
        box.propose()
    assert session.splits["copy"] == session.splits[first.source.image]
    assert box.copies_note.kind == "info" and "they stay together" in box.copies_note.text()
    assert set(session.splits.values()) == {"train", "val", "test"}


def test_splits_that_cannot_be_kept_are_not_taken(session, box, monkeypatch):
    session.take_opened(opened())
    said = []
    session.notice.connect(said.append)
    session.choose_splits({"no such image": "test"})
    assert session.splits == {} and len(said) == 1 and "do not list" in said[0]
    assert with_splits(session.dataset, dict.fromkeys(session.images, "train")).entries == session.dataset.entries


def test_open_layers_learn_of_a_new_split_so_that_no_network_learns_from_them(session, qtbot):
    from napari_histomix.widgets.layers import layer_book_of
    from napari_histomix.widgets.training_sources import learnable

    viewer = ViewerModel()
    book = layer_book_of(viewer, session)
    session.take_opened(opened())
    qtbot.waitUntil(lambda: session.image != "" and not book.busy, timeout=30_000)
    layer = book.layer(session.image, "image")
    assert learnable(layer)
    session.choose_splits({name: "test" if name == session.image else "train" for name in session.images})
    assert not learnable(layer)
