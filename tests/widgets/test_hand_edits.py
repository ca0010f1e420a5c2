"""Strokes on a layer of nuclei are seen, named, taken or discarded; none is lost without asking."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtGui import QFont

from napari_histomix.datasets import sample_folder
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.records import drain
from napari_histomix.study import Study
from napari_histomix.widgets import elements as ui
from napari_histomix.widgets.data_panel import DataPanel
from napari_histomix.widgets.hand_edits import HandEditsLine
from napari_histomix.widgets.loading import Opened
from napari_histomix.widgets.questions import stop_words
from napari_histomix.widgets.session import Session


@pytest.fixture
def panel(qtbot, tmp_path):
    """The Project page with the sample, its first image on the screen."""
    viewer, session = ViewerModel(), Session(home=tmp_path / "home")
    made = DataPanel(viewer, session)
    qtbot.addWidget(made)
    made.asked = []
    made.ask = lambda titles: not made.asked.append(list(titles))
    made.open_folder(sample_folder())
    settle(made, qtbot)
    yield made
    made.hand_edits.runner.discard()
    session.release()


def settle(panel, qtbot) -> None:
    busy = panel.runner, panel.hand_edits.runner
    qtbot.waitUntil(lambda: not any(runner.running for runner in busy), timeout=60_000)
    qtbot.waitUntil(lambda: panel.session.image != "" and not panel.book.busy, timeout=60_000)


def nuclei(panel, name: str = ""):
    return panel.book.layer(name or panel.session.image, "nuclei")


def free_places(panel, count: int) -> list[tuple[int, int]]:
    """Middles of discs of 9 pixels across that cover no nucleus."""
    data, places = nuclei(panel).data, []
    for row in range(12, data.shape[0] - 12, 16):
        for col in range(12, data.shape[1] - 12, 16):
            if len(places) < count and not data[row - 8 : row + 9, col - 8 : col + 9].any():
                places.append((row, col))
    assert len(places) == count
    return places


def paint(panel, *places, erase: bool = False) -> None:
    layer = nuclei(panel)
    layer.brush_size = 9
    for row, col in places:
        layer.paint((row, col), 0 if erase else layer.selected_label)


def test_a_stroke_is_seen_at_once_and_named(panel, qtbot) -> None:
    layer = nuclei(panel)
    session, before = panel.session, set(np.unique(layer.data).tolist())
    assert layer.selected_label not in before
    color = layer.colormap.map(np.array([layer.selected_label]))[0]
    classes = [np.array(kind.color) / 255 for kind in session.dataset.classes]
    assert color[3] == 1 and all(np.abs(color[:3] - kind).max() > 0.2 for kind in classes)
    assert panel.hand_edits.isHidden() and not session.hand_edits
    line = HandEditsLine(session)
    qtbot.addWidget(line)
    led = []
    session.page_requested.connect(led.append)
    with qtbot.waitSignal(session.hand_edits_changed):
        paint(panel, *free_places(panel, 2))
    # Two strokes with one label are two nuclei.
    assert f"2 nuclei of image {session.image} were changed by hand (2 drawn)" in panel.hand_edits.note.text()
    assert not panel.hand_edits.isHidden() and not panel.hand_edits.kind.isHidden()
    assert line.note.text() == "2 nuclei changed by hand do not count yet." and not line.isHidden()
    line.button.click()
    assert led == ["project/data"]
    # napari's own undo takes them back, and nothing is said any more.
    for _ in range(2):
        layer.undo()
    qtbot.waitUntil(lambda: not session.hand_edits)
    assert panel.hand_edits.isHidden() and line.isHidden()


def test_a_layer_that_was_deleted_with_edits_in_it_is_brought_back_with_them(panel, qtbot) -> None:
    bar, layers = panel.hand_edits, panel.viewer.layers
    layer = nuclei(panel)
    layers.remove(layer)
    assert bar.isHidden(), "nothing was changed in it"
    panel.session.step(1)
    settle(panel, qtbot)
    layer, names = nuclei(panel), [each.name for each in layers]
    paint(panel, *free_places(panel, 2))
    painted = layer.data.copy()
    # At once: the strokes have not been looked at yet.
    layers.remove(layer)
    assert not panel.session.hand_edits and "was deleted" in bar.gone.text()
    assert not bar.isHidden() and not bar.back_button.isHidden()
    bar.back_button.click()
    qtbot.waitUntil(lambda: not panel.book.busy)
    assert [each.name for each in layers] == names, "in its old place"
    np.testing.assert_array_equal(nuclei(panel).data, painted)
    assert "2 nuclei" in bar.note.text() and bar.gone.isHidden() and bar.back_button.isHidden()
    layers.remove(nuclei(panel))
    panel.open_folder(sample_folder())
    settle(panel, qtbot)
    assert bar.isHidden(), "of other data nothing is deleted"


def test_of_two_deleted_layers_none_is_lost(panel, qtbot) -> None:
    bar, painted = panel.hand_edits, {}
    for _ in range(2):
        paint(panel, *free_places(panel, 1))
        painted[panel.session.image] = nuclei(panel).data.copy()
        panel.session.step(1)
        settle(panel, qtbot)
    for name in painted:
        panel.viewer.layers.remove(panel.book.layer(name, "nuclei"))
    assert "So it is with 1 more." in bar.gone.text()
    for _ in painted:
        bar.back_button.click()
        settle(panel, qtbot)
    assert set(panel.session.hand_edits) == set(painted) and bar.gone.isHidden()
    for name, pixels in painted.items():
        np.testing.assert_array_equal(panel.book.layer(name, "nuclei").data, pixels)


@pytest.mark.parametrize("left", [False, True])
def test_a_deleted_layer_comes_back_also_where_nothing_else_of_its_image_is_there(panel, qtbot, left) -> None:
    paint(panel, *free_places(panel, 2))
    name, painted = panel.session.image, nuclei(panel).data.copy()
    nuclei_layer = nuclei(panel)
    panel.viewer.layers.remove(nuclei_layer)
    panel.viewer.layers.clear()
    while left and name in panel.book.stacks:
        panel.session.step(1)
        settle(panel, qtbot)
    panel.hand_edits.back_button.click()
    qtbot.waitUntil(lambda: bool(panel.session.hand_edits))
    assert panel.session.image == name and set(panel.session.hand_edits) == {name}
    np.testing.assert_array_equal(nuclei(panel).data, painted)


def test_what_is_said_of_an_edit_is_not_cut_in_a_narrow_dock(panel, qtbot) -> None:
    area = ui.scrolled(panel)
    qtbot.addWidget(area)
    panel.setFont(QFont(panel.font().family(), 15))
    area.resize(340, 700)
    area.show()
    paint(panel, *free_places(panel, 1))
    bar = panel.hand_edits
    qtbot.waitUntil(lambda: bar.note.isVisible())
    assert bar.layout().minimumSize().width() > bar.width(), "its row wants more room than there is"
    qtbot.waitUntil(lambda: bar.note.height() >= bar.note.heightForWidth(bar.note.width()))
    area.takeWidget()


def test_taken_edits_are_part_of_the_study(panel, qtbot) -> None:
    session = panel.session
    name, before, lymphocyte = session.image, session.survey.total.copy(), session.dataset.class_number("lymphocyte")
    drawn = free_places(panel, 2)
    gone = next(iter(session.reader.get(name).types))
    layer = nuclei(panel)
    layer.data_setitem(np.nonzero(layer.data == gone), 0)
    paint(panel, *drawn)
    panel.hand_edits.hand_edits.look()
    assert "(2 drawn, 1 erased)" in panel.hand_edits.note.text()
    assert "new study" not in panel.hand_edits.note.text()
    panel.hand_edits.kind.setCurrentText("lymphocyte")
    session.choose_classes([lymphocyte], [])
    panel.hand_edits.take_button.click()
    settle(panel, qtbot)
    assert session.image == name and not session.hand_edits and session.major == ()
    assert "3 changed nuclei are part of the study" in panel.hand_edits.outcome.text()
    assert "2 drawn, 1 erased" in panel.edited.text() and not panel.hand_edits.note.text()
    assert panel.hand_edits.take_button.isHidden() or panel.hand_edits.take_button.parent().isHidden()
    assert session.survey.total[lymphocyte] >= before[lymphocyte] + 1
    assert sum(session.survey.total.values()) == sum(before.values()) + 1
    image = session.dataset.read(name)
    assert all(image.types[image.instances[place]] == lymphocyte for place in drawn)
    np.testing.assert_array_equal(nuclei(panel).data, image.instances)
    # No candidate lies there, also in the study as anyone else opens it.
    settings = CandidateSettings(("lymphocyte",), ("tumor", "stromal"), background_share=0.5)
    session.take_stage(drain(session.stage_job(settings)()))
    again = Study.open(session.study_folder)
    painted = again.open_images().read(name).instances
    places = [each.target for each in again.candidates() if each.target.image == name]
    assert places and not any(painted[int(place.row), int(place.col)] in painted[tuple(zip(*drawn, strict=True))]
                              for place in places)  # fmt: skip


def test_work_is_left_as_it_is_and_a_new_study_carries_the_edits(panel, qtbot) -> None:
    session, settings = panel.session, CandidateSettings(("lymphocyte",), ("tumor",), background_share=0.1)
    session.take_stage(drain(session.stage_job(settings)()))
    session.decide("candidate", [0], "keep")
    first = session.study_folder
    paint(panel, *free_places(panel, 1))
    qtbot.waitUntil(lambda: "begins a new study" in panel.hand_edits.note.text())
    panel.hand_edits.take()
    settle(panel, qtbot)
    assert session.study_folder != first and f"kept in the study {first.name}" in panel.hand_edits.outcome.text()
    assert Study.open(first).decisions("candidate") == {0: "keep"} and not Study.open(first).open_images().edits
    assert set(Study.open(session.study_folder).open_images().edits) == {session.image}


def test_data_that_are_opened_while_edits_are_taken_stay(panel, qtbot) -> None:
    session = panel.session
    paint(panel, *free_places(panel, 1))
    opened = Opened(session.dataset, session.survey, session.mpp)
    panel.hand_edits.take()
    assert panel.hand_edits.runner.running
    session.take_opened(opened)
    settle(panel, qtbot)
    assert session.dataset is opened.dataset and session.study is None and not panel.hand_edits.outcome.text()
    assert nuclei(panel).editable


def test_no_stroke_is_made_in_another_image_that_taking_would_lose(panel, qtbot) -> None:
    paint(panel, *free_places(panel, 1))
    panel.hand_edits.hand_edits.freeze(True)
    panel.session.step(1)
    settle(panel, qtbot)
    assert not nuclei(panel).editable
    panel.hand_edits.hand_edits.freeze(False)
    assert nuclei(panel).editable


def test_discarded_edits_come_back_by_undo_only(panel, qtbot) -> None:
    layer, (place,) = nuclei(panel), free_places(panel, 1)
    paint(panel, place)
    panel.hand_edits.hand_edits.look()
    panel.hand_edits.discard_button.click()
    assert not panel.session.hand_edits
    np.testing.assert_array_equal(layer.data, panel.session.reader.get(panel.session.image).instances)
    layer.undo()
    qtbot.waitUntil(lambda: bool(panel.session.hand_edits))
    assert layer.data[place] == layer.selected_label


def test_another_image_keeps_them_and_other_data_ask(panel, qtbot) -> None:
    session, (place,) = panel.session, free_places(panel, 1)
    first = session.image
    paint(panel, place)
    for _ in range(len(session.images) + 1):
        session.step(1)
        settle(panel, qtbot)
    panel.hand_edits.hand_edits.look()
    session.show(first)
    settle(panel, qtbot)
    assert nuclei(panel, first).data[place] and set(session.hand_edits) == {first}
    panel.ask = lambda titles: bool(panel.asked.append(list(titles)))
    panel.open_sample()
    assert panel.asked[-1] == ["1 hand edit that was not taken"] and not panel.runner.running
    assert nuclei(panel, first).data[place]


@pytest.mark.parametrize(
    ("titles", "said", "unsaid"),
    [
        (["making images"], ["it ends", "gone on with"], ["Hand edits", "network"]),
        (["exporting", "training a network"], ["they end", "network so far is kept"], ["Hand edits", "gone on with"]),
        (["2 hand edits that were not taken"], ["Hand edits are lost"], ["ends", "kept"]),
        (["exporting", "1 hand edit that was not taken"], ["it ends", "Hand edits are lost"], ["kept"]),
    ],
)
def test_the_question_before_work_is_lost_names_what_there_is_alone(titles, said, unsaid) -> None:
    words = stop_words(titles)
    assert all(part in words for part in said) and not any(part in words for part in unsaid)
