"""Between napari's layers and segments: images, points and labels going in, a Labels layer coming out; the jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Labels
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.methods.segment_stage import PoolSettings
from napari_histomix.records import Event, HistomixError, Job, Segment
from napari_histomix.segmentation import find_segments, open_prompter, segment_map, segments_of
from napari_histomix.widgets.jobs import prepare_torch
from napari_histomix.widgets.pool.loading import pathless
from napari_histomix.widgets.viewer_layers import LARGEST, about, micrometers, pixels_of

MOST_PIXELS = LARGEST // 8
"""Of an image that is divided: the masks of all its anchors are held at its size."""
MOST_LABEL = 1_000_000
OPACITY = 0.4


# Going in.


@dataclass(frozen=True, eq=False)
class Picture:
    """One plane of an image layer, at the level that is used; ``pixels`` reads it, in a worker's thread."""

    name: str
    """Of the image: the one that its dataset gave it, else the layer's."""
    data: Any
    """(H, W) or (H, W, 3 or 4) array, lazy or not."""
    limits: tuple[float, float]
    """Values shown black and white, for one channel."""
    plane: tuple[int, ...]
    """Where it lies along the layer's leading axes."""
    factor: NDArray[np.float64]
    """Pixels of the layer's data that one of its pixels is, along both axes."""
    mpp: float | None

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.data.shape[0]), int(self.data.shape[1])

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB; what is transparent becomes white, the color of an empty slide."""
        values = np.asarray(self.data)
        if values.ndim == 2:
            if values.dtype != np.uint8:
                low, high = self.limits
                values = np.clip((np.nan_to_num(values.astype(np.float32)) - low) / max(high - low, 1e-12), 0, 1)
            values = np.repeat(values[..., None], 3, axis=2)
        alpha = values[..., 3:]
        [(_, pixels)] = pixels_of(self.name, values)
        if alpha.size:
            full = 1.0 if alpha.dtype.kind == "f" else float(np.iinfo(alpha.dtype).max)
            share = np.clip(alpha.astype(np.float32) / full, 0, 1)
            pixels = np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)
        return pixels


def unusable(layer: Any) -> str:
    """Why an image layer cannot be divided, in a few words; empty where it can."""
    levels = layer.data if layer.multiscale else [layer.data]
    channels = 1 if layer.rgb else 0
    shapes = [level.shape[: level.ndim - channels][-2:] for level in levels]
    if not any(0 < math.prod(shape) <= MOST_PIXELS for shape in shapes):
        return "too large" if all(map(math.prod, shapes)) else "empty"
    return ""


def plane_of(layer: Any, point: Sequence[float]) -> tuple[int, ...]:
    """Where along its leading axes a layer is being looked at, by the viewer's point (world coordinates)."""
    here = np.rint(layer.world_to_data(point)[: layer.ndim - 2]).astype(int)
    full = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return tuple(int(np.clip(at, 0, size - 1)) for at, size in zip(here, full.shape, strict=False))


