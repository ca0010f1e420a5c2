"""Samplers for holes: each a plain generator over timesteps, on diffusers' schedulers.

A sampler yields its present estimate of the clean windows (N, 3, H, W; RGB in [−1, 1]) after every forward pass of
the network and returns the last one; closing it stops within one step. Noise is drawn on the CPU, one generator an
item, so a window's result does not depend on the batch it shared.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

Denoiser = Callable[[Tensor, int], Tensor]
"""(noisy (N, 3, H, W), timestep) → the network's raw prediction (N, 3, H, W)."""


@dataclass(frozen=True)
class Sampler:
    """Settings of one sampler.

    ``revisit``: noise a guess to timestep ``start``, then ``steps`` quadratically spaced ancestral steps, each gone
    through ``visits`` times (the last once), with the known pixels put back at every visit (RePaint, arXiv
    2201.09865; truncated start as in SDEdit, arXiv 2108.01073). ``mcg``: ``steps`` DDIM steps from pure noise with
    manifold-constrained gradients (arXiv 2206.00941). ``conditional``: show the network the known pixels and the mask.
    """

    method: Literal["revisit", "mcg"]
    start: int
    steps: int
    visits: int = 1
    conditional: bool = True

    @property
    def forwards(self) -> int:
        """Forward passes of the network a window costs."""
        return (self.steps - 1) * self.visits + 1 if self.method == "revisit" else self.steps


@dataclass(frozen=True)
class Preset:
    """The two stages of progressive inpainting: erasing a nucleus, then blending a donor's transition zone."""

    erase: Sampler
    blend: Sampler


PRESETS: Mapping[str, Preset] = {
    "fast": Preset(erase=Sampler("revisit", 600, 7, 2), blend=Sampler("revisit", 150, 5, 3)),
    "paper": Preset(
        erase=Sampler("mcg", 1000, 250, conditional=False), blend=Sampler("mcg", 1000, 250, conditional=False)
    ),
}


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Standard normal noise (N, …), each item from its own CPU generator."""
    return torch.stack([torch.randn(*shape[1:], generator=generator) for generator in generators]).to(device)


def quadratic_steps(start: int, steps: int) -> list[int]:
    """Descending timesteps from ``start`` − 1, spaced ever closer: most of a thin ring is decided near zero."""
    return sorted({max(0, round(start * ((i + 1) / steps) ** 2) - 1) for i in range(steps)}, reverse=True)


def revisit(
    denoise: Denoiser,
    schedule: Mapping[str, Any],
    known: Tensor,
    hole: Tensor,
    guess: Tensor,
    generators: Sequence[torch.Generator],
    settings: Sampler,
) -> Generator[Tensor, None, Tensor]:
    """Truncated ancestral sampling with revisits.

    Parameters
    ----------
    denoise : Denoiser
    schedule : mapping
        diffusers scheduler configuration.
    known, guess : (N, 3, H, W) float32
        The windows, trusted outside the hole; and a first guess of all of it.
    hole : (N, 1, H, W) float32
        1 where pixels may change.
    generators : sequence of torch.Generator
        One an item, on the CPU.
    settings : Sampler
    """
    scheduler = DDPMScheduler.from_config(dict(schedule))
    times = quadratic_steps(settings.start, settings.steps)
    scheduler.set_timesteps(timesteps=times)
    alphas = scheduler.alphas_cumprod

    def noised(clean: Tensor, time: int) -> Tensor:
        noise = draw_noise(clean.shape, generators, clean.device)
        return alphas[time].sqrt() * clean + (1 - alphas[time]).sqrt() * noise

    sample = noised(guess, times[0])
    estimate = guess
    for index, time in enumerate(times):
        last = index == len(times) - 1
        for visit in range(1 if last else settings.visits):
            if visit:
                ratio = alphas[time] / alphas[times[index + 1]]
                sample = ratio.sqrt() * sample + (1 - ratio).sqrt() * draw_noise(known.shape, generators, known.device)
            sample = hole * sample + (1 - hole) * noised(known, time)
            step = scheduler.step(denoise(sample, time).float(), time, sample, generator=list(generators))
            sample, estimate = step.prev_sample, step.pred_original_sample
            yield estimate
    return estimate


def mcg(
    denoise: Denoiser,
    schedule: Mapping[str, Any],
    known: Tensor,
    hole: Tensor,
    guess: Tensor,
    generators: Sequence[torch.Generator],
    settings: Sampler,
) -> Generator[Tensor, None, Tensor]:
    """DDIM from pure noise with manifold-constrained gradients, the sampler of NucleiMix (its equations 9–11).

    The known pixels of each step are noised to the level the step arrives at, as equation 10 says. Parameters as in
    ``revisit``; ``guess`` is not used.
    """
    scheduler = DDIMScheduler.from_config(dict(schedule))
    scheduler.set_timesteps(settings.steps)
    alphas = scheduler.alphas_cumprod
    stride = scheduler.config["num_train_timesteps"] // settings.steps
    sample = draw_noise(known.shape, generators, known.device)
    estimate = guess
    for time in scheduler.timesteps.tolist():
        moving = sample.detach().requires_grad_(True)
        with torch.enable_grad():
            step = scheduler.step(denoise(moving, time).float(), time, moving)
            residual = ((1 - hole) * (known - step.pred_original_sample)).flatten(1).norm(dim=1).sum()
            (gradient,) = torch.autograd.grad(residual, moving)
        estimate, arrived = step.pred_original_sample.detach(), step.prev_sample.detach()
        alpha = alphas[time - stride] if time >= stride else torch.ones(())
        noise = draw_noise(known.shape, generators, known.device)
        measured = alpha.sqrt() * known + (1 - alpha).sqrt() * noise
        sample = hole * (arrived - gradient) + (1 - hole) * measured
        yield estimate
    return sample


SAMPLERS = {"revisit": revisit, "mcg": mcg}
