"""Samplers against denoisers that are exact in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from napari_histomix.diffusion.samplers import PRESETS, SAMPLERS, Holes, Sampler, even_steps, quadratic_steps
from napari_histomix.records import HistomixError
from napari_histomix.training.inpainting import SCHEDULE

ALPHAS = DDPMScheduler.from_config(SCHEDULE).alphas_cumprod
STAGES = {
    f"{name} {hole}": getattr(preset, hole) for name, preset in PRESETS.items() for hole in ("ring", "disc", "large")
}
SHORT = {name: Sampler.parse(f"{name}:1000:25") for name in SAMPLERS}
SHORT["repaint, truncated"] = Sampler("repaint", 250, 5, 3)
SHORT["dps, truncated"] = Sampler("dps", 250, 8, eta=0.0)
short = pytest.mark.parametrize("settings", SHORT.values(), ids=SHORT.keys())
EXACT = {name: one for name, one in SHORT.items() if not name.startswith(("mcg-faithful", "dps"))}
"""Those that give the known pixels back exactly; the others keep some noise of them, as published."""


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


def holes(denoise, known: Tensor, hole: Tensor, seeds=(0, 1), schedule=SCHEDULE, guess=None) -> Holes:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return Holes(denoise, schedule, known, hole, known * (1 - hole) if guess is None else guess, generators)


def run(settings: Sampler, *given, **named) -> tuple[list[Tensor], Tensor]:
    steps = SAMPLERS[settings.method](holes(*given, **named), settings)
    estimates = []
    while True:
        try:
            estimates.append(next(steps))
        except StopIteration as end:
            return estimates, end.value


@pytest.mark.parametrize("settings", [*STAGES.values(), *SHORT.values()], ids=[*STAGES, *SHORT])
def test_a_window_costs_as_many_passes_as_declared(settings, monkeypatch):
    images, hole = scene()
    times, backwards = [], []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *given: backwards.append(1) or grad(*given))

    def denoise(noisy: Tensor, time: int) -> Tensor:
        times.append(time)
        return velocity(noisy, 0.9 * noisy, time)

    estimates, _ = run(settings, denoise, images, hole)
    assert len(times) == len(estimates) == settings.forwards
    assert len(backwards) == settings.backwards
    assert times == sorted(times, reverse=True) and max(times) < settings.start and min(times) >= 0


def test_the_presets_are_what_their_names_promise():
    for hole in ("ring", "disc", "large"):
        fast, quality, paper = (getattr(PRESETS[name], hole) for name in ("fast", "quality", "paper"))
        # NucleiMix paints with 250 steps, USegMix with 500.
        steps = 500 if hole == "large" else 250
        assert (paper.method, paper.start, paper.steps, paper.conditional) == ("mcg-fixed", 1000, steps, False)
        assert fast.forwards < quality.forwards < paper.forwards
        assert fast.forwards + 2 * fast.backwards < quality.forwards + 2 * quality.backwards


@pytest.mark.parametrize("settings", [*EXACT.values(), *STAGES.values()], ids=[*EXACT, *STAGES])
def test_a_denoiser_that_knows_the_truth_restores_it(settings):
    images, hole = scene()
    # The truth does not depend on the sample, so a gradient has to pass through it as a zero.
    _, result = run(settings, lambda noisy, time: velocity(noisy, images + 0 * noisy, time), images, hole)
    assert torch.allclose(result * hole, images * hole, atol=2e-3)


@short
def test_nothing_in_the_hole_is_looked_at(settings):
    images, hole = scene()
    hidden = torch.where(hole > 0, torch.full_like(images, 0.9), images)
    denoise = gaussian(0.1, 0.2)
    _, first = run(settings, denoise, images * (1 - hole), hole)
    _, second = run(settings, denoise, hidden * (1 - hole), hole)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["replacement", "conditional", "mcg-fixed", "ddnm", "pigdm", "dps"])
def test_from_pure_noise_the_hole_is_drawn_from_the_distribution_it_is_given(name):
    images = torch.full((2, 3, 24, 24), 0.2)
    hole = torch.zeros(2, 1, 24, 24)
    hole[:, :, 2:-2, 2:-2] = 1
    _, result = run(Sampler.parse(f"{name}:1000:100"), gaussian(0.2, 0.15), images, hole)
    inside = result[hole.expand_as(result) > 0]
    assert float(inside.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(inside.std()) == pytest.approx(0.15, rel=0.12)


@short
def test_an_items_result_does_not_depend_on_its_batch(settings):
    images, hole = scene(3)
    denoise = gaussian(0.1, 0.2)
    _, together = run(settings, denoise, images, hole, seeds=(5, 6, 7))
    for index in range(3):
        _, alone = run(settings, denoise, images[index : index + 1], hole[index : index + 1], seeds=(5 + index,))
        assert torch.allclose(alone[0], together[index], atol=1e-6)
    assert not torch.equal(together[0][hole[0].expand(3, -1, -1) > 0], together[1][hole[0].expand(3, -1, -1) > 0])


@short
def test_another_seed_is_another_sample(settings):
    images, hole = scene(1)
    results = [run(settings, gaussian(0.1, 0.2), images, hole, seeds=(seed,))[1] for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert float(((results[0] - results[2]) * hole).abs().max()) > 0.05


@short
def test_closing_stops_at_once(settings):
    images, hole = scene()
    calls = []

    def denoise(noisy: Tensor, time: int) -> Tensor:
        calls.append(time)
        return velocity(noisy, 0.9 * noisy, time)

    steps = SAMPLERS[settings.method](holes(denoise, images, hole), settings)
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
    _, result = run(settings, denoise, known, hole, seeds=range(4), guess=torch.zeros_like(known))
    return (result * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3)) / 3


@pytest.mark.parametrize("settings", [Sampler.parse(f"{name}:1000:50") for name in ("mcg-fixed", "dps")], ids=str)
def test_gradients_pull_the_hole_toward_what_fits_the_known_pixels(settings):
    # Without the gradient, replacement carries MCG to between 0.35 and 0.40, and nothing at all carries DPS.
    assert float((mean_in_a_world_of_one_color(settings) - 0.5).abs().max()) < 0.06


def test_without_guidance_there_is_no_pull():
    found = mean_in_a_world_of_one_color(Sampler("dps", 1000, 50, conditional=False, eta=0.0, guidance=0.0))
    assert float((found - 0.5).abs().max()) > 0.3


def test_pseudoinverse_guidance_adds_the_weighted_pull_of_the_known_pixels():
    """One step, by hand: x̂0 = a·x has J = a, so the pull is √ᾱ·a·M(y − a·x)."""
    images, hole = scene(1)
    settings = Sampler("pigdm", 1000, 2, conditional=False, eta=0.0)
    one = holes(lambda noisy, time: velocity(noisy, 0.1 * noisy, time), images, hole, seeds=(0,))
    steps = SAMPLERS["pigdm"](one, settings)
    next(steps)
    second = next(steps)
    (_, alpha, arriving), _ = one.levels(settings)
    start = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))[None]
    plain = one.step(start, 0.1 * start, alpha, arriving, 0.0)
    pull = alpha.sqrt() * 0.1 * (1 - hole) * (images - 0.1 * start)
    assert torch.allclose(second, 0.1 * (plain + pull), atol=1e-5)


def test_the_faithful_variant_leaves_the_known_pixels_at_the_noisier_level():
    images, hole = scene()
    errors = []
    for name in ("mcg-fixed", "mcg-faithful"):
        _, result = run(SHORT[name], lambda noisy, time: velocity(noisy, images + 0 * noisy, time), images, hole)
        errors.append(float(((result - images) * (1 - hole)).abs().max()))
    assert errors[0] < 1e-3 < 1e-2 < errors[1]


def test_the_null_space_model_puts_the_known_pixels_into_every_estimate():
    images, hole = scene()
    estimates, _ = run(SHORT["ddnm"], gaussian(0.1, 0.2), images, hole)
    assert all(torch.equal(one * (1 - hole), images * (1 - hole)) for one in estimates)


def test_revisiting_lets_the_known_pixels_into_the_hole():
    # Without putting them back it would stay at the guess, 0.
    assert float(mean_in_a_world_of_one_color(Sampler("repaint", 250, 5, 3)).min()) > 0.4
    once = mean_in_a_world_of_one_color(Sampler("replacement", 250, 5))
    assert float(once.max()) < float(mean_in_a_world_of_one_color(Sampler("repaint", 250, 5, 6)).min())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_kind_of_prediction_gives_the_same_clean_estimate(kind):
    images, hole = scene()
    alpha = ALPHAS[300]
    noisy = alpha.sqrt() * images + (1 - alpha).sqrt() * torch.randn_like(images)
    answer = {"epsilon": (noisy - alpha.sqrt() * images) / (1 - alpha).sqrt(), "sample": images}
    answer["v_prediction"] = velocity(noisy, images, 300)
    one = holes(lambda *_: answer[kind], images, hole, schedule=SCHEDULE | {"prediction_type": kind})
    assert torch.allclose(one.clean(noisy, 300), images, atol=1e-5)


def test_an_unknown_kind_of_prediction_is_an_error():
    images, hole = scene()
    with pytest.raises(HistomixError, match="predicts 'score'"):
        run(SHORT["ddnm"], lambda noisy, time: noisy, images, hole, schedule=SCHEDULE | {"prediction_type": "score"})


@pytest.mark.parametrize("clip", [True, False])
def test_pixels_are_clipped_and_latents_are_not(clip):
    images, hole = scene()
    one = holes(
        lambda noisy, time: velocity(noisy, 3 + 0 * noisy, time),
        images,
        hole,
        schedule=SCHEDULE | {"clip_sample": clip},
    )
    assert float(one.clean(images, 100).max()) == pytest.approx(1 if clip else 3, abs=1e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_is_the_schedulers_own(eta):
    """Against diffusers: DDIM at eta 0, and DDPM's mean and spread at eta 1."""
    from diffusers import DDIMScheduler

    images, hole = scene(1, 64)
    scheduler = DDIMScheduler.from_config(SCHEDULE)
    scheduler.set_timesteps(20)
    sample, time = torch.randn_like(images), int(scheduler.timesteps[5])
    noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))[None]
    theirs = scheduler.step(velocity(sample, 0.5 * images, time), time, sample, eta=eta, variance_noise=noise)
    one = holes(None, images, hole, seeds=(0,))
    ours = one.step(sample, 0.5 * images, ALPHAS[time], ALPHAS[time - 50], eta)
    assert torch.allclose(ours, theirs.prev_sample, atol=1e-5)


