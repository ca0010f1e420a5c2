from __future__ import annotations

import shutil
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from pool_samples import make_study, segment
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QHelpEvent, QPolygonF, QWheelEvent
from qtpy.QtWidgets import QApplication, QScrollArea, QToolTip

from napari_histomix.datasets import open_any, survey
from napari_histomix.records import Change, HistomixError, SourceRef, drain
from napari_histomix.study import Study
from napari_histomix.study.curation import Curation
from napari_histomix.widgets.loading import Opened
from napari_histomix.widgets.pool import loading
from napari_histomix.widgets.pool import panel as pool_panel
from napari_histomix.widgets.pool.gallery import class_colors
from napari_histomix.widgets.pool.panel import PoolPanel
from napari_histomix.widgets.session import Session

SHIFT, CONTROL = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def empty(qtbot, viewer, tmp_path) -> PoolPanel:
    one = PoolPanel(viewer, Session(home=tmp_path))
    qtbot.addWidget(one)
    one.resize(420, 1000)
    one.show()
    # Shortcuts work in the active window only.
    one.activateWindow()
    qtbot.waitUntil(one.isActiveWindow)
    return one


@pytest.fixture
def opened(empty, qtbot, tmp_path):
    """Open a study's pool in the panel."""

    def open_it(images=None) -> PoolPanel:
        study = make_study(tmp_path / "study", images)
        with qtbot.waitSignal(empty.opened, timeout=20_000):
            empty.open_study(study.folder)
        qtbot.waitUntil(lambda: empty.view.gallery.viewport().width() > 300)
        return empty

    return open_it


@pytest.fixture
def panel(opened) -> PoolPanel:
    return opened()


@pytest.fixture
def many(opened) -> PoolPanel:
    """Two thousand segments."""
    numbers = range(1, 1001)
    return opened([(name, name, "", [segment(number) for number in numbers]) for name in ("x", "y")])


def center(viewer) -> tuple[float, float]:
    return getattr(viewer, "scene", viewer).camera.center[-2:]


def click(qtbot, panel, place, modifier=Qt.KeyboardModifier.NoModifier) -> None:
    gallery = panel.view.gallery
    qtbot.mouseClick(gallery.viewport(), Qt.MouseButton.LeftButton, modifier, gallery.tile(place).center())


def selected(panel) -> list[int]:
    return panel.view.selection.numbers().tolist()


def again(panel) -> Curation:
    return Curation(Study.open(panel.study.folder), panel.curation.pool)


def texts(panel) -> str:
    return " ".join((panel.note.text(), panel.empty.text(), panel.title.text()))


def test_before_a_study_is_open_a_button_leads_to_building_a_pool(empty, qtbot) -> None:
    assert empty.open_button.isVisible() and empty.empty.isVisible()
    with qtbot.waitSignal(empty.session.page_requested) as asked:
        empty.empty.lead.click()
    assert asked.args == ["make/plan"]
    assert not empty.results.isVisible() and not empty.rebuild_button.isVisible()
    for action in (empty.keep, empty.undo, empty.drop_border, empty.view.refresh, lambda: empty.relabel("x")):
        action()


def test_a_pool_is_shown_and_counted(panel) -> None:
    assert panel.title.text() == "<b>study</b> · 8 segments"
    assert "8 shown · 0 selected" in panel.count.text() and "2 at the border" in panel.count.text()
    assert not panel.progress.bar.isVisible() and not panel.empty.isVisible() and not panel.empty.lead.isVisible()
    assert panel.view.gallery.numbers.tolist() == list(range(8))
    assert panel.actions_box.border_button.text() == "Drop 2 incomplete segments at the border"


def test_keys_decide_and_go_on(panel, qtbot) -> None:
    click(qtbot, panel, 0)
    assert selected(panel) == [0]
    gallery = panel.view.gallery
    for key in (Qt.Key.Key_K, Qt.Key.Key_D, Qt.Key.Key_K):
        qtbot.keyClick(gallery, key)
    assert selected(panel) == [3]
    assert again(panel).decision.tolist() == [1, 2, 1, 0, 0, 0, 0, 0]
    assert "2 kept · 1 dropped" in panel.count.text()
    qtbot.keyClick(gallery, Qt.Key.Key_U)
    assert selected(panel) == [2] and again(panel).decision[2] == 0
    qtbot.keyClick(gallery, Qt.Key.Key_Home)
    qtbot.keyClick(gallery, Qt.Key.Key_N)
    assert again(panel).decision.tolist() == [0, 2, 0, 0, 0, 0, 0, 0]
    qtbot.keyClick(gallery, Qt.Key.Key_Z, CONTROL)
    assert again(panel).decision.tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    qtbot.keyClick(gallery, Qt.Key.Key_Y, CONTROL)
    assert again(panel).decision.tolist() == [0, 2, 0, 0, 0, 0, 0, 0]


