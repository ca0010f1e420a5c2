from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import fields, replace

import killable
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_changes import image_change

from napari_histomix.records import KEEP, Change, HistomixError
from napari_histomix.study import Study
from napari_histomix.study.store import FILE


@pytest.fixture
def study(tmp_path, few_candidates) -> Study:
    study = Study.create(tmp_path / "study", tmp_path, "made up", 0.25)
    study.set_candidates(*few_candidates)
    return study


def noise(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and an origin map of a square."""
    rng = np.random.default_rng(side)
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8), rng.integers(0, 3, (side, side), dtype=np.uint8)


def reopened(study: Study) -> Study:
    return Study.open(study.folder)


def test_candidates_come_back_exactly(study, few_candidates):
    assert reopened(study).candidates() == few_candidates[0]


def test_facts_of_the_study_and_the_search_come_back(study, tmp_path):
    again = reopened(study)
    assert again.dataset_root == tmp_path.resolve() and again.mpp == 0.25
    facts = again.settings()
    assert facts["name"] == "made up"
    assert facts["candidate_settings"]["rare"] == [1] and facts["effective_sample_size"] == 9.9
    again.save_settings({"more": {"a": [1, None, "ü"]}})
    assert reopened(study).settings()["more"] == {"a": [1, None, "ü"]}


def test_changes_come_back_bit_for_bit(study):
    given = [*killable.changes(3), image_change(7, "a", "low", *noise(40), ["b"], {"method": "x", "more": [1, None]})]
    run = study.begin_run("nucleimix", {"count": 4})
    study.add_changes(run.id, given[:2])
    study.add_changes(run.id, given[2:])
    back = reopened(study).changes()
    assert back.ids == [0, 1, 2, 7] and reopened(study).ids_of_run(run.id) == back.ids
    names = [field.name for field in fields(Change) if field.name not in ("pixels", "origin", "labels", "score")]
    for change, other in zip(given, back, strict=True):
        for name in names:
            assert getattr(change, name) == getattr(other, name), name
        assert change.shape == other.shape and str(change.score) == str(other.score)
        for name in ("pixels", "origin", "labels"):
            before, after = getattr(change, name), getattr(other, name)
            assert (before is None) == (after is None)
            assert before is None or (before.dtype == after.dtype and np.array_equal(before, after)), name
        moved = other.moved(90, 80)
        assert (moved.row, moved.col, moved.id) == (90, 80, other.id) and np.array_equal(moved.pixels, change.pixels)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 5000])
def test_any_number_of_labels_comes_back(study, count):
    pixels, origin = noise(80)
    labels = np.random.default_rng(count).integers(-1, count + 1, origin.shape).astype(np.int32) * 1000
    labels[labels == -1000] = KEEP
    change = replace(image_change(0, "a", "low", pixels, origin), labels=labels)
    study.add_changes(study.begin_run("x", {}).id, [change])
    assert np.array_equal(reopened(study).change(0).labels, labels)
    assert np.array_equal(reopened(study).change(0).origin, origin)


def test_changes_of_one_id_or_name_are_refused_as_a_whole(study):
    first, second = killable.changes(2)
    run = study.begin_run("nucleimix", {}).id
    with pytest.raises(HistomixError, match="same id"):
        study.add_changes(run, [first, second, first])
    assert reopened(study).changes().ids == []
    study.add_changes(run, [first])
    with pytest.raises(HistomixError, match="same id"):
        study.add_changes(run, [second, first])
    pixels, origin = noise(20)
    study.add_changes(run, [image_change(5, "a", "low", pixels, origin, name="a mix 1")])
    with pytest.raises(HistomixError, match="another name"):
        study.add_changes(run, [image_change(6, "a", "low", pixels, origin, name="a mix 1")])
    assert reopened(study).changes().ids == [0, 5]
    with pytest.raises(HistomixError, match="no change 3"):
        study.change(3)


def test_the_table_says_what_the_changes_say(study):
    given = [*killable.changes(3), image_change(7, "a", "low", *noise(40), ["b"])]
    study.add_changes(study.begin_run("nucleimix", {}).id, given)
    table = reopened(study).change_table()
    assert table.ids.tolist() == [0, 1, 2, 7] and table.rows([7, 5, 0]).tolist() == [3, 0]
    for row, change in enumerate(given):
        assert table.image_names[table.images[row]] == change.image
        assert table.made_names[table.names[row]] == change.name
        assert table.method_names[table.methods[row]] == change.method
        assert table.donor_image_names[table.donor_images[row]] == change.donor.image
        rows, cols = change.window
        assert table.windows[row].tolist() == [rows.start, cols.start, rows.stop, cols.stop]
    assert [table.class_keys[code] for code in table.classes] == [1, 1, 1, "low"]
    assert table.scores[:3].tolist() == [50.0] * 3 and np.isnan(table.scores[3])


def test_a_run_remembers_what_it_takes_to_go_on(study):
    run = study.begin_run("nucleimix", {"count": 4, "rare": ["a"]}, {"candidate": {3: "drop"}})
    study.set_plan(run.id, 4, {"too close": 2})
    study.add_changes(run.id, killable.changes(2))
    (kept,) = reopened(study).runs()
    assert (kept.method, kept.first, kept.wanted, kept.state) == ("nucleimix", 0, 4, "open")
    assert kept.settings == {"count": 4, "rare": ["a"]} and kept.refusals == {"too close": 2}
    assert kept.decisions == {"candidate": {3: "drop"}}
    study.end_run(run.id)
    assert reopened(study).runs()[0].state == "done" and study.begin_run("x", {}).first == 2


def test_ids_of_a_stopped_run_stay_its_own_until_it_is_done(study):
    early, stopped = study.begin_run("x", {}).id, study.begin_run("y", {})
    study.set_plan(stopped.id, 5, {}, past=stopped.first + 5)
    study.add_changes(stopped.id, killable.changes(2))
    assert study.begin_run("z", {}).first == 5
    kept = reopened(study).take_up(stopped.id)
    assert (kept.first, kept.past) == (0, 5)
    # A run that had not come to anything yet has its place behind the others.
    assert study.take_up(early).first == 5
    study.end_run(stopped.id)
    assert study.begin_run("z", {}).first == 2 and reopened(study).run(stopped.id).past is None
    study.set_plan(early, 4, {}, past=9)
    assert study.begin_run("z", {}).first == 9
    study.discard_run(early)
    assert study.begin_run("z", {}).first == 2


def test_a_run_taken_back_takes_its_changes_and_what_was_said_of_them(study):
    kept, gone = study.begin_run("x", {}).id, study.begin_run("y", {}).id
    first, second, third = killable.changes(3)
    study.add_changes(kept, [first])
    study.add_changes(gone, [second, third])
    study.decide("change", [0, 1, 2], "approve")
    study.set_detectability({0: 40.0, 2: 90.0})
    study.discard_run(gone)
    again = reopened(study)
    # The ids of what is gone are given to others.
    assert again.detectability() == {0: 40.0}
    assert again.changes().ids == [0] and [run.method for run in again.runs()] == ["x"]
    assert again.decisions("change") == {0: "approve"} and again.undo("change") == (("change", 0, None),)


def test_undo_passes_over_what_a_discarded_run_took_with_it(study):
    kept, gone = study.begin_run("nucleimix", {}), study.begin_run("nucleimix", {})
    changes = killable.changes(4)
    study.add_changes(kept.id, changes[:2])
    study.add_changes(gone.id, changes[2:])
    study.decide("change", [0], "approve")
    study.decide("change", [2, 3], "reject")
    study.decide("change", [1, 3], "reject")
    study.discard_run(gone.id)
    assert study.decisions("change") == {0: "approve", 1: "reject"}
    assert study.undo("change") == (("change", 1, None),)
    # The act between was about the discarded alone.
    assert study.undo("change") == (("change", 0, None),)
    assert study.undo("change") == () and study.redo("change") == (("change", 0, "approve"),)


def test_decisions_are_there_after_reopening(study):
    study.decide("candidate", [1, 2], "keep")
    study.decide("candidate", [2], "drop")
    study.decide("change", [1], "approve")
    assert reopened(study).decisions("candidate") == {1: "keep", 2: "drop"}
    assert reopened(study).decisions("change") == {1: "approve"}
    study.decide("candidate", [1], None)
    assert reopened(study).decisions("candidate") == {2: "drop"}


def test_undo_goes_back_act_by_act_also_across_sessions(study):
    study.decide("candidate", [0], "keep")
    study.decide("candidate", [0, 1, 2], "drop")
    study.decide("change", [0], "reject")
    again = reopened(study)
    assert again.undo("candidate") == (("candidate", 0, "keep"), ("candidate", 1, None), ("candidate", 2, None))
    assert again.decisions("candidate") == {0: "keep"}
    assert reopened(study).undo("candidate") == (("candidate", 0, None),)
    assert reopened(study).decisions("candidate") == {}
    assert reopened(study).undo("candidate") == ()
    assert reopened(study).decisions("change") == {0: "reject"}, "the other subject has its own history"


def test_deciding_the_same_again_is_no_act(study):
    study.decide("candidate", [0], "keep")
    study.decide("candidate", [0], "keep")
    study.undo("candidate")
    assert study.decisions("candidate") == {}


ACTS = st.lists(
    st.one_of(
        st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.sampled_from(["keep", "drop", None])),
        st.sampled_from(["undo", "redo"]),
    ),
    max_size=10,
)


@given(ACTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_agrees_with_a_plain_dictionary(tmp_path_factory, acts):
    study = Study.create(tmp_path_factory.mktemp("history") / "study", tmp_path_factory.getbasetemp(), "x")
    past: list[dict[int, str]] = [{}]
    future: list[dict[int, str]] = []
    for act in acts:
        if act == "undo":
            assert bool(study.undo("candidate")) is (len(past) > 1)
            if len(past) > 1:
                future.append(past.pop())
            continue
        if act == "redo":
            assert bool(reopened(study).redo("candidate")) is bool(future)
            if future:
                past.append(future.pop())
            continue
        items, decision = act
        now = {item: value for item, value in past[-1].items() if item not in items}
        if decision:
            now |= dict.fromkeys(items, decision)
        study.decide("candidate", items, decision)
        if now != past[-1]:
            past.append(now)
            future = []
    assert reopened(study).decisions("candidate") == past[-1]


def test_a_killed_process_keeps_what_was_decided(study):
    program = (
        "import os, sys; from napari_histomix.study import Study\n"
        "study = Study.open(sys.argv[1]); study.decide('candidate', [3, 4], 'keep'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(study.folder)], timeout=60).returncode == 9
    assert reopened(study).decisions("candidate") == {3: "keep", 4: "keep"}
    assert reopened(study).undo("candidate") == (("candidate", 3, None), ("candidate", 4, None))


def test_a_process_killed_within_an_act_leaves_none_of_it(study):
    program = (
        "import os, sys; from napari_histomix.study import Study, decision_log\n"
        "decision_log._apply = lambda *_: os._exit(9)\n"
        "Study.open(sys.argv[1]).decide('candidate', [3, 4], 'keep')"
    )
    assert subprocess.run([sys.executable, "-c", program, str(study.folder)], timeout=60).returncode == 9
    assert reopened(study).decisions("candidate") == {}
    assert reopened(study).undo("candidate") == ()


def test_threads_may_decide_at_once(study):
    threads = [
        threading.Thread(target=study.decide, args=("candidate", [item], "keep"), daemon=True) for item in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert study.decisions("candidate") == dict.fromkeys(range(10), "keep")


def test_two_studies_know_nothing_of_each_other(study, tmp_path):
    other = Study.create(tmp_path / "other", tmp_path, "x")
    study.decide("candidate", [0], "keep")
    assert other.decisions("candidate") == {} and other.candidates() == ()


@pytest.mark.parametrize(("subject", "decision"), [("candidate", "approve"), ("change", "keep"), ("change", "")])
def test_a_decision_that_the_subject_does_not_have(study, subject, decision):
    with pytest.raises(ValueError):
        study.decide(subject, [0], decision)


def test_a_new_search_replaces_one_that_nothing_hangs_on(study, few_candidates):
    study.set_candidates(*few_candidates)
    study.decide("candidate", [0], "keep")
    with pytest.raises(HistomixError, match="start a new study"):
        study.set_candidates(*few_candidates)
    study.undo("candidate")
    study.set_candidates(*few_candidates)
    assert len(reopened(study).candidates()) == 10


def test_a_new_search_is_refused_once_there_are_changes(study, few_candidates):
    study.set_candidates(*few_candidates)
    study.add_changes(study.begin_run("x", {}).id, killable.changes(1))
    with pytest.raises(HistomixError, match="start a new study"):
        study.set_candidates(*few_candidates)
    assert len(reopened(study).changes()) == 1


def test_a_first_search_may_follow_changes_that_need_no_candidates(tmp_path, few_candidates):
    study = Study.create(tmp_path / "other", tmp_path, "x")
    study.add_changes(study.begin_run("x", {}).id, killable.changes(1))
    study.decide("change", [0], "approve")
    study.set_candidates(*few_candidates)
    kept = reopened(study)
    assert len(kept.candidates()) == 10 and kept.decisions("change") == {0: "approve"}


@pytest.mark.parametrize("there", [False, True])
def test_a_study_that_cannot_begin_leaves_nothing(tmp_path, few_candidates, there):
    folder = tmp_path / "study"
    if there:
        folder.mkdir()
    with pytest.raises(OSError, match="full"), Study.begin(folder, tmp_path, "x") as study:
        study.set_candidates(*few_candidates)
        # What a search learned lies there, too.
        (folder / "search-0.npz").touch()
        raise OSError("the disk is full")
    assert folder.exists() is there
    with Study.begin(folder, tmp_path, "x") as study:
        study.set_candidates(*few_candidates)
    assert reopened(study).candidates() == few_candidates[0]
    with pytest.raises(HistomixError, match="not empty"), Study.begin(folder, tmp_path, "y"):
        pass
    assert reopened(study).candidates() == few_candidates[0]


def test_a_full_folder_is_not_made_a_study(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HistomixError, match="not empty"):
        Study.create(tmp_path, tmp_path, "x")
    with pytest.raises(HistomixError, match="not empty"):
        Study.create(tmp_path / "file", tmp_path, "x")
    with pytest.raises(HistomixError, match="cannot be made"):
        Study.create(tmp_path / "file" / "study", tmp_path, "x")


def test_no_study_is_one_sentence(tmp_path):
    with pytest.raises(HistomixError, match="is not a study"):
        Study.open(tmp_path)
    with pytest.raises(HistomixError, match="is not a study"):
        Study.open(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["empty", "text", "half", "other database", "no facts"])
def test_a_damaged_study_is_one_sentence(study, damage):
    path = study.folder / FILE
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_bytes(b"not a database " * 500)
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096 + 100])
    else:
        with sqlite3.connect(path) as db:
            db.execute("DROP TABLE decisions" if damage == "other database" else "DELETE FROM meta")
    with pytest.raises(HistomixError) as error:
        Study.open(study.folder).decisions("candidate")
    assert "\n" not in str(error.value) and str(study.folder) in str(error.value)


@pytest.mark.parametrize(
    "act",
    [
        lambda study: study.decide("candidate", [0], "keep"),
        lambda study: study.decisions("candidate"),
        lambda study: study.save_settings({"goal": 3}),
        lambda study: study.begin_run("x", {}),
        lambda study: study.add_changes(0, killable.changes(1)),
    ],
    ids=["decide", "read", "settings", "run", "changes"],
)
def test_a_study_whose_folder_is_gone_says_that(study, act):
    shutil.rmtree(study.folder)
    with pytest.raises(HistomixError, match="is gone; put it back") as error:
        act(study)
    assert str(study.folder) in str(error.value) and not study.folder.exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "facts"])
def test_a_damaged_change_is_one_sentence(study, damage):
    study.add_changes(study.begin_run("x", {}).id, killable.changes(1))
    (pack,) = (study.folder / "pictures").iterdir()
    content = pack.read_bytes()
    if damage == "changed":
        pack.write_bytes(content[:80] + bytes(20) + content[100:])
    elif damage == "cut":
        pack.write_bytes(content[:200])
    elif damage == "gone":
        pack.unlink()
    else:
        with closing(sqlite3.connect(study.folder / FILE)) as db, db:
            db.execute("UPDATE makings SET facts = substr(facts, 1, 30)")
    with pytest.raises(HistomixError, match="damaged"):
        (change,) = reopened(study).changes()
        _ = change.provenance if damage == "facts" else change.pixels


def test_a_newer_study_is_left_alone(study):
    study.save_settings({"version": 999})
    with pytest.raises(HistomixError, match="newer version"):
        Study.open(study.folder)


def test_a_disk_that_does_not_take_a_decision_says_so_and_keeps_the_others(study, monkeypatch):
    study.decide("candidate", [0], "keep")

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("napari_histomix.study.decision_log._apply", full)
    with pytest.raises(HistomixError, match="disk is full"):
        study.decide("candidate", [1, 2], "keep")
    monkeypatch.undo()
    assert reopened(study).decisions("candidate") == {0: "keep"}
    assert reopened(study).undo("candidate") == (("candidate", 0, None),)
