"""Samplers for holes: each one plain generator over timesteps.

A sampler yields its present estimate of the clean windows (N, C, H, W) after every forward pass of the network and
returns the last one; closing it stops within one step. Timesteps and noise levels are those of the model's diffusers
scheduler. Noise is drawn on the CPU, one generator an item: a window's result does not depend on the batch it shared.

Notation: ᾱ the schedule's cumulative alpha at a timestep, x a noisy sample, x̂0 the clean windows that the network sees
in it, M = 1 where pixels are known, y the known pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from napari_histomix.records import HistomixError

Denoiser = Callable[[Tensor, int], Tensor]
"""(noisy (N, C, H, W), timestep) → the network's raw prediction (N, C, H, W)."""

Steps = Generator[Tensor, None, Tensor]


@dataclass(frozen=True)
class Sampler:
    """Settings of one sampler.

    Parameters
    ----------
    method : str
        A name in ``SAMPLERS``.
    start : int
        Timestep to begin at. Below the schedule's length: a truncated start from a first guess, noised to there
        (SDEdit, arXiv 2108.01073; Come-Closer-Diffuse-Faster, arXiv 2112.05146), with steps that get closer toward
        zero quadratically; at its length: pure noise and even steps.
    steps : int
        Noise levels passed through.
    visits : int
        How often each level but the last is gone through; for ``repaint`` only.
    conditional : bool
        Show the known pixels and the mask to a network that can see them.
    eta : float
        Fresh noise a step: 0 as in DDIM, 1 ancestral as in DDPM, more up to all noise of the level.
    guidance : float
        Weight of the gradient of ``mcg-fixed``, ``mcg-faithful``, ``dps`` and ``pigdm``.
    grain : bool
        Let the engine add what a few large steps leave out: x̂0 is a mean, and blurred (``diffusion.random_field``).
    """

    method: str
    start: int = 1000
    steps: int = 50
    visits: int = 1
    conditional: bool = True
    eta: float = 1.0
    guidance: float = 1.0
    grain: bool = False

    def __post_init__(self) -> None:
        if self.method not in SAMPLERS:
            raise HistomixError(f"There is no sampler '{self.method}'; choose one of {', '.join(SAMPLERS)}.")
        if self.visits < 1 or not 1 <= self.steps <= self.start:
            raise HistomixError("A sampler needs at least one step and visit, and no more steps than timesteps.")
        if self.visits > 1 and self.method != "repaint":
            raise HistomixError("Only the sampler 'repaint' visits a noise level more than once.")

    @property
    def forwards(self) -> int:
        """Forward passes of the network that a window costs."""
        return (self.steps - 1) * self.visits + 1

    @property
    def backwards(self) -> int:
        """Backward passes of the network that a window costs."""
        return self.steps if self.method in GUIDED else 0

    @property
    def spec(self) -> str:
        """Its settings in the words of ``parse``, for provenance; ValueError where these words cannot say them."""
        text = f"{self.method}:{self.start}:{self.steps}:{self.visits}" + ":grain" * self.grain
        if not self.conditional and self.method not in EVEN:
            text += ":unconditional"
        if Sampler.parse(text) != self:
            raise ValueError(f"{self} cannot be written as {text}")
        return text

    @classmethod
    def parse(cls, text: str) -> Sampler:
        """A sampler from ``method[:start[:steps[:visits]]][:grain][:unconditional]``; HistomixError else."""
        match = _SPEC.fullmatch(text)
        if match is None:
            raise HistomixError(f"'{text}' is no sampler; write METHOD:START:STEPS:VISITS[:grain][:unconditional].")
        method = match["method"]
        return cls(
            method,
            **{name: int(match[name]) for name in ("start", "steps", "visits") if match[name]},
            conditional=match["unconditional"] is None and method not in EVEN,
            eta=0.0 if method in EVEN else 1.0,
            grain=match["grain"] is not None,
        )


_SPEC = re.compile(
    r"(?P<method>[^:]+)(:(?P<start>\d+)(:(?P<steps>\d+)(:(?P<visits>\d+))?)?)?"
    r"(?P<grain>:grain)?(?P<unconditional>:unconditional)?"
)


