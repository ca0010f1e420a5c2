"""Layers of images that come and go."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points

from napari_histomix.widgets import layer_making
from napari_histomix.widgets.layer_making import Stacks


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setattr(layer_making, "KEPT", 2)
    return Stacks(ViewerModel())


def layer(image: str, what: str, fill: int):
    space = {"scale": (0.1 * fill, 0.1 * fill), "translate": (fill, 0), "name": f"{image} {what}", "visible": False}
    if what == "image":
        return Image(np.full((20 + fill, 30, 3), fill, np.uint8), rgb=True, metadata={"of": image}, **space)
    if what == "points":
        return Points(np.full((fill, 2), 1.0 * fill), features={"number": range(fill)}, size=fill, **space)
    return Labels(np.full((20 + fill, 30), fill, np.int32), metadata={"of": image}, **space)


def visit(book: Stacks, image: str, fill: int, *whats: str) -> None:
    book.look_at(image)
    for what in whats:
        new = layer(image, what, fill)
        if not book.put(image, what, new):
            book.own(image, what, new)
            with book.writing():
                book.viewer.layers.append(new)


def test_images_beyond_those_kept_use_the_layers_of_the_one_seen_longest_ago(book):
    for fill, image in enumerate("abcde", 1):
        visit(book, image, fill, "image", "labels", "points")
    assert list(book) == ["d", "e"] and len(book.viewer.layers) == 6
    assert [one.name for one in book.viewer.layers] == [
        f"{name} {what}" for name in "ed" for what in ("image", "labels", "points")
    ]
    for fill, image in ((4, "d"), (5, "e")):
        pixels, labels, points = (book.layer(image, what) for what in ("image", "labels", "points"))
        assert pixels.data.shape == (20 + fill, 30, 3) and (pixels.data == fill).all()
        assert pixels.metadata == labels.metadata == {"of": image}
        assert (labels.data == fill).all() and labels.data.shape == (20 + fill, 30)
        assert len(points.data) == len(points.features) == fill and (points.size == fill).all()
        for one in (pixels, labels, points):
            np.testing.assert_allclose(one.scale, 0.1 * fill)
            np.testing.assert_allclose(one.translate, (fill, 0))


def test_who_was_looked_at_last_stays(book):
    visit(book, "a", 1, "image")
    visit(book, "b", 2, "image")
    book.look_at("a")
    visit(book, "c", 3, "image")
    assert list(book) == ["a", "c"]


@pytest.mark.parametrize(
    "work",
    [
        lambda one: setattr(one["image"], "name", "mine"),
        lambda one: setattr(one["image"], "translate", (5, 5)),
        lambda one: one["labels"].fill((3, 3), 7),
        lambda one: one["points"].add((3, 3)),
        lambda one: setattr(one["image"], "visible", True),
    ],
    ids=["renamed", "moved", "painted", "a point added", "in view"],
)
def test_what_a_person_has_worked_on_stays_theirs(book, work):
    visit(book, "a", 1, "image", "labels", "points")
    mine = dict(book.get("a").layers)
    work(mine)
    visit(book, "b", 2, "image")
    visit(book, "c", 3, "image")
    visit(book, "d", 4, "image")
    assert book.get("a").layers == mine and all(one in book.viewer.layers for one in mine.values())
    assert list(book) == ["a", "d"]


def test_a_layer_that_is_deleted_is_not_used_again(book):
    visit(book, "a", 1, "image", "labels")
    book.viewer.layers.remove(book.layer("a", "labels"))
    assert book.layer("a", "labels") is None
    visit(book, "b", 2, "image")
    visit(book, "c", 3, "image", "labels")
    assert [one.name for one in book.viewer.layers] == ["c image", "b image", "c labels"]
    spare = book.look_at("d").spare
    book.viewer.layers.remove(spare["image"])
    assert not spare and not book.put("d", "image", layer("d", "image", 4))


def test_all_layers_are_handed_out_at_the_end(book):
    for fill, image in enumerate("abc", 1):
        visit(book, image, fill, "image", "labels")
    book.look_at("d")
    assert set(book.clear()) == set(book.viewer.layers) and list(book) == []


@pytest.mark.parametrize("visible", [True, False])
def test_what_is_written_into_labels_is_shown_and_no_undo_takes_it_back(visible):
    viewer = ViewerModel()
    one = viewer.add_labels(np.zeros((40, 50), np.int32))
    one.contour = 1
    one.visible = visible
    one.paint((2, 2), 3)
    window = slice(10, 22), slice(20, 33)
    layer_making.write_labels(one, window, np.full((12, 13), 9, np.int32))
    assert (one.data[window] == 9).all() and one.data[2, 2] == 3
    one.undo()
    assert (one.data[window] == 9).all() and one.data[2, 2] == 0
    one.visible = True
    outlines = one._slice.image.view.copy()
    one.refresh()
    np.testing.assert_array_equal(outlines, one._slice.image.view)
