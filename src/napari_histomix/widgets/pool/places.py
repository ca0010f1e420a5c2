"""Between a pool and the images open in the viewer: bring a segment onto the screen, and tell which one was clicked."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from qtpy.QtCore import QObject, Signal

ROOM = (80.0, 420.0)
"""Screen pixels that a segment takes, at least and at most, after a flight; the zoom changes only where it must."""
STILL = 3.0
"""Screen pixels that the mouse may move in a click."""
LOOKING = ("pan_zoom", "pick")
"""Modes of a layer in which a click changes nothing in it."""


class PoolPlaces(QObject):
    """Finds the layers of an image by their metadata, each time anew: layers come, go and are renamed.

    Parameters
    ----------
    viewer : ViewerModel
    parent : QObject
    """

    clicked = Signal(str, int)
    """Image and label of a segment that was clicked in the viewer."""
    layers_changed = Signal()

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self._listening = False
        # napari keeps what it calls back: it must not keep the panel too.
        this = weakref.ref(self)

        def on_click(viewer: Any, event: Any) -> Generator[None, None, None]:
            start = np.array(event.pos, float)
            yield
            moved = 0.0
            while event.type == "mouse_move":
                moved = max(moved, float(np.abs(np.array(event.pos) - start).max()))
                yield
            one = this()
            if one is not None and moved <= STILL:
                one._look(event)

        def on_layers(event: Any = None) -> None:
            one = this()
            if one is not None:
                one.layers_changed.emit()

        self._on_click, self._on_layers = on_click, on_layers

    def listen(self) -> None:
        """Follow clicks and layers; to be called when the panel is shown."""
        if not self._listening:
            self._listening = True
            self.viewer.mouse_drag_callbacks.append(self._on_click)
            for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
                event.connect(self._on_layers)
            self.layers_changed.emit()

    def rest(self) -> None:
        """No longer; to be called when the panel is hidden or closed."""
        if self._listening:
            self._listening = False
            if self._on_click in self.viewer.mouse_drag_callbacks:
                self.viewer.mouse_drag_callbacks.remove(self._on_click)
            for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
                event.disconnect(self._on_layers)

    # Layers.

    def layers(self, image: str) -> list[Layer]:
        """The layers of an image, from the bottom."""
        return [one for one in self.viewer.layers if _about(one).get("image") == image]

    def anchors(self, image: str = "") -> list[Labels]:
        """Layers with the segments of an image, or of any, from the top."""
        found = [one for one in self.viewer.layers if isinstance(one, Labels) and "segments" in _about(one)]
        return [one for one in reversed(found) if image in ("", _about(one)["image"])]

    def show(self, image: str, label: int, box: tuple[int, int, int, int]) -> bool:
        """Bring a segment onto the screen and select its label; False where its image is not open.

        ``box`` is upper row, left column, height and width in the image.
        """
        layers = self.layers(image)
        if not layers:
            return False
        self._uncover(image, layers)
        anchors = self.anchors(image)
        layer = anchors[0] if anchors else layers[0]
        row, col, height, width = box
        low, high = (layer.data_to_world(place) for place in _corners(layer, row, col, height, width))
        scene = getattr(self.viewer, "scene", None)
        camera = scene.camera if scene is not None else self.viewer.camera
        extent = max(abs(high[-1] - low[-1]), abs(high[-2] - low[-2]), 1e-9)
        camera.center = (0.0, (low[-2] + high[-2]) / 2, (low[-1] + high[-1]) / 2)
        if not ROOM[0] <= extent * camera.zoom <= ROOM[1]:
            camera.zoom = sum(ROOM) / 2 / extent
        for one in anchors:
            one.selected_label = label
        return True

    def _uncover(self, image: str, layers: list[Layer]) -> None:
        """Images lie on each other: show this one's layers where none is to be seen, and hide those of others."""
        if not any(one.visible for one in layers):
            for one in layers:
                one.visible = True
        for one in self.viewer.layers:
            if one.visible and _about(one).get("image") not in (None, image):
                one.visible = False

    def _look(self, event: Any) -> None:
        active = self.viewer.layers.selection.active
        if active is not None and str(active.mode) not in LOOKING:
            return
        for layer in self.anchors():
            if not layer.visible:
                continue
            value = layer.get_value(
                event.position, view_direction=event.view_direction, dims_displayed=event.dims_displayed, world=True
            )
            if value:
                self.clicked.emit(str(_about(layer)["image"]), int(value))
                return


def _about(layer: Layer) -> dict[str, Any]:
    found = layer.metadata.get("histomix")
    return found if isinstance(found, dict) else {}


def _corners(layer: Layer, row: int, col: int, height: int, width: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    first = (0.0,) * (layer.ndim - 2)
    return (*first, row, col), (*first, row + height - 1, col + width - 1)
