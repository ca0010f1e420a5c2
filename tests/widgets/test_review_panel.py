from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from app_model.types import KeyBinding
from napari.components import ViewerModel
from qtpy.QtCore import QPoint, QSettings, Qt
from review_samples import add_run, copied, make_class_study, make_review_study, nucleus_change
from test_review_queue import Light

from napari_histomix.compositing.composing import compose
from napari_histomix.methods import method_of
from napari_histomix.preferences import preferences
from napari_histomix.records import Candidate, Change, HistomixError, Location, SourceRef, drain
from napari_histomix.study import Study
from napari_histomix.study.database import READ_ONLY
from napari_histomix.widgets.decisions import take_over_reviewer
from napari_histomix.widgets.layer_making import center
from napari_histomix.widgets.loading import Work, study_job
from napari_histomix.widgets.review.deciding import provenance
from napari_histomix.widgets.review.donors import settings_for
from napari_histomix.widgets.review.panel import ReviewPanel
from napari_histomix.widgets.review.views import Comparison
from napari_histomix.widgets.session import Session


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("review") / "study"
    make_review_study(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Any:
    return shutil.copytree(made, tmp_path / "study")


@pytest.fixture
def class_folder(tmp_path) -> Any:
    return make_class_study(tmp_path / "class study").folder


@pytest.fixture
def open_panel(qtbot, tmp_path):
    def opened(folder) -> ReviewPanel:
        session = Session(home=tmp_path)
        panel = ReviewPanel(ViewerModel(), session)
        qtbot.addWidget(panel)
        panel.resize(420, 900)
        panel.show()
        session.take_opened(drain(study_job(folder)))
        settle(qtbot, panel)
        return panel

    return opened


@pytest.fixture
def panel(open_panel, folder) -> ReviewPanel:
    return open_panel(folder)


def settle(qtbot, panel) -> None:
    qtbot.waitUntil(lambda: panel.contents.shows and not panel.book.busy, timeout=20_000)


def ids(panel) -> list[int]:
    return panel.queue.table.ids[panel.queue.shown].tolist()


def texts(panel) -> str:
    return panel.contents.counter.text()


def test_decisions_are_on_disk_and_the_next_one_is_shown(panel, folder, qtbot) -> None:
    first, second, third, fourth = ids(panel)[:4]
    assert texts(panel) == "1 of 12 · 0 approved · 0 rejected"
    panel.decide("approve")
    panel.decide("reject")
    panel.decide("delete")
    assert panel.queue.id == fourth
    assert Study.open(folder).decisions("change") == {first: "approve", second: "reject", third: "delete"}
    # What is deleted is in no list and no image, and counts as nothing to review.
    assert third not in ids(panel)
    assert texts(panel) == "3 of 11 · 1 approved · 1 rejected · 1 deleted"
    assert third not in [change.id for name in panel.session.images for change in panel.session.changes_of(name)]
    panel.undo()
    assert panel.queue.id == third and third in ids(panel)
    panel.undo()
    panel.redo()
    panel.redo()
    assert Study.open(folder).decisions("change") == {first: "approve", second: "reject", third: "delete"}
    panel.contents.filters.decision.setCurrentIndex(panel.contents.filters.decision.findData("delete"))
    assert ids(panel) == [third] and panel.queue.id == third
    panel.decide("undecided")
    assert Study.open(folder).decisions("change") == {first: "approve", second: "reject"}
    panel.undo()
    panel.undo()
    panel.undo()
    panel.undo()
    panel.undo()
    assert panel.contents.note.text() == "There is nothing to undo."
    assert Study.open(folder).decisions("change") == {}


def test_reasons_belong_to_the_nucleus_that_is_shown(panel, folder) -> None:
    first, second = ids(panel)[:2]
    panel.toggle_reason("stain")
    panel.toggle_reason("seam")
    panel.decide("reject")
    assert panel.queue.id == second and not any(one.isChecked() for one in panel.contents.details.reasons.values())
    panel.contents.details.stay.setChecked(True)
    panel.decide("reject")
    assert panel.queue.id == second
    panel.contents.details.reasons["shape"].click()
    assert panel.contents.details.reasons["shape"].isChecked()
    # In the order of the list, whatever the order they were given in.
    assert Study.open(folder).decisions("change reasons") == {first: "seam, stain", second: "shape"}
    panel.toggle_reason("shape")
    assert Study.open(folder).decisions("change reasons") == {first: "seam, stain"}
    panel.undo()
    assert panel.queue.reasons == ("shape",)


def test_a_note_is_kept_by_enter_and_by_leaving_and_forgotten_by_escape(panel, folder, qtbot) -> None:
    first, second = ids(panel)[:2]
    note = panel.contents.details.note
    qtbot.keyClicks(note, "blurred at the left")
    # An image that was read meanwhile takes nothing of what is being typed.
    note.setFocus()
    panel.contents.show_all()
    qtbot.keyClick(note, Qt.Key.Key_Return)
    assert Study.open(folder).decisions("change note") == {first: "blurred at the left"}
    qtbot.keyClicks(note, " and the right")
    qtbot.keyClick(note, Qt.Key.Key_Escape)
    assert note.text() == "blurred at the left"
    panel.move_by(1)
    assert note.text() == ""
    qtbot.keyClicks(note, "fine")
    panel.decide("approve")
    notes = Study.open(folder).decisions("change note")
    assert notes == {first: "blurred at the left", second: "fine"} and note.text() == ""
    panel.move_to(0)
    assert note.text() == "blurred at the left"
    note.clear()
    panel.move_by(1)
    assert Study.open(folder).decisions("change note") == {second: "fine"}


def test_all_that_the_filter_leaves_is_decided_on_in_one_act(panel, folder) -> None:
    parts = panel.contents
    parts.filters.toggle.setChecked(True)
    parts.filters.sampler.setCurrentIndex(parts.filters.sampler.findData("paper"))
    assert set(ids(panel)) == set(range(6, 12)) and parts.filters.state.text() == "6 of 12"
    parts.deciding.set_scope("shown")
    assert parts.deciding.buttons["approve"].text() == "Approve 6 (A, 1)"
    parts.deciding.buttons["approve"].click()
    assert Study.open(folder).decisions("change") == dict.fromkeys(range(6, 12), "approve")
    # One act is over: the next key is about one nucleus again.
    assert parts.deciding.scope == "one" and parts.deciding.buttons["approve"].text() == "Approve (A, 1)"
    panel.undo()
    assert Study.open(folder).decisions("change") == {}
    panel.redo()
    assert len(Study.open(folder).decisions("change")) == 6
    parts.filters.clear()
    parts.filters.decision.setCurrentIndex(parts.filters.decision.findData("approve"))
    parts.deciding.set_scope("shown")
    panel.decide("undecided")
    assert Study.open(folder).decisions("change") == {} and ids(panel) == []
    # The nucleus that was under review stays in view, so that its decision can be seen and taken back.
    assert texts(panel).startswith("0 shown · this one is not") and panel.current is not None


def test_what_a_detector_found_easiest_comes_first_and_can_be_picked_out(open_panel, folder) -> None:
    panel = open_panel(folder)
    panel.contents.filters.toggle.setChecked(True)
    # Nothing is offered that nobody has measured.
    filters = panel.contents.filters
    order = filters.order.model().item(filters.order.findData("detectable"))
    filters.toggle.click()
    assert not filters.detectable.isEnabled() and not order.isEnabled()
    panel.session.study.set_detectability({3: 99.0, 8: 60.0, 1: 75.0})
    panel = open_panel(folder)
    filters = panel.contents.filters
    filters.toggle.setChecked(True)
    filters.order.setCurrentIndex(filters.order.findData("detectable"))
    assert ids(panel)[:3] == [3, 1, 8] and len(ids(panel)) == 12
    filters.detectable.setValue(70)
    panel.on_filter()
    assert ids(panel) == [3, 1]
    filters.clear()
    assert len(ids(panel)) == 12


def test_a_whole_image_takes_its_undecided_nuclei_and_goes_on_to_the_next_image(panel, folder, qtbot) -> None:
    image = panel.current.image
    here = [change.id for change in panel.session.changes_of(image)]
    panel.decide("reject")
    panel.contents.deciding.set_scope("image")
    assert panel.contents.deciding.buttons["approve"].text() == f"Approve {len(here) - 1} (A, 1)"
    assert not panel.contents.deciding.buttons["undecided"].isEnabled()
    panel.decide("approve")
    decided = Study.open(folder).decisions("change")
    assert Counter(decided.values()) == {"approve": len(here) - 1, "reject": 1} and set(decided) == set(here)
    assert panel.contents.deciding.scope == "image" and panel.current.image != image
    panel.undo()
    assert panel.current.image == image
    assert list(Study.open(folder).decisions("change").values()) == ["reject"]


def test_filters_add_up_and_can_be_taken_off_at_once(panel) -> None:
    filters = panel.contents.filters
    donor = panel.current.donor
    filters.choose_donor(donor.image, donor.item)
    assert {panel.session.change(number).donor for number in ids(panel)} == {donor}
    some = len(panel.queue)
    filters.low.setValue(99)
    filters._late.timeout.emit()
    assert len(panel.queue) == 0 and panel.current is None
    assert panel.contents.views.after.pixels is None and not panel.contents.deciding.buttons["approve"].isEnabled()
    panel.decide("approve")
    assert panel.session.decisions["change"] == {}
    filters.clear_button.click()
    assert 0 < some < len(panel.queue) == 12 and panel.current is not None


def test_another_study_begins_anew(panel, made, tmp_path, qtbot) -> None:
    filters = panel.contents.filters
    panel.move_to(5)
    filters.image.setCurrentIndex(2)
    assert len(panel.queue) < 12
    fewer = make_review_study(tmp_path / "fewer", 1)
    panel.session.take_opened(drain(study_job(fewer.folder)))
    settle(qtbot, panel)
    assert ids(panel) == [0] and panel.queue.id == 0 and filters.image.currentData() == ""
    panel.session.take_opened(drain(study_job(shutil.copytree(made, tmp_path / "third"))))
    settle(qtbot, panel)
    assert len(panel.queue) == 12 and panel.queue.at == 0


def test_the_order_is_the_one_chosen(panel) -> None:
    filters = panel.contents.filters
    filters.order.setCurrentIndex(filters.order.findData("worst"))
    fits = panel.queue.table.scores[panel.queue.shown]
    assert fits.tolist() == sorted(fits)
    filters.order.setCurrentIndex(filters.order.findData("random"))
    assert not filters.seed.isHidden()
    first = ids(panel)
    filters.seed.setValue(5)
    assert ids(panel) != first and sorted(ids(panel)) == sorted(first)


def test_what_is_typed_in_an_open_list_chooses_there_and_decides_nothing(panel, folder, qtbot) -> None:
    filters = panel.contents.filters
    filters.toggle.click()
    filters.decision.showPopup()
    rows = filters.decision.view
    qtbot.waitUntil(lambda: rows().isVisible())
    qtbot.keyClick(rows(), "r")
    qtbot.waitUntil(lambda: rows().currentIndex().data() == "Rejected", timeout=2_000)
    qtbot.keyClick(rows(), Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not rows().isVisible())
    assert filters.decision.currentData() == "reject" and Study.open(folder).decisions("change") == {}
    filters.clear()
    qtbot.keyClick(panel, "r")
    assert len(Study.open(folder).decisions("change")) == 1


def test_ctrl_y_over_the_image_does_again_and_leaves_the_view_flat(panel, folder) -> None:
    def press(key: str) -> None:
        panel.viewer.keymap[KeyBinding.from_str(key)](panel.viewer)

    panel.decide("approve")
    press("Ctrl+Z")
    assert Study.open(folder).decisions("change") == {}
    press("Ctrl+Y")
    press("Ctrl+Y")
    assert panel.contents.note.text() == "There is nothing to redo."
    panel.move_by(1)
    assert panel.contents.note.text() == "", "it was said of a key pressed before"
    assert list(Study.open(folder).decisions("change").values()) == ["approve"]
    assert panel.viewer.dims.ndisplay == 2


def test_before_and_after_in_three_ways(panel, qtbot) -> None:
    views, change = panel.contents.views, panel.current
    target = panel.session.reader.get(change.image)
    expected = compose(target, panel.session.changes_of(change.image)).image.pixels
    top, left = (round(at) - views.side // 2 for at in center(change))
    at = slice(change.row - top, change.row - top + 21), slice(change.col - left, change.col - left + 21)
    np.testing.assert_array_equal(views.before.pixels[at], target.pixels[change.window])
    np.testing.assert_array_equal(views.after.pixels[at], expected[change.window])
    assert (views.before.pixels != views.after.pixels).any()

    panel.contents.views.modes["swipe"].click()
    qtbot.waitUntil(lambda: views.after.width() > 300 and len(views.after.pixels) == views.side, timeout=2000)
    assert not views.before.isVisible()
    whole = views.after.grab().toImage()
    qtbot.mousePress(views.after, Qt.MouseButton.LeftButton, pos=QPoint(1, 100))
    only_after = views.after.grab().toImage()
    qtbot.mousePress(views.after, Qt.MouseButton.LeftButton, pos=QPoint(views.after.width() - 1, 100))
    only_before = views.after.grab().toImage()
    middle, quarter, y = views.after.width() // 2, views.after.width() // 2 - 16, views.after.height() // 2
    assert whole.pixel(quarter, y) == only_before.pixel(quarter, y) != only_after.pixel(quarter, y)
    assert whole.pixel(middle + 16, y) == only_after.pixel(middle + 16, y)
    views.swipe_by(-20)
    assert views.divider == 0
    views.swipe_by(1)
    assert views.divider == pytest.approx(0.05)

    panel.contents.views.toggle_blink()
    shown = set()
    for _ in range(2):
        shown.add(views.after.pixels.tobytes())
        views._blinking.timeout.emit()
    assert len(shown) == 2
    panel.hide()
    assert not views._blinking.isActive()


def test_zoom_and_outlines(panel) -> None:
    views = bar = panel.contents.views
    before = views.after.pixels.shape[0]
    bar.closer.click()
    assert bar.zoom_label.text() == "6×" and views.after.pixels.shape[0] < before
    for _ in range(10):
        views.zoom(-1)
    assert bar.zoom_label.text() == "0.125×" and not bar.farther.isEnabled() and views.after.pixels.shape[0] > before
    views.zoom(6)
    plain = views.after.grab().toImage()
    bar.origin.setChecked(True)
    assert views.after.grab().toImage() != plain
    bar.origin.setChecked(False)
    assert views.after.grab().toImage() == plain


def test_the_goal_is_kept_with_the_study(panel, open_panel, folder, qtbot) -> None:
    goal = panel.contents.goal
    goal.goal.setValue(2)
    qtbot.waitUntil(lambda: Study.open(folder).settings().get("review_goal") == 2, timeout=2000)
    panel.contents.details.stay.setChecked(True)
    panel.decide("approve")
    assert (goal.bar.value(), goal.bar.maximum()) == (1, 2)
    panel.decide("approve")
    assert goal.words.text() == "Goal reached"
    panel.session.study.let_go()
    again = open_panel(folder)
    assert again.contents.goal.goal.value() == 2 and again.contents.goal.words.text() == "Goal reached"
    assert again.contents.details.stay.isChecked()


def test_pace_and_time_left_are_told(panel) -> None:
    now = [0.0]
    panel.contents.goal.pace._clock = lambda: now[0]
    for _ in range(5):
        panel.decide("approve")
        now[0] += 30
    # Seven are left, half a minute each.
    words = panel.contents.goal.words
    assert words.text() == "about 4 min left" and words.toolTip() == "about 4 min left, 30.0 s each"


def test_a_second_window_can_look_but_not_decide(panel, open_panel, folder) -> None:
    other = open_panel(folder)
    parts = other.contents
    assert parts.note.text() == READ_ONLY
    before = texts(other), other.queue.id
    for button in (*parts.deciding.buttons.values(), parts.deciding.undo_button, *parts.details.reasons.values()):
        assert not button.isEnabled()
    assert parts.deciding.buttons["approve"].toolTip() == READ_ONLY and parts.details.note.isReadOnly()
    other.decide("approve")
    other.toggle_reason("seam")
    other.undo()
    assert (texts(other), other.queue.id) == before
    assert Study.open(folder).decisions("change") == {}
    other.move_by(1)
    assert other.queue.id != before[1]


def test_what_could_not_be_written_stays_in_view(panel, monkeypatch) -> None:
    said = []
    panel.session.notice.connect(said.append)

    def full(_changes):
        raise HistomixError("The disk is full; free space.")

    monkeypatch.setattr(panel.session.study, "act", full)
    number = panel.queue.id
    panel.decide("approve")
    assert panel.queue.id == number and said == ["The disk is full; free space."]
    assert texts(panel) == "1 of 12 · 0 approved · 0 rejected"


def test_it_is_told_who_decided_and_when(panel, folder, qtbot) -> None:
    label, reviewer = panel.contents.details.provenance, panel.contents.details.reviewer
    assert label.text().endswith("undecided") and "fast sampler" in label.text()
    panel.decide("approve")
    panel.move_by(-1)
    assert "· approved, " in label.text()
    qtbot.keyClicks(reviewer, "Dr. Roe")
    qtbot.keyClick(reviewer, Qt.Key.Key_Return)
    panel.decide("reject")
    panel.move_by(-1)
    assert "rejected by Dr. Roe, " in label.text() and panel.session.reviewer == "Dr. Roe"
    assert panel.current.donor.image in label.toolTip()
    assert Study.open(folder).decided("change")[panel.queue.id].who == "Dr. Roe"


def test_a_damaged_picture_is_told_in_a_sentence(panel, folder) -> None:
    for pack in (folder / "pictures").iterdir():
        content = bytearray(pack.read_bytes())
        content[200:] = bytes(len(content) - 200)
        pack.write_bytes(content)
    panel.session.study.patch.cache_clear()
    panel.move_by(1)
    assert "damaged" in panel.contents.note.text() and panel.contents.views.after.pixels is None


def test_the_summary_counts_donors_classes_and_reasons(panel) -> None:
    summary, session = panel.contents.summary, panel.session
    summary.toggle.setChecked(True)
    assert "Nothing is approved yet" in summary.worth.text()
    panel.toggle_reason("context")
    for _ in range(4):
        panel.decide("approve")
    summary.draw()
    donors = Counter(
        (change.donor.image, change.donor.item)
        for change in session.changes
        if session.decisions["change"].get(change.id) == "approve"
    )
    counts = np.array(list(donors.values()))
    worth = counts.sum() ** 2 / (counts**2).sum()
    assert f"{len(donors)} donor" in summary.worth.text() and f"worth {worth:.1f} " in summary.worth.text()
    assert "as if from 42 equally likely" in summary.worth.text()
    assert sum(int(number) for _, number in summary.donors.texts) == len(donors)
    rare = session.dataset.class_name(session.rare[0])
    assert dict(summary.classes.texts)[rare].endswith("(+4)")
    assert summary.reasons.texts == [("context", "1")]
    summary.most_button.click()
    assert len(panel.queue) >= counts.max() and panel.queue.wanted.donor


def test_donor_and_nearest_patch_are_shown_for_every_nucleus(panel, qtbot) -> None:
    donors = panel.contents.donors
    panel.unfold(donors)
    qtbot.waitUntil(lambda: donors.donor.pixels is not None, timeout=10_000)
    donors.bar.run_button.click()
    qtbot.waitUntil(lambda: donors.nearest.pixels is not None or donors.note.text() != "", timeout=20_000)
    assert donors.note.text() == ""
    assert "training nuclei" in donors.about.text() and not donors.bar.isVisible()
    first = donors._neighbor
    panel.move_by(1)
    qtbot.waitUntil(lambda: donors._neighbor != first and donors.nearest.pixels is not None, timeout=20_000)
    assert donors._neighbor.change == panel.queue.id
    near, own = donors._neighbor.neighbor, panel.current.donor
    assert (near.image, near.instance) != (own.image, own.item)


def test_a_painted_image_that_repeats_a_training_image_is_shown_beside_it(panel, qtbot) -> None:
    donors, session = panel.contents.donors, panel.session
    panel.unfold(donors)
    real = session.dataset.read(session.dataset.training[0])
    learned = {"mpp": real.mpp, "learned_from": [real.source.image]}
    change = Change(
        99, "", "painted", 0, 0, real.pixels, np.full(real.instances.shape, 2, np.uint8), real.instances,
        dict(real.types), (), None, "nudiff", 0, (SourceRef("labels", real.source.image),), provenance=learned,
    )  # fmt: skip
    donors.show_change(change, None, [change])
    assert donors.bar.isVisible() and donors.donor.caption.startswith("Labels of")
    donors.bar.run_button.click()
    qtbot.waitUntil(lambda: donors.about.isVisible() or donors.note.text() != "", timeout=30_000)
    nearest = donors._neighbor
    assert nearest.neighbor.image == real.source.image and nearest.neighbor.percentile < 1
    assert donors.donor.caption == "Painted, most alike" and donors.nearest.caption.startswith("Nearest")
    words = donors.about.text()
    assert "likeness is striking" in words and "learned from 1 of the training images" in words
    assert ("held-out images to compare" in words) == (len(donors._held_out) == 0)
    donors.show_change(replace(plain(change), id=100, provenance=learned | {"learned_from": []}), None, [])
    qtbot.waitUntil(lambda: donors._neighbor.change == 100, timeout=30_000)
    assert "not here to be searched" in donors.about.text()


def test_of_thousands_a_key_looks_at_a_handful(panel, qtbot) -> None:
    light = Light([(f"i{at % 300}", ("d", at % 77), at % 101, at) for at in range(20_000)])
    change, asked = panel.current, []

    class Counting(Sequence):
        def __len__(self) -> int:
            return 20_000

        def __getitem__(self, row):
            asked.append(row)
            name = light.table.made_names[row % 300]
            return replace(plain(change), id=row, name=name, image=name)

    session = panel.session
    session._set_work(Work(session.candidates, light.table, Counting()))
    session.changes_changed.emit()
    assert len(panel.queue) == 20_000
    asked.clear()
    acts = (lambda: panel.move_by(1), lambda: panel.decide("approve"), panel.undo, panel.redo, panel.move_on)
    for act in acts * 4:
        act()
    panel.contents.filters.decision.setCurrentIndex(1)
    panel.contents.filters.order.setCurrentIndex(2)
    assert len(panel.queue) == 19_996 and len(asked) < 50 * len(acts) * 4


def plain(change: Change) -> Change:
    return Change(**{each.name: getattr(change, each.name) for each in fields(Change)})


@pytest.mark.parametrize(("kind", "said"), [("background", "on free tissue"), ("major", "in place of tumor #4")])
def test_where_a_nucleus_lies_is_said_in_words(kind, said) -> None:
    background = kind == "background"
    target = Location("a", kind, 9.0, 9.0, 0 if background else 4, 0 if background else 2, 90)
    candidate = Candidate(0, target, Location("b", "rare", 1.0, 1.0, 3, 1, 80), -1.0, 50.0)
    change = nucleus_change(candidate, 7, 0, 0, np.zeros((3, 3, 3), np.uint8), np.ones((3, 3), np.uint8))
    names = {1: "lymphocyte", 2: "tumor"}
    assert f"lymphocyte #7 {said}" in provenance(change, names.__getitem__, None, "undecided")


def test_images_with_a_class_are_reviewed_as_wholes(open_panel, class_folder, qtbot) -> None:
    panel = open_panel(class_folder)
    parts, views = panel.contents, panel.contents.views
    change, session = panel.current, panel.session
    real = session.reader.get(change.image).pixels
    assert parts.deciding.scopes["one"].text() == "This image (E)" and parts.deciding.scopes["image"].isHidden()
    # Seen as a whole at first, at the middle of the view; then from nearer.
    side, inset = real.shape[0], (views.side - real.shape[0]) // 2
    inside = slice(inset, inset + side), slice(inset, inset + side)
    np.testing.assert_array_equal(views.before.pixels[inside], real)
    np.testing.assert_array_equal(views.after.pixels[inside], change.pixels)
    before = views.factor
    parts.views.closer.click()
    assert views.factor > before
    seen = views.after.pixels.copy()
    views.moved.emit(12.0, 0.0)
    np.testing.assert_array_equal(views.after.pixels[:-12], seen[12:])
    assert session.image == change.name and np.array_equal(
        panel.book.layer(change.name, "synthetic").data, change.pixels
    )
    assert panel.book.layer(change.name, "image").metadata["histomix"]["image"] == change.image
    assert "benign 75%, tumor 25%" in parts.details.provenance.text() or change.class_shares == {"benign": 1.0}
    panel.decide("approve")
    panel.toggle_reason("seam")
    panel.decide("reject")
    study = Study.open(class_folder)
    assert study.decisions("change") == {0: "approve", 1: "reject"} and study.decisions("change reasons") == {1: "seam"}
    kinds = [parts.filters.kind.itemText(at) for at in range(parts.filters.kind.count())]
    assert kinds == ["Any class", "benign", "tumor"]
    parts.filters.kind.setCurrentIndex(2)
    shares = [session.change(number).class_shares for number in ids(panel)]
    assert shares and all(max(share, key=share.__getitem__) == "tumor" for share in shares)
    parts.summary.toggle.setChecked(True)
    parts.summary.draw()
    assert dict(parts.summary.classes.texts)["benign"] == "2 → 3  (+1)"


@pytest.mark.parametrize(("side", "factor"), [(96, 2), (128, 2), (256, 1), (512, 0.5), (1000, 0.25)])
def test_a_whole_image_fills_its_view(side, factor, qtbot) -> None:
    views = Comparison(lambda: None, lambda _shown: None)
    qtbot.addWidget(views)
    views.resize(420, 300)
    views.show()
    views.fit(side, side)
    assert views.factor == factor and factor * side > 0.9 * views.after.height()


def test_a_new_image_has_all_the_room(open_panel, class_folder, qtbot) -> None:
    study = Study.open(class_folder)
    first = study.changes()[0]
    add_run(study, [replace(plain(first), id=99, image="", name="new 99", sources=())])
    del study
    panel = open_panel(class_folder)
    views = panel.contents.views
    width = views.after.width()
    assert views.before.isVisible() and views.ways.isVisible()
    panel.move_to(len(panel.queue) - 1)
    settle(qtbot, panel)
    assert panel.current.image == "" and not views.before.isVisible() and not views.ways.isVisible()
    qtbot.waitUntil(lambda: views.after.width() > 1.9 * width, timeout=2_000)
    assert views.after.caption == "New image"
    middle = len(views.after.pixels) // 2
    np.testing.assert_array_equal(views.after.pixels[middle, middle], panel.current.pixels[48, 48])
    panel.contents.views.toggle_blink()
    assert not views._blinking.isActive()
    panel.move_to(0)
    assert views.ways.isVisible() and not views.before.isVisible() and views._blinking.isActive()


def test_the_list_goes_where_it_is_clicked_and_follows_the_filter(panel) -> None:
    listed = panel.contents.list
    listed.toggle.setChecked(True)
    assert listed.model.rowCount() == 12
    listed.view.clicked.emit(listed.model.index(3, 0))
    assert panel.queue.at == 3 and listed.view.selectionModel().selectedRows()[0].row() == 3
    panel.decide("reject")
    assert listed.model.index(3, 5).data() == "rejected" and listed.view.selectionModel().selectedRows()[0].row() == 4
    panel.contents.filters.decision.setCurrentIndex(panel.contents.filters.decision.findData("reject"))
    assert listed.model.rowCount() == 1


def test_what_is_made_while_one_reviews_joins_at_the_end(panel, folder, qtbot) -> None:
    session, current = panel.session, panel.queue.id
    sample = copied(session.dataset, session.candidates.items[0], 5000, "fast")
    made = replace(plain(sample), id=12, name="derived 12")
    add_run(session.study, [made], done=False)
    session.take_made([12])
    assert panel.queue.id == current and len(panel.queue) == 13 and session.change(12).name == "derived 12"
    panel.move_to(12)
    assert panel.queue.id == 12 and session.target_of("derived 12") == made.image
    session.discard_run(session.study.runs()[-1].id)
    assert len(panel.queue) == 12 and panel.queue.id in ids(panel)


def test_methods_are_compared_on_the_same_place_with_the_same_donor(panel, qtbot, monkeypatch) -> None:
    monkeypatch.setattr("napari_histomix.widgets.review.donors.method_names", lambda: ("copypaste", "cutmix", "mixup"))
    compare, views = panel.contents.compare, panel.contents.views
    panel.unfold(compare)
    compare.bar.run_button.click()
    qtbot.waitUntil(lambda: bool(compare.results or compare.note.text()), timeout=60_000)
    results = dict(compare.results[panel.queue.id])
    assert list(results) == ["CopyPaste", "CutMix"]
    for made in results.values():
        assert (made.image, made.donor.item) == (panel.current.image, panel.current.donor.item)
    assert [view.caption for view in compare.views] == ["Before", "CopyPaste", "CutMix"]
    assert len(panel.queue) == 12 and len(Study.open(panel.session.study_folder).changes()) == 12
    now = views.after.pixels.copy()
    compare.views[2].clicked.emit()
    assert views.mode == "blink" and (views.before.pixels != now).any()
    compare.views[2].clicked.emit()
    assert views.mode == "side" and (views.after.pixels == now).all()


def test_a_change_of_a_real_run_can_be_compared_though_its_seed_is_a_large_number(panel) -> None:
    session = panel.session
    change = replace(copied(session.dataset, session.candidates.items[0], 5000, "fast"), seed=2**62 + 2**40 + 5)
    methods = [method_of(name) for name in ("nucleimix", "copypaste")]
    assert [settings_for(method, change, session.dataset).seed for method in methods] == [5, 5]


def test_who_decides_is_asked_once_and_in_nobodys_way(open_panel, folder, qtbot) -> None:
    panel = open_panel(folder)
    box = panel.contents.name_box
    assert not box.isVisible()
    panel.decide("approve")
    panel.decide("approve")
    assert box.isVisible() and len(panel.session.approved) == 2, "decisions go on without a name"
    qtbot.keyClicks(box.line, "Dr. A")
    qtbot.keyClick(box.line, Qt.Key.Key_Return)
    assert not box.isVisible() and panel.hasFocus() and panel.contents.details.reviewer.text() == "Dr. A"
    panel.decide("approve")
    decided = Study.open(folder).decided("change")
    assert [decided[number].who for number in ids(panel)[:3]] == ["", "", "Dr. A"]
    # Given up again, the name is not asked for a second time.
    panel.session.set_reviewer("")
    panel.decide("approve")
    assert not box.isVisible()


def test_a_name_of_an_early_version_is_taken_over(own_preferences) -> None:
    QSettings.setPath(QSettings.Format.NativeFormat, QSettings.Scope.UserScope, str(own_preferences / "qt"))
    QSettings("napari-histomix", "napari-histomix").setValue("reviewer", "Dr. Early")
    take_over_reviewer()
    assert preferences().reviewer == "Dr. Early"
    assert not QSettings("napari-histomix", "napari-histomix").contains("reviewer")


def test_a_change_is_brought_up_as_a_whole_and_beside_its_donor_where_that_is_asked(panel, qtbot) -> None:
    third = ids(panel)[2]
    panel.bring_up(str(third))
    settle(qtbot, panel)
    assert panel.queue.id == third and not panel.contents.donors.is_open
    panel.bring_up(f"nearest/{ids(panel)[3]}")
    settle(qtbot, panel)
    donors = panel.contents.donors
    assert panel.queue.id == ids(panel)[3] and donors.is_open
    qtbot.waitUntil(lambda: donors.nearest.pixels is not None, timeout=20_000)
