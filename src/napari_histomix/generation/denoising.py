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
from torch.nn import functional

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
    coarse_start: bool = False,
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
    coarse_start : bool
        The first pass sees the items at half their resolution, which costs a quarter: in pure noise there is no more to
        be said than where which color is.
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
    beside, vectors = (None if part is None else part.to(device) for part in (beside, vectors))
    # One part in another order of memory, and the whole network works in it: a sixth slower.
    maps = None if maps is None else maps.to(device).contiguous(memory_format=torch.channels_last)
    dtype = fast_dtype(device)
    length = float(schedule["num_train_timesteps"])
    is_clean = schedule["prediction_type"] == "sample"
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        bare_maps = None if maps is None else torch.zeros_like(maps)
        bare_vectors = None if vectors is None else vectors if maps is not None else torch.zeros_like(vectors)
        modulations = None if maps is None else network.modulate(maps)
        bare = None if bare_maps is None or guidance == 0 else network.modulate(bare_maps)
        for number, timestep in enumerate(scheduler.timesteps):
            alpha = scheduler.alphas_cumprod[int(timestep)]
            if coarse_start and number == 0:
                predicted = _seen_coarsely(network, timestep, noisy, beside, maps, vectors, alpha, is_clean)
            else:
                seen = noisy if beside is None else torch.cat([noisy, beside], dim=1)
                seen = seen.contiguous(memory_format=torch.channels_last)
                predicted = network(seen, timestep, maps, vectors, modulations).float()
                if guidance and GUIDED[0] <= float(timestep) / length <= GUIDED[1]:
                    without = network(seen, timestep, bare_maps, bare_vectors, bare).float()
                    predicted = predicted + guidance * (predicted - without)
            clean = predicted if is_clean else alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
            if ancestral:
                noisy = _ancestral_step(scheduler, predicted, timestep, noisy, generators)
            else:
                noisy = scheduler.step(predicted, timestep, noisy).prev_sample
            yield clean.clamp(-1, 1)
    return noisy.clamp(-1, 1)


def _seen_coarsely(
    network: ConditionedUNet,
    timestep: Tensor,
    noisy: Tensor,
    beside: Tensor | None,
    maps: Tensor | None,
    vectors: Tensor | None,
    alpha: Tensor,
    is_clean: bool,
) -> Tensor:
    """What a network says of pure noise at half the resolution, as if it were said at the full one."""
    size = noisy.shape[-2:]
    half = [4 * max(1, round(side / 8)) for side in size]
    # Every second value of noise is noise as strong as all of it.
    small = functional.interpolate(noisy, half)
    beside, maps = (
        None if part is None else functional.interpolate(part, half, mode="area") for part in (beside, maps)
    )
    seen = small if beside is None else torch.cat([small, beside], dim=1)
    predicted = network(seen.contiguous(memory_format=torch.channels_last), timestep, maps, vectors).float()
    clean = predicted if is_clean else alpha.sqrt() * small - (1 - alpha).sqrt() * predicted
    clean = functional.interpolate(clean, size, mode="bilinear")
    return clean if is_clean else (alpha.sqrt() * noisy - clean) / (1 - alpha).sqrt()


def _ancestral_step(
    scheduler: Any, predicted: Tensor, timestep: Tensor, noisy: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """DDPM's step with each item's own noise."""
    stepped = [
        scheduler.step(each[None], timestep, item[None], generator=generator).prev_sample[0]
        for each, item, generator in zip(predicted, noisy, generators, strict=True)
    ]
    return torch.stack(stepped)
