"""Train the bundled generators and the bundled segmenter, on whatever machine there is; needs no network.

Run ``bundled_data.py`` first: its folders are all that is needed. With ``--pack`` they are 59 MB, and this script
unpacks them. Then::

    python scripts/train_bundled.py DATA OUT [--minutes 12] [--kinds segmenter image pix2pix structure]

The minutes are shared by the networks (``SHARES``). Each begins with the bundled weights where there are any, and goes
on where an earlier call with the same OUT was killed. On a graphics card batches are larger. Every network is a model
folder in OUT with its card, ``he-KIND``: look at the figures there, and copy what is better than the bundled one into
``src/napari_histomix/weights``.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from napari_histomix.datasets import write_hovernet
from napari_histomix.devices import choose_device
from napari_histomix.records import HistomixError
from napari_histomix.training import bundled_start, settings_class, unfinished
from napari_histomix.training.loop import train

SHARES = {"image": 0.4, "segmenter": 0.2, "pix2pix": 0.25, "structure": 0.15}
"""Of the minutes, for each network."""
BATCH = {"image": 128, "segmenter": 64, "pix2pix": 16, "structure": 64}
"""Windows a step on a graphics card."""
MPP = 0.5


def train_one(kind: str, data: list[Path], out: Path, minutes: float, device: str) -> None:
    """Train a network, or go on with it, and print its figures as they come."""
    large = {"batch": BATCH[kind]} if device != "cpu" else {}
    settings = settings_class(kind)(minutes=minutes, save_minutes=max(0.5, minutes / 15), **large)
    resume, began, told = unfinished(out) is not None, time.monotonic(), 0.0
    job = train(
        kind, data, out, settings=settings, start=bundled_start(kind), mpp=(MPP, MPP), device=device, resume=resume
    )
    for event in job:
        seconds = time.monotonic() - began
        if "validation" in event.figures or seconds - told > 30:
            told = seconds
            figures = ", ".join(f"{name} {value:.4g}" for name, value in event.figures.items())
            print(f"{kind}, {seconds:.0f} s: {event.phase} {figures}", flush=True)


def unpack(data: Path) -> None:
    """Write what ``bundled_data.py --pack`` packed as the files that it was, where that was not done yet."""
    images = {path.stem: path for path in data.glob("*/Images/*.webp")}
    for path in sorted(data.glob("*/Labels/*.webp")):
        folder, name = path.parents[1], path.stem
        if path.with_suffix(".mat").exists():
            continue
        low, high, kinds = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), np.int32), -1, 0)
        ids = low + 256 * high
        numbers, places = np.unique(ids, return_index=True)
        types = dict(zip(numbers.tolist(), kinds.ravel()[places].tolist(), strict=True))
        pixels = np.asarray(Image.open(images[name]).convert("RGB"))
        write_hovernet(folder / "part", name, pixels, ids, types, MPP)
        for written in (f"Images/{name}.png", f"Labels/{name}.mat"):
            (folder / written).parent.mkdir(exist_ok=True)
            (folder / "part" / written).replace(folder / written)
        shutil.rmtree(folder / "part")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the bundled generators and the bundled segmenter.")
    parser.add_argument("data", type=Path, help="what bundled_data.py made")
    parser.add_argument("out", type=Path, help="folder for the model folders")
    parser.add_argument("--minutes", type=float, default=240.0, help="for all networks together (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=SHARES, default=list(SHARES), help="which to train")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    arguments = parser.parse_args()
    device = choose_device(arguments.device).type
    unpack(arguments.data)
    brca, discs, bowl = (arguments.data / name for name in ("brca-m2c", "brca-m2c-discs", "dsb2018-he"))
    whole = sum(SHARES[kind] for kind in arguments.kinds)
    for kind in arguments.kinds:
        # The Bowl's nuclei have no class and lie in stains that no painter should learn.
        data = [discs, bowl] if kind == "segmenter" else [brca]
        try:
            train_one(kind, data, arguments.out / f"he-{kind}", arguments.minutes * SHARES[kind] / whole, device)
        except HistomixError as error:
            print(f"{kind}: {error}", flush=True)


if __name__ == "__main__":
    main()
