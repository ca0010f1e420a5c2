"""The engine: holes of many images, denoised together in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_histomix.devices import choose_device, free_memory, out_of_memory
from napari_histomix.diffusion import models
from napari_histomix.diffusion.models import AnyModel, InpaintingModel, PromptedModel
from napari_histomix.diffusion.random_field import add_grain, fill_smoothly
from napari_histomix.diffusion.samplers import SAMPLERS, Holes, Sampler, Steps
from napari_histomix.records import Event, HistomixError, Job

BATCH = 16
PREVIEWS = 0.25
"""Seconds between two previews: a latent one costs a pass of the decoder."""
TILES = 64
"""Windows of a model that go through it at once, at most: tiles multiply a batch."""
GRAIN = 1
"""Sets the random stream of a window's grain apart from that of its noise."""


@dataclass(frozen=True, eq=False)
class Window:
    """A square window (S, S, 3) with a hole (S, S), some but not all of its pixels, whose own are never looked at.

    ``side`` is the side in pixels at which the model sees the window: S by default, another where scales differ. One
    that is larger than any window of the model is seen in overlapping tiles, which are denoised together
    (MultiDiffusion, arXiv 2302.08113). ``guess`` (S, S, 3) is what may lie in the hole, for samplers that begin with a
    guess; by default ``fill_smoothly`` makes one. All noise that the window meets is drawn from ``seed``.
    """

    pixels: NDArray[np.uint8]
    hole: NDArray[np.bool_]
    seed: int
    side: int = 0
    guess: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", self.side or len(self.hole))
        if not self.hole.any():
            raise HistomixError("A hole without a pixel cannot be inpainted.")
        if self.hole.all():
            raise HistomixError("A hole that covers its whole window leaves nothing to go by; use a larger window.")