def picture_of(layer: Any, point: Sequence[float]) -> Picture:
    """The plane of an image layer that is being looked at, at the finest level that fits into memory."""
    if unusable(layer):
        raise HistomixError(
            f"'{layer.name}' cannot be divided: more than {MOST_PIXELS // 10**6} million pixels, or none; crop it."
        )
    levels = list(layer.data) if layer.multiscale else [layer.data]
    lead, plane = layer.ndim - 2, plane_of(layer, point)
    full = levels[0].shape
    level = next(data for data in levels if 0 < math.prod(data.shape[lead : lead + 2]) <= MOST_PIXELS)
    here = tuple(min(at * level.shape[axis] // full[axis], level.shape[axis] - 1) for axis, at in enumerate(plane))
    factor = np.array(full[lead : lead + 2]) / level.shape[lead : lead + 2]
    size = micrometers(layer)
    mpp = None if size is None else size * float(np.sqrt(factor.prod()))
    low, high = layer.contrast_limits
    name = str(about(layer).get("image") or layer.name)
    return Picture(name, level[here], (float(low), float(high)), plane, factor, mpp)


def space_of(layer: Any, picture: Picture) -> dict[str, Any]:
    """Scale, place, turn and units of a Labels layer that covers a picture of an image layer."""
    # A pixel's coordinates are those of its center, so the first of a coarser level lies further in.
    start = np.array([*picture.plane, *((picture.factor - 1) / 2)], float)
    linear = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear)
    space = {name: getattr(layer, name) for name in ("rotate", "shear", "affine", "units", "axis_labels")}
    scale = np.array(layer.scale) * [*(1.0 for _ in picture.plane), *picture.factor]
    return {**space, "scale": scale, "translate": np.array(layer.translate) + linear(start)}


def prompts_of(points: Any, layer: Any, picture: Picture) -> NDArray[np.float64]:
    """Rows and columns (N, 2) in a picture of the shown points of a Points layer that lie in its plane."""
    lead, places = len(picture.plane), []
    ratios = [_ratio(*units) for units in zip(points.units[-2:], layer.units[-2:], strict=True)]
    corner = layer.data_to_world((*picture.plane, 0.0, 0.0))
    for point in points.data[np.asarray(points.shown, bool)]:
        world = np.array(points.data_to_world(point), float)
        world[-2:] *= ratios
        place = layer.world_to_data((*corner[: max(layer.ndim - len(world), 0)], *world))
        if tuple(np.rint(place[:lead]).astype(int)) == picture.plane:
            places.append((np.array(place[-2:]) - (picture.factor - 1) / 2) / picture.factor)
    return np.rint(np.array(places, float).reshape(-1, 2))


def _ratio(unit: Any, other: Any) -> float:
    try:
        return float((1 * unit).to(other).magnitude)
    except (AttributeError, TypeError, ValueError):
        return 1.0


def labels_of(layer: Any, point: Sequence[float], shape: tuple[int, int] | None = None) -> NDArray[np.int32]:
    """A copy of the plane (H, W) of a Labels layer that is being looked at; ``shape`` is what it must have."""
    if layer.multiscale:
        raise HistomixError(f"'{layer.name}' has several levels; choose a Labels layer with one.")
    # A copy: what is painted meanwhile is for the next time.
    values = np.array(layer.data[plane_of(layer, point)])
    if shape not in (None, values.shape):
        (rows, cols), (height, width) = values.shape, shape
        raise HistomixError(f"'{layer.name}' is {cols}×{rows} pixels but the image is {width}×{height}.")
    highest = int(values.max(initial=0))
    if highest <= 0:
        raise HistomixError(f"'{layer.name}' holds no segment; paint some.")
    if highest > MOST_LABEL:
        raise HistomixError(f"'{layer.name}' has labels above {MOST_LABEL:,}; number them from 1.")
    return np.maximum(values, 0).astype(np.int32)


# Coming out.


@dataclass(frozen=True, eq=False)
class Divided:
    """Segments of an image as they go into a Labels layer."""

    labels: NDArray[np.int32]
    features: pd.DataFrame
    facts: dict[str, Any]


def features_of(
    segments: Sequence[Segment], shape: tuple[int, ...], mpp: float | None, kinds: Sequence[str] | str
) -> pd.DataFrame:
    """What a Labels layer carries for each segment; ``kinds`` is a class for each, or one for all."""
    area = np.array([segment.area for segment in segments], int)
    columns: dict[str, Any] = {"index": [segment.number for segment in segments], "area": area}
    if mpp is not None:
        columns["area_um2"] = np.round(area * mpp**2, 2)
    columns["vote_share"] = np.round([segment.vote_share for segment in segments], 4)
    columns["stability"] = np.round([segment.stability for segment in segments], 4)
    columns["at_border"] = [segment.at_border(shape) for segment in segments]
    columns["class"] = [kinds] * len(segments) if isinstance(kinds, str) else list(kinds)
    return pd.DataFrame(columns)


def segments_layer(divided: Divided, name: str, space: Mapping[str, Any]) -> Labels:
    """A Labels layer of segments; it gets the leading axes that its space has."""
    lead = len(space["scale"]) - 2
    return Labels(
        divided.labels[(np.newaxis,) * lead],
        name=name,
        features=divided.features,
        opacity=OPACITY,
        metadata={"histomix": divided.facts},
        **space,
    )


# Dividing an image.


@dataclass(frozen=True, eq=False)
class Request:
    """What a person asked for: settings, class of the image, and points or labels in place of random ones."""

    settings: PoolSettings
    kind: str = ""
    points: NDArray[np.float64] | None = None
    labels: NDArray[np.int32] | None = None


class Prompters:
    """Opens prompters in a worker's thread, and keeps the last one: reading a network's weights takes a while."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._prompter: Any = None

    def open(self, settings: PoolSettings) -> Any:
        path = Path(settings.weights)
        changed = path.stat().st_mtime_ns if settings.weights and path.is_file() else 0
        key = settings.prompter, settings.weights, changed, settings.device
        if self._key != key:
            # The one before goes first: two may not fit into memory.
            self._key, self._prompter = (), None
            self._prompter = open_prompter(settings.prompter, settings.weights or None, settings.device)
            self._key = key
        return self._prompter


def divide_job(picture: Picture, request: Request, prompters: Prompters) -> Callable[[], Job[Divided]]:
    """Divide a picture into segments."""

    def divide() -> Job[Divided]:
        settings = request.settings
        if settings.prompter == "sam" and request.labels is None:
            prepare_torch()
        yield Event("Reading the image")
        pixels = picture.pixels()
        facts: dict[str, Any] = {"image": picture.name, "class": request.kind}
        if request.labels is not None:
            segments = segments_of(request.labels)
            facts |= {"prompter": "", "settings": {}}
        else:
            yield Event("Opening the prompter")
            prompter, anchors = prompters.open(settings), settings.anchors
            segments = yield from find_segments(pixels, prompter, anchors, request.points)
            if not segments:
                raise HistomixError("What stands out in this image is too small; lower the least share (extent).")
            facts |= {"prompter": prompter.name, "settings": asdict(anchors)}
            if request.points is not None:
                facts["points"] = len(request.points)
        facts |= {"segments": len(segments), "sha256": pixels_sha256(pixels)}
        features = features_of(segments, picture.shape, picture.mpp, request.kind)
        return Divided(segment_map(segments, picture.shape), features, facts)

    return pathless(divide, request.settings.weights)
