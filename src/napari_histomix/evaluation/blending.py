"""The blend test: how well holes in real images are filled, by samplers and by fills that need no network."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.evaluation.blend_windows import (
    CLASSIC_FILLS,
    KINDS,
    SIDES,
    HiddenWindow,
    HoleKind,
    draw_windows,
    other_windows,
)
from napari_histomix.evaluation.figures import (
    FIGURES,
    Interval,
    bootstrap_median,
    markdown_table,
    window_figures,
    window_spread,
)
from napari_histomix.evaluation.sheets import sheet_of
from napari_histomix.records import Event, HistomixError, Job
from napari_histomix.settings import Device, Option, Seed, WindowsAtOnce, check_settings

if TYPE_CHECKING:
    from napari_histomix.diffusion.models import AnyModel
    from napari_histomix.diffusion.samplers import Sampler

ALL = "all"
"""In place of a sampler's name: every preset and every sampler there is."""

SAMPLES = 5
"""Fills of one hole that a spread is computed from."""

UNLISTED = "The card does not say which images trained the model; some of these may have."


@dataclass(frozen=True, kw_only=True)
class BlendSettings:
    """What a blend test measures; the only home of these defaults."""

    samplers: Annotated[
        tuple[str, ...],
        Option(
            "Presets (fast, quality, paper), samplers as METHOD:START:STEPS:VISITS[:grain][:unconditional], or all.",
            kind="samplers",
        ),
    ] = ("fast", "quality")
    holes: Annotated[
        tuple[str, ...],
        Option(
            "Kinds of holes: ring, around a nucleus; disc, on free background; large, as a tissue segment.",
            choices={"ring": "Rings", "disc": "Discs", "large": "Large"},
        ),
    ] = KINDS
    count: Annotated[int, Option("Windows for each kind of hole.", low=1)] = 48
    spread: Annotated[bool, Option("Also fill each hole five times, to see how the fills vary.")] = False
    seed: Seed = 0
    device: Device = "auto"
    batch: WindowsAtOnce = 16


@dataclass(frozen=True, eq=False)
class Fill:
    """What one fill did to the windows of one kind of hole, whose ``pixels`` (S, S, 3) are in the order of the windows.

    ``figures`` are by the keys of ``figures.FIGURES``, and ``spread`` where it was asked for. ``seconds``, and the
    passes of a network (``forwards``, ``backwards``), are those of a window. ``peak_mb`` is on CUDA the most this fill
    had allocated; on other devices the most that the process ever held up to its end; None where the system does not
    tell.
    """

    name: str
    pixels: Sequence[NDArray[np.uint8]]
    figures: Mapping[str, Interval]
    seconds: float
    forwards: int = 0
    backwards: int = 0
    peak_mb: float | None = None


@dataclass(frozen=True, eq=False)
class BlendReport:
    """Windows and fills by kind of hole, the device they ran on, and what a person should know."""

    windows: Mapping[HoleKind, Sequence[HiddenWindow]]
    fills: Mapping[HoleKind, Sequence[Fill]]
    device: str
    notes: Sequence[str] = field(default_factory=tuple)

    def hidden(self, kind: HoleKind) -> float:
        """Mean share of the windows that holes of a kind cover."""
        windows = self.windows[kind]
        return sum(float(window.hole.mean()) for window in windows) / len(windows)


def samplers_named(names: Sequence[str], kind: HoleKind) -> dict[str, Sampler]:
    """Samplers for a kind of hole by name, in the order given.

    Raises
    ------
    HistomixError
        For a name that is neither a preset nor a sampler.
    """
    from napari_histomix.diffusion.samplers import PRESETS, SAMPLERS, Sampler

    wanted: list[str] = []
    for name in names:
        wanted += [*PRESETS, *SAMPLERS] if name == ALL else [name]
    return {
        name: getattr(PRESETS[name], kind) if name in PRESETS else Sampler.parse(name) for name in dict.fromkeys(wanted)
    }


