from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import killable
import pytest

from napari_histomix.records import HistomixError
from napari_histomix.study import Study
from napari_histomix.study.database import WriteLock
from napari_histomix.study.decision_log import items_of


@pytest.fixture
def study(tmp_path, few_candidates) -> Study:
    study = Study.create(tmp_path / "study", tmp_path, "made up", 0.25)
    study.set_candidates(*few_candidates)
    return study


def test_a_nucleus_with_its_note_and_reasons_is_one_act(study):
    study.decide("change", [3], "approve")
    study.act([("change", 3, "reject"), ("change reasons", 3, "seam, shape"), ("change note", 3, "a ghost")])
    assert study.undo("change") == (("change", 3, "approve"), ("change reasons", 3, None), ("change note", 3, None))
    assert study.decisions("change") == {3: "approve"}
    assert study.decisions("change note") == {} and study.decisions("change reasons") == {}
    assert items_of(Study.open(study.folder).redo("change note")) == (3,)
    assert study.decisions("change reasons") == {3: "seam, shape"}
    assert study.decisions("change note") == {3: "a ghost"}


def test_a_new_act_ends_the_chance_to_do_an_old_one_again(study):
    study.decide("change", [3], "approve")
    study.decide("change", [4], "approve")
    study.undo("change")
    study.decide("change note", [3], "look again")
    assert study.redo("change") == ()
    study.decide("segment", [1], "drop")
    study.undo("change")
    study.decide("segment", [2], "drop")
    assert study.redo("change") == (("change note", 3, "look again"),), "another family's act does not"
    assert study.decisions("change note") == {3: "look again"}


def test_who_decided_what_and_when(study):
    study.decide("candidate", [1], "keep")
    study.reviewer = "Dr. Ärztin"
    study.decide("candidate", [1, 2], "drop")
    found = study.decided("candidate")
    assert {item: (one.decision, one.who) for item, one in found.items()} == {
        1: ("drop", "Dr. Ärztin"),
        2: ("drop", "Dr. Ärztin"),
    }
    assert found[1].made.endswith("+00:00")
    study.undo("candidate")
    assert [(item, one.decision, one.who) for item, one in study.decided("candidate").items()] == [(1, "keep", "")]
    assert study.decided("candidate", 1)[1].decision == "keep" and study.decided("candidate", 2) == {}


def test_an_act_is_of_one_family(study):
    with pytest.raises(ValueError, match="one family"):
        study.act([("change", 1, "approve"), ("segment", 1, "drop")])
    assert study.decisions("change") == {}


def test_pixels_are_read_when_somebody_looks(tmp_path):
    study = Study.create(tmp_path / "study", tmp_path, "x")
    run, given = study.begin_run("x", {}).id, killable.changes(4)
    study.add_changes(run, given[:2])
    study.add_changes(run, given[2:])
    listed = Study.open(study.folder).changes()
    shutil.rmtree(study.folder / "pictures")
    for change, other in zip(listed, given, strict=True):
        assert change.window == other.window and change.sources == other.sources and change.added == other.added
        with pytest.raises(HistomixError, match="missing"):
            _ = change.pixels


# Two windows.


def test_a_second_window_may_only_read_and_says_so(study):
    second = Study.open(study.folder)
    assert study.hold() and not second.hold()
    study.decide("candidate", [0], "keep")
    assert second.read_only and second.decisions("candidate") == {0: "keep"}
    with pytest.raises(HistomixError, match="another window"):
        second.decide("candidate", [1], "keep")
    study.let_go()
    with pytest.raises(HistomixError, match="another window"):
        second.undo("candidate")
    third = Study.open(study.folder)
    assert third.hold()
    third.decide("candidate", [1], "keep")
    assert third.decisions("candidate") == {0: "keep", 1: "keep"}


def test_what_a_window_has_open_shares_its_right(study):
    lock = WriteLock(study.folder)
    other = Study.open(study.folder, lock)
    assert study.hold(lock) and other.hold()
    other.decide("candidate", [1], "drop")
    study.decide("candidate", [2], "drop")
    assert not WriteLock(study.folder).take()
    study.let_go()
    assert WriteLock(study.folder).take()


def test_a_study_that_nobody_has_any_more_is_free(study):
    other = Study.open(study.folder).take()
    with pytest.raises(HistomixError, match="another window"):
        study.take()
    del other
    assert study.hold()


def test_a_killed_window_leaves_the_study_free(study):
    program = (
        "import os, sys; from napari_histomix.study import Study\n"
        "one = Study.open(sys.argv[1]).take(); assert not Study.open(sys.argv[1]).hold(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(study.folder)], timeout=60).returncode == 9
    assert study.hold()


def test_a_folder_that_can_only_be_read(study, monkeypatch):
    study.decide("candidate", [0], "keep")
    monkeypatch.setattr(os, "access", lambda *_: False)
    again = Study.open(study.folder)
    assert not again.hold() and again.read_only
    assert again.decisions("candidate") == {0: "keep"} and len(again.candidates()) == 10
    with pytest.raises(HistomixError, match="can only be read"):
        again.decide("candidate", [1], "keep")


# Other machines.


def test_study_and_images_that_moved_together_find_each_other(tmp_path):
    images = tmp_path / "here" / "images"
    images.mkdir(parents=True)
    Study.create(tmp_path / "here" / "studies" / "one", images, "x")
    (tmp_path / "here").rename(tmp_path / "there")
    study = Study.open(tmp_path / "there" / "studies" / "one")
    assert study.locate() == tmp_path / "there" / "images"


def test_images_that_moved_alone_are_asked_for_once(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    study = Study.create(tmp_path / "study", images, "x")
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(HistomixError, match="say where"):
        study.locate()
    with pytest.raises(HistomixError, match="nowhere is no folder; name the one that holds the images"):
        study.locate(tmp_path / "nowhere")
    study.locate(tmp_path / "elsewhere")
    assert Study.open(study.folder).locate() == tmp_path / "elsewhere" == Path(study.settings()["dataset_root"])


def test_images_that_are_not_the_same_are_named(study):
    study.remember_images({"a": "1" * 64, "b": "2" * 64, "c": "3" * 64})
    study.remember_images({"a": "9" * 64})
    assert Study.open(study.folder).changed_images({"a": "1" * 64, "b": "0" * 64, "d": "4" * 64}) == ["b", "c"]