@dataclass(frozen=True, eq=False)
class Holes:
    """What a sampler is given: windows of any space a network works in, pixels or latents.

    ``known`` (N, C, H, W) is trusted where ``hole`` (N, 1, H, W) is 0, ``guess`` a first guess of all of it;
    ``schedule`` is diffusers' scheduler configuration, and each item has a generator on the CPU.
    """

    denoise: Denoiser
    schedule: Mapping[str, Any]
    known: Tensor
    hole: Tensor
    guess: Tensor
    generators: Sequence[torch.Generator]
    alphas: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas", DDPMScheduler.from_config(dict(self.schedule)).alphas_cumprod)

    def noise(self) -> Tensor:
        """Standard normal noise in the windows' shape, each item from its own CPU generator."""
        shape, device = self.known.shape[1:], self.known.device
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self.generators]).to(device)

    def noised(self, clean: Tensor, alpha: Tensor) -> Tensor:
        """q(x_t | x_0): clean windows with the noise of a level."""
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * self.noise()

    def levels(self, settings: Sampler) -> list[tuple[int, Tensor, Tensor]]:
        """(timestep, ᾱ there, ᾱ where the step arrives), from the most noise to none."""
        length = len(self.alphas)
        if settings.start < length:
            times = quadratic_steps(settings.start, settings.steps)
        else:
            times = even_steps(length, settings.steps)
        reached = [*(self.alphas[time] for time in times), torch.ones(())]
        return list(zip(times, reached, reached[1:], strict=False))

    def first(self, settings: Sampler) -> Tensor:
        """The sample to begin with: pure noise, or the guess at the first level of a truncated start."""
        if settings.start >= len(self.alphas):
            return self.noise()
        return self.noised(self.guess, self.levels(settings)[0][1])

    def clean(self, sample: Tensor, time: int) -> Tensor:
        """x̂0, from whatever the network predicts."""
        alpha = self.alphas[time]
        predicted = self.denoise(sample, time).float()
        kind = self.schedule.get("prediction_type", "epsilon")
        if kind == "v_prediction":
            estimate = alpha.sqrt() * sample - (1 - alpha).sqrt() * predicted
        elif kind == "epsilon":
            estimate = (sample - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
        elif kind == "sample":
            estimate = predicted
        else:
            raise HistomixError(f"A network that predicts '{kind}' is not known; epsilon, v_prediction and sample are.")
        if self.schedule.get("clip_sample", True):
            limit = float(self.schedule.get("clip_sample_range", 1.0))
            estimate = estimate.clamp(-limit, limit)
        return estimate

    def step(self, sample: Tensor, estimate: Tensor, alpha: Tensor, arriving: Tensor, eta: float) -> Tensor:
        """From one level to the next (DDIM, arXiv 2010.02502, equation 12)."""
        noise = (sample - alpha.sqrt() * estimate) / (1 - alpha).sqrt()
        return self.renoised(estimate, noise, alpha, arriving, eta)

    def renoised(self, estimate: Tensor, noise: Tensor, alpha: Tensor, arriving: Tensor, eta: float) -> Tensor:
        """Clean windows with the noise of the next level, part of it kept and part of it fresh."""
        fresh = eta**2 * (1 - arriving) / (1 - alpha) * (1 - alpha / arriving)
        fresh = fresh.clamp(min=0).minimum(1 - arriving)
        kept = (1 - arriving - fresh).sqrt()
        moved = arriving.sqrt() * estimate + kept * noise
        return moved + fresh.sqrt() * self.noise() if float(fresh) > 0 else moved

    def gradient(self, sample: Tensor, time: int, of: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """x̂0, and ∇ₓ of a number that x̂0 and M(y − x̂0) give: one forward and one backward pass."""
        moving = sample.detach().requires_grad_(True)
        with torch.enable_grad():
            estimate = self.clean(moving, time)
            (slope,) = torch.autograd.grad(of(estimate, (1 - self.hole) * (self.known - estimate)), moving)
        return estimate.detach(), slope


def quadratic_steps(start: int, steps: int) -> list[int]:
    """Descending timesteps from ``start`` − 1, spaced ever closer: most of a thin ring is decided near zero."""
    return sorted({max(0, round(start * ((i + 1) / steps) ** 2) - 1) for i in range(steps)}, reverse=True)


def even_steps(length: int, steps: int) -> list[int]:
    """Descending timesteps at even distances down to 0, as in DDIM."""
    return [length // steps * i for i in reversed(range(steps))]


def repaint(holes: Holes, settings: Sampler) -> Steps:
    """The known pixels are put back at every level, with the noise it has; between them an ordinary step.

    RePaint (arXiv 2201.09865, jump length 1): then noised again and visited again, as often as ``visits`` says. A
    network that sees the known pixels, or does not; from a truncated start or from pure noise.
    """
    levels = holes.levels(settings)
    sample = holes.first(settings)
    for time, alpha, arriving in levels:
        for visit in range(settings.visits if time != levels[-1][0] else 1):
            if visit:
                back = alpha / arriving
                sample = back.sqrt() * sample + (1 - back).sqrt() * holes.noise()
            sample = holes.hole * sample + (1 - holes.hole) * holes.noised(holes.known, alpha)
            estimate = holes.clean(sample, time)
            sample = holes.step(sample, estimate, alpha, arriving, settings.eta)
            yield estimate
    return sample


def conditional(holes: Holes, settings: Sampler) -> Steps:
    """Ordinary steps of a network that was trained to see the known pixels; nothing is put back on the way."""
    sample = holes.first(settings)
    for time, alpha, arriving in holes.levels(settings):
        estimate = holes.clean(sample, time)
        sample = holes.step(sample, estimate, alpha, arriving, settings.eta)
        yield estimate
    return sample


def guided(holes: Holes, settings: Sampler, put_back: Literal["", "arriving", "left"] = "") -> Steps:
    """After each step, the gradient ∇ₓ‖M(y − x̂0)‖ of each item.

    With nothing put back, diffusion posterior sampling (arXiv 2209.14687). Manifold-constrained gradients (arXiv
    2206.00941; NucleiMix, equations 9–11) put back the known pixels, at the level the step arrives at; as their
    authors' code does it, with the noise of the level that was left.
    """
    sample = holes.first(settings)
    for time, alpha, arriving in holes.levels(settings):
        estimate, slope = holes.gradient(sample, time, lambda _, apart: apart.flatten(1).norm(dim=1).sum())
        sample = holes.step(sample, estimate, alpha, arriving, settings.eta) - settings.guidance * slope
        if put_back:
            measured = holes.noised(holes.known, alpha if put_back == "left" else arriving)
            sample = holes.hole * sample + (1 - holes.hole) * measured
        yield estimate
    return sample


def ddnm(holes: Holes, settings: Sampler) -> Steps:
    """Null-space model (arXiv 2212.00490): the known pixels are put into x̂0 itself, then a step with its noise."""
    sample = holes.first(settings)
    for time, alpha, arriving in holes.levels(settings):
        estimate = holes.clean(sample, time)
        noise = (sample - alpha.sqrt() * estimate) / (1 - alpha).sqrt()
        estimate = holes.hole * estimate + (1 - holes.hole) * holes.known
        sample = holes.renoised(estimate, noise, alpha, arriving, settings.eta)
        yield estimate
    return sample


def pigdm(holes: Holes, settings: Sampler) -> Steps:
    """Pseudoinverse guidance (ΠGDM, Song et al., ICLR 2023): the DDIM step plus √ᾱ·JᵀM(y − x̂0)."""
    sample = holes.first(settings)
    for time, alpha, arriving in holes.levels(settings):
        estimate, pull = holes.gradient(sample, time, lambda seen, apart: (seen * apart.detach()).sum())
        moved = holes.step(sample, estimate, alpha, arriving, settings.eta)
        sample = moved + settings.guidance * alpha.sqrt() * pull
        yield estimate
    return sample


SAMPLERS: Mapping[str, Callable[[Holes, Sampler], Steps]] = {
    "replacement": repaint,  # with a single visit: the plainest, and seams show
    "repaint": repaint,
    "conditional": conditional,
    "mcg-fixed": partial(guided, put_back="arriving"),  # the papers' sampler, its noise level mended
    "mcg-faithful": partial(guided, put_back="left"),
    "dps": guided,
    "ddnm": ddnm,
    "pigdm": pigdm,
}
GUIDED = frozenset({"mcg-fixed", "mcg-faithful", "dps", "pigdm"})
"""Samplers that take a backward pass of the network with each forward pass."""
EVEN = GUIDED | {"ddnm"}
"""Samplers made for a network that does not see the known pixels, with DDIM's steps without fresh noise."""


@dataclass(frozen=True)
class Preset:
    """A sampler for each kind of hole: a transition zone, an erased nucleus, a tissue segment, a seam."""

    ring: Sampler
    disc: Sampler
    large: Sampler
    seam: Sampler


_PAPER = Sampler("mcg-fixed", 1000, 250, conditional=False, eta=0.0)
PRESETS: Mapping[str, Preset] = {
    "fast": Preset(
        ring=Sampler("pigdm", 20, 1, conditional=False, eta=0.0, grain=True),
        disc=Sampler("repaint", 250, 5, 2, grain=True),
        large=Sampler("repaint", 800, 12, 2, grain=True),
        # As a ring without the pass back: in rings its error is 4.7 for 4.6, and seams are many times as long.
        seam=Sampler("repaint", 20, 1, grain=True),
    ),
    "quality": Preset(
        ring=Sampler("pigdm", 20, 2, conditional=False, eta=0.0, grain=True),
        disc=Sampler("repaint", 600, 16, 2, grain=True),
        large=Sampler("repaint", 1000, 32, 2, grain=True),
        seam=Sampler("pigdm", 20, 2, conditional=False, eta=0.0, grain=True),
    ),
    # NucleiMix takes 250 steps, USegMix 500.
    "paper": Preset(ring=_PAPER, disc=_PAPER, large=replace(_PAPER, steps=500), seam=replace(_PAPER, steps=500)),
}
