"""What is loaded ahead: units that every layer shares, and nothing that must not be loaded beside a window."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
import threading
import napari
import numpy as np
import pint
from napari.layers import Image
from pint.registry import LazyRegistry
from napari_histomix.widgets import dock, loading_ahead
elsewhere = set()
class Note:
    def find_spec(self, name, path, target=None):
        if threading.current_thread() is not threading.main_thread():
            elsewhere.add(name)
sys.meta_path.insert(0, Note())
loading_ahead.load_window_ahead()
loading_ahead._window.join()
units = pint.get_application_registry()
assert not isinstance(units.get(), LazyRegistry), "the first layer would wait for units"
layer = Image(np.zeros((40, 40, 3), np.uint8), units=("um", "um"))
assert round((1 * layer.units[0]).to(units.Unit("nm")).magnitude) == 1000
assert "matplotlib.figure" in elsewhere, "the page with a chart would wait for it"
assert "torch" not in sys.modules, "torch comes after what makes that safe beside a window"
loading_ahead.load_networks_ahead()
loading_ahead._networks.join()
assert "torch" in elsewhere
windows = ("napari_histomix.widgets", "napari._qt", "qtpy", "PySide6", "PyQt6", "superqt",
    "matplotlib.backends.backend_qt")
found = [name for name in elsewhere if name.startswith(windows)]
assert not found, found
print("loaded")
"""


def test_what_is_loaded_ahead_is_there_and_none_of_it_makes_classes_of_qts() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=200, check=False)
    assert "loaded" in done.stdout, done.stderr[-2000:]
