"""The viewer's layers as the tissue docks use them: metadata, scale, pixels, lists that follow them, segments."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_histomix.records import HistomixError, LabeledImage
from napari_histomix.widgets.elements import later, narrow

LARGEST = 400_000_000
"""Pixels of one layer that are taken into memory."""
SEGMENT_EXTENT = (80.0, 420.0)
"""Screen pixels that a segment takes, at least and at most, after a flight; the zoom changes only where it must."""
CLICK_TOLERANCE = 3.0
"""Screen pixels that the mouse may move in a click."""
VIEWING_MODES = ("pan_zoom", "pick")
"""Modes of a layer in which a click changes nothing in it."""
OUTLINE, CHOSEN = "#2ee6d6", "#ffb000"
"""Segments, and the target among them: both read well on pink and violet."""


def about(layer: Any) -> dict[str, Any]:
    """What this plugin wrote into a layer's metadata."""
    facts = layer.metadata.get("histomix")
    return facts if isinstance(facts, dict) else {}


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
        for layer in before:
            if layer not in self.layers:
                for signal in self._signals(layer):
                    signal.disconnect(self._on_layers)
        for layer in self.layers:
            if layer not in before:
                for signal in self._signals(layer):
                    signal.connect(self._on_layers)
        self.changed.emit()

    @staticmethod
    def _signals(layer: Any) -> list[Any]:
        names = ("name", "scale", "units", "data")
        return [getattr(layer.events, name) for name in names if hasattr(layer.events, name)]


class LayerChoice(QComboBox):
    """The viewer's layers of a kind, from the top; those that cannot be chosen are listed with ``why_not``."""

    changed = Signal()

    def __init__(self, viewer: Any, kind: type, why_not: Callable[[Any], str] = lambda _layer: "") -> None:
        super().__init__()
        self._why_not = why_not
        self._shown: list[Any] = []
        narrow(self)
        self.currentIndexChanged.connect(lambda _index: self.changed.emit())
        self._follower = LayerFollower(viewer, lambda layer: isinstance(layer, kind), self)
        self._follower.changed.connect(self._fill)
        self._follower.refresh()

    @property
    def layer(self) -> Any:
        """The chosen layer, None where there is none."""
        at = self.currentIndex()
        layer = self._shown[at] if 0 <= at < len(self._shown) else None
        return layer if layer in self._follower.viewer.layers and not self._why_not(layer) else None

    def choose(self, layer: Any) -> None:
        self._follower.refresh()
        self.setCurrentIndex(self._shown.index(layer))

    def _fill(self) -> None:
        chosen, self._shown = self.layer, self._follower.layers
        problems = [self._why_not(layer) for layer in self._shown]
        with QSignalBlocker(self):
            self.clear()
            for at, (layer, problem) in enumerate(zip(self._shown, problems, strict=True)):
                size = micrometers(layer) if isinstance(layer, Image) else None
                notes = problem or (f"{size:.3g} µm/px" if size else ""), "gray" if _is_gray(layer) else ""
                self.addItem(" · ".join(filter(None, (layer.name, *notes))))
                self.setItemData(at, layer.name, Qt.ItemDataRole.ToolTipRole)
                model: Any = self.model()
                model.item(at).setEnabled(not problem)
            usable = [at for at, problem in enumerate(problems) if not problem]
            # Color before gray: masks and channels lie open beside the image.
            usable.sort(key=lambda at: _is_gray(self._shown[at]))
            before = [at for at in usable if self._shown[at] is chosen]
            self.setCurrentIndex(next(iter(before + usable), -1))
        self.changed.emit()


def _is_gray(layer: Any) -> bool:
    return isinstance(layer, Image) and not layer.rgb


