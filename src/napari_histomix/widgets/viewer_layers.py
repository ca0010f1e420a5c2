"""The viewer's layers as the tissue docks use them: metadata, scale, pixels, lists that follow them, segments."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Layer
from napari.utils.transforms import Affine
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_histomix.records import HistomixError, LabeledImage, Segment
from napari_histomix.widgets.elements import later, narrow
from napari_histomix.widgets.jobs import GcPause

LARGEST = 400_000_000
"""Pixels of one layer that are taken into memory."""
MOST_PIXELS = LARGEST // 8
"""Of an image that is divided: the masks of all its anchors are held at its size."""
MOST_LABEL = 1_000_000
OPACITY = 0.4
SEGMENT_EXTENT = (80.0, 420.0)
"""Screen pixels that a segment takes, at least and at most, after a flight; the zoom changes only where it must."""
FOLLOWED = ("name", "scale", "units", "data")
"""Of a layer, what lists of layers speak of."""
CLICK_TOLERANCE = 3.0
"""Screen pixels that the mouse may move in a click."""
VIEWING_MODES = ("pan_zoom", "pick")
"""Modes of a layer in which a click changes nothing in it."""


def about(layer: Any) -> dict[str, Any]:
    """What this plugin wrote into a layer's metadata."""
    facts = layer.metadata.get("histomix")
    return facts if isinstance(facts, dict) else {}


def labels_of_rows(features: Any, highest: int = 0) -> NDArray[np.int64]:
    """Label that each row of a Labels layer's features is of.

    Without a column of ids, rows are those of the labels from 0, as napari has them; of a table with as many rows as
    its ``highest`` label says, from 1.
    """
    if "index" in features:
        return np.asarray(features["index"], np.int64)
    return np.arange(len(features)) + (len(features) == highest)


def micrometers(layer: Any) -> float | None:
    """µm per pixel by a layer's scale, where its units are lengths."""
    try:
        units = tuple(layer.units)[-2:]
        rows, cols = (
            (float(size) * unit).to("um").magnitude for size, unit in zip(layer.scale[-2:], units, strict=True)
        )
    except (AttributeError, TypeError, ValueError):
        # Pixels are no length (pint's DimensionalityError is a TypeError), and napari before 0.5.5 has no units.
        return None
    size = math.sqrt(abs(rows * cols))
    return size if math.isfinite(size) and size > 0 else None


def finest(layer: Any) -> Any:
    """A layer's data, of a pyramid the finest level."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def pixels_of(name: str, data: Any) -> list[tuple[str, NDArray[np.uint8]]]:
    """8-bit RGB pictures of an RGB layer's data (..., H, W, 3 or 4), one for each plane of a stack.

    The data is lazy or not, of 8 or 16 bits, or floating point from 0 to 1; transparency is left out.
    """
    if math.prod(data.shape[:-1]) > LARGEST:
        raise HistomixError(f"'{name}' is too large to learn from at once; crop it, or choose a folder of tiles.")
    values = np.asarray(data)[..., :3]
    if values.dtype.kind in "iu" and values.dtype != np.uint8:
        values = values / np.iinfo(values.dtype).max
    if values.dtype != np.uint8:
        values = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    planes = values.reshape(-1, *values.shape[-3:])
    # Copies: what is painted into a layer in mid-run is not for the network.
    return [(name if len(planes) == 1 else f"{name} {at}", plane.copy()) for at, plane in enumerate(planes, start=1)]


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
    return tuple(int(np.clip(at, 0, size - 1)) for at, size in zip(here, finest(layer).shape, strict=False))


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


def plane_space(layer: Any) -> dict[str, Any]:
    """Where the picture of a layer's plane lies."""
    parts = {name: getattr(layer, name)[-2:] for name in ("scale", "translate", "units")}
    return {name: tuple(part) for name, part in parts.items()}


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
    image: LabeledImage | None = None
    """Where it was read too."""


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


# The viewer's list of them.


def remove_layer(viewer: Any, layer: Layer | None) -> None:
    """Take a layer away, where it is open; napari, which collects all garbage then, passes over what is older."""
    if layer is not None and layer in viewer.layers:
        with GcPause():
            viewer.layers.remove(layer)