def blend_test(dataset: Dataset, model: AnyModel, settings: BlendSettings | None = None) -> Job[BlendReport]:
    """Hide parts of real images, fill them in every way, and compare with what was hidden.

    A long job (see ``records.Job``). Navier–Stokes, Telea, kriging, a hard paste and a Poisson clone are always
    beside the samplers. Windows come from the training split; the model sees each at the side nearest to its scale.

    Parameters
    ----------
    dataset : Dataset
    model : InpaintingModel or PromptedModel
    settings : BlendSettings, optional

    Returns
    -------
    BlendReport

    Raises
    ------
    HistomixError
        If any of the images trained the model, there are fewer than two windows of a kind, an image cannot be read,
        or a sampler or device is not there.
    """
    from napari_histomix.devices import choose_device

    settings = check_settings(settings or BlendSettings())
    place = choose_device(settings.device).type
    chosen = {kind: samplers_named(settings.samplers, kind) for kind in KINDS if kind in settings.holes}
    windows, images = yield from draw_windows(dataset, [*chosen], settings.count, settings.seed)
    if used := [name for name, pixels in images.items() if trained_on(model.card, pixels)]:
        shown = ", ".join(used[:10]) + (", …" if len(used) > 10 else "")
        raise HistomixError(
            f"{len(used)} of the {len(images)} images of {dataset.name} trained the model '{model.name}' ({shown}); "
            "test it on images it has never seen."
        )
    for kind, own in windows.items():
        if len(own) < 2:
            raise HistomixError(
                f"{dataset.name} has room for {len(own)} {kind} windows of {SIDES[kind]}² pixels and two are "
                "needed; name a dataset with more images, or another kind of hole."
            )
    notes = []
    if not model.card.get("training_pixels"):
        notes.append(UNLISTED)
        yield Event("Reading images", message=UNLISTED)
    fills: dict[HoleKind, list[Fill]] = {}
    for kind, own in windows.items():
        fills[kind] = _classic(own, settings.seed)
        for number, (name, sampler) in enumerate(chosen[kind].items()):
            if number == 0:
                # The first batch of a shape pays for choosing kernels and first allocations: none of a sampler's time.
                short = replace(sampler, steps=1, visits=1)
                yield from _filled(own[: settings.batch], model, short, settings, f"Warming up for {kind} holes")
            phase = f"{name}: filling {kind} holes"
            fills[kind].append((yield from _sampled(own, model, name, sampler, settings, place, phase)))
    return BlendReport(windows, fills, place, tuple(notes))


def trained_on(card: Mapping[str, Any], pixels: NDArray[np.uint8]) -> bool:
    """Whether a model's card lists an image (H, W, 3) uint8 RGB under ``training_pixels``."""
    return pixels_sha256(pixels) in card.get("training_pixels", ())


def _medians(
    windows: Sequence[HiddenWindow], pixels: Sequence[NDArray[np.uint8]], seed: int, spreads: Sequence[float] = ()
) -> dict[str, Interval]:
    names = [window.image for window in windows]
    figures = [
        window_figures(window.pixels, filled, window.hole) for window, filled in zip(windows, pixels, strict=True)
    ]
    medians = {key: bootstrap_median([values[key] for values in figures], names, seed) for key in FIGURES}
    return medians | ({"spread": bootstrap_median(spreads, names, seed)} if spreads else {})


def _classic(windows: Sequence[HiddenWindow], seed: int) -> list[Fill]:
    others = other_windows(windows, seed)
    fills = []
    for name, fill in CLASSIC_FILLS.items():
        began = time.perf_counter()
        pixels = [fill(window, other) for window, other in zip(windows, others, strict=True)]
        seconds = (time.perf_counter() - began) / len(windows)
        fills.append(Fill(name, pixels, _medians(windows, pixels, seed), seconds))
    return fills


def _sampled(
    windows: Sequence[HiddenWindow],
    model: AnyModel,
    name: str,
    sampler: Sampler,
    settings: BlendSettings,
    place: str,
    phase: str,
) -> Job[Fill]:
    if place == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    pixels = yield from _filled(windows, model, sampler, settings, phase)
    seconds = (time.perf_counter() - began) / len(windows)
    peak = _peak_mb(place)
    spreads: list[float] = []
    if settings.spread:
        samples = [pixels]
        for sample in range(1, SAMPLES):
            seeds = [np.random.SeedSequence([window.seed, sample]).generate_state(1)[0] for window in windows]
            reseeded = [replace(window, seed=int(seed)) for window, seed in zip(windows, seeds, strict=True)]
            samples.append((yield from _filled(reseeded, model, sampler, settings, f"{phase} again")))
        spreads = [window_spread(fills, window.hole) for window, *fills in zip(windows, *samples, strict=True)]
    figures = _medians(windows, pixels, settings.seed, spreads)
    return Fill(name, pixels, figures, seconds, sampler.forwards, sampler.backwards, peak)


