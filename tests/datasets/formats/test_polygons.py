import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from napari_histomix.datasets.entries import COVERED, EMPTY, OUTSIDE
from napari_histomix.datasets.formats import polygons
from napari_histomix.datasets.formats.polygons import (
    MAX_POINTS,
    Canvas,
    as_ring,
    one_ring,
    outlines,
    paint,
    rasterize,
    shapes_of,
)
from napari_histomix.records import HistomixError

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans())


def _area(ring):
    """Twice the signed area: positive where the ring runs clockwise on the screen, y pointing down."""
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _whole(rings, shape):
    row, col, mask = rasterize(rings, shape)
    found = np.zeros(shape, bool)
    found[row : row + mask.shape[0], col : col + mask.shape[1]] = mask
    return found


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_outlines_give_back_the_mask(mask):
    rings = [ring for exterior, holes in outlines(mask) for ring in (exterior, *holes)]
    np.testing.assert_array_equal(_whole(rings, mask.shape), mask)


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_outlines_are_valid_polygons(mask):
    found = outlines(mask)
    assert len(found) == ndimage.label(mask)[1]
    for exterior, holes in found:
        assert _area(exterior) > 0
        assert all(_area(hole) < 0 for hole in holes)
        assert sum(map(_area, (exterior, *holes))) == 2 * _whole((exterior, *holes), mask.shape).sum()
        for ring in (exterior, *holes):
            # No corner twice: the ring does not touch itself.
            assert len(np.unique(ring, axis=0)) == len(ring)
            before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
            assert (before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]).all()


def test_outline_of_one_pixel():
    [(exterior, holes)] = outlines(np.array([[False, False], [False, True]]))
    np.testing.assert_array_equal(exterior, [[1, 1], [2, 1], [2, 2], [1, 2]])
    assert exterior.dtype == np.float64
    assert holes == []


def test_hole_and_parts_that_touch_in_a_corner():
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], bool)
    (first, holes), (second, none) = outlines(mask)
    assert len(holes) == 1 and none == []
    assert _area(holes[0]) == -2
    assert _area(second) == 2
    np.testing.assert_array_equal(_whole([first, *holes, second], mask.shape), mask)


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float64, st.tuples(st.integers(3, 8), st.just(2)), elements=st.floats(-20, 40, width=32)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_even_odd_rule_for_any_ring(ring, shape):
    expected = np.zeros(shape, bool)
    for row, col in np.ndindex(shape):
        x, y = col + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if (y0 > y) != (y1 > y):
                (a, b), (c, d) = sorted([(x0, y0), (x1, y1)], key=lambda point: point[1])
                expected[row, col] ^= bool(a + (y - b) / (d - b) * (c - a) <= x)
    np.testing.assert_array_equal(_whole([ring], shape), expected)


def test_a_ring_that_crosses_itself_is_a_bow_tie():
    mask = _whole([[[0, 0], [8, 8], [8, 0], [0, 8]]], (8, 8))
    assert mask[4, 1] and mask[4, 6] and not mask[1, 4] and not mask[6, 4]


@pytest.mark.parametrize(
    "rings",
    [
        [],
        [[]],
        [[[1, 1], [5, 5]]],
        [[[1, 1], [1, 1], [1, 1]]],
        [[[1, 1], [5, 1], [9, 1]]],
        [[[-9, -9], [-5, -9], [-5, -5]]],
        [[[100, 1], [120, 1], [110, 9]]],
        [[[1.6, 1.6], [2.4, 1.6], [2.4, 2.4]]],
    ],
)
def test_polygons_without_a_pixel(rings):
    mask = rasterize(rings, (10, 10))[2]
    assert not mask.any()
    assert mask.dtype == np.bool_


def test_window_is_clipped_to_the_image():
    row, col, mask = rasterize([[[-5, 3], [50, 3], [50, 6], [-5, 6]]], (10, 12))
    assert (row, col, mask.shape) == (3, 0, (3, 12))
    assert mask.all()
    everything = rasterize([[[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]]], (10, 12))
    assert everything[2].shape == (10, 12) and everything[2].all()


@pytest.mark.parametrize(
    "ring",
    [
        [[np.nan, 0], [1, 1], [2, 2]],
        [[np.inf, 0], [1, 1], [2, 2]],
        [[1e300, 0], [1, 1], [2, 2]],
        [[10**400, 0], [1, 1], [2, 2]],
        [[1, 2, 3]] * 4,
        [[1, 2], [3], [4, 5]],
        [["1", "2"], ["3", "4"], ["5", "9"]],
        [[True, False], [True, True], [False, True]],
        [[None, 1], [2, 3], [4, 5]],
        {"x": 1},
        "polygon",
        None,
        7,
        [[[1, 2], [3, 4], [5, 6]]],
        np.zeros((MAX_POINTS + 1, 2)),
    ],
)
def test_what_is_no_polygon_is_refused_in_a_sentence(ring):
    with pytest.raises(HistomixError, match="polygon"):
        rasterize([ring], (10, 10))