class SegmentPlaces(QObject):
    """Brings segments onto the screen, and tells which one was clicked, while it listens.

    The layers of an image are found by their metadata, each time anew: layers come, go and are renamed.
    """

    clicked = Signal(str, int)
    """Image and label of a segment that was clicked in the viewer."""
    layers_changed = Signal()

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._on_layers)
        # The viewer keeps this function: it must not keep the panel too.
        this = weakref.ref(self)

        def on_click(viewer: Any, event: Any) -> Generator[None, None, None]:
            start = np.array(event.pos, float)
            yield
            moved = 0.0
            while event.type == "mouse_move":
                moved = max(moved, float(np.abs(np.array(event.pos) - start).max()))
                yield
            places = this()
            if places is not None and moved <= CLICK_TOLERANCE:
                places._pick(event)

        self._on_click = on_click

    def listen(self) -> None:
        """Follow clicks; to be called when the panel is shown."""
        if self._on_click not in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.append(self._on_click)
        self.layers_changed.emit()

    def rest(self) -> None:
        """No longer; to be called when the panel is hidden or closed."""
        if self._on_click in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_click)

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
        with_segments = [layer for layer in layers if _has_segments(layer)]
        layer = (with_segments or layers[:1])[-1]
        lead = (0.0,) * (layer.ndim - 2)
        low = layer.data_to_world((*lead, row, col))
        high = layer.data_to_world((*lead, row + height - 1, col + width - 1))
        scene = getattr(self.viewer, "scene", None)
        camera = scene.camera if scene is not None else self.viewer.camera
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
        active = self.viewer.layers.selection.active
        if active is not None and str(active.mode) not in VIEWING_MODES:
            return
        for layer in reversed(self.viewer.layers):
            if not layer.visible or not _has_segments(layer):
                continue
            value = layer.get_value(
                event.position, view_direction=event.view_direction, dims_displayed=event.dims_displayed, world=True
            )
            if value:
                self.clicked.emit(str(about(layer)["image"]), int(value))
                return


def _has_segments(layer: Layer) -> bool:
    return isinstance(layer, Labels) and "segments" in about(layer)


class SegmentsLayer(QObject):
    """The segments of an image, over the image that the session shows.

    The layer is made once and given new content; one that a person removed is made again.
    """

    selected = Signal(int)
    """The label that a person chose in the layer."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self._layer: Labels | None = None
        self._updating = False

    def _on_label(self, event: Any) -> None:
        if not self._updating:
            self.selected.emit(int(event.source.selected_label))

    @property
    def layer(self) -> Labels | None:
        """None where it is not in the viewer."""
        return self._layer if self._layer in self.viewer.layers else None

    def _update(self, **attributes: Any) -> None:
        self._updating = True
        try:
            for name, value in attributes.items():
                setattr(self.layer, name, value)
        finally:
            self._updating = False

    def show(self, image: LabeledImage, labels: NDArray[np.int32]) -> None:
        """Show the segments of an image of the pool."""
        name = image.source.image
        facts = {"image": name, "class": image.kind, "patient": image.source.patient, "mpp": image.mpp, "segments": {}}
        attributes = {"name": f"{name} segments", "metadata": {"histomix": facts}, **self._space(image)}
        if self.layer is None:
            self._layer = Labels(labels, opacity=0.9, colormap=_colors(0), **attributes)
            self._layer.contour = 2
            self._layer.events.selected_label.connect(self._on_label)
            self.viewer.layers.append(self._layer)
        else:
            # Removing a layer collects garbage in all of napari, adding one builds its controls: half a second each.
            self._update(data=labels, **attributes)
        self.bring()

    def mark(self, label: int) -> None:
        if self.layer is not None:
            self._update(**({"selected_label": label} if label else {}), colormap=_colors(label))

    def bring(self, shown: bool = True) -> None:
        """Bring it onto the screen, on top and selected, or hide it."""
        layer, layers = self.layer, self.viewer.layers
        if layer is None:
            return
        layer.visible = shown
        if shown:
            layers.move(layers.index(layer), len(layers))
            layers.selection.active = layer

    def clear(self) -> None:
        if self.layer is not None:
            self.viewer.layers.remove(self.layer)

    def _space(self, image: LabeledImage) -> Mapping[str, Any]:
        """Scale, place and units: those of the image where it is open."""
        name, shape = image.source.image, image.pixels.shape[:2]
        for layer in self.viewer.layers:
            if isinstance(layer, Image) and about(layer).get("image") == name and layer.data.shape[:2] == shape:
                return {"scale": tuple(layer.scale), "translate": tuple(layer.translate), "units": layer.units}
        return {"scale": (image.mpp, image.mpp), "units": ("um", "um")}


def _colors(label: int) -> DirectLabelColormap:
    chosen = {label: CHOSEN} if label else {}
    return DirectLabelColormap(color_dict={None: OUTLINE, 0: "transparent", **chosen})