def _filled(
    windows: Sequence[HiddenWindow], model: AnyModel, sampler: Sampler, settings: BlendSettings, phase: str
) -> Job[list[NDArray[np.uint8]]]:
    """Holes filled, each window at the side, of those the model may be run at, that is nearest to its own scale."""
    from napari_histomix.diffusion.inpainter import Window, inpaint

    low, high = model.mpp
    given = []
    for window in windows:
        wanted = len(window.hole) * window.mpp / min(max(window.mpp, low), high)
        nearest = min(model.windows, key=lambda side: abs(side - wanted))
        given.append(Window(window.pixels, window.hole, window.seed, nearest))
    return (yield from inpaint(given, model, sampler, device=settings.device, batch=settings.batch, phase=phase))


def _peak_mb(place: str) -> float | None:
    if place == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "win32":
        return None
    import resource

    # Kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# For people, as tables and as a picture; for programs, as plain values.

_DIGITS = {"psnr": 1, "color": 3, "log_seam": 3, "log_laplacian": 3, "spread": 1}


def report_lines(report: BlendReport) -> list[str]:
    """A report as Markdown: a heading, a table and its key for each kind of hole."""
    lines: list[str] = []
    for kind, fills in report.fills.items():
        windows = report.windows[kind]
        images = len({window.image for window in windows})
        size = f"{len(windows)} windows of {len(windows[0].hole)}² from {images} images"
        lines += [f"## {kind}: {size}, {report.hidden(kind):.0%} hidden", "", *_table(fills), ""]
    memory = (
        "peak MB: allocated on the GPU by this fill"
        if report.device == "cuda"
        else "peak MB: high-water mark of the whole process so far"
    )
    return [
        *lines,
        "Medians, with 95 % intervals from resampling images. RMSE in 8-bit units and PSNR in dB inside the",
        "hole; seam and Laplacian as ratios to the truth, 1 is best; color: shift of the mean optical density;",
        f"s: seconds a window on {report.device}; {memory}; spread of {SAMPLES} fills in 8-bit units.",
    ]


def _table(fills: Sequence[Fill]) -> list[str]:
    headings = dict(FIGURES)
    if any("spread" in fill.figures for fill in fills):
        headings["spread"] = "spread"
    rows = [["fill", "forwards", "backwards", *headings.values(), "s", "peak MB"]]
    for fill in fills:
        cells = [_cell(fill.figures.get(key), _DIGITS.get(key, 2)) for key in headings]
        memory = "" if fill.peak_mb is None else f"{fill.peak_mb:.0f}"
        rows.append([fill.name, str(fill.forwards), str(fill.backwards), *cells, f"{fill.seconds:.3f}", memory])
    return markdown_table(rows)


def _cell(value: Interval | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value.median:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def report_values(report: BlendReport) -> dict[str, Any]:
    """A report as plain JSON values, without pixels."""
    return {
        "device": report.device,
        "notes": list(report.notes),
        "holes": {
            kind: {
                "windows": len(report.windows[kind]),
                "side": len(report.windows[kind][0].hole),
                "hidden": report.hidden(kind),
                "images": sorted({window.image for window in report.windows[kind]}),
                "fills": [
                    {
                        **{key: getattr(fill, key) for key in ("name", "forwards", "backwards", "seconds", "peak_mb")},
                        "figures": {key: asdict(value) for key, value in fill.figures.items()},
                    }
                    for fill in fills
                ],
            }
            for kind, fills in report.fills.items()
        },
    }


ZOOM = 3
ROWS = 8
"""Windows of each kind that are shown."""
HOLE_COLOR = (0, 220, 120)
"""Green is no stain's color, so a hole is seen on tissue and on glass."""


def contact_sheet(report: BlendReport) -> NDArray[np.uint8]:
    """Draw the first windows of a report, one kind of hole below the other, three times enlarged: (H, W, 3) uint8."""
    return sheet_of({f"{kind} holes": _columns(report, kind) for kind in report.fills}, ZOOM)


def _columns(report: BlendReport, kind: HoleKind) -> dict[str, Sequence[NDArray[np.uint8]]]:
    windows = report.windows[kind][:ROWS]
    hidden = [np.where(window.hole[..., None], np.array(HOLE_COLOR, np.uint8), window.pixels) for window in windows]
    filled = {fill.name: fill.pixels[: len(windows)] for fill in report.fills[kind]}
    return {"truth": [window.pixels for window in windows], "hole": hidden} | filled
