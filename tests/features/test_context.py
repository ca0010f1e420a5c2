from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from napari_histomix.features.context import context_features, context_patches
from napari_histomix.features.texture import TextureEncoder

HOLE = slice(56, 168)


def test_outside_the_hole_a_patch_is_the_image(tissue, make_image):
    pixels = tissue(500, 400)
    (patch,) = context_patches(make_image(pixels), np.array([[200.4, 150.6]]))
    window = pixels[200 - 112 : 200 + 112, 151 - 112 : 151 + 112]
    ring = np.ones((224, 224), bool)
    ring[HOLE, HOLE] = False
    np.testing.assert_array_equal(patch[ring], window[ring])
    assert np.abs(patch[HOLE, HOLE].astype(int) - window[HOLE, HOLE]).mean() > 5


def test_without_a_hole_a_patch_is_the_image_everywhere(tissue, make_image):
    pixels = tissue(300, 300)
    (patch,) = context_patches(make_image(pixels), np.array([[150, 140]]), erase=0)
    np.testing.assert_array_equal(patch, pixels[38:262, 28:252])


@pytest.mark.parametrize("mpp", [0.1, 0.25, 0.37, 0.5, 1.0])
def test_a_patch_spans_56_micrometers_whatever_the_scale(tissue, make_image, mpp):
    """A dark square 4 µm across, 20 µm below and 10 µm left of the center, lies there in the patch too."""
    pixels = np.full((round(120 / mpp), round(120 / mpp), 3), 230, np.uint8)
    row, col = round(50 / mpp), round(70 / mpp)
    middle, half = np.array([row + 20 / mpp, col - 10 / mpp]), 2 / mpp
    top, left = (int(v) for v in np.round(middle - half))
    bottom, right = (int(v) for v in np.round(middle + half))
    pixels[top:bottom, left:right] = 0
    (patch,) = context_patches(make_image(pixels, mpp), np.array([[row, col]]), erase=0)
    assert patch.shape == (224, 224, 3)
    rows, cols = np.nonzero(patch[..., 0] < 115)
    tolerance = max(2.0, 0.8 * mpp / 0.25)
    assert rows.mean() == pytest.approx(112 + 80, abs=tolerance)
    assert cols.mean() == pytest.approx(112 - 40, abs=tolerance)
    assert np.ptp(rows) + 1 == pytest.approx(16, abs=1 + mpp / 0.25)


def test_fine_detail_of_a_finer_image_does_not_alias(make_image):
    pixels = np.zeros((1200, 1200, 3), np.uint8)
    pixels[::2] = 255
    (patch,) = context_patches(make_image(pixels, 0.0625), np.array([[600, 600]]), erase=0)
    assert np.ptp(patch) <= 2


@pytest.mark.parametrize("center", [(0, 0), (0, 399.4), (299, 399), (150, 2)])
def test_at_the_border_the_image_is_mirrored(tissue, make_image, center):
    pixels = tissue(300, 400)
    (patch,) = context_patches(make_image(pixels), np.array([center]), erase=0)
    padded = np.pad(pixels, ((112, 112), (112, 112), (0, 0)), mode="reflect")
    row, col = (int(np.floor(c + 0.5)) for c in center)
    np.testing.assert_array_equal(patch, padded[row : row + 224, col : col + 224])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 5), (100, 223)])
