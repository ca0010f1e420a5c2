"""Settings of training runs, a class for each kind of network: the only home of their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from napari_histomix.settings import Option, Seed

Steps = Annotated[
    int | None,
    Option("How many steps to train, in place of minutes; such a run repeats exactly.", low=1, automatic="by minutes"),
]
Minutes = Annotated[
    float,
    Option(
        "How long to train. More is better; a run can be stopped early and keeps the best so far.",
        label="Time",
        low=0.01,
        high=100_000,
        unit="min",
    ),
]
Batch = Annotated[int, Option("Windows a step.", low=1, high=4096, advanced=True)]
Window = Annotated[int, Option("Side of a window.", low=8, high=4096, unit="px", advanced=True)]
Rate = Annotated[float, Option("The optimizer's highest rate.", low=0.0, advanced=True)]
Average = Annotated[
    float, Option("Highest decay of the moving average of the weights.", low=0.0, high=1.0, advanced=True)
]
Scale = Annotated[tuple[float, float], Option("Random magnification of windows.", low=0.1, high=10.0, advanced=True)]
LowNoise = Annotated[
    float, Option("Share of timesteps that are drawn below the limit of low noise.", low=0.0, high=1.0, advanced=True)
]
Weighting = Annotated[
    str,
    Option(
        "Of timesteps in the loss on v: all alike, or min(SNR, 5) / (SNR + 1) (arXiv 2303.09556).",
        choices={"velocity": "All alike", "min-snr": "By signal to noise"},
        advanced=True,
    ),
]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What all training runs share. Only a run bounded by steps repeats exactly."""

    minutes: Minutes = 60.0
    steps: Steps = None
    batch: Batch = 16
    window: Window = 64
    learning_rate: Rate = 3e-4
    warmup: Annotated[int, Option("Steps until the highest rate is reached.", low=1, advanced=True)] = 100
    ema: Average = 0.998
    scale: Scale = (0.8, 1.3)
    save_minutes: Annotated[float, Option("Time between two checkpoints.", low=0.0, unit="min", advanced=True)] = 2.0
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(TrainingSettings):
    """How an autoencoder is trained."""

    batch: Batch = 8
    window: Window = 128


@dataclass(frozen=True, kw_only=True)
class InpainterSettings(TrainingSettings):
    """How the network that fills holes is trained.

    Without windows that are hidden whole it will not serve samplers that steer it from outside (``fast`` on rings,
    ``paper``). Most of what truncated samplers do is done where little noise is left.
    """

    unconditional: Annotated[
        float, Option("Share of windows that are hidden whole.", low=0.0, high=1.0, advanced=True)
    ] = 0.12
    segments: Annotated[
        float, Option("Share of the other windows that lose a tissue segment.", low=0.0, high=1.0, advanced=True)
    ] = 0.2
    rings: Annotated[
        float, Option("Share of ellipses in all other windows that are thin rings.", low=0.0, high=1.0, advanced=True)
    ] = 0.5
    low_noise: LowNoise = 0.5
    low_noise_limit: Annotated[int, Option("The limit of low noise.", low=1, high=1000, advanced=True)] = 300
    low_noise_power: Annotated[
        float, Option("The higher above 1, the more of these timesteps are near 0.", low=0.1, high=10, advanced=True)
    ] = 1.0
    outside_weight: Annotated[float, Option("Weight of the loss outside the hole.", low=0.0, advanced=True)] = 0.1
    weighting: Weighting = "velocity"


@dataclass(frozen=True, kw_only=True)
class LatentSettings(InpainterSettings):
    """How the network that fills holes on an autoencoder's latents is trained."""

    window: Window = 128
    low_noise: LowNoise = 0.0
    weighting: Weighting = "min-snr"
    ema: Average = 0.999


