"""What the engine adds to the network, what it remembers, and how far number formats and batches change its results.

    python benchmarks/engine.py [--device cpu] [--count 64]

Windows are cut from the bundled sample. Ratios within one run are what compares.
"""

from __future__ import annotations

import argparse
import gc
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from napari_histomix.compositing.donors import transition_zone
from napari_histomix.datasets import load_sample
from napari_histomix.devices import choose_device
from napari_histomix.diffusion import inpainter
from napari_histomix.diffusion.inpainter import Window, inpaint
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.models import InpaintingModel
from napari_histomix.diffusion.samplers import PRESETS, Sampler
from napari_histomix.records import drain
from napari_histomix.weights import bundled

SIDE = 64


def windows_of(count: int) -> list[Window]:
    """Rings around nuclei of the sample, over and over again with other seeds."""
    dataset = load_sample()
    found: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]] = []
    for entry in dataset.training:
        image = dataset.read(entry)
        for instance in np.unique(image.instances)[1:]:
            rows, cols = np.nonzero(image.instances == instance)
            top, left = (round(float(axis.mean())) - SIDE // 2 for axis in (rows, cols))
            box = np.s_[top : top + SIDE, left : left + SIDE]
            if min(top, left) < 0 or image.instances[box].shape != (SIDE, SIDE):
                continue
            ring = transition_zone(image.instances[box] == instance)
            if ring.any():
                found.append((image.pixels[box].copy(), ring))
    return [Window(*found[i % len(found)], seed=i) for i in range(count)]


@contextmanager
def stopwatch(model: InpaintingModel) -> Iterator[list[float]]:
    """Seconds inside the network's forward passes, collected while the block runs."""
    spent: list[float] = []
    forward = type(model.network).forward

    def timed(*given: object, **named: object) -> object:
        began = time.perf_counter()
        try:
            return forward(*given, **named)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - began)

    with mock.patch.object(type(model.network), "forward", timed):
        yield spent


def resident_mb() -> float:
    """Memory this process holds at the moment."""
    gc.collect()
    if platform.system() != "Linux":
        return float("nan")
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 1e6


def seconds(windows: list[Window], model: InpaintingModel, sampler: Sampler, device: str, batch: int) -> float:
    """Seconds a window."""
    began = time.perf_counter()
    drain(inpaint(windows, model, sampler, device=device, batch=batch))
    return (time.perf_counter() - began) / len(windows)


def difference(
    windows: list[Window], first: list[NDArray[np.uint8]], second: list[NDArray[np.uint8]]
) -> tuple[float, int]:
    """Mean and largest absolute difference of two fills of the same holes."""
    pairs = zip(windows, first, second, strict=True)
    each = np.concatenate([np.abs(a.astype(int) - b)[window.hole].ravel() for window, a, b in pairs])
    return float(each.mean()), int(each.max())


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--count", type=int, default=64, help="windows of each measurement")
    parser.add_argument("--paper", type=int, default=2, help="windows with the paper's sampler, one at a time")
    parser.add_argument("--many", type=int, default=1000, help="placements after which memory is compared")
    options = parser.parse_args()
    model = load_model(bundled())
    assert isinstance(model, InpaintingModel)
    place = choose_device(options.device)
    windows = windows_of(options.count)
    fast, paper = PRESETS["fast"], PRESETS["paper"]
    print(
        f"{place.type}, {torch.get_num_threads()} threads, {inpainter.fast_dtype(place)}, torch {torch.__version__}\n"
    )
    print("| what | result |\n|---|---|")
    seconds(windows[:16], model, fast.ring, options.device, 16)

    with stopwatch(model) as spent:
        began = time.perf_counter()
        both = seconds(windows, model, fast.disc, options.device, 16) + seconds(
            windows, model, fast.ring, options.device, 16
        )
        whole = time.perf_counter() - began
    print(f"| `fast`, both stages, batches of 16 | {both:.3f} s a placement |")
    print(f"| of it not in the network's forward passes | {1 - sum(spent) / whole:.1%} |", flush=True)

    one = [
        sum(seconds([window], model, sampler, options.device, 1) for sampler in (paper.disc, paper.ring))
        for window in windows[: options.paper]
    ]
    print(f"| `paper`, both stages, one at a time | {np.mean(one):.2f} s a placement |")
    print(f"| paper / fast | {np.mean(one) / both:.0f} |", flush=True)

    first = drain(inpaint(windows[:16], model, fast.ring, device=options.device, batch=16))
    alone = [drain(inpaint([window], model, fast.ring, device=options.device))[0] for window in windows[:16]]
    both_ways = difference(windows[:16], first, alone)
    print("| batch of 16 against one at a time, mean and largest difference | {:.2f}, {} of 255 |".format(*both_ways))
    with mock.patch.object(inpainter, "fast_dtype", lambda _: torch.float32):
        exact = drain(inpaint(windows[:16], model, fast.ring, device="cpu", batch=16))
    formats = difference(windows[:16], first, exact)
    print("| against float32 on the processor, mean and largest difference | {:.2f}, {} of 255 |".format(*formats))

    before = resident_mb()
    few = Sampler("repaint", 150, 2, 1)
    done = 0
    while done < options.many:
        drain(inpaint(windows, model, few, device=options.device))
        done += len(windows)
    print(f"| memory after {done:,} more windows | {resident_mb() - before:+.0f} MB of {before:.0f} MB |")


if __name__ == "__main__":
    main()
