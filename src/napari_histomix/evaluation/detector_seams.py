"""The detector's network for tissue: a small CNN that learns where synthetic crops give themselves away."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from napari_histomix.devices import choose_device
from napari_histomix.evaluation.detector_network import DECAY, RATE, WIDTHS, all_round_scores, as_seen, blocks, turned
from napari_histomix.evaluation.detector_tissue import PAIRS
from napari_histomix.records import Event, Job

PART = 2 / 3
"""Side of what a network is shown of a crop at once, as a share of the crop's."""
CELL = 8
"""Pixels in which one logit is given, each way."""
STAIN = 0.2
"""Standard deviation by which contrast and brightness of the channels of a pair are changed while it learns."""


class SeamDetector(nn.Module):
    """Four blocks, and a logit for every ``CELL`` pixels: whether something there gives a synthetic crop away.

    A crop (N, 3, S, S) has the logit (N,) of the mean of the odds, which its surest place decides. 88,000 weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = blocks(1)
        self.line = nn.Conv2d(WIDTHS[-1], 1, 1)

    def places(self, crops: Tensor) -> Tensor:
        """Logits (N, S / 8, S / 8) of the places of crops (N, 3, S, S)."""
        logits: Tensor = self.line(self.blocks(crops))
        return logits[:, 0]

    def forward(self, crops: Tensor) -> Tensor:
        """Logits (N,) of crops."""
        logits = self.places(crops).flatten(1)
        return torch.logsumexp(logits, 1) - float(np.log(logits.shape[1]))


def learn_seams_and_score(
    learned: NDArray[np.uint8],
    synthetic: NDArray[np.bool_],
    pairs: NDArray[np.intp],
    signs: NDArray[np.bool_],
    tested: NDArray[np.uint8],
    *,
    steps: int,
    seed: int,
    device: str = "auto",
) -> Job[NDArray[np.float32]]:
    """Train a new network on pairs of crops, and score others; a long job (see ``records.Job``).

    It learns from random parts of the crops, turned and mirrored, of other stains; a synthetic crop and one that shows
    the same tissue as it was go through all of that together. Nothing decides when to stop, so that no tested crop has
    a say in it.

    Parameters
    ----------
    learned : (N, S, S, 3) uint8
        Crops to learn from, of which ``synthetic`` (N,) are synthetic.
    pairs : (N,) int
        A number that a synthetic crop shares with the real ones that show its tissue, one at least.
    signs : (N, S, S) bool
        What gives synthetic crops away; nothing in real ones.
    tested : (M, S, S, 3) uint8
    steps : int
        Steps of learning, each of ``PAIRS`` pairs.
    seed : int
        Of weights, order and changes: on a processor the same seed gives the same scores.
    device : str
        auto, cpu, cuda or mps.

    Returns
    -------
    (M,) float32
        Logits, averaged over the eight symmetries of each crop and over the parts in its corners.

    Raises
    ------
    HistomixError
        If the scores are not numbers.
    """
    where = choose_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SeamDetector().to(where)
    network = network.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    crops, marks = (torch.from_numpy(values).to(where) for values in (learned, signs))
    side = learned.shape[1]
    part = min(side, CELL * round(PART * side / CELL))
    made = np.flatnonzero(synthetic)
    real = {row: np.flatnonzero(~synthetic & (pairs == pairs[row])) for row in made.tolist()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for step in range(steps):
        yield Event("Learning to tell", step, steps)
        first = rng.choice(made, PAIRS, replace=len(made) < PAIRS)
        rows = torch.from_numpy(np.concatenate([first, [rng.choice(real[row]) for row in first.tolist()]])).to(where)
        row, col = rng.integers(side - part + 1, size=2).tolist()
        window = slice(row, row + part), slice(col, col + part)
        symmetry = int(rng.integers(8))
        seen = turned(_restained(as_seen(crops[rows][:, window[0], window[1]]), rng), symmetry)
        logits = network.places(seen)
        truth = turned(marks[rows][:, None, window[0], window[1]].float(), symmetry)
        truth = functional.adaptive_max_pool2d(truth, logits.shape[-2:])[:, 0]
        # Places that tell and all others count alike: there are few of the former.
        share = truth.mean().clamp(0.02, 0.98)
        weights = torch.where(truth > 0, 0.5 / share, 0.5 / (1 - share))
        loss = functional.binary_cross_entropy_with_logits(logits, truth, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    shown = torch.from_numpy(tested).to(where)
    corners = sorted({0, side - part})
    parts = [
        all_round_scores(network, shown[:, row : row + part, col : col + part]) for row in corners for col in corners
    ]
    return np.mean(parts, axis=0, dtype=np.float32)


def _restained(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Pairs of crops (2 P, 3, S, S), both of a pair with the same random contrast and brightness of each channel."""
    shape = len(crops) // 2, 3, 1, 1
    gain, shift = (
        torch.from_numpy(STAIN * rng.standard_normal(shape, np.float32)).to(crops.device).repeat(2, 1, 1, 1)
        for _ in range(2)
    )
    return crops * (1 + gain) + shift