def test_too_intricate_polygons_are_refused_at_once(monkeypatch):
    zigzag = np.zeros((100_000, 2))
    zigzag[1::2, 1] = 16_000
    zigzag[:, 0] = np.linspace(0, 16_000, len(zigzag))
    start = time.perf_counter()
    with pytest.raises(HistomixError, match="simplify"):
        rasterize([zigzag], (16_000, 16_000))
    monkeypatch.setattr(polygons, "_MAX_WORK", 2**26)
    square = [[[0, 0], [4000, 0], [4000, 4000], [0, 4000]]]
    with pytest.raises(HistomixError, match="too many times"):
        paint((4000, 4000), ((square, 1) for _ in range(1_000_000)))
    assert time.perf_counter() - start < 20


def _square(x, y, size):
    return [[[x, y], [x + size, y], [x + size, y + size], [x, y + size]]]


def test_paint_leaves_pixels_with_the_earlier_polygon():
    labels = paint((10, 10), [(_square(0, 0, 4), 5), (_square(2, 2, 4), 6)])
    assert (labels.instances[:4, :4] == 1).all()
    assert (labels.instances == 2).sum() == 12
    assert labels.types == {1: 5, 2: 6} and not labels.lost
    assert labels.instances.dtype == np.int32


def test_paint_draws_a_nested_nucleus_over_the_other_and_leaves_copies_out():
    polygons = [(_square(0, 0, 6), 1), (_square(1, 1, 2), 2), (_square(0, 0, 6), 3), (_square(20, 20, 5), 4)]
    labels = paint((10, 10), [*polygons, (_square(7, 7, 2), 5), (_square(3.6, 3.6, 0.2), 1)])
    instances = labels.instances
    assert labels.types == {1: 1, 2: 2, 3: 5}
    assert labels.lost == {COVERED: 1, OUTSIDE: 1, EMPTY: 1}
    assert (instances[1:3, 1:3] == 2).all()
    assert (instances == 1).sum() == 32
    assert (instances == 3).sum() == 4


def test_as_ring_takes_what_json_gives():
    np.testing.assert_array_equal(as_ring([[1, 2], [3.5, 4]]), [[1, 2], [3.5, 4]])
    assert as_ring([]).shape == (0, 2)


def test_paint_refuses_ids_twice_nowhere_and_keeps_given_ones():
    canvas = Canvas((6, 6))
    assert canvas.add(0, 0, np.ones((3, 3), bool), 5, 70)
    assert not canvas.add(0, 0, np.ones((3, 3), bool), 6, 71)
    assert canvas.add(1, 1, np.ones((1, 1), bool), 6, 3)
    assert canvas.types == {70: 5, 3: 6}


@settings(max_examples=200, deadline=None)
@given(MASKS.filter(lambda mask: mask.any()), st.sampled_from([0.0, -0.25]))
def test_one_ring_holds_the_same_pixels(mask, shift):
    ring = one_ring(outlines(mask)) + shift
    np.testing.assert_array_equal(_whole([ring], mask.shape), mask)


def test_every_nucleus_of_a_map_whatever_its_id():
    instances = np.zeros((9, 9), np.int32)
    instances[1:3, 2:5], instances[4:8, 4:8], instances[5, 5] = 2_000_000_000, 7, 0
    found = dict(shapes_of(instances))
    assert list(found) == [7, 2_000_000_000]
    [(ring, holes)] = found[7]
    np.testing.assert_array_equal(ring, [[4, 4], [8, 4], [8, 8], [4, 8]])
    assert len(holes) == 1
    np.testing.assert_array_equal(found[2_000_000_000][0][0], [[2, 1], [5, 1], [5, 3], [2, 3]])
    assert dict(shapes_of(np.zeros((3, 3), np.int32))) == {}
    assert len(dict(shapes_of(np.ones((3, 3), np.int32)))) == 1


def test_a_ring_that_is_walked_twice_holds_what_it_holds_once():
    [square] = _square(2, 3, 4)
    twice = paint((10, 10), [([square + square], 1)])
    np.testing.assert_array_equal(twice.instances, paint((10, 10), [([square], 1)]).instances)
    assert not twice.lost
