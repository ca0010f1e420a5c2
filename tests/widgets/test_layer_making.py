"""Layers of images that come and go."""

from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points
from review_samples import nucleus_change

from napari_histomix.records import Candidate, Location
from napari_histomix.widgets import layer_making
from napari_histomix.widgets.layer_making import Composed, Stacks, changes_layer


@pytest.fixture
def book():
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


def test_each_image_uses_the_layers_of_the_one_before(book):
    for fill, image in enumerate("abcde", 1):
        visit(book, image, fill, "image", "labels", "points")
        book.layer(image, "image").visible = True
    assert list(book) == ["e"]
    assert [one.name for one in book.viewer.layers] == ["e image", "e labels", "e points"]
    pixels, labels, points = (book.layer("e", what) for what in ("image", "labels", "points"))
    assert pixels.data.shape == (25, 30, 3) and (pixels.data == 5).all()
    assert pixels.metadata == labels.metadata == {"of": "e"}
    assert (labels.data == 5).all() and labels.data.shape == (25, 30)
    assert len(points.data) == len(points.features) == 5 and (points.size == 5).all()
    for one in (pixels, labels, points):
        np.testing.assert_allclose(one.scale, 0.5)
        np.testing.assert_allclose(one.translate, (5, 0))


def test_images_passed_by_in_a_hurry_leave_no_layers(book):
    visit(book, "a", 1, "image", "labels")
    book.look_at("b")
    book.put("b", "image", layer("b", "image", 2))
    # Before its labels had come.
    visit(book, "c", 3, "image", "labels")
    assert list(book) == ["c"] and [one.name for one in book.viewer.layers] == ["c image", "c labels"]


@pytest.mark.parametrize(
    "work",
    [
        lambda one: setattr(one["image"], "name", "mine"),
        lambda one: setattr(one["image"], "translate", (5, 5)),
        lambda one: one["labels"].fill((3, 3), 7),
        lambda one: one["points"].add((3, 3)),
    ],
    ids=["renamed", "moved", "painted", "a point added"],
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
    # Brought back onto the screen, an image of before stays there.
    visit(book, "a", 1)
    book.get("d").layers["image"].visible = True
    visit(book, "e", 5, "image")
    assert list(book) == ["d", "a", "e"]


def test_a_layer_that_is_deleted_is_not_used_again(book):
    visit(book, "a", 1, "image", "labels")
    book.viewer.layers.remove(book.layer("a", "labels"))
    assert book.layer("a", "labels") is None
    visit(book, "b", 2, "image", "labels")
    assert [one.name for one in book.viewer.layers] == ["b image", "b labels"]
    spare = book.look_at("c").spare
    book.viewer.layers.remove(spare["image"])
    assert list(spare) == ["labels"] and not book.put("c", "image", layer("c", "image", 4))


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


def test_a_hidden_layer_that_was_taken_over_knows_how_large_it_is_now(book):
    whats = ("image", "labels", "points")
    visit(book, "a", 9, *whats)
    extents = [book.layer("a", what).extent.world for what in whats]
    visit(book, "b", 3, *whats)
    for what, before in zip(whats, extents, strict=True):
        taken = book.layer("b", what)
        assert taken.name == f"b {what}" and not taken.visible
        np.testing.assert_allclose(taken.extent.world, layer("b", what, 3).extent.world)
        assert not np.allclose(taken.extent.world, before)
        taken.visible = True
        np.testing.assert_allclose(taken.extent.world, layer("b", what, 3).extent.world)


def test_a_nucleus_that_is_painted_without_a_donor_has_as_large_a_ring_as_one_that_is_copied():
    place = Location("a", "rare", 16, 16, 1, 1, 113)
    nucleus = np.hypot(*(np.mgrid[:32, :32] - 16)) < 6
    pixels = np.zeros((32, 32, 3), np.uint8)
    pasted = nucleus_change(Candidate(0, place, place, 0.0, 50.0), 7, 0, 0, pixels, nucleus.astype(np.uint8))
    painted = replace(pasted, id=1, origin=np.where(nucleus, 2, 0).astype(np.uint8), sources=pasted.sources[:1])
    composed = Composed("a", None, None, [pasted, painted], [])  # type: ignore[arg-type]
    rings = changes_layer(composed, {}, str, {})
    assert np.ptp(rings.size) == 0 and rings.size[0] > 12