def test_a_letter_typed_in_an_open_menu_decides_nothing(panel, qtbot) -> None:
    click(qtbot, panel, 0)
    menu = panel.actions_box.class_menu
    menu.popup(panel.mapToGlobal(QPoint(10, 10)))
    qtbot.waitUntil(menu.isVisible)
    qtbot.keyClick(menu, "d")
    qtbot.wait(50)
    menu.close()
    assert not again(panel).decision.any()


def test_letters_written_into_a_field_decide_nothing(panel, qtbot) -> None:
    click(qtbot, panel, 0)
    panel.view.filters.search.setFocus()
    qtbot.waitUntil(panel.view.filters.search.hasFocus)
    qtbot.keyClicks(panel.view.filters.search, "kdun")
    assert panel.view.filters.search.text() == "kdun"
    assert not again(panel).decision.any()


def test_on_a_low_screen_it_scrolls_and_the_tiles_do_not_lie_over_the_map(panel, qtbot) -> None:
    view, area = panel.view, panel.findChild(QScrollArea)
    assert area is not None
    bar = area.verticalScrollBar()
    panel.resize(420, 640)
    qtbot.wait(50)
    assert bar.maximum() == 0, "what there is room for is in sight"
    panel.resize(420, 480)
    qtbot.waitUntil(lambda: bar.maximum() > 0, timeout=2_000)
    tiles = view.gallery.mapTo(panel, view.gallery.rect().bottomLeft())
    assert tiles.y() <= view.map.mapTo(panel, QPoint(0, 0)).y()
    assert view.map.height() >= 90 and view.gallery.height() >= 110


def test_buttons_do_what_the_keys_do(panel, qtbot) -> None:
    box = panel.actions_box
    assert not box.buttons["keep"].isEnabled() and not box.class_button.isEnabled()
    click(qtbot, panel, 1)
    click(qtbot, panel, 4, SHIFT)
    assert selected(panel) == [1, 2, 3, 4]
    box.buttons["drop"].click()
    assert again(panel).decision.tolist() == [0, 2, 2, 2, 2, 0, 0, 0]
    assert selected(panel) == [1, 2, 3, 4]  # what was selected together stays so
    box.buttons["clear"].click()
    assert not again(panel).decision.any()
    box.buttons["keep"].click()
    box.buttons["undo"].click()
    assert not again(panel).decision.any()
    box.class_menu.actions()[2].trigger()
    assert again(panel).kind_of(1) == "grade 4"
    box.text.setText("odd, fold")
    box.tag_button.click()
    assert again(panel).tags_of(4) == ("fold", "odd")
    assert [panel.view.filters.tag.itemText(index) for index in range(3)] == ["Any tag", "fold", "odd"]
    box.text.setText("odd")
    box.untag_button.click()
    assert again(panel).tags_of(4) == ("fold",)


def test_everything_incomplete_goes_with_one_click(panel, qtbot) -> None:
    panel.actions_box.border_button.click()
    assert np.flatnonzero(again(panel).decision == 2).tolist() == [3, 6]
    assert not panel.actions_box.border_button.isEnabled()


def test_selecting_with_mouse_and_keys(many, qtbot) -> None:
    gallery = many.view.gallery
    columns = gallery.columns
    assert columns >= 3
    click(qtbot, many, 1)
    click(qtbot, many, 3, CONTROL)
    click(qtbot, many, 1, CONTROL)
    assert selected(many) == [3]
    qtbot.keyClick(gallery, Qt.Key.Key_Down)
    assert selected(many) == [1 + columns]
    qtbot.keyClick(gallery, Qt.Key.Key_Right, SHIFT)
    qtbot.keyClick(gallery, Qt.Key.Key_Right, SHIFT)
    assert selected(many) == [1 + columns, 2 + columns, 3 + columns]
    qtbot.keyClick(gallery, Qt.Key.Key_End)
    assert selected(many) == [1999]
    assert gallery.viewport().rect().contains(gallery.tile(1999))
    qtbot.keyClick(gallery, Qt.Key.Key_Down)
    assert selected(many) == [1999]
    qtbot.keyClick(gallery, Qt.Key.Key_A, CONTROL)
    assert "2,000 selected" in many.count.text()
    qtbot.keyClick(gallery, Qt.Key.Key_Escape)
    assert selected(many) == []