def test_quadratic_steps_close_in_on_zero():
    steps = quadratic_steps(250, 5)
    assert steps == [249, 159, 89, 39, 9]
    assert all(np.diff(np.diff(steps)) > 0)
    assert min(quadratic_steps(10, 8)) == 0
    assert even_steps(1000, 4) == [750, 500, 250, 0]


def test_noise_is_standard_normal_and_its_own_for_each_item():
    known, hole = torch.zeros(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    noise = holes(None, known, hole, seeds=(1, 2)).noise()
    assert float(noise.mean()) == pytest.approx(0, abs=0.02) and float(noise.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(noise[1], holes(None, known[:1], hole[:1], seeds=(2,)).noise()[0])


def test_a_sampler_can_be_written_in_one_word():
    assert Sampler.parse("repaint:150:5:3") == Sampler("repaint", 150, 5, 3)
    assert not Sampler.parse("repaint:150:5:3:unconditional").conditional
    assert Sampler.parse("mcg-fixed:1000:250") == PRESETS["paper"].ring
    assert Sampler.parse("repaint:20:1:grain") == Sampler("repaint", 20, 1, grain=True)
    for preset in PRESETS.values():
        for one in (preset.ring, preset.disc, preset.large):
            assert Sampler.parse(one.spec) == one
    with pytest.raises(ValueError, match="cannot be written"):
        _ = Sampler("repaint", eta=0.5).spec
    both = Sampler.parse("repaint:20:1:2:grain:unconditional")
    assert both.spec == "repaint:20:1:2:grain:unconditional"
    assert (both.grain, both.visits, both.conditional) == (True, 2, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("magic", "no sampler 'magic'"),
        ("repaint:a", "METHOD:START"),
        ("repaint:1:2:3:4", "METHOD:START"),
        ("repaint:20:1:noise=2", "METHOD:START"),
        ("repaint:20:1:grain=2", "METHOD:START"),
        ("ddnm:1000:10:3", "Only the sampler 'repaint'"),
        ("repaint:5:9", "no more steps"),
        ("repaint:100:0", "at least one step"),
    ],
)
def test_a_sampler_that_cannot_be_is_one_sentence(text, words):
    with pytest.raises(HistomixError, match=words):
        Sampler.parse(text)