class LayerFollower(QObject):
    """Keeps a list of the viewer's layers of some kind, from the top, as they come, go, change and are renamed."""

    changed = Signal()

    def __init__(self, viewer: Any, wanted: Callable[[Any], bool], parent: QWidget) -> None:
        super().__init__(parent)
        self.viewer, self._wanted = viewer, wanted
        self.layers: list[Any] = []
        self._refresh_soon = later(parent, 0, self.refresh)
        events = viewer.layers.events
        for signal in (events.inserted, events.removed, events.reordered):
            signal.connect(self._on_layers)

    def _on_layers(self, event: Any = None) -> None:
        if isalive(self):
            self._refresh_soon.start()

    def refresh(self) -> None:
        before, self.layers = self.layers, [layer for layer in reversed(self.viewer.layers) if self._wanted(layer)]
        for layer in {*before} ^ {*self.layers}:
            for name in FOLLOWED:
                if signal := getattr(layer.events, name, None):
                    (signal.connect if layer in self.layers else signal.disconnect)(self._on_layers)
        self.changed.emit()


class LayerChoice(QComboBox):
    """The viewer's layers of a kind, from the top; those that cannot be chosen are listed with ``why_not``.

    ``absent`` is what no layer is called, where none may be chosen.
    """

    changed = Signal()

    def __init__(
        self, viewer: Any, kind: type, why_not: Callable[[Any], str] = lambda _layer: "", *, absent: str = ""
    ) -> None:
        super().__init__()
        self._why_not = why_not
        self._absent = absent
        self._shown: list[Any] = []
        narrow(self)
        self.currentIndexChanged.connect(lambda _index: self.changed.emit())
        self._follower = LayerFollower(viewer, lambda layer: isinstance(layer, kind), self)
        self._follower.changed.connect(self._fill)
        self._follower.refresh()

    @property
    def layer(self) -> Any:
        at = self.currentIndex()
        layer = self._shown[at] if 0 <= at < len(self._shown) else None
        return layer if layer in self._follower.viewer.layers and not self._why_not(layer) else None

    def choose(self, layer: Any) -> None:
        self._follower.refresh()
        self.setCurrentIndex(self._shown.index(layer))

    def _fill(self) -> None:
        chosen, self._shown = self.layer, [*([None] if self._absent else []), *self._follower.layers]
        problems = ["" if layer is None else self._why_not(layer) for layer in self._shown]
        with QSignalBlocker(self):
            self.clear()
            for at, (layer, problem) in enumerate(zip(self._shown, problems, strict=True)):
                if layer is None:
                    self.addItem(self._absent)
                    continue
                size = micrometers(layer) if isinstance(layer, Image) else None
                notes = problem or (f"{size:.3g} µm/px" if size else ""), "gray" if _is_gray(layer) else ""
                self.addItem(" · ".join(filter(None, (layer.name, *notes))))
                self.setItemData(at, layer.name, Qt.ItemDataRole.ToolTipRole)
                model: Any = self.model()
                model.item(at).setEnabled(not problem)
            usable = [at for at, problem in enumerate(problems) if not problem]
            # Real before synthetic, and color before gray: masks and channels lie open beside the image.
            usable.sort(key=lambda at: (_is_synthetic(self._shown[at]), _is_gray(self._shown[at])))
            before = [at for at in usable if self._shown[at] is chosen]
            self.setCurrentIndex(next(iter(before + usable), -1))
        self.changed.emit()


def _is_synthetic(layer: Any) -> bool:
    return layer is not None and bool(about(layer).get("synthetic"))


def _is_gray(layer: Any) -> bool:
    return isinstance(layer, Image) and not layer.rgb


