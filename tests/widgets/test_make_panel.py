"""The step that makes images, with a toy method: form, stream, Cancel, keep, discard, resume, refusals."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_histomix import methods
from napari_histomix.datasets import open_any, survey
from napari_histomix.records import Event, drain
from napari_histomix.widgets.layers import layer_book_of
from napari_histomix.widgets.loading import Opened, Work
from napari_histomix.widgets.make_panel import MakePanel
from napari_histomix.widgets.method_cards import MethodCards
from napari_histomix.widgets.session import Session

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))


@pytest.fixture
def stamps(monkeypatch):
    import stamps

    monkeypatch.setattr(methods, "_registered", {})
    methods.register(stamps.METHOD)
    return stamps


@pytest.fixture
def session(qtbot, tmp_path, stamps, dataset_folder, labeled_image):
    images = [labeled_image(6, name=name, seed=seed) for seed, name in enumerate("ab")]
    dataset = open_any(dataset_folder(tmp_path / "data", images))
    session = Session(home=tmp_path / "home")
    session.take_opened(Opened(dataset, drain(survey(dataset))))
    session.choose_method("stamps")
    yield session
    session.release()


@pytest.fixture
def chooser(session, qtbot):
    chooser = MethodCards(session)
    qtbot.addWidget(chooser)
    return chooser


@pytest.fixture
def panel(session, qtbot):
    panel = MakePanel(ViewerModel(), session)
    qtbot.addWidget(panel)
    yield panel
    panel.runner.discard()
    qtbot.waitUntil(lambda: not panel.runner.busy, timeout=20_000)


def slowly(stamps, monkeypatch, stop_at):
    """The toy method, which waits after some changes until it is stopped."""
    make = stamps.Stamps.make

    def made(self, work, items, settings):
        for number, event in enumerate(make(self, work, items, settings)):
            while number == stop_at:
                # A window on a busy machine could not keep up with what says nothing as fast as it can.
                time.sleep(0.005)
                yield Event("Waiting")
            yield event

    monkeypatch.setattr(stamps.Stamps, "make", made)


def stop_after_two(panel, session, qtbot) -> None:
    """Begin a run that waits after two changes, and press Cancel there."""
    panel.run()
    qtbot.waitUntil(lambda: len(session.table) == 2, timeout=60_000)
    panel.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)


def run(panel, qtbot):
    with qtbot.waitSignal(panel.runner.finished, timeout=60_000):
        panel.run()


def test_a_method_that_was_added_is_listed_explained_and_has_its_form(panel, chooser, stamps) -> None:
    card = chooser.cards["stamps"]
    assert chooser.section.toggle.text().endswith("Method: Stamps") and card.radio.isChecked()
    assert card.makes.text() == "Colored discs on free places, as the first class."
    assert card.needs.text() == "Needs labeled nuclei." and "after a first run" in card.time.text()
    assert not card.citation.isVisibleTo(card), "it has none"
    assert list(panel.form.fields) == ["count", "radius", "color", "seed"]
    assert panel.settings() == stamps.StampSettings()
    assert panel.progress.run_button.isEnabled()


def test_a_method_that_cannot_use_the_images_says_why(panel, chooser, session, tissue) -> None:
    session.take_opened(tissue)
    card = chooser.cards["stamps"]
    assert not card.radio.isEnabled() and "Stamps needs labeled nuclei" in card.needs.text()
    session.choose_method("stamps")
    assert not panel.progress.run_button.isEnabled()
    assert "Stamps needs labeled nuclei" in panel.progress.run_button.toolTip()


@pytest.fixture
def tissue(tmp_path, labeled_image):
    from PIL import Image

    for kind in ("calm", "wild"):
        (tmp_path / "tissue" / kind).mkdir(parents=True)
        Image.fromarray(labeled_image(3).pixels).save(tmp_path / "tissue" / kind / f"{kind} 1.png")
    dataset = open_any(tmp_path / "tissue", mpp=0.5)
    return Opened(dataset, drain(survey(dataset)))


def test_a_card_is_chosen_by_mouse_and_keys_and_says_what_a_run_here_took(panel, session, qtbot) -> None:
    cards = MethodCards(session)
    qtbot.addWidget(cards)
    cards.resize(344, 500)
    cards.section.open()
    cards.show()
    with qtbot.waitSignal(session.method_changed):
        qtbot.mouseClick(cards.cards["gradmix"].makes, Qt.MouseButton.LeftButton)
    assert session.method == "gradmix" and "GradMix" in cards.section.toggle.text()
    radio = cards.cards["copypaste"].radio
    assert radio.focusPolicy() & Qt.FocusPolicy.TabFocus
    with qtbot.waitSignal(session.method_changed):
        qtbot.keyClick(radio, Qt.Key.Key_Space)
    assert session.method == "copypaste" and not cards.cards["gradmix"].radio.isChecked()
    assert "two cores of a processor" in cards.cards["nucleimix"].time.text()
    session.pace["nucleimix"] = 0.123
    session.outcomes_changed.emit()
    assert cards.cards["nucleimix"].time.text() == "About 0.12 s each here, by the last run."
    order = [cards._list.itemAt(place).widget() for place in range(cards._list.count())]
    usable = [card.isEnabled() for card in order]
    assert usable == sorted(usable, reverse=True) and set(usable) == {True, False}
    # Nothing is cut off where the dock is as narrow as it gets.
    room = cards.area.viewport().width()
    assert all(card.width() <= room for card in order)
    assert all(
        label.height() >= label.heightForWidth(label.width()) for card in order for label in (card.makes, card.needs)
    )


def test_changes_are_shown_as_they_are_made_and_refusals_listed(panel, session, qtbot) -> None:
    came = []
    session.changes_made.connect(lambda ids: came.append(list(ids)))
    panel.form.fields["count"].value = 3
    panel.form.fields["color"].value = "blue"
    run(panel, qtbot)
    qtbot.waitUntil(lambda: [number for ids in came for number in ids] == [0, 1, 2], timeout=10_000)
    assert session.table.ids.tolist() == [0, 1, 2]
    assert session.study.changes()[0].provenance["settings"]["color"] == "blue"
    assert 0 < session.pace["stamps"] < 60
    assert "3 made" in panel.note.text() and panel.note.kind == "good"
    assert not panel.left.isVisibleTo(panel)
    panel.form.fields["count"].value = 500
    panel.form.fields["radius"].value = 20.0
    run(panel, qtbot)
    assert "of 500 made" in panel.note.text() and panel.note.kind == "warning"
    assert " refused: " in panel.refusals.text()


def test_cancel_keeps_what_is_finished_and_the_run_goes_on_to_the_same_images(
    panel, session, qtbot, stamps, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        slowly(stamps, patch, 2)
        asked = []
        panel.ask = lambda count: not asked.append(count)
        panel.run()
        qtbot.waitUntil(lambda: len(session.table) == 2, timeout=60_000)
        panel.progress.cancel_button.click()
        qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    assert asked == [2] and session.table.ids.tolist() == [0, 1]
    assert panel.left.isVisibleTo(panel) and panel.resume_button.text() == "Resume (2 made, 5 asked for)"
    with qtbot.waitSignal(panel.runner.finished, timeout=60_000):
        panel.resume_button.click()
    assert session.table.ids.tolist() == [0, 1, 2, 3, 4] and not panel.left.isVisibleTo(panel)
    from napari_histomix.jobs import run as run_job
    from napari_histomix.study import Study

    other = Study.create(session.home / "whole", session.dataset.root, "whole")
    drain(run_job("stamps", session.dataset, stamps.StampSettings(), other))
    for ours, whole in zip(session.study.changes(), other.changes(), strict=True):
        assert (ours.image, ours.row, ours.col, ours.seed) == (whole.image, whole.row, whole.col, whole.seed)
        assert (ours.pixels == whole.pixels).all()


def test_a_resumed_run_that_is_stopped_asks_about_all_that_it_made(panel, session, qtbot, stamps, monkeypatch) -> None:
    asked = []
    panel.ask = lambda count: not asked.append(count)
    for begin, stop_at, made in ((panel.run, 2, 2), (panel.resume, 1, 3)):
        with monkeypatch.context() as patch:
            slowly(stamps, patch, stop_at)
            begin()
            qtbot.waitUntil(lambda made=made: len(session.table) == made, timeout=60_000)
            panel.progress.cancel_button.click()
            qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    assert asked == [2, 3]


def test_cancel_takes_back_what_is_not_wanted(panel, session, qtbot, stamps, monkeypatch) -> None:
    slowly(stamps, monkeypatch, 2)
    panel.ask = lambda count: False
    stop_after_two(panel, session, qtbot)
    assert len(session.table) == 0 and session.study.runs() == () and not panel.left.isVisibleTo(panel)
    assert "Nothing was kept" in panel.note.text()


def test_what_was_decided_on_is_not_discarded_unasked(panel, session, qtbot, stamps, monkeypatch) -> None:
    slowly(stamps, monkeypatch, 2)
    panel.ask = lambda count: True
    stop_after_two(panel, session, qtbot)
    session.decide("change", [1], "approve")
    asked = []
    panel.sure = lambda decided: bool(asked.append(decided))
    panel.discard_button.click()
    assert asked == [1] and len(session.table) == 2 and panel.note.text() == "Stopped. 2 kept."
    panel.sure = lambda decided: True
    panel.discard_button.click()
    assert len(session.table) == 0 and panel.note.text() == "Discarded. 2 taken back."


def test_a_run_that_had_not_begun_says_nothing_of_the_one_before(panel, session, qtbot, stamps, monkeypatch) -> None:
    slowly(stamps, monkeypatch, 2)
    panel.ask = lambda count: True
    stop_after_two(panel, session, qtbot)

    def loading():
        while True:
            yield Event("Loading the networks")

    monkeypatch.setattr(session, "make_job", lambda *_: loading)
    panel.run()
    qtbot.waitUntil(lambda: "Loading" in panel.progress.status.text(), timeout=20_000)
    panel.progress.cancel_button.click()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    assert panel.note.text() == "Stopped. Nothing was kept."
    assert len(session.table) == 2 and "2 made" in panel.resume_button.text()


def test_a_run_discarded_before_its_layers_are_shown_leaves_none(panel, session, qtbot) -> None:
    book = layer_book_of(panel.viewer, session)
    while_shown = []

    def discard(_made) -> None:
        if not while_shown:
            while_shown.append(book.busy)
            session.discard_run(session.study.runs()[0].id)

    run(panel, qtbot)
    qtbot.waitUntil(lambda: not book.busy, timeout=20_000)
    book._composer.finished.connect(discard)  # composed, and no layer of it added yet
    session.changes_changed.emit()
    qtbot.waitUntil(lambda: bool(while_shown), timeout=20_000)
    qtbot.waitUntil(lambda: not book.busy, timeout=20_000)
    assert while_shown == [True] and len(session.table) == 0
    assert [layer.name for layer in panel.viewer.layers if "synthetic" in layer.name or "changes" in layer.name] == []


def test_what_cannot_be_is_one_sentence(panel, session, qtbot, stamps, monkeypatch) -> None:
    def fail(self, work, settings):
        raise MemoryError
        yield

    monkeypatch.setattr(stamps.Stamps, "plan", fail)
    panel.run()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=20_000)
    assert "not enough memory" in panel.note.text() and panel.note.kind == "error"
    assert panel.progress.run_button.isEnabled()


def test_caps_are_in_the_form_and_named_where_one_image_took_most(panel, session, monkeypatch) -> None:
    from dataclasses import replace

    from widgets_samples import change

    from napari_histomix.study import Study

    monkeypatch.setattr(methods, "_registered", {})
    for name in ("nucleimix", "copypaste", "painted-nuclei"):
        session.choose_method(name)
        assert {"per_image", "uses"} <= set(panel.form.fields)
        assert not any(panel.form.advanced.isAncestorOf(panel.form.fields[key].native) for key in ("per_image", "uses"))
    study = Study.create(session.home / "made", session.dataset.root, "made")
    made = [change(number, 2 + 10 * number, 2, 90, 40 + number) for number in range(7)]
    made = [each if each.id < 5 else replace(each, image="b", name="b") for each in made]
    study.add_changes(study.begin_run("copypaste", {}).id, made)
    session.take_opened(Opened(session.dataset, session.survey, study=study, work=Work.read(study, None)))
    assert panel._crowded(range(7)) == ["5 of 7 lie in a; 'Most per image' can bound that."]
    assert panel._crowded([0, 1, 2, 4, 5, 6]) == ["4 of 6 lie in a; 'Most per image' can bound that."]
    assert panel._crowded([2, 3, 4, 5, 6]) == []


def test_the_choice_of_a_network_leads_to_where_one_is_trained(panel, session, qtbot) -> None:
    from qtpy.QtWidgets import QPushButton

    session.choose_method("nucleimix")
    (button,) = (each for each in panel.form.findChildren(QPushButton) if each.text() == "Train a network …")
    with qtbot.waitSignal(session.page_requested) as asked:
        button.click()
    assert asked.args == ["make/train/inpainter"]
    assert button.toolTip() and not panel.form.advanced.isAncestorOf(button), "beside the network, not folded away"
    session.choose_method("stamps")
    assert not any(each.text() == "Train a network …" for each in panel.form.findChildren(QPushButton))


def test_what_is_said_of_a_run_goes_with_its_method(panel, session) -> None:
    panel.note.say("3 made.", "good")
    session.method_changed.emit()
    assert not panel.note.text()
