"""Sampling ends at what the network knows, whatever it predicts and whichever sampler runs."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from napari_histomix.generation.denoising import denoise
from napari_histomix.training.inpainting import SCHEDULE


@pytest.mark.parametrize("predicts", ["v_prediction", "sample"])
@pytest.mark.parametrize("ancestral", [False, True])
def test_a_network_that_knows_the_item_is_followed_to_it(predicts, ancestral):
    schedule = {**SCHEDULE, "prediction_type": predicts}
    alphas = DDPMScheduler.from_config(schedule).alphas_cumprod
    truth = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8

    class Knowing(torch.nn.Module):
        def forward(self, seen, timestep, maps, vectors, modulations):
            alpha = alphas[int(timestep)]
            return truth if predicts == "sample" else (alpha.sqrt() * seen - truth) / (1 - alpha).sqrt()

    *estimates, last = denoise(Knowing(), schedule, (3, 8, 8), None, None, [0], steps=20, ancestral=ancestral)
    torch.testing.assert_close(last, truth, atol=0.02, rtol=0)
    torch.testing.assert_close(estimates[3], truth, atol=0.02, rtol=0)


@pytest.mark.parametrize("predicts", ["v_prediction", "sample"])
@pytest.mark.parametrize("side", [32, 36])
def test_a_coarse_start_sees_a_quarter_once_and_leads_to_the_item(predicts, side):
    schedule = {**SCHEDULE, "prediction_type": predicts}
    alphas = DDPMScheduler.from_config(schedule).alphas_cumprod
    ramp = torch.linspace(-0.8, 0.8, side).expand(1, 3, side, side).clone()
    maps, beside = torch.rand(1, 2, side, side), torch.rand(1, 4, side, side)
    asked = []

    class Knowing(torch.nn.Module):
        def modulate(self, maps):
            return ()

        def forward(self, seen, timestep, maps, vectors, modulations=None):
            noise, known = seen[:, :3], seen[:, 3:]
            asked.append((tuple(noise.shape[2:]), float(noise.std())))
            assert maps.shape[2:] == known.shape[2:] == noise.shape[2:]
            alpha, truth = alphas[int(timestep)], torch.nn.functional.interpolate(ramp, noise.shape[2:], mode="area")
            return truth if predicts == "sample" else (alpha.sqrt() * noise - truth) / (1 - alpha).sqrt()

    first, *_, last = denoise(
        Knowing(), schedule, (3, side, side), maps, None, [0], steps=3, coarse_start=True, beside=beside
    )
    half = 4 * round(side / 8)
    assert [size for size, _ in asked] == [(half, half), (side, side), (side, side)]
    # The network meets the noise that its timestep says, at both sizes.
    assert all(0.85 < strength < 1.15 for _, strength in asked[:2])
    torch.testing.assert_close(first, ramp, atol=0.05, rtol=0)
    torch.testing.assert_close(last, ramp, atol=0.02, rtol=0)
