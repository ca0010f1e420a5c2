"""The detector's network: a small CNN that learns from some crops which are synthetic, and scores others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from napari_histomix.devices import choose_device
from napari_histomix.records import Event, HistomixError, Job

WIDTHS = 16, 32, 64, 112
"""Channels of its four blocks: 88,000 weights in all."""
GROUPS = 8
LARGE = 96
"""Side in pixels from which on the first convolution takes every other pixel."""
BATCH = 16
RATE, DECAY = 3e-3, 1e-2
"""Highest learning rate, and weight decay."""
GRAY, SPREAD = 128.0, 64.0
"""Of 8-bit pixels, as the network sees them: what is hidden (``GRAY``) is 0."""
SCORED = 64
"""Crops that are scored together."""


def blocks(stride: int) -> nn.Sequential:
    """Four blocks of a convolution, group norm and ReLU, with a maximum pooling between them."""
    layers: list[nn.Module] = []
    width = 3
    for number, wider in enumerate(WIDTHS):
        step = 1 if number else stride
        layers += [nn.MaxPool2d(2)] if number else []
        layers += [nn.Conv2d(width, wider, 3, step, 1, bias=False), nn.GroupNorm(GROUPS, wider), nn.ReLU()]
        width = wider
    return nn.Sequential(*layers)


class Detector(nn.Module):
    """Four blocks, the mean and the maximum of their maps, and a line.

    Crops (N, 3, S, S) of any side become logits (N,): the higher, the surer that a crop is synthetic. Groups are
    normalized, not batches, so a crop's score does not depend on those beside it.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.blocks = blocks(2 if side >= LARGE else 1)
        self.line = nn.Linear(2 * WIDTHS[-1], 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Logits (N,) of crops (N, 3, S, S)."""
        maps = self.blocks(crops)
        logits: Tensor = self.line(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
        return logits[:, 0]


def learn_and_score(
    learned: NDArray[np.uint8],
    synthetic: NDArray[np.bool_],
    weights: NDArray[np.float64],
    tested: NDArray[np.uint8],
    *,
    epochs: int,
    seed: int,
    device: str = "auto",
) -> Job[NDArray[np.float32]]:
    """Train a new network on some crops, and score others; a long job (see ``records.Job``).

    Parameters
    ----------
    learned : (N, S, S, 3) uint8
        Crops to learn from, of which ``synthetic`` (N,) are synthetic.
    weights : (N,) float
        How much each of them counts.
    tested : (M, S, S, 3) uint8
    epochs : int
        How often every crop is shown, turned and mirrored at random; nothing decides when to stop, so that no tested
        crop has a say in it.
    seed : int
        Of weights, order and turns: on a processor the same seed gives the same scores.
    device : str
        auto, cpu, cuda or mps.

    Returns
    -------
    (M,) float32
        Logits, averaged over the eight symmetries of each crop.

    Raises
    ------
    HistomixError
        If the scores are not numbers.
    """
    where = choose_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Detector(learned.shape[1]).to(where)
    network = network.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    crops = torch.from_numpy(learned).to(where)
    truth, counts = (torch.from_numpy(values.astype(np.float32)).to(where) for values in (synthetic, weights))
    steps = epochs * -(-len(crops) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(epochs):
        yield Event("Learning to tell", epoch, epochs)
        order = torch.from_numpy(rng.permutation(len(crops))).to(where)
        for rows in order.split(BATCH):
            # A batch is turned as one: over the epochs every crop is seen from all sides.
            logits = network(turned(as_seen(crops[rows]), int(rng.integers(8))))
            loss = functional.binary_cross_entropy_with_logits(logits, truth[rows], counts[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return all_round_scores(network, torch.from_numpy(tested).to(where))


def as_seen(pixels: Tensor) -> Tensor:
    """Crops (N, S, S, 3) uint8 as the network takes them, (N, 3, S, S)."""
    return (pixels.permute(0, 3, 1, 2).float() - GRAY) / SPREAD


def turned(crops: Tensor, symmetry: int) -> Tensor:
    """Crops after one of the eight symmetries of a square."""
    sides = torch.rot90(crops, symmetry % 4, (2, 3))
    sides = sides.flip(3) if symmetry >= 4 else sides
    return sides.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def all_round_scores(network: nn.Module, crops: Tensor) -> NDArray[np.float32]:
    """Logits (N,) of crops (N, S, S, 3) uint8, averaged over their eight symmetries.

    HistomixError is raised if they are not numbers.
    """
    network.eval()
    parts = [
        torch.stack([network(turned(as_seen(part), symmetry)) for symmetry in range(8)]).mean(0)
        for part in crops.split(SCORED)
    ]
    scores: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    if not np.isfinite(scores).all():
        raise HistomixError("The detector lost its way: its scores are no numbers; choose another seed (--seed).")
    return scores