def test_only_the_thumbnails_in_sight_are_decoded(many, qtbot) -> None:
    gallery = many.view.gallery
    in_sight = (gallery.viewport().height() // gallery.cell + 2) * gallery.columns
    qtbot.waitUntil(lambda: len(gallery.thumbnails) > gallery.columns)
    qtbot.wait(100)
    assert len(gallery.thumbnails) <= in_sight
    bar = gallery.verticalScrollBar()
    bar.setValue(bar.maximum())
    qtbot.waitUntil(lambda: gallery.thumbnails.get(1999) is not None)
    assert len(gallery.thumbnails) <= 2 * in_sight


def test_more_tiles_in_sight_than_are_kept_come_to_rest(many, qtbot, monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.widgets.gallery.KEPT", 3)
    gallery = many.view.gallery
    gallery.set_curation(many.curation)
    gallery.set_numbers(np.arange(2000))
    qtbot.waitUntil(lambda: len(gallery.thumbnails) > gallery.columns)
    qtbot.wait(100)
    loads = []
    gallery.thumbnails.load, load = (lambda number: (loads.append(number), load(number))[1]), gallery.thumbnails.load
    gallery.viewport().update()
    qtbot.wait(100)
    assert not loads


def test_tiles_of_another_size_keep_the_place(many, qtbot) -> None:
    gallery = many.view.gallery
    gallery.verticalScrollBar().setValue(50 * gallery.cell)
    first = gallery.number_at(QPoint(5, gallery.cell // 2))
    columns = gallery.columns
    event = QWheelEvent(
        QPointF(50, 50),
        gallery.mapToGlobal(QPointF(50, 50)),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        CONTROL,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(gallery.viewport(), event)
    assert gallery.side == 64 and gallery.columns > columns
    shown = {gallery.number_at(QPoint(5, y)) for y in range(0, gallery.viewport().height(), 20)}
    row = {first + offset for offset in range(-columns, gallery.columns + columns)}
    assert shown & row


def test_filters_show_and_let_go(panel, qtbot) -> None:
    view, filters = panel.view, panel.view.filters
    qtbot.keyClick(view.gallery, Qt.Key.Key_A, CONTROL)
    filters.kind.setCurrentText("grade 3")
    assert view.gallery.numbers.tolist() == [4, 5, 6]
    # What is no longer to be seen must not be dropped with the rest.
    assert selected(panel) == [4, 5, 6]
    panel.drop()
    assert again(panel).decision.tolist() == [0, 0, 0, 0, 2, 2, 2, 0]
    filters.search.setText("no such image")
    qtbot.waitUntil(lambda: "0 shown · 0 selected" in panel.count.text())
    view.gallery.grab()
    view.map.grab()
    qtbot.keyClick(view.gallery, Qt.Key.Key_Down)
    panel.keep()
    filters.clear()
    assert len(view.gallery.numbers) == 8
    filters.low.setText("196")
    filters.high.setText("400")
    qtbot.waitUntil(lambda: view.gallery.numbers.tolist() == [1, 5, 6])
    filters.unit.setCurrentIndex(1)
    assert view.gallery.numbers.tolist() == [2, 7]
    filters.clear()
    filters.border.setCurrentIndex(1)
    filters.decision.setCurrentText("Undecided")
    assert view.gallery.numbers.tolist() == [3]


def test_orders_and_the_way_back(panel, qtbot, monkeypatch) -> None:
    view, filters = panel.view, panel.view.filters
    filters.order.setCurrentText("Size")
    assert view.gallery.numbers.tolist() == [7, 2, 1, 6, 5, 4, 0, 3]
    filters.turn.click()
    assert view.gallery.numbers.tolist() == [0, 3, 4, 5, 6, 1, 2, 7]
    filters.turn.click()
    filters.order.setCurrentText("Similarity")
    assert "Click a segment first" in panel.note.text()
    view.gallery.go(view.gallery.place_of(2))
    filters.order.setCurrentIndex(0)
    expected = panel.curation.ordered(np.arange(8), "similarity", 2).tolist()
    for limit in (20_000, 1):  # at once, and in the background
        monkeypatch.setattr(pool_panel, "SORTED_AT_ONCE", limit)
        filters.order.setCurrentText("Similarity")
        qtbot.waitUntil(lambda: view.gallery.numbers.tolist() == expected, timeout=5000)
        assert expected[0] == 2
        filters.order.setCurrentIndex(0)
        assert view.gallery.numbers.tolist() == list(range(8))
    for number in (2, 0):  # a second time it is the order already
        view.gallery.go(view.gallery.place_of(number))
        view.similar_button.click()
        qtbot.waitUntil(lambda number=number: view.gallery.numbers[0] == number, timeout=5000)


def test_a_tooltip_says_what_a_tile_is(panel, qtbot) -> None:
    panel.curation.tag([6], "odd")
    panel.curation.set_uses({6: 3})
    gallery = panel.view.gallery
    at = gallery.tile(6).center()
    QApplication.sendEvent(gallery.viewport(), QHelpEvent(QEvent.Type.ToolTip, at, gallery.mapToGlobal(at)))
    words = gallery.words(6)
    assert QToolTip.text() == words
    assert "grade 3" in words and "patient Bob" in words and "256 px · 64 µm²" in words
    assert "Vote share 1.00" in words and "Used 3" in words and "odd" in words and "border" in words


def test_decision_and_border_can_be_seen(panel, qtbot) -> None:
    def tile(place: int) -> np.ndarray:
        gallery = panel.view.gallery
        image = gallery.viewport().grab(gallery.tile(place)).toImage()
        return np.array(
            [[image.pixelColor(x, y).getRgb()[:3] for x in range(image.width())] for y in range(image.height())]
        )

    before = tile(1)
    panel.curation.decide([1], "keep")
    panel.curation.decide([2], "drop")
    kept, dropped = tile(1), tile(2)
    assert np.abs(before[1, 40] - kept[1, 40]).max() > 60
    assert kept[1, 40, 1] > kept[1, 40, 0] + 60 and dropped[1, 40, 0] > dropped[1, 40, 1] + 60
    flagged, whole = tile(6)[3:22, -22:-3], tile(5)[3:22, -22:-3]
    assert np.ptp(whole) < 30 < 100 < np.ptp(flagged)


def test_the_map_selects_what_the_lasso_holds(panel, qtbot) -> None:
    view = panel.view
    points = [view.map.point_of(number) for number in range(8)]
    assert all(point is not None for point in points)
    around = points[7]
    box = QPolygonF([around + QPointF(dx, dy) for dx, dy in ((-3, -3), (3, -3), (3, 3), (-3, 3))])
    assert 7 in view.map.inside(box)
    rect = view.map.rect().adjusted(1, 1, -2, -2)
    corners = [rect.topLeft(), rect.topRight(), rect.bottomRight(), rect.bottomLeft()]
    qtbot.mousePress(view.map, Qt.MouseButton.LeftButton, pos=corners[0])
    for corner in corners[1:]:
        qtbot.mouseMove(view.map, corner)
    qtbot.mouseRelease(view.map, Qt.MouseButton.LeftButton, pos=corners[3])
    assert selected(panel) == list(range(8))
    view.filters.kind.setCurrentText("grade 3")
    assert set(view.map.inside(QPolygonF([QPointF(one) for one in corners])).tolist()) == {4, 5, 6}


def test_a_click_on_the_map_means_the_nearest_dot(panel, qtbot, monkeypatch) -> None:
    view = panel.view
    at = view.map.point_of(5)
    visited = []
    monkeypatch.setattr(view.places, "show", lambda *place: visited.append(place))
    qtbot.mouseClick(view.map, Qt.MouseButton.LeftButton, pos=at.toPoint())
    assert selected(panel) == [5] and visited == [("g3/two", 2, 20, 30, 14, 14)]
    assert "grade 3 · g3/two" in view.about.text()


def test_the_map_shows_classes_filters_and_selection(panel) -> None:
    view = panel.view

    def color(number: int) -> np.ndarray:
        at = view.map.point_of(number)
        return np.array(view.map.grab().toImage().pixelColor(int(at.x()), int(at.y())).getRgb()[:3])

    own = class_colors(3)[0]
    assert np.abs(color(2) - own).max() < 110 and np.argmax(color(2)) == np.argmax(own)
    view.filters.kind.setCurrentText("grade 3")
    assert np.ptp(color(2)) < 40
    view.filters.clear()
    view.selection.select([2])
    assert color(2).min() > 200


def test_zooming_keeps_what_is_under_the_mouse(panel, qtbot) -> None:
    view = panel.view
    before = view.map.point_of(4)
    for _ in range(4):
        event = QWheelEvent(
            before,
            view.map.mapToGlobal(before),
            QPoint(),
            QPoint(0, 120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(view.map, event)
    after = view.map.point_of(4)
    assert abs(after.x() - before.x()) < 3 and abs(after.y() - before.y()) < 3
    others = [view.map.point_of(number) for number in range(8)]
    assert any(point is None for point in others)
    qtbot.mouseDClick(view.map, Qt.MouseButton.LeftButton, pos=QPoint(5, 5))
    assert all(view.map.point_of(number) is not None for number in range(8))


def test_a_large_change_is_written_in_the_background_and_the_next_one_waits(panel, qtbot, monkeypatch) -> None:
    monkeypatch.setattr(loading, "AT_ONCE", 3)
    go, real = threading.Event(), Study.decide

    def slow(self, subject, items, decision) -> None:
        assert go.wait(10)
        real(self, subject, items, decision)

    monkeypatch.setattr(Study, "decide", slow)
    panel.view.selection.select(range(8))
    panel.keep()
    assert panel.writer.busy and "writing" in panel.count.text()
    assert not panel.curation.decision.any()
    panel.view.selection.select([1], 1)
    panel.drop()
    panel.view.selection.select([2], 2)
    panel.undo()
    panel.undo()
    panel.drop()
    go.set()
    qtbot.waitUntil(lambda: panel.curation.decision[2] == 2, timeout=10_000)
    qtbot.waitUntil(lambda: not panel.writer.busy)
    assert again(panel).decision.tolist() == [0, 0, 2, 0, 0, 0, 0, 0]
    assert "writing" not in panel.count.text()


def test_a_full_disk_is_said_and_nothing_is_shown_as_done(panel, qtbot, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise HistomixError("The study cannot be written; make room.")

    monkeypatch.setattr(Study, "decide", full)
    for limit in (2000, 0):
        monkeypatch.setattr(loading, "AT_ONCE", limit)
        panel.note.say("")
        panel.view.selection.select([0, 1])
        panel.keep()
        qtbot.waitUntil(lambda: "make room" in panel.note.text(), timeout=5000)
        assert "0 kept" in panel.count.text() and not panel.curation.decision.any()
        assert panel.actions_box.buttons["keep"].isEnabled()


def test_nothing_to_undo_is_said(panel) -> None:
    panel.undo()
    assert panel.note.text() == "There is nothing to undo."


def test_a_pool_of_one(opened, qtbot) -> None:
    panel = opened([("only", "grade 2", "", [segment(1)])])
    assert "· 1 segment" in panel.title.text()
    click(qtbot, panel, 0)
    panel.view.filters.order.setCurrentText("Similarity")
    panel.view.map.grab()
    qtbot.mouseClick(panel.view.map, Qt.MouseButton.LeftButton, pos=panel.view.map.point_of(0).toPoint())
    qtbot.keyClick(panel.view.gallery, Qt.Key.Key_D)
    assert again(panel).decision.tolist() == [2] and selected(panel) == [0]


def draw(study: Study, *donors: tuple[str, int], method: str = "usegmix") -> None:
    """Write a change with these donors, (image, number), into a study."""
    number = len(study.changes())
    sources = SourceRef("target", "g2/one"), *(SourceRef("donor", *donor) for donor in donors)
    pixels, origin = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    parts = "g2/one", f"mix {number}", 0, 0, pixels, origin, None, {}, (), {"grade 2": 1.0}, method, 0, sources
    study.add_changes(study.begin_run(method, {}).id, [Change(number, *parts, provenance={})])


def test_uses_are_counted_when_a_pool_is_opened_and_when_more_is_made(empty, qtbot, tmp_path) -> None:
    study = make_study(tmp_path / "study")
    draw(study, ("g3/two", 5), ("g3/two", 5), ("g2/one", 0))
    # An older pool had another segment of this number; a nucleus of that number is none.
    draw(study, ("g4/three", 6), ("g2/one", 99))
    draw(study, ("g3/two", 6), method="nucleimix")
    with qtbot.waitSignal(empty.opened, timeout=10_000):
        empty.open_study(study.folder)
    empty.view.filters.order.setCurrentText("Uses")
    assert empty.view.gallery.numbers.tolist()[:2] == [5, 0]
    assert "Used 2 times" in empty.view.gallery.words(5) and "Used" not in empty.view.gallery.words(6)
    draw(empty.study, *[("g4/three", 7)] * 3)
    empty.session.changes_made.emit([3])
    qtbot.wait(100)
    assert not empty.curation.uses[7]  # they may be another study's
    empty.session.study_folder = study.folder
    empty.session.changes_made.emit([3])
    qtbot.waitUntil(lambda: empty.view.gallery.numbers.tolist()[:3] == [7, 5, 0], timeout=10_000)


def test_a_pool_that_is_mended_is_shown(empty, qtbot, tmp_path) -> None:
    pages: list[str] = []
    empty.session.page_requested.connect(pages.append)
    study = make_study(tmp_path / "study")
    part = study.folder / "pool" / "part-0000" / "part.json"
    whole = part.read_text()
    part.write_text("{")
    empty.open_study(study.folder)
    qtbot.waitUntil(empty.rebuild_button.isVisible, timeout=10_000)
    assert empty.note.kind == "error" and not empty.results.isVisible() and empty.curation is None
    empty.rebuild_button.click()
    assert pages == ["make/segments"]
    part.write_text(whole)
    with qtbot.waitSignal(empty.opened, timeout=10_000):
        empty.open_study(study.folder)
    assert empty.results.isVisible() and not empty.rebuild_button.isVisible() and not empty.note.isVisible()
    part.write_text("{")
    empty.open_study(study.folder)
    qtbot.waitUntil(empty.rebuild_button.isVisible, timeout=10_000)
    assert empty.open_button.isVisible() and not empty.results.isVisible()


@pytest.mark.parametrize("trouble", ("no study", "no pool", "damaged pool", "short rows"))
def test_what_cannot_be_opened_is_one_sentence_without_a_path(empty, qtbot, tmp_path, trouble) -> None:
    study = make_study(tmp_path / "study")
    part = study.folder / "pool" / "part-0000"
    if trouble == "no study":
        shutil.rmtree(study.folder)
    elif trouble == "no pool":
        shutil.rmtree(study.folder / "pool")
    elif trouble == "damaged pool":
        (part / "part.json").write_text("{")
    else:
        (part / "map.npy").write_bytes(b"x")
    empty.open_study(study.folder)
    qtbot.waitUntil(lambda: bool(empty.note.text()), timeout=10_000)
    assert str(tmp_path) not in texts(empty) and "Traceback" not in texts(empty) and "study" in empty.note.text()
    assert empty.rebuild_button.isVisible() == (trouble != "no study")
    assert empty.open_button.isVisible() and empty.open_button.isEnabled()


def test_a_thumbnail_that_cannot_be_read_is_gray(panel, qtbot) -> None:
    file = panel.study.folder / "pool" / "part-0000" / "thumbnails.bin"
    file.write_bytes(b"\0" * file.stat().st_size)
    view = panel.view
    view.gallery.thumbnails.resize(10)
    assert not view.gallery.thumbnails.load(0).isNull()
    file.unlink()
    assert not view.gallery.thumbnails.load(1).isNull()
    view.gallery.grab()


def test_the_study_asked_for_last_is_the_one_shown(empty, qtbot, tmp_path) -> None:
    first, second = make_study(tmp_path / "first"), make_study(tmp_path / "second")
    empty.open_study(first.folder)
    with qtbot.waitSignal(empty.opened, timeout=10_000):
        empty.open_study(second.folder)
    qtbot.wait(100)
    assert empty.study.folder == second.folder and "second" in empty.title.text()


def test_an_image_that_is_not_open_can_be_asked_for(panel, viewer, qtbot) -> None:
    click(qtbot, panel, 4)
    assert panel.view.image_button.isVisible()
    with qtbot.waitSignal(panel.view.image_wanted, timeout=1000) as asked:
        panel.view.image_button.click()
    assert asked.args == ["g3/two"]
    # The pixels alone do not say where the segment lies in them.
    viewer.add_image(np.zeros((200, 200, 3), np.uint8), rgb=True, metadata={"histomix": {"image": "g3/two"}})
    assert panel.view.image_button.isVisible()
    # As soon as it is there, the view flies to what was asked for.
    about = {"image": "g3/two", "segments": {}}
    layer = viewer.add_labels(np.zeros((200, 200), int), scale=(0.5, 0.5), metadata={"histomix": about})
    assert not panel.view.image_button.isVisible()
    assert np.allclose(center(viewer), (12.75, 17.75))
    viewer.layers.remove(layer)
    assert panel.view.image_button.isVisible()


def test_a_place_lies_where_its_layer_was_moved_to(panel, viewer, qtbot) -> None:
    about = {"image": "g3/two", "segments": {}}
    pixels = viewer.add_image(np.zeros((200, 200, 3), np.uint8), rgb=True, metadata={"histomix": {"image": "g2/one"}})
    layer = viewer.add_labels(
        np.zeros((200, 200), int), scale=(2, 2), translate=(100, 50), metadata={"histomix": about}, visible=False
    )
    click(qtbot, panel, 6)
    assert np.allclose(center(viewer), (100 + 2 * 107.5, 50 + 2 * 191.5))
    assert layer.selected_label == 7 and layer.visible and not pixels.visible
    assert 80 <= 30 * getattr(viewer, "scene", viewer).camera.zoom <= 420


def test_a_closed_panel_leaves_nothing_in_the_viewer(panel, viewer) -> None:
    shown = len(viewer.mouse_drag_callbacks), len(viewer.keymap)
    panel.hide()
    assert (len(viewer.mouse_drag_callbacks), len(viewer.keymap)) == (shown[0] - 1, shown[1] - 8)
    panel.show()
    assert (len(viewer.mouse_drag_callbacks), len(viewer.keymap)) == shown


def test_the_theme_is_followed(panel, viewer) -> None:
    dark = panel.view.map.grab().toImage().pixelColor(1, 1).lightness()
    viewer.theme = "light"
    assert panel.view.map.grab().toImage().pixelColor(1, 1).lightness() > dark + 100


class FakeUmap:
    """Stands in for umap-learn: the first two components, the other way round."""

    fitted = 0

    def __init__(self, **_: object) -> None: ...

    def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
        FakeUmap.fitted += 1
        return self.transform(vectors)

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        return vectors[:, 1::-1]


def test_a_umap_is_drawn_once_and_kept(panel, qtbot, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FakeUmap))
    monkeypatch.setattr(FakeUmap, "fitted", 0)
    monkeypatch.setattr(loading, "FITTED", 6)
    view = panel.view
    before = view.map.places.copy()
    for _ in range(2):
        view.map_kind.setCurrentIndex(1)
        qtbot.waitUntil(lambda: not panel.runner.running, timeout=10_000)
        qtbot.waitUntil(lambda: not np.allclose(view.map.places, before))
        assert view.map.places.shape == (2, 8)
        view.map_kind.setCurrentIndex(0)
        assert np.allclose(view.map.places, before)
    assert FakeUmap.fitted == 1
    file = loading.umap_file(panel.curation.pool)
    assert file.is_file() and "-8-" in file.name
    assert panel.curation.pool.places().shape == (8, 2)


def test_a_umap_that_fails_leaves_the_map(panel, qtbot, monkeypatch) -> None:
    class Broken(FakeUmap):
        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            raise ValueError("boom")

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Broken))
    before = panel.view.map.places.copy()
    panel.view.map_kind.setCurrentIndex(1)
    qtbot.waitUntil(lambda: panel.note.kind == "error", timeout=10_000)
    assert panel.view.map_kind.currentIndex() == 0 and np.allclose(panel.view.map.places, before)
    assert not list((panel.study.folder / "pool").glob("umap*"))


def test_the_pool_of_another_study_is_let_go_when_a_dataset_is_opened(panel, qtbot, tissue_folder, tmp_path) -> None:
    assert panel.curation is not None and panel.results.isVisible()
    dataset = open_any(tissue_folder(tmp_path / "other tissue"))
    panel.session.take_opened(Opened(dataset, drain(survey(dataset))))
    assert panel.curation is None and not panel.title.text()
    assert panel.results.isHidden() and not panel.empty.isHidden()
    panel.session.release()
