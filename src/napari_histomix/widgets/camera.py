"""The camera and the scale bar of a viewer, where napari keeps them since 0.9, or where it kept them before."""

from __future__ import annotations

from typing import Any

VIEW_PIXELS, VIEW_MICROMETERS = 700, 90.0
"""What a flight leaves on the screen: so many micrometers on so many screen pixels."""


def camera_of(viewer: Any) -> Any:
    """The camera of a viewer."""
    return getattr(viewer, "scene", viewer).camera


def canvas_size(viewer: Any) -> tuple[int, int]:
    """Height and width of a viewer's canvas on the screen, in pixels."""
    canvas = getattr(viewer, "canvas", None)
    height, width = canvas.size if canvas is not None else viewer._canvas_size
    return height, width


def fly(viewer: Any, point: tuple[float, ...]) -> None:
    """Center the camera on a place (world coordinates, last two axes) and come close."""
    camera = camera_of(viewer)
    camera.center = (0.0, *point[-2:])
    camera.zoom = VIEW_PIXELS / VIEW_MICROMETERS


def fit(viewer: Any, layer: Any, margin: float = 0.05) -> None:
    """Show all of a layer, with some space around it."""
    camera = camera_of(viewer)
    height, width = canvas_size(viewer)
    low, high = (corner[-2:] for corner in layer.extent.world)
    camera.center = (0.0, *((low + high) / 2))
    rows, cols = high - low
    camera.zoom = (1 - 2 * margin) * min(height / max(rows, 1e-9), width / max(cols, 1e-9))


def view_of(viewer: Any) -> tuple[tuple[float, ...], float]:
    """Where the camera looks, and how close it is: for `look_at`."""
    camera = camera_of(viewer)
    return tuple(camera.center), float(camera.zoom)


def look_at(viewer: Any, view: tuple[tuple[float, ...], float]) -> None:
    """Give the camera the place and zoom that it had."""
    camera = camera_of(viewer)
    camera.center, camera.zoom = view


def show_scale_bar(viewer: Any) -> None:
    """Show the scale bar."""
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", viewer)
    overlays.scale_bar.visible = True
