"""Train networks: one loop for all, which can be stopped, killed and taken up again."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.devices import choose_device, memory_error
from napari_histomix.diffusion.model_files import check_room, read_card, save_model, scale_of
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.settings import check_settings, made_from, plain, settings_of
from napari_histomix.training import SUMMARY, recipe_class, settings_class, state_folder, unfinished
from napari_histomix.training.images import collection_id, since
from napari_histomix.training.settings import LabeledSettings, TrainingSettings

STATE = "state.pt"


class Recipe(Protocol):
    """What the loop needs of a kind of network. A batch is a tuple of tensors.

    Attributes
    ----------
    network : Module
        To be trained.
    schedule : mapping
        diffusers scheduler configuration, saved beside the weights; empty where there is none.
    windows : tuple of int
        Sides in pixels it may be run at.
    columns : tuple of str
        What stands side by side in ``shown``.
    what : str
        What the network is, for its model card.
    facts : mapping
        What the model card says beside the run, such as the classes it knows.
    betas : tuple of float, optional
        The optimizer's, where they are not (0.9, 0.999).
    """

    network: torch.nn.Module
    schedule: Mapping[str, Any]
    windows: tuple[int, ...]
    columns: tuple[str, ...]
    what: str
    facts: Mapping[str, Any]

    def __init__(self, settings: Any, start: Path | None, autoencoder: Path | None) -> None: ...

    def pictures(self, sources: Sequence[Any], seed: int, splits: Mapping[str, str] | None) -> Job[tuple[list, list]]:
        """What to learn from, and what to check on: each with ``name``, ``folder``, ``slide``, ``size``, ``pixels``."""

    def batches(self, pictures: Sequence[Any], rank: int) -> Any:
        """By ``at(step)`` the batch of a step; the same step gives the same batch."""

    def fixed(self, pictures: Sequence[Any]) -> tuple[Tensor, ...]:
        """The batch that is checked and shown."""

    def loss(self, network: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """The loss of a batch; all randomness from a generator of the processor."""

    def check(self, network: Any, batch: Any) -> float:
        """The validation loss."""

    def shown(self, network: Any, batch: Any) -> NDArray[np.uint8]:
        """A picture (H, W, 3) of what the network makes of the batch."""

    def parts(self, network: Any, batch: Any) -> torch.nn.Module | Mapping[str, torch.nn.Module]:
        """What is saved."""


def train(
    kind: str,
    images: Sequence[Any],
    out: Path,
    *,
    settings: TrainingSettings | None = None,
    start: Path | None = None,
    autoencoder: Path | None = None,
    mpp: tuple[float, float] | None = None,
    device: str = "auto",
    name: str | None = None,
    resume: bool = False,
    splits: Mapping[str, str] | None = None,
) -> Job[Path]:
    """Train a network; a long job (see ``records.Job``). Closing it keeps the best checkpoint so far.

    Parameters
    ----------
    kind : str
        One of ``training.KINDS``; ``latent`` needs a trained ``autoencoder``.
    images : sequence of Path, (name, (H, W, 3) uint8) or Dataset
        Folders, searched below, open images, and datasets, of which the real images of the training split count; for
        networks that learn from labels, labeled datasets or their folders. Whole slides and patients are held out for
        validation.
    out : Path
        New model folder. It always holds the best whole checkpoint: the moving average of the weights with the lowest
        validation loss. What a killed run needs to go on lies beside it, in ``OUT.training``, until the run ends.
    settings : TrainingSettings, optional
        Of ``settings_class(kind)``, whose defaults they are. A run that is taken up again keeps its own.
    start : Path, optional
        Model folder to fine-tune; without it the network is new.
    autoencoder : Path, optional
        Folder of the trained autoencoder of a latent network.
    mpp : (low, high), optional
        Range of µm/px of the images; without it the scale of labeled windows, or what ``start``'s card says.
    device : str
        auto, cpu, cuda or mps.
    name : str, optional
        Written into the model card; ``out``'s by default.
    resume : bool
        Take up the run that ``out`` was the goal of, with its own settings and start. Bounded by steps, it goes on with
        the losses it would have had.
    splits : mapping of str to str, optional
        Split by image, where a person chose other ones than the folders say: test and validation images of any kind are
        not learned from.

    Yields
    ------
    Event
        ``done``/``total`` in steps, or in seconds for a run bounded by time; ``figures`` with step, loss and the
        seconds left, at every checkpoint the validation loss too, with a picture of samples.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    HistomixError
        For missing images, an unusable starting point, an unknown scale, an ``out`` that exists, too little disk, or
        a loss that is not a number.
    """
    for folder in images:
        if isinstance(folder, Path) and not folder.is_dir():
            raise HistomixError(f"{folder} is not there, or no folder; name a folder of images.")
    recipe_type, settings_type = recipe_class(kind), settings_class(kind)
    state = _state(out, resume)
    if state is not None:
        if state["kind"] != kind:
            raise HistomixError(f"The run at {out} learned something else or from other images; name a new folder.")
        # Runs of earlier versions kept the settings of all kinds of networks.
        known = {setting.name for setting in settings_of(settings_type)}
        settings = made_from(settings_type, {name: kept for name, kept in state["settings"].items() if name in known})
        if "start" in state:
            start = Path(state["start"]) if state["start"] else None
    settings = check_settings(settings or settings_type())
    if mpp is None and isinstance(settings, LabeledSettings):
        mpp = settings.window_mpp, settings.window_mpp
    elif mpp is None:
        mpp = _scale_of(start, autoencoder)
    processes = Processes(choose_device(device))
    torch.manual_seed(settings.seed)
    recipe: Recipe = recipe_type(settings, start, autoencoder)
    learned, checked = yield from recipe.pictures(images, settings.seed, splits)
    network = torch.nn.Module.to(recipe.network, processes.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = deepcopy(network).requires_grad_(False).eval()
    weights = sum(parameter.numel() for parameter in network.parameters())
    check_room(out, 2 * weights + 2 * 16 * weights)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, betas=getattr(recipe, "betas", (0.9, 0.999))
    )
    batches = recipe.batches(learned, processes.rank)
    held_out = tuple(tensor.to(processes.device) for tensor in recipe.fixed(checked))

    step, smooth, spent, best = 0, 0.0, 0.0, math.inf
    history: list[dict[str, float]] = []
    identity = collection_id([*learned, *checked])
    if state is not None:
        if state["images"] != identity:
            raise HistomixError(f"The run at {out} learned something else or from other images; name a new folder.")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, smooth, spent, best, history = (state[key] for key in ("step", "smooth", "minutes", "best", "history"))
    running, optimizer = processes.prepare(network, optimizer)
    began = saved = time.monotonic()
    # Images that trained what the network starts from or is built on trained this one, too.
    distinct = {(picture.folder, pixels_sha256(picture.pixels())) for picture in learned}
    trained_on = {sha256 for _, sha256 in distinct}
    trained_on.update(*(read_card(path).get("training_pixels", []) for path in (start, autoencoder) if path))
    trained_on.update(recipe.facts.get("training_pixels", []))
    # Several pictures may be tiles of one image.
    to_learn, to_check = Counter(folder for folder, _ in distinct), Counter(picture.folder for picture in checked)
    folders = sorted(to_learn | to_check)
    facts = {
        "kind": kind,
        **recipe.facts,
        # Folder names only: paths may tell too much.
        "training_images": {folder: to_learn[folder] for folder in folders},
        "validation_images": {folder: to_check[folder] for folder in folders},
        "validation_slides": sorted({picture.slide for picture in checked}),
        "started_from": start.name if start else None,
        "recipe": plain(settings),
        "device": str(processes.device),
        "processes": processes.count,
        "training_pixels": sorted(trained_on),
    }

    def minutes() -> float:
        return spent + (time.monotonic() - began) / 60

    def save() -> dict[str, float]:
        """Keep the average if it is the best one yet, and the state of the run."""
        nonlocal best
        figures = {"step": step, "minutes": round(minutes(), 1)}
        figures["validation"] = recipe.check(average, held_out)
        history.append(figures)
        if figures["validation"] <= best:
            best = figures["validation"]
            card = facts | {"history": list(history), "best": figures}
            save_model(
                out,
                recipe.parts(average, held_out),
                recipe.schedule,
                name=name or out.name,
                mpp=mpp,
                windows=recipe.windows,
                extra=card,
                readme=_readme(name or out.name, recipe.what, mpp, card),
            )
        numbers = {"kind": kind, "step": step, "smooth": smooth, "minutes": minutes(), "best": best}
        kept = {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history,
            "settings": plain(settings),
            "images": identity,
            "start": str(start.resolve()) if start else "",
        }
        _keep(out, kept | numbers)
        return figures

    too_large = (
        f"The device has no memory left for {settings.batch} windows of {settings.window} pixels a step; "
        "train with a smaller batch."
    )
    source: Iterator[Any] = since(batches.at, step)
    try:
        while True:
            position = step / settings.steps if settings.steps else minutes() / settings.minutes
            if processes.agree(position >= 1):
                break
            warm = min(1.0, (step + 1) / settings.warmup)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, position)))
            batch = tuple(tensor.to(processes.device) for tensor in next(source))
            seeds = np.random.SeedSequence([settings.seed, processes.rank, step]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(seeds[0] >> 1))
            with memory_error(too_large):
                loss = recipe.loss(running, batch, generator)
                optimizer.zero_grad(set_to_none=True)
                processes.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise HistomixError(f"The loss is not a number at step {step}; train again with a lower learning rate.")
            smooth = value if step == 1 else 0.98 * smooth + 0.02 * value
            keep = min(settings.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, new in zip(_numbers(average), _numbers(network), strict=True):
                    mean.lerp_(new, 1 - keep)
            total = settings.steps or int(60 * settings.minutes)
            done = step if settings.steps else min(int(60 * minutes()), total)
            left = 60 * minutes() * (settings.steps - step) / step if settings.steps else float(total - done)
            event = Event(
                f"Training, loss {smooth:.4f}", done, total, figures={"step": step, "loss": value, "left": left}
            )
            if processes.main and time.monotonic() - saved > 60 * settings.save_minutes:
                figures = event.figures | save()  # type: ignore[operator]
                shown = recipe.shown(average, held_out)
                event = replace(event, figures=figures, preview=shown)
                saved = time.monotonic()
            held = time.monotonic()
            try:
                yield event
            finally:
                # A run that is paused stands here, and may be stopped here; that is none of its time.
                began += time.monotonic() - held
                saved += time.monotonic() - held
        if processes.main:
            figures = save()
            yield Event("Training", 1, 1, figures=figures, preview=recipe.shown(average, held_out))
            shutil.rmtree(state_folder(out), ignore_errors=True)
    except GeneratorExit:
        if processes.main and step:
            save()
        raise
    finally:
        source.close()  # type: ignore[attr-defined]
        processes.end()
    return out


def _numbers(network: torch.nn.Module) -> Iterator[Tensor]:
    """Weights, and the statistics of normalization layers."""
    return (tensor for tensor in chain(network.parameters(), network.buffers()) if tensor.is_floating_point())


def _scale_of(*folders: Path | None) -> tuple[float, float]:
    for folder in folders:
        if folder is not None and "mpp" in (card := read_card(folder)):
            return scale_of(card, folder, (1,))[0]
    raise HistomixError("Nothing says how many µm one pixel of these images is; pass --mpp LOW HIGH.")


def _state(out: Path, resume: bool) -> dict[str, Any] | None:
    """What was kept of an unfinished run, where it is asked for."""
    folder = state_folder(out)
    if not resume:
        for path in (out, folder):
            if path.exists():
                known = " or resume the run (--resume)" if unfinished(out) else ""
                raise HistomixError(f"{path} already exists; name a new folder{known}.")
        return None
    if unfinished(out) is None:
        raise HistomixError(f"{folder} holds no run that could be resumed; start it without --resume.")
    try:
        return dict(torch.load(folder / STATE, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise HistomixError(f"{folder / STATE} is damaged ({type(error).__name__}); start a new run.") from None


def _keep(out: Path, state: dict[str, Any]) -> None:
    """Write the state of a run: each file beside its place first, then renamed."""
    folder = state_folder(out)
    summary = {"step": state["step"], "minutes": state["minutes"], "kind": state["kind"]}
    summary["saved"] = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / f"{STATE}.partial")
        os.replace(folder / f"{STATE}.partial", folder / STATE)
        (folder / f"{SUMMARY}.partial").write_text(json.dumps(summary), encoding="utf-8")
        os.replace(folder / f"{SUMMARY}.partial", folder / SUMMARY)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HistomixError(f"{folder} could not be written ({reason}); free space and resume the run.") from None


def _readme(name: str, what: str, mpp: tuple[float, float], card: Mapping[str, Any]) -> str:
    """The model card a person reads."""
    best, last = card["best"], card["history"][-1]
    rows = "\n".join(
        f"| {folder} | {count:,} | {card['validation_images'][folder]:,} |"
        for folder, count in card["training_images"].items()
    )
    curve = "\n".join(f"| {row['step']} | {row['minutes']} | {row['validation']:.4f} |" for row in card["history"])
    return (
        f"# {name}\n\n{what} For napari-histomix. Research use; not for diagnosis.\n\n"
        f"Scale: {mpp[0]}–{mpp[1]} µm/px.\n\n"
        f"## Data\n\n| images | to learn from | to check on |\n|---|---|---|\n{rows}\n\n"
        "Whole slides are held out (`validation_slides` in `histomix.json`); `training_pixels` there lists the SHA-256 "
        "of every image learned from, also by what it started from. The images' licenses govern what "
        "these weights may be used for.\n\n"
        f"## Recipe\n\nStarted from: {card['started_from'] or 'random weights'}. {int(last['step'])} steps in "
        f"{last['minutes']} minutes on {card['device']}, {card['processes']} process(es). Settings are in "
        f"`histomix.json`.\n\n## Figures\n\nThese weights: step {int(best['step'])}, the lowest validation loss, "
        f"{best['validation']:.4f}.\n\n| step | minutes | validation loss |\n|---|---|---|\n{curve}\n"
    )


class Processes:
    """This process among those of one run, each on a graphics card of its own, as ``accelerate launch`` starts them.

    Alone, it uses ``device`` and changes nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.device, self.rank, self._accelerator = device, 0, None
        if self.count > 1:
            try:
                from accelerate import Accelerator
            except ImportError:
                raise HistomixError("Training in several processes needs 'pip install accelerate'.") from None
            self._accelerator = Accelerator(cpu=device.type == "cpu")
            self.device, self.rank = self._accelerator.device, self._accelerator.process_index
        # The process that writes checkpoints.
        self.main = self.rank == 0

    def prepare(self, network: Any, optimizer: Any) -> tuple[Any, Any]:
        """Network and optimizer that share their gradients with the other processes'."""
        return (network, optimizer) if self._accelerator is None else self._accelerator.prepare(network, optimizer)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss."""
        if self._accelerator is None:
            loss.backward()
        else:
            self._accelerator.backward(loss)

    def agree(self, done: bool) -> bool:
        """The main process's answer, for all: clocks differ, and who stops alone leaves the others waiting."""
        if self._accelerator is None:
            return done
        from accelerate.utils import broadcast

        return bool(broadcast(torch.tensor([int(done)], device=self.device))[0])

    def end(self) -> None:
        """Leave the others in order."""
        if self._accelerator is not None:
            self._accelerator.end_training()
