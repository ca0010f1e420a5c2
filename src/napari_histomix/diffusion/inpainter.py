"""The engine: holes of many images, denoised together in batches."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_histomix.diffusion.models import InpaintingModel, fast_dtype, network_input
from napari_histomix.diffusion.samplers import SAMPLERS, Sampler
from napari_histomix.records import Event, HistomixError, Job

BATCH = 16


@dataclass(frozen=True, eq=False)
class Window:
    """A square window with a hole.

    Parameters
    ----------
    pixels : (S, S, 3) uint8
        What lies inside the hole is never looked at.
    hole : (S, S) bool
        The pixels that may change; neither none nor all of them.
    seed : int
        Of all the noise this window meets.
    side : int, optional
        The side in pixels at which the model sees it: S by default, another where scales differ.
    """

    pixels: NDArray[np.uint8]
    hole: NDArray[np.bool_]
    seed: int
    side: int = 0

    @property
    def model_side(self) -> int:
        """Side in pixels at which the model sees this window."""
        return self.side or len(self.hole)

    def __post_init__(self) -> None:
        if not self.hole.any():
            raise HistomixError("A hole without a pixel cannot be inpainted.")
        if self.hole.all():
            raise HistomixError("A hole that covers its whole window leaves nothing to go by; use a larger window.")


def choose_device(name: str = "auto") -> torch.device:
    """The device for a name (auto, cpu, cuda, mps). Raises HistomixError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(name, False):
        raise HistomixError(f"This machine has no '{name}' device that torch can use; choose auto or cpu.")
    return torch.device(name)


def fill_navier_stokes(pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The smooth continuation of the surroundings into a hole: the guess a truncated sampler starts from."""
    return cv2.inpaint(pixels, hole.astype(np.uint8), 3, cv2.INPAINT_NS).astype(np.uint8)


def inpaint(
    windows: Sequence[Window],
    model: InpaintingModel,
    sampler: Sampler,
    *,
    device: str = "auto",
    batch: int = BATCH,
    phase: str = "Inpainting",
) -> Job[list[NDArray[np.uint8]]]:
    """Fill the holes of many windows; a long job (see ``records.Job``).

    Parameters
    ----------
    windows : sequence of Window
        Of any mix of sizes; windows of one size share batches.
    model : InpaintingModel
    sampler : Sampler
    device : str
        auto, cpu, cuda or mps.
    batch : int
        Windows denoised together. Halved, and said so, when the device runs out of memory.
    phase : str
        What the events call it.

    Yields
    ------
    Event
        One for every denoising step, with a preview of the first window of the batch.

    Returns
    -------
    list of (S, S, 3) uint8
        In the order of ``windows``; pixels outside the holes are the windows' own, bit for bit.

    Raises
    ------
    HistomixError
        If the network returns something that is not a number, or the device is missing.
    """
    place = choose_device(device)
    dtype = fast_dtype(place)
    # A copy: the model may be shared, and a cast to fewer bits cannot be taken back. Module.to, not diffusers' own:
    # that one warns at every cast about layers this network does not have.
    network = torch.nn.Module.to(deepcopy(model.network), device=place, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval().requires_grad_(False)
    channels = int(network.config["in_channels"])
    results: list[NDArray[np.uint8] | None] = [None] * len(windows)
    waiting = sorted(range(len(windows)), key=lambda i: windows[i].model_side)
    total, finished = len(windows) * sampler.forwards, 0

    while waiting:
        side = windows[waiting[0]].model_side
        chosen = [i for i in waiting[:batch] if windows[i].model_side == side]
        group = [windows[i] for i in chosen]
        known, hole, guess = (tensor.to(place) for tensor in _tensors(group))

        def denoise(noisy: Tensor, time: int, known: Tensor = known, hole: Tensor = hole) -> Tensor:
            seen = (
                network_input(noisy, known, hole, channels)
                if sampler.conditional
                else network_input(noisy, None, None, channels)
            )
            seen = seen.to(dtype).contiguous(memory_format=torch.channels_last)
            steps = torch.full((len(noisy),), time, device=place)
            return network(seen, steps).sample

        generators = [torch.Generator().manual_seed(window.seed) for window in group]
        steps = SAMPLERS[sampler.method](denoise, model.schedule, known, hole, guess, generators, sampler)
        try:
            for number in range(sampler.forwards):
                estimate = next(steps)
                if not bool(torch.isfinite(estimate).all()):
                    raise HistomixError(
                        f"The network '{model.name}' returned something that is not a number at step {number + 1}; "
                        "its weights are unusable on this device."
                    )
                reached = finished // sampler.forwards + len(chosen)
                yield Event(
                    f"{phase} {reached} of {len(windows)}, step {number + 1}/{sampler.forwards}",
                    finished + (number + 1) * len(chosen),
                    total,
                    preview=_composite(estimate[:1], group[:1])[0],
                )
            try:
                next(steps)
            except StopIteration as end:
                estimate = end.value
        except torch.OutOfMemoryError:
            if batch == 1:
                raise HistomixError(
                    "The device has no memory left for a single window; close other programs or use cpu."
                ) from None
            batch = max(1, min(batch, len(chosen)) // 2)
            steps.close()
            torch.cuda.empty_cache()
            yield Event(phase, finished, total, message=f"Out of memory: going on with batches of {batch}.")
            continue
        finally:
            steps.close()
        for index, pixels in zip(chosen, _composite(estimate, group), strict=True):
            results[index] = pixels
        taken = set(chosen)
        waiting = [i for i in waiting if i not in taken]
        finished += len(chosen) * sampler.forwards
    return [pixels for pixels in results if pixels is not None]


def _tensors(group: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Known pixels, hole and first guess of a batch, at the model's scale."""
    guesses, holes = [], []
    for window in group:
        side = window.model_side
        guess = fill_navier_stokes(window.pixels, window.hole)
        hole = window.hole
        if side != len(hole):
            guess = _resized(guess, side)
            hole = cv2.resize(hole.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR) > 0
        guesses.append(guess)
        holes.append(hole)
    guess_batch = torch.from_numpy(np.stack(guesses)).permute(0, 3, 1, 2).float() / 127.5 - 1
    # The guess is what is known wherever there is no hole, and hides what lay under it, so nothing can leak.
    return guess_batch, torch.from_numpy(np.stack(holes))[:, None].float(), guess_batch.clone()


def _resized(pixels: NDArray[np.generic], side: int) -> NDArray[np.uint8]:
    interpolation = cv2.INTER_AREA if side < len(pixels) else cv2.INTER_CUBIC
    return cv2.resize(np.asarray(pixels, np.uint8), (side, side), interpolation=interpolation).astype(np.uint8)


def _composite(estimate: Tensor, group: Sequence[Window]) -> list[NDArray[np.uint8]]:
    """Estimates as pixels inside the holes, the windows' own pixels outside."""
    colors = np.rint((estimate.clamp(-1, 1).permute(0, 2, 3, 1).cpu().numpy() + 1) * 127.5).astype(np.uint8)
    found = []
    for window, color in zip(group, colors, strict=True):
        size = len(window.hole)
        fitted = color if len(color) == size else _resized(color, size)
        found.append(np.where(window.hole[..., None], fitted, window.pixels))
    return found