def inpaint(
    windows: Sequence[Window],
    model: AnyModel | Engine,
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
    model : InpaintingModel, PromptedModel or Engine
        A model that is opened (``opened``) already spares the copies of its network that each call would make.
    sampler : Sampler
    device : str
        auto, cpu, cuda or mps; of no matter for an opened model.
    batch : int
        Windows denoised together. Halved, and said so, when the device runs out of memory.
    phase : str
        What the events call it. There is one for every denoising step, now and then with a preview of x̂0.

    Returns
    -------
    list of (S, S, 3) uint8
        In the order of ``windows``; pixels outside the holes are the windows' own, bit for bit.

    Raises
    ------
    HistomixError
        If the network returns something that is not a number, or the device is missing.
    """
    engine = model if isinstance(model, _Network | _Prompted) else opened(model, device)
    place = engine.place
    results: list[NDArray[np.uint8] | None] = [None] * len(windows)
    waiting = sorted(range(len(windows)), key=lambda i: windows[i].side)
    total, finished, shown = len(windows) * sampler.forwards, 0, 0.0

    while waiting:
        side = windows[waiting[0]].side
        chosen = [i for i in waiting[:batch] if windows[i].side == side]
        group = [windows[i] for i in chosen]
        guess, hole = (tensor.to(place) for tensor in _tensors(group))
        steps = engine.steps(guess, hole, [torch.Generator().manual_seed(window.seed) for window in group], sampler)
        number, filled = 0, None
        try:
            while filled is None:
                try:
                    estimate = next(steps)
                except StopIteration as end:
                    estimate = filled = end.value
                if not bool(torch.isfinite(estimate).all()):
                    raise HistomixError(
                        f"The network '{engine.model.name}' returned something that is not a number at step "
                        f"{max(1, number + (filled is None))}; its weights are unusable on this device."
                    )
                if filled is not None:
                    break
                number = min(number + 1, sampler.forwards)
                preview = None
                if time.monotonic() - shown > PREVIEWS:
                    preview, shown = engine.preview(estimate, group), time.monotonic()
                reached = finished // sampler.forwards + len(chosen)
                yield Event(
                    f"{phase} {reached} of {len(windows)}, step {number}/{sampler.forwards}",
                    finished + number * len(chosen),
                    total,
                    preview=preview,
                )
            pixels = _composite(filled, group, sampler.grain)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(chosen) == 1:
                raise HistomixError(
                    "The device has no memory left for a single window; close other programs or use cpu."
                ) from None
            batch = len(chosen) // 2
        else:
            for index, filling in zip(chosen, pixels, strict=True):
                results[index] = filling
            # ``chosen`` are the first ones: all of one size stand together.
            waiting = waiting[len(chosen) :]
            finished += len(chosen) * sampler.forwards
            continue
        finally:
            steps.close()
        # Outside the handler: while it runs, the error's traceback still holds the batch that did not fit.
        del steps, guess, hole
        free_memory(place)
        yield Event(phase, finished, total, message=f"Out of memory: going on with batches of {batch}.")
    return [pixels for pixels in results if pixels is not None]


class _Network:
    """A network of pixels or of latents, ready on its device."""

    def __init__(self, model: InpaintingModel, place: torch.device, together: int = 1) -> None:
        self.model, self.place, self.dtype, self.together = model, place, models.fast_dtype(place), together
        # A copy: the model may be shared, and a cast to fewer bits cannot be taken back. Module.to, not diffusers'
        # own: that one warns at every cast about layers this network does not have.
        self.network: Any = torch.nn.Module.to(
            deepcopy(model.network), device=place, dtype=self.dtype, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.network.eval().requires_grad_(False)
        self.autoencoder: Any = None
        if model.autoencoder is not None:
            self.autoencoder = deepcopy(model.autoencoder).to(place).eval().requires_grad_(False)

    def steps(self, guess: Tensor, hole: Tensor, generators: list[torch.Generator], sampler: Sampler) -> Steps:
        """Denoise a batch of windows (N, 3, S, S); yields estimates in the network's space, returns pixels."""
        # The guess is what is known wherever there is no hole, and hides what lay under it, so nothing can leak.
        known = guess
        if self.autoencoder is not None:
            known = models.encode(self.autoencoder, guess)
            # A latent that sees a single pixel of the hole is unknown.
            hole = torch.nn.functional.max_pool2d(hole, self.model.reduction)
        channels, space = int(self.network.config["in_channels"]), self.model.channels
        seen_pixels, seen_hole = (known, hole) if sampler.conditional else (None, None)

        def denoise(noisy: Tensor, time: int) -> Tensor:
            seen = models.network_input(noisy, seen_pixels, seen_hole, channels).to(self.dtype)
            return self._predicted(seen, time)[:, :space]

        problem = Holes(denoise, self.model.schedule, known, hole, known.clone(), generators)
        estimate = yield from SAMPLERS[sampler.method](problem, sampler)
        return self._decoded(estimate)

    def _predicted(self, seen: Tensor, time: int) -> Tensor:
        """The network's answer to a batch, of windows or of what has to be tiled into them."""
        side = max(self.model.windows) // self.model.reduction
        if seen.shape[-1] <= side:
            return self._in_passes(seen, time)
        places = tile_places(seen.shape[-1], side)
        tiles = [seen[..., row : row + side, col : col + side] for row, col in places]
        answers = self._in_passes(torch.cat(tiles), time).split(len(seen))
        weight = tile_weight(side).to(seen.device)
        total = torch.zeros(len(seen), answers[0].shape[1], *seen.shape[-2:], device=seen.device)
        weights = torch.zeros(seen.shape[-2:], device=seen.device)
        for (row, col), answer in zip(places, answers, strict=True):
            total[..., row : row + side, col : col + side] += weight * answer.float()
            weights[row : row + side, col : col + side] += weight
        return total / weights

    def _in_passes(self, seen: Tensor, time: int) -> Tensor:
        """The network's answer to a batch of windows."""
        if self.place.type != "cpu":
            return torch.cat([self._answer(part, time) for part in seen.split(TILES)])
        # Processors round otherwise in passes of another size. With as many windows in each, no result depends on the
        # batch to the last bit.
        missing = -len(seen) % self.together
        whole = torch.cat([seen, seen[-1:].expand(missing, -1, -1, -1)]) if missing else seen
        return torch.cat([self._answer(part, time) for part in whole.split(self.together)])[: len(seen)]

    def _answer(self, seen: Tensor, time: int) -> Tensor:
        seen = seen.contiguous(memory_format=torch.channels_last)
        return self.network(seen, torch.full((len(seen),), time, device=self.place)).sample

    def preview(self, estimate: Tensor, group: Sequence[Window]) -> NDArray[np.uint8]:
        """x̂0 of the first window."""
        return _composite(self._decoded(estimate[:1]), group[:1])[0]

    def _decoded(self, estimate: Tensor) -> Tensor:
        return estimate if self.autoencoder is None else models.decode(self.autoencoder, estimate)


class _StopPipelineError(Exception):
    """Raised inside a pipeline, to leave it between two steps."""


class _Prompted:
    """A pipeline, moved to its device."""

    def __init__(self, model: PromptedModel, place: torch.device) -> None:
        self.model, self.place = model, place
        # In few bits on graphics cards only: what a whole pipeline loses by them on a processor nobody has measured.
        model.pipeline.to(*((place,) if place.type == "cpu" else (place, models.fast_dtype(place))))

    def steps(self, guess: Tensor, hole: Tensor, generators: list[torch.Generator], sampler: Sampler) -> Steps:
        """Run the pipeline in a thread of its own; yields its latents after every step and returns pixels.

        Closing stops the pipeline at the end of the step it is in.
        """
        answers: SimpleQueue[Tensor | BaseException | None] = SimpleQueue()
        stop = Flag()
        finished: list[Tensor] = []
        strength = min(1.0, sampler.start / 1000)

        def on_step(_pipeline: Any, _number: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            if stop.is_set():
                raise _StopPipelineError
            answers.put(values["latents"].detach())
            return values

        def work() -> None:
            try:
                with torch.no_grad():
                    made = self.model.pipeline(
                        prompt=[self.model.prompt] * len(guess),
                        image=(guess + 1) / 2,
                        mask_image=hole,
                        height=guess.shape[-2],
                        width=guess.shape[-1],
                        strength=strength,
                        num_inference_steps=max(1, round(sampler.steps / strength)),
                        generator=generators,
                        output_type="pt",
                        callback_on_step_end=on_step,
                    )
                finished.append(made.images.float() * 2 - 1)
                answers.put(None)
            except BaseException as error:
                answers.put(error)

        thread = Thread(target=work, name="inpainting pipeline", daemon=True)
        thread.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            stop.set()
            thread.join()
        return finished[0]

    def preview(self, _estimate: Tensor, _group: Sequence[Window]) -> None:
        """None: pipelines do not tell their x̂0."""


Engine = _Network | _Prompted
"""A model on its device, in the number format it runs fastest in."""


def opened(model: AnyModel, device: str, together: int = 1) -> Engine:
    """A model ready for several calls of ``inpaint`` on a device (auto, cpu, cuda or mps).

    On a processor, ``together`` windows share a pass of the network: four are a fifth faster than one at a time, where
    there are many.
    """
    place = choose_device(device)
    return _Prompted(model, place) if isinstance(model, PromptedModel) else _Network(model, place, together)


def tile_places(length: int, side: int) -> list[tuple[int, int]]:
    """Upper left corners of square tiles that cover a square evenly, overlapping by a quarter or more."""
    count = -(-(length - side) // (side - side // 4)) + 1
    starts = [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
    return [(row, col) for row in starts for col in starts]


def tile_weight(side: int) -> Tensor:
    """Weight (side, side) of a tile's answer: falls toward its border, where it has seen least; nowhere 0."""
    ramp = torch.hann_window(side + 2, periodic=False)[1:-1]
    return ramp[:, None] * ramp[None] + 1e-3


def _tensors(group: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """First guess of all pixels (N, 3, S, S) in [−1, 1] and hole (N, 1, S, S) of a batch, at the model's scale."""
    guesses, holes = [], []
    for window in group:
        side, hole = window.side, window.hole
        if window.guess is None:
            guess = fill_smoothly(window.pixels, hole)
        else:
            guess = np.where(hole[..., None], window.guess, window.pixels)
        if side != len(hole):
            guess = _resized(guess, side)
            hole = cv2.resize(hole.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR) > 0
        guesses.append(guess)
        holes.append(hole)
    guess_batch = torch.from_numpy(np.stack(guesses)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return guess_batch, torch.from_numpy(np.stack(holes))[:, None].float()


def _resized(pixels: NDArray[np.generic], side: int) -> NDArray[np.uint8]:
    interpolation = cv2.INTER_AREA if side < len(pixels) else cv2.INTER_CUBIC
    return cv2.resize(np.asarray(pixels, np.uint8), (side, side), interpolation=interpolation).astype(np.uint8)


def as_pixels(images: Tensor) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8 of (N, 3, H, W) in [−1, 1]."""
    colors = images.detach().float().clamp(-1, 1).permute(0, 2, 3, 1).cpu().numpy()
    return np.rint((colors + 1) * 127.5).astype(np.uint8)


def _composite(estimate: Tensor, group: Sequence[Window], grain: bool = False) -> list[NDArray[np.uint8]]:
    """Estimates as pixels inside the holes, with grain, and the windows' own pixels outside."""
    composites = []
    for window, color in zip(group, as_pixels(estimate), strict=True):
        size = len(window.hole)
        fitted = color if len(color) == size else _resized(color, size)
        filled = window.pixels.copy()
        filled[window.hole] = fitted[window.hole]
        if grain:
            noise = np.random.default_rng([window.seed, GRAIN]).standard_normal((window.hole.sum(), 3))
            filled = add_grain(filled, window.hole, noise)
        composites.append(filled)
    return composites
