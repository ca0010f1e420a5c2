"""Keys, camera and scale bar of a viewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app_model.types import KeyBinding
from qtpy.QtCore import QObject, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QWidget

VIEW_PIXELS, VIEW_MICROMETERS = 700, 90.0
"""What a flight leaves on the screen: so many micrometers on so many screen pixels."""
MOVES = ("Left", "Right", "Up", "Down")


class PanelKeys(QObject):
    """Keys that work in the panel (Qt shortcuts) and, while it is shown, over the canvas (napari's key bindings).

    napari gives a layer's own bindings precedence (A selects all points, R is a rectangle), and a selected layer can
    be any. So the keys are bound on the viewer, and on the layer that is active, and taken back from a layer as soon
    as it is not. What was bound there before is put back. ``actions`` says what each key ("A", "Left") does.
    """

    def __init__(self, panel: QWidget, viewer: Any, actions: Mapping[str, Callable[[], None]]) -> None:
        super().__init__(panel)
        self._viewer = viewer
        self._actions = dict(actions)
        self._bound: list[tuple[Any, dict[KeyBinding, Any], dict[KeyBinding, Any]]] = []
        self._shown = False
        for key, action in actions.items():
            shortcut = QShortcut(QKeySequence(key), panel)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            # As over the canvas: a key that is held down moves on, but decides once.
            shortcut.setAutoRepeat(key in MOVES)
            shortcut.activated.connect(action)

    def bind(self) -> None:
        """Take the keys over; to be called when the panel is shown."""
        if not self._shown:
            self._shown = True
            self._viewer.layers.selection.events.active.connect(self._on_active)
            self._on_active()

    def release(self) -> None:
        """Give the keys back; to be called when the panel is hidden or closed."""
        if self._shown:
            self._shown = False
            self._viewer.layers.selection.events.active.disconnect(self._on_active)
            self._unbind()

    def _on_active(self, event: Any = None) -> None:
        self._unbind()
        for owner in (self._viewer, self._viewer.layers.selection.active):
            if owner is not None:
                ours = {KeyBinding.from_str(key): _call(action) for key, action in self._actions.items()}
                before = {binding: owner.keymap[binding] for binding in ours if binding in owner.keymap}
                for binding, call in ours.items():
                    owner.keymap[binding] = call
                self._bound.append((owner, ours, before))

    def _unbind(self) -> None:
        for owner, ours, before in self._bound:
            for binding, function in ours.items():
                # Another panel may have taken the key since; then it is not ours to give back.
                if owner.keymap.get(binding) is function:
                    del owner.keymap[binding]
                    if binding in before:
                        owner.keymap[binding] = before[binding]
        self._bound.clear()


def _call(action: Callable[[], None]) -> Callable[[Any], None]:
    def run(_owner: Any) -> None:
        action()

    return run


# Camera and scale bar are where napari keeps them since 0.9, or where it kept them before.


def fly(viewer: Any, point: tuple[float, ...]) -> None:
    """Center the camera on a place (world coordinates, last two axes) and come close."""
    camera = getattr(viewer, "scene", viewer).camera
    camera.center = (0.0, *point[-2:])
    camera.zoom = VIEW_PIXELS / VIEW_MICROMETERS


def fit(viewer: Any, layer: Any, margin: float = 0.05) -> None:
    """Show all of a layer, with some space around it."""
    camera, canvas = getattr(viewer, "scene", viewer).camera, getattr(viewer, "canvas", None)
    height, width = canvas.size if canvas is not None else viewer._canvas_size
    low, high = (corner[-2:] for corner in layer.extent.world)
    camera.center = (0.0, *((low + high) / 2))
    rows, cols = high - low
    camera.zoom = (1 - 2 * margin) * min(height / max(rows, 1e-9), width / max(cols, 1e-9))


def show_scale_bar(viewer: Any) -> None:
    """Show the scale bar."""
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", viewer)
    overlays.scale_bar.visible = True