def test_an_image_smaller_than_a_patch_is_mirrored_as_often_as_it_takes(tissue, make_image, shape):
    pixels = tissue(*shape)
    (patch,) = context_patches(make_image(pixels), np.array([[0, 0]]), erase=0)
    padded = np.pad(pixels, ((112, 500), (112, 500), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(patch, padded[:224, :224])


def test_what_lies_in_the_hole_has_no_influence(tissue, make_image):
    pixels = tissue(400, 400)
    other = pixels.copy()
    other[200 - 56 : 200 + 56, 200 - 56 : 200 + 56] = np.random.default_rng(1).integers(0, 256, (112, 112, 3))
    first, second = (context_patches(make_image(p), np.array([[200, 200]])) for p in (pixels, other))
    np.testing.assert_array_equal(first, second)


def test_one_pixel_outside_the_hole_has_influence(tissue, make_image):
    pixels = tissue(400, 400)
    other = pixels.copy()
    other[200 - 57, 200] = 255 - other[200 - 57, 200]
    first, second = (context_patches(make_image(p), np.array([[200, 200]])) for p in (pixels, other))
    assert (first != second).any()


def test_at_another_scale_the_middle_of_the_hole_has_no_influence(tissue, make_image):
    pixels = tissue(300, 300)
    other = pixels.copy()
    other[150 - 26 : 150 + 26, 150 - 26 : 150 + 26] = 255
    first, second = (context_patches(make_image(p, 0.5), np.array([[150, 150]])) for p in (pixels, other))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("size", "erase"), [(224, 112), (224, 110), (224, 100), (96, 94), (20, 2)])
def test_the_fill_is_smooth_and_between_its_surroundings(tissue, make_image, size, erase):
    """On a gray ramp the fill must neither overshoot nor leave a step at the rim, whatever divides the sizes."""
    ramp = np.repeat(np.linspace(60, 200, 400)[None, :, None], 400, axis=0).repeat(3, axis=2).astype(np.uint8)
    (patch,) = context_patches(make_image(ramp), np.array([[200, 200]]), size=size, erase=erase)
    (whole,) = context_patches(make_image(ramp), np.array([[200, 200]]), size=size, erase=0)
    low, high = (size - erase) // 2, (size + erase) // 2
    fill = patch[low:high, low:high].astype(int)
    assert whole.min() <= fill.min() and fill.max() <= whole.max()
    assert np.abs(fill[:, 0] - patch[low:high, low - 1]).mean() < 6
    assert np.abs(fill[:, -1] - patch[low:high, high]).mean() < 6


def test_patches_do_not_depend_on_threads_nor_change_opencv(tissue, make_image):
    image = make_image(tissue(400, 400))
    centers = np.random.default_rng(0).uniform(0, 399, (40, 2))
    before = cv2.getNumThreads()
    one, three = (context_patches(image, centers, workers=w) for w in (1, 3))
    np.testing.assert_array_equal(one, three)
    assert cv2.getNumThreads() == before


def test_features_do_not_depend_on_the_chunk(tissue, make_image):
    image = make_image(tissue(400, 400))
    centers = np.random.default_rng(0).uniform(0, 399, (23, 2))
    encoder = TextureEncoder()
    chunks = list(context_features(image, centers, encoder, chunk=7))
    assert [len(c) for c in chunks] == [7, 7, 7, 2]
    (whole,) = context_features(image, centers, encoder)
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_a_closed_generator_encodes_nothing_more(tissue, make_image):
    class Counting:
        name, dim, calls = "counting", 1, 0

        def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.calls += 1
            return np.zeros((len(patches), 1), np.float32)

    encoder = Counting()
    job = context_features(make_image(tissue(300, 300)), np.full((100, 2), 150.0), encoder, chunk=10)
    next(job)
    job.close()
    assert encoder.calls == 1


def test_no_centers_give_nothing(tissue, make_image):
    image = make_image(tissue(30, 30))
    none = np.empty((0, 2))
    assert context_patches(image, none).shape == (0, 224, 224, 3)
    assert list(context_features(image, none, TextureEncoder())) == []


@pytest.mark.parametrize(
    "centers", [[[1, 2, 3]], [1, 2], [[np.nan, 1]], [[-1, 5]], [[5, 29.6]], [[np.inf, 5]]], ids=str
)
def test_centers_that_make_no_sense_are_refused(tissue, make_image, centers):
    with pytest.raises(ValueError, match="centers must be"):
        context_patches(make_image(tissue(30, 30)), np.array(centers, float))


@pytest.mark.parametrize("sizes", [{"size": 223}, {"erase": 111}, {"erase": 224}, {"erase": -2}, {"mpp": 0}])
def test_sizes_that_make_no_sense_are_refused(tissue, make_image, sizes):
    with pytest.raises(ValueError, match=r"must be"):
        context_patches(make_image(tissue(30, 30)), np.array([[5, 5]]), **sizes)


def test_a_chunk_of_nothing_is_refused(tissue, make_image):
    with pytest.raises(ValueError, match="chunk must be positive"):
        next(context_features(make_image(tissue(30, 30)), np.array([[5, 5]]), TextureEncoder(), chunk=0))
