"""Train the inpainting network on folders of images that need no labels."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from napari_histomix.diffusion.models import (
    CARD_FILE,
    fast_dtype,
    load_model,
    load_network,
    network_input,
    save_model,
)
from napari_histomix.records import Event, HistomixError, Job

WINDOWS = (48, 64, 80, 96, 128)
SCHEDULE = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": True,
}
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that shapes a training run; the only home of its defaults.

    ``minutes`` or ``steps`` bounds the run (steps win where both are given). ``window`` is in pixels, ``scale`` the
    range of random magnification, ``unconditional`` the share of windows that are hidden whole, ``low_noise`` the
    share whose timestep is drawn below ``low_noise_limit`` (thin rings are decided in the low-noise steps), and
    ``outside_weight`` the weight of the loss outside the hole.
    """

    minutes: float = 60.0
    steps: int | None = None
    batch: int = 16
    window: int = 64
    learning_rate: float = 3e-4
    warmup: int = 100
    ema: float = 0.998
    scale: tuple[float, float] = (0.8, 1.3)
    unconditional: float = 0.12
    low_noise: float = 0.8
    low_noise_limit: int = 600
    outside_weight: float = 0.1
    save_minutes: float = 5.0
    seed: int = 0


def new_network(window: int = 64) -> UNet2DModel:
    """An untrained 7-channel network of 4 million weights (8 MB in fp16)."""
    return UNet2DModel(
        sample_size=window,
        in_channels=7,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
    )


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Color images below ``folder``, and files that cannot be read, both sorted; label maps beside them are left out.

    Raises
    ------
    HistomixError
        For a folder without any color image.
    """
    found: list[Path] = []
    broken: list[Path] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            with Image.open(path) as image:
                if image.mode in ("RGB", "RGBA", "P"):
                    found.append(path)
        except (OSError, ValueError):
            broken.append(path)
    if not found:
        raise HistomixError(f"{folder} holds no color PNG, JPEG or TIFF image; name a folder of H&E images.")
    return found, broken


def slide_of(path: Path) -> str:
    """What a validation split must not cut: the TCGA patient a file name begins with, else the file's folder."""
    barcode = re.match(r"TCGA-\w{2}-\w{4}", path.name)
    return barcode.group() if barcode else path.parent.name


def split_by_slide(paths: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Training and validation files of one folder: a tenth of the slides, at least one, is held out whole.

    Of a single slide every tenth image is held out instead.
    """
    slides = sorted({slide_of(path) for path in paths})
    if len(slides) == 1:
        return [path for i, path in enumerate(paths) if i % 10], list(paths[::10])
    chosen = np.random.default_rng(seed).permutation(slides)[: max(1, len(slides) // 10)]
    held = [path for path in paths if slide_of(path) in set(chosen.tolist())]
    return [path for path in paths if path not in set(held)], held


def pixel_shares(paths: Sequence[Path]) -> NDArray[np.float64]:
    """(N,) share of all pixels that each image holds: a large image is drawn more often than a small tile."""
    counts = []
    for path in paths:
        with Image.open(path) as image:
            counts.append(image.width * image.height)
    return np.asarray(counts, np.float64) / sum(counts)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 pixels of an image file. Raises HistomixError where it cannot be read."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise HistomixError(f"{path} cannot be read as an image; remove it or export it again.")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8)


def random_window(pixels: NDArray[np.uint8], settings: TrainingSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One augmented (window, window, 3) uint8 crop: scale, flips, quarter turns, stain gain and shift."""
    size = settings.window
    side = round(size / rng.uniform(*settings.scale))
    side = min(side, *pixels.shape[:2])
    row = int(rng.integers(pixels.shape[0] - side + 1))
    col = int(rng.integers(pixels.shape[1] - side + 1))
    crop = pixels[row : row + side, col : col + side]
    if side != size:
        smooth = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        crop = cv2.resize(crop, (size, size), interpolation=smooth).astype(np.uint8)
    crop = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.7:
        density = -np.log10((crop.astype(np.float32) + 1) / 256)
        density = density * rng.uniform(0.85, 1.15, 3) + rng.uniform(-0.03, 0.03, 3)
        crop = np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(crop, dtype=np.uint8)


def random_hole(size: int, rng: np.random.Generator, unconditional: float) -> NDArray[np.float32]:
    """(size, size) float32 mask, 1 where hidden: all of it, or rings and discs around wobbly ellipses."""
    if rng.random() < unconditional:
        return np.ones((size, size), np.float32)
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    hole = np.zeros((size, size), bool)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        y, x = rng.uniform(0.2 * size, 0.8 * size, 2)
        a, b, turn = rng.uniform(5, 18), rng.uniform(5, 18), rng.uniform(0, math.pi)
        u = (rows - y) * math.cos(turn) + (cols - x) * math.sin(turn)
        v = (cols - x) * math.cos(turn) - (rows - y) * math.sin(turn)
        angle = np.arctan2(v, u)
        wobble = sum(rng.normal(0, 0.06) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 4, 5))
        distance = (np.hypot(u / a, v / b) - 1 - wobble) * min(a, b)
        if rng.random() < 0.6:
            # Layers 2 and 3 are two pixels wide; wider rings appear where the engine magnifies a window.
            width = rng.choice([2.0, 2.5, 3.0, 4.0, 6.0], p=[0.4, 0.2, 0.2, 0.1, 0.1])
            hole |= (distance >= 1) & (distance < 1 + width)
        else:
            hole |= distance < rng.uniform(0, 3)
    return hole.astype(np.float32)


