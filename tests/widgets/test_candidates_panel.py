"""The page of candidates: outcomes in its rows, and nuclei placed and moved by hand on the canvas."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.records import drain
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets.camera import camera_of
from napari_histomix.widgets.candidate_table import FIRST
from napari_histomix.widgets.candidates_panel import CandidatesPanel
from napari_histomix.widgets.loading import study_job
from napari_histomix.widgets.session import Session

CLEAR = 64, 96
"""In the middle of the largest gap of the first image."""


@pytest.fixture
def panel(candidates_page):
    return candidates_page


def mouse(panel, *places, before_release=lambda: None) -> None:
    """A press at the first (row, column) of the image on the screen, moves over the others, and a release."""
    layer = panel.book.layer(panel.session.image, "image")

    def event(kind, place):
        where = {"pos": np.array(place[::-1], float) * 4, "position": layer.data_to_world(place)}
        return SimpleNamespace(type=kind, button=1, modifiers=(), handled=False, **where)

    first = event("mouse_press", places[0])
    started = [(callback(panel.viewer, first), first) for callback in list(panel.viewer.mouse_drag_callbacks)]
    for running, _ in started:
        next(running, None)
    steps = [("mouse_move", place) for place in places[1:]] + [("mouse_release", places[-1])]
    for kind, place in steps:
        if kind == "mouse_release":
            before_release()
        for running, seen in started:
            seen.__dict__.update(vars(event(kind, place)))
            next(running, None)


def settled(panel, qtbot) -> None:
    qtbot.waitUntil(lambda: not panel.placing.runner.busy and not panel.book.busy, timeout=20_000)


def point_of(panel, rank: int) -> tuple[float, ...]:
    points = panel.book.layer(panel.session.image, "candidates")
    return tuple(points.data[int(np.flatnonzero(points.features["rank"] == rank)[0])])


def cell(panel, rank: int, column: str) -> str:
    return panel.table.index(panel.table.row_of(rank), panel.table.column(column)).data()


def test_a_click_places_a_nucleus_that_undo_takes_back_and_redo_brings(panel, qtbot) -> None:
    session, before = panel.session, len(panel.table)
    mouse(panel, CLEAR)
    assert not panel.placing.runner.busy, "nothing is armed"
    panel.placing.button.click()
    assert panel.viewer.cursor.style == "crosshair" and "Escape" in panel.placing.note.text()
    mouse(panel, CLEAR)
    settled(panel, qtbot)
    rank = before
    assert session.decisions["candidate"] == {rank: "keep"} and panel.selected() == [rank]
    assert cell(panel, rank, "outcome") == "placed by hand" and "Make makes it first" in panel.told.text()
    points = panel.book.layer("a", "candidates")
    at = int(np.flatnonzero(points.features["rank"] == rank)[0])
    assert tuple(points.data[at]) == CLEAR and points.size[at] > 0
    opened = drain(study_job(session.study.folder))
    assert opened.work.candidates.items[rank] == session.candidates.items[rank]

    panel.undo()
    settled(panel, qtbot)
    assert panel.table.row_of(rank) is None and panel.book.layer("a", "candidates").size[at] == 0
    assert f"{before:,} undecided" in panel.count.text()
    panel.redo()
    settled(panel, qtbot)
    assert session.decisions["candidate"] == {rank: "keep"} and panel.table.row_of(rank) is not None


def test_what_cannot_be_is_said_and_the_next_click_goes_on(panel, qtbot) -> None:
    panel.placing.button.click()
    mouse(panel, (31, 31))
    settled(panel, qtbot)
    assert "of the rare class rare already" in panel.placing.note.text() and panel.placing.note.kind == "warning"
    mouse(panel, (28, 92))
    settled(panel, qtbot)
    (rank,) = panel.session.decisions["candidate"]
    known = panel.session.candidates.items[rank]
    assert known.target.instance == 3 and known.placed_by is None


def test_a_candidate_is_dragged_elsewhere_as_one_act(panel, qtbot) -> None:
    panel.placing.button.click()
    mouse(panel, CLEAR)
    settled(panel, qtbot)
    panel.placing.button.click()
    (first,) = panel.session.decisions["candidate"]
    camera = camera_of(panel.viewer)
    pans, center = camera.mouse_pan, tuple(camera.center)
    seen = []
    mouse(panel, CLEAR, (66, 90), (66, 84), before_release=lambda: seen.append(point_of(panel, first)))
    assert seen == [(66, 84)], "the point follows the mouse"
    settled(panel, qtbot)
    second = first + 1
    assert panel.session.decisions["candidate"] == {first: "drop", second: "keep"}
    old, new = (panel.session.candidates.items[rank] for rank in (first, second))
    assert (new.target.row, new.target.col) == (66, 84) and new.donor == old.donor
    assert camera.mouse_pan == pans and tuple(camera.center) == center, "the view stays where it is"
    panel.undo()
    assert panel.session.decisions["candidate"] == {first: "keep"}


@pytest.mark.parametrize("how", ["Escape", "off the image", "off the canvas", "refused"])
def test_a_candidate_that_is_not_moved_goes_back_where_it_was(panel, how, qtbot) -> None:
    rows = panel.session.candidates.frame
    first = int(rows[rows["image"] == "a"]["rank"].iloc[0])
    panel.select([first])
    qtbot.waitUntil(lambda: not panel.book.busy, timeout=20_000)
    place = panel.current().target
    assert panel.session.image == place.image
    ends = {"off the image": (-9, 40), "off the canvas": (40, 400), "refused": (31, 31)}
    escape = panel.placing._on_escape if how == "Escape" else lambda: None
    mouse(panel, (place.row, place.col), ends.get(how, (60, 90)), before_release=escape)
    settled(panel, qtbot)
    assert point_of(panel, first) == (place.row, place.col) and panel.session.decisions["candidate"] == {}
    assert (panel.placing.note.kind == "warning") == (how == "refused")


def test_a_click_on_a_point_selects_its_row_and_leaves_the_view(panel, qtbot) -> None:
    rows = panel.session.candidates.frame
    rank = int(rows[rows["image"] == "a"]["rank"].iloc[1])
    camera, place = camera_of(panel.viewer), panel.session.candidates.items[rank].target
    panel.extent.setCurrentIndex(1)
    settled(panel, qtbot)
    camera.center = (0, 20, 30)
    mouse(panel, (place.row, place.col))
    settled(panel, qtbot)
    assert panel.selected() == [rank] and tuple(camera.center) == (0, 20, 30)
    assert panel.target_view.pixels is not None


def test_the_usual_keys_undo_and_redo(panel, qtbot) -> None:
    panel.select([1])
    panel.decide("keep")
    assert panel.session.decided("keep") == 1
    qtbot.keyClick(panel.view, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert panel.session.decided("keep") == 0
    qtbot.keyClick(panel.view, Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
    assert panel.session.decided("keep") == 1


def test_a_study_that_another_window_holds_is_looked_at_and_says_so(panel, qtbot) -> None:
    panel.select([1])
    other = Session(home=panel.session.home)
    other.take_opened(drain(study_job(panel.session.study.folder)))
    second = CandidatesPanel(ViewerModel(), other)
    qtbot.addWidget(second)
    assert other.read_only and second.note.text() == READ_ONLY
    assert not second.keep_button.isEnabled() and not second.undo_button.isEnabled()
    said = []
    other.notice.connect(said.append)
    second.select([1])
    second.decide("keep")
    second.undo()
    assert second.selected() == [1] and said == [], "nothing goes on as if it had been decided"
    panel.session.release()
    other.take_opened(drain(study_job(panel.session.study.folder)))
    assert second.note.text() == "" and second.keep_button.isEnabled()
    other.release()


def test_nothing_is_decided_while_a_search_puts_others_in_the_place_of_these(panel, qtbot) -> None:
    panel.select([1])
    with qtbot.waitSignal(panel.runner.finished, timeout=60_000):
        panel.run()
        panel.decide("keep")
        assert not panel.keep_button.isEnabled() and not panel.placing.button.isEnabled()
    assert "already holds decisions" not in panel.note.text() and not panel.session.decisions["candidate"]
    panel.select([1])
    panel.decide("keep")
    assert panel.session.decided("keep") == 1


def test_points_of_candidates_are_seen_on_their_page_alone(panel, qtbot) -> None:
    points = panel.book.layer("a", "candidates")
    assert points.visible
    panel.hide()
    qtbot.waitUntil(lambda: not points.visible, timeout=5_000)
    panel.show()
    qtbot.waitUntil(lambda: points.visible, timeout=5_000)


def test_escape_another_page_and_another_dataset_end_it(panel, qtbot) -> None:
    from app_model.types import KeyBinding

    panel.placing.button.click()
    panel.viewer.keymap[KeyBinding.from_str("Escape")](panel.viewer)
    assert not panel.placing.armed and panel.viewer.cursor.style != "crosshair"
    panel.placing.button.click()
    panel.hide()
    assert not panel.placing.armed and panel.placing._on_drag not in panel.viewer.mouse_drag_callbacks


def test_what_is_placed_or_dropped_is_not_so_in_a_study_that_begins_meanwhile(panel, qtbot) -> None:
    session, settings = panel.session, panel.form.value(CandidateSettings)
    session.decide("candidate", [0], "keep")
    found = drain(session.stage_job(settings)())
    panel.regions.draw()
    panel.viewer.layers["a regions"].add([[0, 0], [0, 9], [9, 9], [9, 0]], shape_type="polygon")
    panel.regions.drop()
    panel.placing.button.click()
    mouse(panel, CLEAR)
    assert panel.placing.runner.running and panel.regions.runner.running
    session.take_stage(found)
    settled(panel, qtbot)
    qtbot.waitUntil(lambda: not panel.regions.runner.busy, timeout=20_000)
    assert session.study is found.study and session.decisions["candidate"] == {} == session.study.decisions("candidate")
    assert session.candidates is found.work.candidates and not panel.placing.armed and not panel.placing.note.text()


def test_a_row_says_what_runs_made_of_it(panel, qtbot) -> None:
    session = panel.session
    study = session.study
    session.decide("candidate", [1], "keep")
    run = study.begin_run("nucleimix", {})
    study.set_plan(run.id, 2, {"it would cross the image's edge": 1}, {1: "it would cross the image's edge"})
    session.outcomes_changed.emit()
    qtbot.waitUntil(lambda: cell(panel, 1, "outcome") != "", timeout=5_000)
    assert cell(panel, 1, "outcome") == "refused: it would cross the image's edge"
    panel.select([1])
    assert panel.told.text() == "A run refused it: it would cross the image's edge." and panel.told.kind == "warning"
    panel.select([2])
    assert panel.told.text() == ""
    assert panel.table.rowCount() == min(FIRST, len(panel.table))


def test_what_lies_outside_of_drawn_regions_is_dropped_as_one_act(panel, qtbot) -> None:
    session, regions = panel.session, panel.regions
    frame, study = session.candidates.frame, session.study
    kept = int(frame[frame["image"] == "a"].iloc[0]["rank"])
    session.decide("candidate", [kept], "keep")
    regions.draw_button.click()
    layer = panel.viewer.layers["a regions"]
    assert layer.mode == "add_polygon" and regions.layers.layer is layer
    layer.add([[0, 0], [0, 64], [64, 64], [64, 0]], shape_type="polygon")
    layer.add([[64, 64], [64, 128], [128, 128], [128, 64]], shape_type="ellipse")
    regions.drop_button.click()
    qtbot.waitUntil(lambda: not regions.runner.busy and "candidate" in session.decisions, timeout=20_000)
    qtbot.waitUntil(lambda: "dropped" in regions.note.text(), timeout=5_000)
    # A click on the image draws no further, here and on the other pages.
    assert layer.mode == "pan_zoom"

    rows, cols = frame["row"].to_numpy(), frame["col"].to_numpy()
    within = ((rows <= 64) & (cols <= 64)) | ((rows - 96) ** 2 + (cols - 96) ** 2 <= 32**2)
    outside = (frame["image"] == "a").to_numpy() & ~within
    expected = {rank: "drop" for rank in np.flatnonzero(outside).tolist() if rank != kept} | {kept: "keep"}
    assert session.decisions["candidate"] == expected == study.decisions("candidate")
    # The region of an image is its own, whichever is on the screen; of the others only if asked for.
    session.step(1)
    qtbot.waitUntil(lambda: session.image == "b" and not panel.book.busy, timeout=20_000)
    regions.others.setChecked(True)
    regions.drop_button.click()
    qtbot.waitUntil(lambda: session.decided("drop") > len(expected), timeout=20_000)
    assert all(session.decisions["candidate"][rank] == "drop" for rank in frame[frame["image"] == "b"]["rank"])
    panel.undo()
    assert session.decisions["candidate"] == expected