class Clicks(QObject):
    """Tells of clicks into the viewer that nothing else answers, while it listens."""

    clicked = Signal(object)
    """napari's event, at the end of the click."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        # The viewer keeps this function: it must not keep the panel too.
        this = weakref.ref(self)

        def on_click(viewer: Any, event: Any) -> Generator[None, None, None]:
            start = np.array(event.pos, float)
            yield
            moved = 0.0
            while event.type == "mouse_move":
                moved = max(moved, float(np.abs(np.array(event.pos) - start).max()))
                yield
            clicks, active = this(), viewer.layers.selection.active
            viewing = active is None or str(active.mode) in VIEWING_MODES
            if clicks is not None and moved <= CLICK_TOLERANCE and viewing:
                clicks.clicked.emit(event)

        self._on_click = on_click

    def bind(self) -> None:
        """Follow clicks; to be called when the panel is shown."""
        if self._on_click not in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.append(self._on_click)

    def release(self) -> None:
        """No longer; to be called when the panel is hidden or closed."""
        if self._on_click in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_click)


def label_at(layer: Any, event: Any) -> int:
    """The label of a Labels layer where a mouse event happened; 0 for none."""
    value = layer.get_value(
        event.position, view_direction=event.view_direction, dims_displayed=event.dims_displayed, world=True
    )
    return int(value or 0)


def labels_between(layer: Any, first: Sequence[float], last: Sequence[float]) -> tuple[int, ...]:
    """The labels of a Labels layer of one plane on the way between two places (world coordinates), 0 left out.

    A mouse that is fast says only now and then where it is.
    """
    ends = np.array([layer.world_to_data(place)[-2:] for place in (first, last)])
    steps = int(np.abs(ends[1] - ends[0]).max()) + 2
    rows, cols = np.rint(np.linspace(*ends, steps)).astype(int).T
    height, width = layer.data.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    return tuple(int(label) for label in np.unique(layer.data[rows[inside], cols[inside]]) if label)


class SegmentPlaces(QObject):
    """Brings segments onto the screen, and tells which one was clicked, while it listens.

    The layers of an image are found by their metadata, each time anew: layers come, go and are renamed.
    """

    clicked = Signal(str, int)
    """Image and label of a segment that was clicked in the viewer."""
    layers_changed = Signal()
    """Layers came or went, or another one is selected."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        events = viewer.layers.events
        for event in (events.inserted, events.removed, viewer.layers.selection.events.active):
            event.connect(self._on_layers)
        self._clicks = Clicks(viewer, self)
        self._clicks.clicked.connect(self._pick)

    def bind(self) -> None:
        """Follow clicks; to be called when the panel is shown."""
        self._clicks.bind()
        self.layers_changed.emit()

    def release(self) -> None:
        """No longer; to be called when the panel is hidden or closed."""
        self._clicks.release()

    def _on_layers(self, event: Any = None) -> None:
        if isalive(self):
            self.layers_changed.emit()

    def layers(self, image: str) -> list[Layer]:
        return [layer for layer in self.viewer.layers if about(layer).get("image") == image]

    def show(self, image: str, label: int, row: int, col: int, height: int, width: int) -> None:
        """Bring a segment onto the screen and select its label, where its image is open."""
        layers = self.layers(image)
        if not layers:
            return
        self._uncover(image, layers)
        with_segments = [layer for layer in layers if has_segments(layer)]
        layer = (with_segments or layers[:1])[-1]
        lead = (0.0,) * (layer.ndim - 2)
        low = layer.data_to_world((*lead, row, col))
        high = layer.data_to_world((*lead, row + height - 1, col + width - 1))
        camera = getattr(self.viewer, "scene", self.viewer).camera
        extent = max(abs(high[-1] - low[-1]), abs(high[-2] - low[-2]), 1e-9)
        camera.center = (0.0, (low[-2] + high[-2]) / 2, (low[-1] + high[-1]) / 2)
        if not SEGMENT_EXTENT[0] <= extent * camera.zoom <= SEGMENT_EXTENT[1]:
            camera.zoom = sum(SEGMENT_EXTENT) / 2 / extent
        for layer in with_segments:
            layer.selected_label = label

    def _uncover(self, image: str, layers: list[Layer]) -> None:
        """Images lie on each other: show this one's layers where none is to be seen, and hide those of others."""
        if not any(layer.visible for layer in layers):
            for layer in layers:
                layer.visible = True
        for layer in self.viewer.layers:
            if layer.visible and about(layer).get("image") not in (None, image):
                layer.visible = False

    def _pick(self, event: Any) -> None:
        for layer in reversed(self.viewer.layers):
            if layer.visible and has_segments(layer) and (label := label_at(layer, event)):
                self.clicked.emit(str(about(layer)["image"]), label)
                return


def has_segments(layer: Layer) -> bool:
    """Whether a layer shows the segments of an image of a pool."""
    return isinstance(layer, Labels) and "segments" in about(layer)
