"""The loop that turns noise into images or structures: diffusers' schedulers, guidance, and a preview of every step.

Noise is drawn on the processor, from a generator of its own for each item: a result does not depend on the batch that
it shared.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from napari_histomix.diffusion.models import fast_dtype
from napari_histomix.generation.networks import ConditionedUNet
from napari_histomix.records import HistomixError

GUIDED = (0.15, 0.85)
"""Between which shares of the noise guidance acts: at the ends it changes little (arXiv 2404.07724)."""


def denoise(
    network: ConditionedUNet,
    schedule: Mapping[str, Any],
    shape: tuple[int, int, int],
    maps: Tensor | None,
    vectors: Tensor | None,
    seeds: Sequence[int],
    *,
    steps: int = 20,
    guidance: float = 0.0,
    ancestral: bool = False,
    beside: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Generator[Tensor, None, Tensor]:
    """Denoise a batch; yields the present estimate of the clean items after every step, and returns the last.

    Parameters
    ----------
    network : ConditionedUNet
    schedule : mapping
        Of the noise it was trained with, as diffusers writes it; the network predicts v, or, by ``prediction_type``
        "sample", the clean item.
    shape : (C, H, W)
        Of one item.
    maps, vectors : Tensor, optional
        The condition, (N, M, H, W) and (N, V).
    seeds : sequence of int
        One for each item.
    steps : int
        Passes of DPM-Solver++ (2M) (Lu et al., arXiv 2211.01095), or of the ancestral sampler.
    guidance : float
        w of ε' = (1 + w)·ε(x, condition) − w·ε(x, nothing); 0: none, which takes half the time.
    ancestral : bool
        DDPM's own sampler, as in the papers, at ``steps`` of 1,000 timesteps.
    beside : Tensor, optional
        What stands between the noisy item and the maps at the input, (N, B, H, W).
    """
    if steps < 1:
        raise HistomixError(f"A sampler needs at least one step, not {steps}.")
    device = torch.device(device)
    scheduler: Any
    if ancestral:
        scheduler = DDPMScheduler.from_config(dict(schedule))
    else:
        scheduler = DPMSolverMultistepScheduler.from_config(
            dict(schedule),
            solver_order=2,
            algorithm_type="dpmsolver++",
            timestep_spacing="trailing",
            final_sigmas_type="zero",
        )
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    noisy = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
    beside = None if beside is None else beside.to(device)
    maps, vectors = (None if part is None else part.to(device) for part in (maps, vectors))
    dtype = fast_dtype(device)
    length = float(schedule["num_train_timesteps"])
    is_clean = schedule["prediction_type"] == "sample"
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        bare_maps = None if maps is None else torch.zeros_like(maps)
        bare_vectors = None if vectors is None else vectors if maps is not None else torch.zeros_like(vectors)
        modulations = None if maps is None else network.modulate(maps)
        bare = None if bare_maps is None or guidance == 0 else network.modulate(bare_maps)
        for timestep in scheduler.timesteps:
            seen = noisy if beside is None else torch.cat([noisy, beside], dim=1)
            seen = seen.contiguous(memory_format=torch.channels_last)
            predicted = network(seen, timestep, maps, vectors, modulations).float()
            if guidance and GUIDED[0] <= float(timestep) / length <= GUIDED[1]:
                without = network(seen, timestep, bare_maps, bare_vectors, bare).float()
                predicted = predicted + guidance * (predicted - without)
            alpha = scheduler.alphas_cumprod[int(timestep)]
            clean = predicted if is_clean else alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
            if ancestral:
                noisy = _ancestral_step(scheduler, predicted, timestep, noisy, generators)
            else:
                noisy = scheduler.step(predicted, timestep, noisy).prev_sample
            yield clean.clamp(-1, 1)
    return noisy.clamp(-1, 1)


def _ancestral_step(
    scheduler: Any, predicted: Tensor, timestep: Tensor, noisy: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """DDPM's step with each item's own noise."""
    stepped = [
        scheduler.step(each[None], timestep, item[None], generator=generator).prev_sample[0]
        for each, item, generator in zip(predicted, noisy, generators, strict=True)
    ]
    return torch.stack(stepped)