def batches(
    paths: Sequence[Path], settings: TrainingSettings, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (N, 3, S, S) images in [−1, 1] and (N, 1, S, S) holes; the next batch is made while one is used."""

    shares = pixel_shares(paths)

    def make(seed: int) -> tuple[Tensor, Tensor]:
        own = np.random.default_rng(seed)
        chosen = own.choice(len(paths), size=settings.batch, p=shares)
        crops = np.stack([random_window(read_rgb(paths[i]), settings, own) for i in chosen])
        holes = np.stack([random_hole(settings.window, own, settings.unconditional) for _ in chosen])
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images, torch.from_numpy(holes)[:, None]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, int(rng.integers(2**63)))
        while True:
            ready = waiting.result()
            waiting = pool.submit(make, int(rng.integers(2**63)))
            yield ready


def inpainting_loss(
    network: UNet2DModel,
    scheduler: DDPMScheduler,
    images: Tensor,
    hole: Tensor,
    steps: Tensor,
    noise: Tensor,
    outside_weight: float,
) -> Tensor:
    """Mean squared error of the v-prediction: averaged inside each hole, plus a little of what lies outside it."""
    noisy = scheduler.add_noise(images, noise, steps)
    seen = network_input(noisy, images, hole, int(network.config["in_channels"]))
    dtype = fast_dtype(images.device)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        predicted = network(seen.contiguous(memory_format=torch.channels_last), steps).sample
    error = (predicted.float() - scheduler.get_velocity(images, noise, steps)).square().mean(1, keepdim=True)
    inside = (error * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3)).clamp(min=1)
    outside = (error * (1 - hole)).sum((1, 2, 3)) / (1 - hole).sum((1, 2, 3)).clamp(min=1)
    return (inside + outside_weight * outside).mean()


def random_steps(count: int, settings: TrainingSettings, generator: torch.Generator) -> Tensor:
    """Timesteps of a batch, more of them where little noise is left."""
    low = torch.rand(count, generator=generator) < settings.low_noise
    position = torch.rand(count, generator=generator)
    total = int(SCHEDULE["num_train_timesteps"])  # type: ignore[call-overload]
    return torch.where(low, position**1.5 * settings.low_noise_limit, position * total).long().clamp(max=total - 1)


@torch.no_grad()
def validation_loss(network: UNet2DModel, scheduler: DDPMScheduler, images: Tensor, holes: Tensor) -> float:
    """Mean loss inside the holes of fixed windows, over fixed noise at six timesteps."""
    total = 0.0
    times = (20, 60, 120, 250, 400, 600)
    for step in times:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(step)).to(images.device)
        steps = torch.full((len(images),), step, device=images.device)
        total += float(inpainting_loss(network, scheduler, images, holes, steps, noise, 0.0))
    return total / len(times)


def train_inpainter(
    folders: Sequence[Path],
    out: Path,
    *,
    settings: TrainingSettings | None = None,
    start: Path | None = None,
    mpp: tuple[float, float] | None = None,
    device: str = "cpu",
    name: str = "inpainter",
) -> Job[Path]:
    """Train the network that fills holes in H&E windows; a long job (see ``records.Job``).

    Parameters
    ----------
    folders : sequence of Path
        Folders of images, searched below; no labels are needed. Whole slides are held out for validation.
    out : Path
        New model folder. It always holds the latest whole checkpoint (moving average of the weights), so a stopped
        run keeps what it reached.
    settings : TrainingSettings, optional
    start : Path, optional
        Model folder to fine-tune from.
    mpp : (low, high), optional
        Range of µm/px of the images; taken from ``start``'s card where it is not given.
    device : str
        A torch device.
    name : str
        Written into the model card.

    Yields
    ------
    Event
        ``done``/``total`` in steps, or in seconds for a run bounded by time, and the loss in the phase.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    HistomixError
        For missing images, an unusable starting point, an unknown scale, or an ``out`` that exists.
    """
    settings = settings or TrainingSettings()
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")
    # Weights from elsewhere may come without a card; with one, they must be those it names.
    started = load_model(start) if start is not None and (start / CARD_FILE).is_file() else None
    if mpp is None and started is not None:
        mpp = started.mpp
    if mpp is None:
        raise HistomixError("Nothing says how many µm one pixel of these images is; pass --mpp LOW HIGH.")
    training: list[Path] = []
    held: list[Path] = []
    for folder in folders:
        found, broken = find_images(folder)
        for path in broken:
            yield Event("Reading images", message=f"Skipped: {path} cannot be read as an image.")
        learned, checked = split_by_slide(found, settings.seed)
        training += learned
        held += checked
    if not training or not held:
        raise HistomixError("Training needs at least two images: one to learn from and one to check on.")
    network, schedule = new_network(settings.window), dict(SCHEDULE)
    if start is not None:
        network, schedule = (started.network, dict(started.schedule)) if started else load_network(start)[:2]
        if int(network.config["in_channels"]) != 7 or schedule.get("prediction_type") != "v_prediction":
            raise HistomixError(f"{start}: only a 7-channel v-prediction network can be trained on.")
    torch.manual_seed(settings.seed)
    place = torch.device(device)
    network = network.to(place, memory_format=torch.channels_last).train()
    average = deepcopy(network).requires_grad_(False).eval()
    scheduler = DDPMScheduler.from_config(schedule)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    check_settings = TrainingSettings(**asdict(settings) | {"batch": 48, "unconditional": 0.0})
    check = next(batches(held, check_settings, np.random.default_rng(settings.seed)))
    check_images, check_holes = (tensor.to(place) for tensor in check)

    history: list[dict[str, float]] = []
    began = saved = time.monotonic()
    step, smooth = 0, 0.0

    def save() -> None:
        loss = validation_loss(average, scheduler, check_images, check_holes)
        history.append({"step": step, "minutes": round((time.monotonic() - began) / 60, 1), "validation": loss})
        card = _card(settings, folders, training, held, start, history, device)
        save_model(
            out, average, schedule, name=name, mpp=mpp, windows=WINDOWS, extra=card, readme=_readme(name, mpp, card)
        )

    for images, holes in batches(training, settings, rng):
        elapsed = time.monotonic() - began
        position = step / settings.steps if settings.steps else elapsed / (60 * settings.minutes)
        if position >= 1:
            break
        warm = min(1.0, (step + 1) / settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * position))
        images, holes = images.to(place), holes.to(place)
        times = random_steps(len(images), settings, generator).to(place)
        noise = torch.randn(images.shape, generator=generator).to(place)
        loss = inpainting_loss(network, scheduler, images, holes, times, noise, settings.outside_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise HistomixError(f"The loss is not a number at step {step}; train again with a lower learning rate.")
        smooth = value if step == 1 else 0.98 * smooth + 0.02 * value
        keep = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, 1 - keep)
        if time.monotonic() - saved > 60 * settings.save_minutes:
            save()
            saved = time.monotonic()
        phase = f"Training, loss {smooth:.4f}"
        if settings.steps:
            yield Event(phase, step, settings.steps)
        else:
            yield Event(phase, min(int(elapsed), int(60 * settings.minutes)), int(60 * settings.minutes))
    save()
    return out


def _card(
    settings: TrainingSettings,
    folders: Sequence[Path],
    training: Sequence[Path],
    held: Sequence[Path],
    start: Path | None,
    history: Sequence[dict[str, float]],
    device: str,
) -> dict[str, Any]:
    """What ``histomix.json`` says beyond name, scale and hash. Folder names only: paths may tell too much."""
    return {
        "training_images": {folder.name: sum(folder in path.parents for path in training) for folder in folders},
        "validation_images": {folder.name: sum(folder in path.parents for path in held) for folder in folders},
        "validation_slides": sorted({slide_of(path) for path in held}),
        "started_from": start.name if start else None,
        "recipe": asdict(settings),
        "device": device,
        "history": list(history),
    }


def _readme(name: str, mpp: tuple[float, float], card: dict[str, Any]) -> str:
    """The model card a person reads."""
    last = card["history"][-1]
    images = "\n".join(
        f"- {folder}: {count} images to learn from, {card['validation_images'][folder]} to check on"
        for folder, count in card["training_images"].items()
    )
    return (
        f"# {name}\n\nAn inpainting network for H&E windows, for napari-histomix. Research use; not for diagnosis.\n\n"
        f"Scale: {mpp[0]}–{mpp[1]} µm/px. Input: 7 channels (noisy RGB, known RGB with the hole at 0, mask). "
        f"Output: v-prediction.\n\n## Data\n\n{images}\n\nWhole slides are held out "
        f"(`validation_slides` in `histomix.json`). The images' licenses govern what these weights may be used for.\n\n"
        f"## Recipe\n\nStarted from: {card['started_from'] or 'random weights'}. {int(last['step'])} steps, "
        f"{last['minutes']} minutes on {card['device']}. Settings are in `histomix.json`.\n\n"
        f"## Figures\n\nValidation loss (v-prediction inside the hole): {last['validation']:.4f}\n"
    )
