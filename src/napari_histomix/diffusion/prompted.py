"""Pipelines that follow a prompt: any folder that diffusers' ``AutoPipelineForInpainting`` opens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from napari_histomix.diffusion.models import InpaintingModel
from napari_histomix.diffusion.samplers import Sampler, Steps
from napari_histomix.records import HistomixError


@dataclass(eq=False)
class PromptedModel:
    """A whole pipeline with its prompt; the rest as in ``InpaintingModel``.

    It runs its own scheduler: of a sampler only ``steps`` and ``start`` (its strength, out of 1000) count.
    """

    pipeline: Any
    prompt: str
    mpp: tuple[float, float]
    windows: tuple[int, ...]
    name: str
    sha256: str
    card: Mapping[str, Any]

    conditional = True


AnyModel = InpaintingModel | PromptedModel
"""Whatever the engine can fill holes with."""


class _StopPipelineError(Exception):
    """Raised inside the pipeline, to leave it between two steps."""


def load_prompted(folder: Path, card: Mapping[str, Any], prompt: str) -> PromptedModel:
    """Load a pipeline folder.

    Parameters
    ----------
    folder : Path
        With a ``model_index.json`` and safetensors weights.
    card : mapping
        ``mpp`` and ``windows``, and ``prompt`` where the argument is empty.
    prompt : str
        What the hole is to hold, in words.

    Raises
    ------
    HistomixError
        Without a prompt, without a scale, or for a folder that is no inpainting pipeline.
    """
    from napari_histomix.diffusion.model_files import file_sha256, scale_of

    words = prompt or str(card.get("prompt", ""))
    if not words:
        raise HistomixError(f"The pipeline '{folder.name}' follows a prompt; say what the hole is to hold (--prompt).")
    mpp, windows = scale_of(card, folder, (512,))
    if any(side % 8 for side in windows):
        raise HistomixError(f"{folder.name}: windows of a pipeline must be multiples of 8 pixels, not {windows}.")
    try:
        from diffusers import AutoPipelineForInpainting

        pipeline = AutoPipelineForInpainting.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except ImportError as error:
        raise HistomixError(f"Pipelines that follow a prompt need 'pip install transformers' ({error}).") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise HistomixError(f"{folder} does not open as an inpainting pipeline ({reason}).") from None
    pipeline.set_progress_bar_config(disable=True)
    weights = sorted(folder.rglob("*.safetensors"))
    digest = hashlib.sha256("".join(file_sha256(one) for one in weights).encode()).hexdigest()
    return PromptedModel(pipeline, words, mpp, windows, str(card.get("name", folder.name)), digest, card)


def prompted_steps(
    model: PromptedModel, guess: Tensor, hole: Tensor, generators: Sequence[torch.Generator], settings: Sampler
) -> Steps:
    """Run the pipeline in a thread of its own; yields its latents after every step and returns pixels (N, 3, H, W).

    ``guess`` (N, 3, H, W) in [−1, 1] already hides what lay under ``hole`` (N, 1, H, W). Closing stops the pipeline
    at the end of the step it is in.
    """
    told: SimpleQueue[Tensor | BaseException | None] = SimpleQueue()
    stop = Flag()
    finished: list[Tensor] = []
    strength = min(1.0, settings.start / 1000)

    def on_step(_pipeline: Any, _number: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        if stop.is_set():
            raise _StopPipelineError
        told.put(values["latents"].detach())
        return values

    def work() -> None:
        try:
            with torch.no_grad():
                made = model.pipeline(
                    prompt=[model.prompt] * len(guess),
                    image=(guess + 1) / 2,
                    mask_image=hole,
                    height=guess.shape[-2],
                    width=guess.shape[-1],
                    strength=strength,
                    num_inference_steps=max(1, round(settings.steps / strength)),
                    generator=list(generators),
                    output_type="pt",
                    callback_on_step_end=on_step,
                )
            finished.append(made.images.float() * 2 - 1)
            told.put(None)
        except BaseException as error:
            told.put(error)

    thread = Thread(target=work, name="inpainting pipeline", daemon=True)
    thread.start()
    try:
        while (said := told.get()) is not None:
            if isinstance(said, BaseException):
                raise said
            yield said
    finally:
        stop.set()
        thread.join()
    return finished[0]
