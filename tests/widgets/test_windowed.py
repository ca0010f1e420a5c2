import numpy as np
from widgets_samples import change

from napari_histomix.compositing.composing import compose, compose_window, crop, look
from napari_histomix.records import LabeledImage, Source


def image(side: int = 64) -> LabeledImage:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return LabeledImage(pixels, np.zeros((side, side), np.int32), {}, 0.5, Source("d", "a"))


def test_a_window_composed_alone_equals_the_whole_composed() -> None:
    target = image()
    changes = [change(0, 10, 10, 1, 1), change(1, 18, 12, 2, 2), change(2, 40, 40, 3, 3)]
    for kept in ([], changes[:1], changes[1:], changes):
        whole = compose(target, kept).image
        for each in changes:
            part, window = compose_window(target, each.window, kept)
            np.testing.assert_array_equal(part.image.pixels[window], whole.pixels[each.window])
            np.testing.assert_array_equal(part.image.instances[window], whole.instances[each.window])


def test_before_and_after_differ_only_in_the_change_also_at_the_border() -> None:
    target = image()
    for at in (0, 28, 56):
        each = change(0, at, at, 200, 1)
        before, after, origin = look(target, at + 4, at + 4, 24, [each])
        changed = (before != after).any(axis=2)
        assert changed.sum() > 50
        expected = crop(compose(target, [each]).image.pixels, at + 4, at + 4, 24)
        np.testing.assert_array_equal(after, expected)
        np.testing.assert_array_equal(before, crop(target.pixels, at + 4, at + 4, 24))
        assert not (changed & (origin == 0)).any() and np.count_nonzero(origin) == np.count_nonzero(each.origin)
