"""Docks of their own in a real window: tabs beside the HistoMix dock, for which there is too little room below it."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.gui
NAMES = ("HistoMix: Models", "HistoMix: Preferences", "HistoMix: Report a problem")


@pytest.mark.parametrize("name", NAMES)
def test_a_dock_of_its_own_is_a_tab_beside_the_histomix_dock(make_napari_viewer: Any, qtbot: Any, name: str) -> None:
    viewer = make_napari_viewer(show=True)
    window = viewer.window._qt_window
    window.resize(1366, 740)
    around, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
    qtbot.waitUntil(lambda: dock.height() > 400)
    height = window.height()
    own, panel = viewer.window.add_plugin_dock_widget("napari-histomix", name)
    qtbot.waitUntil(lambda: around in window.tabifiedDockWidgets(own), timeout=20_000)
    qtbot.waitUntil(lambda: panel.isVisible() and not dock.stack.isVisible())
    assert window.height() == height
    own.close()
    qtbot.waitUntil(lambda: dock.stack.isVisible() and dock.height() > 400)


def test_the_pages_have_the_whole_height_in_every_window(make_napari_viewer: Any, qtbot: Any) -> None:
    for _ in range(2):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1366, 740)
        _, dock = viewer.window.add_plugin_dock_widget("napari-histomix", "HistoMix")
        qtbot.waitUntil(lambda dock=dock: dock.height() > 400)
        # The dock has its height before the pages in it have theirs.
        qtbot.wait(500)
        above = next(iter(dock.buttons.values())).height() + dock.layout().contentsMargins().top()
        assert dock.stack.height() == dock.height() - above
