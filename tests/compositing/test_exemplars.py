"""Large holes filled with pieces of real tissue: what fits is found, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.compositing.exemplar_atlas import TURNS, signs_of, tissue_cells, turned, turned_back
from napari_histomix.compositing.exemplars import quilt
from napari_histomix.datasets import load_sample
from napari_histomix.records import HistomixError, drain

MPP = 0.5


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    sample = load_sample()
    return [sample.read(entry).pixels for entry in sample.entries]


def disc(shape: tuple[int, ...], row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, cols - col) <= radius


@pytest.mark.parametrize(
    "place", [(128, 128, 45), (0, 250, 60), (256, 100, 30), (128, 128, 0)], ids=["middle", "corner", "border", "pixel"]
)
def test_only_the_hole_changes_and_what_lay_there_is_never_looked_at(images, place):
    pixels = images[0]
    hole = disc(pixels.shape, *place)
    hidden = pixels.copy()
    hidden[hole] = (0, 255, 0)
    filled, again = (drain(quilt(given, hole, MPP, seed=3)) for given in (pixels, hidden))
    assert np.array_equal(filled.pixels, again.pixels) and np.array_equal(filled.joints, again.joints)
    assert np.array_equal(filled.pixels[~hole], pixels[~hole]) and not filled.joints[~hole].any()
    assert filled.pixels.shape == pixels.shape and filled.pieces >= 1


def test_another_seed_takes_other_pieces(images):
    hole = disc(images[1].shape, 120, 120, 40)
    made = [drain(quilt(images[1], hole, MPP, seed=seed)).pixels for seed in range(4)]
    assert len({one.tobytes() for one in made}) >= 3


def test_pixels_are_those_of_real_tissue(images):
    """Sharp as their image, where the paint of a network is not."""
    pixels = images[2]
    hole = disc(pixels.shape, 128, 128, 50)
    filled = drain(quilt(pixels, hole, MPP)).pixels

    def roughness(image: np.ndarray) -> float:
        steps = np.abs(np.diff(image.astype(float), axis=0)).mean(axis=-1)
        return float(steps[hole[1:]].mean())

    assert 0.7 * roughness(pixels) < roughness(filled) < 1.4 * roughness(pixels)


def test_stripes_go_on_in_their_direction():
    """Tissue with fibers in one half, and across in the other: a hole in either continues its own."""
    rows, cols = np.mgrid[:240, :240]
    waves = np.where(cols < 120, np.sin(rows / 2.5), np.sin(cols / 2.5))
    noise = np.random.default_rng(0).normal(0, 4, (240, 240))
    pixels = np.clip(np.stack([200 + 25 * waves, 130 + 40 * waves, 190 + 20 * waves], -1) + noise[..., None], 0, 255)
    pixels = pixels.astype(np.uint8)
    for col, axis in ((60, 0), (180, 1)):
        hole = disc(pixels.shape, 120, col, 32)
        filled = drain(quilt(pixels, hole, MPP)).pixels.astype(float)
        inner = disc(pixels.shape, 120, col, 28)
        along, across = (np.abs(np.diff(filled[..., 1], axis=which)) for which in (1 - axis, axis))
        assert (
            along[inner[:239, :240] if axis else inner[:240, :239]].mean()
            < across[inner[:240, :239] if axis else inner[:239, :240]].mean()
        )


def test_a_turned_image_has_turned_maps(images):
    square = images[3][:192, :192]
    known = np.ones(square.shape[:2], bool)
    maps, cells = tissue_cells(square, known, 8, 0.2)
    assert cells.all() and maps.shape == (24, 24, 7)
    for turn in TURNS:
        found, _ = tissue_cells(turned(square, turn), known, 8, 0.2)
        assert np.allclose(found, turned(maps, turn) * signs_of(turn), atol=1e-3)
        assert np.array_equal(turned_back(turned(square, turn), turn), square)


def test_another_image_helps_where_too_little_is_left(images):
    """A rim of tissue is enough to go by, and not enough to take pieces from."""
    pixels = images[0][:120, :120]
    hole = np.zeros(pixels.shape[:2], bool)
    hole[5:-5, 5:-5] = True
    with pytest.raises(HistomixError, match="Too little tissue"):
        drain(quilt(pixels, hole, MPP))
    filled = drain(quilt(pixels, hole, MPP, [(images[4], MPP), (images[3], 2 * MPP)]))
    assert np.array_equal(filled.pixels[~hole], pixels[~hole])
    assert filled.pixels[hole].std() > 10


def test_nothing_to_fill_and_nothing_to_go_by_are_refused(images):
    for hole, words in ((np.zeros((60, 60), bool), "without a pixel"), (np.ones((60, 60), bool), "nothing to go by")):
        with pytest.raises(HistomixError, match=words):
            drain(quilt(images[0][:60, :60], hole, MPP))
