"""Only the image on the screen has layers, each image uses those of the one before, and a person's work stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from review_samples import make_review_study

from napari_histomix.compositing.composing import compose
from napari_histomix.records import drain
from napari_histomix.widgets.layers import LayerBook, layer_book_of
from napari_histomix.widgets.loading import study_job
from napari_histomix.widgets.session import Session


@pytest.fixture
def book(qtbot: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> LayerBook:
    monkeypatch.setattr("napari_histomix.widgets.session.load_networks_ahead", lambda: None)
    session = Session(home=tmp_path)
    made = layer_book_of(ViewerModel(), session)
    session.take_opened(drain(study_job(make_review_study(tmp_path / "study").folder)))
    qtbot.waitUntil(lambda: session.image != "" and not made.busy, timeout=20_000)
    return made


def show(book: LayerBook, qtbot: Any, image: str) -> None:
    book.session.show(image)
    qtbot.waitUntil(lambda: book.session.image == image and not book.busy, timeout=20_000)


def names(book: LayerBook) -> set[str]:
    return {layer.name for layer in book.viewer.layers}


def test_images_one_after_the_other_share_one_stack(book: LayerBook, qtbot: Any) -> None:
    session = book.session
    layers = set(book.viewer.layers)
    assert len(layers) == 6 and len(session.images) > 3
    first = session.images[0]
    session.decide("change", [session.changes_of(first)[0].id], "reject")
    for name in (*session.images[1:], first):
        show(book, qtbot, name)
        assert set(book.viewer.layers) == layers
        assert all(layer.visible for layer in layers - {book.layer(name, "candidates")})
        whats = ("", " nuclei", " candidates", " synthetic", " synthetic nuclei", " changes")
        assert names(book) == {name + what for what in whats}
        target = session.dataset.read(name)
        expected = compose(target, session.changes_of(name)).image
        np.testing.assert_array_equal(book.layer(name, "image").data, target.pixels)
        np.testing.assert_array_equal(book.layer(name, "nuclei").data, target.instances)
        np.testing.assert_array_equal(book.layer(name, "synthetic").data, expected.pixels)
        np.testing.assert_array_equal(book.layer(name, "synthetic nuclei").data, expected.instances)
        # What a person paints counts, or cannot be painted.
        assert book.layer(name, "nuclei").editable and not book.layer(name, "synthetic nuclei").editable
        rings = book.layer(name, "changes")
        count = len(session.changes_of(name, rejected=True))
        assert len(rings.data) == 2 * count and rings.features["halo"].tolist() == [True] * count + [False] * count
        assert (rings.border_width[:count] > rings.border_width[count:]).all()
        assert book.layer(name, "candidates").metadata["histomix"]["image"] == name


def test_a_stroke_keeps_its_image_and_own_layers_stay(book: LayerBook, qtbot: Any) -> None:
    session, viewer = book.session, book.viewer
    own = viewer.add_points([[3, 3]], name="mine")
    first, second, third = session.images[:3]
    book.layer(first, "nuclei").paint((2, 2), 77)
    before = names(book)
    for name in (second, third):
        show(book, qtbot, name)
    assert before < names(book) and len(viewer.layers) == 2 * 6 + 1, "what was painted, and the image on the screen"
    assert own in viewer.layers and own.visible
    show(book, qtbot, first)
    assert (book.layer(first, "nuclei").data == 77).any() and book.layer(first, "nuclei").visible


def test_what_is_synthetic_does_not_cover_a_layer_that_is_drawn_in(book: LayerBook, qtbot: Any) -> None:
    name = book.session.image
    assert book.layer(name, "synthetic").visible
    book.layer(name, "nuclei").mode = "paint"
    qtbot.waitUntil(lambda: not book.busy and not book.layer(name, "synthetic").visible, timeout=5_000)
    assert book.layer(name, "nuclei").visible


def test_what_was_painted_from_another_image_does_not_cover_the_next(book: LayerBook, qtbot: Any) -> None:
    session, viewer = book.session, book.viewer
    pixels = np.zeros((20, 20, 3), np.uint8)
    painted = viewer.add_image(pixels, rgb=True, metadata={"histomix": {"image": "what if", "synthetic": True}})
    mine = viewer.add_image(pixels, rgb=True)
    show(book, qtbot, session.images[1])
    assert not painted.visible and mine.visible and painted in viewer.layers
    assert book.layer(session.images[1], "synthetic").visible


def test_a_label_selected_in_one_image_is_not_selected_in_the_next(book: LayerBook, qtbot: Any) -> None:
    first, second = book.session.images[:2]
    book.layer(first, "synthetic nuclei").selected_label = -1
    show(book, qtbot, second)
    assert book.layer(second, "synthetic nuclei").selected_label > 0


def test_an_image_that_is_passed_by_in_a_hurry_leaves_nothing(book: LayerBook, qtbot: Any) -> None:
    session = book.session
    for name in session.images[1:3]:
        session.show(name)
        qtbot.waitUntil(lambda name=name: session.image == name, timeout=20_000)
    show(book, qtbot, session.images[3])
    assert {layer.metadata["histomix"]["image"] for layer in book.viewer.layers} == {session.images[3]}
    assert len(book.viewer.layers) == 6


def test_points_lie_above_all_pixels_and_not_in_the_way_of_review(book: LayerBook, qtbot: Any) -> None:
    session, viewer = book.session, book.viewer
    whats = ("image", "nuclei", "synthetic", "synthetic nuclei", "candidates", "changes")
    assert [book.layer(session.image, what) for what in whats] == list(viewer.layers)
    assert not book.layer(session.image, "candidates").visible
    show(book, qtbot, session.images[1])
    assert not book.layer(session.image, "candidates").visible and book.layer(session.image, "changes").visible
    book.show_dots(True)
    qtbot.waitUntil(lambda: book.layer(session.image, "candidates").visible, timeout=5000)


def test_decisions_are_told_by_more_than_a_color(book: LayerBook, qtbot: Any) -> None:
    session = book.session
    first = [change.id for change in session.changes_of(session.image, rejected=True)]
    session.decide("change", first[:1], "approve")
    session.decide("change", first[1:2], "reject")
    qtbot.waitUntil(lambda: not book.busy, timeout=5000)
    rings = book.layer(session.image, "changes")
    symbols = dict(zip(rings.features["number"], (str(symbol) for symbol in rings.symbol), strict=True))
    assert len({symbols[number] for number in first[:2]} | {"disc"}) == 3
    # On the palest tissue, and to those who see no red, each ring has a dark rim.
    assert (rings.border_color[: len(first), :3] < 0.2).all() and (rings.border_color[: len(first), 3] > 0.5).all()


def test_outlines_follow_the_preference_at_once_and_a_persons_own_width_stays(book: LayerBook, qtbot: Any) -> None:
    nuclei, synthetic = (book.layer(book.session.image, what) for what in ("nuclei", "synthetic nuclei"))
    nuclei.contour = 5
    for outlines, width in (("thick", 3), ("filled", 0), ("thin", 1)):
        book.session.prefer(outlines=outlines)
        assert nuclei.contour == 5 and synthetic.contour == width
