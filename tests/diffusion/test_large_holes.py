"""Holes larger than what a model sees at once: levels, tiles, and nothing else touched."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from napari_histomix.compositing.exemplars import quilt
from napari_histomix.datasets import load_sample
from napari_histomix.diffusion import inpainter, large_holes
from napari_histomix.diffusion.inpainter import tile_places, tile_weight
from napari_histomix.diffusion.large_holes import fill_from_exemplars, fill_holes, levels
from napari_histomix.diffusion.model_files import load_model, save_model
from napari_histomix.diffusion.narrow_holes import fill_narrow
from napari_histomix.diffusion.samplers import PRESETS, Sampler
from napari_histomix.generation.models import load_generator
from napari_histomix.generation.segmenting import segment
from napari_histomix.records import HistomixError, drain
from napari_histomix.training.inpainting import SCHEDULE, new_autoencoder
from napari_histomix.weights import bundled

SHORT = Sampler("repaint", 800, 2, grain=True)


def picture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 220, (*shape, 3), dtype=np.uint8)


def oval(shape: tuple[int, int], share: float = 0.4) -> np.ndarray:
    rows, cols = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    return np.hypot(rows - 0.5, cols - 0.5) < share


@pytest.mark.parametrize(
    ("shape", "mpp"), [((200, 150), 0.25), ((70, 130), 0.4), ((150, 150), 0.125), ((60, 64), 1.0), ((20, 30), 0.5)]
)
@pytest.mark.parametrize(
    "sampler", [SHORT, Sampler("mcg-fixed", 1000, 2, conditional=False, eta=0.0)], ids=["fast", "mcg"]
)
def test_the_hole_is_filled_and_nothing_else_changes(small_model, shape, mpp, sampler):
    pixels, hole = picture(shape), oval(shape)
    hidden = pixels.copy()
    hidden[hole] = 0
    # The same seed twice, over other pixels in the hole, which are never looked at.
    filled, again, other = (
        drain(fill_holes(given, hole, mpp, small_model, sampler, seed, device="cpu"))
        for given, seed in ((pixels, 3), (hidden, 3), (pixels, 4))
    )
    assert filled.shape == pixels.shape and filled.dtype == np.uint8
    assert np.array_equal(filled[~hole], pixels[~hole]) and np.array_equal(filled, again)
    assert not np.array_equal(filled, other)


def test_holes_at_the_corners_and_apart_from_each_other(small_model):
    hole = np.zeros((220, 210), bool)
    hole[:60, :50], hole[-3:, -4:], hole[100, 100] = True, True, True
    pixels = picture(hole.shape)
    filled = drain(fill_holes(pixels, hole, 0.25, small_model, SHORT, 0, device="cpu"))
    assert np.array_equal(filled[~hole], pixels[~hole]) and not np.array_equal(filled[hole], pixels[hole])


def test_nothing_to_fill_and_nothing_to_go_by_are_refused(small_model):
    for hole, words in ((np.zeros((50, 50), bool), "without a pixel"), (np.ones((50, 50), bool), "nothing to go by")):
        with pytest.raises(HistomixError, match=words):
            drain(fill_holes(picture((50, 50)), hole, 0.25, small_model, SHORT, 0))


def test_real_tissue_fills_a_hole_and_the_model_paints_along_its_joints_alone(small_model):
    sample = load_sample()
    image = sample.read(sample.entries[0])
    hole = oval(image.instances.shape, 0.2)
    narrow = Sampler("repaint", 20, 1, grain=True)

    def filled(pixels, seed):
        return drain(fill_from_exemplars(pixels, hole, image.mpp, small_model, narrow, seed, device="cpu"))

    hidden = image.pixels.copy()
    hidden[hole] = 0
    one, again, other = filled(image.pixels, 3), filled(hidden, 3), filled(image.pixels, 4)
    assert np.array_equal(one[~hole], image.pixels[~hole]) and np.array_equal(one, again)
    assert not np.array_equal(one, other)
    # This network paints noise: what it painted is seen, and it is little.
    pieces = drain(quilt(image.pixels, hole, image.mpp, seed=3))
    painted = (one != pieces.pixels).any(axis=-1)
    assert painted.any() and painted.sum() < 0.4 * hole.sum() and (painted & pieces.joints).sum() > 0


@pytest.mark.parametrize("width", [1, 3])
def test_a_hole_that_is_all_joints_is_painted_as_a_seam(small_model, width):
    pixels = picture((90, 100))
    hole = np.zeros((90, 100), bool)
    hole[40 : 40 + width, 10:90] = True
    narrow = Sampler("repaint", 20, 1)
    exemplars, seam = (
        drain(fill(pixels, hole, 0.5, small_model, narrow, 0, device="cpu"))
        for fill in (fill_from_exemplars, fill_narrow)
    )
    assert np.array_equal(exemplars, seam)


def test_a_hole_holds_as_many_nuclei_as_there_were_where_paint_holds_few():
    sample, model, finder = load_sample(), load_model(bundled()), load_generator("", "segmenter")
    image = sample.read(sample.entries[2])
    hole = oval(image.instances.shape, 0.2)
    how = (hole, image.mpp, model)
    looks = {
        "truth": image.pixels,
        "tissue": drain(fill_from_exemplars(image.pixels, *how, PRESETS["fast"].seam, 0, device="cpu")),
        "paint": drain(fill_holes(image.pixels, *how, Sampler("repaint", 800, 4, grain=True), 0, device="cpu")),
    }
    found = {}
    for name, pixels in looks.items():
        nuclei = drain(segment(pixels, image.mpp, finder, "cpu")).instances
        inside, areas = (
            np.bincount(nuclei[where], minlength=nuclei.max() + 1)[1:] for where in (hole, np.ones_like(hole))
        )
        found[name] = int((inside > areas / 2)[1:].sum())
    assert found["truth"] > 10
    assert abs(found["tissue"] - found["truth"]) < abs(found["paint"] - found["truth"]), found


def test_too_little_tissue_to_take_is_said(small_model):
    for fill in (np.zeros((50, 50), bool), np.ones((50, 50), bool)):
        with pytest.raises(HistomixError, match="some, but not all"):
            drain(fill_from_exemplars(picture((50, 50)), fill, 0.25, small_model, SHORT, 0))


def test_the_coarsest_level_is_what_the_model_sees_at_once(small_model):
    largest = max(small_model.windows)
    for side in (20, 48, 60, 96, 98, 200, 512, 2000):
        found = levels(side, small_model)
        assert found[0] <= largest and found == sorted(found)
        assert found[-1] == side
        assert all(2 * low >= high and low % 2 == 0 for low, high in pairwise(found))


def test_what_fits_one_window_is_seen_at_its_own_scale(small_model, monkeypatch):
    """Not resampled: a band of a few pixels would be blurred."""
    seen = []
    real = large_holes.inpaint
    monkeypatch.setattr(large_holes, "inpaint", lambda windows, *a, **k: seen.extend(windows) or real(windows, *a, **k))
    hole = np.zeros((150, 140), bool)
    hole[3:20, 100:110] = True
    drain(fill_holes(picture(hole.shape), hole, 0.25, small_model, SHORT, 0, device="cpu"))
    assert [(len(one.hole), one.side) for one in seen] == [(96, 96)]


@pytest.mark.parametrize("sampler", [SHORT, Sampler("mcg-fixed", 1000, 2, conditional=False, eta=0.0)])
@pytest.mark.parametrize("shape", [(150, 130), (50, 40)], ids=str)
def test_a_latent_model_fills_large_holes_too(small_network, tmp_path, sampler, shape):
    torch.manual_seed(0)
    parts = {"unet": small_network(4, out=4), "vqvae": new_autoencoder(64)}
    save_model(tmp_path / "m", parts, SCHEDULE, name="latent", mpp=(0.25, 0.5), windows=(64,))
    model = load_model(tmp_path / "m")
    pixels, hole = picture(shape), oval(shape)
    settings = replace(sampler, conditional=False)
    filled = drain(fill_holes(pixels, hole, 0.25, model, settings, 0, device="cpu"))
    assert np.array_equal(filled[~hole], pixels[~hole]) and not np.array_equal(filled[hole], pixels[hole])


def test_tiles_cover_everything_and_overlap():
    for length, side in ((97, 96), (192, 96), (500, 128), (128, 64)):
        places = tile_places(length, side)
        covered = np.zeros((length, length), int)
        for row, col in places:
            assert 0 <= row <= length - side and 0 <= col <= length - side
            covered[row : row + side, col : col + side] += 1
        assert covered.min() >= 1
        rows = sorted({row for row, _ in places})
        assert max(np.diff(rows)) <= side - side // 4
    weight = tile_weight(64)
    assert weight.min() > 0 and weight[32, 32] == weight.max() and torch.allclose(weight, weight.flip(0, 1))


def test_tiles_that_agree_are_one_picture_without_a_seam(small_model):
    """A network that answers every place alike, whichever tile it lies in."""
    engine = inpainter._Network(small_model, torch.device("cpu"))
    engine._answer = lambda seen, time: 2 * seen[:, :3] + 1
    seen = torch.randn(2, 7, 250, 250)
    assert torch.allclose(engine._predicted(seen, 5), 2 * seen[:, :3] + 1, atol=1e-4)


def test_cancelling_stops_between_two_steps(small_model):
    job = fill_holes(picture((200, 200)), oval((200, 200)), 0.25, small_model, SHORT, 0, device="cpu")
    phases = [next(job).phase for _ in range(3)]
    job.close()
    assert all("Blending" in phase for phase in phases)