@dataclass(frozen=True, kw_only=True)
class LabeledSettings(TrainingSettings):
    """What networks share that learn from labeled nuclei."""

    share: Annotated[
        float,
        Option(
            "Share of the labeled tiles to learn from, the most typical ones.",
            label="Share of tiles",
            low=1.0,
            high=100.0,
            unit="%",
        ),
    ] = 100.0
    window_mpp: Annotated[
        float,
        Option(
            "Scale that windows are cut at; images of another are resampled.",
            label="Window's scale",
            low=0.01,
            high=10.0,
            unit="µm/px",
            advanced=True,
        ),
    ] = 0.5
    tile_encoder: Annotated[
        str,
        Option(
            "How tiles are compared to choose typical ones: texture, timm:NAME, timm:NAME@FILE or ctranspath:FILE.",
            kind="encoder",
            advanced=True,
        ),
    ] = "texture"
    ignore: Annotated[
        tuple[str, ...],
        Option("Classes whose regions teach nothing, in upper or lower case.", kind="classes", advanced=True),
    ] = ("ambiguous", "ignore", "unknown")
    balanced: Annotated[
        float, Option("Share of windows around a nucleus of a class drawn at random.", low=0.0, high=1.0, advanced=True)
    ] = 0.3


@dataclass(frozen=True, kw_only=True)
class ImageSettings(LabeledSettings):
    """How the network that paints layouts is trained."""

    minutes: Minutes = 120.0
    ema: Average = 0.999
    weighting: Weighting = "min-snr"
    holes: Annotated[
        float, Option("Share of windows of which only a few nuclei are hidden.", low=0.0, high=1.0, advanced=True)
    ] = 0.4
    dropout: Annotated[
        float, Option("Share of windows without labels, which guidance needs.", low=0.0, high=1.0, advanced=True)
    ] = 0.1
    unclassed: Annotated[
        float, Option("Share of windows whose nuclei have no class.", low=0.0, high=1.0, advanced=True)
    ] = 0.1
    consistency: Annotated[
        float,
        Option(
            "Weight of the loss that a segmenter gives which does not find the labels in what is painted "
            "(arXiv 2404.07987); 0: none.",
            low=0.0,
            advanced=True,
        ),
    ] = 0.01
    segmenter: Annotated[
        str,
        Option(
            "The segmenter of that loss: its folder.",
            kind="model",
            network="segmenter",
            automatic="the bundled one",
            advanced=True,
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class StructureSettings(LabeledSettings):
    """How the network that draws nuclei structures is trained."""

    window: Window = 128
    batch: Batch = 8
    minutes: Minutes = 120.0
    ema: Average = 0.999
    weighting: Weighting = "min-snr"
    dropout: Annotated[
        float,
        Option("Share of windows without shares and density, which guidance needs.", low=0.0, high=1.0, advanced=True),
    ] = 0.15


@dataclass(frozen=True, kw_only=True)
class SegmenterSettings(LabeledSettings):
    """How the nuclei segmenter is trained."""

    size: Annotated[
        str,
        Option(
            "Of a new network: about a million weights, or 24 million.",
            choices={"small": "Small, for processors", "full": "Full, for graphics cards"},
        ),
    ] = "small"
    window: Window = 128
    learning_rate: Rate = 1e-3
    scale: Scale = (0.8, 1.25)


@dataclass(frozen=True, kw_only=True)
class Pix2PixSettings(LabeledSettings):
    """How edge pix2pix is trained."""

    window: Window = 128
    batch: Batch = 4
    learning_rate: Rate = 2e-4
    size: Annotated[
        str,
        Option(
            "Size of the networks.", choices={"small": "Small, for two cores", "paper": "Isola's, for a graphics card"}
        ),
    ] = "small"
    l1: Annotated[float, Option("Weight of the distance to the truth; 100 as the paper.", low=0.0, advanced=True)] = (
        20.0
    )
    matching: Annotated[
        float,
        Option(
            "Weight of the distance between the discriminator's features of painted and true tissue; 0 as the paper.",
            low=0.0,
            advanced=True,
        ),
    ] = 10.0
    unedged: Annotated[
        float, Option("Share of windows without edges, as layouts have none.", low=0.0, high=1.0, advanced=True)
    ] = 0.3
    edited: Annotated[
        float, Option("Share of windows without edges here and there, as edits are.", low=0.0, high=1.0, advanced=True)
    ] = 0.4


BY_KIND: Mapping[str, type[TrainingSettings]] = MappingProxyType(
    {
        "inpainter": InpainterSettings,
        "autoencoder": AutoencoderSettings,
        "latent": LatentSettings,
        "structure": StructureSettings,
        "image": ImageSettings,
        "segmenter": SegmenterSettings,
        "pix2pix": Pix2PixSettings,
    }
)
