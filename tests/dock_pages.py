"""The HistoMix dock in a viewer's window, at one of its pages."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt


def open_page(viewer: Any, page: str, width: int = 440) -> Any:
    """Open the dock through the manifest at a page, such as ``make/pool``, which is returned."""
    around, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
    panel = dock.open(page)
    viewer.window._qt_window.resizeDocks([around], [width], Qt.Orientation.Horizontal)
    return panel
