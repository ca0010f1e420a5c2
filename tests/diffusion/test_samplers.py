"""Samplers against denoisers that are exact in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from napari_histomix.diffusion.samplers import PRESETS, SAMPLERS, Sampler, draw_noise, quadratic_steps
from napari_histomix.diffusion.training import SCHEDULE

ALPHAS = DDPMScheduler.from_config(SCHEDULE).alphas_cumprod
CPU = torch.device("cpu")
STAGES = {f"{name} {stage}": getattr(preset, stage) for name, preset in PRESETS.items() for stage in ("erase", "blend")}
SHORT = [Sampler("revisit", 250, 5, 3), Sampler("mcg", 1000, 25, conditional=False)]


def velocity(noisy: Tensor, clean: Tensor, time: int) -> Tensor:
    """The v-prediction that belongs to an estimate of the clean image."""
    alpha = ALPHAS[time]
    noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def oracle(truth: Tensor):
    """A denoiser that knows the answer."""
    return lambda noisy, time: velocity(noisy, truth, time)


def gaussian(mean: float, deviation: float):
    """The exact denoiser of independent pixels N(mean, deviation²)."""

    def denoise(noisy: Tensor, time: int) -> Tensor:
        alpha = ALPHAS[time]
        gain = deviation**2 * alpha.sqrt() / (alpha * deviation**2 + 1 - alpha)
        return velocity(noisy, mean + gain * (noisy - alpha.sqrt() * mean), time)

    return denoise


def scene(count: int = 2, side: int = 16) -> tuple[Tensor, Tensor]:
    """Smooth images, and a ring two pixels wide as the hole."""
    rows, cols = torch.meshgrid(torch.linspace(-0.8, 0.8, side), torch.linspace(-0.8, 0.8, side), indexing="ij")
    images = torch.stack([torch.stack([rows, cols, rows * cols]) * (1 - 0.3 * i) for i in range(count)])
    distance = torch.hypot(rows, cols)
    ring = ((distance > 0.3) & (distance < 0.55)).float()[None, None].expand(count, 1, side, side)
    return images, ring


def run(settings: Sampler, denoise, known: Tensor, hole: Tensor, seeds=(0, 1)) -> tuple[list[Tensor], Tensor]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    guess = known * (1 - hole)
    steps = SAMPLERS[settings.method](denoise, SCHEDULE, known, hole, guess, generators, settings)
    estimates = []
    while True:
        try:
            estimates.append(next(steps))
        except StopIteration as end:
            return estimates, end.value


@pytest.mark.parametrize("settings", STAGES.values(), ids=STAGES.keys())
def test_a_window_costs_as_many_forwards_as_declared(settings):
    images, hole = scene()
    times = []

    def denoise(noisy: Tensor, time: int) -> Tensor:
        times.append(time)
        return velocity(noisy, images, time)

    estimates, _ = run(settings, denoise, images, hole)
    assert len(times) == len(estimates) == settings.forwards
    assert times == sorted(times, reverse=True) and max(times) < settings.start and min(times) >= 0


def test_the_presets_are_what_their_names_promise():
    assert STAGES["fast erase"].forwards + STAGES["fast blend"].forwards <= 2 * 37
    for stage in ("paper erase", "paper blend"):
        settings = STAGES[stage]
        assert (settings.method, settings.steps, settings.conditional) == ("mcg", 250, False)


@pytest.mark.parametrize("settings", [*SHORT, *STAGES.values()], ids=["short revisit", "short mcg", *STAGES])
def test_a_denoiser_that_knows_the_truth_restores_it(settings):
    images, hole = scene()
    _, result = run(settings, oracle(images), images, hole)
    assert torch.allclose(result, images, atol=2e-3)


@pytest.mark.parametrize("settings", SHORT, ids=["revisit", "mcg"])
def test_nothing_in_the_hole_is_looked_at(settings):
    images, hole = scene()
    hidden = torch.where(hole > 0, torch.full_like(images, 0.9), images)
    denoise = gaussian(0.1, 0.2)
    _, first = run(settings, denoise, images * (1 - hole), hole)
    _, second = run(settings, denoise, hidden * (1 - hole), hole)
    assert torch.equal(first, second)


def test_mcg_draws_from_the_distribution_it_is_given():
    images = torch.full((2, 3, 24, 24), 0.2)
    hole = torch.zeros(2, 1, 24, 24)
    hole[:, :, 2:-2, 2:-2] = 1
    _, result = run(Sampler("mcg", 1000, 100, conditional=False), gaussian(0.2, 0.15), images, hole)
    inside = result[hole.expand_as(result) > 0]
    assert float(inside.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(inside.std()) == pytest.approx(0.15, rel=0.1)


@pytest.mark.parametrize("settings", SHORT, ids=["revisit", "mcg"])
def test_an_items_result_does_not_depend_on_its_batch(settings):
    images, hole = scene(3)
    denoise = gaussian(0.1, 0.2)
    _, together = run(settings, denoise, images, hole, seeds=(5, 6, 7))
    for index in range(3):
        _, alone = run(settings, denoise, images[index : index + 1], hole[index : index + 1], seeds=(5 + index,))
        assert torch.equal(alone[0], together[index])
    assert not torch.equal(together[0][hole[0].expand(3, -1, -1) > 0], together[1][hole[0].expand(3, -1, -1) > 0])


@pytest.mark.parametrize("settings", SHORT, ids=["revisit", "mcg"])
def test_another_seed_is_another_sample(settings):
    images, hole = scene(1)
    results = [run(settings, gaussian(0.1, 0.2), images, hole, seeds=(seed,))[1] for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert float(((results[0] - results[2]) * hole).abs().max()) > 0.05


@pytest.mark.parametrize("settings", SHORT, ids=["revisit", "mcg"])
def test_closing_stops_at_once(settings):
    images, hole = scene()
    calls = []

    def denoise(noisy: Tensor, time: int) -> Tensor:
        calls.append(time)
        return velocity(noisy, images, time)

    steps = SAMPLERS[settings.method](
        denoise, SCHEDULE, images, hole, images, [torch.Generator(), torch.Generator()], settings
    )
    for _ in range(3):
        next(steps)
    steps.close()
    assert len(calls) == 3
    assert list(steps) == []


def mean_in_a_world_of_one_color(settings: Sampler) -> Tensor:
    """What a frame of one known pixel's width makes of the hole, where every image is of a single color."""

    def denoise(noisy: Tensor, time: int) -> Tensor:
        return velocity(noisy, noisy.mean(dim=(2, 3), keepdim=True).expand_as(noisy), time)

    known = torch.full((4, 3, 16, 16), 0.5)
    hole = torch.zeros(4, 1, 16, 16)
    hole[:, :, 1:-1, 1:-1] = 1
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    steps = SAMPLERS[settings.method](denoise, SCHEDULE, known, hole, torch.zeros_like(known), generators, settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return (end.value * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3)) / 3


def test_mcg_pulls_the_hole_toward_what_fits_the_known_pixels():
    # Without the gradient the known frame alone carries it to between 0.35 and 0.40.
    found = mean_in_a_world_of_one_color(Sampler("mcg", 1000, 50, conditional=False))
    assert float((found - 0.5).abs().max()) < 0.03


def test_revisiting_lets_the_known_pixels_into_the_hole():
    # Without putting them back it would stay at the guess, 0.
    assert float(mean_in_a_world_of_one_color(Sampler("revisit", 250, 5, 3)).min()) > 0.4


def test_quadratic_steps_close_in_on_zero():
    steps = quadratic_steps(250, 5)
    assert steps == [249, 159, 89, 39, 9]
    assert all(np.diff(np.diff(steps)) > 0)
    assert min(quadratic_steps(10, 8)) == 0


def test_noise_is_standard_normal_and_its_own_for_each_item():
    noise = draw_noise((2, 3, 64, 64), [torch.Generator().manual_seed(seed) for seed in (1, 2)], CPU)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02) and float(noise.std()) == pytest.approx(1, abs=0.02)
    alone = draw_noise((1, 3, 64, 64), [torch.Generator().manual_seed(2)], CPU)
    assert torch.equal(noise[1], alone[0])
