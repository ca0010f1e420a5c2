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
